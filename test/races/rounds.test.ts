import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { failureOf } from '../../src/core/errors.ts'
import { textOf } from '../../src/core/parts.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor, type WhenBusy } from '../../src/store/accept.ts'
import { edit, regenerate, retry, selectBranch, takeSteeringIfHeld } from '../../src/store/control.ts'
import type { Database } from '../../src/store/database.ts'
import { messagePage, promptMessages } from '../../src/store/messages.ts'
import { deleteSession } from '../../src/store/sessions.ts'
import { type Claimed, expire, failIfHeld, requeueIfHeld, stop, turnsStopping } from '../../src/store/turns.ts'
import { acceptanceOf, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { claimAll, claimOne, crashed, finish, writeText } from './held.ts'
import { wrongs } from './tree.ts'

/**
 * A turn has several rounds, and a lane several branches: what was decided about one must not be done to another. Each of
 * these was done wrong once, by a process that was only a moment late.
 */
describe('rounds and branches', () => {
  let stored: Stored
  let database: Database
  let session: string
  beforeAll(async () => {
    stored = await openStored(18)
    database = stored.open()
  })
  afterEach(async () => {
    expect(await wrongs(stored)).toEqual([])
    // The next test claims what is its own.
    await stored.query(
      'truncate holdfast.sessions, holdfast.turns, holdfast.messages, holdfast.events, holdfast.chunks, holdfast.files, holdfast.tool_calls, holdfast.asks cascade',
    )
  })
  afterAll(() => stored.close())

  async function open(): Promise<void> {
    const name = randomUUID()
    await sessionsOf(database, 1, name)
    session = `${name}0`
  }

  async function send(id: string, whenBusy: WhenBusy = 'queue') {
    const accepted = await createAcceptor(database).accept({
      ...acceptanceOf(session, id, id),
      ...{ replyId: `${id}-reply`, whenBusy },
    })
    if (accepted.outcome !== 'created') throw new Error(accepted.outcome)
    return accepted
  }

  const key = (messageId: string) => ({ tenantId, sessionId: session, userId, messageId })
  const again = (id: string, replyId: string) =>
    retry(database, key(id), { round: null, replyId, roundsMax: 10, expiresMs: 1e8, sendsMax: 0 })
  const change = (id: string, to: string, sendsMax = 0) => {
    const { turnId, replyId, parts, bodyHash } = acceptanceOf(session, to, to)
    const ask = { id: to, turnId, replyId, parts, metadata: null, bodyHash, preview: null, expiresMs: 1e8, sendsMax }
    return edit(database, key(id), ask)
  }
  const halt = (messageId: string, round: number | null = null) =>
    stopTurn(database, { tenantId, sessionId: session, messageId, by: userId, reason: null, round, userId })
  const fail = (claimed: Claimed) =>
    failIfHeld(database, claimed, crashed, { parts: [], metadata: null, model: null }, [])
  const backOff = (claimed: Claimed) =>
    requeueIfHeld(database, claimed, { reason: 'error', code: null, retryMs: 60_000 }, [])

  async function shown(): Promise<string[]> {
    const { messages } = await messagePage(database, { tenantId, sessionId: session, userId, limit: 99, from: null })
    return messages.filter(({ role }) => role === 'user').map(({ id, branch }) => `${id} of ${branch?.count ?? 1}`)
  }

  async function complete(id: string, whenBusy?: WhenBusy): Promise<void> {
    await send(id, whenBusy)
    await finish(database, await claimOne(database), 0)
  }

  const stateOf = async (id: string) => {
    const [row] = await stored.query<{ state: string; round: number; attempt: number }>(
      'select state, round, attempt from holdfast.turns where session_id = $1 and message_id = $2',
      [session, id],
    )
    return row
  }

  test('a stop that has read one round leaves the next one alone, whose attempt has the same number (I10, I11)', async () => {
    await open()
    await send('m1')
    const claimed = await claimOne(database)
    await fail(claimed)
    await again('m1', 'r2')
    const late = { isOpen: false, nextIndex: 0, parts: [], metadata: null, preview: null }
    const ask = { by: userId, reason: null, lastTry: true, userId, round: 1 }
    expect(await stop(database, claimed, late, ask)).toEqual({ outcome: 'again' })
    expect(await halt('m1', 1)).toEqual({ outcome: 'other_round' })
    expect(await stateOf('m1')).toEqual({ state: 'queued', round: 2, attempt: 1 })
  })

  test('who completes a marked stop leaves a round alone that was begun since (I11)', async () => {
    await open()
    await send('m1')
    await claimOne(database)
    expect((await send('m2', 'interrupt')).interrupted).toEqual([{ messageId: 'm1', round: 1 }])
    const [marked] = await turnsStopping(database, 9)
    const completed = () => stopTurn(database, { ...marked!, reason: null, userId: null })
    expect((await completed()).outcome).toBe('stopped')
    await again('m1', 'r2')
    expect(await completed()).toEqual({ outcome: 'other_round' })
    expect(await stateOf('m1')).toMatchObject({ state: 'queued', round: 2 })
  })

  test('an interrupt stops all that have begun, and nothing that waits for a new round (I11)', async () => {
    await open()
    await send('m1')
    await fail(await claimOne(database))
    await send('m2')
    const second = await claimOne(database)
    await again('m1', 'r2')
    expect((await send('m3', 'interrupt')).interrupted).toEqual([{ messageId: 'm2', round: 1 }])
    expect(await stateOf('m1')).toMatchObject({ state: 'queued', round: 2 })
    expect((await halt('m2')).outcome).toBe('stopped')
    expect(await backOff(second)).toEqual({ outcome: 'lost' })

    // The head backs off, and the retry of an earlier one has overtaken it: both have begun.
    const first = await claimOne(database)
    expect(first).toMatchObject({ messageId: 'm1', round: 2 })
    await fail(first)
    const third = await claimOne(database)
    await again('m1', 'r3')
    await backOff(third)
    expect((await claimOne(database)).messageId).toBe('m1')
    const { interrupted } = await send('m4', 'interrupt')
    expect(interrupted.map(({ messageId, round }) => `${messageId} ${round}`).toSorted()).toEqual(['m1 3', 'm3 1'])
    for (const { messageId } of interrupted) expect((await halt(messageId)).outcome).toBe('stopped')
    expect((await claimOne(database)).messageId).toBe('m4')
  })

  test('a turn that backs off leaves an earlier one that is retried due at once (I2)', async () => {
    await open()
    await send('m1')
    await fail(await claimOne(database))
    await send('m2')
    const second = await claimOne(database)
    await again('m1', 'r2')
    await backOff(second)
    expect((await claimOne(database)).messageId).toBe('m1')
  })

  test('what an attempt says that was stopped and retried meanwhile is refused, and its money kept as it ended (I3, I12)', async () => {
    await open()
    await send('m1')
    const claimed = await claimOne(database)
    await writeText(database, claimed, 2)
    await halt('m1')
    await again('m1', 'r2')
    const why = { reason: 'handover' as const, code: null, retryMs: 0 }
    const usage = [{ step: 0, usage: { inputTokens: 3, outputTokens: 5 } }]
    expect(await requeueIfHeld(database, claimed, why, usage)).toEqual({ outcome: 'lost' })
    expect(await stored.query('select outcome from holdfast.usage where turn_id = $1', [claimed.turnId])).toEqual([
      { outcome: 'stopped' },
    ])
    // Stopped before its first attempt, the new round has spent nothing.
    await halt('m1')
    expect(await stored.query(`select output_tokens as n from holdfast.messages where id = 'r2'`)).toEqual([
      { n: null },
    ])
  })

  test('a withdrawal in a branch that is not shown changes neither what is shown nor how much there is (I11)', async () => {
    await open()
    await complete('m1')
    await complete('m2')
    await change('m1', 'm1b')
    await finish(database, await claimOne(database), 0)
    await selectBranch(database, key('m1'))
    // Something else keeps the lane, so that the edit of m2 waits.
    await regenerate(database, key('m1b'), { replyId: 'r', roundsMax: 10, expiresMs: 1e8, sendsMax: 0 })
    await claimOne(database)
    await selectBranch(database, key('m2'))
    await change('m2', 'm2b')
    expect(await shown()).toEqual(['m1 of 2', 'm2b of 2'])
    await send('m3')
    await selectBranch(database, key('m2'))
    await selectBranch(database, key('m1b'))
    expect((await halt('m2b')).outcome).toBe('stopped')
    expect(await shown()).toEqual(['m1b of 2'])
    await selectBranch(database, key('m1'))
    // What came after it stands beside what it was an edit of.
    expect(await shown()).toEqual(['m1 of 2', 'm2 of 2'])
    await selectBranch(database, key('m3'))
    expect(await shown()).toEqual(['m1 of 2', 'm3 of 2'])
    expect((await halt('m3')).outcome).toBe('stopped')
    expect(await shown()).toEqual(['m1 of 2', 'm2 of 1'])
  })

  test('a stop of a second round takes nothing back that came after the first (I11)', async () => {
    await open()
    await send('m1')
    await stored.query(`update holdfast.turns set expires_at = now() - interval '1 s'`)
    expect(await expire(database, 9, failureOf('expired'))).toHaveLength(1)
    await complete('m2')
    await regenerate(database, key('m1'), { replyId: 'r2', roundsMax: 10, expiresMs: 1e8, sendsMax: 0 })
    expect((await halt('m1')).outcome).toBe('stopped')
    expect(await shown()).toEqual(['m1 of 1'])
    await selectBranch(database, key('m2'))
    expect(await shown()).toEqual(['m1 of 1', 'm2 of 1'])
  })

  test('a message is handed only to a reply that it comes after, and a retry of that reply is told it, too (R4.3, I13)', async () => {
    await open()
    await complete('m1')
    await send('m2')
    const running = await claimOne(database)
    await selectBranch(database, key('m1'))
    await send('here', 'steer')
    const told = async (claimed: Claimed) =>
      (await promptMessages(database, claimed)).map(({ parts }) => textOf(parts as never)).join(' ')
    const given = await takeSteeringIfHeld(database, running)
    expect(given.messages.map(({ id }) => id)).toEqual(['here'])
    await fail(running)
    await again('m2', 'r2')
    const retried = await claimOne(database)
    expect(await told(retried)).toBe('m1 m2 here')
    await finish(database, retried, 0)

    // Another branch's turn runs in the lane.
    await change('m1', 'm1b')
    const other = await claimOne(database)
    await selectBranch(database, key('m2'))
    await send('there', 'steer')
    expect((await takeSteeringIfHeld(database, other)).messages).toEqual([])
    await finish(database, other, 0)
    expect((await claimOne(database)).messageId).toBe('there')
  })

  test('an edit counts as a message that is sent, also one in its place; a repeated one does not', async () => {
    await open()
    await complete('m1')
    await stored.query('delete from holdfast.limits')
    expect(await change('m1', 'e1', 2)).toMatchObject({ outcome: 'done', messageId: 'e1', allowance: { left: 1 } })
    expect(await change('m1', 'e1', 2)).toMatchObject({ outcome: 'same' })
    expect(await change('e1', 'e2', 2)).toMatchObject({ outcome: 'done', messageId: 'e1', allowance: { left: 0 } })
    expect(await change('e1', 'e3', 2)).toMatchObject({ outcome: 'rate_limited', allowance: { max: 2, left: 0 } })
    await finish(database, await claimOne(database), 0)
    expect(await change('m1', 'e4', 2)).toMatchObject({ outcome: 'rate_limited', allowance: { max: 2, left: 0 } })
    // Asked again after its turn has its outcome: it has changed e1 already.
    expect(await change('e1', 'e2', 2)).toMatchObject({ outcome: 'same', messageId: 'e1' })
    expect((await claimAll(database, 'nobody')).claimed).toEqual([])
  })

  test('between an interrupt and an end that come at once, the one that is stored first wins (I2, I11)', async () => {
    await open()
    await send('m1')
    const first = await claimOne(database)
    await writeText(database, first, 3)
    // All of its text is stored, and it is about to end.
    expect((await send('m2', 'interrupt')).interrupted).toHaveLength(1)
    expect(await finish(database, first, 3)).toEqual({ outcome: 'lost' })
    const stopped = await halt('m1')
    expect(stopped.outcome === 'stopped' && JSON.parse(stopped.event.json)).toMatchObject({
      reason: 'interrupted',
      message: { status: 'stopped', parts: [{ text: '1.1 1.2 ' }] },
    })
    const second = await claimOne(database)
    expect((await finish(database, second, 0)).outcome).toBe('stored')
    expect((await send('m3', 'interrupt')).interrupted).toEqual([])
    expect(await halt('m2')).toEqual({ outcome: 'late' })
  })

  test('a retry that nobody begins in time expires, and may be retried again (I2)', async () => {
    await open()
    await send('m1')
    const claimed = await claimOne(database)
    await writeText(database, claimed, 2)
    await fail(claimed)
    await again('m1', 'r2')
    await stored.query(`update holdfast.turns set expires_at = now() - interval '1 s'`)
    const [expired] = await expire(database, 9, failureOf('expired'))
    expect(JSON.parse(expired!.event.json)).toMatchObject({ code: 'expired', message: { id: 'r2', parts: [] } })
    expect(await stateOf('m1')).toEqual({ state: 'failed', round: 2, attempt: 1 })
    await again('m1', 'r3')
    expect((await claimOne(database)).round).toBe(3)
  })

  test('in a deleted session every command finds nothing (I15)', async () => {
    await open()
    await send('m1')
    const claimed = await claimOne(database)
    expect((await deleteSession(database, tenantId, session, userId)).outcome).toBe('deleted')
    const regenerated = regenerate(database, key('m1'), { replyId: 'r', roundsMax: 10, expiresMs: 1e8, sendsMax: 0 })
    const all = [again('m1', 'r'), change('m1', 'e'), regenerated, selectBranch(database, key('m1')), halt('m1')]
    for (const answer of await Promise.all(all)) expect(answer).toMatchObject({ outcome: 'not_found' })
    await expect(send('m2', 'interrupt')).rejects.toThrow('not_found')
    expect(await takeSteeringIfHeld(database, claimed)).toEqual({ messages: [], events: [] })
  })
})
