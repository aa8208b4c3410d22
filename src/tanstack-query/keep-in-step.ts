/**
 * `holdfast/tanstack-query`: keeps an app's cache of TanStack Query in step with the sessions of a client. What is put into
 * the cache comes from what the client shows, never from a frame alone: so after a cut, a reload of the session or a fetch
 * that was answered late nothing is missing and nothing is there twice.
 */
import type { HoldfastClient, PassingFrame, SessionState, ShownMessage } from '../client/client.ts'
import type { AnyHandlers, Handlers } from '../client/typed.ts'
import { isChunkFrame, type LogFrame } from '../core/view.ts'
import { type Listing, merge, remember, type Shown } from './list.ts'
import { createOutcomes } from './outcomes.ts'
import { sessionKey, sessionsKey } from './queries.ts'
import type { CachedQuery, QueryClient, QueryKey } from './query-client.ts'

export { sessionQuery, sessionsQuery } from './queries.ts'
export type { QueryClient, QueryKey } from './query-client.ts'

/** `Item`: the app's own form of a message in its lists. */
export type StepOptions<Chat = unknown, Item = ShownMessage<Chat>> = {
  /**
   * The sessions that are followed: ids, or absent: those that the client's list holds, the 50 that changed last.
   */
  sessions?: string | readonly string[]
  /** The key of the app's queries that hold a session's messages; longer keys that begin with it count, too. */
  messages?: (sessionId: string) => QueryKey
  /**
   * The app's form of a message, given what is in the list under its id. Null: it is left out, or as it is in the list.
   * Defaults to the message itself.
   */
  toItem?: (message: ShownMessage<Chat>, cached: Item | undefined) => Item | null
  /** Defaults to the item's `id`. An item that the app adds by itself is the same message if it has the same id. */
  idOf?: (item: Item) => string
  /** Where the list is, in a page or in what is cached, if it is neither that itself nor its `data` or `messages`. */
  field?: string
  /** The newest message is the first of a list. Defaults to false. */
  newestFirst?: boolean
  /** By the event's type, and `'*'`. Called when the message is in the cache; what they answer is invalidated. */
  on?: StepHandlers<Chat>
  /** By the event's type: what is invalidated with it, and where events may have been missed. */
  invalidates?: { [type: string]: readonly QueryKey[] | ((sessionId: string) => readonly QueryKey[]) }
}

/** `frame` null: the event was missed, and is told from the session as it was loaded. */
export type EventAbout = { sessionId: string; queryClient: QueryClient; frame: LogFrame | PassingFrame | null }
// biome-ignore lint/suspicious/noConfusingVoidType: a handler that answers nothing is one of them
type Answer = readonly QueryKey[] | void
export type StepHandlers<Chat> = Handlers<Chat, [about: EventAbout], Answer>

/** Of all sessions, so many are followed. */
const sessionsMax = 50

/** From now on, until what it answers is called. */
export function keepInStep<Chat = unknown, Item = ShownMessage<Chat>>(
  queryClient: QueryClient,
  client: HoldfastClient,
  options: StepOptions<Chat, Item> = {},
): () => void {
  const { sessions } = options
  return keepInStepWith(queryClient, client, sessions === undefined ? null : [sessions].flat(), () => options)
}

/** `sessions` null: all. The other options are looked up at each use. */
export function keepInStepWith<Chat, Item>(
  queryClient: QueryClient,
  client: HoldfastClient,
  sessions: readonly string[] | null,
  optionsNow: () => StepOptions<Chat, Item>,
): () => void {
  const options = optionsNow as () => StepOptions
  const cache = createCache(queryClient, options)
  const steps = new Map<string, Step>()
  const follow = (ids: readonly string[]) => {
    for (const id of ids) if (!steps.has(id)) steps.set(id, createStep(client, id, cache, options))
    for (const [id, step] of steps) {
      if (ids.includes(id)) continue
      steps.delete(id)
      step.stop()
    }
  }
  const listed = sessions === null ? client.sessions : null
  const followListed = () => {
    const state = client.sessions.getSnapshot()
    if (state.phase === 'ready') cache.put(sessionsKey, state)
    follow(state.sessions.slice(0, sessionsMax).map(({ id }) => id))
  }
  // Before what may change the cache at once.
  const unlisten = cache.onFetched((query) => {
    for (const step of steps.values()) step.refresh(query)
    if (listed?.getSnapshot().phase === 'ready') cache.put(sessionsKey, listed.getSnapshot())
  })
  const unlist = listed?.subscribe(followListed)
  if (sessions === null) followListed()
  else follow(sessions)
  return () => {
    unlist?.()
    unlisten()
    follow([])
  }
}

type Cache = ReturnType<typeof createCache>

