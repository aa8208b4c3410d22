/** What a round may use without asking (P110, P117): steps and tokens of `streamText`, AI SDK 6 and 7. */
import { describe, expect, test } from 'vitest'
import { ofType, textIn } from '../faults/scene.ts'
import { queryOnce } from '../support/postgres.ts'
import { answer, call, callsIn, openAsking, partsIn, waits } from './asking.ts'

const looks = (count: number) => Array.from({ length: count }, (_, at) => [call(`k${at + 1}`, 'look')])
const done = (count: number) =>
  Array.from({ length: count }, (_, at) => [`k${at + 1}`, 'output-available', { of: 'look' }])
const some = expect.any(String) as string

describe.each([6, 7] as const)('AI SDK %s', (major) => {
  const open = async (...ask: [Parameters<typeof openAsking>[1], Parameters<typeof openAsking>[2]]) => {
    const scene = await openAsking(major, ...ask)
    await scene.ann.send(scene.session, 'hi', 'm1')
    const asked = async (nth = 1) => (await waits(scene.watcher, nth)).data.turn.approvals[0]
    const say = async (id: string, approved: boolean) =>
      await answer(scene.ann, scene.session, 'approvals', id, { approved })
    return { ...scene, asked, say }
  }

  test('after its last step a reply that would go on waits; let go on it has as many again, and no model or tool is asked twice', async () => {
    const { watcher, runs, provider, asked, say } = await open(looks(4), { stepsMax: 2 })
    const waiting = await waits(watcher)
    expect(waiting.data.turn).toMatchObject({ state: 'waiting', waitingFor: 'budget', toolCalls: [] })
    const first = await asked()
    expect(waiting.data.turn.approvals).toEqual([
      { kind: 'budget', id: some, budget: 'steps', used: 2, max: 2, expiresAt: some },
    ])
    expect(callsIn(partsIn(waiting))).toEqual(done(2))
    expect(waiting.data.message.status).toBe('streaming')
    expect(provider.requests).toHaveLength(2)

    const said = await say(first.id, true)
    expect(said).toMatchObject({ status: 200, body: { reply: { status: 'streaming' } } })
    const second = await asked(2)
    expect(second).toMatchObject({ budget: 'steps', used: 2, max: 2 })
    expect(second.id).not.toBe(first.id)
    await say(second.id, true)
    const outcome = await watcher.outcome('m1')
    expect(textIn(outcome).endsWith('Told: 4.')).toBe(true)
    expect(callsIn(partsIn(outcome))).toEqual(done(4))
    expect(runs.map(({ toolCallId }) => toolCallId)).toEqual(['k1', 'k2', 'k3', 'k4'])
    expect(provider.requests).toHaveLength(5)
    const [answered] = ofType(watcher, 'approval.answered')
    expect(answered!.data).toEqual({
      turn: expect.objectContaining({ state: 'queued', round: 1 }) as object,
      messageId: waiting.data.message.id,
      kind: 'budget',
      approvalId: first.id,
      approved: true,
      by: 'ann',
    })
    expect(ofType(watcher, 'attempt.ended')).toEqual([])
    expect(watcher.problems).toEqual([])
  })

  test('a reply that ends at its last step is complete and asks nothing', async () => {
    const { watcher, provider } = await open(looks(1), { stepsMax: 2 })
    expect((await watcher.outcome('m1')).type).toBe('message.ai_response')
    expect(ofType(watcher, 'turn.waiting')).toEqual([])
    expect(provider.requests).toHaveLength(2)
  })

  test('tokens that the steps reported, in and out, are counted over attempts, and anew from where it may go on', async () => {
    const { watcher, provider, asked, say, database } = await open(looks(4), { tokensMax: 30 })
    const first = await asked()
    expect(first).toEqual({ kind: 'budget', id: some, budget: 'tokens', used: 36, max: 30, expiresAt: some })
    expect(provider.requests).toHaveLength(2)
    await say(first.id, true)
    const second = await asked(2)
    expect(second).toMatchObject({ budget: 'tokens', used: 36, max: 30 })
    expect(provider.requests).toHaveLength(4)
    await say(second.id, true)
    await watcher.outcome('m1')
    expect(provider.requests).toHaveLength(5)
    const [{ sum }] = (await queryOnce<{ sum: number }>(
      database,
      'select sum(input_tokens + output_tokens)::int as sum from holdfast.usage',
    )) as [{ sum: number }]
    expect(sum).toBe(90)
  })

  test('what the last step asks a person comes first, and the budget when all of that is answered and has run', async () => {
    const { watcher, provider, runs, asked, say } = await open([[call('k1', 'book'), call('k2', 'book', 'there')]], {
      stepsMax: 1,
    })
    const waiting = await waits(watcher)
    expect(waiting.data.turn).toMatchObject({ waitingFor: 'approval', approvals: [{ kind: 'approval' }, {}] })
    const [one, other] = waiting.data.turn.approvals
    await say(one.id, false)
    await say(other.id, true)
    const budget = await asked(2)
    expect(budget).toMatchObject({ kind: 'budget', budget: 'steps', used: 1, max: 1 })
    expect(runs.map(({ toolCallId }) => toolCallId)).toEqual(['k2'])
    expect(callsIn(partsIn(await waits(watcher, 2)))).toEqual([
      ['k1', 'output-denied'],
      ['k2', 'output-available', { of: 'book' }],
    ])
    expect(provider.requests).toHaveLength(1)
    await say(budget.id, true)
    const outcome = await watcher.outcome('m1')
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 2.')
    expect(runs).toHaveLength(1)
    expect(provider.requests).toHaveLength(2)
    expect(watcher.problems).toEqual([])
  })

  test.each([
    ['a refusal', async (scene: Awaited<ReturnType<typeof open>>, id: string) => await scene.say(id, false)],
    [
      'the result of a client’s tool',
      async (scene: Awaited<ReturnType<typeof open>>) =>
        await answer(scene.ann, scene.session, 'tool-results', 'k1', { output: 'home' }),
    ],
  ])('where nothing has to run after %s the budget is asked before the reply is begun', async (what, give) => {
    const name = what === 'a refusal' ? 'book' : 'where'
    const scene = await open([[call('k1', name)]], { stepsMax: 1 })
    const { data } = await waits(scene.watcher)
    await give(scene, data.turn.approvals[0]?.id as string)
    const budget = await scene.asked(2)
    expect(budget).toMatchObject({ kind: 'budget', budget: 'steps' })
    expect(scene.provider.requests).toHaveLength(1)
    await scene.say(budget.id, true)
    expect(textIn(await scene.watcher.outcome('m1'))).toBe('Let me see.\n\nTold: 1.')
    expect(scene.provider.requests).toHaveLength(2)
  })

  test('onBudget: fail ends the turn where its next step would begin, and one that ends there is complete', async () => {
    const { watcher } = await open(looks(3), { stepsMax: 2, onBudget: 'fail' })
    const outcome = await watcher.outcome('m1')
    expect(outcome.data).toMatchObject({ code: 'budget_exceeded', canRetry: true })
    expect(callsIn(partsIn(outcome))).toEqual(done(2))
    const tokens = await open(looks(3), { tokensMax: 30, onBudget: 'fail' })
    expect((await tokens.watcher.outcome('m1')).data).toMatchObject({ code: 'budget_exceeded' })
    const whole = await open(looks(1), { stepsMax: 2, tokensMax: 36, onBudget: 'fail' })
    expect((await whole.watcher.outcome('m1')).type).toBe('message.ai_response')
  })
})
