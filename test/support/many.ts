/**
 * Many sessions over one connection, of whatever kind: what it tells of each session goes to a watcher of that session, which
 * checks it as if it followed alone (client.ts). When the connection ends, the next one is opened from all their cursors.
 */
import { createParser } from 'eventsource-parser'
import { onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { type Frame, Watcher } from './client.ts'
import { tokenOf } from './server.ts'

type Place = { sessionId: string; cursor: string | undefined }
export type ManyFrame = Frame & { sessionId?: string }
/** One connection, from these places. Resolves or rejects when it is over. */
export type Carry = (places: Place[], take: (frame: ManyFrame) => void, signal: AbortSignal) => Promise<void>

export const subprotocol = 'holdfast.v1'

export const overSocket =
  (url: () => string, userId = 'ann'): Carry =>
  async (places, take, signal) => {
    const headers = { authorization: `Bearer ${await tokenOf(userId)}` }
    const ws = new WebSocket(`${url().replace(/^http/, 'ws')}/v1/realtime`, subprotocol, { headers })
    signal.addEventListener('abort', () => ws.terminate())
    ws.on('open', () => {
      for (const place of places) ws.send(JSON.stringify({ type: 'follow', ...place }))
    })
    ws.on('message', (data) => take(JSON.parse(String(data)) as ManyFrame))
    await new Promise<void>((resolve) => {
      ws.on('error', () => undefined)
      ws.on('close', () => resolve())
    })
  }

export const sessionsQuery = (places: Place[]) =>
  places.map(({ sessionId, cursor }) => (cursor === undefined ? sessionId : `${sessionId}@${cursor}`)).join(',')

export const overStream =
  (url: () => string, userId = 'ann'): Carry =>
  async (places, take, signal) => {
    const headers = { authorization: `Bearer ${await tokenOf(userId)}` }
    const response = await fetch(`${url()}/v1/events?sessions=${sessionsQuery(places)}`, { headers, signal })
    const parser = createParser({ onEvent: ({ data }) => take(JSON.parse(data) as ManyFrame) })
    const decoder = new TextDecoder()
    const reader = response.body!.getReader()
    const aborted = new Promise<{ done: true; value?: undefined }>((resolve) =>
      signal.addEventListener('abort', () => resolve({ done: true })),
    )
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), aborted])
      if (done) return
      parser.feed(decoder.decode(value, { stream: true }))
    }
  }

export const overLongPoll =
  (url: () => string, userId = 'ann', wait = 5): Carry =>
  async (places, take, signal) => {
    const headers = { authorization: `Bearer ${await tokenOf(userId)}`, accept: 'application/json' }
    const path = `/v1/events?wait=${wait}&sessions=${sessionsQuery(places)}`
    const response = await fetch(`${url()}${path}`, { headers, signal })
    const { frames } = (await response.json()) as { frames: ManyFrame[] }
    for (const frame of frames) take(frame)
  }

export type Many = {
  of(sessionId: string): Watcher
  /** Connections that were opened. */
  connections(): number
  /** What the watchers have found, of all sessions. */
  problems(): string[]
}

/** Closed after the test. `cursor`: of all of them at first. */
export function watchMany(sessionIds: string[], carry: Carry, cursor?: string): Many {
  const control = new AbortController()
  const plugs = new Map<string, { cursor: string | undefined; stream: ReadableStreamDefaultController<string> }>()
  let connections = 0
  let plugged: () => void = () => undefined

  const connect = async () => {
    connections++
    const places = sessionIds.map((sessionId) => ({ sessionId, cursor: plugs.get(sessionId)!.cursor }))
    const now = new Map(plugs)
    const tell = ({ sessionId, ...frame }: ManyFrame) => {
      if (sessionId === undefined || frame.type === 'following') return
      const id = frame.cursor === undefined ? '' : `id: ${frame.cursor}\n`
      now.get(sessionId)?.stream.enqueue(`${id}data: ${JSON.stringify(frame)}\n\n`)
    }
    await carry(places, tell, control.signal).catch(() => undefined)
    plugs.clear()
    for (const { stream } of now.values()) stream.close()
  }
  plugged = () => {
    if (plugs.size === sessionIds.length && !control.signal.aborted) void connect()
  }

  const watchers = new Map(
    sessionIds.map((sessionId) => {
      const plug = async (from: string | undefined) => {
        const stream = new ReadableStream<string>({
          start(controller) {
            plugs.set(sessionId, { cursor: from, stream: controller })
          },
        })
        plugged()
        return new Response(stream.pipeThrough(new TextEncoderStream()))
      }
      return [sessionId, new Watcher(plug, cursor)]
    }),
  )
  onTestFinished(async () => {
    control.abort()
    await Promise.all([...watchers.values()].map((watcher) => watcher.close()))
  })
  return {
    of: (sessionId) => watchers.get(sessionId)!,
    connections: () => connections,
    problems: () => [...watchers.values()].flatMap(({ problems }) => problems),
  }
}
