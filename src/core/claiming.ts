/**
 * The runner's machine: when to claim, how many, and whether leases of others may be taken.
 *
 * A claim happens on a wake, at the next due time, and each `pollMs` in any case. While one is under way a wake is
 * remembered, because the claim may have looked before what the wake is about was committed. After an error of the
 * database the process renews what it holds before it claims, and leaves expired leases alone for one poll: a lease
 * that ran out while nobody could reach the database belongs to its holder first. A process that was paused, or whose
 * event loop was blocked (its timer comes much too late), renews first too, or it would take its own turns over.
 */
export type Claiming = {
  readonly concurrency: number
  readonly pollMs: number
  running: number
  claiming: boolean
  wokenMeanwhile: boolean
  draining: boolean
  /** When the machine wants to be woken, whatever happens. */
  wakeAtMs: number
  lastErrorMs: number | null
  /** Since the last claim that renewed first the database failed, or this process was paused. */
  mustRenew: boolean
  /** Since an error no claim was answered. */
  unanswered: boolean
}

export type ClaimInput =
  | { type: 'start' }
  | { type: 'wake' }
  | { type: 'timer' }
  | { type: 'claimed'; taken: number; dueInMs: number | null }
  | { type: 'claim-failed' }
  | { type: 'database-failed' }
  | { type: 'attempt-ended' }
  | { type: 'drain' }

export type ClaimEffect =
  | { type: 'claim'; limit: number; takeExpired: boolean; renewFirst: boolean }
  /** Replaces the timer set before. */
  | { type: 'timer'; atMs: number }

/** One claim takes no more, so that processes share a backlog and a claim stays short. */
const claimMax = 20
/** What is due and could not be taken is locked by somebody, or about to be settled: not asked for in a tight loop. */
const dueAgainMs = 50

export function createClaiming(options: { concurrency: number; pollMs: number }): Claiming {
  return {
    ...options,
    running: 0,
    claiming: false,
    wokenMeanwhile: false,
    draining: false,
    wakeAtMs: Number.POSITIVE_INFINITY,
    lastErrorMs: null,
    mustRenew: false,
    unanswered: false,
  }
}

/** Changes `state` and says what is to be done. `nowMs` is monotonic. */
export function claimingNext(state: Claiming, input: ClaimInput, nowMs: number): ClaimEffect[] {
  if (nowMs - state.wakeAtMs >= state.pollMs) state.mustRenew = true
  switch (input.type) {
    case 'start':
    case 'wake':
    case 'timer':
      return look(state, nowMs)
    case 'attempt-ended': {
      const wasFull = state.running >= state.concurrency
      state.running--
      return wasFull ? look(state, nowMs) : []
    }
    case 'claimed': {
      state.claiming = false
      state.running += input.taken
      // The poll that is left to holders begins when the database is back, not when it was last missed.
      if (state.unanswered) state.lastErrorMs = nowMs
      state.unanswered = false
      const more = state.wokenMeanwhile || input.taken >= claimMax
      state.wokenMeanwhile = false
      if (more) return look(state, nowMs)
      return timer(state, nowMs + waitAfterClaim(state, input))
    }
    case 'claim-failed':
      state.claiming = false
      state.wokenMeanwhile = false
      state.unanswered = true
      databaseFailed(state, nowMs)
      return timer(state, nowMs + state.pollMs)
    case 'database-failed':
      databaseFailed(state, nowMs)
      return []
    case 'drain':
      state.draining = true
      return []
  }
}

function databaseFailed(state: Claiming, nowMs: number): void {
  state.lastErrorMs = nowMs
  state.mustRenew = true
}

function waitAfterClaim({ pollMs }: Claiming, { taken, dueInMs }: { taken: number; dueInMs: number | null }): number {
  const dueMs = dueInMs ?? pollMs
  return Math.min(pollMs, taken === 0 ? Math.max(dueMs, dueAgainMs) : dueMs)
}

function look(state: Claiming, nowMs: number): ClaimEffect[] {
  if (state.claiming) {
    state.wokenMeanwhile = true
    return []
  }
  const limit = Math.min(claimMax, state.concurrency - state.running)
  // Full: the end of an attempt looks again. The timer stays set for what else may happen.
  if (state.draining || limit <= 0) return timer(state, nowMs + state.pollMs)
  state.claiming = true
  const sinceError = state.lastErrorMs === null ? Number.POSITIVE_INFINITY : nowMs - state.lastErrorMs
  const takeExpired = !state.unanswered && sinceError >= state.pollMs
  const renewFirst = state.mustRenew
  state.mustRenew = false
  return [{ type: 'claim', limit, takeExpired, renewFirst }]
}

function timer(state: Claiming, atMs: number): ClaimEffect[] {
  if (state.draining) return []
  state.wakeAtMs = atMs
  return [{ type: 'timer', atMs }]
}
