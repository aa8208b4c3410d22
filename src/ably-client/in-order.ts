/**
 * Brings what Ably hands over for one session into the order of its log. Ably's channels are several (what all may see, what
 * only this user may), messages come twice, and some never come: so each is used only where it fits exactly after what came
 * before, as the server's own followers do (core/following.ts). What does not fit waits a moment for what is missing; then
 * that is read from the server.
 */
import type { Chunk } from '../core/chunk.ts'
import { decodeCursor } from '../core/cursor.ts'
import type { ChunkRun, Event } from '../core/event.ts'
import { createFollowing, cursorOf, type Following, follow, type Item } from '../core/following.ts'
import type { LogFrame } from '../core/view.ts'

/** Something of the log; or (`seq` alone) word that the log has come so far. */
type Offer = { epoch: string; events: Event[]; runs: ChunkRun[] } | { epoch: string | null; seq: number }

/** As Ably's library hands it over. */
export type AblyMessage = { name?: string | null; data?: unknown; extras?: unknown }

export type InOrder = {
  cursor(): string
  /** Frames in order, each once. */
  take(message: AblyMessage): void
  /** What was read from the server begins after `cursor()`; what came meanwhile is put behind it. */
  reading(): void
  /** The server was read up to there. */
  readTo(cursor: string): void
  stop(): void
}

/** The other channel's message is that far behind, at most. */
const graceMs = 60
/** Waiting for what is missing. Beyond this all of it is read. */
const waitingMax = 500

export function createInOrder(
  cursor: string,
  { show, missing }: { show: (frame: LogFrame) => void; missing: () => void },
): InOrder | null {
  const start = decodeCursor(cursor)
  if (start === null) return null
  let following: Following = createFollowing(start)
  let last = cursor
  let waiting: Offer[] = []
  let isReading = false
  /** While a read stood still more came than is kept: it is read, too. */
  let hasDropped = false
  let timer: ReturnType<typeof setTimeout> | undefined

  const showItem = (item: Item) => {
    show(frameOf(item, last))
    last = item.cursor
  }
  /** False: something is missing before it. */
  const fits = (offer: Offer): boolean => {
    if ('seq' in offer) return offer.epoch === following.epoch && offer.seq <= following.seq
    if (offer.epoch !== following.epoch) return false
    const effects = follow(following, { type: 'offer', events: offer.events, runs: offer.runs })
    following.reading = false
    for (const effect of effects) if (effect.type === 'show') for (const item of effect.items) showItem(item)
    return !effects.some(({ type }) => type === 'read')
  }
  /** Until nothing of it fits any more. */
  const settle = () => {
    const first = waiting[0]
    let before: number
    do {
      before = waiting.length
      waiting = waiting.filter((offer) => !fits(offer))
    } while (waiting.length < before)
    const isTooMuch = waiting.length > waitingMax || hasDropped
    // The time of the first that waits: others come all the while.
    if (isTooMuch || waiting[0] !== first || waiting.length === 0) {
      clearTimeout(timer)
      timer = undefined
    }
    hasDropped = false
    if (isTooMuch) missing()
    else if (waiting.length > 0)
      timer ??= setTimeout(() => {
        timer = undefined
        if (!isReading) missing()
      }, graceMs)
  }

  return {
    cursor: () => cursorOf(following),
    take(message) {
      const offer = offerOf(message)
      if (offer === null) return
      if (isReading && waiting.length > waitingMax) {
        hasDropped = true
        return
      }
      waiting.push(...offer)
      if (!isReading) settle()
    },
    reading() {
      isReading = true
      // Whatever came before is stored, so it is in what is read now.
      waiting = []
    },
    readTo(now) {
      isReading = false
      const to = decodeCursor(now)
      if (to !== null) following = createFollowing(to)
      last = now
      settle()
    },
    stop() {
      clearTimeout(timer)
      waiting = []
      isReading = true
    },
  }
}

function frameOf(item: Item, after: string): LogFrame {
  const { cursor } = item
  if ('run' in item) {
    const { turnId, messageId, attempt, index, n, json } = item.run
    return { cursor, after, type: 'chunk', turnId, messageId, attempt, index, n, chunks: JSON.parse(json) as Chunk[] }
  }
  const { type, seq, at, turnId, json } = item.event
  return { cursor, after, type, seq, at, ...(turnId === null ? {} : { turnId }), data: JSON.parse(json) }
}

/** Null: it is none of ours. */
function offerOf({ name: named, data, extras }: AblyMessage): Offer[] | null {
  const name = named ?? ''
  // An append may come without the name of what it is appended to.
  if (name === 'holdfast.chunks' || name === '') return typeof data === 'string' ? linesOf(data) : null
  // What is followed now is not there any more: the server says so.
  if (name === 'holdfast.reset') return [{ epoch: null, seq: 0 }]
  const { headers } = (extras ?? {}) as { headers?: Record<string, string> }
  const seq = Number(headers?.seq)
  if (headers?.epoch === undefined || !Number.isSafeInteger(seq)) return null
  const { epoch, at = '', turnId = null } = headers
  if (name === 'holdfast.too_large') return [{ epoch, seq }]
  const place = headers.position === undefined ? null : Number(headers.position)
  const attempt = headers.attempt === undefined ? null : Number(headers.attempt)
  const event: Event = {
    seq,
    type: name,
    turnId,
    position: place,
    attempt,
    audience: null,
    at,
    json: JSON.stringify(data ?? null),
  }
  return [{ epoch, events: [event], runs: [] }]
}

/** Each line says which chunks it holds. */
function linesOf(text: string): Offer[] {
  return text.split('\n').flatMap((line) => {
    const parsed = parsedLine(line)
    if (parsed === null) return []
    const { epoch, turnId, messageId, position, attempt, index, n, chunks } = parsed
    const run: ChunkRun = {
      turnId,
      messageId,
      position,
      audience: null,
      attempt,
      index,
      n,
      json: JSON.stringify(chunks),
    }
    return [{ epoch, events: [], runs: [run] }]
  })
}

type Line = Omit<ChunkRun, 'audience' | 'json'> & { epoch: string; chunks: unknown[] }

/** Ably may cut what it hands over anew; what is no whole line is read from the server, if it matters. */
function parsedLine(line: string): Line | null {
  try {
    const parsed = JSON.parse(line) as Partial<Line> | null
    return typeof parsed?.epoch === 'string' && Array.isArray(parsed.chunks) ? (parsed as Line) : null
  } catch {
    return null
  }
}
