/** FP1 around a call of which nobody knows whether it ran: a person is asked, and without their word it never runs again (I3, I9). */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { answer, call, callsIn, modelOf, partsIn, resultsIn, waits } from '../control/asking.ts'
import type { Step } from '../support/obedient.ts'
import { openTools } from './open-tools.ts'
import { ofType, openScene, outcomesOf, textIn } from './scene.ts'

const program = fileURLToPath(new URL('tools-server.mjs', import.meta.url))
const runs = { HOLDFAST_ROLES: 'runner' }
const unknown = 'Interrupted: it is not known whether it ran.'

describe.each(['6', '7'])('AI SDK %s', (AI_MAJOR) => {
  /** One process answers requests; of those that run each is killed at its points, until the next is started. */
  const open = async (step: Step[], points: string[], more: Record<string, string> = {}) => {
    const scene = await openScene()
    const tools = await openTools()
    scene.provider.script(modelOf([step]))
    const env = { AI_MAJOR, TOOLS_URL: tools.url, ...more }
    await scene.start({ program, env: { ...env, HOLDFAST_ROLES: 'http' } })
    const start = (at: string[]) => scene.start({ program, points: at, env: { ...env, ...runs } })
    const first = await start(points)
    const session = await scene.ann.createSession()
    const watcher = scene.ann.watch(session)
    await scene.ann.send(session, 'hi', 'm1')
    const asked = async (nth = 1) => (await waits(watcher, nth)).data.turn
    const say = async (id: string, body: object) => await answer(scene.ann, session, 'approvals', id, body)
    const ended = async () => {
      const outcome = await watcher.outcome('m1')
      expect(watcher.problems).toEqual([])
      expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
      return outcome
    }
    return { ...scene, runs: tools.runs, first, start, session, watcher, asked, say, ended }
  }

  test.each(['tool.begun:1', 'tool.end:1'])(
    'killed at %s, the reply waits for a person: approved, the call runs again with its key, and the model goes on',
    async (point) => {
      const { first, start, asked, say, ended, runs, provider, watcher } = await open(
        [call('k1', 'book')],
        [`${point}:kill`],
      )
      await first.exited
      const ran = point === 'tool.end:1' ? 1 : 0
      await start([])
      const turn = await asked()
      expect(turn).toMatchObject({
        state: 'waiting',
        waitingFor: 'uncertain',
        approvals: [{ kind: 'uncertain', toolCallId: 'k1', toolName: 'book' }],
        toolCalls: [],
      })
      expect(callsIn(partsIn(await waits(watcher)))).toEqual([['k1', 'approval-requested']])
      expect(runs).toHaveLength(ran)
      expect((await say(turn.approvals[0].id, { approved: true })).status).toBe(200)
      expect(ofType(watcher, 'approval.answered').map(({ data }) => data.kind)).toEqual(['uncertain'])
      const outcome = await ended()
      expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
      expect(callsIn(partsIn(outcome))).toEqual([['k1', 'output-available', { of: 'book' }]])
      expect(runs).toHaveLength(ran + 1)
      expect(new Set(runs.map(({ idempotencyKey }) => idempotencyKey)).size).toBe(1)
      expect(provider.requests).toHaveLength(2)
    },
  )

  test('refused, it does not run, and the model is told that nobody knows, with what the person says', async () => {
    const { first, start, asked, say, ended, runs, provider } = await open([call('k1', 'book')], ['tool.end:1:kill'])
    await first.exited
    await start([])
    const [{ id }] = (await asked()).approvals
    expect((await say(id, { approved: false, reason: 'Number 42 is booked.' })).status).toBe(200)
    const outcome = await ended()
    const told = `${unknown} Number 42 is booked.`
    expect(callsIn(partsIn(outcome))).toEqual([['k1', 'output-error', told]])
    expect(partsIn(outcome).find(({ toolCallId }) => toolCallId === 'k1')).not.toHaveProperty('approval')
    expect(JSON.stringify(resultsIn(provider.requests[1]!))).toContain(told)
    expect(runs).toHaveLength(1)
  })

  test('killed while it ran again, a person is asked once more: one word is for one run', async () => {
    const { first, start, asked, say, ended, runs, watcher } = await open([call('k1', 'book')], ['tool.end:1:kill'])
    await first.exited
    const second = await start(['tool.end:1:kill'])
    const [one] = (await asked(1)).approvals
    await say(one.id, { approved: true })
    await second.exited
    await start([])
    const [two] = (await asked(2)).approvals
    expect(two.id).not.toBe(one.id)
    expect(runs).toHaveLength(2)
    expect((await say(one.id, { approved: true })).status).toBe(200)
    expect((await say(one.id, { approved: false })).status).toBe(409)
    await say(two.id, { approved: false })
    expect(callsIn(partsIn(await ended()))).toEqual([['k1', 'output-error', unknown]])
    expect(runs).toHaveLength(2)
    expect(ofType(watcher, 'turn.waiting')).toHaveLength(2)
  })

  test.each(['tool.begin:1', 'tool.ended:1'])(
    'killed at %s after the word, it runs once for it, and nobody is asked again',
    async (point) => {
      const { first, start, asked, say, ended, runs, watcher } = await open([call('k1', 'book')], ['tool.end:1:kill'])
      await first.exited
      const second = await start([`${point}:kill`])
      await say((await asked()).approvals[0].id, { approved: true })
      await second.exited
      await start([])
      expect(callsIn(partsIn(await ended()))).toEqual([['k1', 'output-available', { of: 'book' }]])
      expect(runs).toHaveLength(2)
      expect(ofType(watcher, 'turn.waiting')).toHaveLength(1)
    },
  )

  test.each(['wait.send:1', 'wait.answered:1'])('killed at %s of the question, it is asked once', async (point) => {
    const { first, start, asked, say, ended, runs, watcher } = await open([call('k1', 'book')], ['tool.end:1:kill'])
    await first.exited
    const second = await start([`${point}:kill`])
    await second.exited
    await start([])
    await say((await asked()).approvals[0].id, { approved: true })
    await ended()
    expect(runs).toHaveLength(2)
    expect(ofType(watcher, 'turn.waiting')).toHaveLength(1)
  })

  test('an approved call that was cut off is asked about again as uncertain, and refused it does not run', async () => {
    const { first, start, asked, say, ended, runs } = await open([call('k1', 'order')], ['tool.end:1:kill'])
    const [approval] = (await asked(1)).approvals
    expect(approval.kind).toBe('approval')
    await say(approval.id, { approved: true })
    await first.exited
    await start([])
    const [uncertain] = (await asked(2)).approvals
    expect(uncertain.kind).toBe('uncertain')
    await say(uncertain.id, { approved: false })
    expect(callsIn(partsIn(await ended()))).toEqual([['k1', 'output-error', unknown]])
    expect(runs).toHaveLength(1)
  })

  test('of several all that are uncertain are asked about at once, and what is idempotent or had not begun waits with them', async () => {
    const { ann, first, start, asked, say, ended, runs, session } = await open(
      [call('k1', 'book'), call('k2', 'book'), call('k3', 'look')],
      ['tool.end:1:kill'],
      { UNCERTAIN: '"ask"' },
    )
    await first.exited
    const before = runs.length
    await start([])
    const { approvals } = await asked()
    expect(runs).toHaveLength(before)
    const ids = approvals.map(({ toolCallId }: { toolCallId: string }) => toolCallId)
    expect(ids.length).toBeGreaterThan(0)
    expect(ids).not.toContain('k3')
    for (const { id } of approvals) await say(id, { approved: false })
    const outcome = await ended()
    for (const [id, state] of callsIn(partsIn(outcome)) as [string, string][]) {
      expect(state).toBe(ids.includes(id) ? 'output-error' : 'output-available')
    }
    expect((await ann.snapshot(session)).turns).toEqual([])
  })
})
