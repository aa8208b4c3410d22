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
import { abortError, createWire, type HoldfastError, unreachable } from '../client/wire.ts'
import { type DevicesReader, followDevices, type Own, type ShownMessage } from './devices.ts'
import { type Telling, type Told, tell } from './tellings.ts'

export { HoldfastError } from '../client/wire.ts'
export type { ShownMessage } from './devices.ts'

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
  /** For example that of `expo/fetch`. Where bodies are handed over whole, long polls are asked. Defaults to the global one. */
  fetch?: typeof fetch
  /**
   * The major of the app's `ai`, from 7.0.70 on 7. When another process takes a reply over, a 7 is told it again; a 6
   * shows the error that it is written again, unless the text goes on where it was, and `regenerate()` shows it, without
   * asking the model. Said to an older one, 7 ends such a reply with a page of schema errors. Defaults to 6.
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
   * Calls `onMessages` with the session's last messages (`limit`, 50, at most 200) now, whenever another device changed
   * them, and where this page's own streams left them in another order. `isRunning`: a reply is written that this page is
   * not told, or went on after an error here; `resumeStream()` shows it. Answers what ends it. `onError` is called where
   * the server refuses; nothing follows.
   */
  follow(chatId: string, onMessages: OnMessages, options?: FollowOptions): () => void
  /** For where there is no `online` or `visibilitychange`: the app is back, or another network. */
  wake(): void
}
/** The SDK's `UIMessage[]`, whatever type of its own the app gave it. */
// biome-ignore lint/suspicious/noExplicitAny: parts are what the app's own reply function wrote
export type OnMessages = (messages: (Omit<ShownMessage, 'parts'> & { parts: any[] })[], isRunning: boolean) => void
export type FollowOptions = { limit?: number; onError?: (error: HoldfastError) => void }

