/**
 * What nobody else did, every few seconds on every runner: stops that could not be completed, turns that were never
 * begun in time, questions that nobody has answered in time, budgets that have room again, heads of lanes that were not made
 * due, chunks that are no longer needed, tickets that nobody used, costs of steps that were estimated, notices and jobs that
 * are over, ids of events long published, and the planner's picture of tables that grew. A job that fails keeps no other
 * from running.
 */
import { expiredAnswers } from '../core/asks.ts'
import { failureOf } from '../core/errors.ts'
import { stopTurn } from '../log/stop.ts'
import type { Wakeups } from '../log/wakeups.ts'
import { expireAsks } from '../store/asks.ts'
import { renewBudgets } from '../store/budgets.ts'
import type { Database } from '../store/database.ts'
import { firstKey, repairOutbox, sweepOutbox } from '../store/outbox.ts'
import { sweepPublished } from '../store/publish.ts'
import { sweepPushes } from '../store/pushes.ts'
import { refreshStatistics } from '../store/statistics.ts'
import { sweepTickets } from '../store/tickets.ts'
import { type BadRow, type ExpiredRow, expire, failingOf, repair, sweep, turnsStopping } from '../store/turns.ts'
import type { PriceOf } from '../usage/ledger.ts'
import { priceEstimated } from '../usage/ledger-prices.ts'

const rowsMax = 100

type Stopping = Awaited<ReturnType<typeof turnsStopping>>[number]

export type Sweeper = { start(): void; sweep(): Promise<void>; stop(): void }

export function createSweeper(options: {
  database: Database
  wakeups: Wakeups
  everyMs: number
  roundsMax: number
  priceOf: PriceOf
  log: (line: string, detail: object) => void
}): Sweeper {
  const { database, wakeups, everyMs, log } = options
  const exceeded = failingOf(failureOf('budget_exceeded'), options.roundsMax)
  const overBudget = {
    steps: exceeded,
    tokens: exceeded,
    progress: failingOf(failureOf('no_progress'), options.roundsMax),
  }
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  let outboxAfter = firstKey

  async function completeStops(limit: number): Promise<void> {
    for (const stopping of await turnsStopping(database, limit)) {
      // One that cannot be completed keeps nobody else waiting.
      await completeStop(stopping).catch((error: unknown) => log('stop not completed', { error: String(error) }))
    }
  }

  const onBad = (bad: BadRow) => log('a turn or question could not be ended in time', bad)
  function tellExpired(rows: ExpiredRow[]): void {
    for (const { tenantId, sessionId, event } of rows) {
      wakeups.tell({ tenantId, sessionId, events: [event], runs: [], due: true })
    }
  }

  const jobs: { [name: string]: (limit: number) => Promise<unknown> } = {
    stops: completeStops,
    turns: async (limit) =>
      tellExpired(await expire(database, limit, failingOf(failureOf('expired'), options.roundsMax), onBad)),
    questions: async (limit) => tellExpired(await expireAsks(database, limit, expiredAnswers, overBudget, onBad)),
    budgets: async (limit) => tellExpired(await renewBudgets(database, limit, onBad)),
    async lanes(limit) {
      const repaired = await repair(database, limit)
      if (repaired > 0) log('lanes without a due head were repaired', { lanes: repaired })
    },
    async chunks(limit) {
      while ((await sweep(database, limit)) === limit);
    },
    async tickets(limit) {
      while ((await sweepTickets(database, limit)) === limit);
    },
    async pushes(limit) {
      while ((await sweepPushes(database, limit)) === limit);
    },
    async prices(limit) {
      while ((await priceEstimated(database, options.priceOf, limit)) === limit);
    },
    async outbox(limit) {
      while ((await sweepOutbox(database, limit)) === limit);
      // A part of the keys that wait each time.
      const { repaired, next } = await repairOutbox(database, outboxAfter, limit)
      outboxAfter = next
      if (repaired > 0) log('jobs that waited for one that is gone were repaired', { keys: repaired })
    },
    async published(limit) {
      while ((await sweepPublished(database, limit)) === limit);
    },
    // Waits where somebody vacuums or builds an index, and gives up: last, because it holds the others up as long.
    statistics: () => refreshStatistics(database),
  }
  /** Those that failed the last time take one row the next time: what is too much together may go alone. */
  const failed = new Set<string>()

  async function sweepOnce(): Promise<void> {
    // By what went wrong: where the database is away that is one line, not one of each job.
    const errors = new Map<string, string[]>()
    for (const [name, job] of Object.entries(jobs)) {
      const limit = failed.delete(name) ? 1 : rowsMax
      await job(limit).catch((error: unknown) => {
        failed.add(name)
        errors.set(String(error), [...(errors.get(String(error)) ?? []), name])
      })
    }
    for (const [error, names] of errors) log('sweep failed', { jobs: names.join(', '), error })
  }

  /** Only of the round that was marked: another process may have completed it since, and somebody begun a new one. */
  async function completeStop({ tenantId, sessionId, messageId, by, round }: Stopping): Promise<void> {
    const done = await stopTurn(database, {
      tenantId,
      sessionId,
      messageId,
      by,
      reason: null,
      round,
      userId: null,
    })
    if (done.outcome === 'stopped') wakeups.tell({ tenantId, sessionId, events: [done.event], runs: [], due: true })
  }

  function schedule(): void {
    timer = setTimeout(() => {
      void sweepOnce().finally(() => stopped || schedule())
    }, everyMs)
    timer.unref()
  }

  return {
    start: schedule,
    sweep: sweepOnce,
    stop() {
      stopped = true
      clearTimeout(timer)
    },
  }
}
