/**
 * `holdfast/client`: the sessions of one user as an app shows them, in a browser, React Native or Node. It depends on
 * neither React nor Node; what it needs of where it runs (`fetch`, `WebSocket`, storage, locks) it takes from there, or is
 * given.
 */
import type { JsonObject } from '../core/json.ts'
import type { Session } from '../core/message.ts'
import { type ConnectionState, createConnection, type OwnTransport, type Transport } from './connection.ts'
import { canShare, type Locks, locksHere } from './locks.ts'
import { createSession, type SessionHandle, type ShownStorage } from './session.ts'
import { createSessions, type SessionsHandle } from './sessions.ts'
import { indexedDbStorage, memoryStorage, type Storage } from './storage.ts'
import type { Readable } from './store.ts'
import { createUnsent, type UnsentList } from './unsent.ts'
import { createWire } from './wire.ts'
import { wires } from './wires.ts'

export type { Part } from '../core/chunk.ts'
export type { KnownPart } from '../core/known-part.ts'
export type { Message, Session, Turn } from '../core/message.ts'
export { textOf } from '../core/parts.ts'
export type { ChunkFrame, EventFrame, LogFrame, Member } from '../core/view.ts'
export { type Activity, activityOf, readersOf } from './activity.ts'
export type { ConnectionState, OwnTransport, Transport } from './connection.ts'
export type { PassingFrame } from './feed.ts'
export type { Locks } from './locks.ts'
export { type Merged, type MergeOptions, mergeGuest } from './merge.ts'
export { type PresentMember, presenceOf } from './presence.ts'
export type { EditedMessage, SendOptions, SessionHandle, SessionState, Stand } from './session.ts'
export type { SessionsHandle, SessionsState } from './sessions.ts'
export type { Delivery, ShownMessage } from './shown-message.ts'
export { asyncStorage, indexedDbStorage, memoryStorage, mmkvStorage, type Storage } from './storage.ts'
export type { Readable } from './store.ts'
export type { EventData, Handlers, MessageOf, MetadataOf, PartOf } from './typed.ts'
export type { Taken, Unsent, UnsentList, UnsentView, WhenBusy } from './unsent.ts'
export { type FilePart, type Upload, uploadFile } from './upload.ts'
export { type ErrorKind, HoldfastError } from './wire.ts'

export type ClientOptions = {
  /** Where the server is, with its `basePath`: `https://chat.example.com`. Defaults to the page's own origin. */
  url?: string
  /**
   * A token for `authorization: Bearer`; a function is asked at each request, and once more where the server did not take
   * what it said (`isRenewal`). Absent: cookies say who asks.
   */
  token?: string | ((isRenewal: boolean) => string | null | Promise<string | null>)
  /** Sent with each request, beside the token. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>)
  /** As of `fetch`: `include` where a cookie is to reach another origin. */
  credentials?: RequestCredentials
  /**
   * Whose messages are kept on this device, and whose tabs share a connection: those of two users know nothing of each other.
   * Any text that stays the same for a user. Defaults to `me`.
   */
  user?: string
  /** `auto`: a WebSocket, else server-sent events, else long polls. Or what `holdfast/ably-client` answers. */
  transport?: Transport | OwnTransport | 'auto'
  /** Defaults to IndexedDB; where there is none, to memory: then what is unsent is lost with the page. */
  storage?: Storage
  /** Defaults to the global ones. */
  fetch?: typeof fetch
  WebSocket?: typeof WebSocket
  /** Milliseconds after which an unsent message fails, for its writer to decide. 24 hours by default. */
  unsentExpiresMs?: number
  /** What a message does that is one too many in a minute: waits and is sent by itself (true, the default), or fails. */
  waitsWhenLimited?: boolean
  /** What is kept cannot be written: the app may say so. */
  onStorageFailed?: (error: unknown) => void
}

export type HoldfastClient = {
  /** The same object for the same id. Nothing is loaded before somebody subscribes. `session<typeof chat>` types it. */
  session<Chat = unknown>(id: string): SessionHandle<Chat>
  readonly sessions: SessionsHandle
  readonly unsent: UnsentList
  readonly connection: Readable<ConnectionState>
  /** Made on the server, with an id of this client's. */
  createSession(session?: { id?: string; title?: string; metadata?: JsonObject }): Promise<Session>
  deleteSession(id: string, signal?: AbortSignal): Promise<void>
  newId(): string
  /** Connect and send now, also what an earlier page has left: the app is in front again (React Native's AppState), or the user has signed in. */
  wake(): void
  /** Nobody looks: the connection is left to others until `wake`. What is unsent is sent all the same. */
  rest(): void
  /** Nothing of this user is left on the device, and nothing more is sent. The client is closed. */
  logout(): Promise<void>
  /** What is unsent stays kept. */
  close(): void
}

const silentMs = 40_000
const expiresMs = 86_400_000
/** An app may say often that it is in front: what was just asked for is not left for that. */
const tardyMs = 3_000
/** As often as is worth drawing. */
const frameMs = 16
/** A page that was hidden meanwhile draws no frame. */
const notDrawnMs = 100

