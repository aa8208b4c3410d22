import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react'
import { Announcer } from './announcer.tsx'
import { type Commands, commandsOf, useCommand, useStop } from './commands.ts'
import { Composer, type ComposerHandle } from './composer.tsx'
import { type Conversation, type ConversationState, openConversation } from './conversation-state.ts'
import { draftKeyOf } from './drafts.ts'
import { DownIcon, Mark, MenuIcon } from './icons.tsx'
import { type Direction, OwnMessage, Refused, Reply, UnsentMessage } from './message.tsx'
import { isDemoModel, Panel } from './panel.tsx'
import { keepPlace } from './place.ts'
import { possibleIn } from './possible.ts'
import { type DemoInfo, earlierMessages, type WhenBusy } from './session.ts'
import { unsent } from './unsent.ts'
import { lineOf, type TurnView, takeEarlier, turnOfReply, type View } from './view.ts'

type PageProps = {
  sessionId: string
  isNew: boolean
  demo: DemoInfo | null
  /** The list of chats lies over it. */
  isCovered: boolean
  title: string | null
  onMenu(): void
  onChanged(): Promise<void>
}

const awayMs = 3_000

export function ConversationPage({ sessionId, isNew, demo, isCovered, title, onMenu, onChanged }: PageProps) {
  const { conversation, state, waiting } = useConversation(sessionId, isNew, onChanged)
  const { view, phase, connection, timesLive, absences, clockAheadMs } = state
  const composer = useRef<ComposerHandle>(null)
  const [notice, setNotice] = useState<string | null>(null)

  useEffect(() => {
    if (demo) conversation.showPast()
  }, [demo, conversation])
  useEffect(() => {
    return unsent.onRefused((refusal) => {
      const what =
        refusal.sessionId === sessionId ? 'Not sent.' : 'A message of another chat was not sent; here is its text.'
      setNotice(`${what} ${refusal.problem.detail}`)
      composer.current?.giveBack(refusal.text)
    })
  }, [sessionId])

  const send = (text: string, whenBusy: WhenBusy = 'queue') => {
    setNotice(null)
    keepPlace()
    unsent.add(sessionId, text, view === null && isNew, whenBusy)
  }
  const [commands] = useState(() => commandsOf(sessionId))
  const take = useCallback((text: string) => composer.current?.giveBack(text), [])
  const [givenBack, setGivenBack] = useState(0)
  const onGivenBack = useCallback(() => setGivenBack((count) => count + 1), [])
  useEffect(() => {
    if (timesLive > 0) commands.resume()
  }, [timesLive, commands])
  const messages = view?.messages ?? []
  const isEmpty = messages.length === 0 && waiting.length === 0
  const line = useMemo(() => (view ? lineOf(view) : []), [view])
  const running = line[0]
  const stopping = useStop(commands, running)
  const stop = () => void stopping.stop()
  useEscape(stop, running !== undefined && !isCovered)
  /** Whose life the timeline draws and the announcer reads: a message that waits behind another has none to speak of. */
  const told =
    messages.find(({ id }) => id === running?.replyId) ?? messages.findLast(({ role }) => role === 'assistant')
  const heading = phase === 'missing' ? 'No such chat' : (view?.session.title ?? title ?? 'New chat')
  useEffect(() => {
    document.title = isEmpty ? 'Holdfast' : `${heading} · Holdfast`
  }, [heading, isEmpty])

  return (
    <>
      <main className="main" inert={isCovered}>
        <header className="header">
          <button type="button" className="quiet-button md:hidden" onClick={onMenu} aria-label="Show chats">
            <MenuIcon />
          </button>
          <h1 className="min-w-0 flex-1 truncate text-[0.9375rem] font-semibold">{heading}</h1>
          <ConnectionSign state={state} />
        </header>
        {phase === 'missing' && waiting.length === 0 ? (
          <Missing />
        ) : isEmpty && phase !== 'loading' ? (
          <Welcome demo={demo} onSend={send} />
        ) : (
          <Messages
            view={view}
            line={line}
            waiting={waiting}
            clockAheadMs={clockAheadMs}
            conversation={conversation}
            commands={commands}
            onGiveBack={take}
            onDone={() => composer.current?.focus()}
          />
        )}
        <Composer
          ref={composer}
          draftKey={draftKeyOf(isNew && isEmpty && view === null ? 'new' : sessionId)}
          notice={stopping.problem ? `Not stopped. ${stopping.problem.detail}` : notice}
          isRunning={running !== undefined && connection !== 'connecting'}
          isAsking={running !== undefined && running.asks.length > 0}
          isStopping={stopping.isBusy}
          onGivenBack={onGivenBack}
          onSend={send}
          onStop={stop}
        />
        <Announcer
          messages={messages}
          replyId={told?.id ?? null}
          line={line}
          clockAheadMs={clockAheadMs}
          givenBack={givenBack}
        />
      </main>
      {demo && (
        <Panel
          demo={demo}
          isCovered={isCovered}
          turn={told && view ? turnOfReply(view, told.id) : undefined}
          absences={absences}
          clockAheadMs={clockAheadMs}
          onCut={() => conversation.cut(awayMs)}
          onKill={() => conversation.killServer()}
        />
      )}
    </>
  )
}

