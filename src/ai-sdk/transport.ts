/**
 * `useChat` on Holdfast with what the AI SDK's own transport cannot: a stream that goes on after a cut without an error,
 * a stop that reaches the server, other devices, and the choice of what a message does while a reply is written.
 *
 * ```ts
 * const transport = holdfastTransport({ headers: async () => ({ authorization: `Bearer ${await token()}` }) })
 * const chat = useChat({ id, transport, resume: true })
 * ```
 *
 * It is one object for AI SDK 6 and 7, and may be shared by all chats of a page.
 */
import type { UIMessageChunk } from 'ai'
import { type DevicesReader, followDevices, type Own, type ShownMessage } from './devices.ts'
import { type Telling, type Told, tell } from './tellings.ts'
import { abortError, createWire, type HoldfastError, unreachable } from './wire.ts'

export type { ShownMessage } from './devices.ts'
export { HoldfastError } from './wire.ts'

export type HoldfastTransportOptions = {
  /** Where the server is, with its `basePath`: `https://chat.example.com`. Defaults to the page's own origin. */
  api?: string
  /**
   * Sent with each request; a function is asked each time, so that a token may be renewed. Where it throws, that is an
   * error the first time; later it is taken for the network's, and it is asked again.
   */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>)
  /** As of `fetch`: `include` where a guest's cookie is to reach another origin. */
  credentials?: RequestCredentials
  /** For example that of `expo/fetch`. Has to stream bodies. Defaults to the global one. */
  fetch?: typeof fetch
  /**
   * The major of the app's `ai`, from 7.0.70 on 7. When another process takes a reply over, a 7 is told it again; a 6
   * shows the error that it is written again, unless the text goes on where it was, and `regenerate()` or
   * `resumeStream()` attaches to it. Said to an older one, 7 ends such a reply with a page of schema errors. Defaults to 6.
   */
  sdk?: 6 | 7
  /**
   * What a message does while a reply is written: wait (`queue`), stop it (`interrupt`), be handed to it between two of
   * its steps (`steer`), or be refused (`reject`). A single one chooses by
   * `sendMessage(message, { body: { whenBusy } })`. Defaults to `queue`.
   */
  whenBusy?: WhenBusy
  /** A connection without a word for so long is cut and made again. The server speaks every 15 s. Defaults to 40 000. */
  silentMs?: number
  /** True when a chat was cut off, false when it goes on or nothing is awaited any more: for a line in the page. */
  onReconnecting?: (isReconnecting: boolean, chatId: string) => void
}
export type WhenBusy = 'queue' | 'interrupt' | 'steer' | 'reject'

/** The structure that both majors' `UIMessage` have. */
type AnyMessage = { id: string; role: string; parts: readonly unknown[]; metadata?: unknown }
type RequestOptions = { headers?: Record<string, string> | Headers; body?: object; metadata?: unknown }
type SendOptions = RequestOptions & {
  trigger: 'submit-message' | 'regenerate-message'
  chatId: string
  messageId: string | undefined
  messages: readonly AnyMessage[]
  abortSignal: AbortSignal | undefined
}
type ReconnectOptions = RequestOptions & { chatId: string; abortSignal?: AbortSignal }

