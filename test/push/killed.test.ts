/** A server that is killed around the call to the service, and before the notice is due (I14, FX2). */
import { expect, onTestFinished, test } from 'vitest'
import { expoPush } from '../../src/adapters/expo.ts'
import { createHoldfast } from '../../src/index.ts'
import { openScene, type Scene } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import type { TestServer } from '../support/server.ts'
import { type ExpoStub, startExpo } from './stubs.ts'

// One for the file: Expo's library takes its address once.
const expo: ExpoStub = await startExpo()
const env = { EXPO_BASE_URL: expo.url, HOLDFAST_PUSH_GRACE_MS: '0' }

type Killed = Scene & { server: TestServer; session: string }

/** Ann, with a device, and a server that dies at this moment. */
async function openKilled(points: string[], graceMs = '0'): Promise<Killed> {
  expo.messages.length = 0
  const scene = await openScene()
  const server = await scene.start({ points, env: { ...env, HOLDFAST_PUSH_GRACE_MS: graceMs } })
  const body = JSON.stringify({ kind: 'expo', token: 'ExponentPushToken[ann]' })
  expect((await scene.ann.request('/v1/devices', { method: 'POST', body })).status).toBe(201)
  return { ...scene, server, session: await scene.ann.createSession() }
}

/** Another process on the same database, in the test's own. Until it is closed the database stays. */
async function startOther({ database }: Scene, resend = false): Promise<void> {
  const chat = createHoldfast({
    database,
    roles: ['runner'],
    pollMs: 100,
    pushGraceMs: 0,
    push: { expo: expoPush({ baseUrl: expo.url }), resend, receiptsAfterMs: 150 },
    reply: () => 'never asked',
    log: () => undefined,
  })
  onTestFinished(() => chat.close())
  await chat.start()
}

const states = ({ database }: Scene) =>
  queryOnce<{ state: string; tries: number }>(database, 'select state, tries from holdfast.pushes')

/** As if its sender had been gone for so long. */
const giveUp = ({ database }: Scene) =>
  queryOnce(database, `update holdfast.pushes set due_at = now() where state = 'sending'`)

const state = (scene: Scene, wanted: string) =>
  eventually(async () => (await states(scene)).map((row) => row.state).join() === wanted)

test('what is due is sent by another process when the one that ended the reply was killed in the grace (I14)', async () => {
  const scene = await openKilled([], '1500')
  await scene.ann.send(scene.session, 'hi')
  await state(scene, 'due')
  await scene.server.kill()
  expect(expo.messages).toEqual([])
  await startOther(scene)
  await state(scene, 'sent')
  expect(expo.messages).toHaveLength(1)
})

test.each([
  ['before the call it is not sent', 'push.taken', 0, false],
  ['after the call it is not sent again', 'push.called', 1, false],
  ['after the call, with resend, it is sent again with the same collapse id', 'push.called', 2, true],
] as const)('killed between sending and sent, %s (I14, P193)', async (_what, point, sent, resend) => {
  const scene = await openKilled([`${point}:1:kill`])
  await scene.ann.send(scene.session, 'hi')
  await scene.server.exited
  expect(await states(scene)).toEqual([{ state: 'sending', tries: 1 }])
  await giveUp(scene)
  await startOther(scene, resend)
  await state(scene, resend ? 'sent' : 'unknown')
  expect(expo.messages).toHaveLength(sent)
  expect(new Set(expo.messages.map(({ collapseId }) => collapseId)).size).toBe(Math.min(1, sent))
})