/** Escape, wherever it means nothing else. */
function useEscape(act: () => void, isOn: boolean): void {
  const latest = useRef(act)
  latest.current = act
  useEffect(() => {
    if (!isOn) return
    const onKey = (event: KeyboardEvent) => {
      // Held down it is still the press that has closed something.
      const isTaken = event.defaultPrevented || event.isComposing || event.repeat
      if (event.key === 'Escape' && !isTaken) latest.current()
    }
    window.addEventListener('keydown', onKey)
    return () => window.removeEventListener('keydown', onKey)
  }, [isOn])
}

/** A browser has six connections to a server for all its tabs: those that nobody sees leave theirs. */
const hiddenMs = 30_000

/** A device that sleeps fires no timers: how long it was is looked at when it is back. */
function whenHidden(ms: number, { rest, hurry }: { rest(): void; hurry(): void }): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined
  let since: number | null = null
  const look = () => {
    clearTimeout(timer)
    if (document.hidden) {
      since = Date.now()
      timer = setTimeout(rest, ms)
      return
    }
    if (since !== null && Date.now() - since >= ms) hurry()
    since = null
  }
  look()
  document.addEventListener('visibilitychange', look)
  return () => {
    clearTimeout(timer)
    document.removeEventListener('visibilitychange', look)
  }
}

function useConversation(sessionId: string, isNew: boolean, onChanged: () => Promise<void>) {
  const [conversation] = useState(() => openConversation(sessionId))
  const state = useSyncExternalStore(conversation.subscribe, conversation.state)
  const all = useSyncExternalStore(unsent.subscribe, unsent.list)
  const known = useMemo(() => new Set(state.view?.messages.map(({ id }) => id)), [state.view?.messages])
  const mine = all.filter((each) => each.sessionId === sessionId)
  const waiting = mine.filter(({ id }) => !known.has(id))
  const isStored = mine.some((each) => each.state === 'sent')
  const mayBegin = !isNew || isStored

  // biome-ignore lint/correctness/useExhaustiveDependencies: whether it may begin is looked at again below
  useEffect(() => {
    conversation.start({ fresh: !mayBegin })
    const hurry = () => conversation.hurry()
    window.addEventListener('online', hurry)
    const unwatch = whenHidden(hiddenMs, { rest: () => conversation.rest(), hurry })
    return () => {
      window.removeEventListener('online', hurry)
      unwatch()
      conversation.end()
    }
  }, [conversation])
  // Its first message made the session: from now on there is something to follow.
  useEffect(() => {
    if (isStored && (state.phase === 'fresh' || state.phase === 'missing')) conversation.start({ fresh: false })
  }, [isStored, state.phase, conversation])
  useEffect(() => unsent.seen(known), [known])

  const settled =
    state.view?.messages.filter(({ status }) => status !== 'pending' && status !== 'streaming').length ?? 0
  // biome-ignore lint/correctness/useExhaustiveDependencies: each of these changes what the list shows
  useEffect(() => {
    if (settled > 0 || isStored) void onChanged()
  }, [settled, isStored, state.view?.session.title, onChanged])
  return { conversation, state, waiting }
}

type MessagesProps = {
  view: View | null
  line: readonly TurnView[]
  waiting: ReturnType<typeof unsent.list>
  clockAheadMs: number
  conversation: Conversation
  commands: Commands
  onGiveBack(text: string): void
  onDone(): void
}

