/** A component with every hook, rendered by a server and hydrated in a page. Without JSX: the tests render it, too. */
import { QueryClient, QueryClientProvider, useQuery, useQueryClient } from '@tanstack/react-query'
import { createElement, type ReactElement } from 'react'
import type { HoldfastClient, ShownMessage } from '../../../src/client/client.ts'
import {
  HoldfastProvider,
  useActivity,
  useChatSession,
  useChatSessions,
  useConnection,
  usePresence,
  useQuerySync,
  useReadBy,
  useRealtime,
  useSendMessage,
  useUnsent,
} from '../../../src/react/index.ts'

type Props = { client: HoldfastClient; id: string }

export function EveryHook({ client, id }: Props): ReactElement {
  const inner = createElement(HoldfastProvider, { client }, createElement(Inner, { id }))
  return createElement(QueryClientProvider, { client: queryClient }, inner)
}
const queryClient = new QueryClient()

const textOf = ({ parts }: ShownMessage) =>
  parts.flatMap(({ text }) => (typeof text === 'string' ? [text] : [])).join('')

function Inner({ id }: { id: string }): ReactElement {
  const { phase, isLive, messages } = useChatSession(id)
  const { sessions } = useChatSessions()
  const { sending, error } = useSendMessage(id)
  const { unsent } = useUnsent()
  const connection = useConnection()
  const people = [usePresence(id), useActivity(id), useReadBy(id, messages[0]?.id ?? '')].map(({ length }) => length)
  const queryKey = ['messages', id]
  const cached = useQuery<ShownMessage[]>({ queryKey, queryFn: () => [], initialData: [], staleTime: 'static' })
  useRealtime(id, { '*': () => undefined })
  useQuerySync(useQueryClient(), { sessions: id, messages: () => queryKey })
  const shown = { phase, isLive, messages: messages.map(textOf), cached: cached.data.map(textOf) }
  const rest = {
    sessions: sessions.length,
    sending,
    error,
    unsent: unsent.length,
    connection: connection.phase,
    people,
  }
  return createElement('p', { id: 'state' }, JSON.stringify({ ...shown, ...rest }))
}
