/**
 * Notices to browsers, by Web Push (RFC 8030): encrypted and signed by `web-push`, which is loaded when the first is sent. The
 * request is our own. Whoever registers an endpoint chooses who answers it, and `web-push` would keep all that is answered,
 * for as long as it is, and reads the address in another way than it was judged here.
 */
import { ECDH } from 'node:crypto'
import { Agent } from 'node:https'
import type { Delivery, Notice, PushSender } from '../core/pushing.ts'
import { type Answer, post } from '../net/post.ts'
import { isAllowed, privateCode, publicLookup } from '../net/public-address.ts'

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
  /**
   * How long each service is waited for, in milliseconds, from asking it to its status; after that nobody knows whether it took
   * the notice. 1–15,000. Defaults to 10,000.
   */
  answerWithinMs?: number
}

/** Nobody wants to hear of it a day later. In seconds. */
const ttl = 86_400
const answerWithinMsMax = 15_000
const connectionsMax = 20

/**
 * ```ts
 * createHoldfast({ reply, push: { web: webPush({ vapid: { subject: 'mailto:us@example.com', publicKey, privateKey } }) } })
 * ```
 */
export function webPush(options: WebPushOptions): PushSender {
  const { vapid, privateEndpoints = false, answerWithinMs = 10_000 } = options
  checkVapid(vapid)
  if (!(answerWithinMs >= 1 && answerWithinMs <= answerWithinMsMax)) {
    throw new TypeError(`webPush: answerWithinMs: expected a number from 1 to ${answerWithinMsMax}.`)
  }
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
    // The address that was judged, as it was read then.
    const endpoint = new URL(to.subscription.endpoint)
    let details: ReturnType<typeof library.generateRequestDetails>
    try {
      const text = JSON.stringify({ tag, title, body, data })
      const subscription = { ...to.subscription, endpoint: endpoint.href }
      details = library.generateRequestDetails(subscription, text, {
        vapidDetails: vapid,
        TTL: ttl,
        urgency: 'high',
        topic: tag,
      })
    } catch {
      return { outcome: 'refused', why: 'it cannot be encrypted for this device' }
    }
    return afterAnswer(await post(endpoint, { headers: details.headers, body: details.body!, agent, answerWithinMs }))
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
  return bytesOf(p256dh) === 65 && isPoint(p256dh) && bytesOf(auth) === 16
}

/** On the curve: nothing can be encrypted for another one. */
function isPoint(text: string): boolean {
  try {
    ECDH.convertKey(text, 'prime256v1', 'base64url')
    return true
  } catch {
    return false
  }
}

/** 0: it is not base64url. */
function bytesOf(text: string): number {
  return /^[\w-]{1,100}=*$/.test(text) ? Buffer.from(text, 'base64url').length : 0
}

function afterAnswer(answer: Answer): Delivery {
  if (answer.status === undefined) return afterError(answer)
  const { status, retryAfterMs } = answer
  if (status >= 200 && status < 300) return { outcome: 'sent' }
  const why = `the push service answered ${status}`
  if (status === 404 || status === 410) return { outcome: 'gone', why }
  // Of something before it, which does not know what the service has done.
  if (status === 502 || status === 504) return { outcome: 'unknown', why }
  if (status === 429 || status >= 500)
    return { outcome: 'again', why, ...(retryAfterMs === undefined ? {} : { afterMs: retryAfterMs }) }
  return { outcome: 'refused', why }
}

/** Before there was a connection nothing was sent. */
function afterError({ code, isReached }: { code: string; isReached: boolean }): Delivery {
  if (code === privateCode) return { outcome: 'gone', why: 'its endpoint leads to a private address' }
  return isReached
    ? { outcome: 'unknown', why: `the push service has not answered (${code})` }
    : { outcome: 'again', why: `the push service is not reached (${code})` }
}
