import type { FilePart, SessionHandle, SessionState, WhenBusy } from 'holdfast/client'
import { useConnection, useHoldfast, useUnsent } from 'holdfast/react'
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react'
import { Announcer } from './announcer.tsx'
import { attach, uploadBrokenOff } from './attachments.ts'
import { cutNetwork } from './client.ts'
import { ComingsContext, useComings } from './comings.tsx'
import { commandsOf, useStop } from './commands.ts'
import { Composer, type ComposerHandle } from './composer.tsx'
import { ConnectionSign, NoConnection } from './connection.tsx'
import { type DemoInfo, killServer } from './demo.ts'
import { draftKeyOf } from './drafts.ts'
import { useDrop } from './dropping.ts'
import { HappenedContext } from './happened.tsx'
import { MenuIcon } from './icons.tsx'
import { useAbsences, useClockAhead, useLives } from './lives.ts'
import { Messages } from './messages.tsx'
import { NoticesQuestion } from './notices-question.tsx'
import { Panel } from './panel.tsx'
import { MembersContext, PeopleContext, usePeople } from './people.ts'
import { InChat, PeopleButton } from './people-button.tsx'
import { keepPlace } from './place.ts'
import { useIsShown } from './shown.ts'
import { recall } from './storage.ts'
import { lineOf } from './turns.ts'
import { Typing, useSayTyping } from './typing.tsx'
import { Awaited, Gone, Missing, Welcome } from './welcome.tsx'

type PageProps = {
  sessionId: string
  isNew: boolean
  demo: DemoInfo | null
  /** The list of chats lies over it. */
  isCovered: boolean
  title: string | null
  /** In the list. */
  hasChats: boolean
  onMenu(): void
  onNew(): void
}

const awayMs = 3_000

