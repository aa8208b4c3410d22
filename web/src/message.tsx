import {
  type KeyboardEvent,
  memo,
  type ReactNode,
  type RefObject,
  useEffect,
  useLayoutEffect,
  useRef,
  useSyncExternalStore,
} from 'react'
import { type Ask, waitWords } from './asks.ts'
import { CopyButton } from './code-block.tsx'
import { type Commands, type Refusal, useCommand } from './commands.ts'
import { subscribeEdits } from './edits.ts'
import {
  AlertIcon,
  BackIcon,
  CheckIcon,
  ClockIcon,
  ForwardIcon,
  PencilIcon,
  ReloadIcon,
  StopIcon,
  UndoIcon,
} from './icons.tsx'
import type { Possible } from './possible.ts'
import { ReplyText } from './reply-text.tsx'
import type { Problem } from './session.ts'
import { clockOf, untilOf, useNow } from './times.ts'
import { type AnswerTo, Question, ToolCall } from './tool-call.tsx'
import { type CallPart, isCall } from './tool-parts.ts'
import type { Unsent } from './unsent.ts'
import { type Failure, type Message, type Part, type TurnView, textOf } from './view.ts'

type Shared = {
  message: Message
  /** Its own, while it has no outcome. */
  turn: TurnView | undefined
  can: Possible
  commands: Commands
  /** A command took away what had the focus. */
  onDone(): void
  onSelect(messageId: string, by: Direction): Promise<Problem | null>
}

/** What may be done is found out anew with each frame, and is mostly the same. */
function isSame(before: Shared, now: Shared): boolean {
  const areSame = <T extends object>(a: T, b: T) =>
    (Object.keys(b) as (keyof T)[]).every((key) => key === 'can' || Object.is(a[key], b[key]))
  return areSame(before, now) && areSame(before.can, now.can)
}

export const OwnMessage = memo(({ message, turn, can, commands, onDone, onSelect }: Shared) => {
  const { isBusy: isGiving, refusal, give } = useCommand()
  const { edits } = commands
  const edit = useSyncExternalStore(subscribeEdits, () => edits.of(message.id))
  /** One that an earlier page left open takes the keyboard from nobody. */
  const wasAskedFor = useRef(false)
  const editButton = useRef<HTMLButtonElement>(null)
  const text = textOf(message.parts)
  const isBehind = can.place !== null && can.place > 0
  const isQueued = isBehind && !can.isUnderWay
  const open = () => {
    wasAskedFor.current = true
    edits.set(message.id, { text, asked: null, ...edit, isOpen: true })
  }
  const close = (isKept: boolean) => {
    edits.set(message.id, isKept && edit && edit.text !== text ? { ...edit, isOpen: false } : null)
    requestAnimationFrame(() => editButton.current?.focus())
  }
  const save = async (edited: string) => {
    if (edited === text) close(false)
    else if (await give(() => commands.edit(message, edited))) onDone()
  }
  const takeBack = async () => {
    if (turn && (await give(() => commands.stop(turn)))) onDone()
  }
  return (
    <article className={isQueued ? 'own is-queued' : 'own'} aria-label="You" data-message={message.id}>
      {edit?.isOpen ? (
        <Editor
          edited={edit.text}
          takesFocus={wasAskedFor.current}
          isBusy={isGiving}
          hint={editHints[can.edit ?? 'later']}
          onChange={(edited) => edits.set(message.id, { text: edited, isOpen: true, asked: null })}
          onSave={() => void save(edit.text)}
          onPutAside={() => close(true)}
          onCancel={() => close(false)}
        />
      ) : (
        <>
          <p className="own-text" dir="auto">
            {text}
          </p>
          <div className="status">
            {isQueued ? (
              <>
                <ClockIcon /> <span>{placeWords(can.place ?? 0)}</span>
              </>
            ) : (
              <>
                <CheckIcon /> {can.isSteered ? 'Taken into the reply above' : 'Sent'}{' '}
                <time dateTime={message.createdAt}>{clockOf(message.createdAt)}</time>
                {can.withdraw && <span className="is-late">· Its reply has not begun</span>}
              </>
            )}
            {can.edit !== null && (
              <button
                ref={editButton}
                type="button"
                className={can.withdraw && !isQueued ? 'quiet-button is-late' : 'quiet-button'}
                aria-label="Edit message"
                onClick={open}
              >
                <PencilIcon />
              </button>
            )}
            {can.withdraw && (
              <button
                type="button"
                className={isQueued ? 'text-button' : 'text-button is-late'}
                aria-disabled={isGiving}
                onClick={() => void takeBack()}
              >
                <UndoIcon /> Withdraw
              </button>
            )}
            {can.stop && isBehind && (
              <button type="button" className="text-button" aria-disabled={isGiving} onClick={() => void takeBack()}>
                <StopIcon /> Stop
              </button>
            )}
            <Branches message={message} noun="version" onSelect={(id, by) => void give(() => onSelect(id, by))} />
          </div>
        </>
      )}
      <Refused refusal={refusal} />
    </article>
  )
}, isSame)

