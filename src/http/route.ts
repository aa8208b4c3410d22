import type { ServerResponse } from 'node:http'
import type { AblyChannels, AblyTokenRequest } from '../core/ably-channels.ts'
import type { EventSchemas } from '../core/app-event.ts'
import type { PushKind, PushSender } from '../core/pushing.ts'
import type { Hub } from '../log/hub.ts'
import type { Lists } from '../log/lists.ts'
import type { Wakeups } from '../log/wakeups.ts'
import type { AnyJobs } from '../outbox/jobs.ts'
import type { Presence } from '../people/presence.ts'
import type { Typing } from '../people/typing.ts'
import type { Acceptor } from '../store/accept.ts'
import type { Database } from '../store/database.ts'
import type { LimitsFor } from '../usage/limits.ts'
import type { LimitsHere } from '../usage/limits-here.ts'
import type { Principal } from './principal.ts'
import type { Problem } from './problem.ts'
import type { Hear, Socket, Sockets } from './socket.ts'
import type { Waiting } from './wait.ts'

/** What the routes work with: made once, in engine. */
export type HttpParts = {
  database: Database
  /** Lies before every route's path. */
  basePath: string
  acceptor: Acceptor
  hub: Hub
  lists: Lists
  waiting: Waiting
  wakeups: Wakeups
  sockets: Sockets
  presence: Presence
  typing: Typing
  /** To which kinds of devices notices are sent. */
  push(): { readonly [kind in PushKind]?: PushSender }
  /** Undefined: nothing is published over Ably. */
  ably: AblyTokens | undefined
  /** A turn that was not begun by then ends as expired. */
  expiresMs: number
  /** What a user may do. Rejects where the app's own function does. */
  limitsOf: LimitsFor
  limitsHere: LimitsHere
  lane: LaneOf
  /** The app's own events that may be published. Undefined: any. */
  events(): EventSchemas | undefined
  /** By topic, those that this process does: what is added for one is held to its schema. */
  jobs(): AnyJobs
  /** A turn has at most so many rounds: its first run, retries, regenerations. */
  roundsMax: number
  isDraining(): boolean
  /** Nobody would write a reply that is asked for here. */
  hasNoRunner: boolean
  /** Called after each request that asked for a reply. */
  keepAlive: (() => void) | undefined
}

/**
 * The app's function that says which lane a message of this user joins: `main` (one turn at a time in the session) or
 * `author` (the author's own, beside the others'), or `private`: the author's own, of which nobody else sees anything, not the
 * messages, the replies, or that there are any. Called with every send, mostly with a repeated one, too, with every upload
 * and word that they type, and before rights are judged: the session need not be the user's, or there at all. The sender waits for it. A repeated send, an edit or a
 * retry stays in the lane that its message has, and so do its files.
 *
 * Where it throws, or answers something else, nothing is stored: the send is 500, `internal`, a line in the log says why,
 * and the client sends again with the same id. So answer `main` where it does not matter.
 */
export type LaneOf = (ask: { session: { id: string }; user: { id: string; tenantId: string } }) => Lane | Promise<Lane>
export type Lane = 'main' | 'author' | 'private'

/** Signs tokens of Ably's, and knows the channels that they are for. */
export type AblyTokens = {
  /** How long a token lasts. */
  tokenMs: number
  channelsOf(who: { tenantId: string; sessionId: string; userId: string }): AblyChannels
  tokenRequest(ask: { userId: string; channels: readonly AblyChannels[]; ttlMs: number }): AblyTokenRequest
  /** Who has entered the session's presence channel, members or not. Rejects where Ably does not answer. */
  present(session: { tenantId: string; sessionId: string }): Promise<{ userId: string }[]>
}

export type Call = {
  parts: HttpParts
  /** Lies before the route's path. */
  basePath: string
  request: Request
  url: URL
  /** Of the path, each a well-formed id. */
  params: Record<string, string>
  principal: Principal
  /** What makes the caller a guest. Added to every answer but one that the handler writes to `outgoing` itself. */
  setCookie: string | undefined
  /** Where the server is Node's: the response to write a long stream to. */
  outgoing: ServerResponse | undefined
  /** What the client is told of an error after its answer has begun; the operator is told of it, too. */
  refusalOf(error: unknown): Problem
}

/**
 * One row of the registry. `right` is what the caller must be to the session in the path:
 * `none` (the route concerns only the caller), `read` (any member), `write` (owner or member), `own` (owner).
 * `judgedBy`: `route` asks before the handler runs (and what then changes anything judges once more, under its lock);
 * `statement`: the handler's own statement decides under its lock, or reads and judges in one picture. A route without a row does not exist; a test holds each row to its right.
 */
export type Route = {
  name: string
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  path: string
  right: 'none' | 'read' | 'write' | 'own'
  judgedBy: 'route' | 'statement'
  /** Its answer may have no end, so there is no HEAD of it. */
  endless?: true
  /** Its client shows the whole body of a refusal to people. */
  refusesInWords?: true
  /** It asks for a reply to be written. */
  asksForReply?: true
  /** A POST that may also be asked for on the socket of `/v1/realtime`. */
  overSocket?: true
  /**
   * Somebody without a guest cookie becomes a guest here. `passing`: for this answer only, without a cookie, which might
   * come after that of a message that was sent beside it and take its chat away.
   */
  makesGuests?: true | 'passing'
  handle(call: Call): Promise<Response>
}

/** A path that is upgraded. Each verb that is said on it judges the right to its session itself, in its statement. */
export type SocketRoute = {
  name: string
  path: string
  frameBytesMax: number
  /** What a client has to speak, and says with the handshake. */
  subprotocol?: string
  /** Said when this server goes away, before the socket is closed for it. */
  lastWord?(afterMs: number): string
  /** Somebody without a guest cookie becomes a guest, and gets it with the handshake. */
  makesGuests: boolean
  /**
   * `mustBeKnown` rejects where who opened
   * the socket is not known any more, by what they opened it with: to be asked with whatever is asked on it, as every
   * request over HTTP asks. Who came by a ticket, or became a guest with it, is known to its end.
   */
  speak(on: { call: Call; socket: Socket; mustBeKnown(): Promise<void> }): Hear
}

export function json(status: number, body: unknown, headers: Record<string, string> = {}): Response {
  return jsonText(status, JSON.stringify(body), headers)
}

export function jsonText(status: number, body: string, headers: Record<string, string> = {}): Response {
  return new Response(body, {
    status,
    headers: { 'content-type': 'application/json', 'cache-control': 'no-store', ...headers },
  })
}

/** The header that says where a session is: its path, as clients reach it. */
export function locationOf({ basePath }: Call, sessionId: string): { location: string } {
  return { location: `${basePath}/v1/sessions/${sessionId}` }
}

/**
 * A session to work in, and who works there: a call, or the app's own code (src/in-code.ts). Null: the server itself, which
 * sees all and is counted nowhere.
 */
export type Within<User extends string | null = string> = {
  parts: HttpParts
  params: Record<string, string>
  /** `plan`: not known of who is named in the app's own code. */
  principal: { tenantId: string; userId: User; plan?: string }
}
export type SessionKey<User extends string | null = string> = { tenantId: string; sessionId: string; userId: User }

/** The session in the path, as every store function wants it. */
export function sessionOf<User extends string | null>({
  params,
  principal,
}: Omit<Within<User>, 'parts'>): SessionKey<User> {
  return { tenantId: principal.tenantId, sessionId: params.sessionId!, userId: principal.userId }
}