export type HoldfastTransport = {
  /** A replay begins at the reply's `start`: those versions of the SDK that ask clear the message for it. */
  readonly resumeStreamIsReplay: true
  /**
   * Resolves when the message is stored. Where no answer comes it is sent again, with the same id, until one does or
   * `chat.stop()` gives up. Rejects with a `HoldfastError`, whose message is a sentence for people.
   */
  sendMessages(options: SendOptions): Promise<ReadableStream<UIMessageChunk>>
  /** What is being written or ended less than 15 minutes ago, from its beginning and then live. Null: nothing. */
  reconnectToStream(options: ReconnectOptions): Promise<ReadableStream<UIMessageChunk> | null>
  /**
   * Ends on the server what this chat is being told, for all devices; its text so far is kept, and the stream ends with
   * exactly that. Where nothing is told, ends what runs there, and rejects when no answer comes. `chat.stop()` besides
   * only makes this page stop at once.
   */
  stop(chatId: string): Promise<void>
  /**
   * Calls `onMessages` with the session's last messages (`limit`, 50, at most 200) now, and whenever another device
   * changed them. `isRunning`: a reply is written that this page is not told; `resumeStream()` shows it. Answers what
   * ends it. `onError` is called where the server refuses; nothing follows.
   */
  follow(chatId: string, onMessages: OnMessages, options?: FollowOptions): () => void
  /** For where there is no `online` or `visibilitychange`: the app is back, or another network. */
  wake(): void
}
/** The SDK's `UIMessage[]`, whatever type of its own the app gave it. */
// biome-ignore lint/suspicious/noExplicitAny: parts are what the app's own reply function wrote
export type OnMessages = (messages: (Omit<ShownMessage, 'parts'> & { parts: any[] })[], isRunning: boolean) => void
export type FollowOptions = { limit?: number; onError?: (error: HoldfastError) => void }

/** What this page does in one session. */
type Session = Own & {
  begin(message: AnyMessage | undefined): { answered(told: Told): void; failed(isRefused: boolean): void }
  add(telling: Telling): void
  /** The reply that it is told, or that it waits for. Null: neither. */
  current(): Promise<Told | null>
}

export function holdfastTransport(options: HoldfastTransportOptions = {}): HoldfastTransport {
  const {
    api = '',
    headers = {},
    credentials,
    sdk = 6,
    whenBusy = 'queue',
    silentMs = 40_000,
    onReconnecting,
  } = options
  const wire = createWire({
    api: api.replace(/\/+$/, ''),
    headers: async () => new Headers(typeof headers === 'function' ? await headers() : headers),
    credentials,
    // Called as the global function that it is, and as the one that is there then.
    fetch: options.fetch ?? ((input, init) => fetch(input, init)),
    silentMs,
  })
  const sessions = new Map<string, Session>()
  const sessionOf = (chatId: string): Session => {
    const session = sessions.get(chatId) ?? createSession()
    sessions.set(chatId, session)
    return session
  }
  /** The reply that a page saw whole last, by chat: `regenerate()` means another one than that. */
  const seen = new Map<string, { messageId: string; replyId: string }>()

  /** Says each change once. */
  const sayReconnecting = (chatId: string) => {
    let was = false
    return (is: boolean) => {
      if (is !== was) onReconnecting?.(is, chatId)
      was = is
    }
  }

  const show = (chatId: string, replies: Told[], asked: string | undefined, signal: AbortSignal | undefined) => {
    const telling = tell(
      {
        wire,
        sdk,
        onReconnecting: sayReconnecting(chatId),
        onComplete: ({ message, reply }) => seen.set(chatId, { messageId: asked ?? message.id, replyId: reply.id }),
      },
      chatId,
      replies,
      signal,
    )
    sessionOf(chatId).add(telling)
    return telling.stream as ReadableStream<UIMessageChunk>
  }

  return {
    resumeStreamIsReplay: true,

    async sendMessages({ chatId, trigger, messageId, messages, abortSignal, headers: more, body }) {
      const asked = messages.findLast(({ role }) => role === 'user')
      const last = seen.get(chatId)
      const named = trigger === 'regenerate-message' && last?.messageId === asked?.id ? last?.replyId : undefined
      const request = {
        method: 'POST' as const,
        headers: more,
        body: { whenBusy, ...body, id: chatId, messages: readBy(messages), trigger, messageId: messageId ?? named },
      }
      const sending = sessionOf(chatId).begin(asked)
      const reconnecting = sayReconnecting(chatId)
      try {
        const told = (await wire.askSurely('/api/chat', request, abortSignal, () => reconnecting(true))) as Told
        sending.answered(told)
        return show(chatId, [told], asked?.id, abortSignal)
      } catch (error) {
        sending.failed(!abortSignal?.aborted)
        throw abortSignal?.aborted ? abortError() : error
      } finally {
        reconnecting(false)
      }
    },

    async reconnectToStream({ chatId, abortSignal, headers: more }) {
      const path = `/api/chat/${encodeURIComponent(chatId)}/stream`
      const answer = (await wire.askSurely(path, { headers: more }, abortSignal)) as { data: Told[] } | null
      return answer && show(chatId, answer.data, undefined, abortSignal)
    },

    async stop(chatId) {
      const path = `/api/chat/${encodeURIComponent(chatId)}/stop`
      const told = await sessionOf(chatId).current()
      // Without a name it might, asked again, end the next one.
      if (told === null) {
        if ((await wire.ask(path, { method: 'POST', body: {} }, undefined)) === null) throw unreachable(0, true)
      } else await wire.askSurely(path, { method: 'POST', body: { replyId: told.reply.id } }, undefined)
    },

    follow(chatId, onMessages, { limit = 50, onError } = {}) {
      const control = new AbortController()
      const read: DevicesReader = (messages, isRunning) => {
        if (!control.signal.aborted) onMessages(messages, isRunning)
      }
      followDevices(wire, chatId, limit, sessionOf(chatId), read, control.signal).catch((error: unknown) => {
        if (control.signal.aborted) return
        // An app that does not ask for it finds it among the rejections that nobody handled.
        if (onError === undefined) throw error
        onError(error as HoldfastError)
      })
      return () => control.abort()
    },

    wake: () => wire.wake(true),
  }
}

