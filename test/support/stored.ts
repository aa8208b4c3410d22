/** The store as a test meets it: a migrated database, connections to it, and questions that the invariants ask of it. */
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { onTestFinished } from 'vitest'
import { type Acceptance, createAcceptor } from '../../src/store/accept.ts'
import { type Database, openDatabase } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrations.ts'
import { createSession } from '../../src/store/sessions.ts'
import { freshDatabase, type PostgresVersion } from './postgres.ts'

export const tenantId = 'default'
export const userId = 'ann'

export type Stored = {
  url: string
  /** Connections of one more process. */
  open(): Database
  query<Row extends pg.QueryResultRow>(text: string, values?: unknown[]): Promise<Row[]>
  close(): Promise<void>
}

/** A fresh, migrated database. Everything opened here is closed with it. */
export async function openStored(version: PostgresVersion): Promise<Stored> {
  const { url, drop } = await freshDatabase(version)
  const opened: Database[] = []
  const asking = new pg.Pool({ connectionString: url, max: 2 })
  asking.on('error', () => undefined)
  const open = () => {
    const database = openDatabase(url, { poolMax: 6, onError: () => undefined })
    opened.push(database)
    return database
  }
  await migrate(open())
  return {
    url,
    open,
    query: async (text, values) => (await asking.query(text, values)).rows,
    async close() {
      await Promise.all([asking.end(), ...opened.map((each) => each.close())])
      await drop()
    },
  }
}

export async function sessionsOf(database: Database, count: number, prefix = 's'): Promise<string[]> {
  const ids = Array.from({ length: count }, (_, at) => `${prefix}${at}`)
  await Promise.all(ids.map((id) => createSession(database, { id, tenantId, userId, title: null, metadata: {} })))
  return ids
}

export function acceptanceOf(sessionId: string, messageId: string = randomUUID(), text = 'hi'): Acceptance {
  return {
    tenantId,
    sessionId,
    userId,
    messageId,
    turnId: randomUUID(),
    replyId: randomUUID(),
    parts: JSON.stringify([{ type: 'text', text }]),
    metadata: null,
    bodyHash: text,
    preview: text.slice(0, 20),
    lane: 'main',
    expiresMs: 86_400_000,
    sendsMax: 0,
    whenBusy: 'queue',
  }
}

export { createAcceptor }

/**
 * What is wrong with order and number in the whole database (I1, I4): holes and doubles in `seq`, messages without
 * their turn or reply, turns without their event. Empty when all is well.
 */
export function disorder({ query }: Pick<Stored, 'query'>): Promise<{ session: string; what: string }[]> {
  return query(`
    select s.id as session, 'seq has a hole or a double' as what from holdfast.sessions s
     where (select array_agg(seq order by seq) from holdfast.events e where (e.tenant_id, e.session_id) = (s.tenant_id, s.id))
       is distinct from (select array_agg(n) from generate_series(1, s.next_seq - 1) n)
    union all
    select m.session_id, 'message ' || m.id || ' has no turn of its own' from holdfast.messages m
     where m.role = 'user' and (select count(*) from holdfast.turns t
       where (t.tenant_id, t.session_id, t.message_id, t.id) = (m.tenant_id, m.session_id, m.id, m.turn_id)) <> 1
    union all
    select t.session_id, 'turn of ' || t.message_id || ' has no reply of its own' from holdfast.turns t
     where (select count(*) from holdfast.messages r where r.tenant_id = t.tenant_id and r.session_id = t.session_id
       and r.id = t.reply_id and r.role = 'assistant' and (t.steered or r.replies_to = t.message_id)) <> 1
    union all
    select t.session_id, 'turn of ' || t.message_id || ' was not told once' from holdfast.turns t
     where (select count(*) from holdfast.events e where e.tenant_id = t.tenant_id and e.turn_id = t.id
       and e.type = 'message.created' and e.seq = t.position) <> 1
    union all
    select s.id, 'message_count is not the number of messages' from holdfast.sessions s
     where s.message_count + (select coalesce(sum(a.message_count), 0) from holdfast.asides a
           where (a.tenant_id, a.session_id) = (s.tenant_id, s.id))
         <> (select count(*) from holdfast.messages m where (m.tenant_id, m.session_id) = (s.tenant_id, s.id)
       and not m.withdrawn and (m.role = 'user' or m.status = 'complete' or m.status = 'stopped' and m.parts <> '[]'))`)
}

/** Lanes whose head is queued and which nobody has made due: what the sweeper would repair. */
export async function lostHeads({ query }: Pick<Stored, 'query'>): Promise<number> {
  const rows = await query<{ n: number }>(`
    select count(*)::int as n from holdfast.turns q where q.state = 'queued' and q.due_at is null
       and not exists (select from holdfast.turns e where (e.tenant_id, e.session_id, e.lane) = (q.tenant_id, q.session_id, q.lane)
         and e.id <> q.id and (e.state = 'running' or e.state = 'waiting' and e.holds_lane
           or e.state = 'queued' and e.position < q.position))`)
  return rows[0]!.n
}

/** Holds the lock of a session's row, so that whatever changes that session waits and meets at one moment. */
export type Holder = {
  hold(sessionId: string): Promise<void>
  /** How many backends of this database wait for a lock now. */
  waiting(): Promise<number>
  release(): Promise<void>
}

/** Closed after the test. */
export async function openHolder(url: string): Promise<Holder> {
  const [holding, asking] = [new pg.Client(url), new pg.Client(url)]
  for (const client of [holding, asking]) {
    // Where the test failed it is still open when the database is dropped.
    client.on('error', () => undefined)
    await client.connect()
  }
  onTestFinished(async () => void (await Promise.all([holding.end(), asking.end()])))
  return {
    async hold(sessionId) {
      await holding.query('begin')
      await holding.query('select from holdfast.sessions where id = $1 for no key update', [sessionId])
    },
    async waiting() {
      const { rows } = await asking.query<{ n: number }>(
        `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
      )
      return rows[0]!.n
    },
    release: async () => void (await holding.query('commit')),
  }
}
