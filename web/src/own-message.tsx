/** A message of a person: where it stands on its way, and what may be done with it. */
import { type Turn, textOf } from 'holdfast/client'
import { memo, useRef, useSyncExternalStore } from 'react'
import { Branches } from './branches.tsx'
import { useCommand } from './commands.ts'
import { Editor } from './editor.tsx'
import { subscribeEdits } from './edits.ts'
import { FileList } from './file-list.tsx'
import {
  AlertIcon,
  CheckIcon,
  ClockIcon,
  LockIcon,
  PencilIcon,
  ReadIcon,
  ReloadIcon,
  StopIcon,
  UndoIcon,
} from './icons.tsx'
import { isPrivate, useReaders, useRights, useWriter } from './people.ts'
import type { Possible } from './possible.ts'
import { Cooldown, Refused, tooManyUntil } from './refused.tsx'
import { isSame, type Shared } from './shared.ts'
import { clockOf } from './times.ts'

type OwnProps = Shared & {
  /** Its own, while it has no outcome. */
  turn: Turn | undefined
  /** Of those that wait to be sent in this chat: a try could not reach the server. */
  isHeld: boolean
  /** The server takes none of them before this time, because there were too many of them, or it cannot. */
  retryAt: string | null
  isLimited: boolean
}

export const OwnMessage = memo((props: OwnProps) => {
  const { message, turn, commands, onDone, onSelect } = props
  const writer = useWriter(message)
  const can = useRights(props.can, writer === null)
  const { isBusy: isGiving, refusal, give } = useCommand()
  const { edits } = commands
  const edit = useSyncExternalStore(subscribeEdits, () => edits.of(message.id))
  /** One that an earlier page left open takes the keyboard from nobody. */
  const wasAskedFor = useRef(false)
  const editButton = useRef<HTMLButtonElement>(null)
  const text = textOf(message.parts)
  const isUnsent = message.seq === 0
  const { hasFailed, mayTry, lastFailure, forget } = useTries(props)
  const isBehind = can.place !== null && can.place > 0
  const isQueued = isBehind && !can.isUnderWay
  const isLate = isUnsent ? !mayTry : can.withdraw && !isQueued
  const open = () => {
    wasAskedFor.current = true
    edits.set(message.id, { text, asked: null, ...edit, isOpen: true })
  }
  const close = (isKept: boolean) => {
    edits.set(message.id, isKept && edit && edit.text !== text ? { ...edit, isOpen: false } : null)
    requestAnimationFrame(() => editButton.current?.focus())
  }
  const save = async (edited: string) => {
    if (edited === text) return close(false)
    forget()
    if (await give(() => commands.edit(message, edited))) onDone()
  }
  const takeBack = async () => {
    if (isUnsent ? await give(() => commands.takeBack(message.id)) : turn && (await give(() => commands.stop(turn)))) {
      onDone()
    }
  }
  return (
    <article
      className={`own${isQueued ? ' is-queued' : ''}${writer === null ? '' : ' is-others'}`}
      aria-label={writer ?? 'You'}
      data-message={message.id}
    >
      {writer !== null && (
        <p className="writer" aria-hidden="true">
          <bdi>{writer}</bdi>
        </p>
      )}
      <FileList parts={message.parts} />
      {edit?.isOpen ? (
        <Editor
          edited={edit.text}
          takesFocus={wasAskedFor.current}
          isBusy={isGiving}
          hint={isUnsent ? 'It is sent as it stands here.' : editHints[can.edit ?? 'later']}
          onChange={(edited) => edits.set(message.id, { text: edited, isOpen: true, asked: null })}
          onSave={() => void save(edit.text)}
          onPutAside={() => close(true)}
          onCancel={() => close(false)}
        />
      ) : (
        <>
          {text !== '' && (
            <p className="own-text" dir="auto">
              {text}
            </p>
          )}
          {lastFailure !== null && (
            <p className="failure" role={hasFailed ? 'alert' : undefined}>
              <AlertIcon />{' '}
              <span>
                {hasFailed ? 'Not sent.' : 'Sent again.'} {lastFailure}
              </span>
            </p>
          )}
          <div className={mayTry ? 'status may-try' : 'status'}>
            {isUnsent ? (
              <UnsentStatus {...props} />
            ) : isQueued ? (
              <>
                <ClockIcon /> <span>{placeWords(can.place ?? 0)}</span>
              </>
            ) : (
              <Delivered message={message} can={can} isOwn={writer === null} />
            )}
            {mayTry && (
              <button type="button" className="text-button" onClick={() => commands.sendAgain(message.id)}>
                <ReloadIcon /> Retry
              </button>
            )}
            {(can.edit !== null || isUnsent) && (
              <button
                ref={editButton}
                type="button"
                className={isLate ? 'quiet-button is-late' : 'quiet-button'}
                aria-label="Edit message"
                title="Edit message"
                onClick={open}
              >
                <PencilIcon />
              </button>
            )}
            {(can.withdraw || isUnsent) && (
              <button
                type="button"
                className={isLate ? 'text-button is-late' : 'text-button'}
                title="Withdraw"
                aria-disabled={isGiving}
                onClick={() => void takeBack()}
              >
                <UndoIcon /> <span className="withdraw-word">Withdraw</span>
              </button>
            )}
            {can.stop && isBehind && (
              <button type="button" className="text-button" aria-disabled={isGiving} onClick={() => void takeBack()}>
                <StopIcon /> Stop
              </button>
            )}
            {can.switch && (
              <Branches message={message} noun="version" onSelect={(id, by) => void give(() => onSelect(id, by))} />
            )}
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

/**
 * Once one could not be sent it may be tried at any time, also while the page tries it again by itself: what is under the
 * finger stays there. Why it failed stays, too, until it is sent, changed or waits for something else.
 */
function useTries({ message: { seq, delivery }, isHeld, retryAt }: OwnProps) {
  const mayTry = useRef(false)
  const failure = useRef<string | null>(null)
  const hasFailed = delivery?.state === 'failed'
  mayTry.current = seq === 0 && (mayTry.current || hasFailed || isHeld)
  if (hasFailed) failure.current = delivery.failure.message
  else if (seq > 0 || isHeld || retryAt !== null) failure.current = null
  const forget = () => {
    failure.current = null
  }
  return { hasFailed, mayTry: mayTry.current, lastFailure: failure.current, forget }
}

type DeliveredProps = { message: OwnProps['message']; can: Possible; isOwn: boolean }

function Delivered({ message, can, isOwn }: DeliveredProps) {
  const { createdAt, delivery } = message
  const state = delivery?.state
  const read = useReaders(message)
  const words = readWords(read, state === 'read') ?? ticks[state ?? 'sent']
  return (
    <>
      {isOwn && (
        <>
          <span className={state === 'read' ? 'text-kelp' : undefined} title={words}>
            {state === 'sent' ? <CheckIcon /> : <ReadIcon />}
          </span>
          <span className="sr-only">{words}.</span>
        </>
      )}
      {can.isSteered ? 'Taken into the reply above' : 'Sent'} <time dateTime={createdAt}>{clockOf(createdAt)}</time>
      {isOwn && read !== null && read.others > 1 && read.readers.length > 0 && (
        <span aria-hidden="true" title={words}>
          · Read by {read.readers.length} of {read.others}
        </span>
      )}
      {isPrivate(message) && <OnlyYou />}
      {can.withdraw && <span className="is-late">· Its reply has not begun</span>}
    </>
  )
}

/** Of a private lane. */
export const OnlyYou = () => (
  <span className="only-you">
    <LockIcon /> Only you see this
  </span>
)

/** Null: nobody else has. */
function readWords(read: ReturnType<typeof useReaders>, byAll: boolean): string | null {
  if (read === null || read.readers.length === 0) return null
  return `Read by ${read.readers.join(', ')}${byAll ? '' : `, ${read.readers.length} of ${read.others}`}`
}

const ticks: { [state: string]: string } = { sent: 'Stored', delivered: 'Delivered', read: 'Read' }

function UnsentStatus({ message: { delivery }, isHeld, retryAt, isLimited }: OwnProps) {
  if (delivery?.state === 'failed') return null
  if (retryAt !== null) {
    const until = Date.parse(retryAt)
    const why = isLimited ? tooManyUntil(until) : 'The server cannot take it now.'
    return (
      <span className="status-words">
        <Cooldown until={until} why={why} then="Sent by itself" />
      </span>
    )
  }
  return (
    <>
      <ClockIcon /> <span className="status-words">{isHeld ? 'Waits for the network' : 'Sending…'}</span>
    </>
  )
}
