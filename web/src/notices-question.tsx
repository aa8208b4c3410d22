/** Notices, asked for where they are of use, and the switch for them. */
import { useState } from 'react'
import { CloseIcon } from './icons.tsx'
import { decline, type Notices, turnOff, turnOn, useNotices, useOffer } from './notices.ts'
import { useIsLate } from './times.ts'

/** A reply that is there at once needs no notice. */
const worthwhileMs = 1_000

const refusedWords =
  'This browser shows no notices of this site. Allow them in its settings for the site, beside the address; then'

/** While a reply runs: whoever wants to leave may be told when it is ready. It is asked once, and answered here. */
export function NoticesQuestion({ isRunning, onDone }: { isRunning: boolean; onDone(): void }) {
  const { phase, mayAsk, isBusy, problem } = useNotices()
  const isLate = useIsLate(isRunning, worthwhileMs)
  const [isAnswered, setAnswered] = useState(false)
  useOffer(isLate)
  const isAsked = isLate && mayAsk && phase === 'off'
  const words = isLate && (problem ?? (isAnswered ? answerWords[phase] : null))
  const tell = async () => {
    setAnswered(true)
    await turnOn()
    onDone()
  }
  return (
    <div className={isAsked || words ? 'notices-question' : undefined}>
      {isAsked && (
        <>
          <button type="button" className="text-button" aria-disabled={isBusy} onClick={() => void tell()}>
            Tell me when it is ready
          </button>
          <button
            type="button"
            className="quiet-button"
            aria-label="No notices"
            title="No notices. The switch below the list of chats turns them on later."
            onClick={() => {
              decline()
              onDone()
            }}
          >
            <CloseIcon />
          </button>
        </>
      )}
      <p role="status">{words}</p>
    </div>
  )
}

const answerWords: { [Phase in Notices['phase']]: string | null } = {
  none: null,
  off: null,
  on: 'You are told on this device when it is ready.',
  refused: `${refusedWords} turn them on below the list of chats.`,
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
        {problem ??
          (phase === 'refused' ? `${refusedWords} turn this on.` : isOn ? 'You are told when a reply is ready.' : '')}
      </p>
    </div>
  )
}
