import { HoldfastError } from 'holdfast/client'
import { useHoldfast } from 'holdfast/react'
import { type FormEvent, type KeyboardEvent, useEffect, useRef, useState } from 'react'
import { type Chat, matching } from './chats.ts'
import { downMs } from './connection.tsx'
import { ChartIcon, CloseIcon, Mark, PencilIcon, PlusIcon, TrashIcon } from './icons.tsx'
import { NoticesSwitch } from './notices-question.tsx'
import { usageAddress } from './place.ts'
import { useIsShown } from './shown.ts'
import { agoOf, useIsLate } from './times.ts'

type SidebarProps = {
  chats: readonly Chat[]
  currentId: string
  /** What was used is shown, and no chat. */
  isUsage: boolean
  /** What the server has is not here so far. */
  isAwaited: boolean
  isOpen: boolean
  onClose(): void
  /** Null: all are in the list. */
  onOlder: (() => Promise<unknown>) | null
  onNew(): void
  onOpen(id: string): void
  onDeleted(id: string): void
}

/** Beside the conversation where there is room; on a phone it slides over it. */
export function Sidebar(props: SidebarProps) {
  const { isOpen, onClose } = props
  const isShown = useIsShown()
  const [wanted, setWanted] = useState('')
  const found = matching(props.chats, wanted)
  const isSearching = wanted.trim() !== ''
  const isLate = useIsLate(props.isAwaited, downMs)
  const close = useRef<HTMLButtonElement>(null)
  const list = useRef<HTMLUListElement>(null)
  const newChat = useRef<HTMLButtonElement>(null)
  /** The keyboard goes on with the chat after it, else with the one before. */
  const onDeleted = (id: string) => {
    const at = found.findIndex((chat) => chat.id === id)
    const next = found[at + 1] ?? found[at - 1]
    props.onDeleted(id)
    // When all is drawn: a new chat's field would take it.
    requestAnimationFrame(() => {
      const row = rowsIn(list.current).find(({ dataset }) => dataset.chat === next?.id)
      ;(row ?? newChat.current)?.focus()
    })
  }
  useEffect(() => {
    if (!isOpen) return
    const before = document.activeElement
    close.current?.focus()
    const onKey = (event: globalThis.KeyboardEvent) => {
      if (event.key === 'Escape' && !event.defaultPrevented) onClose()
    }
    window.addEventListener('keydown', onKey)
    // Where there is room it stands beside the chat, and covers nothing.
    const wide = matchMedia('(width >= 48rem)')
    wide.addEventListener('change', onClose)
    return () => {
      window.removeEventListener('keydown', onKey)
      wide.removeEventListener('change', onClose)
      if (before instanceof HTMLElement) before.focus()
    }
  }, [isOpen, onClose])
  return (
    <>
      <div className={isOpen ? 'scrim is-open' : 'scrim'} onClick={onClose} aria-hidden="true" />
      <nav className={isOpen ? 'sidebar is-open' : 'sidebar'} aria-label="Chats">
        <div className="flex items-center gap-2.5 px-4 pt-4 pb-3">
          <Mark />
          <span className="text-[1.0625rem] font-semibold tracking-tight">Holdfast</span>
          <button
            ref={close}
            type="button"
            className="quiet-button ml-auto md:hidden"
            onClick={onClose}
            aria-label="Close the list"
          >
            <CloseIcon />
          </button>
        </div>
        <div className="px-3 pb-2">
          <button ref={newChat} type="button" className="new-chat" onClick={props.onNew}>
            <PlusIcon /> New chat
          </button>
        </div>
        {(props.chats.length >= searchedFrom || props.onOlder || isSearching) && (
          <div className="px-3 pb-2">
            <input
              type="search"
              className="search"
              value={wanted}
              dir="auto"
              placeholder="Search titles"
              aria-label="Search the titles of chats"
              onChange={(event) => setWanted(event.currentTarget.value)}
              onKeyDown={(event) => {
                if (isSearching) onEscape(event, () => setWanted(''))
                if (event.key === 'ArrowDown') rowsIn(list.current)[0]?.focus()
              }}
            />
          </div>
        )}
        <p className={isSearching ? 'px-4 pb-1 text-[0.8125rem] text-mute' : 'sr-only'} role="status">
          {isSearching && foundWords(found.length, props.onOlder !== null)}
        </p>
        {props.chats.length === 0 && (
          <p className="px-4 pt-2 text-sm text-mute">
            {!props.isAwaited
              ? 'Your chats will be listed here. They are kept on the server.'
              : isLate && 'Your chats are listed here when the server is reached.'}
          </p>
        )}
        <ul
          ref={list}
          className="min-h-0 flex-1 overflow-y-auto px-3 pt-0.5 pb-4"
          onKeyDown={(event) => onArrow(event, rowsIn(list.current))}
        >
          {found.map((chat) => (
            <Row key={chat.id} chat={chat} isShown={isShown} {...props} onDeleted={onDeleted} />
          ))}
          {props.onOlder && (
            <li className="pt-2">
              <button type="button" className="small-button mx-auto" onClick={() => void props.onOlder?.()}>
                {isSearching ? 'Search older chats' : 'Older chats'}
              </button>
            </li>
          )}
        </ul>
        <a
          className="usage-link"
          href={usageAddress('30')}
          onClick={onClose}
          aria-current={props.isUsage ? 'page' : undefined}
        >
          <ChartIcon /> Usage
        </a>
        <NoticesSwitch />
      </nav>
    </>
  )
}

