/** FP1, FP4 around a tool call: what has begun is kept, what is finished never runs again (I3, I9). */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { isCall } from '../../src/core/open-step.ts'
import { eventually } from '../support/eventually.ts'
import type { Step } from '../support/obedient.ts'
import type { ProviderRequest } from '../support/provider.mjs'
import { openTools } from './open-tools.ts'
import { gate, ofType, openScene, outcomesOf, type Scene, textIn } from './scene.ts'

const program = fileURLToPath(new URL('tools-server.mjs', import.meta.url))

const call = (id: string, name: string): Step => ({ tool: { id, name, input: ['{"place":', '"here"}'] } })
type Said = { role: string; content: unknown; tool_calls?: { id: string }[]; tool_call_id?: string }
const resultsIn = ({ body }: ProviderRequest) =>
  (body.messages as Said[])
    .filter(({ role }) => role === 'tool')
    .map(({ tool_call_id, content }) => [tool_call_id, content])

/** The model calls what `calls` says in its first step, and then says what it was told. */
function model(scene: Scene, calls: Step[]): void {
  scene.provider.script((request) => {
    const results = resultsIn(request)
    return results.length === 0 ? [{ text: 'Let me see.' }, ...calls] : [{ text: `Told: ${results.length}.` }]
  })
}

async function ask(scene: Scene) {
  const session = await eventually(() => scene.ann.createSession('s1'))
  const watcher = scene.ann.watch(session)
  await scene.ann.send(session, 'hi', 'm1')
  return { session, watcher }
}

const callsIn = (parts: Part[]) =>
  parts.filter(isCall).map(({ toolCallId, state, output, errorText }) => [toolCallId, state, output ?? errorText])

