/**
 * A model provider over real HTTP: OpenAI's chat completions (`…/chat/completions`) and responses (`…/responses`), and
 * Anthropic's messages (`…/messages`), each answered as a list of steps says. It is plain JavaScript, so that a test and
 * the child process of a benchmark (provider-main.mjs) use the same one.
 */
import { createServer } from 'node:http'
import { setTimeout as after } from 'node:timers/promises'
import { wordsOf } from './provider-words.mjs'

/**
 * What one answer does, in order. A list that does not end by itself (`end`, `destroy`, `hang`, `deaf`, `status`,
 * `forever`, `firehose`) ends as a good provider does: finish reason, usage, last event, end.
 *
 * @typedef {{ text: string }
 *   | { reasoning: string }
 *   | { refusal: string } the model declines in its own words, which is no text to OpenAI
 *   | { tool: { id: string, name: string, input: string[] } } a call, its input in pieces
 *   | { wait: Promise<unknown> } goes on when the test says so
 *   | { pauseMs: number }
 *   | { raw: string | Uint8Array } bytes as they are
 *   | { cut: string } a text whose event is sent in two packets, cut inside its first character beyond ASCII
 *   | { error: object } an error object in the stream, after the 200
 *   | { finish: string } a reason of the provider's own words
 *   | { usage: Usage | null } null: this provider never reports usage
 *   | { status: number, headers?: Record<string, string>, body?: unknown } instead of a stream
 *   | { end: true } the clean end of the body, whatever was missing
 *   | { destroy: true } the socket is reset
 *   | { hang: true } nothing more comes
 *   | { deaf: true } nothing at all comes, not even a status
 *   | { forever: string, everyMs: number } a text again and again until the client goes
 *   | { firehose: { tokens: number, perSecond: number, stamp?: boolean } } see `startProvider`} Step
 * @typedef {{ inputTokens: number, outputTokens: number, cachedInputTokens?: number, reasoningTokens?: number }} Usage
 * @typedef {Step[] | ((request: ProviderRequest) => Step[])} Script
 * @typedef {{
 *   path: string,
 *   headers: import('node:http').IncomingHttpHeaders,
 *   body: any,
 *   index: number,
 *   closed: Promise<'answered' | 'aborted'>,
 * }} ProviderRequest `closed` tells how it ended: `aborted` is the client's doing, or `destroy`
 * @typedef {{
 *   url: string,
 *   script(script: Script): void,
 *   requests: ProviderRequest[],
 *   nextRequest(): Promise<ProviderRequest>,
 *   stop(): Promise<void>,
 * }} Provider
 */

/** @typedef {import('./provider-words.mjs').Words} Words */

/** @type {Usage} */
const usualUsage = { inputTokens: 11, outputTokens: 7, cachedInputTokens: 3, reasoningTokens: 2 }

/**
 * Starts a provider on a free port (or the one given). `url` is a `baseUrl` for OpenAI's and Anthropic's clients alike.
 * Until it is given a script it answers "Hello from the stub.".
 *
 * `firehose` sends `tokens` deltas at `perSecond` for benchmarks: one timer writes for all requests, the same bytes to
 * each, beside the HTTP module. With `stamp` a delta's text is the Unix time in ms at which it was written and a space.
 *
 * @param {{ port?: number }} [options]
 * @returns {Promise<Provider>}
 */
export async function startProvider({ port = 0 } = {}) {
  /** @type {ProviderRequest[]} */
  const requests = []
  /** @type {((request: ProviderRequest) => void)[]} */
  const waiting = []
  /** @type {Script} */
  let script = [{ text: 'Hello from the stub.' }]
  const firehose = createFirehose()

  const server = createServer(async (incoming, response) => {
    const request = await readRequest(incoming, response, requests.length)
    // Whoever asked was killed before all of it had come.
    if (request === null) return
    requests.push(request)
    for (const resolve of waiting.splice(0)) resolve(request)
    const steps = typeof script === 'function' ? script(request) : script
    await answer(steps, response, wordsOf(request.path), firehose)
  })
  await new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve(undefined)))
  const { port: actual } = /** @type {import('node:net').AddressInfo} */ (server.address())

  return {
    url: `http://127.0.0.1:${actual}/v1`,
    script(next) {
      script = next
    },
    requests,
    nextRequest: () => new Promise((resolve) => waiting.push(resolve)),
    async stop() {
      firehose.stop()
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
  }
}

/**
 * @param {import('node:http').IncomingMessage} incoming
 * @param {import('node:http').ServerResponse} response
 * @param {number} index
 * @returns {Promise<ProviderRequest | null>}
 */
async function readRequest(incoming, response, index) {
  const closed = new Promise((resolve) =>
    response.once('close', () => resolve(response.writableFinished ? 'answered' : 'aborted')),
  )
  let text = ''
  try {
    for await (const chunk of incoming.setEncoding('utf8')) text += chunk
  } catch {
    return null
  }
  if (!incoming.complete) return null
  return { path: incoming.url ?? '', headers: incoming.headers, body: JSON.parse(text), index, closed }
}

