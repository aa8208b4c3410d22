/** FP1: `kill -9` at the points that a plain reply does not pass: the claim, failures, checkpoints between steps. */
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import type { ServerSettings, TestServer } from '../support/server.ts'
import { ofType, openScene, outcomesOf, type Scene, type Step, textIn } from './scene.ts'

const program = fileURLToPath(new URL('steps-server.mjs', import.meta.url))
const text: Step[] = [{ text: 'Hello' }, { text: ', world' }]
const overloaded: Step[] = [{ status: 500 }]
const refused: Step[] = [{ status: 400, body: { error: { message: 'no', type: 'invalid_request_error' } } }]

/** Sends one message (again, with its id, until it is accepted), lets the first server die, starts another. */
async function dieAndEnd(scene: Scene, point: string, settings: Partial<ServerSettings> = {}) {
  const { ann, start } = scene
  const dying = await start({ ...settings, points: [point] })
  // At its third claim it may be gone before anything could be asked of it.
  const session = 's1'
  const watcher = ann.watch(session)
  const sending = eventually(() => ann.createSession(session)).then(() =>
    eventually(() => ann.send(session, 'hi', 'm1')),
  )
  await dying.exited
  expect(fired(dying)).toBe(1)
  await start(settings)
  const { reply } = await sending
  const outcome = await watcher.outcome('m1')
  const { messages, turns } = await ann.snapshot(session)
  expect(turns).toEqual([])
  expect(messages.map(({ id }) => id)).toEqual(['m1', reply.id])
  expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
  await watcher.close()
  expect(watcher.problems).toEqual([])
  return { outcome, watcher }
}

const fired = ({ lines }: TestServer) => lines.filter((line) => line.startsWith('point ')).length

test.each(['claim.send:3:kill', 'claim.answered:3:kill', 'attempt.reply:1:kill', 'append.send:1:kill'])(
  'at %s the message completes after a restart (I1, I2)',
  async (point) => {
    const scene = await openScene()
    scene.provider.script(text)
    const { outcome } = await dieAndEnd(scene, point)
    expect(textIn(outcome)).toBe('Hello, world')
  },
)

test.each(['requeue.send:1:kill', 'requeue.answered:1:kill'])(
  'at %s a reply that the provider failed once is asked for again after a restart (I2)',
  async (point) => {
    const scene = await openScene()
    scene.provider.script(({ index }) => (index === 0 ? overloaded : text))
    const { outcome, watcher } = await dieAndEnd(scene, point)
    expect(textIn(outcome)).toBe('Hello, world')
    expect(scene.provider.requests).toHaveLength(2)
    // Before the requeue was stored it is the crash that ends the attempt.
    const reason = point.startsWith('requeue.send') ? 'crashed' : 'error'
    expect(ofType(watcher, 'attempt.ended').map(({ data }) => data.reason)).toEqual([reason])
  },
)

test.each([
  ['fail.send:1:kill', 2],
  ['fail.answered:1:kill', 1],
])('at %s a reply that the provider refuses fails after a restart, once (I2)', async (point, requests) => {
  const scene = await openScene()
  scene.provider.script(refused)
  const { outcome } = await dieAndEnd(scene, point)
  expect(outcome).toMatchObject({ type: 'message.error', data: { userMessageId: 'm1', code: 'provider_rejected' } })
  expect(scene.provider.requests).toHaveLength(requests)
})

test.each([
  // What the app said of the finished reply is nowhere, and it says it again of the takeover's.
  ['finish.send:1:kill', '[1:0][1:1][2:2]', 2],
  ['finish.answered:1:kill', '[1:0][1:1][1:2]', 1],
])(
  'at %s the app’s metadata is that of the attempt whose reply is stored (R0.3, I2)',
  async (point, reply, endedBy) => {
    const scene = await openScene()
    const { outcome } = await dieAndEnd(scene, point, { program })
    expect({ text: textIn(outcome).replaceAll('\n', ''), endedBy: outcome.data.endedBy }).toEqual({
      text: reply,
      endedBy,
    })
    expect(outcome.data.message.metadata).toEqual({ endedBy })
  },
)

test.each([
  // The first step's end was not stored yet: it is discarded and written again.
  ['checkpoint.send:1:kill', '[2:0][2:1][2:2]', ['0', '0', '1', '2']],
  ['checkpoint.answered:1:kill', '[1:0][2:1][2:2]', ['0', '1', '2']],
  ['checkpoint.send:2:kill', '[1:0][2:1][2:2]', ['0', '1', '1', '2']],
  ['checkpoint.answered:2:kill', '[1:0][1:1][2:2]', ['0', '1', '2']],
])('at %s a takeover goes on from the last finished step', async (point, reply, steps) => {
  const scene = await openScene()
  const { outcome, watcher } = await dieAndEnd(scene, point, { program })
  expect(textIn(outcome).replaceAll('\n', '')).toBe(reply)
  expect(scene.provider.requests.map(({ body }) => String(body.step))).toEqual(steps)
  const bases = ofType(watcher, 'attempt.started').map(({ data }) => data.base.length > 0)
  expect(bases).toEqual([false, !point.startsWith('checkpoint.send:1')])
})
