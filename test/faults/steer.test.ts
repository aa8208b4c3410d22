/** FP1, FP4, FD2 between two steps, where a message is handed to the reply that is being written. */
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import type { Watcher } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { dropAnswerAfter, startProxy } from '../support/proxy.ts'
import { gate, ofType, openScene, outcomesOf, type Scene, textIn } from './scene.ts'

const program = fileURLToPath(new URL('steps-server.mjs', import.meta.url))

/** Two messages, the second sent to steer while the first step of the first one's reply waits for `goOn`. */
async function sendTwo(scene: Scene, afterFirst: () => Promise<unknown> = async () => undefined) {
  const { ann, provider } = scene
  const first = gate()
  provider.script(({ index }) => (index === 0 ? [{ wait: first.passed }, { text: 'ok' }] : [{ text: 'ok' }]))
  const session = await eventually(() => ann.createSession('s1'))
  const asked = provider.nextRequest()
  const { reply } = await ann.send(session, 'hi', 'm1')
  await asked
  await afterFirst()
  const watcher = ann.watch(session)
  await ann.send(session, 'and this', 'm2', { whenBusy: 'steer' })
  return { session, watcher, replyId: reply.id, goOn: first.open }
}

/** Of both messages, and what each step was told that was run by the attempt which ended the reply. */
async function expectHandedOnce({ provider }: Scene, watcher: Watcher, replyId: string): Promise<string[][]> {
  const outcome = await watcher.outcome('m1')
  await watcher.outcome('m2')
  expect(outcomesOf(watcher, 'm1').map(({ type }) => type)).toEqual(['message.ai_response'])
  expect(outcomesOf(watcher, 'm2').map(({ data }) => [data.reason, data.replyId])).toEqual([['steered', replyId]])
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(textIn(outcome).replaceAll(/[^:\]]*:/g, '')).toBe('0]1]2]')
  return provider.requests.filter(({ body }) => body.attempt === outcome.data.endedBy).map(({ body }) => body.history)
}

const whole = ['user: hi', 'user: and this']

test.each([
  // Nothing was handed over, and the first step was not kept: it is told at the same border as before.
  ['steer.send:1:kill', [['user: hi'], whole, whole]],
  // It was, and its message has no turn of its own any more: each step of the new attempt is told.
  ['steer.answered:1:kill', [whole, whole, whole]],
  ['checkpoint.send:1:kill', [whole, whole, whole]],
  // The first step is kept, which was not told; then the second, which was.
  ['checkpoint.answered:1:kill', Array(2).fill(['user: hi', 'assistant: [1:0]', 'user: and this'])],
  ['checkpoint.answered:2:kill', [['user: hi', 'user: and this', 'assistant: [1:0][1:1]']]],
])('at %s what was sent to steer is told once to each step that follows (FP1, I2, I13)', async (point, prompts) => {
  const scene = await openScene()
  const dying = await scene.start({ program, points: [point] })
  const { watcher, replyId, goOn } = await sendTwo(scene)
  goOn()
  await dying.exited
  await scene.start({ program })
  expect(await expectHandedOnce(scene, watcher, replyId)).toEqual(prompts)
  expect(ofType(watcher, 'attempt.started')).toHaveLength(2)
})

test('a runner that was stopped past its lease when it had taken a message changes nothing when it goes on (FP4, I3, I13)', async () => {
  const scene = await openScene()
  const paused = await scene.start({ program, points: ['steer.answered:1:pause'] })
  const { watcher, replyId, goOn } = await sendTwo(scene, () => scene.start({ program }))
  goOn()
  await paused.line(/^point steer.answered/)
  await watcher.outcome('m1')
  paused.signal('SIGCONT')
  await paused.line(/stale write refused/)
  expect(await expectHandedOnce(scene, watcher, replyId)).toEqual([whole, whole, whole])
})

test('a message whose handing over was answered to nobody is asked for again and told once (FD2, I2, I13)', async () => {
  const scene = await openScene()
  const target = new URL(scene.database)
  const proxy = await startProxy({ target: { host: target.hostname, port: Number(target.port) } })
  onTestFinished(() => proxy.close())
  target.hostname = proxy.host
  target.port = String(proxy.port)
  await scene.start({ program, database: target.href })
  const { watcher, replyId, goOn } = await sendTwo(scene)
  const lost = dropAnswerAfter(proxy, (bytes) => bytes.includes('\0take-steering\0'))
  goOn()
  await lost
  expect(await expectHandedOnce(scene, watcher, replyId)).toEqual([['user: hi'], whole, whole])
  expect(ofType(watcher, 'attempt.started')).toHaveLength(1)
})
