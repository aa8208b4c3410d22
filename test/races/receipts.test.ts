import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { describe, expect, test } from 'vitest'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { edit, regenerate, retry, selectBranch } from '../../src/store/control.ts'
import type { Database } from '../../src/store/database.ts'
import { snapshotRow } from '../../src/store/log.ts'
import { storeReceipt } from '../../src/store/receipts.ts'
import { deleteSession } from '../../src/store/sessions.ts'
import { failIfHeld } from '../../src/store/turns.ts'
import { eventually } from '../support/eventually.ts'
import { postgresVersions } from '../support/postgres.ts'
import { seeded } from '../support/random.ts'
import { acceptanceOf, openHolder, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { claimAll, crashed, finish, untilAnswered } from './held.ts'

const people = [userId, 'bob', 'cleo']

async function openSession(stored: Stored, database: Database): Promise<string> {
  const [session] = await sessionsOf(database, 1, randomUUID())
  await stored.query(
    `insert into holdfast.members (tenant_id, session_id, user_id, role) select $1, $2, unnest($3::text[]), 'member'`,
    [tenantId, session, people.slice(1)],
  )
  return session!
}

/** What one snapshot said, to be compared with the log when that is whole. */
type Seen = { user: string; seq: number; unread: number; read: number; messages: SeenMessage[] }
type SeenMessage = { id: string; role: string; status: string; author: string | null }

async function look(database: Database, session: string, user: string): Promise<Seen> {
  const row = (await snapshotRow(database, tenantId, session, user, 10_000))!
  return {
    user,
    seq: row.seq,
    unread: (row.session as { unread: number }).unread,
    read: row.members.find((member) => member.userId === user)!.read,
    messages: (row.messages ?? []).map(({ message }) => message as unknown as SeenMessage),
  }
}

/** By message: the seq of the event that told it whole, as followers were told it. */
async function tellings({ query }: Stored, session: string): Promise<Map<string, number>> {
  const rows = await query<{ id: string; seq: number }>(
    `select data -> 'message' ->> 'id' as id, min(seq)::int as seq from holdfast.events where session_id = $1
        and type in ('message.created', 'message.ai_response', 'message.error', 'message.stopped') group by 1`,
    [session],
  )
  return new Map(rows.map(({ id, seq }) => [id, seq]))
}

describe.each(postgresVersions)('receipts on PostgreSQL %i', (version) => {
  test('beside sends, outcomes, retries, edits and stops unread is in each snapshot what the log says (P140, P141)', {
    timeout: 60_000,
  }, async () => {
    const stored = await openStored(version)
    try {
      const seen = await talkAndRead(stored)
      const unread = new Set(seen.map((each) => each.unread))
      // It was read and talked on: not always all, not always nothing.
      expect(unread.size).toBeGreaterThan(5)
    } finally {
      await stored.close()
    }
  })

  test('of many receipts of one user at once the largest is stored, and none is answered less than it said (P141)', async () => {
    const stored = await openStored(version)
    try {
      const databases = [stored.open(), stored.open()]
      const session = await openSession(stored, databases[0]!)
      await stored.query('update holdfast.sessions set next_seq = 1001')
      const random = seeded(7)
      const asks = Array.from({ length: 300 }, () => ({ delivered: random(1_001), read: random(500) }))
      const answers = await Promise.all(
        asks.map((ask, at) => storeReceipt(databases[at % 2]!, { tenantId, sessionId: session, userId, ...ask })),
      )
      for (const [at, answer] of answers.entries()) {
        if (answer.outcome !== 'stored') throw new Error(answer.outcome)
        expect(answer.delivered).toBeGreaterThanOrEqual(Math.max(asks[at]!.delivered, asks[at]!.read))
        expect(answer.read).toBeGreaterThanOrEqual(asks[at]!.read)
      }
      // Those that moved something each left another pair.
      const moved = answers.flatMap((each) =>
        each.outcome === 'stored' && each.moved ? [`${each.delivered} ${each.read}`] : [],
      )
      expect(new Set(moved).size).toBe(moved.length)
      const [row] = await stored.query(`select delivered_seq, read_seq from holdfast.members where user_id = $1`, [
        userId,
      ])
      expect(row).toEqual({
        delivered_seq: Math.max(...asks.map(({ delivered }) => delivered), ...asks.map(({ read }) => read)),
        read_seq: Math.max(...asks.map(({ read }) => read)),
      })
      expect(
        await storeReceipt(databases[0]!, { tenantId, sessionId: session, userId, delivered: 1_001, read: 1 }),
      ).toEqual({ outcome: 'ahead' })
    } finally {
      await stored.close()
    }
  })

  test('receipts wait for nobody who holds the session, and beside its deletion find it or find nothing (P141)', async () => {
    const stored = await openStored(version)
    try {
      const database = stored.open()
      const session = await openSession(stored, database)
      await createAcceptor(database).accept(acceptanceOf(session))
      const holder = await openHolder(stored.url)
      await holder.hold(session)
      const receive = (user: string) =>
        storeReceipt(database, { tenantId, sessionId: session, userId: user, delivered: null, read: 1 })
      expect(await receive('bob')).toMatchObject({ outcome: 'stored', read: 1, unread: 0 })
      const deleting = deleteSession(database, tenantId, session, userId)
      await eventually(async () => (await holder.waiting()) === 1)
      const receiving = Promise.all(Array.from({ length: 60 }, (_, at) => receive(people[at % 3]!)))
      await holder.release()
      expect((await deleting).outcome).toBe('deleted')
      for (const { outcome } of await receiving) expect(['stored', 'not_found']).toContain(outcome)
      expect(await receive('bob')).toEqual({ outcome: 'not_found' })
      expect(await stored.query('select from holdfast.members')).toEqual([])
    } finally {
      await stored.close()
    }
  })

  test('what is unread is counted up to 100, and no more rows of a long session are read for it (P140)', async () => {
    const stored = await openStored(version)
    try {
      const session = await openSession(stored, stored.open())
      // 10,000 messages of ann's, each with its reply.
      await stored.query(
        `insert into holdfast.messages (tenant_id, session_id, id, seq, told_seq, position, role, author, parts, status, parent)
           select $1, $2, role || n, 3 * n, case role when 'user' then 3 * n else 3 * n + 2 end, 3 * n, role,
               case role when 'user' then $3 end, '[]', 'complete', ''
             from generate_series(1, 10000) n, unnest(array['user', 'assistant']) role`,
        [tenantId, session, userId],
      )
      await stored.query('analyze holdfast.messages')
      const readFor = async (read: number, user: string) => {
        const client = new Client({ connectionString: stored.url })
        await client.connect()
        await client.query('begin')
        await client.query('update holdfast.members set read_seq = $1 where user_id = $2', [read, user])
        const counted = await client.query<{ unread: number }>(
          'select holdfast.unread_of(m) as unread from holdfast.members m where user_id = $1',
          [user],
        )
        const scanned = await client.query<{ rows: number }>(
          `select (coalesce(idx_tup_fetch, 0) + seq_tup_read)::int as rows from pg_stat_xact_user_tables where relname = 'messages'`,
        )
        await client.end()
        return { unread: counted.rows[0]!.unread, rows: scanned.rows[0]!.rows }
      }
      for (const [user, rowsMax] of [
        [userId, 200],
        ['bob', 100],
      ] as const) {
        for (const read of [0, 15_000]) {
          const { unread, rows } = await readFor(read, user)
          expect({ user, read, unread, few: rows <= rowsMax }).toEqual({ user, read, unread: 100, few: true })
        }
      }
      expect((await readFor(29_990, userId)).unread).toBe(4)
      expect((await readFor(30_002, 'bob')).unread).toBe(0)
    } finally {
      await stored.close()
    }
  })
})

const commands = 50

/** Three people talk and read in one session, and two runners answer, all at once. Answers every snapshot that was taken. */
async function talkAndRead(stored: Stored): Promise<Seen[]> {
  const session = await openSession(stored, stored.open())
  const seen: Seen[] = []
  let talking = people.length
  const asked = <T>(ask: () => Promise<T>) => untilAnswered(ask, () => undefined)

  async function talk(user: string, at: number): Promise<void> {
    const [database, random] = [stored.open(), seeded(at + 1)]
    const acceptor = createAcceptor(database)
    const sent: string[] = []
    for (let done = 0; done < commands; done++) {
      const key = { tenantId, sessionId: session, userId: user, messageId: sent[random(sent.length || 1)] ?? '' }
      const round = { roundsMax: 10, expiresMs: 1e8, sendsMax: 0 }
      const verb = random(8)
      if (verb < 3 || sent.length === 0) {
        const id = randomUUID()
        await asked(() => acceptor.accept({ ...acceptanceOf(session, id, id), userId: user }))
        sent.push(id)
      } else if (verb === 3) await asked(() => retry(database, key, { ...round, round: null, replyId: randomUUID() }))
      else if (verb === 4) await asked(() => regenerate(database, key, { ...round, replyId: randomUUID() }))
      else if (verb === 5) {
        const { messageId: id, turnId, replyId, parts, bodyHash } = acceptanceOf(session)
        const text = { parts, metadata: null, bodyHash, preview: null }
        await asked(() => edit(database, key, { ...text, id, turnId, replyId, expiresMs: 1e8, sendsMax: 0 }))
      } else if (verb === 6) await asked(() => selectBranch(database, key))
      else await asked(() => stopTurn(database, { ...key, by: user, reason: null, round: null }))
    }
  }

  async function answer(runner: string, at: number): Promise<void> {
    const [database, random] = [stored.open(), seeded(100 + at)]
    for (let claim = 1; talking > 0; claim++) {
      const { claimed } = await claimAll(database, runner, { limit: 1, claim })
      for (const held of claimed) {
        if (random(3) === 0) {
          const shown = { parts: [], metadata: null, model: null }
          await asked(() => failIfHeld(database, held, crashed, shown, []))
        } else await asked(() => finish(database, held, 0))
      }
    }
  }

  async function read(user: string, at: number): Promise<void> {
    const [database, random] = [stored.open(), seeded(200 + at)]
    for (let most = 0; talking > 0; ) {
      const now = await look(database, session, user)
      seen.push(now)
      expect(now.read).toBe(most)
      if (random(3) > 0) continue
      const to = Math.max(0, now.seq - random(12))
      const stored = await storeReceipt(database, {
        tenantId,
        sessionId: session,
        userId: user,
        delivered: null,
        read: to,
      })
      most = Math.max(most, to)
      expect(stored).toMatchObject({ outcome: 'stored', read: most })
    }
    seen.push(await look(database, session, user))
  }

  await Promise.all([
    ...people.map((user, at) => talk(user, at).finally(() => talking--)),
    ...['r0', 'r1'].map(answer),
    ...people.map(read),
  ])
  const told = await tellings(stored, session)
  for (const { user, seq, unread, read, messages } of seen) {
    const counted = messages.filter(
      ({ id, author, role, status }) =>
        (role === 'user' ? author !== user : status === 'complete' || status === 'failed') && told.get(id)! > read,
    )
    expect({ user, seq, read, unread }).toEqual({ user, seq, read, unread: Math.min(100, counted.length) })
  }
  return seen
}
