/** The shared flush beside things that go wrong in the same process: its own zombie, a chunk that cannot be stored. */
import { expect, onTestFinished, test } from 'vitest'
import type { Chunk } from '../../src/core/chunk.ts'
import { type AppendTarget, createAppender } from '../../src/log/append.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import type { Database } from '../../src/store/database.ts'
import type { Claimed } from '../../src/store/turns.ts'
import { claimAll } from '../races/held.ts'
import { eventually } from '../support/eventually.ts'
import { onPoint } from '../support/points.mjs'
import { acceptanceOf, openStored, type Stored, sessionsOf } from '../support/stored.ts'
import { gate } from './scene.ts'

const leaseMs = 60_000
const delta = (text: string): Chunk => ({ type: 'text-delta', id: 't', delta: text })

async function openLog(onStored: (turnIds: string[]) => void = () => undefined) {
  const stored = await openStored(18)
  const database = stored.open()
  const refused: [number, string][] = []
  const appender = createAppender({
    database,
    leaseMs,
    flushMs: 0,
    onStored: (stored) => onStored(stored.map(({ target }) => target.turnId)),
    onRefused: ({ attempt }, write) => refused.push([attempt, write]),
    onDatabaseError: () => undefined,
  })
  onTestFinished(async () => {
    appender.stop()
    await stored.close()
  })
  const open = (claimed: Claimed) =>
    appender.open({ ...claimed, audience: null } satisfies AppendTarget, performance.now())
  return { stored, database, appender, open, refused }
}

async function acceptOne(database: Database, sessionId: string): Promise<void> {
  const accepted = await createAcceptor(database).accept(acceptanceOf(sessionId, 'm1'))
  expect(accepted.outcome).toBe('created')
}

const claimMine = async (database: Database) => (await claimAll(database, 'me')).claimed

const chunksIn = ({ query }: Stored) =>
  query<{ attempt: number; n: number }>(
    'select attempt, sum(n)::int as n from holdfast.chunks group by turn_id, attempt order by attempt',
  )

test('a flush of an older attempt that is refused leaves the newer one of the same process alone (I3)', async () => {
  const { stored, database, open } = await openLog()
  const [session] = await sessionsOf(database, 1)
  await acceptOne(database, session!)
  const older = open((await claimMine(database))[0]!)
  const sending = gate()
  const answer = gate()
  const takeBack = onPoint('append.send', () => {
    sending.open()
    return answer.passed
  })
  onTestFinished(takeBack)
  older.push(delta('from the first attempt'))
  await sending.passed
  await stored.query(`update holdfast.turns set lease_until = now() - interval '1 s'`)
  const newer = open((await claimMine(database))[0]!)
  takeBack()
  newer.push(delta('from the second attempt'))
  answer.open()
  // As its attempt does when it hears of it.
  older.close()
  expect(await newer.flushed()).toBe(1)
  expect(older.ended.reason).toBe('lost')
  expect(newer.ended.aborted).toBe(false)
  expect(await chunksIn(stored)).toEqual([{ attempt: 2, n: 1 }])
})

test('a write of an attempt that another process has taken over is refused and told (I3)', async () => {
  const { stored, database, open, refused } = await openLog()
  const [session] = await sessionsOf(database, 1)
  await acceptOne(database, session!)
  const log = open((await claimMine(database))[0]!)
  log.push(delta('in time'))
  expect(await log.flushed()).toBe(1)
  await stored.query(`update holdfast.turns set lease_until = now() - interval '1 s'`)
  await claimMine(database)
  log.push(delta('too late'))
  await log.flushed()
  expect(log.ended.reason).toBe('lost')
  expect(refused).toEqual([[1, 'append']])
  expect(await chunksIn(stored)).toEqual([{ attempt: 1, n: 1 }])
})

test('a chunk that Postgres refuses ends its own attempt, the others in its flush are stored', async () => {
  const { stored, database, open, refused } = await openLog()
  const sessions = await sessionsOf(database, 8)
  for (const session of sessions) await acceptOne(database, session)
  // For connections made from now on, the flush's among them.
  await stored.query(`alter database ${new URL(stored.url).pathname.slice(1)} set max_stack_depth = '100kB'`)
  const logs = (await claimMine(database)).map(open)
  expect(logs).toHaveLength(8)
  // Deeper than Postgres parses; the cleaner lets nothing like it pass.
  let deep: unknown = 0
  for (let level = 0; level < 4_000; level++) deep = [deep, 'x'.repeat(10)]
  const answer = JSON.stringify(deep)
  for (const [at, log] of logs.entries()) {
    log.push(at === 5 ? ({ type: 'data-deep', data: JSON.parse(answer) } as Chunk) : delta(`reply ${at}`))
  }
  expect(await Promise.all(logs.map((log) => log.flushed()))).toEqual([1, 1, 1, 1, 1, 0, 1, 1])
  expect(logs.map(({ ended }) => ended.reason)).toEqual([
    ...Array(5).fill(undefined),
    'unstorable',
    undefined,
    undefined,
  ])
  expect(refused).toEqual([])
})

test('more attempts than one flush takes have turns: nobody is stored a second time before everybody was once', async () => {
  const flushes: string[][] = []
  const { database, open } = await openLog((turnIds) => flushes.push(turnIds))
  const sessions = await sessionsOf(database, 300)
  const acceptor = createAcceptor(database)
  await Promise.all(sessions.map((id) => acceptor.accept(acceptanceOf(id))))
  const logs: ReturnType<typeof open>[] = []
  while (logs.length < sessions.length) logs.push(...(await claimMine(database)).map(open))
  for (const log of logs) log.push(delta('a'))
  await eventually(async () => flushes.flat().length === 300)
  for (const log of logs) log.push(delta('b'))
  await eventually(async () => flushes.flat().length === 600)
  const sizes = flushes.map((flush) => flush.length)
  expect(Math.max(...sizes)).toBe(250)
  const order = flushes.flat()
  expect(new Set(order.slice(0, 300)).size).toBe(300)
  expect(new Set(order.slice(300)).size).toBe(300)
  // Who had to wait comes first the next time.
  expect(order.slice(300, 350).sort()).toEqual(order.slice(250, 300).sort())
})
