/**
 * Requests to a Holdfast server from wherever `fetch` is: a browser, React Native, Node. One that changes something is
 * asked again with the same body while no answer comes, because it may have been carried out.
 */
import type { Json } from '../core/json.ts'

export type WireOptions = {
  api: string
  /** Asked at each request, and again (`isRenewal`) when a server did not know the user by what it said. */
  headers: (isRenewal: boolean) => Promise<Headers | null>
  /** What they say may be another thing the next time: a token that was renewed. */
  headersMayChange: boolean
  credentials: RequestCredentials | undefined
  fetch: typeof fetch
  silentMs: number
  /** From then on nothing is asked any more. */
  closed?: AbortSignal
}

/**
 * What a person can do about an error. `network`: nothing; it is tried again by itself. `service`: the server could not; try
 * again. `validation`: change what was sent. `rate_limit`: wait (`retryAfterMs`). `auth`: sign in. `refused`: it cannot be
 * done, now or at all.
 */
export type ErrorKind = 'network' | 'service' | 'validation' | 'rate_limit' | 'auth' | 'refused'

/** What the server refused, or could not do. `message` is a sentence for people. */
export class HoldfastError extends Error {
  override readonly name = 'HoldfastError'
  /** One of the codes of PROTOCOL.md, or `unreachable`: something between answered in the server's place. */
  readonly code: string
  readonly status: number
  readonly retryable: boolean
  readonly retryAfterMs: number | undefined
  constructor(message: string, code: string, status: number, retryable: boolean, retryAfterMs?: number) {
    super(message)
    this.code = code
    this.status = status
    this.retryable = retryable
    this.retryAfterMs = retryAfterMs
  }
  get kind(): ErrorKind {
    return kindOf(this)
  }
}

function kindOf({ code, status }: HoldfastError): ErrorKind {
  if (code === 'unreachable') return 'network'
  if (code === 'rate_limited') return 'rate_limit'
  if (status === 401) return 'auth'
  if (status === 400 || status === 413 || status === 422) return 'validation'
  return status >= 500 ? 'service' : 'refused'
}

export type Wire = {
  readonly silentMs: number
  /** Where a socket of this path is, from what the API's address is, or the page's. */
  socketUrl(path: string): string
  /** False once an answer has shown that this `fetch` hands over bodies whole. */
  streams(): boolean
  /** A response that is ok, or null: none came. Rejects with a `HoldfastError`, and with an `AbortError` when aborted. */
  ask(path: string, request: Ask, signal: AbortSignal | undefined): Promise<Response | null>
  /** The JSON of an answer, null of a 204. Undefined: none came within so long. Rejects as `ask`. */
  askOnce(path: string, request: Ask, signal: AbortSignal | undefined, withinMs: number): Promise<Json | undefined>
  /** The JSON of an answer, null of a 204: asked again and again until there is one, `triesMax` times of a server that cannot. */
  askSurely(path: string, request: Ask, signal: AbortSignal | undefined, onFailure?: () => void): Promise<Json>
  /** Resolves after so long, and at once when the network or the page is back. Rejects when aborted. */
  pause(ms: number, signal: AbortSignal | undefined): Promise<unknown>
  /** `woken` is called when the page is back, or (`isOther`) another network. Answers what ends that. */
  onWake(woken: Woken): () => void
  wake: Woken
}
/** `tardyMs`: what was asked for less long ago may still come. */
type Woken = (isOther: boolean, tardyMs?: number) => void
export type Ask = {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  accept?: string
  headers?: HeadersInit
  body?: unknown
}

/** Of a server that answers that it cannot, or a proxy before one that is away: about a minute. */
const triesMax = 12
const backoff = { firstMs: 500, mostMs: 10_000 }

/** At once the first time, then longer and longer, each client differently (PROTOCOL.md, P50). */
export function backoffMs(failures: number): number {
  if (failures === 0) return 0
  return Math.random() * Math.min(backoff.mostMs, backoff.firstMs * 2 ** failures)
}

