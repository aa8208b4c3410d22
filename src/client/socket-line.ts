/** One WebSocket of `/v1/realtime`: all sessions on it, each followed and left as it comes. */
import type { Line, LineEnd, LineFrame, LineStart } from './line.ts'
import { HoldfastError, type Wire } from './wire.ts'

/** A handshake that takes longer is none. */
const handshakeMs = 10_000
/** An answer to whether it still lives has to come within. */
const pongMs = 5_000
/** One that was silent for so long is asked whether it lives. */
const silentMs = 45_000

export function openSocket(wire: Wire, Socket: typeof WebSocket, start: LineStart): Line {
  let socket: WebSocket | null = null
  let isOver = false
  let isOpen = false
  let hasHeard = false
  let watch: ReturnType<typeof setTimeout> | undefined
  const asking = new AbortController()

  const end = (how: LineEnd) => {
    if (isOver) return
    isOver = true
    clearTimeout(watch)
    asking.abort()
    socket?.close()
    start.ended(how)
  }
  const say = (word: object) => {
    if (isOpen && !isOver) socket?.send(JSON.stringify(word))
  }
  /** The refs under which it has asked for sessions. */
  const asked = new Map<string, string>()
  let isListed = false
  let wasAway = false
  const changed = () => {
    if (!isOpen) return
    const isAway = start.isAway()
    if (isAway !== wasAway) say({ type: 'presence', state: isAway ? 'away' : 'here' })
    wasAway = isAway
    const follows = start.follows()
    for (const { sessionId, cursor, ref } of follows) {
      if (asked.get(sessionId) !== ref) say({ type: 'follow', sessionId, cursor, ref })
      asked.set(sessionId, ref)
    }
    for (const sessionId of asked.keys()) {
      if (follows.some((each) => each.sessionId === sessionId)) continue
      asked.delete(sessionId)
      say({ type: 'unfollow', sessionId })
    }
    if (start.list() && !isListed) say({ type: 'list' })
    isListed ||= start.list()
  }
  const heard = () => {
    clearTimeout(watch)
    watch = setTimeout(check, silentMs)
  }
  const check = () => {
    if (!isOpen) return
    clearTimeout(watch)
    watch = setTimeout(() => end({ how: 'ended', afterMs: 0 }), pongMs)
    say({ type: 'ping' })
  }

  const open = async () => {
    const ticket = await ticketFor(wire, asking.signal)
    if (isOver) return
    if (!('url' in ticket)) return end(ticket)
    const opening = new Socket(ticket.url, 'holdfast.v1')
    socket = opening
    watch = setTimeout(() => end({ how: 'never', afterMs: 0 }), handshakeMs)
    opening.onopen = () => {
      isOpen = true
      heard()
      start.opened()
      changed()
    }
    opening.onmessage = ({ data }: MessageEvent) => {
      if (isOver) return
      hasHeard = true
      heard()
      start.take(JSON.parse(String(data)) as LineFrame)
    }
    opening.onclose = ({ code }: CloseEvent) => {
      // One that has told something ends so with its token: the next ticket finds out whether there is another.
      if (code === 4401 && !hasHeard) end({ how: 'signed_out', afterMs: 0 })
      else if (isOpen || code === 1012 || code === 4429) end({ how: 'ended', afterMs: code === 4429 ? slowMs : 0 })
      else end({ how: 'never', afterMs: 0 })
    }
    // What happened its close tells.
    opening.onerror = () => undefined
  }
  void open().catch(() => end({ how: 'never', afterMs: 0 }))

  return { changed, check, close: () => end({ how: 'ended', afterMs: 0 }) }
}
/** It could not keep up: at once it would not either. */
const slowMs = 500

/** Scripts in pages can give a handshake no headers: a ticket says who asks, once. */
async function ticketFor(wire: Wire, signal: AbortSignal): Promise<{ url: string } | LineEnd> {
  try {
    const response = await wire.ask('/v1/realtime/tickets', { method: 'POST', body: {} }, signal)
    // Nothing is reached at the moment: of sockets that says nothing.
    if (response === null) return { how: 'ended', afterMs: 0 }
    const { ticket } = (await response.json()) as { ticket: string }
    return { url: `${wire.socketUrl('/v1/realtime')}?ticket=${encodeURIComponent(ticket)}` }
  } catch (error) {
    // A server that answers is reached; that it has no sockets another kind of line shows.
    if (!(error instanceof HoldfastError)) return { how: 'ended', afterMs: 0 }
    if (error.kind === 'auth') return { how: 'signed_out', afterMs: 0 }
    return { how: error.retryable ? 'ended' : 'never', afterMs: error.retryAfterMs ?? 0 }
  }
}
