/**
 * Webhooks: events of the log, sent to addresses of the app's choice as Standard Webhooks
 * (https://www.standardwebhooks.com). Where they lead and what they are signed with is in this process alone; the database
 * knows the names, and which of them are disabled.
 */
import { createHash } from 'node:crypto'
import { Agent as HttpAgent } from 'node:http'
import { Agent } from 'node:https'
import { Webhook as Signer } from 'standardwebhooks'
import { wrongAppEvent } from '../core/app-event.ts'
import type { Event } from '../core/event.ts'
import type { JsonObject } from '../core/json.ts'
import type { Outcome } from '../core/outbox.ts'
import { type Answer, post } from '../net/post.ts'
import { isPlainUrl, isPublicHost, privateCode, publicLookup } from '../net/public-address.ts'
import type { Database } from '../store/database.ts'
import { disabledWhy, disableWebhook, eventOfWebhook, type Taken, webhookTopic } from '../store/outbox.ts'

export type WebhookOptions = {
  /** Where events are sent to: an https address of a public host. No redirect is followed. */
  url: string
  /**
   * What they are signed with, as `whsec_` and 24 to 64 bytes in base64. While you change it give the new one and the old: each
   * event is signed with both.
   */
  secrets: readonly string[]
  /** Which events are sent, by their types. Defaults to `'*'`: all. */
  events?: '*' | readonly string[]
  /**
   * Names it in the database and for people: 1 to 100 of A-Z a-z 0-9 . _ ~ -. Defaults to one made of the address, so that
   * another address is another webhook.
   */
  name?: string
  /** Whether events are sent whole, with what people and the assistant have said. Defaults to false: their types and ids alone. */
  content?: boolean
  /** Http, and hosts on this machine and in private networks, are allowed: for development. Defaults to false. */
  privateAddresses?: boolean
  /** How long an answer is waited for. 100–60,000. Defaults to 15,000. */
  answerWithinMs?: number
  /** How often an event is tried before it is a dead letter. 1–1,000. Defaults to 16: about half a day. */
  attemptsMax?: number
  /** The longest pause before the second try; doubled each time, up to 6 hours. 1–3,600,000. Defaults to 5,000. */
  backoffMinMs?: number
}

export const webhookDefaults = { answerWithinMs: 15_000, attemptsMax: 16, backoffMinMs: 5_000 } as const

/** As the option was resolved. */
export type Webhook = {
  name: string
  /** Null: all. */
  events: readonly string[] | null
  attemptsMax: number
  backoffMinMs: number
  /** Never rejects. */
  send(database: Database, taken: Taken, signal: AbortSignal): Promise<Outcome>
}

/** A reply may be larger than receivers take. */
const bodyBytesMax = 256 * 1024
const connectionsMax = 20

/** Throws a TypeError whose message says what is wrong with which of its fields, and never what a secret is. */
export function webhookOf(options: WebhookOptions): Webhook {
  const { url, secrets, events = '*', content = false, privateAddresses = false } = options
  const {
    answerWithinMs = webhookDefaults.answerWithinMs,
    attemptsMax = webhookDefaults.attemptsMax,
    backoffMinMs = webhookDefaults.backoffMinMs,
  } = options
  if (!isPlainUrl(url, privateAddresses ? ['https:', 'http:'] : ['https:'])) {
    throw new TypeError('url: expected an https address without a user in it, like https://example.com/hooks.')
  }
  const endpoint = new URL(url)
  if (!privateAddresses && !isPublicHost(endpoint.hostname)) {
    throw new TypeError(
      'url: expected a public host. For one of your own machines set privateAddresses, in development.',
    )
  }
  if (
    events !== '*' &&
    (!Array.isArray(events) || events.length === 0 || !events.every((each) => typeof each === 'string'))
  ) {
    throw new TypeError("events: expected '*' or a list of types like message.ai_response.")
  }
  const signers = signersOf(secrets)
  const name = options.name ?? nameOf(endpoint)
  if (!/^[A-Za-z0-9._~-]{1,100}$/.test(name)) throw new TypeError('name: expected 1 to 100 of A-Z a-z 0-9 . _ ~ -.')
  const lookup = privateAddresses ? {} : { lookup: publicLookup }
  const agent =
    endpoint.protocol === 'https:'
      ? new Agent({ maxSockets: connectionsMax, ...lookup })
      : new HttpAgent({ maxSockets: connectionsMax, ...lookup })

  async function sendEvent(database: Database, taken: Taken, signal: AbortSignal): Promise<Outcome> {
    const disabled = await disabledWhy(database, name)
    if (disabled !== null) return { outcome: 'never', why: `The webhook is disabled: ${disabled}` }
    const session = { tenantId: taken.tenantId, sessionId: taken.sessionId! }
    const event = await eventOfWebhook(database, { ...session, seq: taken.payload as number })
    // Its session was deleted meanwhile.
    if (event === null) return { outcome: 'done' }
    const body = bodyOf(session, event, content)
    const at = new Date()
    const signature = signers.map((signer) => signer.sign(taken.id, at, body)).join(' ')
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'user-agent': 'Holdfast',
      'webhook-id': taken.id,
      'webhook-timestamp': String(Math.floor(at.getTime() / 1_000)),
      'webhook-signature': signature,
    }
    const answer = await post(endpoint, { headers, body, agent, answerWithinMs, signal })
    if (answer.status === 410) await disableWebhook(database, name, gone)
    return afterAnswer(answer, answerWithinMs)
  }

  return {
    name,
    events: events === '*' ? null : events,
    attemptsMax,
    backoffMinMs,
    send: (database, taken, signal) =>
      sendEvent(database, taken, signal).catch(
        (error: unknown): Outcome => ({
          outcome: 'again',
          why: error instanceof Error ? error.name : 'it could not be read',
        }),
      ),
  }
}

