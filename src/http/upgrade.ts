/**
 * From a request of Node's to an open socket: whether the path is one of ours, whether the page may open it, and who it is.
 *
 * A page of another host is refused before it is asked who it is: a browser sends its cookies along with it. For all else the socket is opened, and closed again with a code and a sentence: of a handshake that is refused a page learns nothing.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type WebSocket, WebSocketServer } from 'ws'
import { requestErrors } from '../core/errors.ts'
import { toldToOperator } from './app.ts'
import type { Caller } from './principal.ts'
import { Problem } from './problem.ts'
import { connect } from './rate.ts'
import { realtimeSocket } from './realtime.ts'
import type { Call, HttpParts, SocketRoute } from './route.ts'
import { reasonOf } from './socket.ts'
import { bringTicket } from './tickets.ts'
import { chatSocket } from './use-chat-socket.ts'

const socketRoutes: readonly SocketRoute[] = [chatSocket, realtimeSocket]

/** For Node's event `upgrade`. False: the path is not ours, and the socket was not touched. */
export type Upgrade = (incoming: IncomingMessage, raw: Duplex, head: Buffer) => boolean

export type Upgrades = {
  upgrade: Upgrade
  /** Cuts every handshake that is not over, and every socket that was refused and is still there. */
  stop(): void
}

/** The app's `authenticate`, and the start of the engine, have to answer until then. */
export const handshakeMs = 10_000

export type UpgradeOptions = {
  basePath: string
  /** Pages that may open a socket. Absent: those of the host that the request names. */
  origins: readonly string[] | undefined
  authenticate(request: Request, mayBecomeGuest: boolean, incoming: IncomingMessage): Promise<Caller | null>
  parts(): Promise<HttpParts>
  log: (line: string, detail: object) => void
  handshakeMs: number
}

export function createUpgrades(options: UpgradeOptions): Upgrades {
  const cookies = new WeakMap<IncomingMessage, string>()
  /** An app may hear a server in two ways. */
  const taken = new WeakSet<Duplex>()
  /** Each with what cuts it if nobody answers. */
  const handshakes = new Map<Duplex, NodeJS.Timeout>()
  const begin = (raw: Duplex) => {
    taken.add(raw)
    // Node hands it over without anybody who hears its errors, and one that is not heard ends the process.
    raw.on('error', () => raw.destroy())
    raw.once('close', () => end(raw))
    handshakes.set(raw, setTimeout(() => raw.destroy(), options.handshakeMs).unref())
  }
  const end = (raw: Duplex) => {
    clearTimeout(handshakes.get(raw))
    handshakes.delete(raw)
  }
  const settings = { noServer: true, clientTracking: false, perMessageDeflate: false, autoPong: false }
  // For those that are closed at once: nothing that they send is kept.
  const refusing = new WebSocketServer({ ...settings, maxPayload: 1 })
  const servers = new Map(
    socketRoutes.map((route) => {
      const server = new WebSocketServer({
        ...settings,
        maxPayload: route.frameBytesMax,
        // Without one ws takes the first that is offered.
        ...(route.subprotocol === undefined ? {} : { handleProtocols: () => route.subprotocol! }),
      })
      server.on('headers', (headers, incoming) => {
        const cookie = cookies.get(incoming)
        if (cookie !== undefined) headers.push(`Set-Cookie: ${cookie}`)
      })
      return [`${options.basePath}${route.path}`, { route, server }] as const
    }),
  )
  const sayRefused = atMostEach(60_000, options.log)

  async function openFor(
    { route, server }: { route: SocketRoute; server: WebSocketServer },
    incoming: IncomingMessage,
    raw: Duplex,
    head: Buffer,
  ): Promise<void> {
    const request = requestOf(incoming)
    if (request === null) return refuse(raw, '400 Bad Request', 'The address or a header of this request is not valid.')
    const origin = request.headers.get('origin')
    const refusalOf = (error: unknown) => toldToOperator(options.log, route.name, error)
    if (!isAllowedOrigin(origin, incoming, options.origins)) {
      sayRefused('a socket was refused: the option origins does not name its page', { origin })
      await spendTicket(options, request).catch(refusalOf)
      return refuse(raw, '403 Forbidden', `Pages of ${origin} may not open a socket here. ${howToAllow}`)
    }
    const asked = await callOf(options, route, request, incoming, refusalOf)
      .then((call) => mustSpeak(route, call))
      .then(async (call) => {
        const leave = await connect(call)
        if (raw.destroyed) leave()
        else raw.once('close', leave)
        return call
      })
      .catch(refusalOf)
    // Gone while it was asked who it is.
    if (raw.destroyed) return
    if (asked instanceof Problem) {
      return refusing.handleUpgrade(incoming, raw, head, (ws) => closeRefused(ws, asked))
    }
    const { parts, principal, setCookie } = asked
    if (setCookie !== undefined) cookies.set(incoming, setCookie)
    const mustBeKnown = () => askAgain(options, asked, incoming)
    server.handleUpgrade(incoming, raw, head, (ws) => {
      end(raw)
      parts.sockets.open(ws, raw, {
        principal,
        ...(route.lastWord && { lastWord: route.lastWord }),
        speak: (socket) => route.speak({ call: asked, socket, mustBeKnown }),
        refusalOf,
      })
    })
  }

  const upgrade: Upgrade = (incoming, raw, head) => {
    const found = servers.get((incoming.url ?? '/').split('?')[0]!)
    if (found === undefined) return false
    if (taken.has(raw)) return true
    begin(raw)
    openFor(found, incoming, raw, head).catch((error: unknown) => {
      options.log('upgrade failed', { route: found.route.name, error: String(error) })
      raw.destroy()
    })
    return true
  }
  return {
    upgrade,
    stop() {
      for (const raw of handshakes.keys()) raw.destroy()
    },
  }
}