export function ConversationPage({ sessionId, isNew, demo, isCovered, title, hasChats, onMenu, onNew }: PageProps) {
  const client = useHoldfast()
  const { handle, state, isFollowed, follow } = useSession(sessionId, isNew)
  const { unsent } = useUnsent(sessionId)
  const connection = useConnection()
  const { isLive, session, messages, turns } = state
  // A guest who has not written anything is nobody, and sees no chat: the first message makes one.
  const isNobody = state.error?.kind === 'auth' && session === null
  const phase = isNobody ? 'missing' : state.phase
  const composer = useRef<ComposerHandle>(null)
  const clockAheadMs = useClockAhead(handle)
  const { absences, expect } = useAbsences(isLive, connection.phase, clockAheadMs)
  const [isHistoryWanted, setHistoryWanted] = useState(false)
  const lives = useLives(handle, state, demo !== null || isHistoryWanted)
  const want = useCallback(() => setHistoryWanted(true), [])
  const happened = useMemo(() => ({ lives, absences, clockAheadMs, want }), [lives, absences, clockAheadMs, want])
  const typing = useSayTyping(handle, state)
  const people = usePeople(state, isLive)
  const comings = useComings(handle, state, people.me)
  const lastTitle = useRef<string | null>(null)
  if (phase === 'ready' && session !== null) lastTitle.current = session.title ?? title ?? 'Chat'
  /** It was there a moment ago. */
  const isGone = phase === 'missing' && lastTitle.current !== null

  const hasNoSession = (isNew || isNobody) && session === null
  const send = (text: string, whenBusy: WhenBusy = 'queue', files: readonly FilePart[] = []) => {
    keepPlace()
    typing.sent()
    const title = titleOf(text) || titleOf(files[0]?.filename ?? 'Files')
    const makes = hasNoSession ? { title } : null
    const parts = text.trim() === '' ? [...files] : [{ type: 'text', text }, ...files]
    void client.unsent.add({ sessionId, parts, whenBusy, makes })
    // Its first files have made it. Where it cannot be told, the chat is called by what was said last.
    if (session?.title === null && messages.length === 0) handle.rename(title).catch(() => undefined)
    follow()
  }
  const isHere = useRef(true)
  useEffect(() => {
    isHere.current = true
    return () => {
      isHere.current = false
    }
  }, [])
  /** A file is its session's: a new chat gets its own before the first one is uploaded. */
  const makeSession = async () => {
    await client.createSession({ id: sessionId })
    // Who was nobody is somebody now, and what was asked before may be refused still.
    client.wake()
    if (!isHere.current) return
    keepPlace()
    follow()
  }
  const takeFiles = (files: File[]) => {
    if (!people.mayWrite) return
    attach(sessionId, files, hasNoSession ? makeSession : null)
    composer.current?.focus()
  }
  const isOver = useDrop(takeFiles)
  const [commands] = useState(() => commandsOf(client, sessionId))
  const [givenBack, setGivenBack] = useState(0)
  const onGivenBack = useCallback(() => setGivenBack((count) => count + 1), [])
  useEffect(() => {
    if (!isLive) return
    commands.resume()
    // The server is there again: what waits for it is sent now.
    client.unsent.retry()
    uploadBrokenOff(sessionId)
  }, [isLive, commands, client, sessionId])
  const isEmpty = messages.length === 0
  useMarkRead(handle, state, useIsShown())
  const line = useMemo(() => lineOf(turns, messages), [turns, messages])
  const running = line[0]
  const stopping = useStop(commands, running)
  const stop = () => void stopping.stop()
  useEscape(stop, running !== undefined && !isCovered && people.mayWrite)
  /** Whose life the timeline draws and the announcer reads: a message that waits behind another has none to speak of. */
  const told =
    messages.findLast(({ id }) => id === running?.replyId) ?? messages.findLast(({ role }) => role === 'assistant')
  const isMissing = phase === 'missing' && isEmpty && !isNew
  /** Nothing of it is known, on this device or from the server. */
  const isAwaited = phase === 'loading' && isEmpty && !isNew
  const begun = unsent.find(({ makes }) => makes !== null)?.makes?.title
  const heading = isGone
    ? lastTitle.current
    : isMissing
      ? 'No such chat'
      : (session?.title ?? title ?? begun ?? (isAwaited ? 'Chat' : 'New chat'))
  // Of a new chat the server knows nothing: what stands for its connection is that of the list.
  const isDown = isFollowed
    ? phase !== 'missing' && !isLive
    : connection.phase === 'waiting' || connection.phase === 'connecting'
  useEffect(() => {
    document.title = isEmpty ? 'Holdfast' : `${heading} · Holdfast`
  }, [heading, isEmpty])

  return (
    <PeopleContext value={people}>
      <main className="main" inert={isCovered}>
        <header className="header">
          <button type="button" className="quiet-button md:hidden" onClick={onMenu} aria-label="Show chats">
            <MenuIcon />
          </button>
          <div className="min-w-0 flex-1">
            <h1 className="truncate text-[0.9375rem] font-semibold" dir="auto">
              {heading}
            </h1>
            {!people.isAlone && <InChat sessionId={sessionId} members={state.members} />}
          </div>
          {session !== null && phase === 'ready' && (
            <PeopleButton
              sessionId={sessionId}
              members={state.members}
              me={people.me}
              isDemo={demo !== null}
              onLeft={onNew}
            />
          )}
          {isFollowed && phase !== 'missing' && (
            <ConnectionSign isLive={isLive} hasFailed={connection.phase === 'waiting'} />
          )}
        </header>
        <NoConnection isDown={isDown} />
        {isGone && isEmpty ? (
          <Gone draft={recall(draftKeyOf(sessionId))} onNew={onNew} />
        ) : isMissing ? (
          <Missing hasChats={hasChats} onNew={onNew} />
        ) : isAwaited ? (
          <Awaited isDown={isDown} />
        ) : isEmpty ? (
          <Welcome demo={demo} onSend={send} />
        ) : (
          <HappenedContext value={happened}>
            <MembersContext value={state.members}>
              <ComingsContext value={comings.byMessage}>
                <Messages
                  state={state}
                  line={line}
                  unsent={unsent}
                  clockAheadMs={clockAheadMs}
                  commands={commands}
                  onEarlier={handle.loadEarlier}
                  onDone={() => composer.current?.focus()}
                />
              </ComingsContext>
            </MembersContext>
          </HappenedContext>
        )}
        <p className="sr-only" role="status">
          {comings.last}
        </p>
        <Typing typing={state.typing} />
        <NoticesQuestion isRunning={running !== undefined} onDone={() => composer.current?.focus()} />
        {isGone ? (
          !isEmpty && <p className="read-only">You are not in this chat any more. What you wrote here was not sent.</p>
        ) : people.mayWrite ? (
          <Composer
            ref={composer}
            sessionId={sessionId}
            draftKey={draftKeyOf(isFollowed ? sessionId : 'new')}
            notice={stopping.problem === null ? null : `Not stopped. ${stopping.problem}`}
            isRunning={running !== undefined}
            isAsking={running?.state === 'waiting'}
            isStopping={stopping.isBusy}
            onGivenBack={onGivenBack}
            onFiles={takeFiles}
            onSend={send}
            onStop={stop}
            onTyping={typing.say}
          />
        ) : (
          <p className="read-only">You may read this chat, and not write in it.</p>
        )}
        {isOver && (
          <p className="drop-here" aria-hidden="true">
            <span>Drop files to send them here</span>
          </p>
        )}
        <Announcer
          messages={phase === 'ready' || isNew ? messages : noMessages}
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
          life={told && lives.get(told.id)}
          absences={absences}
          clockAheadMs={clockAheadMs}
          onCut={() => {
            expect('cut')
            cutNetwork(awayMs)
          }}
          onKill={async () => {
            expect('killed')
            if (!(await killServer())) expect('lost')
          }}
        />
      )}
    </PeopleContext>
  )
}

/** Said once for each message that is over and each that waits for people, not for each piece of it. */
function useMarkRead(handle: SessionHandle, { isLive, messages, turns }: SessionState, isShown: boolean): void {
  const over = messages.filter(({ status, seq }) => seq > 0 && status !== 'pending' && status !== 'streaming').length
  const waiting = turns.flatMap(({ id, state, attempt }) => (state === 'waiting' ? [`${id} ${attempt}`] : [])).join()
  // biome-ignore lint/correctness/useExhaustiveDependencies: each that is over or asks is read
  useEffect(() => {
    // Where it cannot be told now, the next one tells of all before it.
    if (isLive && isShown) handle.markRead().catch(() => undefined)
  }, [handle, isLive, isShown, over, waiting])
}

const noMessages: SessionState['messages'] = []

/** As `useChatSession`, but for a new chat, which no server knows before its first message is written. */
function useSession(sessionId: string, isNew: boolean) {
  const client = useHoldfast()
  const handle = useMemo(() => client.session(sessionId), [client, sessionId])
  const [isFollowed, setFollowed] = useState(!isNew)
  const state = useSyncExternalStore(isFollowed ? handle.subscribe : notFollowed, handle.getSnapshot)
  const follow = useCallback(() => setFollowed(true), [])
  return { handle, state, isFollowed, follow }
}
const notFollowed = () => () => undefined

const titleLength = 60

/** What a chat is called that begins so. */
function titleOf(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim()
  return line.length > titleLength ? `${line.slice(0, titleLength).replace(/[\uD800-\uDBFF]$/, '')}…` : line
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