function createCache(queryClient: QueryClient, options: () => StepOptions) {
  const queries = queryClient.getQueryCache()
  let isSetting = false
  /** How old the app's own fetch is, and whether it has to be made again, stays as it was. */
  const set = ({ queryKey, state: { dataUpdatedAt, isInvalidated } }: CachedQuery, data: unknown): unknown => {
    isSetting = true
    try {
      const kept = queryClient.setQueryData(queryKey, data, { updatedAt: dataUpdatedAt })
      if (isInvalidated) void queryClient.invalidateQueries({ queryKey, exact: true, refetchType: 'none' })
      return kept
    } finally {
      isSetting = false
    }
  }
  return {
    queryClient,
    /** Of a query of ours: the state itself, where somebody has asked for it. */
    put(queryKey: QueryKey, state: unknown) {
      for (const query of queries.findAll({ queryKey, exact: true })) {
        if (query.state.data !== undefined && query.state.data !== state) set(query, state)
      }
    },
    /** Into all lists under the key, or one of them. Answers those that do not lead on to what is shown. */
    merge(queryKey: QueryKey, only: CachedQuery | undefined, shown: Shown): CachedQuery[] {
      const listing = listingOf(options())
      const found = queries.findAll({ queryKey, predicate: (query) => only === undefined || query === only })
      return found.filter((query) => {
        const { data } = query.state
        if (data === undefined) return false
        const merged = merge(data, shown, listing)
        if (merged === 'apart') return true
        if (merged !== 'foreign' && merged !== data) remember(set(query, merged), shown.messages, listing)
        return false
      })
    },
    invalidate(keys: readonly QueryKey[]) {
      for (const queryKey of keys) void queryClient.invalidateQueries({ queryKey })
    },
    refetch: ({ queryKey }: CachedQuery) => void queryClient.invalidateQueries({ queryKey, exact: true }),
    /** By the app: fetched, set or restored. What the server answered may be older than what is shown. */
    onFetched(hear: (query: CachedQuery) => void): () => void {
      return queries.subscribe(({ type, query, action }) => {
        if (isSetting || query.state.data === undefined) return
        if (type === 'added' || (type === 'updated' && action?.type === 'success')) hear(query)
      })
    },
  }
}

function listingOf({ toItem, idOf, field, newestFirst = false }: StepOptions): Listing<ShownMessage> {
  return { toItem: toItem ?? ((message) => message), idOf: idOf ?? (({ id }) => id), field, newestFirst }
}

type Step = { refresh(query?: CachedQuery): void; stop(): void }

function createStep(client: HoldfastClient, sessionId: string, cache: Cache, options: () => StepOptions): Step {
  const handle = client.session(sessionId)
  const known = new Set<string>()
  const outcomes = createOutcomes()
  let due: (LogFrame | PassingFrame)[] = []
  let loads = 0
  let isJumpDue = false
  /** The lists that did not lead on, by the load at which they were fetched again: a fetch may not help. */
  const apart = new Map<string, number>()

  const refresh = (query?: CachedQuery) => {
    const state = handle.getSnapshot()
    if (state.phase === 'ready' || state.phase === 'missing') cache.put(sessionKey(sessionId), state)
    const { messages: keyOf } = options()
    if (keyOf === undefined) return
    const shown = shownOf(sessionId, state, known)
    for (const { id } of shown.messages) known.add(id)
    for (const each of cache.merge(keyOf(sessionId), query, shown)) {
      if (apart.get(each.queryHash) === loads) continue
      apart.set(each.queryHash, loads)
      cache.refetch(each)
    }
  }
  const tell = (type: string, data: unknown, frame: EventAbout['frame']) => {
    const { on, invalidates = {} } = options()
    const handlers: AnyHandlers<[EventAbout], Answer> = on ?? {}
    for (const handler of [handlers[type], handlers['*']]) {
      try {
        cache.invalidate(handler?.(data as never, { sessionId, queryClient: cache.queryClient, frame }) ?? [])
      } catch (error) {
        // The app's own mistake is reported as one, and takes nothing from the others who hear of this.
        queueMicrotask(() => {
          throw error
        })
      }
    }
    cache.invalidate(keysOf(invalidates[type], sessionId))
  }
  const tellDue = () => {
    const frames = due
    due = []
    for (const frame of frames) tell(frame.type, 'data' in frame ? frame.data : frame, frame)
  }
  const changed = () => {
    refresh()
    const state = handle.getSnapshot()
    if (!state.isLive) return
    tellDue()
    for (const { type, data } of outcomes.missedIn(state)) tell(type, data, null)
    if (!isJumpDue) return
    isJumpDue = false
    for (const keys of Object.values(options().invalidates ?? {})) cache.invalidate(keysOf(keys, sessionId))
  }
  const deaf = handle.onFrame((frame) => {
    if (!('cursor' in frame) || !isChunkFrame(frame)) due.push(frame)
    outcomes.heard(frame)
  })
  const unload = handle.onLoaded(() => {
    // The first one is where it begins.
    if (++loads > 1) isJumpDue = true
  })
  const leave = handle.subscribe(changed)
  changed()
  return {
    refresh,
    stop() {
      tellDue()
      deaf()
      unload()
      leave()
    },
  }
}

/** While what the server has now is not shown, the app's own fetch may know better: then only what is unsent is told. */
function shownOf(sessionId: string, state: SessionState, known: ReadonlySet<string>): Shown {
  const { messages, hasEarlier, isLive, phase } = state
  if (isLive || phase === 'missing') return { sessionId, messages, hasEarlier, isWhole: true, known }
  const unsent = messages.filter(({ seq }) => seq === 0)
  return { sessionId, messages: unsent, hasEarlier: false, isWhole: false, known }
}

function keysOf(keys: NonNullable<StepOptions['invalidates']>[string] | undefined, sessionId: string) {
  return typeof keys === 'function' ? keys(sessionId) : (keys ?? [])
}
