/**
 * A connection of `holdfast/client` over Ably: each session's channels are listened to, and what did not come over them is read
 * from the server by cursor: at the start, when Ably says that it has lost something, when a message does not fit, and now
 * and then in any case, because the last message may be the one that was lost.
 */

import type { Line, LineEnd, LineFrame, LineStart, Wanted } from '../client/line.ts'
// Types only: a page that imports this has the client's code already.
import type { HoldfastError, Wire } from '../client/wire.ts'
import type { AblyChannels, AblyTokenRequest } from '../core/ably-channels.ts'
import type { LogFrame } from '../core/view.ts'
import { type AblyMessage, createInOrder, type InOrder } from './in-order.ts'

/** What is used of a `RealtimeChannel` of the package `ably`. */
export type AblyChannel = {
  readonly state: string
  subscribe(listener: (message: AblyMessage) => void): Promise<unknown>
  unsubscribe(listener: (message: AblyMessage) => void): void
  attach(): Promise<unknown>
  detach(): Promise<unknown>
  on(listener: (change: { current: string; resumed: boolean }) => void): void
  off(listener: (change: { current: string; resumed: boolean }) => void): void
}
/** What is used of a `Realtime`. */
export type AblyRealtime = {
  channels: { get(name: string): AblyChannel }
  auth: { authorize(): Promise<unknown> }
  close(): void
}

export type AblyGrant = { tokenRequest: AblyTokenRequest; sessions: { id: string; channels: AblyChannels }[] }

type LineParts = {
  wire: Wire
  start: LineStart
  realtime: AblyRealtime
  /** It was made for this line, and nobody else listens to it. */
  isOwn: boolean
  /** Asks the server for the channels of these sessions, and a token for them. Rejects with a `HoldfastError`. */
  grant(sessionIds: string[], signal: AbortSignal): Promise<AblyGrant | null>
  /** How often a session is looked at whose channels are attached, and one whose are not. */
  lookEveryMs: number
  lookUnheardEveryMs: number
  /** Called once, when it has ended. */
  ended(): void
}

type Followed = {
  wanted: Wanted
  inOrder: InOrder
  /** Empty: not listened to yet. */
  channels: AblyChannel[]
  unlisten: () => void
  attachAtMs: number
  isReading: boolean
  readAgain: boolean
  isCaughtUp: boolean
  lookedAtMs: number
}