describe.each(['6', '7'])('AI SDK %s', (AI_MAJOR) => {
  const openTalk = async (calls: Step[], points: string[], more: Record<string, string> = {}, tools = openTools()) => {
    const scene = await openScene()
    const { runs, url } = await tools
    const env = { AI_MAJOR, TOOLS_URL: url, ...more }
    model(scene, calls)
    const dying = await scene.start({ program, points, env })
    const { session, watcher } = await ask(scene)
    return { scene, runs, env, dying, watcher, session }
  }
  const takenOver = async (calls: Step[], point: string, more: Record<string, string> = {}, tools = openTools()) => {
    const talk = await openTalk(calls, [`${point}:kill`], more, tools)
    await talk.dying.exited
    await talk.scene.start({ program, env: talk.env })
    const outcome = await talk.watcher.outcome('m1')
    await talk.watcher.close()
    expect(talk.watcher.problems).toEqual([])
    expect(outcomesOf(talk.watcher, 'm1')).toHaveLength(1)
    return { ...talk, outcome }
  }

  test('a tool runs once, and its result is told to the model and shown', async () => {
    const { runs, watcher, scene } = await openTalk([call('k1', 'look')], [])
    const outcome = await watcher.outcome('m1')
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
    expect(callsIn(outcome.data.message.parts)).toEqual([['k1', 'output-available', { of: 'look' }]])
    expect(runs.map(({ name, input }) => [name, input])).toEqual([['look', { place: 'here' }]])
    expect(runs[0]!.idempotencyKey).toMatch(/^[\w-]{32}$/)
    expect(scene.provider.requests).toHaveLength(2)
  })

  test('killed before a tool began, the step is discarded and the model is asked again', async () => {
    const { runs, scene, outcome } = await takenOver([call('k1', 'look')], 'tool.begin:1')
    expect(scene.provider.requests.map(resultsIn).map((results) => results.length)).toEqual([0, 0, 1])
    expect(runs).toHaveLength(1)
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
  })

  test.each(['tool.begun:1', 'tool.end:1'])(
    'killed at %s, an idempotent tool runs again with the same key, and the model is not asked for that step again',
    async (point) => {
      const { runs, scene, outcome, watcher } = await takenOver([call('k1', 'look')], point)
      expect(scene.provider.requests.map(resultsIn).map((results) => results.length)).toEqual([0, 1])
      expect(runs).toHaveLength(point === 'tool.end:1' ? 2 : 1)
      expect(new Set(runs.map(({ idempotencyKey }) => idempotencyKey)).size).toBe(1)
      expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
      expect(callsIn(outcome.data.message.parts)).toEqual([['k1', 'output-available', { of: 'look' }]])
      const [, second] = ofType(watcher, 'attempt.started')
      expect(callsIn(second!.data.base)).toEqual([['k1', 'input-available', undefined]])
    },
  )

  test('killed after its result was stored, a tool never runs again, and the model is told it', async () => {
    const { runs, scene, outcome, watcher } = await takenOver([call('k1', 'book')], 'tool.ended:1')
    expect(runs).toHaveLength(1)
    expect(scene.provider.requests.map(resultsIn).map((results) => results.length)).toEqual([0, 1])
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
    const [, second] = ofType(watcher, 'attempt.started')
    expect(callsIn(second!.data.base)).toEqual([['k1', 'output-available', { of: 'book' }]])
  })

  test('of two calls of a step the one that ended keeps its result, and the one of which nobody knows is decided', async () => {
    const calls = [call('k1', 'book'), call('k2', 'look')]
    const both = gate()
    const tools = openTools(async ({ name }, nth) => {
      if (nth === 2) both.open()
      await both.passed
      return { of: name }
    })
    const { runs, outcome } = await takenOver(calls, 'tool.ended:1', { UNCERTAIN: '"run"' }, tools)
    expect(callsIn(outcome.data.message.parts)).toEqual([
      ['k1', 'output-available', { of: 'book' }],
      ['k2', 'output-available', { of: 'look' }],
    ])
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 2.')
    const keys = new Map(runs.map(({ toolCallId, idempotencyKey }) => [toolCallId, idempotencyKey]))
    expect(keys.get('k1')).not.toBe(keys.get('k2'))
    expect(runs.length).toBeLessThanOrEqual(3)
  })

  test('the app decides that a call of which nobody knows whether it ran fails the turn', async () => {
    const { runs, outcome } = await takenOver([call('k1', 'book')], 'tool.end:1', { UNCERTAIN: '"fail"' })
    expect(outcome.data).toMatchObject({ code: 'tool_uncertain', canRetry: true })
    expect(runs).toHaveLength(1)
    // No JSON: the app's function throws.
    const throwing = await takenOver([call('k1', 'book')], 'tool.end:1', { UNCERTAIN: 'oh' })
    expect(throwing.outcome.data).toMatchObject({ code: 'tool_uncertain', canRetry: true })
    expect(throwing.scene.provider.requests).toHaveLength(1)
  })

  test('the app decides that it runs again, or what it answered', async () => {
    const again = await takenOver([call('k1', 'book')], 'tool.end:1', { UNCERTAIN: '"run"' })
    expect(again.runs).toHaveLength(2)
    expect(textIn(again.outcome)).toBe('Let me see.\n\nTold: 1.')
    const told = await takenOver([call('k1', 'book')], 'tool.end:1', { UNCERTAIN: '{"output":{"booked":"already"}}' })
    expect(told.runs).toHaveLength(1)
    expect(callsIn(told.outcome.data.message.parts)).toEqual([['k1', 'output-available', { booked: 'already' }]])
    expect(resultsIn(told.scene.provider.requests[1]!)).toEqual([['k1', '{"booked":"already"}']])
  })

  test('a runner that was stopped past its lease before a tool began does not run it (FP4, I3)', async () => {
    const { scene, runs, env, dying, watcher, session } = await openTalk([call('k1', 'book')], ['tool.begin:1:pause'])
    await dying.line(/^point tool.begin/)
    await scene.start({ program, env })
    // The other is of the server that stands still.
    const later = scene.ann.watch(session)
    await later.outcome('m1')
    expect(runs).toHaveLength(1)
    dying.signal('SIGCONT')
    await dying.line(/stale write refused/)
    expect(runs).toHaveLength(1)
    await later.close()
    await watcher.outcome('m1')
    expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
  })
})