const editHints = {
  'in place': 'It keeps its place.',
  beside: 'The old text stays, in a branch of its own.',
  later: 'It can be saved when no reply is written here.',
}

export const placeWords = (place: number) => `Queued, ${place === 1 ? 'next' : ordinal(place)} in line`
const ordinal = (place: number) => `${place}${place === 2 ? 'nd' : place === 3 ? 'rd' : 'th'}`

type UnsentProps = Pick<Unsent, 'id' | 'text' | 'state' | 'sentAt' | 'cooldown' | 'isAsking'> & {
  /** Null: it is only just being sent. */
  onTakeBack: ((id: string) => void) | null
}

export const UnsentMessage = memo(({ id, text, state, sentAt, cooldown, isAsking, onTakeBack }: UnsentProps) => (
  <article className="own" aria-label="You">
    <p className="own-text" dir="auto">
      {text}
    </p>
    <div className="status">
      {state === 'sent' ? (
        <>
          <CheckIcon /> Sent <time dateTime={sentAt}>{clockOf(sentAt)}</time>
        </>
      ) : cooldown ? (
        <Cooldown until={cooldown} then="Sent by itself" />
      ) : (
        <>
          <ClockIcon /> Sending…
        </>
      )}
      {state === 'sending' && onTakeBack && (
        <button type="button" className="text-button" aria-disabled={isAsking} onClick={() => onTakeBack(id)}>
          <UndoIcon /> Withdraw
        </button>
      )}
    </div>
  </article>
))

/** Counts down for the eye; said once to a screen reader. */
function Cooldown({ until, then }: { until: number; then: 'Sent by itself' | 'You can try again' }) {
  const seconds = Math.max(0, Math.ceil((until - useNow(250, true)) / 1000))
  return (
    <span className="cooldown">
      <ClockIcon />
      <span role="status">
        Too many at once. <span className="sr-only">{then}, in a moment.</span>
      </span>
      <span aria-hidden="true">
        {then} in {seconds} s
      </span>
    </span>
  )
}

type EditorProps = {
  edited: string
  takesFocus: boolean
  isBusy: boolean
  hint: string
  onChange(edited: string): void
  onSave(): void
  /** Closes it, and what was written stays. */
  onPutAside(): void
  onCancel(): void
}