const rowsIn = (list: HTMLElement | null) => [...(list?.querySelectorAll<HTMLElement>('.session-open') ?? [])]

/** From chat to chat; their buttons are reached by Tab. */
function onArrow(event: KeyboardEvent, rows: readonly HTMLElement[]): void {
  const at = rows.indexOf(event.target as HTMLElement)
  const places: { [key: string]: number } = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }
  const next = at < 0 ? undefined : rows[places[event.key] ?? -1]
  if (!next) return
  event.preventDefault()
  next.focus()
}

/** So few are seen at a glance. */
const searchedFrom = 8

function foundWords(count: number, areMore: boolean): string {
  const words = count === 0 ? 'No chat' : count === 1 ? '1 chat' : `${count} chats`
  return areMore ? `${words} of those listed so far` : words
}

type RowProps = SidebarProps & { chat: Chat; isShown: boolean }

function Row({ chat, currentId, isShown, onOpen, onDeleted }: RowProps) {
  const [mode, setMode] = useState<'shown' | 'renaming' | 'deleting' | 'back'>('shown')
  /** The one that was just given, until the list has heard of it. */
  const [given, setGiven] = useState<string | null>(null)
  const title = given ?? chat.title
  const onDone = () => setMode('back')
  const open = useRef<HTMLButtonElement>(null)
  // biome-ignore lint/correctness/useExhaustiveDependencies: what the list says now is what counts
  useEffect(() => setGiven(null), [chat.title])
  // The field or button that had the keyboard is gone. Who went elsewhere by the mouse stays there.
  useEffect(() => {
    if (mode === 'back' && document.activeElement === document.body) open.current?.focus()
  }, [mode])
  if (mode === 'renaming') return <Rename id={chat.id} title={title} onDone={onDone} onRenamed={setGiven} />
  if (mode === 'deleting') return <Delete id={chat.id} title={title} onDone={onDone} onDeleted={onDeleted} />
  const isCurrent = chat.id === currentId
  // What is looked at is read in a moment.
  const isUnread = chat.unread > 0 && !(isCurrent && isShown)
  return (
    <li className={isCurrent ? 'session is-current' : 'session'}>
      <button
        ref={open}
        type="button"
        className="session-open"
        data-chat={chat.id}
        onClick={() => onOpen(chat.id)}
        aria-current={isCurrent ? 'page' : undefined}
      >
        <span className="flex items-baseline gap-2">
          <span className="min-w-0 flex-1 truncate text-sm font-medium" dir="auto">
            {title}
          </span>
          {isUnread && (
            <span className="unread">
              {chat.unread}
              <span className="sr-only"> unread</span>
            </span>
          )}
          <time className="session-time" dateTime={chat.updatedAt}>
            {agoOf(chat.updatedAt)}
          </time>
        </span>
        <span className="block truncate text-[0.8125rem] text-mute" dir="auto">
          {chat.unsent && (
            <span className={chat.unsent === 'Not sent' ? 'text-clay' : 'text-amber'}>{chat.unsent}. </span>
          )}
          {chat.preview || (chat.unsent ? '' : 'Nothing yet')}
        </span>
      </button>
      {chat.isStored && (
        <span className="session-tools">
          <button
            type="button"
            className="quiet-button"
            onClick={() => setMode('renaming')}
            aria-label={`Rename “${title}”`}
            title="Rename"
          >
            <PencilIcon />
          </button>
          <button
            type="button"
            className="quiet-button"
            onClick={() => setMode('deleting')}
            aria-label={`Delete “${title}”`}
            title="Delete"
          >
            <TrashIcon />
          </button>
        </span>
      )}
    </li>
  )
}

