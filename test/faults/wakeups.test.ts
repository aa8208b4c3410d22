/** Wakeups: with every one lost all happens by polling (I8), and nobody else can read or make one (I15). */
import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { createSeal } from '../../src/log/seal.ts'
import { gate, ofType, openScene, pieces, type Scene, slowly, textIn } from './scene.ts'

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
