/**
 * A client as anybody might write one from PROTOCOL.md, and a suspicious one: its watcher checks each frame against
 * what the protocol promises (I4, I5, I7) and keeps what it finds in `problems`.
 */
import { randomUUID } from 'node:crypto'
import { createParser } from 'eventsource-parser'
import type { Chunk, Part } from '../../src/core/chunk.ts'
import { createFold, type Fold } from '../../src/core/fold.ts'
import type { Message } from '../../src/core/message.ts'
import { textOf } from '../../src/core/parts.ts'
import { tokenOf } from './server.ts'

export type Turn = { id: string; messageId: string; replyId: string; state: string; attempt: number; round: number }
export type Sent = { message: Message; reply: { id: string; status: string }; turn: Turn; cursor: string }
/** How a message stands, as every command answers. */
export type Stand = { message: Message; reply: Message; turn: Turn; cursor: string }
export type Snapshot = {
  session: {
    id: string
    messageCount: number
    totalTokens: number
    lastPreview: string | null
    lastModel: string | null
    title: string | null
  }
  messages: Message[]
  before: string | null
  turns: Turn[]
  open: { turnId: string; replyId: string; attempt: number; index: number; chunks: Chunk[] }[]
  cursor: string
}
// biome-ignore lint/suspicious/noExplicitAny: frames are what the server sent, the watcher checks them
export type Frame = { type: string; cursor?: string; after?: string; [key: string]: any }
export type Problem = { status: number; code: string; detail: string; retryable: boolean; [key: string]: unknown }

/** Whether a frame is the outcome's event of a user's message, of any round. */
export function isOutcomeOf({ type, data }: Frame, messageId: string): boolean {
  if (type === 'message.ai_response') return data.message.repliesTo === messageId
  return (type === 'message.error' || type === 'message.stopped') && data.userMessageId === messageId
}

export class ApiError extends Error {
  readonly problem: Problem
  constructor(problem: Problem) {
    super(`${problem.status} ${problem.code}: ${problem.detail}`)
    this.problem = problem
  }
}

export type Api = {
  /** Any request, with the user's token. */
  request(path: string, init?: RequestInit): Promise<Response>
  createSession(id?: string): Promise<string>
  send(sessionId: string, text: string, id?: string, more?: object): Promise<Sent>
  /** One of the commands on a message: retry, stop, edit, regenerate, select. */
  command(sessionId: string, messageId: string, name: string, body?: object): Promise<Stand>
  snapshot(sessionId: string): Promise<Snapshot>
  poll(sessionId: string, query: { cursor?: string; wait?: number }): Promise<{ frames: Frame[]; cursor: string }>
  watch(sessionId: string, cursor?: string): Watcher
}

/** `url` is asked for at each request: a server that was restarted may listen elsewhere. */
export async function apiOf(url: string | (() => string), userId = 'ann', tenant?: string): Promise<Api> {
  const token = await tokenOf(userId, tenant === undefined ? {} : { tenant })
  const base = typeof url === 'string' ? () => url : url
  const request = (path: string, init: RequestInit = {}) =>
    fetch(`${base()}${path}`, {
      ...init,
      headers: {
        authorization: `Bearer ${token}`,
        ...(init.body ? { 'content-type': 'application/json' } : {}),
        ...init.headers,
      },
    })
  const call = async <T>(path: string, init?: RequestInit): Promise<T> => {
    const response = await request(path, init)
    const answer = (await response.json()) as T
    if (!response.ok) throw new ApiError(answer as Problem)
    return answer
  }
  const post = (body: unknown): RequestInit => ({ method: 'POST', body: JSON.stringify(body) })
  return {
    request,
    createSession: async (id) => (await call<{ id: string }>('/v1/sessions', post(id === undefined ? {} : { id }))).id,
    send: (sessionId, text, id = randomUUID(), more = {}) =>
      call(`/v1/sessions/${sessionId}/messages`, post({ id, text, ...more })),
    command: (sessionId, messageId, name, body = {}) =>
      call(`/v1/sessions/${sessionId}/messages/${messageId}/${name}`, post(body)),
    snapshot: (sessionId) => call(`/v1/sessions/${sessionId}`),
    poll: (sessionId, { cursor, wait = 0 }) =>
      call(`/v1/sessions/${sessionId}/events?wait=${wait}${cursor === undefined ? '' : `&cursor=${cursor}`}`, {
        headers: { accept: 'application/json' },
      }),
    watch: (sessionId, cursor) =>
      new Watcher(
        (from, signal) =>
          request(`/v1/sessions/${sessionId}/events${from === undefined ? '' : `?cursor=${from}`}`, { signal }),
        cursor,
      ),
  }
}

