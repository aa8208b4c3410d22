/**
 * What React Native gives an app's code on Hermes, in a context of its own: ECMAScript without its newest parts, React Native's
 * globals in React Native's shapes, and nothing of a browser or of Node. The network below is real.
 */
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import { createContext, Script } from 'node:vm'
import { WebSocket as NodeSocket } from 'ws'
import type * as client from '../../src/client/client.ts'

export type AsyncStorage = {
  getAllKeys(): Promise<string[]>
  getItem(key: string): Promise<string | null>
  setItem(key: string, value: string): Promise<void>
  removeItem(key: string): Promise<void>
}

export type PhoneOptions = {
  url: string
  token: string
  /** What outlives the app. */
  storage: AsyncStorage
  /** Without, a network that lets none through. */
  hasSocket?: boolean
  /** `expo/fetch`, as newer versions of Expo have it for their global one. */
  hasExpoFetch?: boolean
}

export type Phone = {
  app: {
    client: typeof client
    chat: client.HoldfastClient
    show(sessionId: string): { toJSON(): unknown; unmount(): void }
  }
  /** What the app's code can see. */
  globals: Record<string, unknown>
  /** The user goes elsewhere. */
  leave(): void
  /** The system stands the app still: what waited for a time waits for ever. */
  freeze(): void
  comeBack(): void
  /** The system ends the app. */
  end(): void
}

/** Hermes lacks some of them and had others late, and which phones have which nobody has tried: an app has to run without. */
const withoutNewest = new Script(`
  const missing = [
    [Array, 'fromAsync'], [Object, 'hasOwn', 'groupBy'], [Map, 'groupBy'], [Promise, 'withResolvers', 'try'],
    [Array.prototype, 'findLast', 'findLastIndex', 'toReversed', 'toSorted', 'toSpliced', 'with'],
    [String.prototype, 'isWellFormed', 'toWellFormed'],
    [globalThis, 'WeakRef', 'FinalizationRegistry', 'SharedArrayBuffer', 'Atomics', 'Intl', 'WebAssembly', 'console'],
  ]
  for (const [object, ...names] of missing) for (const name of names) delete object[name]`)

export function startPhone(bundle: Script, options: PhoneOptions): Phone {
  const timers = openTimers()
  const sockets = new Set<NodeSocket>()
  const requests = new Set<ClientRequest>()
  const { AppState, changed } = openAppState()
  const globals: Record<string, unknown> = createContext({})
  withoutNewest.runInContext(globals)
  Object.assign(globals, {
    ...timers.functions,
    window: globals,
    self: globals,
    global: globals,
    navigator: { product: 'ReactNative' },
    process: { env: { NODE_ENV: 'production' } },
    performance: { now: () => performance.now() },
    console,
    queueMicrotask,
    XMLHttpRequest: requestOf(requests),
    AbortController: PhoneAbortController,
    URL: PhoneUrl,
    ...(options.hasSocket ? { WebSocket: socketOf(sockets) } : {}),
    phone: {
      AppState,
      AsyncStorage: options.storage,
      account: { url: options.url, userId: 'ann', token: async () => options.token },
    },
  })
  bundle.runInContext(globals)
  // Expo puts its own in the place of React Native's.
  if (options.hasExpoFetch) Object.assign(globals, { fetch: expoFetch, TextDecoder })
  const app = globals.app as Phone['app']
  return {
    app,
    globals,
    leave: () => changed('background'),
    freeze: timers.freeze,
    comeBack: () => changed('active'),
    end() {
      timers.end()
      for (const socket of sockets) socket.terminate()
      for (const each of requests) each.destroy()
    },
  }
}

/** Its timers are numbers, and none fires when the app is gone. */
function openTimers() {
  const running = new Map<number, { timer: NodeJS.Timeout; ms: number }>()
  let last = 0
  let isOver = false
  const setTimer = (act: (...args: unknown[]) => void, ms = 0, ...args: unknown[]) => {
    const id = ++last
    if (isOver) return id
    const timer = setTimeout(() => {
      running.delete(id)
      act(...args)
    }, ms)
    running.set(id, { timer, ms })
    return id
  }
  const setRepeated = (act: () => void, ms: number) => {
    const id = ++last
    if (!isOver) running.set(id, { timer: setInterval(act, ms), ms })
    return id
  }
  const clearTimer = (id: number | undefined) => {
    clearTimeout(running.get(id!)?.timer)
    running.delete(id!)
  }
  const clearThose = (longerThanMs: number) => {
    for (const [id, { ms }] of running) if (ms > longerThanMs) clearTimer(id)
  }
  return {
    functions: {
      setTimeout: setTimer,
      clearTimeout: clearTimer,
      setInterval: setRepeated,
      clearInterval: clearTimer,
      setImmediate: (act: () => void) => setTimer(act),
      requestAnimationFrame: (act: () => void) => setTimer(act, 16),
    },
    // What is drawn next is drawn: it is soon enough for a last breath.
    freeze: () => clearThose(16),
    end() {
      isOver = true
      clearThose(-1)
    },
  }
}

