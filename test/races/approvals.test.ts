/** Answers that meet each other, a stop, the end of their time: one of them counts, and the turn goes where that one says. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expiredAnswers } from '../../src/core/asks.ts'
import type { Part } from '../../src/core/chunk.ts'
import { failureOf } from '../../src/core/errors.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { type Answered, answerAsk, expireAsks, type StoredAsk, waitIfHeld } from '../../src/store/asks.ts'
import type { Database } from '../../src/store/database.ts'
import { beginCallIfHeld } from '../../src/store/tool-calls.ts'
import { type Claimed, stop, stoppable } from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { disorder, lostHeads, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { acceptTurns, claimAll, stopAsk, writeText } from './held.ts'

const count = 100
const overBudget = {
  steps: failureOf('budget_exceeded'),
  tokens: failureOf('budget_exceeded'),
  progress: failureOf('no_progress'),
}

describe.each(postgresVersions)('answers on PostgreSQL %i', (version) => {
  let stored: Stored
  let one: Database
  let two: Database
  beforeAll(async () => {
    stored = await openStored(version)
    one = stored.open()
    two = stored.open()
  })
  afterAll(() => stored.close())

  const parts: Part[] = [
    { type: 'step-start' },
    { type: 'tool-book', toolCallId: 'k1', state: 'approval-requested', input: {}, approval: { id: 'p1' } },
    { type: 'tool-where', toolCallId: 'k2', state: 'input-available', input: {} },
  ]

  /** Asks for an approval, and with `both` for a result as well. */
  async function wait(
    database: Database,
    claimed: Claimed,
    both = false,
    kind: 'approval' | 'uncertain' | 'budget' = 'approval',
    nextIndex = 0,
  ) {
    const asks: StoredAsk[] = [
      kind === 'budget'
        ? { kind, id: 'p1', callId: '', name: 'steps', inputHash: '', used: 1, max: 1 }
        : { kind, id: 'p1', callId: 'k1', name: 'book', inputHash: 'h' },
      { kind: 'tool' as const, id: 'k2', callId: 'k2', name: 'where', inputHash: 'h' },
    ]
    const kept = both ? parts : parts.slice(0, 2)
    const checkpoint = {
      attempt: claimed.attempt,
      step: 0,
      isOpen: true,
      nextIndex: 0,
      parts: kept,
      metadata: null,
      told: [],
      forClients: [],
      tokens: 0,
    }
    const asked = { nextIndex, checkpoint, model: null, expiresMs: 60_000, holdsLane: true }
    return await waitIfHeld(database, claimed, { ...asked, asks: both ? asks : asks.slice(0, 1) }, [])
  }

  /** Sessions whose first turn waits, with a second message behind it. */
  async function waiting(prefix: string, both = false, kind?: 'uncertain' | 'budget'): Promise<string[]> {
    const sessions = await sessionsOf(one, count, prefix)
    await acceptTurns(one, sessions, 2)
    const { claimed } = await claimAll(one, 'a', { limit: count })
    expect(claimed).toHaveLength(count)
    await Promise.all(claimed.map((each) => wait(one, each, both, kind)))
    return sessions
  }
  const answers = (database: Database, sessionId: string, approved: boolean): Promise<Answered> =>
    answerAsk(
      database,
      { tenantId, sessionId, userId },
      { kind: 'approval', id: 'p1', answer: { approved } },
      { turnId: null, by: userId },
    )
  const turnsOf = (prefix: string) =>
    stored.query<{ session_id: string; state: string; answered: number; open: number; approved: boolean | null }>(
      `select t.session_id, t.state, count(a) filter (where a.state in ('answered', 'expired'))::int as answered,
          count(a) filter (where a.state = 'open')::int as open, bool_or((a.answer ->> 'approved')::boolean) as approved
        from holdfast.turns t join holdfast.asks a on a.turn_id = t.id
       where t.session_id like $1 || '%' group by 1, 2 order by 1`,
      [prefix],
    )

  async function settled(): Promise<void> {
    expect(await disorder(stored)).toEqual([])
    expect(await lostHeads(stored)).toBe(0)
    // For the next test nothing is due.
    const { claimed } = await claimAll(one, 'b', { limit: 1_000 })
    await stored.query(`delete from holdfast.turns`)
    await stored.query(`delete from holdfast.sessions`)
    await stored.query(`delete from holdfast.messages`)
    await stored.query(`delete from holdfast.events`)
    expect(new Set(claimed.map(({ sessionId }) => sessionId)).size).toBe(claimed.length)
  }

  test('two devices answer at once, one yes, one no: the first counts, the other is told that nothing waits (P114)', async () => {
    const sessions = await waiting('two')
    const outcomes = await Promise.all(
      sessions.map((id, at) =>
        Promise.all(
          at % 2 === 0
            ? [answers(one, id, true), answers(two, id, false)]
            : [answers(two, id, false), answers(one, id, true)].reverse(),
        ),
      ),
    )
    const turns = await turnsOf('two')
    expect(turns.map(({ state, answered, open }) => [state, answered, open])).toEqual(
      sessions.map(() => ['queued', 1, 0]),
    )
    for (const [at, [yes, no]] of outcomes.entries()) {
      const { approved } = turns.find(({ session_id }) => session_id === sessions[at])!
      expect([yes!.outcome, no!.outcome]).toEqual(approved ? ['answered', 'not_waiting'] : ['not_waiting', 'answered'])
    }
    expect(await stored.query(`select from holdfast.events where type = 'approval.answered'`)).toHaveLength(count)
    await settled()
  })

  test('the same answer from two devices at once is one event, and both are told yes', async () => {
    const sessions = await waiting('same')
    const outcomes = await Promise.all(
      sessions.map((id) => Promise.all([answers(one, id, true), answers(two, id, true)])),
    )
    for (const pair of outcomes) expect(pair.map(({ outcome }) => outcome).sort()).toEqual(['answered', 'same'])
    expect(await stored.query(`select from holdfast.events where type = 'approval.answered'`)).toHaveLength(count)
    await settled()
  })

  test('two questions are answered at once: the turn is queued once, by the last (I2)', async () => {
    const sessions = await waiting('both', true)
    const tool = (database: Database, sessionId: string) =>
      answerAsk(
        database,
        { tenantId, sessionId, userId },
        { kind: 'tool', id: 'k2', answer: { output: { at: 1 } } },
        { turnId: null, by: userId },
      )
    await Promise.all(sessions.map((id) => Promise.all([answers(one, id, true), tool(two, id)])))
    expect((await turnsOf('both')).map(({ state, answered }) => [state, answered])).toEqual(
      sessions.map(() => ['queued', 2]),
    )
    const rows = await stored.query<{ parts: Part[]; checkpoint: { parts: Part[] } }>(
      `select m.parts, t.checkpoint from holdfast.turns t join holdfast.messages m on m.session_id = t.session_id
          and m.id = t.reply_id where t.state = 'queued' and t.checkpoint is not null`,
    )
    expect(rows).toHaveLength(count)
    for (const row of rows) {
      expect(row.parts.map(({ state }) => state)).toEqual([undefined, 'approval-responded', 'output-available'])
      expect(row.checkpoint.parts).toEqual(row.parts)
    }
    await settled()
  })

  test('an answer against a stop: either the turn is stopped, with what was answered before, or it was too late for both (I11)', async () => {
    const sessions = await waiting('stop', true)
    const tool = (sessionId: string) =>
      answerAsk(
        two,
        { tenantId, sessionId, userId },
        { kind: 'tool', id: 'k2', answer: { output: 'kept' } },
        { turnId: null, by: userId },
      )
    const outcomes = await Promise.all(
      sessions.map((id) => Promise.all([stopTurn(one, stopAsk(id, `${id}-m0`)), tool(id)])),
    )
    const rows = await stored.query<{ session_id: string; parts: Part[]; open: number }>(
      `select m.session_id, m.parts, (select count(*)::int from holdfast.asks a where a.session_id = m.session_id and a.state = 'open') as open
         from holdfast.messages m where m.status = 'stopped' and m.role = 'assistant'`,
    )
    expect(rows).toHaveLength(count)
    for (const [at, [stopped, answered]] of outcomes.entries()) {
      expect(stopped!.outcome).toBe('stopped')
      const row = rows.find(({ session_id }) => session_id === sessions[at])!
      expect(row.open).toBe(0)
      const isKept = answered!.outcome === 'answered'
      // What was taken is in the stopped reply, whichever came first.
      expect(row.parts.map(({ state }) => state)).toEqual([
        undefined,
        'output-error',
        isKept ? 'output-available' : 'output-error',
      ])
    }
    await settled()
  })

  test('a stop that has read as many chunks as there are answers now stores what was answered (I11)', async () => {
    const [session] = await sessionsOf(one, 1, 'counted')
    await acceptTurns(one, [session!])
    const claimed = (await claimAll(one, 'a')).claimed[0]!
    await writeText(one, claimed, 1)
    const seen = (await stoppable(two, tenantId, session!, `${session}-m0`, null))!
    expect(seen).toMatchObject({ isOpen: true, nextIndex: 1 })
    await wait(one, claimed, true, 'approval', 1)
    await answers(one, session!, true)
    const now = (await stoppable(two, tenantId, session!, `${session}-m0`, null))!
    expect(now).toMatchObject({ isOpen: false, nextIndex: 1, attempt: seen.attempt, round: seen.round })
    const folded = { isOpen: seen.isOpen, nextIndex: seen.nextIndex, parts: [], metadata: null, preview: null }
    const ask = { by: userId, reason: null, lastTry: false, userId, round: 1 }
    expect(await stop(two, claimed, folded, ask)).toEqual({ outcome: 'again' })
    expect((await stopTurn(two, stopAsk(session!, `${session}-m0`))).outcome).toBe('stopped')
    await settled()
  })

  test('a no to an uncertain call against a yes and a stop: one word counts, and the reply says what came of it (I3, I11)', async () => {
    const sessions = await waiting('uncertain', false, 'uncertain')
    const outcomes = await Promise.all(
      sessions.map((id, at) =>
        Promise.all([
          answers(one, id, false),
          answers(two, id, true),
          ...(at % 2 === 0 ? [stopTurn(two, stopAsk(id, `${id}-m0`))] : []),
        ]),
      ),
    )
    const rows = await stored.query<{ session_id: string; state: string; part: Part }>(
      `select t.session_id, t.state, m.parts -> 1 as part from holdfast.turns t
         join holdfast.messages m on m.session_id = t.session_id and m.id = t.reply_id
        where t.session_id like 'uncertain%' and t.checkpoint is not null`,
    )
    expect(rows).toHaveLength(count)
    for (const [at, [no, yes]] of outcomes.entries()) {
      const { state, part } = rows.find(({ session_id }) => session_id === sessions[at])!
      expect([no!.outcome, yes!.outcome].filter((outcome) => outcome === 'answered').length).toBeLessThan(2)
      expect(state).toBe(at % 2 === 0 ? 'stopped' : 'queued')
      if (no!.outcome === 'answered') {
        expect(part).toMatchObject({ state: 'output-error', errorText: expect.stringContaining('not known') as string })
        expect(part).not.toHaveProperty('approval')
      } else if (state === 'queued')
        expect(part).toMatchObject({ state: 'approval-responded', approval: { approved: true } })
      else expect(part.state).toBe('output-error')
    }
    expect(await stored.query(`select from holdfast.asks where state = 'open'`)).toEqual([])
    await settled()
  })

  test('a yes, a no and a stop meet at the question about a budget: one counts, and the turn goes on or is stopped once (P117, I2, I11)', async () => {
    const sessions = await waiting('budget', false, 'budget')
    const outcomes = await Promise.all(
      sessions.map((id, at) =>
        Promise.all([
          answers(one, id, true),
          answers(two, id, false),
          ...(at % 3 === 0 ? [stopTurn(two, stopAsk(id, `${id}-m0`))] : []),
        ]),
      ),
    )
    const turns = await turnsOf('budget')
    expect(turns).toHaveLength(count)
    const stops = await stored.query<{ session_id: string }>(
      `select session_id from holdfast.events where type = 'message.stopped'`,
    )
    for (const [at, [yes, no]] of outcomes.entries()) {
      const { state, open } = turns.find(({ session_id }) => session_id === sessions[at])!
      expect([yes!.outcome, no!.outcome].filter((outcome) => outcome === 'answered').length).toBeLessThan(2)
      const isStopped = at % 3 === 0 || no!.outcome === 'answered'
      expect([state, open]).toEqual([isStopped ? 'stopped' : 'queued', 0])
      expect(stops.filter(({ session_id }) => session_id === sessions[at])).toHaveLength(isStopped ? 1 : 0)
      if (at % 3 !== 0) expect([yes!.outcome, no!.outcome].sort()).toEqual(['answered', 'not_waiting'])
    }
    await settled()
  })

  test('a yes against the end of the time that there is for it: it goes on, or has failed (P117)', async () => {
    const sessions = await waiting('over', false, 'budget')
    await stored.query(`update holdfast.asks set expires_at = now() - interval '1 s'`)
    const [outcomes, expired] = await Promise.all([
      Promise.all(sessions.map((id) => answers(one, id, true))),
      expireAsks(two, count, expiredAnswers, overBudget),
    ])
    for (;;) {
      const more = await expireAsks(two, count, expiredAnswers, overBudget)
      if (more.length === 0) break
      expired.push(...more)
    }
    expect(outcomes.filter(({ outcome }) => outcome === 'answered').length + expired.length).toBe(count)
    const turns = await turnsOf('over')
    expect(turns.filter(({ state }) => state === 'failed')).toHaveLength(expired.length)
    expect(turns.filter(({ state }) => state === 'queued')).toHaveLength(count - expired.length)
    expect(expired.every(({ event }) => event.type === 'message.error')).toBe(true)
    await settled()
  })

  test('an answer against the end of its time: one of both counts, and it is the one that is told', async () => {
    const sessions = await waiting('late')
    await stored.query(`update holdfast.asks set expires_at = now() - interval '1 s'`)
    const [outcomes, expired] = await Promise.all([
      Promise.all(sessions.map((id) => answers(one, id, true))),
      expireAsks(two, count, expiredAnswers, overBudget).then(async (some) => [
        ...some,
        ...(await expireAsks(two, count, expiredAnswers, overBudget)),
      ]),
    ])
    for (;;) {
      const more = await expireAsks(two, count, expiredAnswers, overBudget)
      if (more.length === 0) break
      expired.push(...more)
    }
    const taken = outcomes.filter(({ outcome }) => outcome === 'answered').length
    expect(taken + expired.length).toBe(count)
    expect((await turnsOf('late')).map(({ state, answered }) => [state, answered])).toEqual(
      sessions.map(() => ['queued', 1]),
    )
    const events = await stored.query<{ data: { reason?: string } }>(
      `select data from holdfast.events where type = 'approval.answered'`,
    )
    expect(events.filter(({ data }) => data.reason === 'expired')).toHaveLength(expired.length)
    await settled()
  })

  test('an attempt whose wait was lost asks again and finds its own, also when the turn has gone on', async () => {
    const [session] = await sessionsOf(one, 1, 'lost')
    await acceptTurns(one, [session!])
    const { claimed } = await claimAll(one, 'a')
    const first = await wait(one, claimed[0]!)
    expect(await wait(two, claimed[0]!)).toEqual(first)
    await answers(one, session!, true)
    expect(await wait(two, claimed[0]!)).toEqual(first)
    const [next] = (await claimAll(one, 'b')).claimed
    expect(next!.attempt).toBe(2)
    expect(await wait(two, claimed[0]!)).toEqual(first)
    expect(await stored.query(`select from holdfast.asks`)).toHaveLength(1)
    await settled()
  })

  const beginning = (claimed: Claimed, callId: string) =>
    beginCallIfHeld(
      one,
      { ...claimed, step: 0, callId },
      { name: 'book', inputHash: 'h', again: false, leaseMs: 60_000 },
      claimed.checkpoint!,
    )
  const nextOf = async (): Promise<Claimed> => (await claimAll(one, 'a')).claimed[0]!

  test.each([true, false])(
    'of two questions about one call it is the last answer that counts: %s (P112)',
    async (isYes) => {
      const [session] = await sessionsOf(one, 1, `last-${isYes}`)
      await acceptTurns(one, [session!])
      await wait(one, await nextOf())
      await answers(one, session!, !isYes)
      await wait(one, await nextOf())
      await answers(one, session!, isYes)
      expect((await beginning(await nextOf(), 'k1')).outcome).toBe(isYes ? 'begun' : 'refused')
      await stopTurn(one, stopAsk(session!, `${session}-m0`))
      await settled()
    },
  )

  test('a question about a budget is of no call, also of none whose id is empty (P117)', async () => {
    const [session] = await sessionsOf(one, 1, 'empty')
    await acceptTurns(one, [session!])
    await wait(one, await nextOf(), false, 'budget')
    await answers(one, session!, true)
    expect((await beginning(await nextOf(), '')).outcome).toBe('begun')
    await stopTurn(one, stopAsk(session!, `${session}-m0`))
    await settled()
  })

  test('an attempt that lost its turn asks nobody (I3)', async () => {
    const [session] = await sessionsOf(one, 1, 'fence')
    await acceptTurns(one, [session!])
    const { claimed } = await claimAll(one, 'a', { leaseMs: 1 })
    await stored.query(`update holdfast.turns set lease_until = now() - interval '1 s'`)
    await claimAll(two, 'b')
    expect(await wait(one, claimed[0]!)).toEqual({ outcome: 'lost' })
    expect(await stored.query(`select from holdfast.asks`)).toEqual([])
    await settled()
  })
})