type Reply = { attempt: number; next: number; fold: Fold; done: Message | null }

/**
 * Follows one session over server-sent events and comes back by its cursor whenever the connection ends. Started from
 * a cursor in the middle, it checks order and indexes; the text of replies that were open then is not known to it.
 */
export class Watcher {
  readonly frames: Frame[] = []
  readonly problems: string[] = []
  /** The wall clock's time when each of the frames came. */
  readonly arrivedAtMs = new Map<Frame, number>()
  /** Times that the connection was opened. */
  connections = 0
  cursor: string | undefined
  private readonly connect: (cursor: string | undefined, signal: AbortSignal) => Promise<Response>
  private readonly replies = new Map<string, Reply>()
  private readonly hearers = new Set<() => void>()
  private seq: number | undefined
  private control = new AbortController()
  private closed = false
  private readonly loop: Promise<void>

  constructor(connect: (cursor: string | undefined, signal: AbortSignal) => Promise<Response>, cursor?: string) {
    this.connect = connect
    this.cursor = cursor
    this.loop = this.run()
  }

  /** Resolves with the first frame (of those that came, too) that matches. */
  until(matches: (frame: Frame) => boolean, withinMs = 30_000): Promise<Frame> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.hearers.delete(look)
        const last = this.frames.slice(-5).map((frame) => JSON.stringify(frame).slice(0, 300))
        reject(
          new Error(`no such frame within ${withinMs} ms; ${this.frames.length} came, the last:\n${last.join('\n')}`),
        )
      }, withinMs)
      const look = () => {
        const found = this.frames.find(matches)
        if (!found) return
        clearTimeout(timer)
        this.hearers.delete(look)
        resolve(found)
      }
      this.hearers.add(look)
      look()
    })
  }

  /** Resolves with the outcome's event of a user's message. */
  outcome(messageId: string, withinMs?: number): Promise<Frame> {
    return this.until((frame) => isOutcomeOf(frame, messageId), withinMs)
  }

  /** The text shown now for a reply, or null before its first frame. */
  text(replyId: string): string | null {
    const reply = this.replies.get(replyId)
    if (!reply) return null
    return textOf(reply.done ? reply.done.parts : reply.fold.parts())
  }

  /** Cuts the connection; it is opened again at once, from the cursor. */
  cut(): void {
    this.control.abort()
  }

  async close(): Promise<void> {
    this.closed = true
    this.control.abort()
    await this.loop
  }

  private async run(): Promise<void> {
    while (!this.closed) {
      this.control = new AbortController()
      this.connections++
      try {
        await this.read(await this.connect(this.cursor, this.control.signal))
      } catch {
        // Cut, refused, or the server is away: again from the cursor.
      }
      if (!this.closed) await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  private async read(response: Response): Promise<void> {
    if (!response.ok || !response.body) return
    const parser = createParser({
      onEvent: ({ data, id }) => {
        const frame = JSON.parse(data) as Frame
        if (frame.cursor !== undefined && frame.cursor !== id) this.problems.push(`id ${id} of frame ${frame.cursor}`)
        this.take(frame)
      },
    })
    const decoder = new TextDecoder()
    // From `now` on, the first frame tells where that was.
    let lastCursor = this.cursor === 'now' ? undefined : this.cursor
    this.expectAfter = () => lastCursor
    this.moved = (cursor) => {
      lastCursor = cursor
    }
    // An abort in the very moment in which the body ends leaves undici's reader waiting for ever: raced with it.
    const { signal } = this.control
    const aborted = new Promise<undefined>((resolve) => signal.addEventListener('abort', () => resolve(undefined)))
    const reader = response.body.getReader()
    for (;;) {
      const next = signal.aborted ? undefined : await Promise.race([reader.read(), aborted])
      if (next === undefined || next.done) break
      parser.feed(decoder.decode(next.value, { stream: true }))
    }
  }

  private expectAfter: () => string | undefined = () => undefined
  private moved: (cursor: string) => void = () => undefined

  private take(frame: Frame): void {
    if (frame.cursor !== undefined) {
      const expected = this.expectAfter()
      if (expected !== undefined && frame.after !== expected) {
        this.problems.push(`gap: frame ${frame.cursor} comes after ${frame.after}, the last was ${expected}`)
      }
      this.moved(frame.cursor)
      this.cursor = frame.cursor
      if (frame.type === 'chunk') this.takeChunks(frame)
      else this.takeEvent(frame)
    }
    if (frame.type === 'reset') this.problems.push(`reset: ${frame.reason}`)
    this.frames.push(frame)
    this.arrivedAtMs.set(frame, Date.now())
    for (const hear of [...this.hearers]) hear()
  }

  private takeEvent({ type, seq, data }: Frame): void {
    if (this.seq !== undefined && seq !== this.seq + 1) this.problems.push(`event ${seq} came after ${this.seq}`)
    this.seq = seq
    if (type === 'attempt.started') {
      const before = this.replies.get(data.replyId)
      if (before && before.attempt >= data.attempt) {
        this.problems.push(`attempt ${data.attempt} began after ${before.attempt}`)
      }
      const fold = createFold({ parts: data.base as Part[] })
      this.replies.set(data.replyId, { attempt: data.attempt, next: 0, fold, done: null })
    }
    if (type === 'turn.waiting') this.takeWait(data.message)
    if (['message.ai_response', 'message.error', 'message.stopped'].includes(type)) this.takeOutcome(type, data.message)
  }

  /** It stands for the attempt's chunks, of which none comes any more. */
  private takeWait(message: Message): void {
    const reply = this.replies.get(message.id)
    if (!reply) return
    const [shown, stored] = [textOf(reply.fold.parts()), textOf(message.parts)]
    if (!stored.startsWith(shown))
      this.problems.push(`shown ${JSON.stringify(shown)}, waits at ${JSON.stringify(stored)}`)
    reply.fold = createFold({ parts: message.parts })
    reply.next = Number.NaN
  }

  private takeOutcome(type: string, message: Message): void {
    const reply = this.replies.get(message.id)
    if (reply?.done) this.problems.push(`a second outcome ${type} of ${message.id}`)
    if (reply) {
      // A stop may hold more than this follower was shown, never less.
      const shown = textOf(reply.fold.parts())
      const stored = textOf(message.parts)
      const partial = type === 'message.stopped' || reply.next === 0
      if (partial ? !stored.startsWith(shown) : type === 'message.ai_response' && !stored.startsWith(shown)) {
        this.problems.push(`shown ${JSON.stringify(shown.slice(-60))}, stored ${JSON.stringify(stored.slice(-60))}`)
      }
      reply.done = message
    }
  }

  private takeChunks({ messageId, attempt, index, n, chunks }: Frame): void {
    const reply = this.replies.get(messageId)
    // Begun before this watcher's first cursor.
    if (!reply) return
    if (reply.done) this.problems.push(`chunks of ${messageId} after its outcome`)
    if (attempt !== reply.attempt) this.problems.push(`chunks of attempt ${attempt} in attempt ${reply.attempt}`)
    if (index !== reply.next) this.problems.push(`chunk ${index} came where ${reply.next} was expected`)
    reply.next = index + n
    for (const chunk of chunks as Chunk[]) {
      if (!reply.fold.push(chunk)) this.problems.push(`chunk without a place: ${JSON.stringify(chunk).slice(0, 100)}`)
    }
  }
}
