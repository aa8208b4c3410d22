/** FP1 and FP3: `kill -9` of the server at named points of a long reply, and of Postgres' processes with it. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Chunk } from '../../src/core/chunk.ts'
import type { Watcher } from '../support/client.ts'
import { type Cluster, privateCluster, queryOnce } from '../support/postgres.ts'
import { seeded } from '../support/random.ts'
import type { TestServer } from '../support/server.ts'
import { gate, ofType, openScene, outcomesOf, pieces, type Scene, slowly, textIn } from './scene.ts'

const random = seeded(20261121)
const somewhere = () => 20 + random(260)
/** Point and the number of requests that reach the provider. */
const points: [string, number][] = [
  ['claim.taken:1:kill', 1],
  [`attempt.chunk:${somewhere()}:kill`, 2],
  [`attempt.chunk:${somewhere()}:kill`, 2],
  [`attempt.chunk:${somewhere()}:kill`, 2],
  [`attempt.chunk:${somewhere()}:kill`, 2],
  [`append.send:${2 + random(5)}:kill`, 2],
  [`append.answered:${2 + random(5)}:kill`, 2],
  [`append.answered:${2 + random(5)}:kill`, 2],
  ['finish.send:1:kill', 2],
  ['finish.answered:1:kill', 1],
]

const whole = (request: number) => pieces(request).join('')

/**
 * Sends one message, lets the first server die of its point, starts another. The provider does not say that it has
 * finished before the follower was shown all that it has written: a tail that is lost is not made good by the outcome,
 * which holds the whole text.
 */
async function dieAndComplete(scene: Scene, point: string, meanwhile?: () => Promise<void>) {
  const { ann, provider, start } = scene
  const finishing = new Map<string | null, () => void>()
  provider.script(({ index }) => {
    const { passed, open } = gate()
    finishing.set(whole(index), open)
    return [...slowly(pieces(index)), { wait: passed }]
  })
  const dying = await start({ points: [point] })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  await watcher.until(({ type }) => type === 'caught-up')
  const sent = await ann.send(session, 'hi', 'm1')
  const outcome = watcher.until(({ type, data }) => {
    finishing.get(watcher.text(sent.reply.id))?.()
    return outcomeTypes.has(type) && data.message.id === sent.reply.id
  })
  await dying.exited
  expect(dying.lines.filter((line) => line.startsWith('point '))).toEqual([`point ${point.replaceAll(':', ' ')}`])
  await meanwhile?.()
  const server = await start()
  await outcome
  return { session, watcher, replyId: sent.reply.id, server }
}
const outcomeTypes = new Set(['message.ai_response', 'message.error', 'message.stopped'])

async function expectOneWholeReply(
  { ann, provider, database }: Scene,
  { session, watcher, replyId }: { session: string; watcher: Watcher; replyId: string; server: TestServer },
  requests: number,
) {
  expect(provider.requests).toHaveLength(requests)
  const last = whole(requests - 1)
  const [outcome, ...others] = outcomesOf(watcher, 'm1')
  expect(others).toEqual([])
  expect(outcome).toMatchObject({ type: 'message.ai_response', data: { message: { id: replyId, status: 'complete' } } })
  expect(textIn(outcome!)).toBe(last)
  await expectShownIsStored(database, watcher, last)
  const snapshot = await ann.snapshot(session)
  expect(snapshot.messages.map(({ id, status }) => [id, status])).toEqual([
    ['m1', 'complete'],
    [replyId, 'complete'],
  ])
  expect(snapshot.turns).toEqual([])
  const late = ann.watch(session)
  await late.outcome('m1')
  expect(late.text(replyId)).toBe(last)
  await Promise.all([watcher.close(), late.close()])
  expect([...watcher.problems, ...late.problems]).toEqual([])
}

/**
 * What was shown of each attempt is the beginning of what the log holds of it, the killed one's included (I6); of the
 * last one all of it, and it is the reply (I7).
 */
async function expectShownIsStored(database: string, { frames }: Watcher, last: string): Promise<void> {
  const shown = frames.filter(({ type }) => type === 'chunk')
  const read = 'select attempt, data from holdfast.chunks where turn_id = $1 order by attempt, index'
  const rows = await queryOnce<{ attempt: number; data: Chunk[] }>(database, read, [shown[0]!.turnId])
  const storedOf = (attempt: number) =>
    written(rows.filter((row) => row.attempt === attempt).flatMap(({ data }) => data))
  const seenOf = (attempt: number) =>
    written(shown.filter((frame) => frame.attempt === attempt).flatMap(({ chunks }) => chunks))
  for (const attempt of new Set(shown.map((frame) => frame.attempt))) {
    const seen = seenOf(attempt)
    expect([attempt, storedOf(attempt).slice(0, seen.length)]).toEqual([attempt, seen])
  }
  const latest = Math.max(...rows.map(({ attempt }) => attempt))
  expect(storedOf(latest)).toBe(last)
  expect(seenOf(latest)).toBe(last)
}

const written = (chunks: Chunk[]) => chunks.map((chunk) => (chunk.type === 'text-delta' ? chunk.delta : '')).join('')

describe('the server is killed (FP1)', () => {
  test.each(points.filter((_, at) => at % 2 === 0))(
    'at %s the same message completes after a restart, once and whole (I1, I2, I5, I7)',
    async (point, requests) => {
      const scene = await openScene()
      const done = await dieAndComplete(scene, point)
      const started = ofType(done.watcher, 'attempt.started')
      expect(started.map(({ data }) => [data.attempt, data.base])).toEqual(started.map((_, at) => [at + 1, []]))
      expect(started).toHaveLength(point.startsWith('finish.answered') ? 1 : 2)
      await expectOneWholeReply(scene, done, requests)
    },
  )
})

describe('the server and all of Postgres are killed together (FP3)', () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await privateCluster(18)
  })
  afterAll(() => cluster.remove())

  test.each(points.filter((_, at) => at % 2 === 1))(
    'at %s the same message completes after a restart, once and whole (I1, I2, I5, I6, I7)',
    async (point, requests) => {
      const scene = await openScene(cluster.url)
      const crash = async () => {
        await cluster.kill()
        await cluster.start()
      }
      const done = await dieAndComplete(scene, point, crash)
      await expectOneWholeReply(scene, done, requests)
    },
  )
})
