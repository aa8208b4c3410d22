/** One session in the store, without processes: what is said and done in it by whom, and who sees what then. */
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { onTestFinished } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { previewOf } from '../../src/core/parts.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { edit, regenerate, retry, selectBranch } from '../../src/store/control.ts'
import { messagePage } from '../../src/store/messages.ts'
import { failIfHeld, finishIfHeld } from '../../src/store/turns.ts'
import { claimOne, crashed } from '../races/held.ts'
import { acceptanceOf, openStored, sessionsOf, tenantId, userId } from '../support/stored.ts'

export type StoredTalk = Awaited<ReturnType<typeof openStoredTalk>>

/** Ann's session, of which bob is a member. */
export async function openStoredTalk() {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const database = stored.open()
  const prefix = randomUUID()
  const [session] = await sessionsOf(database, 1, prefix)
  const setRole = (user: string, role: string | null) =>
    stored.query(
      role === null
        ? `delete from holdfast.members where session_id = $1 and user_id = $2 and $3::text is null`
        : `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, $2, $3)
             on conflict (tenant_id, session_id, user_id) do update set role = excluded.role`,
      [session, user, role],
    )
  await setRole('bob', 'member')
  const key = (messageId: string, by = userId) => ({ tenantId, sessionId: session!, userId: by, messageId })
  const round = { roundsMax: 10, expiresMs: 1e8 }

  /** What is said has its id for a text, and its reply the id `ID-reply`. */
  async function send(id: string, { by = userId, lane = 'main' } = {}) {
    const ask = { ...acceptanceOf(session!, id, id), replyId: `${id}-reply`, userId: by, lane }
    const { outcome } = await createAcceptor(database).accept(ask)
    if (outcome !== 'created') throw new Error(outcome)
  }
  /** The next turn is answered so. */
  async function complete(text: string) {
    const parts: Part[] = [{ type: 'text', text, state: 'done' }]
    const reply = { nextIndex: 0, parts, metadata: null, model: null, preview: previewOf(parts) }
    return await finishIfHeld(database, await claimOne(database), reply, [])
  }

  return {
    ...{ stored, database, session: session!, key, setRole, send, complete },
    async fail() {
      await failIfHeld(database, await claimOne(database), crashed, { parts: [], metadata: null, model: null }, [])
    },
    /** Answered at once. */
    async say(id: string) {
      await send(id)
      await complete(`Re ${id}`)
    },
    again: (id: string, replyId: string, { by = userId, sendsMax = 0 } = {}) =>
      retry(database, key(id, by), { ...round, round: null, replyId, sendsMax }),
    another: (id: string, replyId: string, { by = userId, sendsMax = 0 } = {}) =>
      regenerate(database, key(id, by), { ...round, replyId, sendsMax }),
    change(id: string, to: string, { by = userId, sendsMax = 0 } = {}) {
      const { turnId, parts, bodyHash } = acceptanceOf(session!, to, to)
      const content = { parts, metadata: null, bodyHash, preview: to }
      const ask = { ...content, id: to, turnId, replyId: `${to}-reply`, expiresMs: 1e8, sendsMax }
      return edit(database, key(id, by), ask)
    },
    select: (id: string, by = userId) => selectBranch(database, key(id, by)),
    halt(messageId: string, by: string | null = userId) {
      const ask = { tenantId, sessionId: session!, messageId, reason: null, round: null }
      return stopTurn(database, { ...ask, by: by ?? 'operator', userId: by })
    },
    /** Ids of what is shown to ann, in order. */
    async shown(): Promise<string[]> {
      const ask = { tenantId, sessionId: session!, userId, limit: 99, from: null }
      return (await messagePage(database, ask)).messages.map(({ id }) => id)
    },
    async preview(): Promise<string | null> {
      const rows = await stored.query<{ preview: string | null }>(
        'select last_preview as preview from holdfast.sessions where id = $1',
        [session],
      )
      return rows[0]!.preview
    },
    /** Everything of the session but when a user's sends were: what a refusal leaves as it was. */
    rows: () =>
      stored.query(`select s.*, m.*, t.* from holdfast.sessions s join holdfast.messages m on m.session_id = s.id
        join holdfast.turns t on t.id = m.turn_id order by m.id`),
    /** Holds the session while `ask` comes to wait for it, does `meanwhile` (SQL: in the same transaction), and lets go. */
    async holding<T>(ask: () => Promise<T>, meanwhile: string | (() => Promise<void>)): Promise<T> {
      const gate = new pg.Client({ connectionString: stored.url })
      // Where the test fails it is still open when the database is dropped.
      gate.on('error', () => undefined)
      await gate.connect()
      await gate.query('begin')
      await gate.query('select from holdfast.sessions where id = $1 for no key update', [session])
      let isOver = false
      const asked = ask().finally(() => {
        isOver = true
      })
      await waiting(stored, 1, () => isOver)
      await (typeof meanwhile === 'string' ? gate.query(meanwhile) : meanwhile())
      await gate.query('commit')
      await gate.end()
      return await asked
    },
  }
}

/** Resolves when so many statements wait for a lock, or never will. */
export async function waiting(
  { query }: StoredTalk['stored'],
  count: number,
  isOver: () => boolean = () => false,
): Promise<void> {
  while (!isOver()) {
    const [row] = await query<{ n: number }>(
      `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
    if (row!.n >= count) return
  }
}
