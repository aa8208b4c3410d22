/** I8: with every wakeup lost, between processes and within one, all happens by polling. */
import { Client } from 'pg'
import { expect, test } from 'vitest'
import { gate, ofType, openScene, pieces, slowly, textIn } from './scene.ts'

const deaf = { HOLDFAST_WAKEUPS: 'off', HOLDFAST_POLL_MS: '400' }
/** Claim, first chunk and outcome wait for a poll each; a busy machine may take as long again and more. */
const withinMs = 6_000

test('without any wakeup a reply is claimed, followed, retried and stopped within the poll interval (I8)', async () => {
  const scene = await openScene()
  const { ann, provider } = scene
  const held = gate()
  provider.script(({ index }) => {
    if (index === 1) return [{ status: 500 }]
    if (index === 3) return [{ text: 'held ' }, { wait: held.passed }, { text: 'back' }]
    return slowly(pieces(index, 60))
  })
  const runner = await scene.start({ env: { ...deaf, HOLDFAST_ROLES: 'runner' } })
  const http = await scene.start({ env: { ...deaf, HOLDFAST_ROLES: 'http' } })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  await watcher.until(({ type }) => type === 'caught-up')

  const first = await ann.send(session, 'one', 'm1')
  const outcome = await watcher.outcome('m1', withinMs)
  expect(textIn(outcome)).toBe(pieces(0, 60).join(''))
  expect(watcher.text(first.reply.id)).toBe(pieces(0, 60).join(''))

  await ann.send(session, 'two', 'm2')
  expect(textIn(await watcher.outcome('m2', withinMs))).toBe(pieces(2, 60).join(''))
  expect(ofType(watcher, 'attempt.ended')).toHaveLength(1)

  const third = await ann.send(session, 'three', 'm3')
  await ann.send(session, 'four', 'm4')
  await watcher.until(() => watcher.text(third.reply.id) === 'held ', withinMs)
  await ann.stop(session, 'm3')
  expect((await watcher.outcome('m3', withinMs)).type).toBe('message.stopped')
  expect(await provider.requests[3]!.closed).toBe('aborted')
  expect(textIn(await watcher.outcome('m4', withinMs))).toBe(pieces(4, 60).join(''))
  held.open()

  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await http.stop()).toBe(0)
  expect(await runner.stop()).toBe(0)
})

test('notifications that are not ours harm nobody: any role of the database may send them', async () => {
  const scene = await openScene()
  const { ann } = scene
  const server = await scene.start({ env: { HOLDFAST_ROLES: 'http' } })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  await watcher.until(({ type }) => type === 'caught-up')

  const client = new Client(scene.database)
  await client.connect()
  await client.query('listen holdfast')
  const heard = new Promise<void>((resolve) => {
    client.on('notification', ({ payload = '' }) => payload.includes('"hello":"here"') && resolve())
  })
  const here = { tenantId: 'default', sessionId: session, due: false }
  const event = { seq: 1, type: 'x', turnId: null, position: null, attempt: null, at: 'x', json: '{}' }
  for (const notes of [5, [null], [here], [{ ...here, events: {}, runs: [] }]]) await tell({ notes })
  for (const bad of [null, {}, { ...event, audience: 7 }]) await tell({ notes: [{ ...here, events: [bad], runs: [] }] })
  await tell({ notes: [{ ...here, events: [], runs: [{ position: 1 }] }] })
  await tell({ hello: 'new' })
  // It has heard all of them, and lives.
  await heard
  await client.end()
  await ann.send(session, 'still here', 'm1')
  await watcher.until(({ type }) => type === 'message.created')
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await server.stop()).toBe(0)

  async function tell(payload: object): Promise<void> {
    await client.query('select pg_notify($1, $2)', ['holdfast', JSON.stringify({ from: 'somebody', ...payload })])
  }
})
