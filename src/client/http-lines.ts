/** The two lines over HTTP: a stream of server-sent events, and long polls. Both name what they follow when they are opened. */
import type { LineEnd, LineFrame, LineStart, NamedLine, Wanted } from './line.ts'
// Types only: what this file shared with the others would make a bundler cut a third file out of both.
import type { HoldfastError, Wire } from './wire.ts'

/** When the page is back, a stream that was silent for longer than a heartbeat takes is not trusted. */
const heartbeatMs = 16_000

type Opened = { signal: AbortSignal; heard(): void; end(how: LineEnd): void; silentForMs(): number }

/** What both have in common: an end that is said once, and silence that is one. */
function createLine(wire: Wire, start: LineStart, run: (opened: Opened) => Promise<LineEnd>): NamedLine {
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
  run({ signal: control.signal, heard, end, silentForMs }).then(end, (error: unknown) =>
    end(endBy(error as Partial<HoldfastError>)),
  )
  return {
    check() {
      if (silentForMs() > heartbeatMs) end({ how: 'ended', afterMs: 0 })
    },
    close: () => end({ how: 'ended', afterMs: 0 }),
  }
}

/** What broke it: whatever is no answer of the server, as a text that is no JSON, is an end like any other. */
function endBy({ kind, retryable, retryAfterMs }: Partial<HoldfastError>): LineEnd {
  if (kind === 'auth') return { how: 'signed_out', afterMs: 0 }
  if (kind === undefined || retryable) return { how: 'ended', afterMs: retryAfterMs ?? 0 }
  return { how: 'refused', afterMs: retryAfterMs ?? refusedMs }
}
/** A refusal that would be said again. */
const refusedMs = 10_000

function pathOf(follows: readonly Wanted[], start: LineStart, wait?: number): string {
  const sessions = follows.map(({ sessionId, cursor, ref }) => `${sessionId}@${cursor}@${ref}`).join(',')
  return `/v1/events?sessions=${encodeURIComponent(sessions)}${start.list() ? '&list=1' : ''}${start.isAway() ? '&presence=away' : ''}${wait === undefined ? '' : `&wait=${wait}`}`
}

export function openStream(wire: Wire, start: LineStart): NamedLine {
  return createLine(wire, start, async ({ signal, heard }) => {
    const response = await wire.ask(pathOf(start.follows(), start), { accept: 'text/event-stream' }, signal)
    if (!response?.body) return { how: 'never', afterMs: 0 }
    heard()
    start.opened()
    const decoder = new TextDecoder()
    let text = ''
    const body = response.body.getReader()
    const aborted = new Promise<null>((resolve) => signal.addEventListener('abort', () => resolve(null)))
    while (!signal.aborted) {
      // A connection that breaks is an end like any other. Some fetches never settle a read that is aborted.
      const read = await Promise.race([body.read(), aborted]).catch(() => null)
      if (read === null || read.done) break
      heard()
      // One line of data is a frame (P42). Comments keep it open.
      const lines = (text + decoder.decode(read.value, { stream: true })).split('\n')
      text = lines.pop()!
      for (const line of lines) {
        if (!signal.aborted && line.startsWith('data: ')) start.take(JSON.parse(line.slice(6)) as LineFrame)
      }
    }
    return { how: 'ended', afterMs: 0 }
  })
}

/** Its answer has to come before the line is taken for dead. */
const pollShare = 0.6
const listEveryMs = 2_000
/** As the server has it. */
const pollUsualS = 25

export function openPolls(wire: Wire, start: LineStart): NamedLine {
  return createLine(wire, start, async ({ signal, heard }) => {
    const mostS = Math.min(pollUsualS, (wire.silentMs * pollShare) / 1_000)
    let isListing = false
    const list = () => {
      isListing = false
      if (start.list() && !signal.aborted) start.take({ type: 'listing' })
    }
    let follows = start.follows()
    // The first answer is what is there already: a line stands as soon as it is known.
    for (let wait = 0; !signal.aborted; wait = mostS) {
      const response = await wire.ask(pathOf(follows, start, wait), {}, signal)
      if (response === null) return { how: wait === 0 ? 'never' : 'ended', afterMs: 0 }
      const text = await response.text().catch(() => null)
      if (text === null || signal.aborted) return { how: 'ended', afterMs: 0 }
      heard()
      type Answer = { frames: LineFrame[]; cursors: { [ref: string]: string } }
      const answer = JSON.parse(text) as Answer
      if (wait === 0) start.opened()
      for (const frame of answer.frames) {
        if (signal.aborted) return { how: 'ended', afterMs: 0 }
        start.take(frame)
      }
      // Of one that is not there any more something was said above.
      follows = follows.flatMap(({ sessionId, ref }) => {
        const cursor = answer.cursors[ref]
        return cursor === undefined ? [] : [{ sessionId, ref, cursor }]
      })
      if (wait === 0) for (const { sessionId, ref } of follows) start.take({ type: 'caught-up', sessionId, ref })
      if (wait === 0) list()
      // Hints between two polls are lost.
      else if (!isListing) {
        isListing = true
        setTimeout(list, listEveryMs)
      }
    }
    return { how: 'ended', afterMs: 0 }
  })
}
