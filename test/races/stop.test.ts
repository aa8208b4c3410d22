import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Chunk, Part } from '../../src/core/chunk.ts'
import type { Event } from '../../src/core/event.ts'
import { createFold } from '../../src/core/fold.ts'
import { readSnapshot } from '../../src/log/snapshot.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { appendIfHeld } from '../../src/store/chunks.ts'
import type { Database } from '../../src/store/database.ts'
import {
  type AttemptKey,
  type Claimed,
  checkpointIfHeld,
  requeueIfHeld,
  stop,
  stoppable,
  turnsStopping,
} from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { lostHeads, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import {
  acceptTurns,
  claimAll,
  claimOne,
  endLease,
  finish,
  rowOf,
  stopAsk,
  textUpTo,
  tookOver,
  writeText,
} from './held.ts'

/** One process stops what another runs: the naive stop asks the owner, who may be dead, paused, or about to finish. */
describe.each(postgresVersions)('stop on PostgreSQL %i', (version) => {
  let stored: Stored
  let owner: Database
  let stopper: Database
  beforeAll(async () => {
    stored = await openStored(version)
    owner = stored.open()
    stopper = stored.open()
  })
  afterAll(() => stored.close())

  /** A session of its own with its accepted messages; the turns of earlier tests have ended. */
  async function session(name: string, messages = 1): Promise<string> {
    const [id] = await sessionsOf(owner, 1, name)
    await acceptTurns(owner, [id!], messages)
    return id!
  }

  async function stopNow(sessionId: string, messageId = `${sessionId}-m0`): Promise<Event> {
    const stopped = await stopTurn(stopper, stopAsk(sessionId, messageId))
    if (stopped.outcome !== 'stopped') throw new Error(`stop answered ${stopped.outcome}`)
    return stopped.event
  }

  const partsIn = (event: Event): Part[] => JSON.parse(event.json).message.parts
  const textIn = (event: Event) => partsIn(event)[0]?.text ?? ''

  /** Nothing of the attempt lands any more, and nobody gets the turn to run (I3, I11). */
  async function expectStill(claimed: Claimed, index: number): Promise<void> {
    expect(await appendIfHeld(owner, [rowOf(claimed, index)], 60_000)).toEqual(new Set())
    expect(await finish(owner, claimed, index)).toEqual({ outcome: 'lost' })
    await endLease(stored, claimed.turnId)
    expect((await claimAll(owner, 'c')).claimed).toEqual([])
  }

  test('a queued turn that never ran ends stopped with an empty reply, and the next one is due (I11)', async () => {
    const id = await session('queued', 2)
    const event = await stopNow(id)
    expect(partsIn(event)).toEqual([])
    const next = await claimOne(owner)
    expect(next.messageId).toBe(`${id}-m1`)
    await finish(owner, next, 0)
  })

  test('one that only what waits is stopped by leaves a turn that runs, also one that is claimed in this moment', async () => {
    const id = await session('waiting', 2)
    const ask = { ...stopAsk(id, `${id}-m0`), onlyQueued: true }
    let claimed: Claimed | undefined
    const late: Database = {
      ...stopper,
      async query(purpose, statement, values) {
        if (statement.name === 'stop') claimed ??= await claimOne(owner)
        return await stopper.query(purpose, statement, values)
      },
    }
    expect(await stopTurn(late, ask)).toEqual({ outcome: 'begun' })
    expect(claimed).toMatchObject({ messageId: `${id}-m0` })
    expect(await stopTurn(stopper, ask)).toEqual({ outcome: 'begun' })
    expect(await turnsStopping(stopper, 10)).toEqual([])
    expect((await finish(owner, claimed!, 0)).outcome).toBe('stored')
    expect((await stopTurn(stopper, { ...ask, messageId: `${id}-m1` })).outcome).toBe('stopped')
  })

  test('a turn behind another ends stopped, and the one that runs is left alone (I11)', async () => {
    const id = await session('behind', 3)
    const running = await claimOne(owner)
    await stopNow(id, `${id}-m1`)
    expect((await finish(owner, running, 0)).outcome).toBe('stored')
    const next = await claimOne(owner)
    expect(next.messageId).toBe(`${id}-m2`)
    await finish(owner, next, 0)
  })

  test('a running turn keeps exactly what the log holds, whoever runs it (I7, I11)', async () => {
    for (const by of [owner, stopper]) {
      const id = await session(by === owner ? 'here' : 'elsewhere')
      const claimed = await claimOne(owner)
      await writeText(owner, claimed, 4)
      const stopped = await stopTurn(by, stopAsk(id, `${id}-m0`))
      expect(stopped.outcome).toBe('stopped')
      const [message] = (await readSnapshot(owner, 'e', { tenantId, sessionId: id, userId, limit: 9 }))!.messages.slice(
        -1,
      )
      expect(message).toMatchObject({
        status: 'stopped',
        parts: [{ type: 'text', text: textUpTo(1, 4), state: 'done' }],
      })
      await expectStill(claimed, 4)
    }
  })

  test('a turn that backs off keeps what its last attempt showed, and does not run again (I11)', async () => {
    const id = await session('backoff')
    const claimed = await claimOne(owner)
    await writeText(owner, claimed, 3)
    await requeueIfHeld(owner, claimed, { reason: 'error', code: 'internal', retryMs: 0 }, [])
    expect(textIn(await stopNow(id))).toBe(textUpTo(1, 3))
    await expectStill(claimed, 3)
  })

  test('a turn whose owner is dead is stopped without it (I11)', async () => {
    const id = await session('dead')
    const claimed = await claimOne(owner)
    await writeText(owner, claimed, 2)
    await endLease(stored, claimed.turnId)
    expect(textIn(await stopNow(id))).toBe(textUpTo(1, 2))
    await expectStill(claimed, 2)
  })

  test('a turn that moved thrice is marked: nothing is stored, claimed or expired, until anybody completes it for who asked (I2, I11)', async () => {
    const id = await session('moved', 2)
    const claimed = await claimOne(owner)
    await writeText(owner, claimed, 2)
    const seen = (await stoppable(stopper, tenantId, id, `${id}-m0`, null))!
    const key: AttemptKey = claimed
    const folded = { isOpen: true, nextIndex: seen.nextIndex, parts: [], metadata: null, preview: null }
    for (const lastTry of [false, false, true]) {
      const index = seen.nextIndex + (await stoppable(stopper, tenantId, id, `${id}-m0`, null))!.nextIndex - 2
      expect(await appendIfHeld(owner, [rowOf(claimed, index)], 60_000)).toEqual(new Set([claimed.turnId]))
      const answer = await stop(stopper, key, folded, {
        by: 'bob',
        reason: 'wrong',
        lastTry,
        userId: null,
        round: 1,
      })
      expect(answer.outcome).toBe(lastTry ? 'stopping' : 'again')
    }
    await expectStill(claimed, 5)
    expect(await requeueIfHeld(owner, claimed, { reason: 'handover', code: null, retryMs: 0 }, [])).toEqual({
      outcome: 'lost',
    })
    const [marked] = await turnsStopping(stopper, 9)
    expect(marked).toEqual({ tenantId, sessionId: id, messageId: `${id}-m0`, by: 'bob', round: 1 })
    const event = await stopNow(marked!.sessionId, marked!.messageId)
    expect(textIn(event)).toBe(textUpTo(1, 5))
    expect(JSON.parse(event.json)).toMatchObject({ by: 'bob', reason: 'wrong' })
    expect(await turnsStopping(stopper, 9)).toEqual([])
    const next = await claimOne(owner)
    expect(next.messageId).toBe(`${id}-m1`)
    await finish(owner, next, 0)
  })

  test('a stop that comes too late changes nothing and shows the outcome that won (I2, I11)', async () => {
    const id = await session('late')
    const claimed = await claimOne(owner)
    await writeText(owner, claimed, 2)
    const finished = await finish(owner, claimed, 2)
    expect(await stopTurn(stopper, stopAsk(id, `${id}-m0`))).toEqual({ outcome: 'late' })
    const folded = { isOpen: true, nextIndex: 0, parts: [], metadata: null, preview: null }
    const answer = await stop(stopper, claimed, folded, {
      by: userId,
      reason: null,
      lastTry: true,
      userId: null,
      round: 1,
    })
    expect(answer).toEqual({ outcome: 'late', event: (finished as { event: Event }).event })
    expect(await stored.query('select from holdfast.turns where stopping is not null')).toEqual([])
  })

  const pairs = 60

  test('of two devices that stop a turn at once one does, and the other is told what that one did (I2, I11)', async () => {
    const won = { ann: 0, bob: 0 }
    await acceptTurns(owner, await sessionsOf(owner, pairs, 'two'))
    for (const [at, claimed] of (await claimAll(owner, 'a')).claimed.entries()) {
      await writeText(owner, claimed, 2)
      // Both have read the turn as it is now, so each would do it if it were alone.
      const folded = { isOpen: true, nextIndex: 2, parts: [], metadata: null, preview: null }
      const asks = [owner, stopper].map((database) => {
        const by = database === owner ? 'ann' : 'bob'
        return () => stop(database, claimed, folded, { by, reason: null, lastTry: false, userId: null, round: 1 })
      })
      const answers = await Promise.all((at % 2 === 0 ? asks : asks.toReversed()).map((ask) => ask()))
      expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual(['late', 'stopped'])
      const [event, same] = answers.map((answer) => ('event' in answer ? answer.event : null))
      expect(same).toEqual(event)
      expect(await asks[0]!()).toEqual({ outcome: 'late', event })
      won[JSON.parse(event!.json).by as 'ann' | 'bob']++
    }
    expect(won.ann + won.bob).toBe(pairs)
    // Who wins is the machine's affair; that it is not always the same one shows that they raced.
    expect(Math.min(won.ann, won.bob)).toBeGreaterThanOrEqual(1)
    expect(await stopsPerTurn()).toEqual([{ stops: 1 }])
  })

  test('two stops beside a flush keep exactly what the flush was told is stored (I2, I7, I11)', async () => {
    let flushed = 0
    await acceptTurns(owner, await sessionsOf(owner, pairs, 'flushed'))
    for (const claimed of (await claimAll(owner, 'a')).claimed) {
      await writeText(owner, claimed, 2)
      const ask = stopAsk(claimed.sessionId, claimed.messageId)
      const [held, ...answers] = await Promise.all([
        appendIfHeld(owner, [rowOf(claimed, 2)], 60_000),
        stopTurn(stopper, ask),
        stopTurn(owner, ask),
      ])
      expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual(['late', 'stopped'])
      const { event } = answers.find(({ outcome }) => outcome === 'stopped') as { event: Event }
      expect(textIn(event)).toBe(textUpTo(1, 2 + held.size))
      flushed += held.size
    }
    expect(flushed).toBeGreaterThanOrEqual(pairs / 10)
    expect(await stopsPerTurn()).toEqual([{ stops: 1 }])
  })

  const stopsPerTurn = () =>
    stored.query(`select distinct count(*)::int as stops from holdfast.events
      where type = 'message.stopped' group by turn_id`)

  const steps: Chunk[] = [
    { type: 'start', messageMetadata: { plan: 'a' } },
    { type: 'start-step' },
    { type: 'text-start', id: '1' },
    { type: 'text-delta', id: '1', delta: 'first' },
    { type: 'text-end', id: '1' },
    { type: 'finish-step' },
    { type: 'start-step' },
    { type: 'text-start', id: '2' },
    { type: 'text-delta', id: '2', delta: 'second' },
    { type: 'tool-input-start', toolCallId: 'c', toolName: 'search' },
    { type: 'tool-input-delta', toolCallId: 'c', inputTextDelta: '{"q":"\\u0000x' },
  ]
  const append = async (claimed: Claimed, from: number, to: number) => {
    const { turnId, attempt } = claimed
    const json = JSON.stringify(steps.slice(from, to))
    const row = { tenantId, turnId, attempt, index: from, n: to - from, json, first: from === 0 }
    expect(await appendIfHeld(owner, [row], 60_000)).toEqual(new Set([turnId]))
  }
  const checkpointOf = (claimed: Claimed) => {
    const fold = createFold()
    for (const chunk of steps.slice(0, 6)) fold.push(chunk)
    const { attempt } = claimed
    return {
      attempt,
      step: 1,
      isOpen: false,
      nextIndex: 6,
      parts: fold.parts(),
      metadata: fold.metadata(),
      told: [],
      forClients: [],
      tokens: 0,
    }
  }
  const texts = (parts: Part[]) => parts.filter((part) => part.type === 'text').map((part) => part.text)

  test('a stop in the step after a checkpoint holds each step once, open tool calls as errors (I7)', async () => {
    const id = await session('steps')
    const claimed = await claimOne(owner)
    await append(claimed, 0, 6)
    expect(await checkpointIfHeld(owner, claimed, checkpointOf(claimed))).toBe(true)
    await append(claimed, 6, 11)
    const snapshot = (await readSnapshot(owner, 'e', { tenantId, sessionId: id, userId, limit: 9 }))!
    const reply = snapshot.messages.at(-1) as { parts: Part[] }
    const fold = createFold({ parts: reply.parts })
    for (const chunk of snapshot.open[0]!.chunks) fold.push(chunk)
    expect(texts(fold.parts())).toEqual(['first', 'second'])

    const event = await stopNow(id)
    expect(texts(partsIn(event))).toEqual(['first', 'second'])
    expect(partsIn(event).at(-1)).toMatchObject({ type: 'tool-search', state: 'output-error', errorText: 'stopped' })
    expect(JSON.parse(event.json).message.metadata).toEqual({ plan: 'a' })
  })

  test('a stop after a takeover keeps the steps of the attempt before, and its metadata (I7)', async () => {
    const id = await session('taken')
    const first = await claimOne(owner)
    await append(first, 0, 6)
    await checkpointIfHeld(owner, first, checkpointOf(first))
    await append(first, 6, 9)
    await endLease(stored, first.turnId)
    const second = await claimOne(stopper, 'b')
    expect(second).toMatchObject({ turnId: first.turnId, attempt: 2 })
    expect(tookOver(second)).toBe(true)
    const { turnId, attempt } = second
    const json = JSON.stringify([
      { type: 'start-step' },
      { type: 'text-start', id: '9' },
      { type: 'text-delta', id: '9', delta: 'again' },
    ])
    await appendIfHeld(stopper, [{ tenantId, turnId, attempt, index: 0, n: 3, json, first: true }], 60_000)
    const event = await stopNow(id)
    expect(texts(partsIn(event))).toEqual(['first', 'again'])
    expect(JSON.parse(event.json).message.metadata).toEqual({ plan: 'a' })
    expect(await lostHeads(stored)).toBe(0)
  })
})