export function createClient(options: ClientOptions = {}): HoldfastClient {
  const { url = '', token, headers, user = 'me', transport = 'auto' } = options
  const storage = options.storage ?? (typeof indexedDB === 'undefined' ? memoryStorage() : indexedDbStorage())
  const closing = new AbortController()
  /** In the names of what is kept and shared: neither another server's nor another user's. */
  const name = `${encodeURIComponent(url)}:${encodeURIComponent(user)}`
  const shownOf = `shown:${name}:`
  const Socket = options.WebSocket ?? (globalThis as { WebSocket?: typeof WebSocket }).WebSocket ?? null
  const wire = createWire({
    api: url.replace(/\/+$/, ''),
    async headers(isRenewal) {
      try {
        const all = new Headers(typeof headers === 'function' ? await headers() : headers)
        const bearer = typeof token === 'function' ? await token(isRenewal) : token
        if (bearer) all.set('authorization', `Bearer ${bearer}`)
        return all
      } catch (error) {
        // The app's own server may be away: it is asked again.
        console.error(error)
        return null
      }
    },
    closed: closing.signal,
    headersMayChange: typeof token === 'function',
    credentials: options.credentials,
    fetch: options.fetch ?? ((input, init) => fetch(input, init)),
    silentMs,
  })
  const locks: Locks = locksHere()
  // React Native has one, too.
  const isApp = typeof window !== 'undefined'
  // Tabs of one user only: what comes over it is what the server shows to whoever leads.
  const isOneUser = options.user !== undefined || (token ?? headers ?? options.fetch) === undefined
  const sharedAs = isApp && isOneUser && canShare() ? `holdfast 1 ${name}` : null
  const connection = createConnection({ wire, transport, WebSocket: Socket, locks, newId, sharedAs })
  const unsent = createUnsent({
    wire,
    storage,
    locks,
    name,
    newId,
    expiresMs: options.unsentExpiresMs ?? expiresMs,
    waitsWhenLimited: options.waitsWhenLimited ?? true,
    onLoggedOut: () => close(),
    onStorageFailed: options.onStorageFailed ?? (() => undefined),
  })
  let keeping: Promise<unknown> = Promise.resolve()
  const shown: ShownStorage = {
    async get(id) {
      const [entry] = await storage.entries(shownOf + id).catch(() => [])
      return entry?.[0] === shownOf + id ? entry[1] : null
    },
    set(id, text) {
      if (!closing.signal.aborted) keeping = Promise.allSettled([keeping, storage.set(shownOf + id, text)])
    },
    remove: (id) => storage.remove(shownOf + id),
    async wipe() {
      await keeping
      for (const [key] of await storage.entries(shownOf)) await storage.remove(key)
    },
  }
  const listed = createSessions(wire, connection, soon, closing.signal, unsent.start)
  const handles = new Map<string, SessionHandle>()
  const unwake = wire.onWake(() => unsent.reached())
  const wake = () => {
    unsent.start()
    wire.wake(true, tardyMs)
    connection.wake()
  }
  // A guest's first message makes the guest, whichever tab has sent it.
  unsent.onTaken(() => {
    if (connection.state.getSnapshot().phase === 'signed_out') wake()
  })
  const unhear = connection.state.subscribe(() => {
    if (connection.state.getSnapshot().phase === 'live') unsent.reached()
  })
  // In a module that a server loads, too, nothing begins before somebody looks.
  if (isApp) unsent.start()

  const close = () => {
    closing.abort()
    unwake()
    unhear()
    unsent.close()
    connection.close()
  }
  const client: HoldfastClient = {
    session<Chat>(id: string) {
      let handle = handles.get(id)
      handle ??= createSession(id, {
        wire,
        feed: connection,
        unsent,
        shownIn: shown,
        newId,
        soon,
        closed: closing.signal,
      })
      handles.set(id, handle)
      // What it tells is JSON of the server, whose types the app has declared.
      return handle as SessionHandle as SessionHandle<Chat>
    },
    sessions: listed,
    unsent,
    connection: connection.state,
    createSession: async ({ id = newId(), ...session } = {}) => {
      const ask = { method: 'POST', body: { id, ...session } } as const
      return (await wire.askSurely('/v1/sessions', ask, undefined)) as unknown as Session
    },
    async deleteSession(id, signal) {
      await wire.askSurely(`/v1/sessions/${encodeURIComponent(id)}`, { method: 'DELETE' }, signal)
      listed.forget(id)
      await shown.remove(id)
    },
    newId,
    wake,
    rest: connection.rest,
    async logout() {
      closing.abort()
      // Other tabs are told.
      unsent.start()
      await unsent.wipe()
      close()
      await shown.wipe()
    },
    close,
  }
  wires.set(client, wire)
  return client
}

/** When the page is drawn next; and where it is not drawn any more, a moment later. */
function soon(act: () => void): void {
  const here = globalThis as { requestAnimationFrame?: typeof requestAnimationFrame; document?: Document }
  const isDrawn = here.requestAnimationFrame !== undefined && here.document?.visibilityState === 'visible'
  let isDone = false
  const once = () => {
    if (!isDone) act()
    isDone = true
  }
  if (isDrawn) here.requestAnimationFrame?.(once)
  setTimeout(once, isDrawn ? notDrawnMs : frameMs)
}

/** `crypto.randomUUID` is missing where the page comes over plain http from another machine, and in React Native. */
function newId(): string {
  const { crypto: here } = globalThis as Partial<typeof globalThis>
  const bytes =
    here?.getRandomValues?.(new Uint8Array(16)) ?? Uint8Array.from({ length: 16 }, () => Math.random() * 256)
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}