function signersOf(secrets: readonly string[]): Signer[] {
  const areSecrets = secrets.every((secret) => {
    const bytes = /^whsec_([A-Za-z0-9+/]{32,88}={0,2})$/.exec(secret)?.[1]
    const length = bytes === undefined ? 0 : Buffer.from(bytes, 'base64').length
    return length >= 24 && length <= 64
  })
  if (secrets.length === 0 || secrets.length > 3 || !areSecrets) {
    throw new TypeError('secrets: expected 1 to 3, each whsec_ and 24 to 64 bytes in base64, the newest first.')
  }
  return secrets.map((secret) => new Signer(secret))
}

function nameOf({ hostname, href }: URL): string {
  const hash = createHash('sha256').update(href).digest('hex').slice(0, 8)
  return `${hostname.replace(/[^A-Za-z0-9.-]/g, '').slice(0, 80)}-${hash}`
}

/** The fields of Holdfast's own events that name something, and hold nothing that anybody has said. */
const idFields = ['messageId', 'userMessageId', 'replyId', 'turnId', 'approvalId', 'toolCallId', 'userId', 'by', 'code']

/** Standard Webhooks: `{type, timestamp, data}`. */
export function bodyOf(session: { tenantId: string; sessionId: string }, event: Event, content: boolean): string {
  const { type, seq, turnId, attempt, audience, at } = event
  const own = wrongAppEvent(type) === null ? {} : idsOf(JSON.parse(event.json) as JsonObject)
  const data = { ...session, seq, turnId, attempt, audience, ...own }
  const plain = JSON.stringify({ type, timestamp: at, data })
  if (!content) return plain
  const whole = `${plain.slice(0, -2)},"content":${event.json}}}`
  if (Buffer.byteLength(whole) <= bodyBytesMax) return whole
  return `${plain.slice(0, -2)},"contentTooLarge":true}}`
}

function idsOf(data: JsonObject): JsonObject {
  const { message, reply, member } = data as { [name in string]?: JsonObject }
  const named = {
    ...data,
    messageId: data.messageId ?? message?.id,
    userMessageId: data.userMessageId ?? message?.repliesTo,
  }
  const all: Record<string, unknown> = {
    ...named,
    replyId: data.replyId ?? reply?.id,
    userId: data.userId ?? member?.userId,
  }
  const found = idFields.map((name) => [name, all[name]] as const).filter(([, value]) => typeof value === 'string')
  return Object.fromEntries(found) as JsonObject
}

const gone = 'its receiver answered 410, that it wants no more. Enable it again with "holdfast outbox enable".'

function afterAnswer(answer: Answer, answerWithinMs: number): Outcome {
  if (answer.status === undefined) return { outcome: 'again', why: whyNone(answer.code, answerWithinMs) }
  const { status, retryAfterMs } = answer
  if (status >= 200 && status < 300) return { outcome: 'done' }
  if (status === 410) return { outcome: 'never', why: `The webhook is disabled: ${gone}` }
  if (status >= 300 && status < 400) {
    return {
      outcome: 'again',
      why: `The receiver answered ${status}: no redirect is followed, give the address it leads to.`,
    }
  }
  const isToWait = (status === 429 || status === 503) && retryAfterMs !== undefined
  return { outcome: 'again', why: `The receiver answered ${status}.`, ...(isToWait ? { afterMs: retryAfterMs } : {}) }
}

function whyNone(code: string, answerWithinMs: number): string {
  if (code === privateCode) return 'The host of its address leads to a private address, to which nothing is sent.'
  if (code === 'ETIMEDOUT') return `The receiver has not answered within ${answerWithinMs} ms.`
  return `The receiver could not be reached (${code}).`
}

export const topicOf = ({ name }: Webhook): string => `${webhookTopic}${name}`