/** What was begun is told by this; or there is nothing to tell. */
type Begun = { tells(telling: Telling): void; tellsNothing(): void }
/** What this page does in one session. */
type Session = {
  /**
   * As one component of the page sees it, from now on. One that went leaves streams behind that nobody sees: those of an
   * unmounted `useChat` of 6 are read to their end.
   */
  own(): Own
  begin(message: AnyMessage | undefined): Begun & { answered(told: Told): void; failed(isRefused: boolean): void }
  resume(): Begun
  /** The reply to this message of the page ended here with an error, and was not told since. */
  brokeOn(messageId: string): boolean
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
    headersMayChange: typeof headers === 'function',
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

  type Asked = { chatId: string; begun: Begun; asked: string | undefined; signal: AbortSignal | undefined }
  const show = ({ chatId, begun, asked, signal }: Asked, replies: Told[]) => {
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
    begun.tells(telling)
    return telling.stream as ReadableStream<UIMessageChunk>
  }

  return {
    resumeStreamIsReplay: true,

    async sendMessages({ chatId, trigger, messageId, messages, abortSignal, headers: more, body }) {
      const asked = messages.findLast(({ role }) => role === 'user')
      const last = seen.get(chatId)
      const named = trigger === 'regenerate-message' && last?.messageId === asked?.id ? last?.replyId : undefined
      // Sent again the message is told its reply, however long ago that ended; only one that failed is tried again.
      const isUntold = messageId === undefined && asked !== undefined && sessionOf(chatId).brokeOn(asked.id)
      const meant = isUntold ? { trigger: 'submit-message' } : { trigger, messageId: messageId ?? named }
      const request = {
        method: 'POST' as const,
        headers: more,
        body: { whenBusy, ...body, id: chatId, messages: readBy(messages), ...meant },
      }
      const sending = sessionOf(chatId).begin(asked)
      const reconnecting = sayReconnecting(chatId)
      try {
        const told = (await wire.askSurely('/api/chat', request, abortSignal, () => reconnecting(true))) as Told
        sending.answered(told)
        return show({ chatId, begun: sending, asked: asked?.id, signal: abortSignal }, [told])
      } catch (error) {
        sending.failed(!abortSignal?.aborted)
        throw abortSignal?.aborted ? abortError() : error
      } finally {
        reconnecting(false)
      }
    },

    async reconnectToStream({ chatId, abortSignal, headers: more }) {
      const path = `/api/chat/${encodeURIComponent(chatId)}/stream`
      const begun = sessionOf(chatId).resume()
      const answer = (await wire.askSurely(path, { headers: more }, abortSignal)) as { data: Told[] } | null
      if (answer !== null) return show({ chatId, begun, asked: undefined, signal: abortSignal }, answer.data)
      begun.tellsNothing()
      return null
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
      followDevices(wire, chatId, limit, sessionOf(chatId).own(), read, control.signal).catch((error: unknown) => {
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
  /** By reply, the place among all that was begun of what told it last. */
  const shown = new Map<string, number>()
  const tellings = new Map<Telling, number>()
  const refused = new Map<string, ShownMessage>()
  const unanswered = new Set<Promise<Told | null>>()
  let places = 0
  let begun = 0
  /** Replies that ended here with an error, though they may go on, and what the page calls their messages. See `Ended`. */
  const broken = new Map<string, { of: string; isCutOff: boolean }>()
  let strayed = 0
  /** More than one thing was begun at once: on the page their replies stand where each came. */
  let isCrowded = false
  /** Of those that wait for a send to be answered. */
  const looks = new Set<() => void>()
  const strays = new Set<() => void>()
  const settled = async () => {
    while (unanswered.size > 0) await Promise.all(unanswered)
  }

  const stray = () => {
    strayed++
    for (const hear of [...strays]) hear()
  }

  const beginAt = (place: number, asked?: string): Begun => ({
    tells(telling) {
      if (tellings.size > 0 || telling.replies.length > 1) isCrowded = true
      tellings.set(telling, place)
      for (const { message, reply } of telling.replies) {
        shown.set(reply.id, place)
        // Of a message that was tried again the earlier reply is none any more.
        for (const [id, { of }] of broken) if (id === reply.id || of === (asked ?? message.id)) broken.delete(id)
      }
      void telling.ended.then((ended) => {
        tellings.delete(telling)
        // What it was not told to the end is shown when it comes from elsewhere.
        if (ended.how !== 'whole') {
          for (const { reply } of telling.replies) if (shown.get(reply.id) === place) shown.delete(reply.id)
        }
        if (ended.how === 'broken') {
          const { at, isCutOff } = ended
          broken.set(at.reply.id, { of: asked ?? at.message.id, isCutOff })
        }
        const isOutOfOrder = isCrowded && tellings.size === 0
        if (isOutOfOrder) isCrowded = false
        if (ended.how === 'broken' || isOutOfOrder) stray()
      })
    },
    tellsNothing() {
      const hasBroken = broken.size > 0
      broken.clear()
      if (hasBroken) stray()
    },
  })

  const ownAfter = (place: number): Own => {
    const own = () => [...tellings].flatMap(([telling, at]) => (at > place ? [telling] : []))
    const tellingOf = (replyId: string) => own().find(({ current }) => current()?.reply.id === replyId)
    return {
      get begun() {
        return begun
      },
      get strayed() {
        return strayed
      },
      get refused() {
        return [...refused.values()]
      },
      get isTelling() {
        return own().length > 0
      },
      settled,
      broke: (replyId) => broken.has(replyId),
      has: (replyId) => (shown.get(replyId) ?? 0) > place,
      tells: (replyId) => tellingOf(replyId) !== undefined,
      told: (replyId) => tellingOf(replyId)?.parts() ?? null,
      async idle() {
        while (own().length > 0) await Promise.all(own().map(({ ended }) => ended))
      },
      sentAfter: (than, signal) =>
        new Promise((resolve, reject) => {
          const look = () => {
            const isSent = begun > than && unanswered.size === 0
            if (!signal.aborted && !isSent) return void looks.add(look)
            looks.delete(look)
            if (isSent) resolve()
            else reject(abortError())
          }
          signal.addEventListener('abort', look)
          look()
        }),
      onStrayed(hear) {
        strays.add(hear)
        return () => void strays.delete(hear)
      },
    }
  }

  return {
    own: () => ownAfter(places),
    resume: () => beginAt(++places),
    brokeOn: (messageId) => [...broken.values()].some(({ of, isCutOff }) => of === messageId && !isCutOff),
    begin(message) {
      begun++
      if (tellings.size > 0 || unanswered.size > 0) isCrowded = true
      const place = ++places
      if (message !== undefined) refused.delete(message.id)
      let answer!: (told: Told | null) => void
      const answered = new Promise<Told | null>((resolve) => {
        answer = resolve
      })
      unanswered.add(answered)
      const settle = (told: Told | null) => {
        unanswered.delete(answered)
        answer(told)
        for (const look of [...looks]) look()
      }
      return {
        ...beginAt(place, message?.id),
        answered(told) {
          shown.set(told.reply.id, place)
          settle(told)
        },
        failed(isRefused) {
          if (isRefused && message !== undefined) refused.set(message.id, message as ShownMessage)
          settle(null)
        },
      }
    },
    async current() {
      for (const telling of tellings.keys()) {
        const told = telling.current()
        if (told) return told
      }
      for (const answered of unanswered) return await answered
      return null
    },
  }
}
