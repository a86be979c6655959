// postgres.js, which prepares every statement and pipelines: its pool, transactions, cursors, COPY, cancelling.

import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import postgres from 'postgres'
import { cancels, check, CLIENTS, fails, pause, server, together } from './work.js'

const TABLE = 'node_postgres'
const connect = (max) => postgres({ ...server, max, onnotice: () => {} })

// It loses count of its answers when a statement is cancelled that waited for the connection: so wait here.
async function open() {
  const sql = connect(1)
  await sql`SELECT 1`
  return sql
}

const close = (sql) => sql.end()

export async function run() {
  const admin = connect(1)
  await admin`DROP TABLE IF EXISTS ${admin(TABLE)}`
  await admin`CREATE TABLE ${admin(TABLE)} (tag int, round int, word text)`
  await check('prepared statements', () => together(open, preparedStatements, close))
  await check('many statements in one pipeline', () => together(open, pipelines, close))
  await check('transactions and savepoints', () => together(open, transactions, close))
  await check('errors in transactions', () => together(open, errorsInTransactions, close))
  await check('errors in a pipeline', () => together(open, errorsInPipelines, close))
  await check('cursors', () => together(open, cursors, close))
  await check('statements that are not prepared', () => together(open, unprepared, close))
  await check('COPY', () => together(open, copies, close))
  await check('its pool', poolOfConnections)
  await check('cancel', () => together(open, cancelled, close))
  await check('DDL under a prepared statement', () => together(open, changedTables, close))
  await admin`DROP TABLE ${admin(TABLE)}`
  await admin.end()
}

async function preparedStatements(sql, tag, round) {
  const word = `word ${tag}.${round}`
  const row = { tag, round, word }
  assert.deepEqual([...(await sql`SELECT ${tag}::int AS tag, ${round}::int AS round, ${word} AS word`)], [row])
  // The values of an unsafe statement are in its text: each client has texts of its own.
  const own = await sql.unsafe(`SELECT ${tag} AS tag, $1::int * ${round % 9} AS product`, [round], { prepare: true })
  assert.deepEqual([...own], [{ tag, product: round * (round % 9) }])
}

async function pipelines(sql, tag, round) {
  const numbers = Array.from({ length: 20 }, (_, number) => number)
  const ask = (number) =>
    number % 3
      ? sql`SELECT ${tag}::int AS tag, ${round + number}::int AS sum`
      : sql.unsafe(`SELECT ${tag} AS tag, $1::int + ${number} AS sum`, [round], { prepare: true })
  const answers = await Promise.all(numbers.map(ask))
  answers.forEach((rows, number) => assert.deepEqual([...rows], [{ tag, sum: round + number }]))
}

async function transactions(sql, tag, round) {
  const count = (by) => by`SELECT count(*)::int AS count FROM ${sql(TABLE)} WHERE tag = ${tag} AND round = ${round}`
  await sql.begin(async (tx) => {
    await tx`INSERT INTO ${sql(TABLE)} VALUES (${tag}, ${round}, 'kept')`
    const error = await tx.savepoint(async (inner) => {
      await inner`INSERT INTO ${sql(TABLE)} VALUES (${tag}, ${round}, 'lost')`
      await inner`SELECT 1 / ${0}::int`
    }).catch((error) => error)
    assert.equal(error.code, '22012')
    assert.equal((await count(tx))[0].count, 1)
  })
  assert.equal((await count(sql))[0].count, 1)
}

async function errorsInTransactions(sql, tag) {
  const divide = (by, divisor) => by`SELECT ${tag * 6}::int / ${divisor}::int AS quotient`
  const block = sql.begin(async (tx) => {
    await tx`INSERT INTO ${sql(TABLE)} VALUES (${tag}, -1, 'lost')`
    await fails(divide(tx, 0), '22012')
    await fails(divide(tx, 1), '25P02')
    throw Object.assign(new Error('given up'), { code: 'given up' })
  })
  await fails(block, 'given up')
  assert.equal((await divide(sql, 6))[0].quotient, tag)
  await fails(sql`SELECT ${tag} FROM nowhere`, '42P01')
  assert.equal((await sql`SELECT 1 FROM ${sql(TABLE)} WHERE round = -1`).length, 0)
}

