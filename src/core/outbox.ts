/** The outbox: what becomes of a job, or of an event for a webhook, after a try. */

import { cleanText } from './plain-json.ts'

/** `why` is for operators. */
export type Outcome =
  | { outcome: 'done' }
  /** `afterMs`: not before. */
  | { outcome: 'again'; afterMs?: number; why: string }
  /** No try will do better. */
  | { outcome: 'never'; why: string }

export type TryPolicy = { attemptsMax: number; backoffMinMs: number }

/** As `holdfast.outbox` stores it. `untried`: it was not tried at all, and may be as often as before. */
export type Ending =
  | { state: 'done' }
  | { state: 'due'; afterMs: number; error: string | null; untried?: true }
  | { state: 'dead'; error: string }

const backoffMaxMs = 6 * 3_600_000
/** Who wants to be left alone for longer is asked all the same. */
const afterMaxMs = 24 * 3_600_000
const errorCharactersMax = 500

/** `tries`: with this one. `random`: 0 ≤ x < 1. */
export function endingOf(outcome: Outcome, tries: number, policy: TryPolicy, random: number): Ending {
  if (outcome.outcome === 'done') return { state: 'done' }
  const error = [...cleanText(outcome.why)].slice(0, errorCharactersMax).join('')
  if (outcome.outcome === 'never' || tries >= policy.attemptsMax) return { state: 'dead', error }
  const wanted = Math.min(afterMaxMs, Math.max(0, Math.ceil(outcome.afterMs ?? 0)))
  const ceiling = Math.min(backoffMaxMs, policy.backoffMinMs * 2 ** (tries - 1))
  // Full jitter, also after a wait that was asked for: the same was asked of all others.
  return { state: 'due', afterMs: wanted + Math.round(random * ceiling), error }
}
