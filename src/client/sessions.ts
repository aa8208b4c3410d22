/**
 * The list of a user's sessions, last changed first, kept in step by hints that one changed, and by asking now and then:
 * a hint may be lost (PROTOCOL.md, P21).
 */
import type { Session } from '../core/message.ts'
import type { Connection } from './connection.ts'
import { createStore, type Readable } from './store.ts'
import { HoldfastError, type Wire } from './wire.ts'

export type SessionsState = {
  phase: 'loading' | 'ready'
  sessions: readonly Session[]
  hasMore: boolean
  error: HoldfastError | null
}

export type SessionsHandle = Readable<SessionsState> & {
  /** The next page, of those that changed before the last one. False: there is none. */
  loadMore(): Promise<boolean>
}

type Page = { data: Session[]; before: string | null }

/** Asked for without a hint. */
const everyMs = 30_000
/** Of clocks, and of changes that were committed later than they say. */
const marginMs = 10_000

export function createSessions(wire: Wire, connection: Connection, soon: (act: () => void) => void): SessionsHandle {
  const state = createStore<SessionsState>({ phase: 'loading', sessions: [], hasMore: false, error: null })
  const sessions = new Map<string, Session>()
  let before: string | null = null
  let isLoaded = false
  let isAsking = false
  let isDue = false
  let control: AbortController | null = null
  let hearers = 0

  const draw = (error: HoldfastError | null = null) => {
    const list = [...sessions.values()].sort((a, b) => (a.updatedAt > b.updatedAt ? -1 : 1))
    state.set({ phase: isLoaded ? 'ready' : 'loading', sessions: list, hasMore: before !== null, error })
  }
  const ask = async (query: string, signal: AbortSignal) =>
    (await wire.askSurely(`/v1/sessions?${query}`, {}, signal)) as unknown as Page
  const put = (page: Page) => {
    for (const session of page.data) sessions.set(session.id, session)
  }

  /** What has changed since what is known; the first time a page. */
  const look = async (signal: AbortSignal) => {
    if (!isLoaded) {
      const page = await ask('', signal)
      put(page)
      before = page.before
      isLoaded = true
      return
    }
    const last = [...sessions.values()].reduce((most, { updatedAt }) => Math.max(most, Date.parse(updatedAt)), 0)
    const since = `changedSince=${encodeURIComponent(new Date(Math.max(0, last - marginMs)).toISOString())}`
    for (let place: string | null = ''; place !== null; ) {
      const page: Page = await ask(`${since}${place === '' ? '' : `&before=${encodeURIComponent(place)}`}`, signal)
      put(page)
      place = page.before
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
      if (!(error instanceof HoldfastError)) {
        if (!signal.aborted) throw error
      } else draw(error)
    } finally {
      isAsking = false
    }
  }
  const changed = async (sessionId: string | null) => {
    if (sessionId === null) return await lookSoon()
    // Of one that was deleted, or is not this user's any more, no list tells.
    const session = await one(sessionId)
    if (session === null) sessions.delete(sessionId)
    else sessions.set(sessionId, session)
    soon(draw)
  }
  const one = async (sessionId: string): Promise<Session | null> => {
    try {
      const path = `/v1/sessions/${encodeURIComponent(sessionId)}?limit=1`
      return ((await wire.askSurely(path, {}, control?.signal)) as unknown as { session: Session }).session
    } catch (error) {
      if (error instanceof HoldfastError && error.code !== 'not_found' && error.code !== 'gone') throw error
      return null
    }
  }

  let leave: (() => void) | undefined
  return {
    getSnapshot: state.getSnapshot,
    subscribe(hear) {
      const deaf = state.subscribe(hear)
      if (hearers++ === 0) {
        control = new AbortController()
        const unlist = connection.list((sessionId) => void changed(sessionId).catch(() => undefined))
        const timer = setInterval(() => void lookSoon(), everyMs)
        void lookSoon()
        leave = () => {
          unlist()
          clearInterval(timer)
          control?.abort()
          control = null
        }
      }
      let isOver = false
      return () => {
        if (isOver) return
        isOver = true
        deaf()
        if (--hearers === 0) leave?.()
      }
    },
    async loadMore() {
      if (before === null) return false
      const page = await ask(`before=${encodeURIComponent(before)}`, new AbortController().signal)
      put(page)
      before = page.before
      draw()
      return page.data.length > 0
    },
  }
}