/** As `fetch` fails when aborted: the AI SDK takes it for a stop, never for an error. */
export function abortError(): Error {
  const error = new Error('Aborted.')
  error.name = 'AbortError'
  return error
}

export function createWire(options: WireOptions): Wire {
  const sleepers = new Set<Woken>()
  const wake: Woken = (isOther, tardyMs = 0) => {
    for (const woken of [...sleepers]) woken(isOther, tardyMs)
  }
  const events = { online: () => wake(true), pageshow: () => wake(false), visibilitychange: () => wake(false) }

  const onWake = (woken: Woken) => {
    if (sleepers.size === 0) listen('addEventListener', events)
    sleepers.add(woken)
    return () => {
      if (sleepers.delete(woken) && sleepers.size === 0) listen('removeEventListener', events)
    }
  }

  const pause = (ms: number, signal: AbortSignal | undefined) => {
    let end: () => void
    const over = new Promise<unknown>((resolve) => {
      const sleepsNoMore = onWake(resolve)
      // A timer takes more than 24 days for none, and a budget of a month may be renewed in 31.
      const timer = setTimeout(resolve, Math.min(ms, 2e9))
      end = () => {
        clearTimeout(timer)
        sleepsNoMore()
      }
    })
    return unlessAborted(signal, over).finally(() => end())
  }

  let streams = true
  let hasHadHeaders = false
  /** Null: they cannot be had now. What never worked is the app's mistake; later its own server may be away, too. */
  const headersNow = async (isRenewal: boolean): Promise<Headers | null> => {
    try {
      const headers = await options.headers(isRenewal)
      hasHadHeaders = true
      return headers
    } catch (error) {
      if (!hasHadHeaders) throw error
      return null
    }
  }

  const fetchNow = async (
    path: string,
    request: Ask,
    signal: AbortSignal | undefined,
    isRenewal = false,
  ): Promise<Response | null> => {
    const headers = await headersNow(isRenewal)
    // Who has logged out asks for nothing with the rights of who comes next.
    if (options.closed?.aborted) throw abortError()
    if (headers === null || signal?.aborted) return null
    new Headers(request.headers).forEach((value, name) => {
      headers.set(name, value)
    })
    headers.set('accept', request.accept ?? 'application/json')
    if (request.body !== undefined) headers.set('content-type', 'application/json')
    const response = await options
      .fetch(`${options.api}${path}`, {
        method: request.method ?? 'GET',
        headers,
        ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
        ...(request.body === undefined ? {} : { body: JSON.stringify(request.body) }),
        ...(signal === undefined ? {} : { signal }),
      })
      .catch((error: unknown) => {
        // A page has an origin; elsewhere such a request can never succeed, however often it is made.
        if (!/^https?:/i.test(options.api) && !('location' in globalThis)) throw error
        // Whatever failed, no answer came.
        return null
      })
    if (response === null) return null
    // Whoever follows has asked something else before. A body that is none is null.
    if (response.body === undefined) streams = false
    if (response.status === 401 && options.headersMayChange && !isRenewal) return fetchNow(path, request, signal, true)
    if (!response.ok) throw await errorOf(response)
    return response
  }
  const ask = (path: string, request: Ask, signal: AbortSignal | undefined) =>
    unlessAborted(signal, fetchNow(path, request, signal))

  /** Undefined: no answer came, or not all of it. */
  const read = async (path: string, request: Ask, signal: AbortSignal): Promise<Json | undefined> => {
    const response = await ask(path, request, signal)
    if (response === null) return undefined
    if (response.status === 204) return null
    const text = await unlessAborted(
      signal,
      response.text().catch(() => undefined),
    )
    return text === undefined ? undefined : parsed(text, response.status)
  }

  const askOnce: Wire['askOnce'] = async (path, request, signal, ms) => {
    const control = new AbortController()
    const timer = setTimeout(() => control.abort(), ms)
    // By a network that is left for another nothing comes.
    const sinceMs = Date.now()
    const unwake = onWake((isOther, tardyMs = 0) => isOther && Date.now() - sinceMs >= tardyMs && control.abort())
    try {
      return await unlessAborted(signal, read(path, request, control.signal))
    } catch (error) {
      if (control.signal.aborted && !signal?.aborted) return undefined
      throw error
    } finally {
      clearTimeout(timer)
      unwake()
      control.abort()
    }
  }

  const askSurely: Wire['askSurely'] = async (path, request, signal = options.closed, onFailure) => {
    for (let failures = 0, refusals = 0; ; failures++) {
      let retryAfterMs = 0
      try {
        const value = await askOnce(path, request, signal, options.silentMs)
        if (value !== undefined) return value
      } catch (error) {
        if (!(error instanceof HoldfastError) || !mayPass(error) || ++refusals === triesMax) throw error
        retryAfterMs = error.retryAfterMs ?? 0
      }
      onFailure?.()
      await pause(Math.max(retryAfterMs, backoffMs(failures)), signal)
    }
  }

  const socketUrl = (path: string) => {
    const url = `${options.api}${path}`
    const { location } = globalThis as { location?: { href: string } }
    // React Native's `URL` has put a slash behind every path for years. What is whole needs none.
    const whole = /^https?:/i.test(url) ? url : new URL(url, location?.href).href
    return whole.replace(/^http/i, 'ws')
  }

  return { silentMs: options.silentMs, socketUrl, streams: () => streams, ask, askOnce, askSurely, pause, onWake, wake }
}

