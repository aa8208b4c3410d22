import { describe, expect, test } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { appendIfHeld, stillHeld } from '../../src/store/chunks.ts'
import type { Database } from '../../src/store/database.ts'
import type { Claimed } from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { acceptanceOf, createAcceptor, openStored, type Stored, sessionsOf } from '../support/stored.ts'
import { acceptTurns, claimAll, endLease, rowOf, shuffled, stopAsk, textUpTo, tookOver } from './held.ts'

/**
 * The naive append joins `chunks` to `turns` without a lock: it reads "running, attempt 1" in its snapshot, a stop or
 * a takeover commits, and the chunk goes in after it and is answered as held (202 of 400 stops). Here two processes
 * flush in a tight loop while a third stops their turns and each takes over turns of the other.
 */
const faults = 1_000

describe.each(postgresVersions)('fence on PostgreSQL %i', (version) => {
  test('stores and answers no chunk after a stop or under an older attempt, and indexes are dense (I3, I4, I11)', async () => {
    const stored = await openStored(version)
    try {
      await provoke(stored)
    } finally {
      await stored.close()
    }
  })
})

type Flushing = { claimed: Claimed; index: number }
type Process = { database: Database; name: string; held: Map<string, Flushing> }

async function provoke(stored: Stored): Promise<void> {
  const processes: Process[] = ['a', 'b'].map((name) => ({ database: stored.open(), name, held: new Map() }))
  const stopper = stored.open()
  const sessions = await sessionsOf(stopper, 30)
  const acceptor = createAcceptor(stopper)
  await acceptTurns(stopper, sessions)
  const answered = new Map<string, number>()
  const closed = new Map<string, number>()
  const inFlight = new Map<string, number>()
  const seen = { stops: 0, takeovers: 0, lostInFlush: 0, busy: 0, raced: 0 }
  const over = () => seen.stops + seen.takeovers >= faults

  async function flush({ database, held }: Process): Promise<void> {
    const batch = [...held.values()]
    for (const { claimed } of batch) inFlight.set(claimed.turnId, (inFlight.get(claimed.turnId) ?? 0) + 1)
    const kept = await appendIfHeld(
      database,
      batch.map(({ claimed, index }) => rowOf(claimed, index)),
      60_000,
    )
    for (const { claimed } of batch) inFlight.set(claimed.turnId, inFlight.get(claimed.turnId)! - 1)
    for (const each of batch) {
      const { claimed, index } = each
      if (!kept.has(claimed.turnId)) continue
      each.index++
      answered.set(`${claimed.turnId} ${claimed.attempt}`, index + 1)
    }
    const skipped = batch.filter(({ claimed }) => !kept.has(claimed.turnId)).map(({ claimed }) => claimed)
    const mine = skipped.length === 0 ? new Set() : await stillHeld(database, skipped)
    for (const { turnId } of skipped) {
      if (mine.has(turnId)) seen.busy++
      else {
        seen.lostInFlush++
        held.delete(turnId)
      }
    }
  }

  async function claimMore(process: Process): Promise<void> {
    const { claimed } = await claimAll(process.database, process.name, { limit: 20, crashesMax: 1_000 })
    for (const each of claimed) {
      if (tookOver(each)) {
        seen.takeovers++
        if (inFlight.get(each.turnId)) seen.raced++
        closed.set(`${each.turnId} ${each.attempt - 1}`, await sumOf(stored, each.turnId, each.attempt - 1))
      }
      process.held.set(each.turnId, { claimed: each, index: 0 })
    }
  }

  async function run(process: Process): Promise<void> {
    while (!over()) {
      if (process.held.size < 20) await claimMore(process)
      await flush(process)
    }
  }

  async function stopSome(): Promise<void> {
    while (!over()) {
      const [process] = shuffled(processes)
      const [target] = shuffled([...process!.held.values()])
      if (!target || seen.stops > seen.takeovers) {
        await endOneLease()
        continue
      }
      const { sessionId, messageId, turnId } = target.claimed
      const { outcome } = await stopTurn(stopper, stopAsk(sessionId, messageId))
      if (outcome !== 'stopped') continue
      seen.stops++
      await acceptor.accept(acceptanceOf(sessionId))
      if (inFlight.get(turnId)) seen.raced++
    }
  }

  /** The lease ends, and the other process looks for it at once: the owner's flush may renew it before. */
  async function endOneLease(): Promise<void> {
    const [owner, other] = shuffled(processes)
    const [target] = shuffled([...owner!.held.values()])
    if (target) await endLease(stored, target.claimed.turnId)
    await claimMore(other!)
  }

  await Promise.all([...processes.map(run), stopSome(), stopSome()])
  expect(seen.lostInFlush).toBeGreaterThan(50)
  expect(seen.raced).toBeGreaterThan(50)
  expect(Math.min(seen.stops, seen.takeovers)).toBeGreaterThan(faults / 4)
  await checkChunks(stored, answered, closed)
  await checkStopped(stored, seen.stops)
}

async function sumOf({ query }: Stored, turnId: string, attempt: number): Promise<number> {
  const rows = await query<{ n: number }>(
    'select coalesce(sum(n), 0)::int as n from holdfast.chunks where turn_id = $1 and attempt = $2',
    [turnId, attempt],
  )
  return rows[0]!.n
}

/** What was answered as held is what is stored, and an attempt that was taken over has not grown since. */
async function checkChunks(stored: Stored, answered: Map<string, number>, closed: Map<string, number>): Promise<void> {
  const rows = await stored.query<{ key: string; n: number; dense: boolean }>(`
    select turn_id || ' ' || attempt as key, sum(n)::int as n,
        min(index) = 0 and max(index) + 1 = count(*) as dense
      from holdfast.chunks group by turn_id, attempt`)
  const inLog = new Map(rows.map(({ key, n }) => [key, n]))
  expect(inLog).toEqual(answered)
  expect(rows.filter(({ dense }) => !dense)).toEqual([])
  const grown = [...closed].filter(([key, n]) => (inLog.get(key) ?? 0) !== n)
  expect(grown).toEqual([])
}

/** A stopped message says exactly what the log holds of its attempt, so nothing came after the stop. */
async function checkStopped({ query }: Stored, stops: number): Promise<void> {
  type Row = { parts: Part[]; attempt: number; n: number }
  const rows = await query<Row>(`
    select m.parts, t.attempt, (select coalesce(sum(n), 0)::int from holdfast.chunks c
        where c.turn_id = t.id and c.attempt = t.attempt) as n
      from holdfast.turns t join holdfast.messages m on m.session_id = t.session_id and m.id = t.reply_id
     where t.state = 'stopped' and m.status = 'stopped'`)
  expect(rows).toHaveLength(stops)
  const wrong = rows.filter(({ parts, attempt, n }) => (parts[0]?.text ?? '') !== textUpTo(attempt, n))
  expect(wrong).toEqual([])
}
