/**
 * The runner's machine: when to claim, how many, and whether leases of others may be taken.
 *
 * A claim happens on a wake, at the next due time, and each `lookMs` in any case: that is `pollMs`, or less where
 * nothing wakes. While one is under way a wake is
 * remembered, because the claim may have looked before what the wake is about was committed. After an error of the
 * database the process renews what it holds before it claims, and leaves expired leases alone for one poll: a lease
 * that ran out while nobody could reach the database belongs to its holder first. A process that was paused, or whose
 * event loop was blocked (its timer comes much too late), renews first too, or it would take its own turns over.
 *
 * Claims are numbered. One whose answer was lost may have taken turns, or may still be under way at the server: its
 * number goes along with the claims after it, also when there is no room or the process drains, so that what it took
 * is run under the lease and the attempt that it has, and nobody counts a crash. It is forgotten when the server has
 * answered for so long that the lost statement must have ended.
 */
export type Claiming = {
  readonly concurrency: number
  readonly pollMs: number
  lookMs: number
  /** The number of the last claim. */
  claims: number
  /** `forgetAtMs`: null until the server has answered again. */
  lost: { claim: number; forgetAtMs: number | null }[]
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
  /** It was not carried out, or not even sent. */
  | { type: 'claim-failed' }
  /** Nobody knows whether it was carried out. */
  | { type: 'claim-lost' }
  | { type: 'database-failed' }
  | { type: 'attempt-ended' }
  /** No more than `pollMs`. */
  | { type: 'look-every'; ms: number }
  | { type: 'drain' }

export type ClaimEffect =
  /** `lost`: the numbers of claims that were lost. With a limit of 0 only what those took is asked for. */
  | { type: 'claim'; claim: number; lost: number[]; limit: number; takeExpired: boolean; renewFirst: boolean }
  /** Replaces the timer set before. */
  | { type: 'timer'; atMs: number }

/** One claim takes no more, so that processes share a backlog and a claim stays short. */
const claimMax = 20
/** What is due and could not be taken is locked by somebody, or about to be settled: not asked for in a tight loop. */
const dueAgainMs = 50
/** After a claim that failed: a turn that it took waits for this. */
const askAgainMs = 250
/** The server ends a statement after 10 s (store/database.ts); and one that it had read but not begun needs a moment. */
const lostForMs = 15_000
/** Beyond, the oldest is forgotten: its turns wait for their lease to run out. */
const lostMax = 100

export function createClaiming(options: { concurrency: number; pollMs: number }): Claiming {
  return {
    ...options,
    lookMs: options.pollMs,
    claims: 0,
    lost: [],
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
      forgetLost(state, nowMs)
      const more = state.wokenMeanwhile || input.taken >= claimMax
      state.wokenMeanwhile = false
      if (more) return look(state, nowMs)
      return timer(state, nowMs + waitAfterClaim(state, input))
    }
    case 'claim-lost':
      // The server may hang: those before are under way for longer, too.
      state.lost = [...state.lost, { claim: state.claims, forgetAtMs: null }]
        .slice(-lostMax)
        .map(({ claim }) => ({ claim, forgetAtMs: null }))
      return claimFailed(state, nowMs)
    case 'claim-failed':
      return claimFailed(state, nowMs)
    case 'database-failed':
      databaseFailed(state, nowMs)
      return []
    case 'look-every':
      state.lookMs = input.ms
      return look(state, nowMs)
    case 'drain':
      state.draining = true
      return state.lost.length > 0 ? look(state, nowMs) : []
  }
}

function claimFailed(state: Claiming, nowMs: number): ClaimEffect[] {
  state.claiming = false
  state.wokenMeanwhile = false
  state.unanswered = true
  databaseFailed(state, nowMs)
  return timer(state, nowMs + Math.min(state.pollMs, askAgainMs))
}

/** Who drains has asked once more, and that is all. */
function forgetLost(state: Claiming, nowMs: number): void {
  if (state.draining) state.lost = []
  state.lost = state.lost
    .map(({ claim, forgetAtMs }) => ({ claim, forgetAtMs: forgetAtMs ?? nowMs + lostForMs }))
    .filter(({ forgetAtMs }) => nowMs < forgetAtMs)
}

function databaseFailed(state: Claiming, nowMs: number): void {
  state.lastErrorMs = nowMs
  state.mustRenew = true
}

function waitAfterClaim(state: Claiming, { taken, dueInMs }: { taken: number; dueInMs: number | null }): number {
  const { lookMs } = state
  if (state.running >= state.concurrency) return lookMs
  const dueMs = dueInMs ?? lookMs
  return Math.min(lookMs, taken === 0 ? Math.max(dueMs, dueAgainMs) : dueMs)
}

function look(state: Claiming, nowMs: number): ClaimEffect[] {
  if (state.claiming) {
    state.wokenMeanwhile = true
    return []
  }
  const limit = state.draining ? 0 : Math.max(0, Math.min(claimMax, state.concurrency - state.running))
  // Full: the end of an attempt looks again. The timer stays set for what else may happen.
  if (limit === 0 && state.lost.length === 0) return timer(state, nowMs + state.lookMs)
  state.claiming = true
  state.claims++
  const sinceError = state.lastErrorMs === null ? Number.POSITIVE_INFINITY : nowMs - state.lastErrorMs
  const takeExpired = !state.unanswered && sinceError >= state.pollMs
  const renewFirst = state.mustRenew
  state.mustRenew = false
  const lost = state.lost.map(({ claim }) => claim)
  return [{ type: 'claim', claim: state.claims, lost, limit, takeExpired, renewFirst }]
}

function timer(state: Claiming, atMs: number): ClaimEffect[] {
  if (state.draining && state.lost.length === 0) return []
  state.wakeAtMs = atMs
  return [{ type: 'timer', atMs }]
}
