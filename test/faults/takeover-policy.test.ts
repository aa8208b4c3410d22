/** FP1 with each `takeover`: what the operator wants of a reply whose process was killed (I2, I9). */
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { call, callsIn, modelOf, partsIn } from '../control/asking.ts'
import { eventually } from '../support/eventually.ts'
import type { Provider } from '../support/provider.mjs'
import { openTools } from './open-tools.ts'
import { gate, ofType, openScene, outcomesOf, pieces, slowly, textIn } from './scene.ts'

type Script = Parameters<Provider['script']>[0]

const steps = fileURLToPath(new URL('steps-server.mjs', import.meta.url))
const tools = fileURLToPath(new URL('tools-server.mjs', import.meta.url))
const http = { HOLDFAST_ROLES: 'http' }
const runner = { HOLDFAST_ROLES: 'runner' }

/** The replies of steps-server.mjs, whose steps each say which attempt wrote them. */
async function ofSteps(takeover: string, points: string[], more: Record<string, string> = {}, script?: Script) {
  const scene = await openScene()
  if (script) scene.provider.script(script)
  const env = { ...runner, HOLDFAST_TAKEOVER: takeover, ...more }
  await scene.start({ env: http })
  const first = await scene.start({ program: steps, points, env })
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  await scene.ann.send(session, 'hi', 'm1')
  const next = () => scene.start({ program: steps, env })
  const ended = async () => {
    const outcome = await watcher.outcome('m1')
    expect(watcher.problems).toEqual([])
    expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
    return outcome
  }
  return { ...scene, first, session, watcher, next, ended }
}

test.each([
  ['continue', '[1:0][1:1][2:2]', 2],
  ['restart', '[2:0][2:1][2:2]', 0],
])('killed after two steps, by %s it says %s, seen live', async (takeover, said, kept) => {
  const { first, next, ended, watcher } = await ofSteps(takeover, ['checkpoint.answered:2:kill'])
  await first.exited
  await next()
  expect(textIn(await ended()).replaceAll('\n\n', '')).toBe(said)
  const base = ofType(watcher, 'attempt.started').at(-1)!.data.base as { type: string }[]
  expect(base.filter(({ type }) => type === 'step-start')).toHaveLength(kept)
})

test('killed, by fail it has failed as crashed with what was stored, no model is asked again, and a person may retry', async () => {
  const { first, next, ended, provider, ann, session, watcher } = await ofSteps('fail', ['checkpoint.answered:2:kill'])
  await first.exited
  const asked = provider.requests.length
  await next()
  const outcome = await ended()
  expect(outcome.data).toMatchObject({ code: 'crashed', canRetry: true, message: { status: 'failed' } })
  expect(textIn(outcome).replaceAll('\n\n', '')).toBe('[1:0][1:1]')
  expect(provider.requests).toHaveLength(asked)
  await ann.command(session, 'm1', 'retry', { round: 1 })
  const again = await watcher.until(({ type }) => type === 'message.ai_response')
  expect(textIn(again).replaceAll('\n\n', '')).toBe('[3:0][3:1][3:2]')
})

test('a process that ends in order hands over whatever takeover says, and the finished steps are kept', async () => {
  const { passed } = gate()
  const { first, next, ended, watcher, provider } = await ofSteps(
    'fail',
    [],
    { HOLDFAST_DRAIN_MS: '0', HOLDFAST_LEASE_MS: '20000' },
    ({ index }) => (index === 1 ? [{ wait: passed }] : [{ text: 'ok' }]),
  )
  await eventually(async () => provider.requests.length === 2)
  first.signal('SIGTERM')
  await first.exited
  await next()
  expect(textIn(await ended()).replaceAll('\n\n', '')).toBe('[1:0][2:1][2:2]')
  expect(ofType(watcher, 'attempt.ended').map(({ data }) => data.reason)).toEqual(['handover'])
})

test.each(['6', '7'])(
  'AI SDK %s: by restart a reply begins anew until a tool has begun, and goes on from then',
  async (AI_MAJOR) => {
    const takenOver = async (point: string) => {
      const scene = await openScene()
      const { runs, url } = await openTools()
      scene.provider.script(modelOf([[call('k1', 'book')]]))
      const env = { AI_MAJOR, TOOLS_URL: url, TAKEOVER: 'restart' }
      const dying = await scene.start({ program: tools, points: [`${point}:kill`], env })
      const session = await scene.ann.createSession()
      const watcher = scene.ann.watch(session)
      await scene.ann.send(session, 'hi', 'm1')
      await dying.exited
      await scene.start({ program: tools, env })
      const outcome = await watcher.outcome('m1')
      expect(callsIn(partsIn(outcome))).toEqual([['k1', 'output-available', { of: 'book' }]])
      expect(runs).toHaveLength(1)
      return { base: ofType(watcher, 'attempt.started').at(-1)!.data.base, asked: scene.provider.requests.length }
    }
    expect(await takenOver('tool.begin:1')).toEqual({ base: [], asked: 3 })
    const on = await takenOver('tool.ended:1')
    expect(callsIn(on.base)).toEqual([['k1', 'output-available', { of: 'book' }]])
  },
)

test('holdfast serve takes it from the environment (HOLDFAST_TAKEOVER)', async () => {
  const scene = await openScene()
  const { passed } = gate()
  scene.provider.script(({ index }) => [...slowly(pieces(index, 60)), { wait: passed }])
  await scene.start({ env: http })
  const first = await scene.start({ env: { ...runner, HOLDFAST_TAKEOVER: 'fail' } })
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  const { reply } = await scene.ann.send(session, 'hi', 'm1')
  await watcher.until(() => watcher.text(reply.id)?.endsWith('r0.59 ') ?? false)
  await scene.start({ env: { ...runner, HOLDFAST_TAKEOVER: 'fail' } })
  await first.kill()
  expect((await watcher.outcome('m1')).data).toMatchObject({ code: 'crashed' })
  expect(scene.provider.requests).toHaveLength(1)
})
