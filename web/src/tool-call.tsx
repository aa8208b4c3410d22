/** A call of a tool within a reply, and what a person is asked about it. */
import { type FormEvent, type KeyboardEvent, type ReactNode, useEffect, useId, useRef, useState } from 'react'
import { type Ask, type Question as Asked, questionOf } from './asks.ts'
import { AlertIcon, CheckIcon, ClockIcon, CloseIcon, FoldIcon, StopIcon, ToolIcon } from './icons.tsx'
import { useIsOwner, useMayWrite } from './people.ts'
import { untilOf } from './times.ts'
import { type CallPart, toolNameOf } from './tool-parts.ts'

export type AnswerTo = (ask: Ask, answer: { approved: boolean; reason?: string }) => void

type ToolCallProps = {
  part: CallPart
  /** Its reply is still being written, or waits. */
  isOpen: boolean
  ask: Ask | undefined
  isAnswering: boolean
  onAnswer: AnswerTo
}

export function ToolCall({ part, isOpen, ask, isAnswering, onAnswer }: ToolCallProps) {
  const { input, rawInput, output, errorText, approval, state } = part
  const name = toolNameOf(part)
  const fate = fateOf(part, isOpen, ask)
  const [isShown, setShown] = useState(false)
  // Who is asked whether it may run has to see with what.
  const isAsked = ask !== undefined && ask.kind !== 'tool'
  const reason = state === 'output-denied' || approval?.approved === false ? approval?.reason : undefined
  return (
    <section className={`tool-call is-${fate}${isAsked ? ' is-asked' : ''}`} aria-label={`Tool ${name}`}>
      <details
        open={isShown || isAsked}
        onToggle={(event) => {
          // One that is open because something is asked was not opened by hand.
          if (!isAsked) setShown(event.currentTarget.open)
        }}
      >
        <summary className="tool-summary">
          <span className="tool-sign">
            <ToolIcon />
          </span>
          <span className="tool-name">{name}</span>
          <span className="tool-fate">
            <span className="tool-fate-sign">{fates[fate].icon}</span>
            {fates[fate].words}
          </span>
          <span className="tool-fold">
            <FoldIcon />
          </span>
        </summary>
        <Value label="Input" value={input ?? rawInput} />
        {output !== undefined && <Value label={part.preliminary ? 'Output so far' : 'Output'} value={output} />}
        {errorText !== undefined && <Value label="Error" value={errorText} />}
        {reason !== undefined && <Value label="Reason" value={reason} />}
      </details>
      {ask !== undefined && <Question ask={ask} isAnswering={isAnswering} onAnswer={onAnswer} />}
    </section>
  )
}

type Fate =
  | 'written'
  | 'running'
  | 'asking'
  | 'interrupted'
  | 'device'
  | 'approved'
  | 'done'
  | 'failed'
  | 'refused'
  | 'stopped'

const fateAsked = { approval: 'asking', uncertain: 'interrupted', budget: 'running', tool: 'device' } as const

function fateOf({ state, approval, preliminary }: CallPart, isOpen: boolean, ask: Ask | undefined): Fate {
  if (ask !== undefined) return fateAsked[ask.kind]
  switch (state) {
    case 'output-available':
      return preliminary ? 'running' : 'done'
    case 'output-error':
      return 'failed'
    case 'output-denied':
      return 'refused'
    case 'input-streaming':
      return isOpen ? 'written' : 'stopped'
    case 'approval-requested':
      return isOpen ? 'asking' : 'stopped'
    case 'approval-responded':
      if (approval?.approved === false) return 'refused'
      return isOpen ? 'approved' : 'stopped'
    case 'input-available':
      return isOpen ? 'running' : 'stopped'
  }
}

const fates: { [fate in Fate]: { words: string; icon: ReactNode } } = {
  written: { words: 'Being written', icon: <ClockIcon /> },
  running: { words: 'Running', icon: <ClockIcon /> },
  asking: { words: 'Waits for approval', icon: <ClockIcon /> },
  interrupted: { words: 'Interrupted', icon: <AlertIcon /> },
  device: { words: 'Waits for a device', icon: <ClockIcon /> },
  approved: { words: 'Approved', icon: <CheckIcon /> },
  done: { words: 'Done', icon: <CheckIcon /> },
  failed: { words: 'Failed', icon: <AlertIcon /> },
  refused: { words: 'Refused', icon: <CloseIcon /> },
  stopped: { words: 'Stopped', icon: <StopIcon /> },
}

