/** The two lines over HTTP: a stream of server-sent events, and long polls. Both name their sessions when they are opened. */
import { createParser } from 'eventsource-parser'
import type { Line, LineEnd, LineFrame, LineStart } from './line.ts'
import { HoldfastError, parsed, type Wire } from './wire.ts'

/** When the page is back, a stream that was silent for longer than a heartbeat takes is not trusted. */
const heartbeatMs = 16_000

type Opened = { signal: AbortSignal; heard(): void; end(how: LineEnd): void; silentForMs(): number }

/** What both have in common: an end that is said once, and silence that is one. */
function createLine(wire: Wire, start: LineStart, run: (opened: Opened) => Promise<LineEnd>): Line {
  const control = new AbortController()
  let isOver = false
  let heardAtMs = Date.now()
  let silence: ReturnType<typeof setTimeout> | undefined
  const end = (how: LineEnd) => {
    if (isOver) return
    isOver = true
    clearTimeout(silence)
    control.abort()
    start.ended(how)
  }
  const heard = () => {
    heardAtMs = Date.now()
    clearTimeout(silence)
    if (!isOver) silence = setTimeout(() => end({ how: 'ended', afterMs: 0 }), wire.silentMs)
  }
  const silentForMs = () => Date.now() - heardAtMs
  heard()
  run({ signal: control.signal, heard, end, silentForMs }).then(end, (error: unknown) => end(endBy(error)))
  return {
    follow: () => false,
    unfollow: () => false,
    check() {
      if (silentForMs() > heartbeatMs) end({ how: 'ended', afterMs: 0 })
    },
    close: () => end({ how: 'ended', afterMs: 0 }),
  }
}

function endBy(error: unknown): LineEnd {
  if (!(error instanceof HoldfastError)) return { how: 'ended', afterMs: 0 }
  if (error.kind === 'auth') return { how: 'signed_out', afterMs: 0, error }
  return { how: error.retryable ? 'ended' : 'refused', afterMs: error.retryAfterMs ?? refusedMs, error }
}
/** A refusal that would be said again. */
const refusedMs = 10_000

type Named = { sessionId: string; cursor: string }

function pathOf(follows: readonly Named[], list: boolean, wait?: number): string {
  const sessions = follows.map(({ sessionId, cursor }) => `${sessionId}@${cursor}`).join(',')
  return `/v1/events?sessions=${encodeURIComponent(sessions)}${list ? '&list=1' : ''}${wait === undefined ? '' : `&wait=${wait}`}`
}

export function openStream(wire: Wire, start: LineStart): Line {
  return createLine(wire, start, async ({ signal, heard }) => {
    const response = await wire.ask(pathOf(start.follows(), start.list), { accept: 'text/event-stream' }, signal)
    if (!response?.body) return { how: 'never', afterMs: 0 }
    heard()
    start.opened()
    const parser = createParser({
      onEvent({ data }) {
        if (!signal.aborted) start.take(JSON.parse(data) as LineFrame)
      },
    })
    const decoder = new TextDecoder()
    const body = response.body.getReader()
    const aborted = new Promise<null>((resolve) => signal.addEventListener('abort', () => resolve(null)))
    while (!signal.aborted) {
      // A connection that breaks is an end like any other. Some fetches never settle a read that is aborted.
      const read = await Promise.race([body.read(), aborted]).catch(() => null)
      if (read === null || read.done) break
      heard()
      parser.feed(decoder.decode(read.value, { stream: true }))
    }
    return { how: 'ended', afterMs: 0 }
  })
}

/** Its answer has to come before the line is taken for dead. */
const pollShare = 0.6
const listEveryMs = 2_000
/** As the server has it. */
const pollUsualS = 25

export function openPolls(wire: Wire, start: LineStart): Line {
  return createLine(wire, start, async ({ signal, heard }) => {
    const mostS = Math.min(pollUsualS, (wire.silentMs * pollShare) / 1_000)
    let listing: ReturnType<typeof setTimeout> | undefined
    const list = () => {
      listing = undefined
      if (start.list && !signal.aborted) start.take({ type: 'listing' })
    }
    signal.addEventListener('abort', () => clearTimeout(listing))
    const cursors = new Map(start.follows().map(({ sessionId, cursor }) => [sessionId, cursor]))
    // The first answer is what is there already: a line stands as soon as it is known.
    for (let wait = 0; !signal.aborted; wait = mostS) {
      const follows = [...cursors].map(([sessionId, cursor]) => ({ sessionId, cursor }))
      const response = await wire.ask(pathOf(follows, start.list, wait), {}, signal)
      if (response === null) return { how: wait === 0 ? 'never' : 'ended', afterMs: 0 }
      const text = await response.text().catch(() => null)
      if (text === null || signal.aborted) return { how: 'ended', afterMs: 0 }
      heard()
      type Answer = { frames: LineFrame[]; cursors: { [sessionId: string]: string } }
      const answer = parsed(text, response.status) as unknown as Answer
      if (wait === 0) start.opened()
      for (const frame of answer.frames) {
        if (signal.aborted) return { how: 'ended', afterMs: 0 }
        start.take(frame)
      }
      for (const sessionId of cursors.keys()) {
        const cursor = answer.cursors[sessionId]
        // Of one that is not there any more something was said above.
        if (cursor === undefined) cursors.delete(sessionId)
        else cursors.set(sessionId, cursor)
        if (wait === 0 && cursor !== undefined) start.take({ type: 'caught-up', sessionId })
      }
      if (wait === 0) list()
      // Hints between two polls are lost.
      else listing ??= setTimeout(list, listEveryMs)
    }
    return { how: 'ended', afterMs: 0 }
  })
}
