/**
 * Follows the log of one session, and never gives up: whatever ends the connection, it comes back by its cursor
 * (PROTOCOL.md, P40–P50), so that frames come in order, each once. Over server-sent events; where `fetch` cannot read a
 * body before its end, as React Native's own, by long polls.
 */
import { createParser } from 'eventsource-parser'
import { abortError, backoffMs, HoldfastError, parsed, type Wire } from '../client/wire.ts'
import type { Chunk } from '../core/chunk.ts'
import type { ReplyEventData } from '../core/ui-follower.ts'

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

type Ended = 'done' | 'stale' | { afterMs: number }

async function connect(
  wire: Wire,
  sessionId: string,
  from: string,
  reader: LogReader,
  signal: AbortSignal,
  move: (cursor: string) => void,
): Promise<Ended> {
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
  const path = `/v1/sessions/${encodeURIComponent(sessionId)}/events`
  const line: Line = { wire, path, from, take: createIntake(reader, from, move), heard, signal: call.signal }
  try {
    return await (wire.streams() ? stream(line) : poll(line))
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

type Take = (frame: Frame | Control) => Ended | undefined
type Line = { wire: Wire; path: string; from: string; take: Take; heard: () => void; signal: AbortSignal }

/** Takes what comes over one connection, in order. Answers how that ended it; undefined: it goes on. */
function createIntake(reader: LogReader, from: string, move: (cursor: string) => void): Take {
  let last = from
  return (frame) => {
    if (frame.type === 'reset') return 'stale'
    if (frame.type === 'reconnect' && 'afterMs' in frame) return { afterMs: frame.afterMs }
    if (frame.type === 'caught-up' && !('cursor' in frame)) {
      reader.onLive()
      return reader.take({ type: 'caught-up' }) ? 'done' : undefined
    }
    if (!('cursor' in frame)) return undefined
    if (frame.after !== last) return 'stale'
    last = frame.cursor
    if (reader.take(frame)) return 'done'
    move(last)
    return undefined
  }
}

async function stream({ wire, path, from, take, heard, signal }: Line): Promise<Ended> {
  const request = { accept: 'text/event-stream' }
  const response = await wire.ask(`${path}?cursor=${encodeURIComponent(from)}`, request, signal)
  if (!response?.body) return { afterMs: 0 }
  heard()
  let ended: Ended | undefined
  const parser = createParser({
    onEvent({ data }) {
      ended ??= take(JSON.parse(data) as Frame | Control)
    },
  })
  const decoder = new TextDecoder()
  const body = response.body.getReader()
  const aborted = new Promise<null>((resolve) => signal.addEventListener('abort', () => resolve(null)))
  while (ended === undefined && !signal.aborted) {
    // A connection that breaks is an end like any other. Some fetches never settle a read that is aborted.
    const read = await Promise.race([body.read(), aborted]).catch(() => null)
    if (read === null || read.done) break
    heard()
    parser.feed(decoder.decode(read.value, { stream: true }))
  }
  return ended ?? { afterMs: 0 }
}

/** Its answer has to come before the connection is taken for dead. */
const pollShare = 0.6
/** As the server has it (PROTOCOL.md, P43). */
const pollUsualS = 25

async function poll({ wire, path, from, take, heard, signal }: Line): Promise<Ended> {
  const mostS = Math.min(pollUsualS, (wire.silentMs * pollShare) / 1_000)
  // The first answer is what is there already: a line stands as soon as it is known.
  for (let cursor = from, wait = 0; ; wait = mostS) {
    const response = await wire.ask(`${path}?cursor=${encodeURIComponent(cursor)}&wait=${wait}`, {}, signal)
    if (response === null) return { afterMs: 0 }
    const text = await response.text().catch(() => null)
    if (text === null || signal.aborted) return { afterMs: 0 }
    heard()
    const answer = parsed(text, response.status) as unknown as { frames: (Frame | Control)[]; cursor: string }
    for (const frame of [...answer.frames, ...(wait === 0 ? [{ type: 'caught-up' } as const] : [])]) {
      const ended = take(frame)
      if (ended !== undefined) return ended
    }
    cursor = answer.cursor
  }
}
