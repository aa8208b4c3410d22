/** The messages of a chat, and where in them the reader is. */
import type { SessionState, ShownMessage, Turn, UnsentView } from 'holdfast/client'
import { type RefObject, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from 'react'
import type { Direction } from './branches.tsx'
import { type Commands, useCommand } from './commands.ts'
import { DownIcon } from './icons.tsx'
import { OwnMessage } from './own-message.tsx'
import { possibleIn } from './possible.ts'
import { Refused } from './refused.tsx'
import { Reply } from './reply.tsx'

type MessagesProps = {
  state: SessionState
  line: readonly Turn[]
  /** Of this chat. */
  unsent: readonly UnsentView[]
  clockAheadMs: number
  commands: Commands
  onEarlier(): Promise<unknown>
  onDone(): void
}

export function Messages({ state, line, unsent, clockAheadMs, commands, onEarlier, onDone }: MessagesProps) {
  const { messages, turns } = state
  const { scroller, isAway, toEnd } = useEnd(state.session === null, unsent.at(-1)?.id)
  const possible = useMemo(() => possibleIn({ messages, turns }), [messages, turns])
  const outlook = useOutlook(unsent)

  // On a phone the keyboard would slide in over what was just changed.
  const latestDone = useRef(onDone)
  latestDone.current = onDone
  const done = useCallback(() => {
    if (matchMedia('(hover: hover)').matches) latestDone.current()
    else scroller.current?.focus()
  }, [scroller])
  const select = useSelect(scroller, messages, commands)
  return (
    <div className="relative min-h-0 flex-1">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <section ref={scroller} className="messages" tabIndex={0} aria-label="Messages">
        <div className="column">
          {state.hasEarlier && <Earlier onEarlier={onEarlier} />}
          {messages.map((message) => {
            const can = possible(message)
            const turn = can.place === null ? undefined : line[can.place]
            const shared = { message, can, commands, onDone: done, onSelect: select }
            return message.role === 'user' ? (
              <OwnMessage key={message.id} {...shared} turn={turn} {...(message.seq === 0 ? outlook : settled)} />
            ) : (
              <Reply
                key={message.id}
                {...shared}
                turn={turn?.replyId === message.id ? turn : undefined}
                clockAheadMs={clockAheadMs}
              />
            )
          })}
        </div>
      </section>
      {isAway && (
        <button type="button" className="to-end" onClick={toEnd} aria-label="To the latest message">
          <DownIcon />
        </button>
      )}
    </div>
  )
}

const settled = { isHeld: false, retryAt: null, isLimited: false }

/** When those that are not sent so far may be: they go one after the other, so what holds one holds those behind it. */
function useOutlook(unsent: readonly UnsentView[]) {
  const waiting = unsent.filter(({ state }) => state === 'waiting')
  const cooling = waiting.find(({ retryAt }) => retryAt !== null)
  // Once it could not be sent it is waited for, also while another try is made.
  const wasHeld = useRef(false)
  wasHeld.current = waiting.some(({ mayBeStored, isSending }) => mayBeStored && (!isSending || wasHeld.current))
  return { isHeld: wasHeld.current, retryAt: cooling?.retryAt ?? null, isLimited: cooling?.tries === 0 }
}

/** Shows another branch, and keeps the keyboard on the button that was pressed, on the message that takes its place. */
function useSelect(scroller: RefObject<HTMLElement | null>, messages: readonly ShownMessage[], commands: Commands) {
  const wanted = useRef<{ messageId: string; by: Direction } | null>(null)
  useEffect(() => {
    if (!wanted.current || !messages.some(({ id }) => id === wanted.current?.messageId)) return
    const { messageId, by } = wanted.current
    wanted.current = null
    // Who went elsewhere meanwhile stays there.
    if (document.activeElement !== document.body) return
    scroller.current?.querySelector<HTMLElement>(`[data-branch="${messageId} ${by}"]`)?.focus()
  }, [messages, scroller])
  return useCallback(
    async (messageId: string, by: Direction) => {
      wanted.current = { messageId, by }
      try {
        await commands.select(messageId)
      } catch (error) {
        wanted.current = null
        throw error
      }
    },
    [commands],
  )
}

function Earlier({ onEarlier }: { onEarlier(): Promise<unknown> }) {
  const { isBusy, refusal, give } = useCommand()
  return (
    <div>
      <button
        type="button"
        className="small-button mx-auto"
        aria-disabled={isBusy}
        onClick={() => void give(onEarlier)}
      >
        Earlier messages
      </button>
      <Refused refusal={refusal} />
    </div>
  )
}

const nearEndPx = 80

/** Stays at the end while the reader is there, and leaves alone who has scrolled up to read. */
function useEnd(isEmpty: boolean, lastSent: string | undefined) {
  const scroller = useRef<HTMLElement>(null)
  const follows = useRef(true)
  const [isAway, setAway] = useState(false)
  useEffect(() => {
    const { current } = scroller
    if (!current) return
    let height = 0
    let room = 0
    const look = () => {
      const isAtEnd = current.scrollHeight - current.scrollTop - current.clientHeight < nearEndPx
      // A phone that is turned, or its keyboard, moves the text as well; only the reader leaves the end.
      const isMoved = current.scrollHeight !== height || current.clientHeight !== room
      if (isMoved && follows.current && !isAtEnd) return
      follows.current = isAtEnd
      setAway(!isAtEnd)
    }
    current.addEventListener('scroll', look, { passive: true })
    const watcher = new ResizeObserver(() => {
      height = current.scrollHeight
      room = current.clientHeight
      if (follows.current) current.scrollTo({ top: height })
    })
    if (current.firstElementChild) watcher.observe(current.firstElementChild)
    watcher.observe(current)
    return () => {
      current.removeEventListener('scroll', look)
      watcher.disconnect()
    }
  }, [])
  // biome-ignore lint/correctness/useExhaustiveDependencies: who has just sent something wants to see it
  useLayoutEffect(() => {
    follows.current = true
    scroller.current?.scrollTo({ top: scroller.current.scrollHeight })
  }, [lastSent, isEmpty])
  const toEnd = useCallback(() => {
    follows.current = true
    scroller.current?.scrollTo({ top: scroller.current.scrollHeight })
  }, [])
  return { scroller, isAway, toEnd }
}
