import * as http from 'node:http'
import * as https from 'node:https'
import { createParser } from 'eventsource-parser'
import type { Chunk } from '../core/chunk.ts'
import { ReplyError } from '../core/errors.ts'
import type { Json } from '../core/json.ts'
import type { StepUsage } from '../core/message.ts'
import { classifyResponse } from '../reply/classify.ts'

/**
 * The part that all readers of a provider share: one POST, answered with server-sent events. A reader folds the
 * events into chunks; here are the bytes, the end of the stream, and what is thrown when it breaks off.
 *
 * Why not `fetch`: reading 500 streams of 50 tokens/s took 31 µs per token with `fetch` and nothing else, 11 with
 * `node:http`, and 8 with a bare socket (Node 20.20, 2 cores, 2026-11). Most providers send each token in a packet of
 * its own, so what one read costs is what a token costs.
 */
export type ProviderRequest = { url: string; headers: Record<string, string>; body: Json; signal: AbortSignal }

/** Folds one provider's events. `event` and `end` throw a `ReplyError` where the reply has failed. */
export type ProviderReading = {
  /** One event's data, parsed. Gives the chunks that it makes. */
  event(event: ProviderEvent): Chunk[]
  /** The stream is over, or broke off after the provider's last word. Gives the closing chunks. */
  end(): Chunk[]
  /** The provider has said why it ended: whatever happens from now on, the reply is whole. */
  readonly isFinished: boolean
  /** What has been reported so far, if anything. */
  usage(): StepUsage | undefined
}

export type ProviderEvent = { [key: string]: unknown }

/** The data of the event that ends a stream of OpenAI's kind. It is not JSON. */
const done = '[DONE]'

/** How long one event may be, how much of an error's body is read, and how many chunks wait before the socket does. */
const eventCharsMax = 1_048_576
const errorCharsMax = 65_536
const waitingMax = 1_000

/** Asks the provider, throws where it refuses, and gives the chunks of its answer as they arrive. */
export async function* providerChunks(
  request: ProviderRequest,
  reading: ProviderReading,
  report: (usage: StepUsage) => void,
): AsyncGenerator<Chunk, void, undefined> {
  const response = await post(request)
  if (!isOk(response)) throw classifyResponse(response.statusCode ?? 0, response.headers, await beginningOf(response))
  const arrivals = new Arrivals(response, reading)
  try {
    for (;;) {
      const chunks = await arrivals.take()
      if (chunks === undefined) break
      for (const chunk of chunks) yield chunk
    }
    for (const chunk of reading.end()) yield chunk
  } finally {
    arrivals.release()
    const usage = reading.usage()
    if (usage !== undefined) report(usage)
  }
}

function post({ url, headers, body, signal }: ProviderRequest): Promise<http.IncomingMessage> {
  const { request } = url.startsWith('https:') ? https : http
  const options = {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream', ...headers },
    signal,
  }
  return new Promise((resolve, reject) => {
    request(url, options, resolve).on('error', reject).end(JSON.stringify(body))
  })
}

function isOk({ statusCode = 0 }: http.IncomingMessage): boolean {
  return statusCode >= 200 && statusCode < 300
}

/** Text of an error's body, cut where it gets long. What breaks off is good enough: the status says the most. */
async function beginningOf(response: http.IncomingMessage): Promise<string> {
  let text = ''
  try {
    for await (const piece of response.setEncoding('utf8')) {
      text += piece
      if (text.length > errorCharsMax) break
    }
  } catch {
    return text
  }
  return text
}

/** What has arrived and was not taken yet. The socket waits while there is too much of it. */
class Arrivals {
  private readonly response: http.IncomingMessage
  private readonly reading: ProviderReading
  private readonly events = eventParser()
  private waiting: Chunk[] = []
  private state: 'open' | 'over' | { failure: unknown } = 'open'
  private wake: (() => void) | undefined

  constructor(response: http.IncomingMessage, reading: ProviderReading) {
    this.response = response
    this.reading = reading
    // With an encoding set, a character that is cut between two packets is put together again.
    response.setEncoding('utf8')
    response.on('data', (text: string) => this.arrive(text))
    response.once('end', () => this.settle('over'))
    response.on('error', (cause) => this.breakOff(cause))
  }

  /** The next chunks, at once or when they come. Undefined at the end; throws where the stream broke off. */
  async take(): Promise<Chunk[] | undefined> {
    if (this.waiting.length === 0 && this.state === 'open') {
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
    if (this.waiting.length > 0) return this.takeWaiting()
    if (typeof this.state === 'object') throw this.state.failure
    return undefined
  }

  /** The rest of a stream that is over is read, so that its connection serves the next request. */
  release(): void {
    if (this.state === 'over') this.response.resume()
    else this.response.destroy()
  }

  private takeWaiting(): Chunk[] {
    const chunks = this.waiting
    this.waiting = []
    if (this.response.isPaused()) this.response.resume()
    return chunks
  }

  private arrive(text: string): void {
    try {
      for (const data of this.events(text)) this.read(data)
    } catch (failure) {
      this.settle({ failure })
    }
    if (this.waiting.length >= waitingMax) this.response.pause()
    if (this.waiting.length > 0) this.wake?.()
  }

  private read(data: string): void {
    if (this.state !== 'open') return
    if (data === done) this.settle('over')
    else this.waiting.push(...folded(this.reading, data))
  }

  /** After the provider's last word the connection may break off as it likes. */
  private breakOff(cause: Error): void {
    const failure = new ReplyError('provider_truncated', 'The connection to the provider broke off.', { cause })
    this.settle(this.reading.isFinished ? 'over' : { failure })
  }

  private settle(state: 'over' | { failure: unknown }): void {
    if (this.state !== 'open') return
    this.state = state
    this.wake?.()
  }
}

/** Text in, the data of each complete event out. An event may be cut anywhere between two texts. */
function eventParser(): (text: string) => string[] {
  let events: string[] = []
  const parser = createParser({
    maxBufferSize: eventCharsMax,
    onEvent: ({ data }) => events.push(data),
    onError: (error) => {
      if (error.type !== 'max-buffer-size-exceeded') return // unknown fields are to be ignored (WHATWG HTML 9.2.6)
      throw new ReplyError('provider_truncated', `An event of the provider is longer than ${eventCharsMax} characters.`)
    },
  })
  return (text) => {
    parser.feed(text)
    const complete = events
    events = []
    return complete
  }
}

/** A provider that sends nonsense may do better the next time; that is no bug of the app. */
function folded(reading: ProviderReading, data: string): Chunk[] {
  try {
    return reading.event(parsed(data))
  } catch (cause) {
    if (cause instanceof ReplyError) throw cause
    throw new ReplyError('provider_truncated', 'The provider sent an event of an unexpected shape.', { cause })
  }
}

function parsed(data: string): ProviderEvent {
  const event: unknown = JSON.parse(data)
  if (typeof event === 'object' && event !== null) return event as ProviderEvent
  throw new ReplyError('provider_truncated', 'The provider sent an event that is not a JSON object.')
}
