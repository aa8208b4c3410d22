/** Wakeups: with every one lost all happens by polling (I8), and nobody else can read or make one (I15). */
import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { createSeal } from '../../src/log/seal.ts'
import type { Frame, Watcher } from '../support/client.ts'
import { gate, killRunner, ofType, openScene, outcomesOf, pieces, type Scene, slowly, textIn } from './scene.ts'

const pollMs = 600
const deaf = { HOLDFAST_WAKEUPS: 'off', HOLDFAST_POLL_MS: String(pollMs) }
/** What was committed is seen at the next poll. The rest is for the timers of a busy machine. */
const lateMs = pollMs + 400

/** How long after its commit each event came: all clocks are this machine's. */
function latenessOf({ frames, arrivedAtMs }: Watcher): number[] {
  return frames.filter(({ at }) => at !== undefined).map((frame) => arrivedAtMs.get(frame)! - Date.parse(frame.at))
}

const atOf = (frame: Frame | undefined) => Date.parse(frame!.at)

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
  const outcome = await watcher.outcome('m1')
  expect(textIn(outcome)).toBe(pieces(0, 60).join(''))
  expect(watcher.text(first.reply.id)).toBe(pieces(0, 60).join(''))

  await ann.send(session, 'two', 'm2')
  expect(textIn(await watcher.outcome('m2'))).toBe(pieces(2, 60).join(''))
  expect(ofType(watcher, 'attempt.ended')).toHaveLength(1)

  const third = await ann.send(session, 'three', 'm3')
  await ann.send(session, 'four', 'm4')
  await watcher.until(() => watcher.text(third.reply.id) === 'held ')
  await ann.command(session, 'm3', 'stop')
  expect((await watcher.outcome('m3')).type).toBe('message.stopped')
  expect(await provider.requests[3]!.closed).toBe('aborted')
  expect(textIn(await watcher.outcome('m4'))).toBe(pieces(4, 60).join(''))
  held.open()

  await watcher.close()
  expect(watcher.problems).toEqual([])
  const late = latenessOf(watcher)
  expect(Math.max(...late)).toBeLessThan(lateMs)
  // By polling: with wakeups none is that late.
  expect(Math.max(...late)).toBeGreaterThan(50)
  // Each was begun a poll after it could be: accepted, backed off, or the one before it had ended.
  const begun = ofType(watcher, 'attempt.started').map(atOf)
  const ended = ofType(watcher, 'attempt.ended')[0]!
  const due = [
    atOf(ofType(watcher, 'message.created')[0]),
    atOf(ofType(watcher, 'message.created')[1]),
    Date.parse(ended.data.retryAt),
    atOf(ofType(watcher, 'message.created')[2]),
    atOf(outcomesOf(watcher, 'm3')[0]),
  ]
  const waited = begun.map((startedMs, at) => startedMs - due[at]!)
  expect(waited).toHaveLength(due.length)
  expect(Math.min(...waited)).toBeGreaterThanOrEqual(0)
  expect(Math.max(...waited)).toBeLessThan(lateMs)
  expect(await http.stop()).toBe(0)
  expect(await runner.stop()).toBe(0)
})

test('without any wakeup a killed runner is replaced within lease and poll, and followed on (I8, I9)', async () => {
  const scene = await openScene()
  const { ann, provider } = scene
  const never = gate()
  provider.script(({ index }) => (index === 0 ? [{ text: 'cut' }, { wait: never.passed }] : slowly(pieces(index, 60))))
  const http = await scene.start({ env: { ...deaf, HOLDFAST_ROLES: 'http' } })
  const first = await scene.start({ env: { ...deaf, HOLDFAST_ROLES: 'runner' } })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  const { reply } = await ann.send(session, 'one', 'm1')
  await watcher.until(() => watcher.text(reply.id) === 'cut')
  const second = await scene.start({ env: { ...deaf, HOLDFAST_ROLES: 'runner' } })
  const leaseUntilMs = await killRunner(scene, first)
  expect(textIn(await watcher.outcome('m1'))).toBe(pieces(1, 60).join(''))
  const afterLeaseMs = atOf(ofType(watcher, 'attempt.started')[1]) - leaseUntilMs
  expect(afterLeaseMs).toBeGreaterThanOrEqual(0)
  expect(afterLeaseMs).toBeLessThan(lateMs)
  expect(Math.max(...latenessOf(watcher))).toBeLessThan(lateMs)
  never.open()
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await http.stop()).toBe(0)
  expect(await second.stop()).toBe(0)
})