async function errorsInPipelines(sql, tag, round) {
  const answers = await Promise.allSettled([
    sql`SELECT ${tag}::int AS tag`,
    sql`SELECT ${round}::int / 0`,
    sql`SELECT ${round}::int AS round`,
    sql.unsafe(`SELECT ${tag}, nothing FROM nowhere`),
    sql`SELECT ${tag}::int + ${round}::int AS sum`,
  ])
  const seen = answers.map(({ value, reason }) => (reason ? reason.code : Object.values(value[0])[0]))
  assert.deepEqual(seen, [tag, '22012', round, '42P01', tag + round])
}

async function cursors(sql, tag, round) {
  let expected = 1
  const query = sql`SELECT n, ${tag}::int AS tag FROM generate_series(1, ${100}::int) n`
  for await (const rows of query.cursor(30)) {
    for (const row of rows) assert.deepEqual(row, { n: expected++, tag })
    if (round % 2 && expected > 60) break
  }
  assert.equal(expected, round % 2 ? 61 : 101)
}

async function unprepared(sql, tag, round) {
  const once = await sql.unsafe(`SELECT ${tag} AS tag, $1::int AS round`, [round])
  assert.deepEqual([...once], [{ tag, round }])
  const [first, second] = await sql`SELECT 1 AS one; SELECT 2 AS two`.simple()
  assert.deepEqual([first[0].one, second[0].two], [1, 2])
  const { types } = await sql`SELECT ${round}::int AS round, ${tag}::text AS tag`.describe()
  assert.deepEqual(types, [23, 25])
}

async function copies(sql, tag, round) {
  await sql`DELETE FROM ${sql(TABLE)} WHERE tag = ${tag}`
  const lines = Array.from({ length: 200 }, (_, number) => `${tag}\t${round}\tcopied ${number}\n`)
  await pipeline(Readable.from(lines), await sql`COPY ${sql(TABLE)} FROM STDIN`.writable())
  const found = await sql`SELECT round, count(*)::int FROM ${sql(TABLE)} WHERE tag = ${tag} GROUP BY round`
  assert.deepEqual([...found], [{ round, count: 200 }])
}

async function poolOfConnections() {
  const sql = connect(CLIENTS)
  const work = async (_, tag, round) => {
    const rows = await sql.unsafe(`SELECT ${round % 7} AS kind, $1::int AS tag`, [tag], { prepare: true })
    assert.deepEqual([...rows], [{ kind: round % 7, tag }])
  }
  const rounds = await together(async () => null, work, async () => null)
  await sql.end()
  return rounds
}

/** The driver prepares again by itself when PostgreSQL refuses the old plan: the change must not show at all. */
async function changedTables(sql, tag) {
  const table = sql(`${TABLE}_${tag}`)
  const read = () => sql`SELECT * FROM ${table} WHERE 1 = ${1}`
  await sql`DROP TABLE IF EXISTS ${table}`
  await sql`CREATE TABLE ${table} AS SELECT ${tag}::int AS value`
  for (let turn = 0; turn < 6; turn++) assert.deepEqual([...(await read())], [{ value: tag }])
  await sql`ALTER TABLE ${table} ALTER COLUMN value TYPE text USING ${sql.unsafe(`'text ${tag}'`)}`
  for (let turn = 0; turn < 6; turn++) assert.deepEqual([...(await read())], [{ value: `text ${tag}` }])
  await sql`ALTER TABLE ${table} ADD COLUMN added int DEFAULT 5`
  for (let turn = 0; turn < 6; turn++) assert.deepEqual([...(await read())], [{ value: `text ${tag}`, added: 5 }])
  await sql`DROP TABLE ${table}`
}

async function cancelled(sql, tag) {
  const sleep = (seconds) => sql`SELECT pg_sleep(${seconds}), ${tag}::int AS tag`
  await cancels(async (milliseconds) => {
    const sleeping = sleep(2)
    const ended = sleeping.then(() => null, (error) => error)
    await pause(milliseconds)
    sleeping.cancel()
    return ended
  })
  assert.equal((await sleep(0))[0].tag, tag)
}
