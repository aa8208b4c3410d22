/**
 * FP1, FP4, FP5, FC1 with several processes on one database: the reply is followed at one that does not run it, while
 * the one that runs it is killed, paused, blocked, or believes in another time.
 */
import { expect, test } from 'vitest'
import type { Watcher } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import type { TestServer } from '../support/server.ts'
import {
  gate,
  killRunner,
  ofType,
  openScene,
  outcomesOf,
  pieces,
  quick,
  refusalsOf,
  type Scene,
  slowly,
  textIn,
} from './scene.ts'

const http = { HOLDFAST_ROLES: 'http' }
const runner = { HOLDFAST_ROLES: 'runner' }
const textOfRequest = (request: number) => pieces(request).join('')

type Stage = Scene & {
  session: string
  watcher: Watcher
  replyId: string
  /** Runs attempt 1, which waits in its middle until `goOn[0]` is called; later requests wait for theirs if asked. */
  first: TestServer
  second: TestServer
  goOn: (() => void)[]
}

/** The first runner is in the middle of the reply when the second one starts. `gates`: requests that wait there. */
async function inTheMiddle(options: {
  points?: string[]
  gates?: number
  /** How many pieces come before it waits. */
  before?: number
  env?: Record<string, string>
  envOfSecond?: Record<string, string>
}): Promise<Stage> {
  const { points = [], gates = 1, before = 60, env = {}, envOfSecond = env } = options
  const scene = await openScene()
  const opened = Array.from({ length: gates }, () => gate())
  scene.provider.script(({ index }) => {
    const texts = pieces(index)
    const wait = opened[index] ? [{ wait: opened[index].passed }] : []
    return [...slowly(texts.slice(0, before)), ...wait, ...slowly(texts.slice(before))]
  })
  await scene.start({ env: http })
  const first = await scene.start({ points, env: { ...runner, ...env } })
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  const { reply } = await scene.ann.send(session, 'hi', 'm1')
  await watcher.until(() => watcher.text(reply.id)?.endsWith(`r0.${before - 1} `) ?? false)
  const second = await scene.start({ env: { ...runner, ...envOfSecond } })
  return { ...scene, session, watcher, replyId: reply.id, first, second, goOn: opened.map(({ open }) => open) }
}

/** One outcome, written by this attempt, which was the provider's request of this index. */
async function expectOutcomeOf({ watcher, session, ann, replyId, provider }: Stage, attempt: number): Promise<void> {
  const outcome = await watcher.outcome('m1')
  expect(outcome.type).toBe('message.ai_response')
  expect(textIn(outcome)).toBe(textOfRequest(attempt - 1))
  expect(watcher.text(replyId)).toBe(textOfRequest(attempt - 1))
  expect(provider.requests).toHaveLength(attempt)
  expect(ofType(watcher, 'attempt.started').map(({ data }) => [data.attempt, data.base])).toEqual(
    Array.from({ length: attempt }, (_, at) => [at + 1, []]),
  )
  const { messages, turns } = await ann.snapshot(session)
  expect(messages.map(({ id }) => id)).toEqual(['m1', replyId])
  expect(turns).toEqual([])
  const log = await ann.poll(session, {})
  expect(log.frames.filter(({ type }) => type === 'message.ai_response')).toHaveLength(1)
  expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(watcher.connections).toBe(1)
}

/**
 * After the lease's end a poll may pass. The rest is for the timers of a busy machine and the claim itself: with the
 * lease of 1,000 ms the whole is still well below twice what is promised.
 */
const lateMs = Number(quick.HOLDFAST_POLL_MS) + 400

test('a killed runner is replaced within lease and poll, never before, seen live at a server that runs nothing (I9)', async () => {
  const stage = await inTheMiddle({})
  const leaseUntilMs = await killRunner(stage, stage.first)
  const started = await stage.watcher.until(({ type, data }) => type === 'attempt.started' && data.attempt === 2)
  const afterLeaseMs = Date.parse(started.at) - leaseUntilMs
  expect(afterLeaseMs).toBeGreaterThanOrEqual(0)
  expect(afterLeaseMs).toBeLessThan(lateMs)
  expect(started.data.base).toEqual([])
  await expectOutcomeOf(stage, 2)
})

