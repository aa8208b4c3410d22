/**
 * `holdfastTransport` where React Native is: no window and no document, a `fetch` that hands over bodies whole or that of
 * `expo/fetch`, and an app that says itself when it is back. Not a device: the fetches here have the shape of those two.
 */
import { randomUUID } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type HoldfastTransport, holdfastTransport } from '../../src/ai-sdk/transport.ts'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { type Chat, openChat } from '../support/chat.ts'
import { eventually } from '../support/eventually.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { tokenOf } from '../support/server.ts'
import { type SdkChat, sdkChat, shownBy, textOf } from './sdk.ts'

const majors: SdkMajor[] = [6, 7]

/** React Native's own: it answers when all of the body has come, and its answer has no `body`. */
async function wholeFetch(input: string | URL | Request, init?: RequestInit): Promise<Response> {
  const response = await fetch(input, init)
  const { status, headers } = response
  const whole = new Response(status === 204 ? null : await response.text(), { status, headers })
  return Object.defineProperty(whole, 'body', { value: undefined })
}

/** As `expo/fetch`: a body that streams, and a read of it that may never settle once the request was aborted. */
async function expoFetch(input: string | URL | Request, init?: RequestInit): Promise<Response> {
  const response = await fetch(input, init)
  if (response.body === null) return response
  const body = response.body.getReader()
  const streamed = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await body.read().catch(() => new Promise<never>(() => undefined))
      if (done) controller.close()
      else controller.enqueue(value)
    },
  })
  return new Response(streamed, { status: response.status, headers: response.headers })
}

type App = Chat & {
  id: string
  proxy: TcpProxy
  useChat: SdkChat
  transport: HoldfastTransport
  /** Lets the reply go on by one word. */
  goOn: () => void
  asked: string[]
  errors: Error[]
  /** What was asked and answered, each as `accept path`. */
  answered: string[]
  /** Of `react-native`. */
  appState: EventEmitter<{ change: ['active' | 'background'] }>
}

async function openApp(major: SdkMajor, fetchOf: typeof wholeFetch): Promise<App> {
  const words = ['One', ' two', ' three', ' four.']
  const asked: string[] = []
  let allowed = 1
  const waiting: (() => void)[] = []
  const opened = await openChat({
    async *reply({ message, signal }) {
      asked.push(textOf({ ...message, role: 'user' }))
      for (const [at, word] of words.entries()) {
        while (at >= allowed) {
          await new Promise<void>((resolve) => {
            waiting.push(resolve)
            signal.addEventListener('abort', () => resolve())
          })
          if (signal.aborted) return
        }
        yield word
      }
    },
  })
  const goOn = () => {
    allowed++
    for (const resolve of waiting.splice(0)) resolve()
  }
  onTestFinished(() => words.forEach(goOn))
  const { hostname, port } = new URL(opened.url)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  onTestFinished(() => proxy.close())
  const answered: string[] = []
  const errors: Error[] = []
  const api = `http://${proxy.host}:${proxy.port}`
  const transport = holdfastTransport({
    api,
    sdk: major,
    headers: async () => ({ authorization: `Bearer ${await tokenOf('ann')}` }),
    fetch: async (input, init) => {
      const response = await fetchOf(input, init)
      answered.push(`${new Headers(init?.headers).get('accept')} ${new URL(String(input)).pathname}`)
      return response
    },
  })
  const appState: App['appState'] = new EventEmitter()
  appState.on('change', (state) => {
    if (state === 'active') transport.wake()
  })
  const id = randomUUID()
  const useChat = await sdkChat(major, { url: api, id, transport, onError: (error: Error) => errors.push(error) })
  onTestFinished(() => useChat.stop())
  return { ...opened, id, proxy, useChat, transport, goOn, asked, errors, answered, appState }
}

const shows = (chat: SdkChat, text: string) => eventually(async () => textOf(chat.messages.at(-1)) === text)

async function expectStored({ ann, id, useChat, errors, asked }: App): Promise<void> {
  const { messages } = await ann.snapshot(id)
  expect(shownBy(useChat)).toEqual(messages.map(({ id, role, parts }) => `${role}: ${textOf({ id, role, parts })}`))
  expect([useChat.status, errors, asked]).toEqual(['ready', [], ['hello']])
}

describe.each(majors)('useChat of AI SDK %i with holdfastTransport as in React Native', (major) => {
  it('where fetch hands over bodies whole, the reply comes word by word all the same, through a cut and a refusal (I5, I7)', async () => {
    const app = await openApp(major, wholeFetch)
    const { useChat, proxy, goOn, answered } = app
    const sent = useChat.sendMessage({ text: 'hello' })
    await shows(useChat, 'One')
    goOn()
    await shows(useChat, 'One two')
    proxy.refuse()
    proxy.cutAll()
    goOn()
    await eventually(async () => proxy.counts.refused > 0)
    proxy.accept()
    await shows(useChat, 'One two three')
    goOn()
    await sent
    await expectStored(app)
    expect(answered.filter((each) => !each.startsWith('application/json '))).toEqual([])
  })

  it('where fetch hands over bodies whole, a stop ends the reply, and a page that comes later resumes it (I7, I11)', async () => {
    const app = await openApp(major, wholeFetch)
    const { useChat, transport, id, goOn } = app
    const sent = useChat.sendMessage({ text: 'hello' })
    await shows(useChat, 'One')
    await useChat.stop()
    await sent
    goOn()
    const resumed = useChat.resumeStream()
    await shows(useChat, 'One two')
    await transport.stop(id)
    await resumed
    await expectStored(app)
  })

  it('with expo/fetch, a connection that died in the background is left when the app is active again (I7)', async () => {
    const app = await openApp(major, expoFetch)
    const { useChat, proxy, goOn, appState, answered } = app
    const sent = useChat.sendMessage({ text: 'hello' })
    await shows(useChat, 'One')
    appState.emit('change', 'background')
    const last = proxy.counts.accepted
    proxy.watch({ onDownstream: (_, { id }) => (id <= last ? 'drop' : 'pass') })
    goOn()
    appState.emit('change', 'active')
    await shows(useChat, 'One two')
    goOn()
    goOn()
    await sent
    await expectStored(app)
    expect(answered.filter((each) => each.startsWith('text/event-stream '))).toHaveLength(2)
  })
})

it('follow() of a chat that does not exist yet tells what another device made of it when the app is active again', async () => {
  const { ann, id, transport, appState, answered } = await openApp(7, expoFetch)
  const told: string[][] = []
  onTestFinished(transport.follow(id, (messages) => told.push(messages.map(({ role }) => role))))
  await eventually(async () => answered.length > 0)
  await ann.createSession(id)
  await ann.send(id, 'hello')
  expect(told).toEqual([])
  // An answer is there a little before it is taken in: who is active then is told when it is active again.
  await eventually(async () => {
    appState.emit('change', 'active')
    return told.at(-1)?.[0] === 'user'
  })
})
