/** Why something was not done, and when it may be. */
import type { Refusal } from './commands.ts'
import { AlertIcon, ClockIcon } from './icons.tsx'
import { untilOf, useNow } from './times.ts'

type CooldownProps = { until: number; why: string; then: 'Sent by itself' | 'You can try again' }

/** Counts down for the eye; said once to a screen reader. */
export function Cooldown({ until, why, then }: CooldownProps) {
  const seconds = Math.max(0, Math.ceil((until - useNow(250, true)) / 1000))
  const when = isFar(until) ? `at ${untilOf(new Date(until).toISOString())}` : `in ${seconds} s`
  return (
    <span className="cooldown">
      <ClockIcon />
      <span role="status">
        {why} <span className="sr-only">{isFar(until) ? `${then} ${when}.` : `${then}, in a moment.`}</span>
      </span>
      <span aria-hidden="true">
        {then} {when}
      </span>
    </span>
  )
}

/** Limits of a minute end within it. What lasts longer is a budget, and nobody counts its seconds. */
const isFar = (until: number) => until - Date.now() > 2 * 60_000

export const tooManyUntil = (until: number) => (isFar(until) ? 'A budget is used up.' : 'Too many at once.')

/** Why a command was not done, in the server's words, where it was given. */
export const Refused = ({ refusal }: { refusal: Refusal | null }) =>
  refusal &&
  (refusal.until === null ? (
    <p className="failure" role="alert">
      <AlertIcon /> <span>{refusal.detail}</span>
    </p>
  ) : (
    <p className="status">
      <Cooldown until={refusal.until} why={tooManyUntil(refusal.until)} then="You can try again" />
    </p>
  ))