export function openAblyLine(parts: LineParts): Line {
  const { wire, start, realtime, grant } = parts
  const control = new AbortController()
  const { signal } = control
  const followed = new Map<string, Followed>()
  let isOver = false
  let isOpen = false
  let isListed = false

  const end = (how: LineEnd) => {
    if (isOver) return
    isOver = true
    clearInterval(looking)
    control.abort()
    for (const sessionId of [...followed.keys()]) leave(sessionId)
    parts.ended()
    start.ended(how)
  }
  const take = (frame: LineFrame) => {
    if (!isOver) start.take(frame)
  }
  const leave = (sessionId: string) => {
    const one = followed.get(sessionId)
    followed.delete(sessionId)
    one?.inOrder.stop()
    one?.unlisten()
  }

  const changed = () => {
    if (isOver) return
    const follows = start.follows()
    for (const [sessionId, { wanted }] of followed) {
      if (!follows.some(({ ref }) => ref === wanted.ref)) leave(sessionId)
    }
    const fresh = follows.filter(({ sessionId }) => !followed.has(sessionId))
    for (const wanted of fresh) add(wanted)
    if (fresh.length > 0 || !isOpen) listen(fresh.map(({ sessionId }) => sessionId)).catch((error) => end(endBy(error)))
    if (isOpen && start.list() && !isListed) list()
  }
  const list = () => {
    isListed = true
    take({ type: 'listing' })
  }
  const add = (wanted: Wanted) => {
    const { sessionId, cursor } = wanted
    const inOrder = createInOrder(cursor, {
      show: (frame) => take({ ...frame, sessionId }),
      missing: () => void look(sessionId),
    })
    // What is no cursor the server refuses.
    if (inOrder === null) return take({ type: 'reset', sessionId, reason: 'epoch' })
    const states = { isReading: false, readAgain: false, isCaughtUp: false, lookedAtMs: 0 }
    followed.set(sessionId, { wanted, inOrder, channels: [], unlisten: () => undefined, attachAtMs: 0, ...states })
    take({ type: 'following', ...wanted })
  }

  /** The channels of these sessions. What the server does not grant it says itself when the session is read. */
  const listen = async (sessionIds: string[]) => {
    const granted = await grant(sessionIds, signal)
    if (isOver) return
    if (granted === null) return end({ how: isOpen ? 'ended' : 'never', afterMs: 0 })
    if (!isOpen) {
      isOpen = true
      start.opened()
      if (start.list()) list()
    }
    for (const { id, channels } of granted.sessions) void attach(id, channels)
    for (const sessionId of sessionIds) void look(sessionId)
  }
  const attach = async (sessionId: string, { session, user }: AblyChannels) => {
    const one = followed.get(sessionId)
    if (one === undefined || one.channels.length > 0) return
    const hear = (message: AblyMessage) => one.inOrder.take(message)
    const change = ({ resumed }: { resumed: boolean }) => {
      // What was told before, or while one was away, did not come.
      if (isHeard(one) && !resumed) void look(sessionId)
    }
    one.channels = [session, user].map((name) => realtime.channels.get(name))
    one.attachAtMs = Date.now()
    one.unlisten = () => {
      for (const channel of one.channels) {
        channel.off(change)
        channel.unsubscribe(hear)
        // One of the app's own may have other listeners.
        if (parts.isOwn) channel.detach().catch(() => undefined)
      }
    }
    const heard = () => Promise.all(one.channels.map((channel) => channel.attach()))
    for (const channel of one.channels) {
      channel.on(change)
      channel.subscribe(hear).catch(() => undefined)
    }
    try {
      await heard()
    } catch {
      if (followed.get(sessionId) !== one || isOver) return
      // The token was made before the session was, or the user came to it: a new one knows it. Else it is looked at often.
      await realtime.auth
        .authorize()
        .then(heard)
        .catch(() => undefined)
      return
    }
  }

  /** Reads what is missing. */
  const look = async (sessionId: string) => {
    const one = followed.get(sessionId)
    if (one === undefined || isOver) return
    if (one.isReading) {
      one.readAgain = true
      return
    }
    one.isReading = true
    try {
      do {
        one.readAgain = false
        one.lookedAtMs = Date.now()
        await read(sessionId, one)
      } while (one.readAgain && followed.get(sessionId) === one)
    } catch (error) {
      refused(sessionId, one, error as Partial<HoldfastError>)
    } finally {
      one.isReading = false
    }
  }
  const read = async (sessionId: string, one: Followed) => {
    type Answer = { frames: (LogFrame | LineFrame)[]; cursor: string }
    let answer: Answer
    do {
      one.inOrder.reading()
      const path = `/v1/sessions/${encodeURIComponent(sessionId)}/events?cursor=${encodeURIComponent(one.inOrder.cursor())}&wait=0`
      const json = await wire.askOnce(path, {}, signal, wire.silentMs)
      if (isOver || followed.get(sessionId) !== one) return
      if (json === undefined) return end({ how: 'ended', afterMs: 0 })
      answer = json as unknown as Answer
      for (const frame of answer.frames) {
        take({ ...frame, sessionId } as LineFrame)
        if (frame.type === 'reset') return leave(sessionId)
      }
      if (followed.get(sessionId) !== one) return
      one.inOrder.readTo(answer.cursor)
      // While a reply is written each read finds more of it. What is heard is not waited for so.
      const isNear = JSON.stringify(answer.frames).length < nearBytes
      if (isNear && isHeard(one)) break
    } while (answer.frames.length > 0)
    if (one.isCaughtUp) return
    one.isCaughtUp = true
    take({ type: 'caught-up', sessionId, ref: one.wanted.ref })
  }
  const refused = (sessionId: string, one: Followed, error: Partial<HoldfastError>) => {
    if (isOver || followed.get(sessionId) !== one) return
    const { code, status, message, retryable = false, retryAfterMs } = error
    // Something between that answers in the server's place does so for all of them.
    if (code === undefined || code === 'unreachable' || status === undefined || status === 401) return end(endBy(error))
    leave(sessionId)
    const when = retryAfterMs === undefined ? {} : { retryAfterMs }
    take({ type: 'problem', sessionId, problem: { code, status, detail: message ?? '', retryable, ...when } })
  }

  const looking = setInterval(() => {
    for (const [sessionId, one] of followed) {
      const everyMs = isHeard(one) ? parts.lookEveryMs : parts.lookUnheardEveryMs
      // Ably's library leaves a channel that was refused as it is. By now its token may be another.
      if (Date.now() - one.attachAtMs >= parts.lookEveryMs) attachFailed(one)
      if (Date.now() - one.lookedAtMs >= everyMs) void look(sessionId)
    }
  }, Math.min(parts.lookUnheardEveryMs, parts.lookEveryMs) / 2)
  changed()

  return {
    changed,
    check() {
      for (const sessionId of followed.keys()) void look(sessionId)
    },
    close: () => end({ how: 'ended', afterMs: 0 }),
  }
}

/** A read that brings less had no more to bring. */
const nearBytes = 65_536

/** As the channels are: one of the app's own may have been attached before. */
function isHeard({ channels }: Followed): boolean {
  return channels.length > 0 && channels.every(({ state }) => state === 'attached')
}

function attachFailed(one: Followed): void {
  one.attachAtMs = Date.now()
  for (const channel of one.channels) if (channel.state === 'failed') channel.attach().catch(() => undefined)
}

function endBy({ status, retryable, retryAfterMs }: Partial<HoldfastError>): LineEnd {
  if (status === 401) return { how: 'signed_out', afterMs: 0 }
  if (status === undefined || retryable) return { how: 'ended', afterMs: retryAfterMs ?? 0 }
  return { how: 'refused', afterMs: retryAfterMs ?? refusedMs }
}
/** A refusal that would be said again. */
const refusedMs = 10_000
