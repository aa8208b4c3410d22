/** FP1 around the question about a budget: it is asked once, and what was let go on goes on from there (I1, I3, I9, P117). */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { answer, call, callsIn, modelOf, partsIn, waits } from '../control/asking.ts'
import { eventually } from '../support/eventually.ts'
import { openTools } from './open-tools.ts'
import { ofType, openScene, outcomesOf, textIn } from './scene.ts'

const program = fileURLToPath(new URL('tools-server.mjs', import.meta.url))
const runner = { HOLDFAST_ROLES: 'runner' }
const steps = ['k1', 'k2', 'k3', 'k4'].map((id) => [call(id, 'book')])

describe.each(['6', '7'])('AI SDK %s', (AI_MAJOR) => {
  /** Of a reply of five steps, which may have two without asking. One process answers, another runs and has the points. */
  const open = async (points: string[]) => {
    const scene = await openScene()
    const tools = await openTools()
    scene.provider.script(modelOf(steps))
    const env = { AI_MAJOR, TOOLS_URL: tools.url, STEPS_MAX: '2' }
    await scene.start({ program, env: { ...env, HOLDFAST_ROLES: 'http' } })
    const dying = await scene.start({ program, points, env: { ...env, ...runner } })
    const session = await scene.ann.createSession()
    const watcher = scene.ann.watch(session)
    await scene.ann.send(session, 'hi', 'm1')
    const next = () => scene.start({ program, env: { ...env, ...runner } })
    const letGoOn = async (nth: number) => {
      const { data } = await waits(watcher, nth)
      expect(data.turn.approvals).toMatchObject([{ kind: 'budget', budget: 'steps', used: 2, max: 2 }])
      const said = await answer(scene.ann, session, 'approvals', data.turn.approvals[0].id, { approved: true })
      expect(said.status).toBe(200)
    }
    const ended = async () => {
      const outcome = await watcher.outcome('m1')
      expect(callsIn(partsIn(outcome))).toEqual(
        steps.map((_, at) => [`k${at + 1}`, 'output-available', { of: 'book' }]),
      )
      expect(textIn(outcome).endsWith('Told: 4.')).toBe(true)
      expect(tools.runs.map(({ toolCallId }) => toolCallId)).toEqual(['k1', 'k2', 'k3', 'k4'])
      expect(ofType(watcher, 'turn.waiting')).toHaveLength(2)
      expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
      expect(watcher.problems).toEqual([])
    }
    return { ...scene, dying, watcher, next, letGoOn, ended }
  }

  test.each([
    // Its steps are stored, its question is not: the next one asks it, and does not ask the model.
    ['wait.send:1', 0],
    // Nobody takes anything over.
    ['wait.answered:1', 0],
    // After the answer: what was let go on has its two steps more, whoever runs them.
    ['claim.taken:2', 0],
    ['attempt.reply:2', 0],
    ['tool.ended:3', 0],
    ['wait.send:2', 0],
    // What it has begun to say of the next step is discarded, as in any takeover.
    ['checkpoint.answered:2', 1],
  ])(
    'killed at %s it asks as it would have, no tool runs again, and of the model no finished step is asked again',
    async (point, more) => {
      const { dying, next, letGoOn, ended, provider } = await open([`${point}:kill`])
      if (point.endsWith(':1')) {
        await dying.exited
        await next()
        await letGoOn(1)
      } else {
        await letGoOn(1)
        await dying.exited
        await next()
      }
      await letGoOn(2)
      await ended()
      expect(provider.requests.length).toBe(5 + more)
    },
  )
})

test.each(['answer.send:1', 'answer.answered:1'])(
  'the process that takes the yes is killed at %s: said again to another one it counts once (I10)',
  async (point) => {
    const scene = await openScene()
    const tools = await openTools()
    scene.provider.script(modelOf(steps.slice(0, 3)))
    const env = { AI_MAJOR: '7', TOOLS_URL: tools.url, STEPS_MAX: '2' }
    const dying = await scene.start({ program, points: [`${point}:kill`], env })
    const session = await scene.ann.createSession()
    const watcher = scene.ann.watch(session)
    await scene.ann.send(session, 'hi', 'm1')
    const { data } = await waits(watcher)
    const say = () => answer(scene.ann, session, 'approvals', data.turn.approvals[0].id, { approved: true })
    await expect(say()).rejects.toThrow()
    await dying.exited
    await scene.start({ program, env })
    expect((await eventually(say)).status).toBe(200)
    await watcher.outcome('m1')
    expect(ofType(watcher, 'approval.answered')).toHaveLength(1)
    expect(tools.runs).toHaveLength(3)
    expect(watcher.problems).toEqual([])
  },
)
