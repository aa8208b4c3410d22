/**
 * Server-sent events: the sink that writes frames to one response. On Node it writes to the socket's response itself,
 * elsewhere to a web stream; frames that come together are one write.
 */
import type { ServerResponse } from 'node:http'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { ControlWord, Frame } from '../core/frames.ts'
import { limits } from '../core/limits.ts'
import type { Sink } from '../log/hub.ts'
import type { Call } from './route.ts'

const heartbeatMs = 15_000
export const sseHeaders = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store, no-transform',
  'x-accel-buffering': 'no',
} as const

/** What a response can be written to with: bounded by `isFull`, `whenDrained`. */
export type Writer = {
  write(text: string): void
  isFull(): boolean
  whenDrained(): Promise<void>
  end(): void
  /** Ends so that the reader sees that it is not the end. */
  cut(): void
}

/** One stream, whatever is told on it. */
export type SseStream = {
  /** Goes out as one write. After the end it is dropped. */
  say(messages: readonly SseMessage[]): void
  /** As of a `Sink`. */
  room(): Promise<void> | null
  close(): void
}
/** Without data it is no frame: whoever comes back does so with its id. */
type SseMessage = { id?: string; data?: string }

/** `lines`: told first, once. */
export function createSseStream(writer: Writer, lines = ''): SseStream {
  let ended = false
  // One for all who ask while it is full, and they ask for each thing that comes.
  let draining: Promise<void> | null = null
  const room = () => {
    if (ended || !writer.isFull()) return null
    draining ??= writer.whenDrained().then(() => {
      draining = null
    })
    return draining
  }
  const heartbeat = setInterval(() => {
    if (!writer.isFull()) writer.write(': still here\n\n')
  }, heartbeatMs)
  heartbeat.unref()
  const close = () => {
    if (ended) return
    ended = true
    clearInterval(heartbeat)
    writer.end()
  }
  writer.write(`retry: 1000\n${lines}\n`)
  return {
    say(messages) {
      if (ended) return
      let text = ''
      for (const { id, data } of messages) {
        text += `${id === undefined ? '' : `id: ${id}\n`}${data === undefined ? '' : `data: ${data}\n`}\n`
      }
      writer.write(text)
    },
    room,
    close,
  }
}

/** Of one session. */
export function createSseSink({ say, room, close }: SseStream): Sink {
  return {
    send: (frames: Frame[]) => say(frames.map(({ cursor, json }) => ({ id: cursor, data: json }))),
    control: (word: ControlWord, cursor?: string) =>
      say([{ ...(cursor === undefined ? {} : { id: cursor }), data: JSON.stringify(word) }]),
    pass: (json) => say([{ data: json }]),
    moved: (cursor) => say([{ id: cursor }]),
    room,
    end: close,
  }
}

/**
 * Answers with a stream of server-sent events, begun before anything is read for it. `begin` answers what stops what is told
 * on it: called when its reader has gone.
 */
export function sseResponse({ outgoing, request }: Call, begin: (writer: Writer) => () => void): Response {
  if (outgoing) {
    outgoing.writeHead(200, sseHeaders)
    const stop = begin(nodeWriter(outgoing))
    outgoing.on('close', stop)
    // A write may meet a socket that has just been reset.
    outgoing.on('error', stop)
    return RESPONSE_ALREADY_SENT
  }
  const web = webWriter(() => stop())
  const stop = begin(web.writer)
  request.signal.addEventListener('abort', stop)
  return new Response(web.stream, { headers: sseHeaders })
}

export function nodeWriter(response: ServerResponse): Writer {
  return {
    write: (text) => void response.write(text),
    isFull: () => response.writableLength > limits.sendBufferBytesMax,
    whenDrained: () =>
      new Promise((resolve) => {
        const done = () => {
          response.off('drain', done)
          response.off('close', done)
          resolve()
        }
        response.on('drain', done)
        response.on('close', done)
      }),
    end: () => void response.end(),
    cut: () => void response.destroy(),
  }
}

/** A web stream to answer with, where there is no Node response; `onCancel` is called when the reader has gone. */
export function webWriter(onCancel: () => void): { writer: Writer; stream: ReadableStream<Uint8Array> } {
  const encoder = new TextEncoder()
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined
  const drained: (() => void)[] = []
  let closed = false
  const release = () => {
    for (const resolve of drained.splice(0)) resolve()
  }
  const stream = new ReadableStream<Uint8Array>(
    {
      start: (given) => {
        controller = given
      },
      pull: release,
      // A stream that was cancelled must not be written to or closed again.
      cancel: () => {
        closed = true
        release()
        onCancel()
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: limits.sendBufferBytesMax }),
  )
  return {
    stream,
    writer: {
      write: (text) => {
        if (!closed) controller?.enqueue(encoder.encode(text))
      },
      isFull: () => !closed && (controller?.desiredSize ?? 1) <= 0,
      whenDrained: () => new Promise((resolve) => drained.push(resolve)),
      end: () => {
        if (closed) return
        closed = true
        controller?.close()
      },
      cut: () => {
        if (closed) return
        closed = true
        controller?.error(new Error('the stream was cut'))
      },
    },
  }
}