/** A server without a process that writes replies says so at once, and a person decides. */
function mayPass({ status, retryable, code }: HoldfastError): boolean {
  return retryable && code !== 'no_runner' && (status >= 500 || code === 'unreachable')
}

/** Something between answered in the server's place: a sign-in page of a network, say. */
export function parsed(text: string, status: number): Json {
  try {
    return JSON.parse(text) as Json
  } catch {
    throw unreachable(status, true)
  }
}

/** Also where what is awaited does not settle when aborted: an app's own headers, and some fetches. */
export function unlessAborted<T>(signal: AbortSignal | undefined, awaited: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(abortError())
    if (signal?.aborted) abort()
    signal?.addEventListener('abort', abort)
    awaited.then(resolve, reject).finally(() => signal?.removeEventListener('abort', abort))
  })
}

export function unreachable(status: number, retryable: boolean): HoldfastError {
  const sentence = `The server cannot be reached at the moment${status === 0 ? '' : ` (${status})`}.`
  return new HoldfastError(sentence, 'unreachable', status, retryable)
}

export async function errorOf(response: Response): Promise<HoldfastError> {
  const { status } = response
  const problem = (await response.json().catch(() => null)) as ProblemDocument | null
  if (typeof problem?.code !== 'string' || typeof problem.detail !== 'string') {
    return unreachable(status, status >= 500)
  }
  return errorIn({ ...problem, status })
}

export type ProblemDocument = {
  code: string
  status: number
  detail: string
  retryable?: boolean
  retryAfterMs?: number
}

export function errorIn({ code, detail, status, retryable, retryAfterMs }: ProblemDocument): HoldfastError {
  return new HoldfastError(detail, code, status, retryable === true, retryAfterMs)
}

/** Where there is such a thing: Node has neither, and in React Native the app says so itself. */
function listen(method: 'addEventListener' | 'removeEventListener', events: Record<string, () => void>): void {
  const target = globalThis as Partial<EventTarget> & { document?: Partial<EventTarget> }
  for (const [name, listener] of Object.entries(events)) {
    const of = name === 'visibilitychange' ? target.document : target
    of?.[method]?.(name, listener)
  }
}
