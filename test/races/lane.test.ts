import pg from 'pg'
import { describe, expect, test } from 'vitest'
import { appendIfHeld } from '../../src/store/chunks.ts'
import { type Database, DatabaseError } from '../../src/store/database.ts'
import { type Claimed, requeueIfHeld } from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { lostHeads, openStored, type Stored, sessionsOf } from '../support/stored.ts'
import { acceptTurns, claimAll, crashed, finish, rowOf, tookOver, untilAnswered } from './held.ts'

/**
 * The naive claim decides with `not exists` in the statement that takes the lock: it sees the lane as of its start,
 * so two turns of a lane ran at once. With a unique index instead, a batch of innocent turns failed. And where a turn
 * may be claimed whenever nothing runs, a claim that is rolled back or a head that backs off is overtaken by the
 * turn behind it. Here two runners work on one lane, while claims are rolled back, cancelled and their connections
 * ended, and most attempts back off, hand over, or die.
 */
describe.each(postgresVersions)('one lane on PostgreSQL %i', (version) => {
  test('never runs two of its turns at once, nor one before an earlier one, under rollbacks and backoffs', async () => {
    const stored = await openStored(version)
    try {
      await provoke(stored)
    } finally {
      await stored.close()
    }
  })
})

const turns = 120
/** About 480 come, give or take 40: fewer than this is no bad luck. */
const claimsMin = 300

async function provoke(stored: Stored): Promise<void> {
  const [sessionId] = await sessionsOf(stored.open(), 1)
  await acceptTurns(stored.open(), [sessionId!], turns)
  const seen = { claims: 0, rolledBack: 0, ended: 0, takeovers: 0, duplicates: 0 }
  let over = false
  const left = () => stored.query(`select from holdfast.turns where state in ('queued', 'running') limit 1`)

  async function runner(name: string, database: Database): Promise<void> {
    while (!over) {
      const claimed = await claimAll(database, name, { limit: 3, leaseMs: 150, crashesMax: 1_000 }).catch(fault)
      seen.claims += claimed?.claimed.length ?? 0
      await Promise.all((claimed?.claimed ?? []).map((each) => endSomehow(database, each)))
      if ((await left()).length === 0) over = true
    }
  }

  function fault(error: unknown): undefined {
    if (!(error instanceof DatabaseError)) throw error
    if (error.code === '23505') seen.duplicates++
    seen.ended++
  }

  /** One in four finishes, so that a turn takes about four claims. */
  async function endSomehow(database: Database, claimed: Claimed): Promise<void> {
    if (tookOver(claimed)) seen.takeovers++
    const dice = Math.random()
    const again = <T>(ask: () => Promise<T>) => untilAnswered(ask, fault)
    if (dice < 0.25) {
      await again(() => finish(database, claimed, 0, []))
    } else if (dice < 0.9) {
      const reason = dice < 0.7 ? 'error' : 'handover'
      const retryMs = reason === 'error' ? Math.floor(dice * 20) : 0
      await again(() => requeueIfHeld(database, claimed, { reason, code: null, retryMs }, []))
    } else {
      // It dies with something stored; its lease runs out.
      await again(() => appendIfHeld(database, [rowOf(claimed, 0)], 20))
    }
  }

  async function rollBack(): Promise<void> {
    const client = new pg.Client({ connectionString: stored.url })
    await client.connect()
    for (let next = 0; !over; ) {
      if (seen.claims < next) await client.query('select 1')
      if (seen.claims < next) continue
      await client.query('begin')
      const { rows } = await client.query(
        `select holdfast.claim('rolled back', 60000, 3, true, 1000, $1::jsonb) as row`,
        [JSON.stringify(crashed)],
      )
      if (rows.length > 1) [seen.rolledBack, next] = [seen.rolledBack + 1, seen.claims + 5]
      await client.query('rollback')
    }
    await client.end()
  }

  /** Not more than one in ten claims, or nothing would ever be done. */
  async function endBackends(): Promise<void> {
    let ended = 0
    for (let odd = false, next = 0; !over; ) {
      if (seen.claims < next) await stored.query('select 1')
      if (seen.claims < next) continue
      if (seen.ended > ended) [odd, next, ended] = [!odd, seen.claims + 10, seen.ended]
      await stored.query(
        `select ${odd ? 'pg_cancel_backend' : 'pg_terminate_backend'}(pid) from pg_stat_activity
          where datname = current_database() and application_name = 'holdfast' and state = 'active' and query like '%holdfast.claim%' limit 1`,
      )
    }
  }

  await Promise.all([runner('a', stored.open()), runner('b', stored.open()), rollBack(), endBackends()])
  expect(seen.claims).toBeGreaterThan(claimsMin)
  expect(seen.rolledBack).toBeGreaterThan(10)
  expect(seen.ended).toBeGreaterThan(10)
  expect(seen.takeovers).toBeGreaterThan(0)
  expect(seen.duplicates).toBe(0)
  expect(await history(stored)).toEqual([])
  expect(await lostHeads(stored)).toBe(0)
}

/** Walks the log, which is in commit order, and tells what should not have been. */
async function history({ query }: Stored): Promise<string[]> {
  const events = await query<{ seq: number; type: string; position: number; attempt: number }>(
    'select seq, type, position, attempt from holdfast.events order by seq',
  )
  const wrong: string[] = []
  const waiting = new Set<number>()
  const attempts = new Map<number, number>()
  let running: number | null = null
  for (const { seq, type, position, attempt } of events) {
    if (type === 'message.created') waiting.add(position)
    else if (type === 'attempt.started') {
      if (running !== null && running !== position) wrong.push(`${seq}: ${position} starts while ${running} runs`)
      if (Math.min(...waiting) !== position) wrong.push(`${seq}: ${position} overtakes ${Math.min(...waiting)}`)
      if (attempt !== (attempts.get(position) ?? 0) + 1) wrong.push(`${seq}: attempt ${attempt} of ${position}`)
      attempts.set(position, attempt)
      running = position
    } else {
      if (running !== position) wrong.push(`${seq}: ${type} of ${position} while ${running} runs`)
      running = null
      if (type !== 'attempt.ended') waiting.delete(position)
    }
  }
  if (waiting.size > 0) wrong.push(`${waiting.size} turns have no outcome`)
  return wrong
}
