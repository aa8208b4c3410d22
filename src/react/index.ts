/** `holdfast/react`: the client's own state as hooks. Each is thin: what it does is in `holdfast/client`. */
import {
  createContext,
  createElement,
  type ReactElement,
  type ReactNode,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} from 'react'
import { type Activity, activityOf, readersOf } from '../client/activity.ts'
import type {
  ConnectionState,
  Handlers,
  HoldfastClient,
  MessageOf,
  Part,
  Readable,
  SendOptions,
  SessionHandle,
  SessionState,
  SessionsState,
  ShownMessage,
  UnsentList,
  UnsentView,
} from '../client/client.ts'
import type { PassingFrame } from '../client/feed.ts'
import { nobody, type PresentMember, presenceOf } from '../client/presence.ts'
import { notLoaded } from '../client/session.ts'
import { notListed } from '../client/sessions.ts'
import type { AnyHandlers } from '../client/typed.ts'
import { HoldfastError } from '../client/wire.ts'
import type { LogFrame } from '../core/view.ts'
import { keepInStepWith, type StepOptions } from '../tanstack-query/keep-in-step.ts'
import type { QueryClient } from '../tanstack-query/query-client.ts'

const Context = createContext<HoldfastClient | null>(null)

/** One client for all below. Its owner makes it outside the render, and closes it. */
export function HoldfastProvider(props: { client: HoldfastClient; children?: ReactNode }): ReactElement {
  return createElement(Context.Provider, { value: props.client }, props.children)
}

export function useHoldfast(): HoldfastClient {
  const client = useContext(Context)
  if (client === null) throw new Error('Wrap what uses Holdfast in <HoldfastProvider client={…}>.')
  return client
}

/** `before` is what the server rendered: a client that knows more by then may not say so before the page is hydrated. */
function useReadable<Value>({ subscribe, getSnapshot }: Readable<Value>, before: Value): Value {
  return useSyncExternalStore(subscribe, getSnapshot, () => before)
}
const notConnected: ConnectionState = { phase: 'idle', transport: null, retryAt: null }
const nothingUnsent: readonly UnsentView[] = []

export type ChatSession<Chat = unknown> = SessionState<Chat> &
  Omit<SessionHandle<Chat>, keyof Readable<unknown> | 'onFrame' | 'onLoaded'>

/**
 * A session as it is now, live, with what can be done in it. It is left when nobody uses it any more.
 * `useChatSession<typeof chat>` knows the metadata and tools of the server's `chat`, imported as a type.
 */
export function useChatSession<Chat = unknown>(id: string): ChatSession<Chat> {
  const client = useHoldfast()
  const handle = useMemo(() => client.session<Chat>(id), [client, id])
  const state = useReadable<SessionState<Chat>>(handle, notLoaded)
  return useMemo(() => {
    const { subscribe: _subscribe, getSnapshot: _now, onFrame: _onFrame, onLoaded: _onLoaded, ...commands } = handle
    return { ...commands, ...state }
  }, [handle, state])
}

/** The user's sessions, last changed first. */
export function useChatSessions(): SessionsState & { loadMore(): Promise<boolean> } {
  const { sessions } = useHoldfast()
  const state = useReadable(sessions, notListed)
  return useMemo(() => ({ ...state, loadMore: sessions.loadMore }), [sessions, state])
}

export type SendMessage<Chat = unknown> = {
  /** Shown at once, kept until the server has it. Resolves with the user's message as it is stored (R0.5). */
  send(message: string | { parts: Part[] }, options?: SendOptions): Promise<MessageOf<Chat>>
  /** So many are on their way. */
  sending: number
  /** Of the last one that failed, until the next is sent. */
  error: HoldfastError | null
}

export function useSendMessage<Chat = unknown>(sessionId: string): SendMessage<Chat> {
  const client = useHoldfast()
  const [sending, setSending] = useState(0)
  const [error, setError] = useState<HoldfastError | null>(null)
  const send = useCallback<SendMessage<Chat>['send']>(
    async (message, options) => {
      setSending((count) => count + 1)
      setError(null)
      try {
        const said = typeof message === 'string' ? { text: message } : message
        return (await client.session<Chat>(sessionId).send(said, options)).message
      } catch (caught) {
        if (caught instanceof HoldfastError) setError(caught)
        throw caught
      } finally {
        setSending((count) => count - 1)
      }
    },
    [client, sessionId],
  )
  return useMemo(() => ({ send, sending, error }), [send, sending, error])
}

