/** What becomes of a turn whose lease has run out, as the operator chose (the option takeover). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { closeParts } from '../../src/core/parts.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { answerAsk, waitIfHeld } from '../../src/store/asks.ts'
import type { Database } from '../../src/store/database.ts'
import { beginCallIfHeld } from '../../src/store/tool-calls.ts'
import { type Checkpoint, type Claimed, checkpointIfHeld, claim, requeueIfHeld } from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { disorder, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { acceptTurns, claimOne, crashed, endLease, stopAsk, writeText } from './held.ts'

type Policy = 'continue' | 'restart' | 'fail'

describe.each(postgresVersions)('takeover on PostgreSQL %i', (version) => {
  let stored: Stored
  let one: Database
  let two: Database
  beforeAll(async () => {
    stored = await openStored(version)
    one = stored.open()
    two = stored.open()
  })
  afterAll(() => stored.close())

  const parts = [{ type: 'step-start' }, { type: 'text', text: 'first', state: 'done' as const }]
  const checkpointOf = (claimed: Claimed): Checkpoint => ({
    attempt: claimed.attempt,
    step: 1,
    isOpen: false,
    nextIndex: 2,
    parts,
    metadata: null,
    told: [],
    forClients: [],
    tokens: 7,
  })
  /** A turn that has one finished step, and something of the next. */
  async function halfWay(name: string): Promise<Claimed> {
    const [id] = await sessionsOf(one, 1, name)
    await acceptTurns(one, [id!])
    const claimed = await claimOne(one)
    await writeText(one, claimed, 3)
    await checkpointIfHeld(one, claimed, checkpointOf(claimed))
    return claimed
  }
  const claimWith = (database: Database, takeover: Policy, runner = 'next') =>
    claim(database, {
      ...{ runner, claim: 1, lost: [], leaseMs: 60_000, limit: 9, takeExpired: true, crashesMax: 3 },
      crashed,
      takeover,
    })
  async function taken(claimed: Claimed, takeover: Policy) {
    await endLease(stored, claimed.turnId)
    return await claimWith(one, takeover)
  }
  const baseOf = ({ events }: Claimed) => (JSON.parse(events.at(-1)!.json) as { base: unknown }).base
  const ended = async (claimed: Claimed) => {
    expect(await disorder(stored)).toEqual([])
    await stopTurn(one, stopAsk(claimed.sessionId, claimed.messageId))
  }

  test('continue keeps the finished steps, restart drops them, and either counts the tokens that they took', async () => {
    const kept = await halfWay('continue')
    const [on] = (await taken(kept, 'continue')).claimed
    expect(on).toMatchObject({ attempt: 2, checkpoint: { step: 1 }, tokens: 7 })
    expect(baseOf(on!)).toEqual(parts)
    await ended(on!)

    const dropped = await halfWay('restart')
    const [anew] = (await taken(dropped, 'restart')).claimed
    expect(anew).toMatchObject({ attempt: 2, checkpoint: null, stepsFrom: 0, tokens: 7 })
    expect(anew!.events.map(({ type }) => type)).toEqual(['attempt.ended', 'attempt.started'])
    expect(baseOf(anew!)).toEqual([])
    await ended(anew!)
  })

  test('restart goes on where a tool of the round has begun, here or on a client: none runs twice unasked', async () => {
    const begun = await halfWay('tool')
    const place = { ...begun, step: 1, callId: 'k1' }
    const ask = { name: 'book', inputHash: 'h', again: false, leaseMs: 60_000 }
    expect((await beginCallIfHeld(one, place, ask, checkpointOf(begun))).outcome).toBe('begun')
    const [on] = (await taken(begun, 'restart')).claimed
    expect(on!.checkpoint).toMatchObject({ step: 1 })
    await ended(on!)

    const client = await halfWay('client')
    const asks = [{ kind: 'tool' as const, id: 'k2', callId: 'k2', name: 'where', inputHash: 'h' }]
    const asked = { nextIndex: 3, checkpoint: checkpointOf(client), model: null, expiresMs: 60_000, holdsLane: true }
    await waitIfHeld(one, client, { ...asked, asks }, [])
    const { sessionId } = client
    const output = { kind: 'tool' as const, id: 'k2', answer: { output: 'home' } }
    await answerAsk(one, { tenantId, sessionId, userId }, output, { turnId: null, by: userId })
    // An answered wait is no takeover, whatever the policy.
    const [answered] = (await claimWith(one, 'fail')).claimed
    expect(answered!.checkpoint).toMatchObject({ step: 1 })
    const [again] = (await taken(answered!, 'restart')).claimed
    expect(again!.checkpoint).toMatchObject({ step: 1 })
    await ended(again!)
  })

  test.each(['approval', 'uncertain', 'budget'] as const)(
    'restart goes on where somebody has answered (%s): no answer is thrown away (P111, P114)',
    async (kind) => {
      const claimed = await halfWay(`answered-${kind}`)
      const asks =
        kind === 'budget'
          ? [{ kind, id: 'p1', callId: '' as const, name: 'steps' as const, inputHash: '' as const, used: 1, max: 1 }]
          : [{ kind, id: 'p1', callId: 'k1', name: 'book', inputHash: 'h' }]
      const call = {
        type: 'tool-book',
        toolCallId: 'k1',
        state: 'approval-requested',
        input: {},
        approval: { id: 'p1' },
      }
      const checkpoint = { ...checkpointOf(claimed), parts: kind === 'budget' ? parts : [...parts, call] }
      const asked = { nextIndex: 3, checkpoint, model: null, expiresMs: 60_000, holdsLane: true }
      await waitIfHeld(one, claimed, { ...asked, asks }, [])
      const yes = { kind: 'approval' as const, id: 'p1', answer: { approved: true } }
      const who = { tenantId, sessionId: claimed.sessionId, userId }
      expect((await answerAsk(one, who, yes, { turnId: null, by: userId })).outcome).toBe('answered')
      const [answered] = (await claimWith(one, 'restart')).claimed
      const [again] = (await taken(answered!, 'restart')).claimed
      expect(again!.checkpoint).toMatchObject({ step: 1 })
      expect(again!.stepsFrom).toBe(kind === 'budget' ? 1 : 0)
      await ended(again!)
    },
  )

  test('fail ends it as crashed with what is stored, and what waits for another attempt in order is none of its', async () => {
    const claimed = await halfWay('fail')
    for (const reason of ['error', 'handover'] as const) {
      await requeueIfHeld(
        one,
        { ...claimed, attempt: claimed.attempt + (reason === 'error' ? 0 : 1) },
        {
          ...{ reason, code: null, retryMs: 0 },
        },
        [],
      )
      expect((await claimWith(one, 'fail')).claimed).toMatchObject([{ checkpoint: { step: 1 } }])
    }
    await endLease(stored, claimed.turnId)
    const { claimed: none, failed } = await claimWith(one, 'fail')
    expect(none).toEqual([])
    expect(failed).toHaveLength(1)
    expect(failed[0]!.events.map(({ type }) => type)).toEqual(['attempt.ended', 'attempt.started', 'message.error'])
    expect(JSON.parse(failed[0]!.events.at(-1)!.json)).toMatchObject({
      code: 'crashed',
      message: { status: 'failed', parts },
    })
    expect(await disorder(stored)).toEqual([])
  })

  /** Each state that a part may be left in. */
  const open: Part[] = [
    { type: 'step-start' },
    { type: 'text', text: 'first', state: 'done' },
    { type: 'reasoning', text: 'why', state: 'streaming', providerMetadata: { p: { a: 1 } } },
    { type: 'text', text: 'sec', state: 'streaming' },
    { type: 'text', text: 'without a state' },
    { type: 'tool-look', toolCallId: 'k0', state: 'output-available', input: {}, output: 1, preliminary: true },
    { type: 'tool-look', toolCallId: 'k1', state: 'input-streaming' },
    { type: 'tool-look', toolCallId: 'k2', state: 'input-streaming', input: null, rawInput: '{' },
    { type: 'tool-where', toolCallId: 'k3', state: 'input-available', input: { a: [1, null] }, inputEncoding: 'json' },
    { type: 'dynamic-tool', toolName: 'book', toolCallId: 'k4', state: 'input-available', input: 'text' },
    { type: 'tool-book', toolCallId: 'k5', state: 'approval-requested', input: {}, approval: { id: 'p5' } },
    {
      ...{ type: 'tool-book', toolCallId: 'k6', state: 'approval-responded', input: {} },
      approval: { id: 'p6', approved: true, reason: 'go' },
    },
    {
      ...{ type: 'tool-book', toolCallId: 'k7', state: 'approval-responded', input: {} },
      approval: { id: 'p7', approved: false },
    },
    { type: 'tool-book', toolCallId: 'k8', state: 'output-error', input: {}, errorText: 'no' },
    { type: 'data-mood', id: 'd', data: { state: 'streaming' } },
  ]

  test.each(['by fail', 'after three crashes'])(
    'what is stored of a turn that the claim fails (%s) is closed as every other outcome closes it (I2)',
    async (how) => {
      let claimed: Claimed = await halfWay(how)
      const checkpoint = { ...checkpointOf(claimed), parts: open, isOpen: true }
      await checkpointIfHeld(one, claimed, checkpoint)
      const policy = how === 'by fail' ? 'fail' : 'continue'
      for (;;) {
        const { claimed: next, failed } = await taken(claimed, policy)
        if (failed.length === 1) {
          const toolErrorText = 'The reply failed before this call was finished.'
          const { message } = JSON.parse(failed[0]!.events.at(-1)!.json) as { message: { parts: Part[] } }
          expect(message.parts).toEqual(closeParts(open, { toolErrorText }))
          break
        }
        claimed = next[0]!
      }
      expect(await disorder(stored)).toEqual([])
    },
  )

  test.each(['restart', 'fail'] as const)(
    'two that take over at once by %s are one takeover (I2, I9)',
    async (policy) => {
      const count = 40
      const sessions = await sessionsOf(one, count, `both-${policy}`)
      await acceptTurns(one, sessions)
      const all = { ...{ runner: 'first', claim: 1, lost: [], leaseMs: 60_000, limit: count }, crashed }
      const begun = await claim(one, { ...all, takeExpired: true, crashesMax: 3 })
      expect(begun.claimed).toHaveLength(count)
      await Promise.all(begun.claimed.map((each) => checkpointIfHeld(one, each, checkpointOf(each))))
      await stored.query(`update holdfast.turns set lease_until = now() - interval '1 s' where state = 'running'`)
      const ask = { ...all, takeExpired: true, crashesMax: 3, takeover: policy }
      const answers = await Promise.all([claim(one, { ...ask, runner: 'a' }), claim(two, { ...ask, runner: 'b' })])
      const rest = await claim(one, { ...ask, runner: 'c' })
      const took = [...answers, rest].flatMap((answer) => (policy === 'fail' ? answer.failed : answer.claimed))
      expect(new Set(took.map(({ sessionId }) => sessionId)).size).toBe(count)
      expect(took).toHaveLength(count)
      expect(
        await stored.query(`select from holdfast.events where type = 'attempt.ended' and session_id = any($1)`, [
          sessions,
        ]),
      ).toHaveLength(count)
      expect(await disorder(stored)).toEqual([])
      if (policy === 'restart') {
        await Promise.all(sessions.map((id) => stopTurn(one, stopAsk(id, `${id}-m0`))))
      }
    },
  )
})
