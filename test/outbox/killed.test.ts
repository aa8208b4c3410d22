/** A server that is killed at every point of a delivery or a job, or stands still: at least once, nothing lost, the order kept (R2.8, P242, P247). */
import type { ServerResponse } from 'node:http'
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

const program = new URL('jobs-main.mjs', import.meta.url).pathname
const ofJobs = (points: string[] = []) => ({ program, points, env: { RECEIVER_URL: receiver.url } })
const addThree = ({ database }: Scene) =>
  queryOnce(database, `select holdfast.outbox_add('sync', to_json(i), 'k') from generate_series(1, 3) i`)
const allDone = (scene: Scene) =>
  eventually(async () => (await states(scene)).every(({ state }) => state === 'done') && (await states(scene)))
const ran = () => receiver.received.map(({ body }) => body.data.n)

test.each([
  ['taken and not begun, it is done by the next', 'outbox.taken', [1, 2, 3], 2],
  ['done and not noted, it is done again under the same id', 'outbox.called', [1, 2, 2, 3], 2],
  ['noted, it is not done again', 'outbox.ended', [1, 2, 3], 1],
] as const)(
  'killed with a job %s, and those of its key keep their order (P240, P242)',
  async (_what, point, ns, tries) => {
    const scene = await openScene()
    const dying = await scene.start(ofJobs([`${point}:2:kill`]))
    await addThree(scene)
    await dying.exited
    await scene.start(ofJobs())
    const rows = await allDone(scene)
    expect(rows.map((row) => row.tries)).toEqual([1, tries, 1])
    expect(ran()).toEqual(ns)
    expect(new Set(receiver.received.map(({ body }) => body.data.id)).size).toBe(3)
  },
)

test('of a process that stood still past its lease the late end of a job touches nothing, and the next of the key waits for who has it now (P242)', async () => {
  const scene = await openScene()
  const held: ServerResponse[] = []
  receiver.next(
    (response) => void held.push(response),
    (response) => void held.push(response),
  )
  const first = await scene.start(ofJobs(['outbox.called:1:tell']))
  await addThree(scene)
  await receiver.count(1)
  first.signal('SIGSTOP')
  await scene.start(ofJobs())
  await receiver.count(2)
  held[0]!.writeHead(204).end()
  first.signal('SIGCONT')
  await first.line(/point outbox.called 1/)
  // Before it ends it has said what became of its job.
  expect(await first.stop()).toBe(0)
  expect((await states(scene)).map(({ state }) => state)).toEqual(['running', 'due', 'due'])
  expect(receiver.received.map(({ body }) => [body.data.n, body.data.attempt])).toEqual([
    [1, 1],
    [1, 2],
  ])
  held[1]!.writeHead(204).end()
  await allDone(scene)
  expect(ran()).toEqual([1, 1, 2, 3])
})
