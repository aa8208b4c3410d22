import { type FormEvent, type KeyboardEvent, useEffect, useRef, useState } from 'react'
import { CloseIcon, Mark, PencilIcon, PlusIcon, TrashIcon } from './icons.tsx'
import { plainText } from './plain-text.ts'
import { deleteSession, renameSession } from './session.ts'
import { agoOf } from './times.ts'
import type { Session } from './view.ts'

type SidebarProps = {
  sessions: readonly Session[]
  currentId: string
  isOpen: boolean
  onClose(): void
  /** Null: all are in the list. */
  onOlder: (() => Promise<void>) | null
  onNew(): void
  onOpen(id: string): void
  onChanged(): Promise<void>
  onDeleted(id: string): void
}

/** Beside the conversation where there is room; on a phone it slides over it. */
export function Sidebar(props: SidebarProps) {
  const { isOpen, onClose } = props
  const close = useRef<HTMLButtonElement>(null)
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
          <button type="button" className="new-chat" onClick={props.onNew}>
            <PlusIcon /> New chat
          </button>
        </div>
        {props.sessions.length === 0 && (
          <p className="px-4 pt-2 text-sm text-mute">Your chats will be listed here. They are kept on the server.</p>
        )}
        <ul className="min-h-0 flex-1 overflow-y-auto px-3 pt-0.5 pb-4">
          {props.sessions.map((session) => (
            <Row key={session.id} session={session} {...props} />
          ))}
          {props.onOlder && (
            <li className="pt-2">
              <button type="button" className="small-button mx-auto" onClick={() => void props.onOlder?.()}>
                Older chats
              </button>
            </li>
          )}
        </ul>
      </nav>
    </>
  )
}

type RowProps = SidebarProps & { session: Session }

function Row({ session, currentId, onOpen, onChanged, onDeleted }: RowProps) {
  const [mode, setMode] = useState<'shown' | 'renaming' | 'deleting' | 'back'>('shown')
  const preview = plainText(session.lastPreview ?? '')
  const title = session.title ?? (preview || 'New chat')
  const onDone = () => setMode('back')
  const open = useRef<HTMLButtonElement>(null)
  // The field or button that had the keyboard is gone. Who went elsewhere by the mouse stays there.
  useEffect(() => {
    if (mode === 'back' && document.activeElement === document.body) open.current?.focus()
  }, [mode])
  if (mode === 'renaming') return <Rename session={session} title={title} onDone={onDone} onChanged={onChanged} />
  if (mode === 'deleting') return <Delete session={session} title={title} onDone={onDone} onDeleted={onDeleted} />
  const isCurrent = session.id === currentId
  return (
    <li className={isCurrent ? 'session is-current' : 'session'}>
      <button
        ref={open}
        type="button"
        className="session-open"
        onClick={() => onOpen(session.id)}
        aria-current={isCurrent ? 'page' : undefined}
      >
        <span className="flex items-baseline gap-2">
          <span className="min-w-0 flex-1 truncate text-sm font-medium" dir="auto">
            {title}
          </span>
          <time className="session-time" dateTime={session.updatedAt}>
            {agoOf(session.updatedAt)}
          </time>
        </span>
        <span className="block truncate text-[0.8125rem] text-mute">{preview || 'Nothing yet'}</span>
      </button>
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
    </li>
  )
}

type AskedProps = { session: Session; title: string; onDone(): void }

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

function Delete({ session, title, onDone, onDeleted }: AskedProps & Pick<SidebarProps, 'onDeleted'>) {
  const [problem, setProblem] = useState<string | null>(null)
  const remove = async () => {
    const answer = await deleteSession(session.id)
    if (answer.ok) onDeleted(session.id)
    else setProblem(`Not deleted. ${answer.problem.detail}`)
  }
  return (
    <li className="rounded-xl bg-sunken px-3 py-2.5 text-sm">
      <p className="truncate">Delete “{title}” for good?</p>
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

function Rename({ session, title, onDone, onChanged }: AskedProps & Pick<SidebarProps, 'onChanged'>) {
  const [text, setText] = useState(title)
  const [problem, setProblem] = useState<string | null>(null)
  const save = async (event: FormEvent) => {
    event.preventDefault()
    const next = text.trim()
    if (next && next !== title) {
      const answer = await renameSession(session.id, next)
      if (!answer.ok) return setProblem(`Not renamed. ${answer.problem.detail}`)
      await onChanged()
    }
    onDone()
  }
  return (
    <li className="px-1 py-1.5 text-sm">
      <form onSubmit={(event) => void save(event)}>
        <input
          className="rename"
          value={text}
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