/** The session's other members who are here, or away: over all their devices. Who is not there is gone. */
export function usePresence(sessionId: string): readonly PresentMember[] {
  const client = useHoldfast()
  return useReadable(
    useMemo(() => presenceOf(client, sessionId), [client, sessionId]),
    nobody,
  )
}

/** What is going on: who types, and whether the assistant thinks or writes. */
export function useActivity(sessionId: string): readonly Activity[] {
  const client = useHoldfast()
  const state = useReadable<SessionState>(client.session(sessionId), notLoaded)
  return useMemo(() => activityOf(state), [state])
}

/** The other members who have read this message of a user. */
export function useReadBy(sessionId: string, messageId: string): readonly string[] {
  const client = useHoldfast()
  const { messages, members } = useReadable<SessionState>(client.session(sessionId), notLoaded)
  return useMemo(() => {
    const message = messages.find(({ id }) => id === messageId)
    return message === undefined ? [] : readersOf(message, members)
  }, [messages, members, messageId])
}

/** By the event's type, and `'*'` for all. Its data, and the frame. */
export type RealtimeHandlers<Chat = unknown> = Handlers<Chat, [frame: LogFrame | PassingFrame]>

/** Calls the app's handlers with what comes live in a session; the newest ones, whenever it comes. */
export function useRealtime<Chat = unknown>(sessionId: string, handlers: RealtimeHandlers<Chat>): void {
  const client = useHoldfast()
  const newest = useNewest(handlers)
  useEffect(() => {
    const handle = client.session(sessionId)
    const deaf = handle.onFrame((frame) => {
      const data = 'data' in frame ? frame.data : frame
      const byType: AnyHandlers<[frame: LogFrame | PassingFrame]> = newest.current
      for (const hear of [byType[frame.type], byType['*']]) hear?.(data as never, frame)
    })
    // Also where no other hook follows it.
    const leave = handle.subscribe(() => undefined)
    return () => {
      deaf()
      leave()
    }
  }, [client, sessionId, newest])
}

/**
 * Keeps TanStack Query's cache in step with one session, some or all of them, while it is mounted: `keepInStep` of
 * `holdfast/tanstack-query`. The options need not be the same objects at each render.
 */
export function useQuerySync<Chat = unknown, Item = ShownMessage<Chat>>(
  queryClient: QueryClient,
  options: StepOptions<Chat, Item> = {},
): void {
  const client = useHoldfast()
  const newest = useNewest(options)
  // Ids have no spaces.
  const ids = options.sessions === undefined ? null : [options.sessions].flat().join(' ')
  useEffect(() => {
    const sessions = ids === null ? null : ids.split(' ').filter((id) => id !== '')
    return keepInStepWith(queryClient, client, sessions, () => newest.current)
  }, [queryClient, client, ids, newest])
}

function useNewest<Value>(value: Value): { readonly current: Value } {
  const newest = useRef(value)
  useEffect(() => {
    newest.current = value
  })
  return newest
}

/** What no server has acknowledged, of one session or all, with what can be done about it. */
export function useUnsent(
  sessionId?: string,
): { unsent: readonly UnsentView[] } & Pick<UnsentList, 'edit' | 'withdraw' | 'retry'> {
  const { unsent } = useHoldfast()
  const list = useReadable({ subscribe: unsent.subscribe, getSnapshot: unsent.list }, nothingUnsent)
  return useMemo(() => {
    const own = sessionId === undefined ? list : list.filter((each) => each.sessionId === sessionId)
    return { unsent: own, edit: unsent.edit, withdraw: unsent.withdraw, retry: unsent.retry }
  }, [unsent, list, sessionId])
}

/** How the connection stands: for an offline banner. */
export function useConnection(): ConnectionState {
  return useReadable(useHoldfast().connection, notConnected)
}