function Value({ label, value }: { label: string; value: unknown }) {
  const id = useId()
  if (value === undefined || value === '') return null
  return (
    <section className="tool-value" aria-labelledby={id}>
      <p id={id}>{label}</p>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <pre tabIndex={0}>{wordsOf(value)}</pre>
    </section>
  )
}

const shownCharsMax = 20_000

function wordsOf(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value, null, 2)
  return text.length > shownCharsMax
    ? `${text.slice(0, shownCharsMax)}…\n(${text.length - shownCharsMax} characters more)`
    : text
}

type QuestionProps = { ask: Ask; isAnswering: boolean; onAnswer: AnswerTo }

/** On every device of the session, until somebody has answered on one of them. */
export function Question({ ask, isAnswering, onAnswer }: QuestionProps) {
  const question = questionOf(ask, useIsOwner())
  const mayWrite = useMayWrite()
  const id = useId()
  const until = <time dateTime={ask.expiresAt}>{untilOf(ask.expiresAt)}</time>
  if (question === null) {
    return (
      <p className="question-until is-device">
        A device that has this tool answers, until {until}. This page has none.
      </p>
    )
  }
  return (
    <fieldset className="question" aria-labelledby={id}>
      <p id={id} className="question-title">
        {question.title}
      </p>
      {mayWrite && (
        <Choice question={question} isAnswering={isAnswering} onAnswer={(answer) => onAnswer(ask, answer)} />
      )}
      {question.note !== null && <p className="question-until">{question.note}</p>}
      {question.yes !== null && (
        <p className="question-until">
          {mayWrite
            ? 'It is asked on each of your devices. The first answer counts.'
            : 'It is asked of those who may write in this chat.'}
        </p>
      )}
    </fieldset>
  )
}

type ChoiceProps = {
  question: Asked
  isAnswering: boolean
  onAnswer(answer: { approved: boolean; reason?: string }): void
}

/** Yes, or no with a reason. */
function Choice({ question: { yes, no }, isAnswering, onAnswer }: ChoiceProps) {
  const [reason, setReason] = useState<string | null>(null)
  const field = useRef<HTMLInputElement>(null)
  const refuseButton = useRef<HTMLButtonElement>(null)
  const isRefusing = reason !== null
  useEffect(() => {
    if (isRefusing) field.current?.focus()
  }, [isRefusing])
  if (!isRefusing) {
    return (
      <div className="question-buttons">
        {yes !== null && (
          <button
            type="button"
            className="small-button is-main"
            aria-disabled={isAnswering}
            onClick={() => isAnswering || onAnswer({ approved: true })}
          >
            {yes}
          </button>
        )}
        <button
          ref={refuseButton}
          type="button"
          className="small-button"
          aria-disabled={isAnswering}
          onClick={() => isAnswering || setReason('')}
        >
          {no}
        </button>
      </div>
    )
  }
  const back = () => {
    setReason(null)
    requestAnimationFrame(() => refuseButton.current?.focus())
  }
  const refuse = (event: FormEvent) => {
    event.preventDefault()
    const said = reason.trim()
    if (!isAnswering) onAnswer({ approved: false, ...(said === '' ? {} : { reason: said }) })
  }
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== 'Escape' || event.nativeEvent.isComposing) return
    event.preventDefault()
    if (!event.repeat) back()
  }
  return (
    <form className="question-refusal" onSubmit={refuse} onKeyDown={onKeyDown}>
      <input
        ref={field}
        value={reason}
        maxLength={reasonCharsMax}
        placeholder="Why? (optional)"
        aria-label="Reason, optional"
        onChange={(event) => setReason(event.currentTarget.value)}
      />
      <div className="question-buttons">
        <button type="submit" className="small-button is-danger" aria-disabled={isAnswering}>
          {no}
        </button>
        <button type="button" className="small-button" onClick={back}>
          Cancel
        </button>
      </div>
    </form>
  )
}
/** PROTOCOL.md, Limits. */
const reasonCharsMax = 2_000