function Messages({ view, line, waiting, clockAheadMs, conversation, commands, onGiveBack, onDone }: MessagesProps) {
  const { scroller, isAway, toEnd } = useEnd(view, waiting.length)
  const possible = useMemo(() => view && possibleIn(view), [view])
  const cooldown = waiting.find((each) => each.cooldown)?.cooldown

  // On a phone the keyboard would slide in over what was just changed.
  const latestDone = useRef(onDone)
  latestDone.current = onDone
  const done = useCallback(() => {
    if (matchMedia('(hover: hover)').matches) latestDone.current()
    else scroller.current?.focus()
  }, [scroller])
  /** The button that was pressed, on the message that takes the place of its own. */
  const wanted = useRef<{ messageId: string; by: Direction } | null>(null)
  const select = useCallback(
    async (messageId: string, by: Direction) => {
      wanted.current = { messageId, by }
      const problem = await commands.select(messageId)
      if (problem) wanted.current = null
      return problem
    },
    [commands],
  )
  useEffect(() => {
    if (!wanted.current || !view?.messages.some(({ id }) => id === wanted.current?.messageId)) return
    const { messageId, by } = wanted.current
    wanted.current = null
    // Who went elsewhere meanwhile stays there.
    if (document.activeElement !== document.body) return
    scroller.current?.querySelector<HTMLElement>(`[data-branch="${messageId} ${by}"]`)?.focus()
  }, [view?.messages, scroller])
  const takeBack = useCallback(
    (id: string) => {
      const back = unsent.takeBack(id)
      if (back === null) return
      onGiveBack(back.text)
      if (back.mayBeStored) commands.disown(id)
      done()
    },
    [commands, onGiveBack, done],
  )
  const isHeld = waiting.some((each) => each.isHeld)
  return (
    <div className="relative min-h-0 flex-1">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <section ref={scroller} className="messages" tabIndex={0} aria-label="Messages">
        <div className="column">
          {view?.before && <Earlier view={view} conversation={conversation} />}
          {possible &&
            view?.messages.map((message) => {
              const can = possible(message)
              const turn = can.place === null ? undefined : line[can.place]
              const shared = { message, can, commands, onDone: done, onSelect: select }
              return message.role === 'user' ? (
                <OwnMessage key={message.id} {...shared} turn={turn} />
              ) : (
                <Reply
                  key={message.id}
                  {...shared}
                  turn={turn?.replyId === message.id ? turn : undefined}
                  clockAheadMs={clockAheadMs}
                />
              )
            })}
          {waiting.map(({ id, text, state, sentAt, isAsking }) => (
            <UnsentMessage
              key={id}
              {...{ id, text, state, sentAt, isAsking, cooldown }}
              onTakeBack={isHeld ? takeBack : null}
            />
          ))}
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

function Earlier({ view, conversation }: { view: View; conversation: Conversation }) {
  const { isBusy, refusal, give } = useCommand()
  const load = async () => {
    if (view.before === null) return null
    const page = await earlierMessages(view.session.id, view.before)
    if (page.ok) conversation.change((now) => takeEarlier(now, page.value))
    return page.ok ? null : page.problem
  }
  return (
    <div>
      <button type="button" className="small-button mx-auto" aria-disabled={isBusy} onClick={() => void give(load)}>
        Earlier messages
      </button>
      <Refused refusal={refusal} />
    </div>
  )
}

const nearEndPx = 80

/** Stays at the end while the reader is there, and leaves alone who has scrolled up to read. */
function useEnd(view: View | null, waiting: number) {
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
  }, [waiting > 0, view === null])
  const toEnd = useCallback(() => {
    follows.current = true
    scroller.current?.scrollTo({ top: scroller.current.scrollHeight })
  }, [])
  return { scroller, isAway, toEnd }
}

type Suggestion = { text: string; note?: string }

const demoSuggestions: Suggestion[] = [
  { text: 'long', note: 'Headings, code and tables' },
  { text: 'slow', note: 'A minute, to reload or kill the server in' },
  { text: 'fail once', note: 'An attempt that fails, and the one after it' },
  { text: 'roll the dice', note: 'A tool that runs once, whatever dies' },
  { text: 'send an email', note: 'A tool that asks you first (it only pretends)' },
  { text: 'What happens to my message if the server crashes now?' },
]
const modelSuggestions: Suggestion[] = [
  { text: 'Tell me a long story about a lighthouse keeper.' },
  { text: 'Explain write-ahead logging, with an example in code.' },
  { text: 'Compare three ways to make coffee in a table.' },
  { text: 'What is a holdfast?' },
]

function Welcome({ demo, onSend }: { demo: DemoInfo | null; onSend(text: string): void }) {
  const suggestions = demo && isDemoModel(demo) ? demoSuggestions : modelSuggestions
  return (
    <div className="welcome">
      <div className="column">
        <Mark />
        <h2 className="mt-4 text-2xl font-semibold tracking-tight text-balance">
          Say something. You are free to leave.
        </h2>
        <p className="mt-2 max-w-[34rem] text-pretty text-mute">
          Your message is stored before it is acknowledged, and each word of the reply before you see it. Reload, go
          offline, come back tomorrow: it will be here.
        </p>
        <ul className="suggestions">
          {suggestions.map(({ text, note }) => (
            <li key={text}>
              <button type="button" className="suggestion" onClick={() => onSend(text)}>
                <span className="font-medium">{text}</span>
                {note && <span className="text-[0.8125rem] text-mute">{note}</span>}
              </button>
            </li>
          ))}
        </ul>
      </div>
    </div>
  )
}

const Missing = () => (
  <div className="welcome">
    <div className="column">
      <h2 className="text-xl font-semibold">This chat is not here.</h2>
      <p className="mt-2 text-mute">
        It was deleted, or it belongs to somebody else. Your other chats are in the list.
      </p>
    </div>
  </div>
)

const connectionWords = { connecting: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', offline: 'Offline' }

function ConnectionSign({ state: { phase, connection } }: { state: ConversationState }) {
  const isOnline = useSyncExternalStore(subscribeOnline, () => navigator.onLine)
  if (phase === 'fresh' || phase === 'missing') return null
  const sign = isOnline ? connection : 'offline'
  return (
    <p className={`connection is-${sign}`} role="status">
      <span className="connection-dot" />
      {connectionWords[sign]}
    </p>
  )
}

function subscribeOnline(hear: () => void): () => void {
  window.addEventListener('online', hear)
  window.addEventListener('offline', hear)
  return () => {
    window.removeEventListener('online', hear)
    window.removeEventListener('offline', hear)
  }
}
