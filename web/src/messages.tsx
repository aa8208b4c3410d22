/** The messages of a chat, and where in them the reader is. */
import type { SessionState, ShownMessage, Turn, UnsentView } from 'holdfast/client'
import { type RefObject, useCallback, useEffect, useLayoutEffect, useMemo, useRef } from 'react'
import type { Direction } from './branches.tsx'
import { useCame } from './came.ts'
import { type Commands, useCommand } from './commands.ts'
import { type Group, groupsOf } from './groups.ts'
import { DownIcon } from './icons.tsx'
import { MessageGroup } from './message-group.tsx'
import { type Near, useNear } from './near.ts'
import { possibleIn } from './possible.ts'
import { Refused } from './refused.tsx'
import { useEnd } from './scrolling.ts'
import { useIsShown } from './shown.ts'
import { Still } from './still.ts'

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
  const lastSent = unsent.at(-1)?.id
  const { scroller, isAway, toEnd, goUpTo } = useEnd(state.session === null, lastSent)
  const firstThatCame = useCame(state, useIsShown(), lastSent)
  useLayoutEffect(() => {
    if (firstThatCame !== null) goUpTo('.came')
  }, [firstThatCame, goUpTo])
  const groups = useGroups(messages)
  const keyThatCame =
    firstThatCame === null
      ? undefined
      : groups.find(({ messages: those }) => those.some(({ id }) => id === firstThatCame))?.key
  const near = useNear(scroller, groups, keyThatCame)
  const steadyLine = useSame(line, sameList)
  const possible = usePossible(messages, turns)
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
          {state.hasEarlier && <Earlier key={messages[0]?.id} onEarlier={onEarlier} />}
          <Still scroller={scroller} drawn={near.state} firstKey={groups[0]?.key}>
            {near.rows.map(({ groups: those, isRoom }) => {
              const [group] = those
              if (group === undefined) return null
              if (isRoom) return <Room key={`room ${group.key}`} groups={those} near={near} />
              return (
                <MessageGroup
                  key={group.key}
                  group={group}
                  isNear={near.standOf(group) === 'drawn'}
                  height={near.heightOf(group)}
                  onDone={done}
                  onSelect={select}
                  {...{ possible, line: steadyLine, commands, clockAheadMs, firstThatCame, outlook }}
                />
              )
            })}
          </Still>
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

/** By the same key as long as it begins there: what it grows by stands after it. */
function Room({ groups, near }: { groups: readonly Group[]; near: Near }) {
  const px = groups.reduce((sum, group) => sum + near.heightOf(group), 0)
  const count = groups.reduce((sum, { messages }) => sum + messages.length, 0)
  return (
    <div className="room" style={{ height: `calc(${px}px + ${groups.length - 1} * var(--message-gap))` }}>
      <p className="sr-only">{count} messages, which are shown when you come to them</p>
    </div>
  )
}

function useGroups(messages: readonly ShownMessage[]): readonly Group[] {
  const known = useRef<readonly Group[]>([])
  const groups = useMemo(() => groupsOf(messages, known.current), [messages])
  known.current = groups
  return groups
}

/** The same function while a reply only grows: nothing of what may be done with it, or with another, changes by that. */
function usePossible(messages: readonly ShownMessage[], turns: readonly Turn[]) {
  const steadyMessages = useSame(messages, sameButForReplies)
  const steadyTurns = useSame(turns, sameList)
  return useMemo(() => possibleIn({ messages: steadyMessages, turns: steadyTurns }), [steadyMessages, steadyTurns])
}

function useSame<Value>(value: Value, isSame: (a: Value, b: Value) => boolean): Value {
  const known = useRef(value)
  if (!isSame(known.current, value)) known.current = value
  return known.current
}

const sameList = <Item,>(a: readonly Item[], b: readonly Item[]) =>
  a.length === b.length && a.every((each, at) => each === b[at])
/** What may be done with a reply is told by itself, and by whether others are there. */
function sameButForReplies(a: readonly ShownMessage[], b: readonly ShownMessage[]): boolean {
  if (a.length !== b.length) return false
  // Of many nearly all are the same objects.
  for (let at = 0; at < a.length; at++) {
    if (a[at] !== b[at] && (a[at]?.role !== 'assistant' || a[at]?.id !== b[at]?.id)) return false
  }
  return true
}

/** When those that are not sent so far may be: they go one after the other, so what holds one holds those behind it. */
function useOutlook(unsent: readonly UnsentView[]) {
  const waiting = unsent.filter(({ state }) => state === 'waiting')
  const cooling = waiting.find(({ retryAt }) => retryAt !== null)
  // Once it could not be sent it is waited for, also while another try is made.
  const wasHeld = useRef(false)
  wasHeld.current = waiting.some(({ mayBeStored, isSending }) => mayBeStored && (!isSending || wasHeld.current))
  const isHeld = wasHeld.current
  const retryAt = cooling?.retryAt ?? null
  const isLimited = cooling?.tries === 0
  return useMemo(() => ({ isHeld, retryAt, isLimited }), [isHeld, retryAt, isLimited])
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

/** Loaded when the reader comes near; the button is for the keyboard, and for where that failed. */
function Earlier({ onEarlier }: { onEarlier(): Promise<unknown> }) {
  const { isBusy, refusal, give } = useCommand()
  const place = useRef<HTMLDivElement>(null)
  useEffect(() => {
    const { current } = place
    if (!current) return
    // A busy page is told several at once, what holds now last.
    const near = (entries: IntersectionObserverEntry[]) => {
      if (entries.at(-1)?.isIntersecting) void give(onEarlier)
    }
    const watcher = new IntersectionObserver(near, { root: current.closest('.messages'), rootMargin: '400px 0px 0px' })
    watcher.observe(current)
    return () => watcher.disconnect()
  }, [give, onEarlier])
  return (
    <div ref={place}>
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