function openAppState() {
  const hearers = new Set<(state: string) => void>()
  const AppState = {
    currentState: 'active',
    addEventListener(type: string, hear: (state: string) => void) {
      if (type === 'change') hearers.add(hear)
      return { remove: () => hearers.delete(hear) }
    },
  }
  const changed = (state: string) => {
    AppState.currentState = state
    for (const hear of hearers) hear(state)
  }
  return { AppState, changed }
}

/** Without `reason`, `throwIfAborted`, `any` and `timeout`. */
class PhoneAbortController {
  readonly signal = {
    aborted: false,
    hearers: new Set<() => void>(),
    addEventListener(_type: string, hear: () => void) {
      this.hearers.add(hear)
    },
    removeEventListener(_type: string, hear: () => void) {
      this.hearers.delete(hear)
    },
  }
  abort() {
    if (this.signal.aborted) return
    this.signal.aborted = true
    for (const hear of [...this.signal.hearers]) hear()
  }
}

/** As React Native's was up to 0.82: with a slash behind each path. */
class PhoneUrl {
  readonly href: string
  constructor(url: string) {
    this.href = url.endsWith('/') ? url : `${url}/`
  }
}

/** React Native's `fetch` is whatwg-fetch on top of this: an answer comes whole. */
function requestOf(open: Set<ClientRequest>) {
  return class {
    onload?: () => void
    onerror?: () => void
    onabort?: () => void
    onreadystatechange?: () => void
    readyState = 0
    status = 0
    statusText = ''
    responseURL = ''
    responseText = ''
    #request?: ClientRequest
    #answer?: IncomingMessage

    open(method: string, url: string) {
      this.responseURL = url
      this.#request = request(url, { method })
      open.add(this.#request)
    }
    setRequestHeader(name: string, value: string) {
      this.#request!.setHeader(name, value)
    }
    getAllResponseHeaders() {
      const lines = Object.entries(this.#answer!.headers).map(([name, value]) => `${name}: ${String(value)}`)
      return lines.join('\r\n')
    }
    send(body?: string) {
      const made = this.#request!
      const end = (hear: (() => void) | undefined) => {
        open.delete(made)
        if (this.readyState === 4) return
        this.readyState = 4
        this.onreadystatechange?.()
        hear?.()
      }
      made.on('error', () => end(this.onerror))
      made.on('response', (answer) => {
        this.#answer = answer
        this.status = answer.statusCode!
        answer.setEncoding('utf8')
        answer.on('data', (text: string) => {
          this.responseText += text
        })
        answer.on('end', () => end(this.onload))
        answer.on('error', () => end(this.onerror))
      })
      made.end(body ?? undefined)
    }
    abort() {
      if (this.readyState === 4) return
      this.readyState = 4
      this.#request?.destroy()
      this.onabort?.()
    }
  }
}

/** React Native's: options in the third place, handlers as properties, and an `Origin` that nobody has set. */
function socketOf(open: Set<NodeSocket>) {
  return class {
    onopen?: (event: object) => void
    onmessage?: (event: object) => void
    onclose?: (event: object) => void
    onerror?: (event: object) => void
    readyState = 0
    #socket: NodeSocket

    constructor(url: string, protocols?: string | string[], { headers = {}, ...others }: { headers?: object } = {}) {
      if (Object.keys(others).length > 0) throw new Error(`Unknown options of a WebSocket: ${Object.keys(others)}`)
      const origin = new URL(url.replace(/^ws/, 'http')).origin
      const socket = new NodeSocket(url, protocols, { headers: { origin, ...headers } })
      this.#socket = socket
      open.add(socket)
      socket.on('open', () => {
        this.readyState = 1
        this.onopen?.({ type: 'open' })
      })
      socket.on('message', (data) => this.onmessage?.({ type: 'message', data: String(data) }))
      socket.on('error', (error) => this.onerror?.({ type: 'error', message: error.message }))
      socket.on('close', (code, reason) => {
        open.delete(socket)
        this.readyState = 3
        this.onclose?.({ type: 'close', code, reason: String(reason) })
      })
    }
    send(data: unknown) {
      if (this.readyState === 0) throw new Error('INVALID_STATE_ERR')
      if (typeof data !== 'string') throw new Error('Unsupported data type')
      if (this.readyState === 1) this.#socket.send(data)
    }
    close(code = 1000, reason = '') {
      if (this.readyState >= 2) return
      this.readyState = 2
      this.#socket.close(code, reason)
    }
  }
}

/** The shape of `expo/fetch`: the body is a stream, and its reader answers bytes. */
async function expoFetch(
  url: string,
  init: {
    method?: string
    headers?: Iterable<[string, string]>
    body?: string
    signal?: PhoneAbortController['signal']
  },
) {
  const control = new AbortController()
  const abort = () => control.abort()
  if (init.signal?.aborted) abort()
  init.signal?.addEventListener('abort', abort)
  const { method, body } = init
  const answer = await fetch(url, { method, body, headers: [...(init.headers ?? [])], signal: control.signal })
  const { ok, status, headers } = answer
  return { ok, status, headers, body: answer.body, text: () => answer.text(), json: () => answer.json() }
}