/** What the server reads of a history: its last message of the user, and answers to what the assistant's last asked. */
function readBy(messages: readonly AnyMessage[]): readonly AnyMessage[] {
  const lastOf = (role: string) =>
    Math.max(
      0,
      messages.findLastIndex((message) => message.role === role),
    )
  return messages.slice(Math.min(lastOf('user'), lastOf('assistant')))
}

function createSession(): Session {
  const shown = new Set<string>()
  const tellings = new Set<Telling>()
  const refused = new Map<string, ShownMessage>()
  const unanswered = new Set<Promise<Told | null>>()
  let begun = 0
  const sent: (() => void)[] = []
  const settled = async () => {
    while (unanswered.size > 0) await Promise.all(unanswered)
  }
  const tells = (replyId: string) => [...tellings].some(({ current }) => current()?.reply.id === replyId)
  return {
    get begun() {
      return begun
    },
    get refused() {
      return [...refused.values()]
    },
    get isTelling() {
      return tellings.size > 0
    },
    settled,
    has: (replyId) => shown.has(replyId),
    tells,
    async idle() {
      while (tellings.size > 0) await Promise.all([...tellings].map(({ ended }) => ended))
    },
    sentAfter: (than, signal) =>
      new Promise((resolve, reject) => {
        const look = () => {
          if (signal.aborted) reject(abortError())
          else if (begun > than && unanswered.size === 0) resolve()
          else sent.push(look)
        }
        signal.addEventListener('abort', look)
        look()
      }),
    begin(message) {
      begun++
      if (message !== undefined) refused.delete(message.id)
      let answer!: (told: Told | null) => void
      const answered = new Promise<Told | null>((resolve) => {
        answer = resolve
      })
      unanswered.add(answered)
      const settle = (told: Told | null) => {
        unanswered.delete(answered)
        answer(told)
        for (const look of sent.splice(0)) look()
      }
      return {
        answered(told) {
          shown.add(told.reply.id)
          settle(told)
        },
        failed(isRefused) {
          if (isRefused && message !== undefined) refused.set(message.id, message as ShownMessage)
          settle(null)
        },
      }
    },
    add(telling) {
      tellings.add(telling)
      for (const { reply } of telling.replies) shown.add(reply.id)
      void telling.ended.then((isWhole) => {
        tellings.delete(telling)
        // What it was not told to the end is shown when it comes from elsewhere.
        if (!isWhole) for (const { reply } of telling.replies) shown.delete(reply.id)
      })
    },
    async current() {
      for (const telling of tellings) {
        const told = telling.current()
        if (told) return told
      }
      for (const answered of unanswered) return await answered
      return null
    },
  }
}
