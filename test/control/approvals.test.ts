/** A turn that waits for people (P110–P116): asked once, answered once, whoever answers and however late. */
import { describe, expect, test } from 'vitest'
import type { ReplyChunk } from '../../src/index.ts'
import { ofType, outcomesOf, textIn } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { answer, call, callsIn, openAsking, partsIn, resultsIn, waits } from './asking.ts'

describe.each([6, 7] as const)('AI SDK %s', (major) => {
  test('a call that needs approval waits, runs once when it is approved, and the reply goes on from where it stood', async () => {
    const { ann, session, watcher, runs, provider } = await openAsking(major, [[call('k1', 'book')]])
    await ann.send(session, 'hi', 'm1')
    const waiting = await waits(watcher)
    expect(waiting.data.turn).toMatchObject({ state: 'waiting', waitingFor: 'approval', toolCalls: [] })
    const [approval] = waiting.data.turn.approvals
    expect(approval).toMatchObject({ toolCallId: 'k1', toolName: 'book' })
    expect(callsIn(partsIn(waiting))).toEqual([['k1', 'approval-requested']])
    expect(waiting.data.message.status).toBe('streaming')
    expect(runs).toEqual([])

    const answered = await answer(ann, session, 'approvals', approval.id, { approved: true, reason: 'go' })
    expect(answered.status).toBe(200)
    const outcome = await watcher.outcome('m1')
    expect(callsIn(partsIn(outcome))).toEqual([['k1', 'output-available', { of: 'book' }]])
    expect(partsIn(outcome).find(({ type }) => type === 'tool-book')).toMatchObject({
      approval: { id: approval.id, approved: true, reason: 'go' },
    })
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
    expect(runs).toEqual([{ name: 'book', input: { place: 'here' }, toolCallId: 'k1' }])
    expect(provider.requests).toHaveLength(2)
    const [said] = ofType(watcher, 'approval.answered')
    expect(said!.data).toMatchObject({
      approvalId: approval.id,
      kind: 'approval',
      toolCallId: 'k1',
      approved: true,
      by: 'ann',
      reason: 'go',
    })
    expect(said!.data.part).toMatchObject({
      state: 'approval-responded',
      approval: { id: approval.id, approved: true },
    })
    const [, second] = ofType(watcher, 'attempt.started')
    expect(callsIn(second!.data.base)).toEqual([['k1', 'approval-responded']])
    expect(ofType(watcher, 'attempt.ended')).toEqual([])
    expect(watcher.problems).toEqual([])
  })

  test('a refusal is told to the model with its reason, and nothing runs', async () => {
    const { ann, session, watcher, runs, provider } = await openAsking(major, [[call('k1', 'book')]])
    await ann.send(session, 'hi', 'm1')
    const { data } = await waits(watcher)
    await answer(ann, session, 'approvals', data.turn.approvals[0].id, { approved: false, reason: 'too dear' })
    const outcome = await watcher.outcome('m1')
    expect(callsIn(partsIn(outcome))).toEqual([['k1', 'output-denied']])
    expect(JSON.stringify(resultsIn(provider.requests[1]!))).toContain('too dear')
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
    expect(runs).toEqual([])
  })

  test('a tool of the client waits for its result, or its error', async () => {
    const { ann, session, watcher, provider } = await openAsking(major, [[call('k1', 'where')], [call('k2', 'where')]])
    await ann.send(session, 'hi', 'm1')
    const { data } = await waits(watcher)
    expect(data.turn).toMatchObject({
      waitingFor: 'tool',
      approvals: [],
      toolCalls: [{ toolCallId: 'k1', toolName: 'where' }],
    })
    expect((await answer(ann, session, 'tool-results', 'k1', { output: { at: [1, 2] } })).status).toBe(200)
    const again = await waits(watcher, 2)
    expect(callsIn(partsIn(again))).toEqual([
      ['k1', 'output-available', { at: [1, 2] }],
      ['k2', 'input-available'],
    ])
    await answer(ann, session, 'tool-results', 'k2', { errorText: 'no GPS' })
    const outcome = await watcher.outcome('m1')
    expect(callsIn(partsIn(outcome)).at(-1)).toEqual(['k2', 'output-error', 'no GPS'])
    expect(resultsIn(provider.requests[2]!)).toEqual([
      ['k1', '{"at":[1,2]}'],
      ['k2', 'no GPS'],
    ])
    expect(watcher.problems).toEqual([])
  })

  test('of several calls in a step all are waited for, what needs nobody runs at once, and each answer is shown', async () => {
    const step = [call('k1', 'book', 'a'), call('k2', 'where'), call('k3', 'look'), call('k4', 'book', 'b')]
    const { ann, session, watcher, runs } = await openAsking(major, [step])
    await ann.send(session, 'hi', 'm1')
    const { data } = await waits(watcher)
    expect(runs.map(({ toolCallId }) => toolCallId)).toEqual(['k3'])
    expect(data.turn.approvals.map(({ toolCallId }: { toolCallId: string }) => toolCallId)).toEqual(['k1', 'k4'])
    const [first, second] = data.turn.approvals
    await answer(ann, session, 'approvals', first.id, { approved: true })
    const { body } = await answer(ann, session, 'approvals', second.id, { approved: false })
    expect(body.turn).toMatchObject({
      state: 'waiting',
      waitingFor: 'tool',
      approvals: [],
      toolCalls: [{ toolCallId: 'k2' }],
    })
    expect(callsIn(body.reply.parts)).toEqual([
      ['k1', 'approval-responded'],
      ['k2', 'input-available'],
      ['k3', 'output-available', { of: 'look' }],
      ['k4', 'approval-responded'],
    ])
    expect((await ann.snapshot(session)).turns[0]).toMatchObject(body.turn)
    await answer(ann, session, 'tool-results', 'k2', { output: 'home' })
    const outcome = await watcher.outcome('m1')
    expect(callsIn(partsIn(outcome))).toEqual([
      ['k1', 'output-available', { of: 'book' }],
      ['k2', 'output-available', 'home'],
      ['k3', 'output-available', { of: 'look' }],
      ['k4', 'output-denied'],
    ])
    expect(runs.map(({ toolCallId }) => toolCallId)).toEqual(['k3', 'k1'])
    expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
  })

  test('a client’s tool that needs approval is asked about, and waits for its result when it may run', async () => {
    const { ann, session, watcher, provider } = await openAsking(major, [[call('k1', 'sign'), call('k2', 'book')]])
    await ann.send(session, 'hi', 'm1')
    const [first, second] = (await waits(watcher)).data.turn.approvals
    expect((await waits(watcher)).data.turn).toMatchObject({ toolCalls: [] })
    // Its result is no answer to whether it may run.
    expect((await answer(ann, session, 'tool-results', 'k1', { output: 'signed' })).status).toBe(404)
    await answer(ann, session, 'approvals', first.id, { approved: true })
    await answer(ann, session, 'approvals', second.id, { approved: true })
    const again = await waits(watcher, 2)
    expect(again.data.turn).toMatchObject({ waitingFor: 'tool', approvals: [], toolCalls: [{ toolCallId: 'k1' }] })
    expect(callsIn(partsIn(again))).toEqual([
      ['k1', 'approval-responded'],
      ['k2', 'approval-responded'],
    ])
    expect(provider.requests).toHaveLength(1)
    expect((await answer(ann, session, 'tool-results', 'k1', { output: 'signed' })).status).toBe(200)
    const outcome = await watcher.outcome('m1')
    expect(callsIn(partsIn(outcome))).toEqual([
      ['k1', 'output-available', 'signed'],
      ['k2', 'output-available', { of: 'book' }],
    ])
    expect(partsIn(outcome)[2]).toMatchObject({ approval: { id: first.id, approved: true } })
    expect(provider.requests).toHaveLength(2)
    expect(watcher.problems).toEqual([])
  })

  test('a client’s tool that was refused its approval is not waited for', async () => {
    const { ann, session, watcher } = await openAsking(major, [[call('k1', 'sign')]])
    await ann.send(session, 'hi', 'm1')
    const [approval] = (await waits(watcher)).data.turn.approvals
    await answer(ann, session, 'approvals', approval.id, { approved: false })
    expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([['k1', 'output-denied']])
  })

  test.each(['book', 'where'])(
    'two calls of %s with one id in one step are two questions: the AI SDK gives the second another id',
    async (name) => {
      const steps = [[call('k1', name, 'a'), call('k1', name, 'b')]]
      const { ann, session, watcher, runs, provider } = await openAsking(major, steps)
      await ann.send(session, 'hi', 'm1')
      const { approvals, toolCalls } = (await waits(watcher)).data.turn
      for (const { id } of approvals) await answer(ann, session, 'approvals', id, { approved: true })
      for (const { toolCallId } of toolCalls) await answer(ann, session, 'tool-results', toolCallId, { output: 1 })
      expect(partsIn(await watcher.outcome('m1')).filter(({ state }) => state === 'output-available')).toHaveLength(2)
      expect(runs.map(({ input }) => input)).toEqual(name === 'where' ? [] : [{ place: 'a' }, { place: 'b' }])
      expect(resultsIn(provider.requests[1]!)).toHaveLength(2)
    },
  )
})

