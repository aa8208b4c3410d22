/**
 * What follows when an attempt ended by an error: another attempt after a wait, or the end of the round. A head that
 * waits holds its lane, so a provider that wants to be left alone for long fails the turn and tells when to come back.
 */
import { type Failure, failureOf, type ReplyError, turnErrors } from './errors.ts'

export type RetryPolicy = { attemptsMax: number; backoffMinMs: number; backoffMaxMs: number; retryAfterMaxMs: number }
export const retryPolicy: Omit<RetryPolicy, 'attemptsMax'> = {
  backoffMinMs: 500,
  backoffMaxMs: 30_000,
  retryAfterMaxMs: 60_000,
}

/** `failures`: attempts of this round that ended by an error before this one. `random`: 0 ≤ x < 1. */
export function afterError(
  error: ReplyError,
  failures: number,
  policy: RetryPolicy,
  random: number,
): { retryMs: number } | { failure: Failure } {
  const { transient } = turnErrors[error.code]
  const retryAfterMs = wholeMs(error.retryAfterMs)
  const wanted = retryAfterMs ?? 0
  if (!transient || failures + 1 >= policy.attemptsMax || wanted > policy.retryAfterMaxMs) {
    return { failure: failureOf(error.code, retryAfterMs) }
  }
  const ceiling = Math.min(policy.backoffMaxMs, policy.backoffMinMs * 2 ** failures)
  // Also after the provider's own wait: it says the same to all whom it refuses, and they would all come back at once.
  return { retryMs: wanted + Math.round(random * ceiling) }
}

/** An app's own error may say anything; the store takes whole milliseconds. */
function wholeMs(ms: number | undefined): number | undefined {
  return ms !== undefined && Number.isFinite(ms) ? Math.max(0, Math.ceil(ms)) : undefined
}
