// node-postgres: named statements (also named as Prisma names them), transactions, cursors, its pool, cancelling.

import assert from 'node:assert/strict'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { cancels, check, CLIENTS, fails, pause, server, together } from './work.js'

const TABLE = 'node_pg'

async function open() {
  const client = new pg.Client(server)
  await client.connect()
  return client
}

const close = (client) => client.end()

export async function run() {
  const admin = await open()
  await admin.query(`DROP TABLE IF EXISTS ${TABLE}`)
  await admin.query(`CREATE TABLE ${TABLE} (tag int, round int, word text)`)
  await check('named statements', () => together(open, namedStatements, close))
  await check('s0, s1, ... as Prisma names them', () => together(open, prismaNames, close))
  await check('unnamed statements', () => together(open, unnamedStatements, close))
  await check('transactions', () => together(open, transactions, close))
  await check('errors in transactions', () => together(open, errorsInTransactions, close))
  await check('a name after a Parse that failed', () => together(open, namesAfterFailedParse, close))
  await check('cursors', () => together(open, cursors, close))
  await check('its pool', poolOfConnections)
  await check('cancel', () => together(open, cancelled, close))
  await check('DDL under a named statement', () => together(open, changedTables, close))
  await admin.query(`DROP TABLE ${TABLE}`)
  await admin.end()
}

/** One name with one text for all clients, and one name with another text for each client. */
async function namedStatements(client, tag, round) {
  const word = `word ${tag}.${round}`
  const shared = { name: 'shared', text: 'SELECT $1::int AS tag, $2::int AS round, $3::text AS word' }
  assert.deepEqual((await client.query({ ...shared, values: [tag, round, word] })).rows, [{ tag, round, word }])
  const own = { name: 'own', text: `SELECT ${tag} AS tag, $1::int * 2 AS twice` }
  assert.deepEqual((await client.query({ ...own, values: [round] })).rows, [{ tag, twice: round * 2 }])
}

/** Client N's s0 is client N+1's s19: the same names for other texts, the same texts under other names. */
async function prismaNames(client, tag, round) {
  for (let step = 0; step < 4; step++) {
    const number = (round * 4 + step) % 20
    const text = (number + tag) % 20
    const query = { name: `s${number}`, text: `SELECT $1::text AS word, ${text} AS text` }
    const word = `${tag} ${round} ${step}`
    assert.deepEqual((await client.query({ ...query, values: [word] })).rows, [{ word, text }])
  }
}

async function unnamedStatements(client, tag, round) {
  const { rows } = await client.query('SELECT $1::int AS tag, repeat($2, 100) AS long', [tag, `${round},`])
  assert.deepEqual(rows, [{ tag, long: `${round},`.repeat(100) }])
}

async function transactions(client, tag, round) {
  const insert = { name: 'insert', text: `INSERT INTO ${TABLE} VALUES ($1, $2, $3) RETURNING word` }
  const count = { name: 'count', text: `SELECT count(*)::int AS count FROM ${TABLE} WHERE tag = $1 AND round = $2` }
  const [first, second] = [`first ${tag}`, `second ${tag}`]
  await client.query('BEGIN')
  assert.equal((await client.query({ ...insert, values: [tag, round, first] })).rows[0].word, first)
  assert.equal((await client.query({ ...insert, values: [tag, round, second] })).rows[0].word, second)
  assert.equal((await client.query({ ...count, values: [tag, round] })).rows[0].count, 2)
  await client.query(round % 2 ? 'COMMIT' : 'ROLLBACK')
  assert.equal((await client.query({ ...count, values: [tag, round] })).rows[0].count, round % 2 ? 2 : 0)
}