function Editor({ edited, takesFocus, isBusy, hint, onChange, onSave, onPutAside, onCancel }: EditorProps) {
  const area = useRef<HTMLTextAreaElement>(null)
  const isEmpty = edited.trim() === ''
  useEffect(() => {
    if (!takesFocus) return
    area.current?.focus()
    area.current?.setSelectionRange(-1, -1)
  }, [takesFocus])
  useFit(area, edited)
  const save = () => {
    if (!isEmpty && !isBusy) onSave()
  }
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return
    event.preventDefault()
    save()
  }
  const onEscape = (event: KeyboardEvent) => {
    if (event.key !== 'Escape' || event.nativeEvent.isComposing) return
    event.preventDefault()
    if (!event.repeat) onPutAside()
  }
  return (
    <fieldset className="editor" onKeyDown={onEscape}>
      <textarea
        ref={area}
        rows={1}
        dir="auto"
        value={edited}
        aria-label="Edit message"
        enterKeyHint="done"
        onChange={(event) => onChange(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div className="editor-tools">
        <span className="editor-hint">{hint}</span>
        <button type="button" className="small-button" onClick={onCancel}>
          Cancel
        </button>
        <button type="button" className="small-button is-main" aria-disabled={isEmpty || isBusy} onClick={save}>
          Save
        </button>
      </div>
    </fieldset>
  )
}

/** As high as what is written in it, also where a phone is turned or a button takes some of its width. */
export function useFit(area: RefObject<HTMLTextAreaElement | null>, text: string): void {
  // biome-ignore lint/correctness/useExhaustiveDependencies: it grows with what is written
  useLayoutEffect(() => fit(area.current), [text])
  useEffect(() => {
    // In the next picture: what an observer changes at once it would have to observe again.
    const watcher = new ResizeObserver(() => requestAnimationFrame(() => fit(area.current)))
    if (area.current) watcher.observe(area.current)
    return () => watcher.disconnect()
  }, [area])
}

function fit(area: HTMLTextAreaElement | null): void {
  if (!area) return
  area.style.height = 'auto'
  area.style.height = `${area.scrollHeight}px`
}

export type Direction = 'previous' | 'next'

type BranchesProps = { message: Message; noun: string; onSelect(messageId: string, by: Direction): void }

/** ‹ 2/3 ›. At an end the button stays, so that the keyboard does not lose its place. */
function Branches({ message: { id, branch }, noun, onSelect }: BranchesProps) {
  if (branch === null) return null
  const { index, count } = branch
  const button = (by: Direction, icon: ReactNode) => {
    const to = branch[by]
    const label = `${by === 'previous' ? 'Previous' : 'Next'} ${noun}`
    return (
      <button
        type="button"
        className="quiet-button"
        data-branch={`${id} ${by}`}
        aria-label={label}
        aria-disabled={!to}
        onClick={() => to && onSelect(to, by)}
      >
        {icon}
      </button>
    )
  }
  return (
    <fieldset className="branches" aria-label={`${noun} ${index + 1} of ${count}`}>
      {button('previous', <BackIcon />)}
      <span>
        {index + 1}/{count}
      </span>
      {button('next', <ForwardIcon />)}
    </fieldset>
  )
}

type ReplyProps = Shared & { clockAheadMs: number }

export const Reply = memo(({ message, turn, can, commands, clockAheadMs, onDone, onSelect }: ReplyProps) => {
  const { isBusy: isGiving, refusal, give } = useCommand()
  const text = textOf(message.parts)
  const { status } = message
  const isOpen = status === 'pending' || status === 'streaming'
  /** Its message says that it waits behind another. */
  const isWaiting = status === 'pending' && !can.isUnderWay && can.place !== null && can.place > 0
  if (isWaiting && !can.switch) return null
  const asks = turn?.asks ?? noAsks
  const reasoning = message.parts.filter(({ type, text: said }) => type === 'reasoning' && said)
  const run = async (ask: () => Promise<Problem | null>) => {
    if (!isGiving && (await give(ask))) onDone()
  }
  const retry = (
    <button
      type="button"
      className="small-button"
      aria-disabled={isGiving}
      onClick={() => void run(() => commands.retry(message))}
    >
      <ReloadIcon /> Retry
    </button>
  )
  return (
    <article className="reply" aria-label="Reply" aria-busy={isOpen} data-status={status} data-reply={message.id}>
      {reasoning.length > 0 && (
        <details className="reasoning">
          <summary>Thoughts</summary>
          <p className="whitespace-pre-wrap">{reasoning.map((part) => part.text).join('\n\n')}</p>
        </details>
      )}
      <Said
        message={message}
        asks={asks}
        isAnswering={isGiving}
        onAnswer={(ask, answer) =>
          void run(() => commands.answer(ask.id, { ...answer, turnId: turn?.id ?? '', attempt: ask.attempt }))
        }
      />
      {isOpen && !isWaiting && text === '' && !message.parts.some(isCall) && <Dots />}
      {status === 'failed' && (
        <Failed failure={can.failure} message={message} hasText={text !== ''}>
          {can.retry && retry}
        </Failed>
      )}
      <div className="status">
        {!isWaiting && <ReplyStatus message={message} turn={turn} hasText={text !== ''} clockAheadMs={clockAheadMs} />}
        {!isOpen && text !== '' && <CopyButton text={text} label="Copy reply" />}
        {can.another && (
          <button
            type="button"
            className="quiet-button"
            aria-label="Another reply"
            title="Another reply"
            aria-disabled={isGiving}
            onClick={() => void run(() => commands.regenerate(message))}
          >
            <ReloadIcon />
          </button>
        )}
        {status === 'stopped' && can.retry && retry}
        <Branches message={message} noun="reply" onSelect={(id, by) => void give(() => onSelect(id, by))} />
      </div>
      <Refused refusal={refusal} />
    </article>
  )
}, isSame)

const noAsks: readonly Ask[] = []

type SaidProps = { message: Message; asks: readonly Ask[]; isAnswering: boolean; onAnswer: AnswerTo }

/** Texts and calls in the order in which they were written, and what is asked that is about no call of them. */
function Said({ message: { parts, status }, asks, isAnswering, onAnswer }: SaidProps) {
  const isOpen = status === 'pending' || status === 'streaming'
  const pieces = piecesOf(parts)
  const last = parts.findLastIndex(({ type }) => type === 'step-start')
  const asked = new Set(parts.slice(last + 1).map(({ toolCallId }) => toolCallId))
  return (
    <>
      {pieces.map((piece, at) => {
        const key = `${at}`
        if (Array.isArray(piece)) {
          const text = textOf(piece)
          return text === '' ? null : (
            <ReplyText key={key} text={text} isStreaming={isOpen && at === pieces.length - 1} />
          )
        }
        const isOfLastStep = parts.indexOf(piece) > last
        const ask = isOfLastStep ? asks.find(({ toolCallId }) => toolCallId === piece.toolCallId) : undefined
        return <ToolCall key={key} part={piece} {...{ isOpen, ask, isAnswering, onAnswer }} />
      })}
      {asks
        .filter(({ toolCallId }) => !asked.has(toolCallId))
        .map((ask) => (
          <section key={ask.id} className="tool-call is-asking is-asked" aria-label="Question">
            <Question {...{ ask, isAnswering, onAnswer }} />
          </section>
        ))}
    </>
  )
}

/** A call by itself, and what stands between two of them together. */
function piecesOf(parts: readonly Part[]): (Part[] | CallPart)[] {
  const pieces: (Part[] | CallPart)[] = []
  for (const part of parts) {
    const last = pieces.at(-1)
    if (isCall(part)) pieces.push(part)
    else if (Array.isArray(last)) last.push(part)
    else pieces.push([part])
  }
  return pieces
}

/** They are drawn wherever the server says that a reply is owed: after a reload, on another device, in a new tab. */
const Dots = () => (
  <p className="dots" role="img" aria-label="A reply is on its way">
    <span />
    <span />
    <span />
  </p>
)

type StatusProps = Pick<ReplyProps, 'message' | 'turn' | 'clockAheadMs'> & { hasText: boolean }

function ReplyStatus({ message, turn, hasText, clockAheadMs }: StatusProps) {
  const retryAt = turn?.retryAt ?? null
  const { status, createdAt, model } = message
  const asks = turn?.asks ?? noAsks
  if (asks.length > 0) return <Waits asks={asks} />
  if (retryAt !== null) return <Again atMs={Date.parse(retryAt) + clockAheadMs} attempt={turn?.attempt ?? 0} />
  const attempt = turn && turn.attempt > 1 ? `, attempt ${turn.attempt}` : ''
  switch (status) {
    case 'pending':
      return <span>Pending{attempt}</span>
    case 'streaming':
      return <span className="text-kelp">Streaming{attempt}</span>
    case 'stopped':
      return <span>{hasText ? 'Stopped. What was written is kept.' : 'Stopped before anything was written.'}</span>
    case 'failed':
      return null
    case 'complete':
      return (
        <>
          <CheckIcon />
          <span>
            Complete <time dateTime={createdAt}>{clockOf(createdAt)}</time>
            {model ? ` · ${model}` : ''}
          </span>
        </>
      )
  }
}

function Waits({ asks }: { asks: readonly Ask[] }) {
  const first = asks.map(({ expiresAt }) => expiresAt).sort()[0] ?? ''
  return (
    <span className="text-amber">
      {waitWords(asks)} until <time dateTime={first}>{untilOf(first)}</time>
    </span>
  )
}

function Again({ atMs, attempt }: { atMs: number; attempt: number }) {
  const now = useNow(250, true)
  const seconds = Math.ceil((atMs - now) / 1000)
  return (
    <span className="text-amber">
      {/* One that was handed over is due at once: it did not fail. */}
      Attempt {attempt} {seconds > 0 ? `failed, again in ${seconds} s` : 'ended, the next one begins'}
    </span>
  )
}

type FailedProps = { failure: Failure | null; message: Message; hasText: boolean; children: ReactNode }

function Failed({ failure, message, hasText, children }: FailedProps) {
  const waitMs = failure?.retryAfterMs
  const from = waitMs && new Date(Date.parse(message.updatedAt) + waitMs).toISOString()
  return (
    <div className="failure" role="note">
      <AlertIcon />
      <div className="flex-1">
        <p className="font-medium">{hasText ? 'The reply broke off.' : 'There is no reply to this.'}</p>
        <p className="failure-detail">
          {failure?.error ?? 'It failed.'} Your message is kept.
          {from && ` The model asks to be left alone until ${clockOf(from)}.`}
        </p>
        {children}
      </div>
    </div>
  )
}

/** Why a command was not done, in the server's words, where it was given. */
export const Refused = ({ refusal }: { refusal: Refusal | null }) =>
  refusal &&
  (refusal.until === null ? (
    <p className="failure" role="alert">
      <AlertIcon /> <span>{refusal.detail}</span>
    </p>
  ) : (
    <p className="status">
      <Cooldown until={refusal.until} then="You can try again" />
    </p>
  ))
