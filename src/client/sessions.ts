/**
 * The list of a user's sessions, last changed first, kept in step by hints that one changed, and by asking now and then:
 * a hint may be lost (PROTOCOL.md, P21).
 */
import type { Session } from '../core/message.ts'
import type { Connection, SessionHint } from './connection.ts'
import { createStore, type Readable } from './store.ts'
import { HoldfastError, type Wire } from './wire.ts'

export type SessionsState = {
  phase: 'loading' | 'ready'
  sessions: readonly Session[]
  hasMore: boolean
  error: HoldfastError | null
}

/** Before anything is known, and what a server renders. */
export const notListed: SessionsState = { phase: 'loading', sessions: [], hasMore: false, error: null }

export type SessionsHandle = Readable<SessionsState> & {
  /** The next page, of those that changed before the last one. False: there is none. */
  loadMore(): Promise<boolean>
}

type Page = { data: Session[]; before: string | null }

/** Asked for without a hint. */
const everyMs = 30_000
/** Of clocks, and of changes that were committed later than they say. */
const marginMs = 10_000

/** `forget`: it was deleted here, of which a hint may be lost. */
export type SessionsList = SessionsHandle & { forget(sessionId: string): void }

export function createSessions(
  wire: Wire,
  connection: Connection,
  soon: (act: () => void) => void,
  closed: AbortSignal,
  start: () => void,
): SessionsList {
  const state = createStore<SessionsState>(notListed, () => {
    start()
    control = new AbortController()
    const unlist = connection.list(changed)
    const timer = setInterval(() => void lookSoon(), everyMs)
    changed(null)
    return () => {
      unlist()
      clearInterval(timer)
      control?.abort()
      control = null
    }
  })
  let sessions = new Map<string, Session>()
  let before: string | null = null
  let phase: SessionsState['phase'] = 'loading'
  let isAsking = false
  let isDue = false
  /** What was deleted meanwhile no list of changes tells: all that is shown is loaded anew. */
  let isWhole = true
  let control: AbortController | null = null
  closed.addEventListener('abort', () => control?.abort())
  /** Deleted while a list was on its way that may still have them. */
  const gone = new Set<string>()

  const draw = (error: HoldfastError | null = null) => {
    const list = [...sessions.values()].sort((a, b) => (a.updatedAt > b.updatedAt ? -1 : 1))
    state.set({ phase, sessions: list, hasMore: before !== null, error })
  }
  const pageBefore = async (query: string, place: string, signal: AbortSignal | undefined) =>
    (await wire.askSurely(
      `/v1/sessions?${query}${place && `before=${encodeURIComponent(place)}`}`,
      {},
      signal,
    )) as unknown as Page

  const look = async (signal: AbortSignal) => {
    const whole = isWhole
    isWhole = false
    try {
      const last = [...sessions.values()].reduce(
        (most, { updatedAt }) => Math.max(most, Date.parse(updatedAt)),
        marginMs,
      )
      const query = whole ? '' : `changedSince=${new Date(last - marginMs).toISOString()}&`
      const found = new Map<string, Session>()
      gone.clear()
      let place: string | null = ''
      do {
        const page: Page = await pageBefore(query, place, signal)
        for (const session of page.data) found.set(session.id, session)
        place = page.before
      } while (place !== null && (!whole || found.size < sessions.size))
      for (const id of gone) found.delete(id)
      sessions = whole ? found : new Map([...sessions, ...found])
      if (whole) before = place
      phase = 'ready'
    } catch (error) {
      isWhole ||= whole
      throw error
    }
  }
  const lookSoon = async () => {
    isDue = true
    const { signal } = control ?? {}
    if (isAsking || signal === undefined) return
    isAsking = true
    try {
      while (isDue && !signal.aborted) {
        isDue = false
        await look(signal)
        soon(draw)
      }
    } catch (error) {
      if (error instanceof HoldfastError) draw(error)
      else if (!signal.aborted) throw error
    } finally {
      isAsking = false
      // Who had left was back before it had ended.
      if (isDue) void lookSoon()
    }
  }
  const forget = (sessionId: string) => {
    gone.add(sessionId)
    if (sessions.delete(sessionId)) draw()
  }
  const changed = (hint: SessionHint | null) => {
    if (hint?.updatedAt === null) return forget(hint.sessionId)
    // What was only read no list of changes tells either.
    isWhole ||= hint === null || sessions.get(hint.sessionId)?.updatedAt === hint.updatedAt
    void lookSoon()
  }

  return {
    getSnapshot: state.getSnapshot,
    subscribe: state.subscribe,
    forget,
    async loadMore() {
      if (before === null) return false
      const page = await pageBefore('', before, undefined)
      for (const session of page.data) sessions.set(session.id, session)
      before = page.before
      draw()
      return page.data.length > 0
    },
  }
}
