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
import type { Event } from '../core/event.ts'
import type { Appender } from '../log/append.ts'
import { lookEveryMs, type Note, type Wakeups } from '../log/wakeups.ts'
import { type Database, DatabaseError } from '../store/database.ts'
import { type ClaimAnswer, type Claimed, claim, failingOf } from '../store/turns.ts'
import type { Attempt, AttemptOptions } from './attempt.ts'
import { runAttempt } from './attempt-run.ts'
import { mayBeUntitled, type TitleOptions, titleFirst } from './title.ts'

export type RunnerOptions = Omit<AttemptOptions, 'onEvent' | 'onComplete'> &
  Omit<TitleOptions, 'onEvent'> & {
    wakeups: Wakeups
    appender: Appender
    database: Database
    leaseMs: number
    pollMs: number
    concurrency: number
    crashesMax: number
    takeover: 'continue' | 'restart' | 'fail'
  }

export type Runner = {
  start(): void
  /** A note was heard: look for turns that fell due. */
  hear(note: Note | null): void
  databaseFailed(): void
  /** Nothing wakes this process: it looks more often. */
  deaf(deaf: boolean): void
  /**
   * Resolves when nothing runs here, nothing is due and nothing waits to be tried again, as a claim after this call has
   * seen. For processes that are frozen when they have nothing to do.
   */
  whenIdle(): Promise<void>
  /**
   * Claims nothing more, lets running attempts end for `drainMs`, then hands them over (they are due at once for
   * others). Resolves when none is left, or 5 s after that. Idempotent.
   */
  stop(drainMs: number): Promise<void>
}

type ClaimOnce = Extract<ClaimEffect, { type: 'claim' }>