/** By the ticket in the query, and then by nothing else; or by what a request of this user's carries anywhere. */
async function callOf(
  { authenticate, parts: partsOf, basePath }: UpgradeOptions,
  { makesGuests }: SocketRoute,
  request: Request,
  incoming: IncomingMessage,
  refusalOf: Call['refusalOf'],
): Promise<Call> {
  const url = new URL(request.url)
  const of = { basePath, request, url, params: {}, outgoing: undefined, refusalOf }
  const ticket = url.searchParams.get('ticket')
  if (ticket === null) {
    const caller = await authenticate(request, makesGuests, incoming)
    if (caller === null) throw new Problem('unauthorized')
    const { principal, setCookie } = caller
    return { ...of, parts: await partsOf(), principal, setCookie }
  }
  const parts = await partsOf()
  const principal = await bringTicket(parts.database, ticket, request.headers.get('origin'))
  if (principal === null)
    throw new Problem('unauthorized', 'This ticket was used, is too old, or is not for this page.')
  return { ...of, parts, principal, setCookie: undefined }
}

function mustSpeak({ subprotocol }: SocketRoute, call: Call): Call {
  const offered = (call.request.headers.get('sec-websocket-protocol') ?? '').split(',').map((each) => each.trim())
  if (subprotocol === undefined || offered.includes(subprotocol)) return call
  throw new Problem('invalid_request', `Expected the subprotocol "${subprotocol}". Open the socket with it.`)
}

/** A page that may not open a socket has seen it: it is of no use to anybody any more. */
async function spendTicket({ parts }: UpgradeOptions, request: Request): Promise<void> {
  const ticket = new URL(request.url).searchParams.get('ticket')
  if (ticket !== null) await bringTicket((await parts()).database, ticket, request.headers.get('origin'))
}

/** Signed out, or another one by now: nobody says anything as they were. */
async function askAgain(
  { authenticate }: UpgradeOptions,
  { request, url, principal, setCookie }: Call,
  incoming: IncomingMessage,
): Promise<void> {
  if (url.searchParams.has('ticket') || setCookie !== undefined) return
  const now = (await authenticate(request, false, incoming))?.principal
  if (now?.userId !== principal.userId || now.tenantId !== principal.tenantId) throw new Problem('unauthorized')
}

/** Null: it names no address, or has a header that is none. */
function requestOf({ headers, rawHeaders, socket, url = '/' }: IncomingMessage): Request | null {
  const scheme = isEncrypted(socket) ? 'https' : 'http'
  if (headers.host === undefined) return null
  try {
    const pairs = rawHeaders.flatMap((name, at) =>
      at % 2 === 0 ? [[name, rawHeaders[at + 1]!] as [string, string]] : [],
    )
    return new Request(`${scheme}://${headers.host}${url}`, { headers: pairs })
  } catch {
    return null
  }
}

const isEncrypted = (socket: Duplex) => 'encrypted' in socket

/**
 * Whether a page of this origin may open a socket. None: it is no browser, and what it brings is what it was given. Else
 * those that are named, or of the host that the request names; its port may be the scheme's own, said or not. Behind a
 * proxy that ends TLS a request is not encrypted though its page is, so that only where the request is does the scheme
 * tell: its page is of `https`.
 */
function isAllowedOrigin(
  origin: string | null,
  { headers: { host }, socket }: IncomingMessage,
  allowed: readonly string[] | undefined,
): boolean {
  if (origin === null) return true
  if (allowed !== undefined) return allowed.includes(origin)
  if (!/^https?:/.test(origin) || !URL.canParse(origin)) return false
  const page = new URL(origin)
  if (page.origin !== origin || (isEncrypted(socket) && page.protocol !== 'https:')) return false
  const own = `${page.protocol}//${host}`
  return URL.canParse(own) && new URL(own).host === page.host
}

const howToAllow =
  'Where the host in the request is not the page’s, as behind some proxies, name the page’s origin in the option "origins".'

/** Instead of a handshake. */
function refuse(raw: Duplex, status: string, sentence: string): void {
  const body = `${sentence}\n`
  const head = [
    `HTTP/1.1 ${status}`,
    'content-type: text/plain; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ]
  raw.once('finish', () => raw.destroy())
  raw.end(`${head.join('\r\n')}\r\n\r\n${body}`)
}

/** For who does not answer that it is closed. */
const closedWithinMs = 2_000

function closeRefused(ws: WebSocket, { code, message }: Problem): void {
  ws.on('error', () => ws.terminate())
  ws.close(requestErrors[code].close ?? 1011, reasonOf(message))
  setTimeout(() => ws.terminate(), closedWithinMs).unref()
}

/** One line stands for many: whoever wants to may ask from a page that is refused. */
function atMostEach(ms: number, log: UpgradeOptions['log']): UpgradeOptions['log'] {
  let saidAtMs = Number.NEGATIVE_INFINITY
  return (line, detail) => {
    if (performance.now() - saidAtMs < ms) return
    saidAtMs = performance.now()
    log(line, detail)
  }
}
