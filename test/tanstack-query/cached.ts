/** An app on TanStack Query before a real server, through a proxy that may cut it off. */
import { InfiniteQueryObserver, QueryClient, QueryObserver } from '@tanstack/react-query'
import { onTestFinished } from 'vitest'
import { WebSocket as NodeSocket } from 'ws'
import { type ClientOptions, createClient, type HoldfastClient, memoryStorage } from '../../src/client/client.ts'
import type { Part } from '../../src/core/chunk.ts'
import { ReplyError } from '../../src/core/errors.ts'
import type { Message } from '../../src/core/message.ts'
import { textOf } from '../../src/core/parts.ts'
import { keepInStep, type StepOptions } from '../../src/tanstack-query/keep-in-step.ts'
import { type Chat, openChat } from '../support/chat.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { tokenOf } from '../support/server.ts'

export type App = Chat & {
  client: HoldfastClient
  queries: QueryClient
  proxy: TcpProxy
  /** Asks the server, past the proxy, as the app's own `queryFn` does. */
  page(sessionId: string, query?: string): Promise<Page>
}
export type Page = { data: Message[]; before: string | null }

export async function openApp(options: { client?: ClientOptions } & Parameters<typeof openChat>[0] = {}): Promise<App> {
  const { client: own, ...server } = options
  const opened = await openChat({
    limits: { sendsPerMinute: 0 },
    onReply: ({ parts }) => ({ mood: textOf(parts as Part[]).length }),
    reply: ({ message }) => {
      const said = textOf(message.parts as Part[])
      if (said === 'fail') throw new ReplyError('provider_auth', 'on purpose')
      return `Re ${said}`
    },
    ...server,
  })
  const { hostname, port } = new URL(opened.url)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  const client = createClient({
    url: `http://${proxy.host}:${proxy.port}`,
    token: () => tokenOf('ann'),
    storage: memoryStorage(),
    WebSocket: NodeSocket as never,
    ...own,
  })
  const queries = new QueryClient({ defaultOptions: { queries: { retry: false } } })
  onTestFinished(async () => {
    client.close()
    queries.clear()
    await proxy.close()
  })
  const page = async (sessionId: string, query = '') =>
    (await (await opened.ann.request(`/v1/sessions/${sessionId}/messages${query}`)).json()) as Page
  return { ...opened, client, queries, proxy, page }
}

/** Until the test ends. */
export function inStep<Item>({ queries, client }: App, options: StepOptions<unknown, Item>): () => void {
  const stop = keepInStep<unknown, Item>(queries, client, options)
  onTestFinished(stop)
  return stop
}

export const messagesKey = (sessionId: string) => ['messages', sessionId]

/** `useQuery(['messages', id])`, mounted until the test ends; how often it has asked the server, and what it lost on the way. */
export async function mountList(app: App, sessionId = app.session) {
  const asked = { count: 0 }
  const observer = new QueryObserver<Message[]>(app.queries, {
    queryKey: messagesKey(sessionId),
    queryFn: async () => {
      asked.count++
      return (await app.page(sessionId)).data
    },
  })
  const seen = new Set<string>()
  const vanished: string[] = []
  const look = ({ data = [] }: { data?: Message[] | undefined }) => {
    const now = new Set(data.map(({ id }) => id))
    vanished.push(...[...seen].filter((id) => !now.has(id)))
    for (const id of now) seen.add(id)
  }
  onTestFinished(observer.subscribe(look))
  await observer.refetch({ cancelRefetch: false })
  return { asked, vanished, list: () => observer.getCurrentResult().data ?? [] }
}

/** `useInfiniteQuery`, from the newest page back, two messages to a page, in the app's own shape. */
export async function mountPages<Own extends { before: string | null }>(
  app: App,
  queryKey: string[],
  shape: (page: Page) => Own,
) {
  const observer = new InfiniteQueryObserver(app.queries, {
    queryKey,
    queryFn: async ({ pageParam }) =>
      shape(await app.page(app.session, `?limit=2${pageParam === null ? '' : `&before=${pageParam}`}`)),
    initialPageParam: null as string | null,
    getNextPageParam: (page: Own) => page.before,
  })
  onTestFinished(observer.subscribe(() => undefined))
  await observer.refetch({ cancelRefetch: false })
  const pages = () => observer.getCurrentResult().data?.pages ?? []
  return { observer, pages }
}

export const said = (messages: readonly Pick<Message, 'role' | 'parts'>[]) =>
  messages.map(({ role, parts }) => `${role}: ${textOf(parts)}`)
