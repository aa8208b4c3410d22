/**
 * What nobody else did, every few seconds on every runner: stops that could not be completed, turns that were never
 * begun in time, questions that nobody has answered in time, heads of lanes that were not made due, chunks that are no
 * longer needed, tickets that nobody used, and the planner's picture of tables that grew.
 */
import { expiredAnswers } from '../core/asks.ts'
import { failureOf } from '../core/errors.ts'
import { stopTurn } from '../log/stop.ts'
import type { Wakeups } from '../log/wakeups.ts'
import { expireAsks } from '../store/asks.ts'
import type { Database } from '../store/database.ts'
import { refreshStatistics } from '../store/statistics.ts'
import { sweepTickets } from '../store/tickets.ts'
import { expire, failingOf, repair, sweep, turnsStopping } from '../store/turns.ts'

const rowsMax = 100

type Stopping = Awaited<ReturnType<typeof turnsStopping>>[number]

export type Sweeper = { start(): void; sweep(): Promise<void>; stop(): void }

export function createSweeper(options: {
  database: Database
  wakeups: Wakeups
  everyMs: number
  roundsMax: number
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

  async function sweepOnce(): Promise<void> {
    for (const stopping of await turnsStopping(database, rowsMax)) {
      // One that cannot be completed keeps nobody else waiting.
      await completeStop(stopping).catch((error: unknown) => log('stop not completed', { error: String(error) }))
    }
    const expired = failingOf(failureOf('expired'), options.roundsMax)
    for (const { tenantId, sessionId, event } of await expire(database, rowsMax, expired)) {
      wakeups.tell({ tenantId, sessionId, events: [event], runs: [], due: true })
    }
    for (const { tenantId, sessionId, event } of await expireAsks(database, rowsMax, expiredAnswers, overBudget)) {
      wakeups.tell({ tenantId, sessionId, events: [event], runs: [], due: true })
    }
    const repaired = await repair(database, rowsMax)
    if (repaired > 0) log('lanes without a due head were repaired', { lanes: repaired })
    while ((await sweep(database, rowsMax)) === rowsMax);
    while ((await sweepTickets(database, rowsMax)) === rowsMax);
    // Waits where somebody vacuums or builds an index, and gives up: last, so that nothing else is left undone by it.
    await refreshStatistics(database).catch((error: unknown) =>
      log('statistics not refreshed', { error: String(error) }),
    )
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
      sweepOnce()
        .catch((error: unknown) => log('sweep failed', { error: String(error) }))
        .finally(() => stopped || schedule())
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
