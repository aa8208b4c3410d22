/** A page as the server sees it: the AI SDK's own transport, and a browser's cookies. */
import { on, once } from 'node:events'
import { DefaultChatTransport, type UIMessage, type UIMessageChunk } from 'ai'
import { WebSocket } from 'ws'

export type Stream = ReadableStream<UIMessageChunk>
export type Stored = { role: string; status: string; parts: { type: string; text?: string }[] }

export type ExamplePage = {
  /** Sends this text after what the page believes was said, and resolves to the reply's stream. */
  send(id: string, text: string, before?: UIMessage[]): Promise<Stream>
  /** Breaks the connection of the last `send`. */
  cut(): void
  /** The stream of a page that comes back. */
  resume(): Promise<Stream>
  fetch(path: string, init?: RequestInit): Promise<Response>
  /** Sends this text to another chat by a WebSocket, as `WebSocketChatTransport` does, and resolves to the reply's text. */
  askBySocket(chatId: string, text: string): Promise<string>
}

/** `url` is asked each time: a server that was killed may come back elsewhere. */
export function pageOf(chatId: string, url: () => string): ExamplePage {
  const cookies = new Map<string, string>()
  const cookie = () => [...cookies].map(([name, value]) => `${name}=${value}`).join('; ')
  const ask = async (path: string, init: RequestInit = {}) => {
    const headers = new Headers(init.headers)
    headers.set('cookie', cookie())
    const response = await fetch(url() + path, { ...init, headers })
    for (const each of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(each)!
      cookies.set(name!, value!)
    }
    return response
  }
  const transport = new DefaultChatTransport<UIMessage>({
    api: '/api/chat',
    fetch: (path, init) => ask(String(path), init),
  })
  let connection = new AbortController()
  return {
    fetch: ask,
    send(id, text, before = []) {
      connection = new AbortController()
      const messages: UIMessage[] = [...before, { id, role: 'user', parts: [{ type: 'text', text }] }]
      const { signal: abortSignal } = connection
      return transport.sendMessages({ chatId, messages, abortSignal, trigger: 'submit-message', messageId: undefined })
    },
    cut: () => connection.abort(),
    async askBySocket(id, text) {
      const socket = new WebSocket(`${url().replace(/^http/, 'ws')}/api/chat/ws`, { headers: { cookie: cookie() } })
      await once(socket, 'open')
      const messages = [{ id: 'm1', role: 'user', parts: [{ type: 'text', text }] }]
      const frame = { type: 'send', requestId: 'r1', id, trigger: 'submit-message', messages, headers: {}, body: {} }
      socket.send(JSON.stringify(frame))
      let told = ''
      for await (const [data] of on(socket, 'message', { close: ['close'] })) {
        const { type, chunk } = JSON.parse(String(data)) as { type: string; chunk?: UIMessageChunk }
        if (chunk?.type === 'text-delta') told += chunk.delta
        if (type === 'end') break
      }
      socket.terminate()
      return told
    },
    async resume() {
      const stream = await transport.reconnectToStream({ chatId })
      if (stream === null) throw new Error('There is nothing to resume.')
      return stream
    },
  }
}

/** Reads until the reply's first words, and leaves the stream open. */
export async function firstWords(stream: Stream): Promise<string> {
  const reader = stream.getReader()
  for (;;) {
    const { value, done } = await reader.read()
    if (done) throw new Error('The stream ended before the first words.')
    if (value.type === 'text-delta') {
      reader.releaseLock()
      return value.delta
    }
  }
}

/** The text of the rest, or of the whole, and how it ended. */
export async function readOut(stream: Stream): Promise<{ text: string; end: UIMessageChunk['type'] | undefined }> {
  let text = ''
  let end: UIMessageChunk['type'] | undefined
  for await (const chunk of stream as unknown as AsyncIterable<UIMessageChunk>) {
    if (chunk.type === 'text-delta') text += chunk.delta
    if (chunk.type === 'finish' || chunk.type === 'error' || chunk.type === 'abort') end = chunk.type
  }
  return { text, end }
}

/** As a page does that tries again: the error says that the reply is being written again. */
export async function resumeToEnd(page: ExamplePage): Promise<string> {
  for (;;) {
    const { text, end } = await readOut(await page.resume())
    if (end === 'finish') return text
    if (end !== 'error') throw new Error(`The reply ended by ${end}: ${text}`)
  }
}
