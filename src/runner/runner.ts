/**
 * The runner: claims turns and runs attempts. When to do what is decided by the machine in core/claiming; this shell
 * performs it. It meets the http side only in Postgres: a message that was accepted is found by a claim, whoever
 * accepted it, and a wakeup only makes that soon.
 */
import { randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { point } from '#points'
import { type ClaimEffect, type ClaimInput, claimingNext, createClaiming } from '../core/claiming.ts'
import { failureOf } from '../core/errors.ts'
import type { Appender } from '../log/append.ts'
import type { Note, Wakeups } from '../log/wakeups.ts'
import type { Database } from '../store/database.ts'
import { type Claimed, claim } from '../store/turns.ts'
import type { AttemptOptions } from './attempt.ts'
import { runAttempt } from './attempt-run.ts'

export type RunnerOptions = Omit<AttemptOptions, 'onEvent'> & {
  wakeups: Wakeups
  appender: Appender
  database: Database
  leaseMs: number
  pollMs: number
  concurrency: number
  crashesMax: number
}

export type Runner = {
  start(): void
  /** A note was heard: look for turns that fell due. */
  hear(note: Note | null): void
  databaseFailed(): void
  /**
   * Claims nothing more, lets running attempts end for `drainMs`, then hands them over (they are due at once for
   * others). Resolves when none is left, or 5 s after that. Idempotent.
   */
  stop(drainMs: number): Promise<void>
}

/** A database that does not answer keeps nobody from ending: what was not handed over is taken over by its lease. */
const handoverMs = 5_000

export function createRunner(options: RunnerOptions): Runner {
  const { database, appender, wakeups, leaseMs, crashesMax } = options
  const name = randomUUID()
  const state = createClaiming(options)
  const handover = new AbortController()
  // One listener per attempt.
  setMaxListeners(0, handover.signal)
  const attempts = new Set<Promise<void>>()
  const claims = new Set<Promise<void>>()
  /** Until the database has said what time it is, nothing has run out. */
  let expiredBefore: string | undefined
  let timer: NodeJS.Timeout | undefined
  let stopped: Promise<void> | undefined

  const attemptOptions: AttemptOptions = {
    ...options,
    onEvent: ({ tenantId, sessionId }, event) =>
      wakeups.tell({ tenantId, sessionId, events: [event], runs: [], due: true }),
  }

  function input(what: ClaimInput): void {
    for (const effect of claimingNext(state, what, performance.now())) perform(effect)
  }

  function perform(effect: ClaimEffect): void {
    if (effect.type === 'timer') {
      clearTimeout(timer)
      timer = setTimeout(() => input({ type: 'timer' }), Math.max(0, effect.atMs - performance.now()))
      return
    }
    const claiming = claimSome(effect)
      .catch((error: unknown) => {
        options.log('claim failed', { error: String(error) })
        input({ type: 'claim-failed' })
      })
      .finally(() => claims.delete(claiming))
    claims.add(claiming)
  }

  async function claimSome({ limit, takeExpired, renewFirst }: Extract<ClaimEffect, { type: 'claim' }>): Promise<void> {
    if (renewFirst) await appender.renewAll()
    const sentAtMs = performance.now()
    await point('claim.send')
    const crashed = failureOf('crashed')
    const answer = await claim(database, {
      runner: name,
      leaseMs,
      limit,
      takeExpired: takeExpired && expiredBefore !== undefined,
      expiredBefore,
      crashesMax,
      crashed,
    })
    expiredBefore = answer.seenAt
    await point('claim.answered')
    if (answer.claimed.length > 0) await point('claim.taken')
    for (const { tenantId, sessionId, events } of [...answer.failed, ...answer.claimed]) {
      wakeups.tell({ tenantId, sessionId, events, runs: [], due: false })
    }
    for (const claimed of answer.claimed) begin(claimed, sentAtMs)
    input({ type: 'claimed', taken: answer.claimed.length, dueInMs: answer.dueInMs })
  }

  function begin(claimed: Claimed, sentAtMs: number): void {
    const running = runAttempt(attemptOptions, claimed, sentAtMs, handover.signal).finally(() => {
      attempts.delete(running)
      input({ type: 'attempt-ended' })
    })
    attempts.add(running)
  }

  async function drain(drainMs: number): Promise<void> {
    input({ type: 'drain' })
    clearTimeout(timer)
    const late = setTimeout(() => handover.abort(), drainMs)
    const goneMs = drainMs + handoverMs
    await Promise.race([ended(), new Promise((resolve) => setTimeout(resolve, goneMs).unref())])
    clearTimeout(late)
  }

  async function ended(): Promise<void> {
    while (attempts.size > 0 || claims.size > 0) await Promise.all([...attempts, ...claims])
  }

  return {
    start: () => input({ type: 'start' }),
    hear(note) {
      if (note === null || note.due) input({ type: 'wake' })
    },
    databaseFailed: () => input({ type: 'database-failed' }),
    stop(drainMs) {
      stopped ??= drain(drainMs)
      return stopped
    },
  }
}
