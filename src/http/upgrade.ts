/**
 * From a request of Node's to an open socket: whether the path is one of ours, whether the page may open it, and who it is.
 *
 * A page of another origin is refused before anything is asked: a browser sends its cookies along with it. For all else
 * the socket is opened, and closed again with a code and a sentence: of a handshake that is refused a page learns nothing.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type WebSocket, WebSocketServer } from 'ws'
import { requestErrors } from '../core/errors.ts'
import { toldToOperator } from './app.ts'
import type { Caller } from './principal.ts'
import { Problem } from './problem.ts'
import type { Call, HttpParts, SocketRoute } from './route.ts'
import { bringTicket } from './tickets.ts'
import { chatSocket } from './use-chat-socket.ts'

export const socketRoutes: readonly SocketRoute[] = [chatSocket]

/** For Node's event `upgrade`. False: the path is not ours, and the socket was not touched. */
export type Upgrade = (incoming: IncomingMessage, raw: Duplex, head: Buffer) => boolean

export type UpgradeOptions = {
  basePath: string
  /** Pages that may open a socket. Absent: those of the host that the request names. */
  origins: readonly string[] | undefined
  authenticate(request: Request, mayBecomeGuest: boolean, incoming: IncomingMessage): Promise<Caller | null>
  parts(): Promise<HttpParts>
  log: (line: string, detail: object) => void
}

export function createUpgrade(options: UpgradeOptions): Upgrade {
  const cookies = new WeakMap<IncomingMessage, string>()
  /** An app may hear a server in two ways, or twice after it was reloaded. */
  const taken = new WeakSet<Duplex>()
  const settings = { noServer: true, clientTracking: false, perMessageDeflate: false, autoPong: false }
  // For those that are closed at once: nothing that they send is kept.
  const refusing = new WebSocketServer({ ...settings, maxPayload: 1 })
  const servers = new Map(
    socketRoutes.map((route) => {
      const server = new WebSocketServer({ ...settings, maxPayload: route.frameBytesMax })
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
    if (!isAllowedOrigin(origin, incoming.headers.host ?? '', options.origins)) {
      sayRefused('a socket was refused: the option origins does not name its page', { origin })
      return refuse(raw, '403 Forbidden', `Pages of ${origin} may not open a socket here. ${howToAllow}`)
    }
    const refusalOf = (error: unknown) => toldToOperator(options.log, route.name, error)
    const asked = await callOf(options, route, request, incoming).catch(refusalOf)
    // Gone while it was asked who it is.
    if (raw.destroyed) return
    if (asked instanceof Problem) {
      return refusing.handleUpgrade(incoming, raw, head, (ws) => closeRefused(ws, asked))
    }
    const { parts, principal, setCookie } = asked
    if (setCookie !== undefined) cookies.set(incoming, setCookie)
    const mustBeKnown = () => askAgain(options, asked, incoming)
    server.handleUpgrade(incoming, raw, head, (ws) => {
      parts.sockets.open(ws, raw, {
        principal,
        speak: (socket) => route.speak({ call: asked, socket, refusalOf, mustBeKnown }),
        refusalOf,
      })
    })
  }

  return (incoming, raw, head) => {
    const found = servers.get((incoming.url ?? '/').split('?')[0]!)
    if (found === undefined) return false
    if (taken.has(raw)) return true
    taken.add(raw)
    // Node hands it over without anybody who hears its errors, and one that is not heard ends the process.
    raw.on('error', () => raw.destroy())
    openFor(found, incoming, raw, head).catch((error: unknown) => {
      options.log('upgrade failed', { route: found.route.name, error: String(error) })
      raw.destroy()
    })
    return true
  }
}

/** By the ticket in the query, and then by nothing else; or by what a request of this user's carries anywhere. */
async function callOf(
  { authenticate, parts: partsOf, basePath }: UpgradeOptions,
  { makesGuests }: SocketRoute,
  request: Request,
  incoming: IncomingMessage,
): Promise<Call> {
  const url = new URL(request.url)
  const ticket = url.searchParams.get('ticket')
  if (ticket === null) {
    const caller = await authenticate(request, makesGuests, incoming)
    if (caller === null) throw new Problem('unauthorized')
    const { principal, setCookie } = caller
    return { parts: await partsOf(), basePath, request, url, params: {}, principal, setCookie, outgoing: undefined }
  }
  const parts = await partsOf()
  const principal = await bringTicket(parts.database, ticket, request.headers.get('origin'))
  if (principal === null)
    throw new Problem('unauthorized', 'This ticket was used, is too old, or is not for this page.')
  return { parts, basePath, request, url, params: {}, principal, setCookie: undefined, outgoing: undefined }
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
  const scheme = 'encrypted' in socket ? 'https' : 'http'
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

/**
 * Whether a page of this origin may open a socket. None: it is no browser, and what it brings is what it was given. `host`
 * is the request's; its port may be the scheme's own, said or not.
 */
export function isAllowedOrigin(origin: string | null, host: string, allowed: readonly string[] | undefined): boolean {
  if (origin === null) return true
  if (allowed !== undefined) return allowed.includes(origin)
  if (!/^https?:/.test(origin) || !URL.canParse(origin)) return false
  const page = new URL(origin)
  const own = `${page.protocol}//${host}`
  return page.origin === origin && URL.canParse(own) && new URL(own).host === page.host
}

const howToAllow =
  'Where the host in the request is not the page’s, as behind some proxies, name the page’s origin in the option "origins".'

/** Instead of a handshake. */
export function refuse(raw: Duplex, status: string, sentence: string): void {
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
  ws.close(requestErrors[code].close ?? 1011, message)
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
