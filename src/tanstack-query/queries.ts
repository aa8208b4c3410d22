/** Queries of the client's own state, as `useQuery`, `prefetchQuery` and `ensureQueryData` take them. */
import type { HoldfastClient, HoldfastError, Readable, SessionState, SessionsState } from '../client/client.ts'
import { abortError } from '../client/wire.ts'

/**
 * A session as it is now. Resolves once all that is stored up to now is there; rejects with the `HoldfastError` for which
 * it cannot be loaded. Who wants it live beside it says `keepInStep`.
 */
export function sessionQuery<Chat = unknown>(client: HoldfastClient, sessionId: string) {
  return {
    queryKey: sessionKey(sessionId),
    queryFn: ({ signal }: { signal: AbortSignal }): Promise<SessionState<Chat>> =>
      loaded(client.session<Chat>(sessionId), signal, (state) => state.isLive),
  }
}

/** The user's sessions, last changed first: as many pages as the client has loaded. */
export function sessionsQuery(client: HoldfastClient) {
  return {
    queryKey: sessionsKey,
    queryFn: ({ signal }: { signal: AbortSignal }): Promise<SessionsState> =>
      loaded(client.sessions, signal, ({ phase }) => phase === 'ready'),
  }
}

export const sessionKey = (sessionId: string) => ['holdfast', 'session', sessionId] as const
export const sessionsKey = ['holdfast', 'sessions'] as const

function loaded<State extends { error: HoldfastError | null }>(
  from: Readable<State>,
  signal: AbortSignal,
  isThere: (state: State) => boolean,
): Promise<State> {
  return new Promise((resolve, reject) => {
    const look = () => {
      const state = from.getSnapshot()
      if (!isThere(state) && state.error === null) return
      end()
      if (isThere(state)) resolve(state)
      else reject(state.error)
    }
    const abort = () => {
      end()
      reject(abortError())
    }
    const leave = from.subscribe(look)
    const end = () => {
      leave()
      signal.removeEventListener('abort', abort)
    }
    signal.addEventListener('abort', abort)
    if (signal.aborted) abort()
    else look()
  })
}
