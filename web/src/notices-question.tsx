/** Notices, asked for where they are of use, and the switch for them. */
import { CloseIcon } from './icons.tsx'
import { decline, turnOff, turnOn, useNotices, useOffer } from './notices.ts'
import { useIsLate } from './times.ts'

/** A reply that is there at once needs no notice. */
const worthwhileMs = 1_000

const refusedWords =
  'This browser does not show notices of this site. Allow them in the settings of the site, beside its address; then turn them on below the list of chats.'

/** While a reply runs: whoever wants to leave may be told when it is ready. It is asked once. */
export function NoticesQuestion({ isRunning }: { isRunning: boolean }) {
  const { phase, mayAsk, isBusy, problem } = useNotices()
  const isLate = useIsLate(isRunning, worthwhileMs)
  useOffer(isLate)
  const isAsked = isLate && mayAsk && phase === 'off'
  return (
    <div className={isAsked ? 'notices-question' : undefined}>
      {isAsked && (
        <>
          <button type="button" className="text-button" aria-disabled={isBusy} onClick={() => void turnOn()}>
            Tell me when it is ready
          </button>
          <button
            type="button"
            className="quiet-button"
            aria-label="No notices"
            title="No notices. The switch below the list of chats turns them on later."
            onClick={decline}
          >
            <CloseIcon />
          </button>
        </>
      )}
      <p role="status">{isAsked && problem}</p>
    </div>
  )
}

/** Below the list of chats. Absent where there are no notices, or nothing is known of them so far. */
export function NoticesSwitch() {
  const { phase, isBusy, problem } = useNotices()
  if (phase === 'none') return null
  const isOn = phase === 'on'
  return (
    <div className="notices-switch">
      <button
        type="button"
        role="switch"
        aria-checked={isOn}
        aria-disabled={isBusy}
        aria-describedby="notices-words"
        onClick={() => void (isOn ? turnOff() : turnOn())}
      >
        <span>Notices on this device</span>
        <span className="notices-knob" aria-hidden="true" />
      </button>
      <p id="notices-words" role="status">
        {problem ?? (phase === 'refused' ? refusedWords : isOn ? 'You are told when a reply is ready.' : '')}
      </p>
    </div>
  )
}