test('a runner that was stopped past its lease changes nothing when it goes on (FP4, I3)', async () => {
  const stage = await inTheMiddle({ gates: 2 })
  stage.first.signal('SIGSTOP')
  await stage.watcher.until(() => stage.watcher.text(stage.replyId)?.endsWith(' r1.59 ') ?? false)
  // What the provider sends to the stopped process waits in its socket.
  stage.goOn[0]!()
  stage.first.signal('SIGCONT')
  await stage.first.line(/stale write refused/)
  expect(await stage.provider.requests[0]!.closed).toBe('aborted')
  stage.goOn[1]!()
  await expectOutcomeOf(stage, 2)
  expect(refusalsOf(stage.second)).toEqual([])
})

test('a runner that goes on after the outcome of its successor changes nothing (FP4, I2, I3)', async () => {
  const stage = await inTheMiddle({})
  stage.first.signal('SIGSTOP')
  await stage.watcher.outcome('m1')
  stage.goOn[0]!()
  stage.first.signal('SIGCONT')
  await stage.first.line(/stale write refused/)
  await expectOutcomeOf(stage, 2)
})

/** One piece is at most four flushes: the sixth comes after the gate. */
const windows = ['attempt.chunk:100', 'append.send:6', 'append.answered:6', 'finish.send:1']

test.each(windows)(
  'an event loop blocked at %s for longer than the lease loses the turn and every late write is refused (FP5, I3)',
  async (point) => {
    const stage = await inTheMiddle({ before: 1, points: [`${point}:block=2800`] })
    stage.goOn[0]!()
    await stage.first.line(/^point /)
    await stage.watcher.outcome('m1')
    // What it was about to write when it was blocked, or the renewal before it.
    await stage.first.line(point.startsWith('finish') ? /"write":"end".*stale write refused/ : /stale write refused/)
    await expectOutcomeOf(stage, 2)
    expect(refusalsOf(stage.second)).toEqual([])
  },
)

test.each(windows)(
  'an event loop blocked at %s for less than half the lease keeps its turn (FP5, I9)',
  async (point) => {
    const stage = await inTheMiddle({ before: 1, points: [`${point}:block=1200`], env: { HOLDFAST_LEASE_MS: '4000' } })
    stage.goOn[0]!()
    await stage.first.line(/^point /)
    await expectOutcomeOf(stage, 1)
    expect(refusalsOf(stage.first, stage.second)).toEqual([])
  },
)

test('a process alone that was blocked past its lease goes on with its own attempt (FP5)', async () => {
  const scene = await openScene()
  scene.provider.script(({ index }) => slowly(pieces(index)))
  const server = await scene.start({ points: ['attempt.chunk:100:block=2500'] })
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  const { reply } = await scene.ann.send(session, 'hi', 'm1')
  await expectOutcomeOf({ ...scene, session, watcher, replyId: reply.id, first: server, second: server, goOn: [] }, 1)
  expect(server.lines.filter((line) => line.startsWith('point '))).toHaveLength(1)
})

/** The process believes that it is so much later. Its monotonic clock is as it was. */
const clockAheadBy = (ms: number) => ({
  NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(`const now=Date.now;Date.now=()=>now()+${ms}`)}`,
})

test('wall clocks an hour off cause no needless takeover and prevent no needed one (FC1, I9)', async () => {
  const env = clockAheadBy(3_600_000)
  const envOfSecond = clockAheadBy(-3_600_000)
  const silent = await inTheMiddle({ env, envOfSecond })
  // Silent for two leases of its own accord: the provider says nothing.
  const database = await silentFor(silent, 2 * Number(quick.HOLDFAST_LEASE_MS))
  expect(database.attempt).toBe(1)
  await silent.first.kill()
  await expectOutcomeOf(silent, 2)
})

/** Resolves when the turn has been running for so long without a chunk, with what it is then. */
async function silentFor({ ann, session }: Stage, ms: number) {
  const fromMs = performance.now()
  return await eventually(async () => {
    const [turn] = (await ann.snapshot(session)).turns
    return performance.now() - fromMs > ms && turn
  })
}