test('what others notify is shown to nobody, whether it is odd or fits exactly, and harms nobody (I6, I15)', async () => {
  const scene = await openScene()
  const { ann } = scene
  const server = await scene.start({ env: { HOLDFAST_ROLES: 'http' } })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  await watcher.until(({ type }) => type === 'caught-up')

  const stranger = await strangerTo(scene)
  await expect(stranger.query('select wakeup_key from holdfast.meta')).rejects.toThrow('permission denied')
  const here = { tenantId: 'default', sessionId: session, due: false }
  const event = { seq: 1, type: 'x', turnId: null, position: null, attempt: null, at: 'x', json: '{}' }
  const told = (notes: unknown) => JSON.stringify({ from: 'somebody', notes })
  const fitting = told([{ ...here, events: [{ ...event, audience: null }], runs: [] }])
  for (const notes of [5, [null], [here], [{ ...here, events: {}, runs: [] }]]) await stranger.notify(told(notes))
  for (const bad of [null, {}, { ...event, audience: 7 }]) {
    await stranger.notify(told([{ ...here, events: [bad], runs: [] }]))
  }
  await stranger.notify(told([{ ...here, events: [], runs: [{ position: 1 }] }]))
  await stranger.notify(fitting)
  await stranger.notify(createSeal('a guess', 'somebody').close(fitting))
  await stranger.notify('a.b.c')
  await answerTo(scene, { hello: 'new' })
  // It has heard all of them, and lives.
  await ann.send(session, 'still here', 'm1')
  const first = await watcher.until(({ seq }) => seq === 1)
  expect(first.type).toBe('message.created')
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(server.lines.filter((line) => line.includes('sealed'))).toHaveLength(1)
  expect(await server.stop()).toBe(0)
})

test('a role that may only connect hears nothing of what is said, and what it repeats changes nothing (I15)', async () => {
  const scene = await openScene()
  const { ann, provider } = scene
  provider.script(() => slowly(Array.from({ length: 40 }, () => 'a secret ')))
  const stranger = await strangerTo(scene)
  const runner = await scene.start({ env: { HOLDFAST_ROLES: 'runner' } })
  const http = await scene.start({ env: { HOLDFAST_ROLES: 'http' } })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  await watcher.until(({ type }) => type === 'caught-up')
  await ann.send(session, 'a secret question', 'm1')
  await watcher.outcome('m1')
  const heard = stranger.payloads.splice(0)
  expect(heard.length).toBeGreaterThan(5)
  for (const payload of heard) {
    const plain = payload + Buffer.from(payload.split('.')[2]!, 'base64').toString('latin1')
    expect(plain).not.toMatch(/secret|message|default/)
  }
  for (const payload of heard) await stranger.notify(payload)
  await ann.send(session, 'another secret', 'm2')
  await watcher.outcome('m2')
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await http.stop()).toBe(0)
  expect(await runner.stop()).toBe(0)
})

type Stranger = { query: Client['query']; notify(payload: string): Promise<unknown>; payloads: string[] }

/** A role of the database that may connect and nothing else. */
async function strangerTo({ database }: Scene): Promise<Stranger> {
  const role = `stranger_${randomUUID().replaceAll('-', '')}`
  const admin = new Client(database)
  await admin.connect()
  await admin.query(`create role ${role} login`)
  const url = new URL(database)
  url.username = role
  const client = new Client(url.href)
  await client.connect()
  onTestFinished(async () => {
    await client.end()
    await admin.query(`drop role ${role}`)
    await admin.end()
  })
  const payloads: string[] = []
  client.on('notification', ({ payload }) => payloads.push(payload ?? ''))
  await client.query('listen holdfast')
  return {
    query: client.query.bind(client) as Client['query'],
    payloads,
    notify: (payload) => client.query('select pg_notify($1, $2)', ['holdfast', payload]),
  }
}

/** Tells this as a process of the same database, and resolves when another one says that it is here. */
async function answerTo({ database }: Scene, body: object): Promise<void> {
  const client = new Client(database)
  await client.connect()
  const { rows } = await client.query<{ wakeup_key: string }>('select wakeup_key from holdfast.meta')
  const seal = createSeal(rows[0]!.wakeup_key, randomUUID())
  const answer = new Promise<void>((resolve) => {
    client.on('notification', ({ payload = '' }) => {
      const opened = seal.open(payload)
      if (opened && opened.from !== seal.processId && opened.body.includes('"hello":"here"')) resolve()
    })
  })
  await client.query('listen holdfast')
  await client.query('select pg_notify($1, $2)', ['holdfast', seal.close(JSON.stringify(body))])
  await answer
  await client.end()
}