type AskedProps = { id: string; title: string; onDone(): void }

/** It means this alone: nothing else is closed or stopped by it. */
function onEscape(event: KeyboardEvent, act: () => void): void {
  if (event.key !== 'Escape') return
  event.preventDefault()
  act()
}

const Problem = ({ children }: { children: string | null }) =>
  children === null ? null : (
    <p className="mt-1.5 text-clay" role="alert">
      {children}
    </p>
  )

const answerMs = 6_000

/** Null: it was done. It is not asked for any more where no answer came: who asked for it may have changed their mind. */
async function whyNot(asked: Promise<unknown>): Promise<string | null> {
  try {
    await asked
    return null
  } catch (error) {
    return error instanceof HoldfastError ? error.message : 'The server does not answer.'
  }
}

function Delete({ id, title, onDone, onDeleted }: AskedProps & Pick<SidebarProps, 'onDeleted'>) {
  const [problem, setProblem] = useState<string | null>(null)
  const client = useHoldfast()
  const remove = async () => {
    const why = await whyNot(client.deleteSession(id, AbortSignal.timeout(answerMs)))
    if (why === null) onDeleted(id)
    else setProblem(`Not deleted. ${why}`)
  }
  return (
    <li className="rounded-xl bg-sunken px-3 py-2.5 text-sm">
      <p className="truncate">
        Delete “<bdi>{title}</bdi>” for good?
      </p>
      <div className="mt-2 flex gap-2">
        <button
          type="button"
          className="small-button is-danger"
          onClick={() => void remove()}
          onKeyDown={(event) => onEscape(event, onDone)}
        >
          Delete
        </button>
        <button
          type="button"
          className="small-button"
          onClick={onDone}
          onKeyDown={(event) => onEscape(event, onDone)}
          // biome-ignore lint/a11y/noAutofocus: the question was just asked for, and its safe answer is this
          autoFocus
        >
          Keep
        </button>
      </div>
      <Problem>{problem}</Problem>
    </li>
  )
}

function Rename({ id, title, onDone, onRenamed }: AskedProps & { onRenamed(title: string): void }) {
  const [text, setText] = useState(title)
  const [problem, setProblem] = useState<string | null>(null)
  const client = useHoldfast()
  const save = async (event: FormEvent) => {
    event.preventDefault()
    const next = text.trim()
    if (next && next !== title) {
      const why = await whyNot(client.session(id).rename(next, AbortSignal.timeout(answerMs)))
      if (why !== null) return setProblem(`Not renamed. ${why}`)
      onRenamed(next)
    }
    onDone()
  }
  return (
    <li className="px-1 py-1.5 text-sm">
      <form onSubmit={(event) => void save(event)}>
        <input
          className="rename"
          value={text}
          dir="auto"
          maxLength={200}
          aria-label="Title"
          // biome-ignore lint/a11y/noAutofocus: it was just asked for
          autoFocus
          onFocus={(event) => event.currentTarget.select()}
          onChange={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => onEscape(event, onDone)}
          onBlur={(event) => event.currentTarget.form?.requestSubmit()}
        />
        <Problem>{problem}</Problem>
      </form>
    </li>
  )
}
