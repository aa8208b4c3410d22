/** FP1 around a wait and its answer: what was asked stays asked, what was answered stays answered, nothing runs twice (I1, I3, I9). */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { answer, call, callsIn, modelOf, partsIn, waits } from '../control/asking.ts'
import { eventually } from '../support/eventually.ts'
import type { Step } from '../support/obedient.ts'
import { openTools } from './open-tools.ts'
import { ofType, openScene, outcomesOf, textIn } from './scene.ts'

const program = fileURLToPath(new URL('tools-server.mjs', import.meta.url))
const runs = { HOLDFAST_ROLES: 'runner' }

describe.each(['6', '7'])('AI SDK %s', (AI_MAJOR) => {
  /** One process answers requests, and of those that run the first has the points. */
  const open = async (step: Step[], points: string[], more: Record<string, string> = {}) => {
    const scene = await openScene()
    const tools = await openTools()
    scene.provider.script(modelOf([step]))
    const env = { AI_MAJOR, TOOLS_URL: tools.url, ...more }
    await scene.start({ program, env: { ...env, HOLDFAST_ROLES: 'http' } })
    const dying = await scene.start({ program, points, env: { ...env, ...runs } })
    const session = await scene.ann.createSession()
    const watcher = scene.ann.watch(session)
    await scene.ann.send(session, 'hi', 'm1')
    const next = () => scene.start({ program, env: { ...env, ...runs } })
    const approve = async (nth = 1) => {
      const { data } = await waits(watcher, nth)
      return await answer(scene.ann, session, 'approvals', data.turn.approvals[0].id, { approved: true })
    }
    const ended = async () => {
      const outcome = await watcher.outcome('m1')
      expect(watcher.problems).toEqual([])
      expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
      return outcome
    }
    return { ...scene, runs: tools.runs, dying, session, watcher, next, approve, ended }
  }

  test('killed before its questions were stored, the model is not asked again: what it asked is', async () => {
    const { dying, next, approve, ended, provider, runs, watcher } = await open(
      [call('k1', 'order')],
      ['wait.send:1:kill'],
    )
    await dying.exited
    expect(ofType(watcher, 'turn.waiting')).toEqual([])
    await next()
    expect((await approve()).status).toBe(200)
    const outcome = await ended()
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
    expect(provider.requests).toHaveLength(2)
    expect(runs).toHaveLength(1)
    expect(ofType(watcher, 'turn.waiting')).toHaveLength(1)
  })

  test('killed right after, nobody takes anything over, and another process goes on when it is answered', async () => {
    const { dying, next, approve, ended, provider, runs, watcher } = await open(
      [call('k1', 'order')],
      ['wait.answered:1:kill'],
    )
    await dying.exited
    await next()
    expect((await approve()).status).toBe(200)
    await ended()
    expect(ofType(watcher, 'attempt.ended')).toEqual([])
    expect(ofType(watcher, 'attempt.started')).toHaveLength(2)
    expect(provider.requests).toHaveLength(2)
    expect(runs).toHaveLength(1)
  })

  // Chunk 8 is the call, 9 its question, 10 the end of the reply. The second append is the first that may hold the call.
  const beforeAsked = ['attempt.chunk:8', 'attempt.chunk:9', 'append.send:2', 'append.answered:2', 'checkpoint.send:1']
  const asking = ['checkpoint.answered:1', 'attempt.chunk:10', 'wait.send:1', 'wait.answered:1']
  // Beside a call that runs the step is kept, also where the question has not been heard yet.
  const besideAnother = ['tool.begun:1', 'tool.end:1', 'tool.ended:1']
  test.each([
    ...[...beforeAsked, ...asking].map((point) => [point, [call('k1', 'order')]] as const),
    ...besideAnother.map((point) => [point, [call('k0', 'look'), call('k1', 'order')]] as const),
  ])('killed at %s, a call whose tool needs approval never runs unasked after the takeover', async (point, step) => {
    const { dying, next, approve, ended, runs, watcher } = await open([...step], [`${point}:kill`])
    const orders = () => runs.filter(({ name }) => name === 'order')
    await dying.exited
    await next()
    await waits(watcher)
    expect(orders()).toEqual([])
    expect((await approve()).status).toBe(200)
    expect(callsIn(partsIn(await ended())).at(-1)).toEqual(['k1', 'output-available', { of: 'order' }])
    expect(orders()).toHaveLength(1)
    expect(ofType(watcher, 'turn.waiting')).toHaveLength(1)
  })

  test.each([
    ['tool.begin:1', 1],
    ['tool.ended:1', 1],
  ])('killed at %s of an approved call, it runs once, and nobody is asked again', async (point, times) => {
    const { dying, next, approve, ended, runs, watcher, provider } = await open(
      [call('k1', 'order')],
      [`${point}:kill`],
    )
    expect((await approve()).status).toBe(200)
    await dying.exited
    await next()
    const outcome = await ended()
    expect(callsIn(partsIn(outcome))).toEqual([['k1', 'output-available', { of: 'order' }]])
    expect(runs).toHaveLength(times)
    expect(ofType(watcher, 'turn.waiting')).toHaveLength(1)
    expect(provider.requests).toHaveLength(2)
  })

  test('killed while an approved call ran, nobody knows whether it did: the app decides', async () => {
    const lost = await open([call('k1', 'order')], ['tool.end:1:kill'], { UNCERTAIN: '"fail"' })
    await lost.approve()
    await lost.dying.exited
    await lost.next()
    expect((await lost.ended()).data).toMatchObject({ code: 'tool_uncertain' })
    expect(lost.runs).toHaveLength(1)
    const again = await open([call('k1', 'order')], ['tool.end:1:kill'], { UNCERTAIN: '"run"' })
    await again.approve()
    await again.dying.exited
    await again.next()
    expect(textIn(await again.ended())).toBe('Let me see.\n\nTold: 1.')
    expect(again.runs).toHaveLength(2)
    expect(new Set(again.runs.map(({ idempotencyKey }) => idempotencyKey)).size).toBe(1)
  })

  test('killed while a call ran beside a question, it is asked first, and then both run before the model goes on', async () => {
    const step = [call('k1', 'order'), call('k2', 'where'), call('k3', 'look')]
    const { dying, next, session, ann, watcher, ended, runs, provider } = await open(step, ['tool.end:1:kill'])
    await dying.exited
    await next()
    const { data } = await waits(watcher)
    expect(callsIn(partsIn(await waits(watcher)))).toEqual([
      ['k1', 'approval-requested'],
      ['k2', 'input-available'],
      ['k3', 'input-available'],
    ])
    expect(data.turn.toolCalls.map(({ toolCallId }: { toolCallId: string }) => toolCallId)).toEqual(['k2'])
    const [{ id }] = data.turn.approvals
    expect((await answer(ann, session, 'approvals', id, { approved: true })).status).toBe(200)
    expect((await answer(ann, session, 'tool-results', 'k2', { output: 'home' })).status).toBe(200)
    expect(callsIn(partsIn(await ended()))).toEqual([
      ['k1', 'output-available', { of: 'order' }],
      ['k2', 'output-available', 'home'],
      ['k3', 'output-available', { of: 'look' }],
    ])
    expect(runs.filter(({ name }) => name === 'order')).toHaveLength(1)
    expect(new Set(runs.filter(({ name }) => name === 'look').map(({ idempotencyKey }) => idempotencyKey)).size).toBe(1)
    expect(provider.requests).toHaveLength(2)
  })

  test.each(['answer.send:1', 'answer.answered:1'])(
    'the process that takes an answer is killed at %s: said again to another one it counts once (I10)',
    async (point) => {
      const scene = await openScene()
      const tools = await openTools()
      scene.provider.script(modelOf([[call('k1', 'order')]]))
      const env = { AI_MAJOR, TOOLS_URL: tools.url }
      const dying = await scene.start({ program, points: [`${point}:kill`], env })
      const session = await scene.ann.createSession()
      const watcher = scene.ann.watch(session)
      await scene.ann.send(session, 'hi', 'm1')
      const { data } = await waits(watcher)
      const say = () => answer(scene.ann, session, 'approvals', data.turn.approvals[0].id, { approved: true })
      await expect(say()).rejects.toThrow()
      await dying.exited
      await scene.start({ program, env })
      const said = await eventually(say)
      expect(said.status).toBe(200)
      expect(textIn(await watcher.outcome('m1'))).toBe('Let me see.\n\nTold: 1.')
      expect(ofType(watcher, 'approval.answered')).toHaveLength(1)
      expect(tools.runs).toHaveLength(1)
      expect(watcher.problems).toEqual([])
    },
  )
})
