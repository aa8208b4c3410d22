/**
 * Server-sent events: the sink that writes frames to one response. On Node it writes to the socket's response itself,
 * elsewhere to a web stream; frames that come together are one write.
 */
import type { ServerResponse } from 'node:http'
import type { ControlWord, Frame } from '../core/frames.ts'
import { limits } from '../core/limits.ts'
import type { Sink } from '../log/hub.ts'

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

export type SseSink = Sink & { close(): void }

export function createSseSink(writer: Writer): SseSink {
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
  writer.write('retry: 1000\n\n')
  return {
    send(frames: Frame[]) {
      if (ended) return
      let text = ''
      for (const { cursor, json } of frames) text += `id: ${cursor}\ndata: ${json}\n\n`
      writer.write(text)
    },
    control(word: ControlWord, cursor?: string) {
      if (ended) return
      writer.write(`${cursor === undefined ? '' : `id: ${cursor}\n`}data: ${JSON.stringify(word)}\n\n`)
    },
    pass(json) {
      if (!ended) writer.write(`data: ${json}\n\n`)
    },
    room,
    end: close,
    close,
  }
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
