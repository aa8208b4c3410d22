/**
 * Databases that are made for a while, beside whatever the server has: for `holdfast/testing`. Each is named after when it
 * was made, and kept in use by a connection, so that one whose maker was killed is known, and dropped by who comes next.
 */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { type Database, openDatabase } from './database.ts'

export type Scratch = {
  /** A connection URL. */
  url: string
  /** To look into it. Its first connection is kept until `drop`. */
  database: Database
  drop(): Promise<void>
}

const prefix = 'holdfast_scratch_'
/** Between its making and its first connection it looks like one that was left behind. */
const leftBehindMs = 600_000

/** Rejects where the role may not make databases. `server`: a connection URL of the server, with a database that is there. */
export async function makeScratch(server: string): Promise<Scratch> {
  const name = `${prefix}${Date.now()}_${randomBytes(6).toString('hex')}`
  await withServer(server, async (client) => {
    await dropLeftBehind(client)
    await client.query(`create database ${name} template template0`)
  })
  const url = new URL(server)
  url.pathname = `/${name}`
  const database = openDatabase(url.href, { poolMax: 6, onError: () => undefined })
  await database.query('read', { name: 'keep', text: 'select 1' }, [])
  return {
    url: url.href,
    database,
    async drop() {
      await database.close()
      await withServer(server, (client) => client.query(`drop database if exists ${name} with (force)`))
    },
  }
}

async function withServer(server: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({
    connectionString: server,
    application_name: 'holdfast',
    connectionTimeoutMillis: 5_000,
  })
  // The statement that is under way tells of it.
  client.on('error', () => undefined)
  await client.connect()
  try {
    await work(client)
  } finally {
    await client.end()
  }
}

async function dropLeftBehind(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    `select d.datname as name from pg_database d where starts_with(d.datname, $1)
       and not exists (select from pg_stat_activity a where a.datname = d.datname)`,
    [prefix],
  )
  for (const { name } of rows) {
    const madeMs = Number(name.slice(prefix.length).split('_')[0])
    if (!(Date.now() - madeMs > leftBehindMs)) continue
    // Another process may be dropping it, or it is another role's.
    await client.query(`drop database if exists ${pg.escapeIdentifier(name)}`).catch(() => undefined)
  }
}
