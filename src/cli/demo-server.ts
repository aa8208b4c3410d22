/**
 * What `holdfast demo` serves beside Holdfast itself: the web app, what its trying panel asks for, and the way in for
 * a phone. A browser on this machine is the demo's guest, unless it is another already or was invited (`/?guest`), and so
 * is the phone that opens the one-time link: it goes on with the same sessions.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import {
  guest,
  guestCookie,
  guestSecretOf,
  isLoopbackAddress,
  isLoopbackHost,
  newGuestSecret,
} from '../http/principal.ts'
import type { AppAuthenticate, Before } from '../index.ts'
import { pathOf } from './path.ts'

export type DemoInfo = { model: string; store: string; url: string }

const linkLastsMs = 10 * 60_000

/** Who has the secret is the guest of this directory's demo. */
export type DemoGuest = {
  /** The secret. If there is none yet it is the one that a browser brings along, so that the chats it has stay its own. */
  secret(brought?: string): string
  /** The secret, if these cookies hold it. */
  secretIn(cookies: string): string | undefined
}

/** The secret lies in the data directory and survives the server, as the sessions do. */
export function demoGuest(dataDir: string): DemoGuest {
  const path = join(dataDir, 'demo-guest')
  let secret = existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined
  return {
    secret(brought = newGuestSecret()) {
      if (secret === undefined) writeFileSync(path, brought, { mode: 0o600 })
      secret ??= brought
      return secret
    },
    secretIn(cookies) {
      const given = guestSecretOf(cookies)
      return given !== undefined && secret !== undefined && same(given, secret) ? secret : undefined
    },
  }
}

/** Where the server is reached from elsewhere: who has the secret is the guest, and nobody else is anybody. */
export function demoAuthenticate({ secretIn }: DemoGuest): AppAuthenticate {
  return (request) => {
    const secret = secretIn(request.headers.get('cookie') ?? '')
    return secret === undefined ? null : guest(secret)
  }
}

function same(a: string, b: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(a), digest(b))
}

/** `link` is the one-time way in for another device; null where the server is not reached from elsewhere. */
export function createDemoRoutes(options: {
  who: DemoGuest
  /** Nobody else is let in: a browser on this machine that brings another guest's cookie is given this one's. */
  isOnlyGuest: boolean
  link: { token: string; madeAtMs: number } | null
  /** Whoever starts this process again must not give it the link again. */
  onLinkUsed: () => void
  info: () => DemoInfo
  webApp: Before
}): Before {
  const { who, isOnlyGuest, info, webApp } = options
  let link = options.link
  return (incoming, outgoing) => {
    const path = pathOf(incoming)
    if (path === '/demo/info' && incoming.method === 'GET') return json(outgoing, 200, { supervised: true, ...info() })
    if (path === '/demo/kill' && incoming.method === 'POST') return kill(incoming, outgoing, who)
    if (path.startsWith('/demo/join/') && incoming.method === 'GET') {
      const valid =
        link !== null && same(path.slice('/demo/join/'.length), link.token) && Date.now() < link.madeAtMs + linkLastsMs
      if (valid) {
        link = null
        options.onLinkUsed()
      }
      return join_(outgoing, valid ? who.secret() : null)
    }
    if (path === '/' && isThisMachine(incoming)) {
      const brought = guestSecretOf(incoming.headers.cookie ?? '')
      const isInvited = brought === undefined && !isOnlyGuest && asksForGuest(incoming)
      const secret = isInvited ? newGuestSecret() : who.secret(brought)
      const isKept = brought !== undefined && (!isOnlyGuest || same(brought, secret))
      if (!isKept) outgoing.setHeader('set-cookie', guestCookie(secret, false))
    }
    return webApp(incoming, outgoing)
  }
}

/** The link of an invitation: who opens it in another browser is somebody else, with nothing of the demo's guest. */
function asksForGuest({ url = '' }: IncomingMessage): boolean {
  return new URL(url, 'http://localhost').searchParams.has('guest')
}

/** The connection comes from this machine, and the browser calls it by a name of this machine (no rebound name). */
function isThisMachine(incoming: IncomingMessage): boolean {
  const name = (incoming.headers.host ?? '').replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  return isLoopbackAddress(incoming.socket.remoteAddress) && isLoopbackHost(name)
}

/**
 * The answer is on its way before the process ends: the page shows what follows. JSON and a guest's cookie are asked
 * for, so that no other site's page can do it.
 */
function kill(incoming: IncomingMessage, outgoing: ServerResponse, { secretIn }: DemoGuest): true {
  const asked = /^application\/json/.test(incoming.headers['content-type'] ?? '')
  const cookies = incoming.headers.cookie ?? ''
  const allowed = secretIn(cookies) !== undefined || (isThisMachine(incoming) && guestSecretOf(cookies) !== undefined)
  if (!asked || !allowed) return json(outgoing, 403, { killed: false })
  outgoing.on('finish', () => setImmediate(() => process.kill(process.pid, 'SIGKILL')))
  // A browser that lost the connection without an answer would send it again, to the next process.
  outgoing.setHeader('connection', 'close')
  return json(outgoing, 202, { killed: true })
}

function join_(outgoing: ServerResponse, secret: string | null): true {
  if (secret !== null) {
    outgoing.writeHead(303, {
      location: '/',
      'set-cookie': guestCookie(secret, false),
      'cache-control': 'no-store',
      'referrer-policy': 'no-referrer',
    })
    outgoing.end()
    return true
  }
  outgoing.writeHead(410, { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' })
  outgoing.end(
    'This link was used already, or is older than ten minutes. Start "holdfast demo --lan" again for a new one.\n',
  )
  return true
}

function json(outgoing: ServerResponse, status: number, body: unknown): true {
  outgoing.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' })
  outgoing.end(JSON.stringify(body))
  return true
}
