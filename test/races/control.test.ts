import { describe, expect, test } from 'vitest'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor, type WhenBusy } from '../../src/store/accept.ts'
import { appendIfHeld } from '../../src/store/chunks.ts'
import { edit, regenerate, retry, selectBranch, takeSteeringIfHeld } from '../../src/store/control.ts'
import { type Database, DatabaseError } from '../../src/store/database.ts'
import { failIfHeld, requeueIfHeld, turnsStopping } from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { seeded } from '../support/random.ts'
import { acceptanceOf, openHolder, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { claimAll, crashed, endLease, finish, partsOf, rowOf } from './held.ts'
import { wrongs } from './tree.ts'

/**
 * Two processes do two things to one session at the same moment, each pair of things many times. In half of them the
 * session's row is held until both wait for it, so that each decides on what the other one is about to change; else they
 * start together, and what skips locked rows (claim, append) takes part.
 *
 * The naive form of a command reads the turn, decides, and writes: two retries then begin two rounds, an edit and a claim
 * change the text of a prompt that was sent, a stop of round 1 that waited for the lock ends round 2. And where a withdrawal
 * chose an alternative as an edit does, it turned other people's screens to a branch that nobody had asked for.
 */
const names = [
  ...['send', 'retry', 'stop', 'edit', 'regenerate', 'select', 'steer', 'sweep'],
  ...['claim', 'takeover', 'append', 'finish', 'fail', 'requeue'],
] as const
type Name = (typeof names)[number]

/** These skip a session that is locked, or find nothing there that they would lock it for. All others wait for it. */
const skipping = new Set<Name>(['sweep', 'claim', 'takeover', 'append'])
const pairs = names.flatMap((one, at) => names.slice(at).map((other) => [one, other] as const))
/** Half of them with the session's row held. */
const roundsPerPair = 6
/** A lock that was not had within 2 s is asked for again by who wanted it. Out of all rounds it happens on a busy machine. */
const lockTimeoutsMax = 20

describe.each(postgresVersions)('control on PostgreSQL %i', (version) => {
  test('every pair of commands and transitions, run at once by two processes, keeps one order, one outcome a round and one shown branch (I2, I3, I4, I10, I11)', async () => {
    const stored = await openStored(version)
    try {
      await provoke(stored, 40 + version)
    } finally {
      await stored.close()
    }
  }, 120_000)
})

const nameOf = (pair: readonly [Name, Name]) => pair.join(' and ')

type Row = {
  messageId: string
  turnId: string
  replyId: string
  sessionId: string
  state: string
  attempt: number
  round: number
  shown: boolean
  next: number
}

async function provoke(stored: Stored, seed: number): Promise<void> {
  const dice = seeded(seed)
  const pick = <T>(from: readonly T[]): T => from[dice(from.length)]!
  const processes = [stored.open(), stored.open()].map((database) => ({ database, acceptor: createAcceptor(database) }))
  const sessions = await sessionsOf(processes[0]!.database, 6)
  const sent = new Map<string, string>(sessions.map((id) => [`${id}-m0`, id]))
  await Promise.all(sessions.map((id) => processes[0]!.acceptor.accept(acceptanceOf(id, `${id}-m0`))))
  const holder = await openHolder(stored.url)
  const seen = { rounds: 0, bothDid: 0, lockTimeouts: 0 }
  const bothWaited = new Map<string, number>()
  const did = new Map<string, number>()
  const errors: string[] = []
  let made = 0

  const rowsOf = (sessionId: string) =>
    stored.query<Row>(
      `select t.message_id as "messageId", t.id as "turnId", t.reply_id as "replyId", t.session_id as "sessionId", t.state,
          t.attempt, t.round, u.shown, (select coalesce(sum(n), 0)::int from holdfast.chunks c
            where c.turn_id = t.id and c.attempt = t.attempt) as next
        from holdfast.turns t join holdfast.messages u on u.session_id = t.session_id and u.id = t.message_id
       where t.session_id = $1 order by t.position`,
      [sessionId],
    )

  /** Decided on what was there before: both processes of a round have seen the same. */
  function prepare(name: Name, rows: Row[], { database, acceptor }: (typeof processes)[number]): () => Promise<string> {
    const among = (matches: (row: Row) => boolean) => {
      const some = rows.filter(matches)
      return pick(some.length > 0 ? some : rows)
    }
    const id = `n${++made}`
    const key = (row: Row) => ({ tenantId, sessionId: row.sessionId, userId, messageId: row.messageId })
    const attemptOf = (row: Row) => ({ tenantId, sessionId: row.sessionId, turnId: row.turnId, attempt: row.attempt })
    const running = among(({ state }) => state === 'running')
    const ended = among(({ state }) => ['complete', 'failed', 'stopped'].includes(state))
    const any = pick(rows)
    switch (name) {
      case 'send': {
        const whenBusy = pick<WhenBusy>(['queue', 'interrupt', 'steer', 'reject'])
        return async () => {
          const accepted = await acceptor.accept({ ...acceptanceOf(any.sessionId, id), whenBusy })
          if (accepted.outcome === 'created') sent.set(id, any.sessionId)
          return accepted.outcome
        }
      }
      case 'retry': {
        const row = among(({ state }) => state === 'failed' || state === 'stopped')
        const round = dice(2) ? row.round : null
        return async () =>
          (await retry(database, key(row), { round, replyId: id, roundsMax: 10, expiresMs: 1e8, sendsMax: 0 })).outcome
      }
      case 'stop': {
        const row = among(({ state }) => state === 'running' || state === 'queued')
        const round = dice(2) ? row.round : null
        const ask = { tenantId, sessionId: row.sessionId, messageId: row.messageId, by: userId, reason: null, round }
        return async () => (await stopTurn(database, { ...ask, userId })).outcome
      }
      case 'edit': {
        const row = dice(2) ? any : among(({ state }) => state === 'queued')
        const { turnId, replyId, parts, bodyHash } = acceptanceOf(row.sessionId, id, `edited ${id}`)
        const ask = { id, turnId, replyId, parts, metadata: null, bodyHash, preview: null, expiresMs: 1e8, sendsMax: 0 }
        return async () => {
          const edited = await edit(database, key(row), ask)
          if (edited.outcome === 'done' && edited.messageId === id) sent.set(id, row.sessionId)
          return edited.outcome
        }
      }
      case 'regenerate':
        return async () =>
          (await regenerate(database, key(ended), { replyId: id, roundsMax: 10, expiresMs: 1e8, sendsMax: 0 })).outcome
      case 'select': {
        const row = among(({ shown }) => !shown)
        return async () => (await selectBranch(database, key(row))).outcome
      }
      case 'steer':
        return async () =>
          (await takeSteeringIfHeld(database, attemptOf(running))).events.length > 0 ? 'done' : 'none'
      case 'sweep':
        return async () => {
          const marked = await turnsStopping(database, 9)
          const outcomes = await Promise.all(
            marked.map((each) => stopTurn(database, { ...each, reason: null, userId: null })),
          )
          return outcomes.some(({ outcome }) => outcome === 'stopped') ? 'done' : 'none'
        }
      case 'claim':
        return async () => ((await claimAll(database, id, { limit: 3 })).claimed.length > 0 ? 'done' : 'none')
      case 'takeover':
        return async () => {
          await endLease(stored, running.turnId)
          return (await claimAll(database, id, { crashesMax: 100 })).claimed.length > 0 ? 'done' : 'none'
        }
      case 'append': {
        const row = rowOf(attemptOf(running), running.next, 1 + dice(3))
        return async () => ((await appendIfHeld(database, [row], 60_000)).size > 0 ? 'done' : 'none')
      }
      case 'finish':
        return async () => (await finish(database, attemptOf(running), running.next)).outcome
      case 'fail': {
        const reply = { parts: partsOf(running.attempt, running.next), metadata: null, model: null }
        return async () => (await failIfHeld(database, attemptOf(running), crashed, reply, [])).outcome
      }
      case 'requeue': {
        const why = { reason: 'error' as const, code: null, retryMs: dice(2) * 60_000 }
        return async () => (await requeueIfHeld(database, attemptOf(running), why, [])).outcome
      }
    }
  }

  async function run(name: Name, act: () => Promise<string>): Promise<boolean> {
    try {
      const outcome = await act()
      const isDone = ['done', 'created', 'stopped', 'stored'].includes(outcome)
      if (isDone) did.set(name, (did.get(name) ?? 0) + 1)
      return isDone
    } catch (error) {
      if (!(error instanceof DatabaseError)) throw error
      // Two appends of one index: never ignored, and its writer asks what is stored.
      const isExpected = name === 'append' && error.code === '23505'
      if (error.code === '55P03') seen.lockTimeouts++
      else if (!isExpected) errors.push(`${name}: ${error.code} ${error.message}`)
      return false
    }
  }

  /** Both wait for the session, or have answered without it. Resolves to whether both wait. */
  async function untilBothWait(isOver: () => number): Promise<boolean> {
    for (;;) {
      const over = isOver()
      const waiting = await holder.waiting()
      if (waiting + over >= 2) return waiting === 2
    }
  }

  /** A turn that runs, and a message for it. */
  async function toSteer(sessionId: string): Promise<void> {
    const { database, acceptor } = processes[0]!
    await claimAll(database, `n${++made}`, { limit: 3 })
    const id = `n${++made}`
    await acceptor.accept({ ...acceptanceOf(sessionId, id), whenBusy: 'steer' })
    sent.set(id, sessionId)
  }

  async function race(one: Name, other: Name, sessionId: string, isHeld: boolean): Promise<void> {
    if (one === 'steer' || other === 'steer') await toSteer(sessionId)
    const rows = await rowsOf(sessionId)
    const acts = ([one, other] as const).map((name, at) => ({ name, act: prepare(name, rows, processes[at]!) }))
    if (dice(2)) acts.reverse()
    if (isHeld) await holder.hold(sessionId)
    let over = 0
    const both = acts.map(({ name, act }) => run(name, act).finally(() => over++))
    if (isHeld) {
      const pair = nameOf([one, other])
      if (await untilBothWait(() => over)) bothWaited.set(pair, (bothWaited.get(pair) ?? 0) + 1)
      await holder.release()
    }
    seen.rounds++
    if ((await Promise.all(both)).every(Boolean)) seen.bothDid++
  }

  for (let at = 0; at < roundsPerPair; at++) {
    const order = pairs.map((pair) => ({ pair, at: dice(1e6) })).toSorted((a, b) => a.at - b.at)
    for (const { pair } of order) await race(...pair, pick(sessions), (pairs.indexOf(pair) + at) % 2 === 0)
    expect(await wrongs(stored), `seed ${seed}, pass ${at}`).toEqual([])
  }
  expect(errors).toEqual([])
  expect(await wrongs(stored)).toEqual([])
  await drain(stored, processes[0]!.database)
  expect(await wrongs(stored)).toEqual([])
  const kept = await stored.query<{ id: string; session: string }>(
    `select id, session_id as session from holdfast.messages where role = 'user'`,
  )
  expect(new Map(kept.map(({ id, session }) => [id, session]))).toEqual(sent)
  const [server] = await stored.query<{ n: number }>(
    'select deadlocks::int as n from pg_stat_database where datname = current_database()',
  )
  expect(server!.n).toBe(0)
  // Else nothing was raced for.
  expect(seen.rounds).toBe(pairs.length * roundsPerPair)
  const waiting = pairs.filter((pair) => !pair.some((name) => skipping.has(name)))
  expect(waiting.map(nameOf).filter((pair) => !bothWaited.has(pair))).toEqual([])
  expect(seen.lockTimeouts).toBeLessThanOrEqual(lockTimeoutsMax)
  expect(seen.bothDid).toBeGreaterThan(seen.rounds / 10)
  for (const name of names) expect(did.get(name) ?? 0, name).toBeGreaterThan(0)
}

/** All that is left ends, so nothing was stuck (I2). */
async function drain(stored: Stored, database: Database): Promise<void> {
  for (;;) {
    for (const each of await turnsStopping(database, 100))
      await stopTurn(database, { ...each, reason: null, userId: null })
    await stored.query(`update holdfast.turns set lease_until = now() - interval '1 s' where state = 'running'`)
    await stored.query(`update holdfast.turns set due_at = now() - interval '1 s' where due_at > now()`)
    const { claimed } = await claimAll(database, 'drain', { crashesMax: 1_000 })
    for (const each of claimed) await finish(database, each, 0)
    const [row] = await stored.query<{ n: number }>(
      `select count(*)::int as n from holdfast.turns where state in ('queued', 'running')`,
    )
    if (row!.n === 0) return
    if (claimed.length === 0) throw new Error(`${row!.n} turns are stuck`)
  }
}