/** It asks in its own chunks: what each attempt says. */
async function openOwn(attempts: ReplyChunk[][]) {
  const scene = await openChat({
    reply: async function* ({ attempt }) {
      for (const chunk of attempts[attempt - 1]!) yield chunk
      yield { type: 'finish-step' }
      yield { type: 'finish', finishReason: 'stop' }
    },
  })
  await scene.ann.send(scene.session, 'hi', 'm1')
  return scene
}
const input = { type: 'tool-input-available', toolCallId: 'k1', toolName: 'book', input: { place: 'here' } } as const
const request = (approvalId: string) => ({ type: 'tool-approval-request', toolCallId: 'k1', approvalId }) as const

test('a reply that asks twice about one call in its own chunks asks what it asked last', async () => {
  const { ann, session, watcher } = await openOwn([
    [{ type: 'start-step' }, input, request('p1'), input, request('p2')],
    [{ type: 'tool-output-available', toolCallId: 'k1', output: 'done' }],
  ])
  expect((await waits(watcher)).data.turn.approvals).toMatchObject([{ id: 'p2', toolCallId: 'k1' }])
  expect((await answer(ann, session, 'approvals', 'p1', { approved: true })).status).toBe(404)
  expect((await answer(ann, session, 'approvals', 'p2', { approved: true })).status).toBe(200)
  expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([['k1', 'output-available', 'done']])
})

test('a second question about a call of one step, asked when the first was answered, is one of its own', async () => {
  const { ann, session, watcher } = await openOwn([
    [{ type: 'start-step' }, input, request('p1')],
    [request('p2')],
    [{ type: 'tool-output-available', toolCallId: 'k1', output: 'done' }],
  ])
  await waits(watcher)
  expect((await answer(ann, session, 'approvals', 'p1', { approved: true })).status).toBe(200)
  expect((await waits(watcher, 2)).data.turn.approvals).toMatchObject([{ id: 'p2', toolCallId: 'k1' }])
  expect((await answer(ann, session, 'approvals', 'p1', { approved: true })).status).toBe(200)
  expect((await answer(ann, session, 'approvals', 'p2', { approved: false })).status).toBe(200)
  expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([['k1', 'output-available', 'done']])
  expect(ofType(watcher, 'approval.answered').map(({ data }) => data.approvalId)).toEqual(['p1', 'p2'])
  expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
})
