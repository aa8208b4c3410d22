/** Notices to browsers, by Web Push (RFC 8030): encrypted and signed by `web-push`, which is loaded when the first is sent. */

import { lookup } from 'node:dns'
import { Agent } from 'node:https'
import { BlockList, isIP, type LookupFunction } from 'node:net'
import type { Delivery, Notice, PushSender } from '../core/pushing.ts'

export type { PushSender } from '../core/pushing.ts'

export type WebPushOptions = {
  /** Who sends: `npx web-push generate-vapid-keys` makes the keys; `subject` is an https or mailto address of yours. */
  vapid: { subject: string; publicKey: string; privateKey: string }
  /**
   * How the services are reached, behind a proxy say. Yours lets through what it likes: only the usual one refuses names that
   * lead to private addresses.
   */
  agent?: Agent
  /** Endpoints on this machine and in private networks may be registered: for tests. Defaults to false. */
  privateEndpoints?: boolean
}

/** Nobody wants to hear of it a day later. In seconds. */
const ttl = 86_400
const callMs = 10_000
const connectionsMax = 20

/**
 * ```ts
 * createHoldfast({ reply, push: { web: webPush({ vapid: { subject: 'mailto:us@example.com', publicKey, privateKey } }) } })
 * ```
 */
export function webPush(options: WebPushOptions): PushSender {
  const { vapid, privateEndpoints = false } = options
  checkVapid(vapid)
  const agent =
    options.agent ?? new Agent({ maxSockets: connectionsMax, ...(privateEndpoints ? {} : { lookup: publicLookup }) })
  const refusalOf: PushSender['refusalOf'] = (device) => {
    if (device.kind !== 'web') return 'This is no subscription of a browser.'
    const { endpoint, keys } = device.subscription
    if (!areKeys(keys))
      return 'The keys of this subscription are none: p256dh is of 65 bytes and auth of 16, in base64url.'
    return isAllowed(endpoint, privateEndpoints)
      ? null
      : 'This endpoint is none of a push service: an https address of a public host, without a user in it.'
  }
  async function sendOne({ to, tag, title, body, data }: Notice): Promise<Delivery> {
    if (to.kind !== 'web' || refusalOf(to) !== null) return { outcome: 'gone', why: 'no endpoint of a push service' }
    const library = await import('web-push').then(
      ({ default: loaded }) => loaded,
      () => null,
    )
    if (library === null) return { outcome: 'again', why: 'web-push cannot be loaded: npm install web-push' }
    try {
      await library.sendNotification(to.subscription, JSON.stringify({ tag, title, body, data }), {
        vapidDetails: vapid,
        TTL: ttl,
        urgency: 'high',
        topic: tag,
        timeout: callMs,
        agent,
      })
      return { outcome: 'sent' }
    } catch (error) {
      return afterError(error)
    }
  }
  return {
    kind: 'web',
    publicKey: vapid.publicKey,
    refusalOf,
    send: (notices) => Promise.all(notices.map(sendOne)),
  }
}

function checkVapid({ subject, publicKey, privateKey }: WebPushOptions['vapid']): void {
  const wrong = !/^(https:|mailto:)/.test(subject)
    ? 'subject: expected an address that begins with https: or mailto:'
    : bytesOf(publicKey) !== 65
      ? 'publicKey: expected 65 bytes in base64url, as "npx web-push generate-vapid-keys" prints them'
      : bytesOf(privateKey) !== 32
        ? 'privateKey: expected 32 bytes in base64url, as "npx web-push generate-vapid-keys" prints them'
        : null
  if (wrong !== null) throw new TypeError(`webPush: vapid.${wrong}.`)
}

function areKeys({ p256dh, auth }: { p256dh: string; auth: string }): boolean {
  return bytesOf(p256dh) === 65 && bytesOf(auth) === 16
}

/** 0: it is not base64url. */
function bytesOf(text: string): number {
  return /^[\w-]{1,100}=*$/.test(text) ? Buffer.from(text, 'base64url').length : 0
}

function afterError(error: unknown): Delivery {
  const { statusCode, headers, code } = error as {
    statusCode?: number
    headers?: Record<string, string>
    code?: string
  }
  if (statusCode === undefined) {
    if (code === privateCode) return { outcome: 'gone', why: 'its endpoint leads to a private address' }
    return unreached.has(code ?? '')
      ? { outcome: 'again', why: `the push service is not reached (${code})` }
      : { outcome: 'unknown', why: `the push service has not answered (${code ?? 'no code'})` }
  }
  const why = `the push service answered ${statusCode}`
  if (statusCode === 404 || statusCode === 410) return { outcome: 'gone', why }
  if (statusCode === 429 || statusCode >= 500) return { outcome: 'again', why, ...retryAfter(headers?.['retry-after']) }
  return { outcome: 'refused', why }
}

/** Seconds, or a date (RFC 9110, 10.2.3). */
function retryAfter(header: string | undefined): { afterMs?: number } {
  if (header === undefined) return {}
  const afterMs = /^\d{1,9}$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now()
  return Number.isFinite(afterMs) ? { afterMs: Math.max(0, afterMs) } : {}
}

/** It was never reached, so it has not taken it. */
const unreached = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])

/** Whoever registers an endpoint chooses where this server sends requests to: nothing that only it may reach. */
function isAllowed(endpoint: string, privateEndpoints: boolean): boolean {
  if (endpoint.length > 2_048 || !URL.canParse(endpoint)) return false
  const { protocol, username, password, hostname } = new URL(endpoint)
  if (protocol !== 'https:' || username !== '' || password !== '') return false
  if (privateEndpoints) return true
  const host = hostname.replace(/^\[|\]$/g, '')
  if (isIP(host) !== 0) return !isPrivate(host)
  return host.includes('.') && !/\.(localhost|local|internal|lan|home|arpa)\.?$/i.test(`.${host}`)
}

const privateAddresses = new BlockList()
for (const [net, prefix] of [
  // RFC 6890 and 6598, and what is multicast or reserved.
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['224.0.0.0', 3],
] as const) {
  privateAddresses.addSubnet(net, prefix, 'ipv4')
}
for (const [net, prefix] of [
  ['::', 96],
  ['64:ff9b::', 96],
  ['64:ff9b:1::', 48],
  ['100::', 64],
  ['2002::', 16],
  ['fc00::', 7],
  ['fe80::', 10],
  ['ff00::', 8],
] as const) {
  privateAddresses.addSubnet(net, prefix, 'ipv6')
}

/** An IPv4 address within an IPv6 one is judged as itself. */
function isPrivate(address: string): boolean {
  return privateAddresses.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
}

const privateCode = 'EPRIVATE'

/** Judged where it is connected to, because a name may lead elsewhere by then. */
const publicLookup: LookupFunction = (hostname, options, done) => {
  lookup(hostname, { ...options, all: true }, (error, addresses) => {
    if (error) return done(error, [])
    const open = addresses.filter(({ address }) => !isPrivate(address))
    if (open.length === 0) {
      return done(Object.assign(new Error('This name leads to private addresses.'), { code: privateCode }), [])
    }
    if (options.all) return done(null, open)
    done(null, open[0]!.address, open[0]!.family)
  })
}
