/**
 * Follows the log of one session over server-sent events, and never gives up: whatever ends the connection, it comes
 * back by its cursor (PROTOCOL.md, P40–P50), so that frames come in order, each once.
 */
import { createParser } from 'eventsource-parser'
import type { Chunk } from '../core/chunk.ts'
import type { ReplyEventData } from '../core/ui-follower.ts'
import { abortError, backoffMs, HoldfastError, type Wire } from './wire.ts'

export type ChunkFrame = { type: 'chunk'; turnId: string; messageId: string; chunks: Chunk[] }
export type EventFrame = {
  type: string
  turnId?: string
  data: ReplyEventData & { turn?: { replyId: string }; reply?: { id: string } }
}
export type CaughtUp = { type: 'caught-up' }
export type Frame = (ChunkFrame | EventFrame) & { cursor: string; after: string }
type Control = CaughtUp | { type: 'reset' } | { type: 'reconnect'; afterMs: number }

export type LogReader = {
  /** Answers whether that was all that is wanted. */
  take(frame: ChunkFrame | EventFrame | CaughtUp): boolean
  /** A connection was lost and is to be made again. */
  onCut(): void
  /** One stands, and what was missed has come. */
  onLive(): void
}

export const isChunks = (frame: { type: string }): frame is ChunkFrame => frame.type === 'chunk'

/** A connection that lasted so long was one: its end is the first failure of a new row. */
const stoodMs = 5_000
/** When the page is back, a connection that was silent for longer than a heartbeat takes is not trusted. */
const heartbeatMs = 16_000

/**
 * Resolves when the reader has all that it wants, or with `stale`: from this cursor nothing leads on, the snapshot does.
 * Rejects with a `HoldfastError` where the server refuses, and with an `AbortError`.
 */
export async function followLog(
  wire: Wire,
  sessionId: string,
  from: string,
  reader: LogReader,
  signal: AbortSignal,
): Promise<'done' | 'stale'> {
  let cursor = from
  for (let failures = 0; ; ) {
    const sinceMs = Date.now()
    const before = cursor
    const ended = await connect(wire, sessionId, cursor, reader, signal, (next) => {
      cursor = next
    })
    if (ended === 'done' || ended === 'stale') return ended
    if (signal.aborted) throw abortError()
    reader.onCut()
    if (cursor !== before || Date.now() - sinceMs > stoodMs) failures = 0
    await wire.pause(Math.max(ended.afterMs, backoffMs(failures++)), signal)
  }
}

async function connect(
  wire: Wire,
  sessionId: string,
  from: string,
  reader: LogReader,
  signal: AbortSignal,
  move: (cursor: string) => void,
): Promise<'done' | 'stale' | { afterMs: number }> {
  const call = new AbortController()
  const cut = () => call.abort()
  let heardAtMs = Date.now()
  let silence = setTimeout(cut, wire.silentMs)
  const heard = () => {
    heardAtMs = Date.now()
    clearTimeout(silence)
    silence = setTimeout(cut, wire.silentMs)
  }
  const trustsNoMore = wire.onWake((isOther) => {
    if (isOther || Date.now() - heardAtMs > heartbeatMs) cut()
  })
  signal.addEventListener('abort', cut)
  if (signal.aborted) cut()
  try {
    const path = `/v1/sessions/${encodeURIComponent(sessionId)}/events?cursor=${encodeURIComponent(from)}`
    const response = await wire.ask(path, { accept: 'text/event-stream' }, call.signal)
    if (!response?.body) return { afterMs: 0 }
    heard()
    let last = from
    let ended: 'done' | 'stale' | { afterMs: number } | undefined
    const take = (data: string) => {
      if (ended !== undefined) return
      const frame = JSON.parse(data) as Frame | Control
      if (frame.type === 'reset') ended = 'stale'
      else if (frame.type === 'reconnect' && 'afterMs' in frame) ended = { afterMs: frame.afterMs }
      else if (frame.type === 'caught-up' && !('cursor' in frame)) {
        reader.onLive()
        if (reader.take({ type: 'caught-up' })) ended = 'done'
      } else if ('cursor' in frame) {
        if (frame.after !== last) ended = 'stale'
        else if (reader.take(frame)) ended = 'done'
        last = frame.cursor
        if (ended === undefined) move(last)
      }
    }
    const parser = createParser({ onEvent: ({ data }) => take(data) })
    const decoder = new TextDecoder()
    const body = response.body.getReader()
    const aborted = new Promise<null>((resolve) => call.signal.addEventListener('abort', () => resolve(null)))
    while (ended === undefined && !call.signal.aborted) {
      // A connection that breaks is an end like any other. Some fetches never settle a read that is aborted.
      const read = await Promise.race([body.read(), aborted]).catch(() => null)
      if (read === null || read.done) break
      heard()
      parser.feed(decoder.decode(read.value, { stream: true }))
    }
    return ended ?? { afterMs: 0 }
  } catch (error) {
    if (error instanceof HoldfastError && error.code === 'bad_cursor') return 'stale'
    if (error instanceof HoldfastError && error.retryable) return { afterMs: error.retryAfterMs ?? 0 }
    if (!(error instanceof HoldfastError) && call.signal.aborted) return { afterMs: 0 }
    throw error
  } finally {
    clearTimeout(silence)
    trustsNoMore()
    signal.removeEventListener('abort', cut)
    call.abort()
  }
}
