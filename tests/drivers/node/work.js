// What both suites share: where the server is, how a check is reported, and many clients working at the same time.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'

export const server = {
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  database: process.env.PGDATABASE,
  ssl: process.env.PGSSLMODE ? { ca: readFileSync(process.env.PGSSLROOTCERT) } : false, // verifies the host as well
}
export const CLIENTS = Number(process.env.CLIENTS ?? 12)
const SECONDS = Number(process.env.SECONDS ?? 1)
const LEAST_ROUNDS = 3

/** Run one check and print a line for it; whatever it throws ends the program. */
export async function check(name, body) {
  const began = performance.now()
  try {
    const rounds = await body()
    const count = typeof rounds === 'number' ? `, ${rounds} rounds` : ''
    console.log(`ok ${name} (${Math.round(performance.now() - began)} ms${count})`)
  } catch (error) {
    console.log(`FAILED ${name}: ${error.code ?? ''} ${error.stack}`)
    process.exit(1)
  }
}

/**
 * Each client opens a connection and does rounds of `work(connection, tag, round)` until the time is over.
 * Answers how many rounds they did together.
 */
export async function together(open, work, close) {
  const deadline = performance.now() + SECONDS * 1000
  const one = async (tag) => {
    const connection = await open(tag)
    let round = 0
    for (; round < LEAST_ROUNDS || performance.now() < deadline; round++) {
      await work(connection, tag, round)
    }
    await close(connection)
    return round
  }
  const rounds = await Promise.all(Array.from({ length: CLIENTS }, (_, tag) => one(tag)))
  return rounds.reduce((sum, count) => sum + count, 0)
}

/** The promise must be rejected with one of these SQLSTATEs. */
export async function fails(promise, ...states) {
  const outcome = await promise.then((value) => ({ value }), (error) => ({ error }))
  assert.ok(outcome.error, `expected ${states}, but it went well: ${JSON.stringify(outcome.value)}`)
  assert.ok(states.includes(outcome.error.code), `expected ${states}, got ${outcome.error.code}: ${outcome.error}`)
  return outcome.error
}

/**
 * `attempt(milliseconds)` starts a statement that sleeps for two seconds, cancels it after so many milliseconds and
 * answers its error, if any. A request that overtakes its statement has no effect, so there are some attempts.
 */
export async function cancels(attempt) {
  let error
  for (let attempts = 0; attempts < 5 && !error; attempts++) error = await attempt(20 + attempts * 100)
  assert.equal(error?.code, '57014')
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
