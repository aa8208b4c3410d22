/**
 * Claims whose answers are lost (FD2): what they took is run by the runner that they took it for, at the attempt that
 * they began. Otherwise a turn waits out its lease, which is 30 s here, and a crash is counted that nobody had.
 */
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import { type Connection, dropAnswerAfter, startProxy, type TcpProxy } from '../support/proxy.ts'
import { gate, ofType, openScene, type Scene } from './scene.ts'

const patient = { HOLDFAST_LEASE_MS: '30000', HOLDFAST_POLL_MS: '1000' }
const soonMs = 15_000

type Lossy = Scene & {
  proxy: TcpProxy
  admin: Client
  /** Its connections to the database go through the proxy. */
  startRunner(env?: Record<string, string>): ReturnType<Scene['start']>
}

/** A server that takes messages, and a database that a runner reaches through a proxy. */
async function openLossy(): Promise<Lossy> {
  const scene = await openScene()
  const target = new URL(scene.database)
  const proxy = await startProxy({ target: { host: target.hostname, port: Number(target.port) } })
  const admin = new Client(scene.database)
  admin.on('error', () => undefined)
  onTestFinished(async () => {
    await admin.end()
    await proxy.close()
  })
  await scene.start({ env: { ...patient, HOLDFAST_ROLES: 'http' } })
  await admin.connect()
  const proxied = new URL(scene.database)
  proxied.hostname = proxy.host
  proxied.port = String(proxy.port)
  const startRunner = (env: Record<string, string> = {}) =>
    scene.start({ database: proxied.href, env: { ...patient, HOLDFAST_ROLES: 'runner', ...env } })
  return { ...scene, proxy, admin, startRunner }
}

const isClaim = (bytes: Buffer) => bytes.includes('\0claim\0')

type TurnRow = { state: string; attempt: number; crashes: number; failures: number }
const turnsIn = async ({ admin }: Lossy) =>
  (await admin.query<TurnRow>('select state, attempt, crashes, failures from holdfast.turns')).rows
const done = { state: 'complete', attempt: 1, crashes: 0, failures: 0 }

test('turns of a claim whose answers are lost twice run at once and at their first attempt (FD2, I2, I9)', async () => {
  const scene = await openLossy()
  const { ann, proxy, provider } = scene
  provider.script(() => [{ text: 'Here it is.' }])
  const sessions = await Promise.all([1, 2, 3].map(() => ann.createSession()))
  await Promise.all(sessions.map((session) => ann.send(session, 'hi', 'm1')))
  const watchers = sessions.map((session) => ann.watch(session))
  const lost = dropAnswerAfter(proxy, isClaim)
  const runner = await scene.startRunner()
  await lost
  await dropAnswerAfter(proxy, isClaim)
  for (const watcher of watchers) {
    expect((await watcher.outcome('m1', soonMs)).type).toBe('message.ai_response')
    expect(ofType(watcher, 'attempt.started')).toHaveLength(1)
    await watcher.close()
    expect(watcher.problems).toEqual([])
  }
  expect(provider.requests).toHaveLength(3)
  expect(await turnsIn(scene)).toEqual([done, done, done])
  expect(runner.lines.filter((line) => line.includes('claim failed'))).toHaveLength(2)
  expect(await runner.stop()).toBe(0)
})

test('a claim that is still under way when it is asked for again is run when it is done (FD2, I2, I9)', async () => {
  const scene = await openLossy()
  const { ann, proxy, admin, provider } = scene
  provider.script(() => [{ text: 'Here it is.' }])
  const session = await ann.createSession()
  await ann.send(session, 'hi', 'm1')
  const watcher = ann.watch(session)
  await watcher.until(({ type }) => type === 'caught-up')
  // The claim gets as far as its event, and waits there with the session and the turn locked.
  const locking = new Client(scene.database)
  await locking.connect()
  await locking.query('begin')
  await locking.query('lock table holdfast.events in exclusive mode')
  const starting = scene.startRunner()
  await eventually(async () => {
    const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%holdfast.claim%'`
    return (await admin.query(waiting)).rowCount === 1
  })
  const asked = answersToClaims(proxy)
  proxy.cutAll()
  // The lost one holds the turn: it is passed over, without waiting.
  await eventually(async () => asked.count() > 0)
  await locking.query('commit')
  await locking.end()
  expect((await watcher.outcome('m1', soonMs)).type).toBe('message.ai_response')
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await turnsIn(scene)).toEqual([done])
  const runner = await starting
  expect(await runner.stop()).toBe(0)
})

test('who drains after a claim that was lost hands over what it took (FD2, FP6)', async () => {
  const scene = await openLossy()
  const { ann, proxy, admin, provider } = scene
  const never = gate()
  provider.script(() => [{ wait: never.passed }, { text: 'too late' }])
  const session = await ann.createSession()
  await ann.send(session, 'hi', 'm1')
  const lost = dropAnswerAfter(proxy, isClaim)
  const runner = await scene.startRunner({ HOLDFAST_DRAIN_MS: '0' })
  await lost
  runner.signal('SIGTERM')
  expect(await runner.exited).toBe(0)
  never.open()
  expect(await turnsIn(scene)).toEqual([{ state: 'queued', attempt: 1, crashes: 0, failures: 0 }])
  const { rows } = await admin.query(
    `select data ->> 'reason' as reason from holdfast.events where type = 'attempt.ended'`,
  )
  expect(rows).toEqual([{ reason: 'handover' }])
})

/** Counts the answers to claims from now on. */
function answersToClaims(proxy: TcpProxy): { count: () => number } {
  const asked = new Set<Connection>()
  let count = 0
  proxy.watch({
    onUpstream: (data, connection) => {
      if (isClaim(data)) asked.add(connection)
      return 'pass'
    },
    onDownstream: (_, connection) => {
      if (asked.delete(connection)) count++
      return 'pass'
    },
  })
  return { count: () => count }
}