async function errorsInTransactions(client, tag, round) {
  const divide = { name: 'divide', text: 'SELECT $1::int / $2::int AS quotient' }
  await client.query('BEGIN')
  await client.query({ name: 'insert', text: `INSERT INTO ${TABLE} VALUES ($1, -1, 'lost')`, values: [tag] })
  await fails(client.query({ ...divide, values: [tag, 0] }), '22012')
  await fails(client.query({ ...divide, values: [tag, 1] }), '25P02')
  await client.query('ROLLBACK')
  assert.equal((await client.query({ ...divide, values: [tag * 7, 7] })).rows[0].quotient, tag)
  // Again outside of a block, and a statement that is new while the block has failed already.
  await fails(client.query({ ...divide, values: [tag, 0] }), '22012')
  await client.query('BEGIN')
  await fails(client.query('SELECT 1/0'), '22012')
  const fresh = { name: `fresh${round}`, text: `SELECT ${round % 5} AS fresh, $1::int AS tag` }
  await fails(client.query({ ...fresh, values: [tag] }), '25P02')
  await client.query('ROLLBACK')
  assert.deepEqual((await client.query({ ...fresh, values: [tag] })).rows, [{ fresh: round % 5, tag }])
  const { rows } = await client.query(`SELECT 1 FROM ${TABLE} WHERE round = -1`)
  assert.equal(rows.length, 0)
}

async function namesAfterFailedParse(client, tag, round) {
  const name = `retried${round}`
  await fails(client.query({ name, text: `SELECT nothing_of_${tag} FROM nowhere WHERE a = $1`, values: [1] }), '42P01')
  await fails(client.query({ name, text: 'SELEKT $1', values: [1] }), '42601')
  const { rows } = await client.query({ name, text: `SELECT ${tag} AS tag, $1::int AS round`, values: [round] })
  assert.deepEqual(rows, [{ tag, round }])
}

async function cursors(client, tag, round) {
  await client.query('BEGIN')
  const cursor = client.query(new Cursor('SELECT n, $1::int AS tag FROM generate_series(1, $2::int) n', [tag, 100]))
  let expected = 1
  for (let rows = await cursor.read(30); rows.length; rows = await cursor.read(30)) {
    for (const row of rows) assert.deepEqual(row, { n: expected++, tag })
    if (round % 2 && expected > 60) break
  }
  await cursor.close()
  assert.equal(expected, round % 2 ? 61 : 101)
  await client.query('COMMIT')
}

async function poolOfConnections() {
  const pool = new pg.Pool({ ...server, max: CLIENTS })
  const work = async (_, tag, round) => {
    const query = { name: `kind${round % 7}`, text: `SELECT ${round % 7} AS kind, $1::int AS tag` }
    assert.deepEqual((await pool.query({ ...query, values: [tag] })).rows, [{ kind: round % 7, tag }])
  }
  const rounds = await together(async () => null, work, async () => null)
  await pool.end()
  return rounds
}

/** A stale plan may be refused once with 0A000, as PostgreSQL does; prepared again it must know the new columns. */
async function changedTables(client, tag, round) {
  const table = `${TABLE}_${tag}`
  const text = `SELECT * FROM ${table} WHERE 1 = $1`
  await client.query(`DROP TABLE IF EXISTS ${table}`)
  await client.query(`CREATE TABLE ${table} AS SELECT ${tag} AS tag`)
  for (let turn = 0; turn < 6; turn++) {
    const { rows } = await client.query({ name: `before${round}`, text, values: [1] })
    assert.deepEqual(rows, [{ tag }])
  }
  await client.query(`ALTER TABLE ${table} ADD COLUMN added text DEFAULT 'added ${tag}'`)
  const wanted = [{ tag, added: `added ${tag}` }]
  for (let turn = 0; turn < 6; turn++) {
    const outcome = await client.query({ name: `before${round}`, text, values: [1] }).catch((error) => error)
    if (outcome instanceof Error) assert.equal(outcome.code, '0A000', outcome)
    else assert.deepEqual(outcome.rows, wanted)
    assert.deepEqual((await client.query({ name: `after${round}.${turn}`, text, values: [1] })).rows, wanted)
  }
  await client.query(`DROP TABLE ${table}`)
}

async function cancelled(client, tag) {
  const sleep = { name: 'sleep', text: 'SELECT pg_sleep($1), $2::int AS tag' }
  await cancels(async (milliseconds) => {
    const sleeping = new pg.Query({ ...sleep, values: [2, tag] })
    const ended = new Promise((resolve) => sleeping.once('error', resolve).once('end', () => resolve(null)))
    client.query(sleeping)
    await pause(milliseconds)
    new pg.Client(server).cancel(client, sleeping)
    return ended
  })
  assert.equal((await client.query({ ...sleep, values: [0, tag] })).rows[0].tag, tag)
}