/** Sessions of this process that wait for their titles. Those that come then have none. */
const titlesMax = 1_000

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
  const titles = new Set<Promise<void>>()
  /** Until the database has said what time it is, nothing has run out. */
  let expiredBefore: string | undefined
  let timer: NodeJS.Timeout | undefined
  let stopped: Promise<void> | undefined
  let onEnded: (() => void) | undefined
  let gone = false
  /** Of the last claim that was answered: its number, and when something falls due. Null: nothing is queued. */
  let seen: { claim: number; dueInMs: number | null } = { claim: 0, dueInMs: null }
  let idlers: { since: number; resolve: () => void }[] = []
  let paused = false

  const attemptOptions: AttemptOptions = {
    ...options,
    onEvent: ({ tenantId, sessionId }, event) =>
      wakeups.tell({ tenantId, sessionId, events: [event], runs: [], due: true }),
    onComplete: giveTitle,
  }

  /** Beside the attempt, which ends meanwhile: its lane and its place among the attempts are free. */
  function giveTitle(attempt: Attempt, event: Event): void {
    if (!mayBeUntitled(options, attempt)) return
    if (titles.size >= titlesMax) {
      options.log('title: the session has none', {
        sessionId: attempt.claimed.sessionId,
        why: 'too many wait for theirs',
      })
      return
    }
    const onEvent: AttemptOptions['onEvent'] = ({ tenantId, sessionId }, updated) =>
      wakeups.tell({ tenantId, sessionId, events: [updated], runs: [], due: false })
    const giving = titleFirst({ ...options, onEvent }, attempt, event).finally(() => {
      titles.delete(giving)
      ended()
    })
    titles.add(giving)
  }

  function input(what: ClaimInput): void {
    for (const effect of claimingNext(state, what, performance.now())) perform(effect)
  }

  function perform(effect: ClaimEffect): void {
    if (gone) return
    if (effect.type === 'timer') {
      clearTimeout(timer)
      timer = setTimeout(() => input({ type: 'timer' }), Math.max(0, effect.atMs - performance.now()))
      return
    }
    const claiming = claimSome(effect)
      .then(input)
      .finally(() => {
        claims.delete(claiming)
        ended()
      })
    claims.add(claiming)
  }

  /** Resolves to what is to be told to the machine; never rejects. */
  async function claimSome(effect: ClaimOnce): Promise<ClaimInput> {
    let sent = false
    try {
      if (effect.renewFirst) await appender.renewAll()
      const sentAtMs = performance.now()
      await point('claim.send')
      sent = true
      const answer = await ask(effect)
      expiredBefore = answer.seenAt
      sayPaused(answer.paused)
      await point('claim.answered')
      if (answer.claimed.length > 0) await point('claim.taken')
      for (const { tenantId, sessionId, events } of [...answer.failed, ...answer.claimed]) {
        wakeups.tell({ tenantId, sessionId, events, runs: [], due: false })
      }
      for (const claimed of answer.claimed) begin(claimed, sentAtMs)
      seen = { claim: effect.claim, dueInMs: answer.dueInMs }
      return { type: 'claimed', taken: answer.claimed.length, dueInMs: answer.dueInMs }
    } catch (error) {
      options.log('claim failed', { error: String(error) })
      return { type: sent && mayBeDone(error) ? 'claim-lost' : 'claim-failed' }
    }
  }

  /** Once each time that it changes: a server that is paused looks like one that hangs. */
  function sayPaused(isPaused: boolean): void {
    if (isPaused === paused) return
    paused = isPaused
    options.log(isPaused ? 'paused: no turn begins until "holdfast resume"' : 'resumed: turns begin again', {})
  }

  function ask({ claim: number, lost, limit, takeExpired }: ClaimOnce): Promise<ClaimAnswer> {
    return claim(database, {
      runner: name,
      claim: number,
      lost,
      leaseMs,
      limit,
      takeExpired: takeExpired && expiredBefore !== undefined,
      expiredBefore,
      crashesMax,
      takeover: options.takeover,
      crashed: failingOf(failureOf('crashed'), options.roundsMax),
    })
  }

  function begin(claimed: Claimed, sentAtMs: number): void {
    const running = runAttempt(attemptOptions, claimed, sentAtMs, handover.signal).finally(() => {
      attempts.delete(running)
      input({ type: 'attempt-ended' })
      ended()
    })
    attempts.add(running)
  }

  async function drain(drainMs: number): Promise<void> {
    clearTimeout(timer)
    input({ type: 'drain' })
    const handOver = setTimeout(() => handover.abort(), drainMs)
    await new Promise<void>((resolve) => {
      const giveUp = setTimeout(resolve, drainMs + handoverMs)
      giveUp.unref()
      onEnded = () => {
        clearTimeout(giveUp)
        resolve()
      }
      ended()
    })
    clearTimeout(handOver)
    gone = true
    clearTimeout(timer)
    for (const { resolve } of idlers.splice(0)) resolve()
  }

  /** Says so where nothing of this runner is under way, also no claim that may have taken turns. */
  function ended(): void {
    if (attempts.size > 0 || claims.size > 0 || titles.size > 0 || state.lost.length > 0) return
    onEnded?.()
    if (seen.dueInMs !== null && !gone) return
    const idle = idlers.filter(({ since }) => gone || seen.claim > since)
    idlers = idlers.filter((each) => !idle.includes(each))
    for (const { resolve } of idle) resolve()
  }

  return {
    start: () => input({ type: 'start' }),
    hear(note) {
      if (note === null || note.due) input({ type: 'wake' })
    },
    databaseFailed: () => input({ type: 'database-failed' }),
    whenIdle: () =>
      new Promise((resolve) => {
        if (gone) return resolve()
        idlers.push({ since: state.claims, resolve })
        input({ type: 'wake' })
      }),
    deaf: (deaf) => input({ type: 'look-every', ms: lookEveryMs(options.pollMs, deaf) }),
    stop(drainMs) {
      stopped ??= drain(drainMs)
      return stopped
    },
  }
}

/** All but what the database says that it has not done. */
function mayBeDone(error: unknown): boolean {
  return !(error instanceof DatabaseError) || error.kind === 'unknown'
}