/**
 * @param {Step[]} steps
 * @param {import('node:http').ServerResponse} response
 * @param {Words} words
 * @param {Firehose} firehose
 */
async function answer(steps, response, words, firehose) {
  const usage = steps.flatMap((step) => ('usage' in step ? [step.usage] : []))
  const opening = words.open(usage.length === 0 ? usualUsage : usage[0])
  for (const step of steps) {
    if (response.destroyed) return
    if ('status' in step) return respond(step, response)
    if ('deaf' in step) return
    open(response, opening)
    if ('end' in step) return void response.end()
    if ('destroy' in step) return void response.socket?.resetAndDestroy()
    if ('hang' in step) return
    if ('forever' in step) return await repeat(step, response, words)
    if ('firehose' in step) return firehose.add(response, words, step.firehose)
    await perform(step, response, words)
  }
  open(response, opening)
  response.end(words.close(usage.length === 0 ? [usualUsage] : usage))
}

/** @param {import('node:http').ServerResponse} response @param {string} opening */
function open(response, opening) {
  if (response.headersSent) return
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  response.flushHeaders()
  if (opening !== '') response.write(opening)
}

/**
 * @param {{ status: number, headers?: Record<string, string>, body?: unknown }} step
 * @param {import('node:http').ServerResponse} response
 */
function respond({ status, headers, body }, response) {
  const isText = typeof body === 'string'
  response.writeHead(status, { 'content-type': isText ? 'text/html' : 'application/json', ...headers })
  response.end(isText ? body : JSON.stringify(body ?? {}))
}

/** @param {Step} step @param {import('node:http').ServerResponse} response @param {Words} words */
async function perform(step, response, words) {
  if ('wait' in step) await step.wait
  else if ('pauseMs' in step) await after(step.pauseMs)
  else if ('cut' in step) await writeCut(words.text(step.cut), response)
  else {
    const bytes = words.step(step)
    if (bytes.length > 0) response.write(bytes)
  }
}

/**
 * Two writes are two reads only if time passes between them: the peer has to take the first one before the second.
 *
 * @param {string} event @param {import('node:http').ServerResponse} response
 */
async function writeCut(event, response) {
  const bytes = Buffer.from(event)
  const middle = bytes.findIndex((byte) => byte >= 0x80) + 1
  if (middle === 0) throw new Error('cut needs a character beyond ASCII')
  response.write(bytes.subarray(0, middle))
  await after(20)
  response.write(bytes.subarray(middle))
}

/**
 * @param {{ forever: string, everyMs: number }} step
 * @param {import('node:http').ServerResponse} response
 * @param {Words} words
 */
async function repeat({ forever, everyMs }, response, words) {
  while (!response.destroyed) {
    response.write(words.text(forever))
    await after(everyMs)
  }
}

/**
 * @typedef {{ tokens: number, perSecond: number, stamp?: boolean }} FirehoseOptions
 * @typedef {{
 *   add(response: import('node:http').ServerResponse, words: Words, options: FirehoseOptions): void,
 *   stop(): void,
 * }} Firehose
 */

const tickMs = 5

/** @returns {Firehose} */
function createFirehose() {
  /** @type {Set<{ sent: number, begun: number, tick(now: number): boolean }>} */
  const streams = new Set()
  /** @type {NodeJS.Timeout | undefined} */
  let timer
  /** Bytes of one token, per tick and provider: all streams of a tick send the same. @type {Map<string, Buffer>} */
  const encoded = new Map()

  /** @param {Words} words @param {string} key @param {string} token */
  const frameOf = (words, key, token) => {
    let frame = encoded.get(key)
    if (frame === undefined) {
      const event = words.text(token)
      frame = Buffer.from(`${Buffer.byteLength(event).toString(16)}\r\n${event}\r\n`)
      encoded.set(key, frame)
    }
    return frame
  }

  const tickAll = () => {
    encoded.clear()
    const now = Date.now()
    for (const stream of streams) if (stream.tick(now)) streams.delete(stream)
    if (streams.size === 0) stop()
  }
  const stop = () => {
    clearInterval(timer)
    timer = undefined
  }

  return {
    add(response, words, { tokens, perSecond, stamp = false }) {
      // The first token opens the provider's text block through the HTTP module; the rest are all alike.
      response.write(words.text(''))
      const stream = {
        sent: 0,
        // Spread over the first token's time, so that the streams do not all write in the same tick.
        begun: Date.now() - Math.floor((streams.size % 20) * (50 / perSecond)),
        /** @param {number} now */
        tick(now) {
          const { socket } = response
          if (socket === null || response.destroyed) return true
          const due = Math.min(tokens, Math.floor(((now - stream.begun) * perSecond) / 1000))
          while (stream.sent < due) {
            socket.write(frameOf(words, words.wire, stamp ? `${now} ` : 'token '))
            stream.sent += 1
          }
          if (stream.sent < tokens) return false
          response.end(words.close([{ inputTokens: 10, outputTokens: tokens }]))
          return true
        },
      }
      streams.add(stream)
      timer ??= setInterval(tickAll, tickMs)
    },
    stop,
  }
}
