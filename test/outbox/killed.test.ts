/** A server that is killed at every point of a delivery: at least once, nothing lost, the order kept (R2.8, P247). */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { openScene, type Scene } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { type Receiver, secrets, startReceiver } from './receiver.ts'

let receiver: Receiver
beforeAll(async () => {
  receiver = await startReceiver()
})
afterAll(() => receiver.close())
beforeEach(() => {
  receiver.received.length = 0
})

const env = () => ({
  HOLDFAST_WEBHOOK_URL: receiver.url,
  HOLDFAST_WEBHOOK_SECRETS: secrets.new,
  HOLDFAST_WEBHOOK_PRIVATE: 'on',
})
const states = ({ database }: Scene) =>
  queryOnce<{ state: string; tries: number }>(database, 'select state, tries from holdfast.outbox order by n')

test.each([
  ['taken and not sent, it is sent by the next', 'outbox.taken', [1, 2, 3]],
  ['sent and not noted, it is sent again under the same id', 'outbox.called', [1, 2, 2, 3]],
  ['noted, it is not sent again', 'outbox.ended', [1, 2, 3]],
] as const)('killed with an event %s, and those behind it keep their order (P247)', async (_what, point, seqs) => {
  const scene = await openScene()
  const dying = await scene.start({ points: [`${point}:2:kill`], env: env() })
  const session = await scene.ann.createSession()
  await scene.ann.send(session, 'hi')
  await dying.exited
  // None of them is lost, and the one that it had is held until its lease ends.
  await scene.start({ env: env() })
  await eventually(async () => {
    const rows = await states(scene)
    return rows.length >= 3 && rows.every(({ state }) => state === 'done')
  })
  const sent = receiver.received.map(({ body, headers }) => [body.data.seq, headers['webhook-id']] as const)
  expect(sent.slice(0, seqs.length).map(([seq]) => seq)).toEqual(seqs)
  // In order, whatever else the reply's takeover has added.
  expect(sent.map(([seq]) => seq)).toEqual(sent.map(([seq]) => seq as number).sort((a, b) => a - b))
  expect(new Set(sent.map(([, id]) => id)).size).toBe(new Set(sent.map(([seq]) => seq)).size)
})
