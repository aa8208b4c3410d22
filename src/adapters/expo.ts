/** Notices through Expo's push service, by its own library, which is loaded when the first one is sent. */
import type { Expo, ExpoPushMessage, ExpoPushReceipt, ExpoPushTicket } from 'expo-server-sdk'
import type { Delivery, Notice, PushSender } from '../core/pushing.ts'

export type { PushSender } from '../core/pushing.ts'

export type ExpoPushOptions = {
  /** Needed where the project has Expo's enhanced push security on. */
  accessToken?: string
  /** Where Expo's service is. One for a process: its library takes it once. Defaults to `https://exp.host`. */
  baseUrl?: string
  /** How long its library first waits, in milliseconds, when Expo says 429; then we do. Defaults to 1,000. */
  retryMinTimeout?: number
  /**
   * How long Expo is waited for, in milliseconds, for all that is sent at once; what is asked then is known by nobody, and what
   * was not yet is sent later. 1–15,000. Defaults to 15,000.
   */
  answerWithinMs?: number
}

/** Nobody wants to hear of it a day later. In seconds. */
const ttl = 86_400
const answerWithinMsMax = 15_000
/** As many as Expo takes in one request. */
const chunkMax = 100
/** Of one `send`, of which four may be under way. */
const requestsMax = 4

/**
 * ```ts
 * createHoldfast({ reply, push: { expo: expoPush({ accessToken: process.env.EXPO_ACCESS_TOKEN }) } })
 * ```
 */
export function expoPush(options: ExpoPushOptions = {}): PushSender {
  const { answerWithinMs = answerWithinMsMax } = options
  if (!(answerWithinMs >= 1 && answerWithinMs <= answerWithinMsMax)) {
    throw new TypeError(`expoPush: answerWithinMs: expected a number from 1 to ${answerWithinMsMax}.`)
  }
  let loading: Promise<Expo> | undefined
  const client = () => {
    loading ??= load(options)
    // The next notice tries again: it may be installed by then.
    loading.catch(() => {
      loading = undefined
    })
    return loading
  }
  return {
    kind: 'expo',
    refusalOf: (device) =>
      device.kind === 'expo' && isToken(device.token)
        ? null
        : 'This is no Expo push token: it looks like ExponentPushToken[…].',
    async send(notices) {
      const expo = await client().catch(() => null)
      if (expo === null) return notices.map(() => notLoaded)
      const deliveries: Delivery[] = notices.map(() => notOne)
      const places = [...notices.keys()].filter((at) => tokenOf(notices[at]!) !== null)
      const sendable = places.map((at) => ({ at, message: messageOf(notices[at]!) }))
      await sendAll(expo, sendable, answerWithinMs, ({ at }, delivery) => {
        deliveries[at] = delivery
      })
      return deliveries
    },
    async receipts(tickets) {
      const expo = await client()
      const known = new Map<string, Delivery>()
      for (const chunk of expo.chunkPushNotificationReceiptIds([...tickets])) {
        const receipts = await expo.getPushNotificationReceiptsAsync(chunk)
        for (const [ticket, receipt] of Object.entries(receipts)) known.set(ticket, deliveryOf(receipt))
      }
      return known
    },
  }
}

const notLoaded: Delivery = {
  outcome: 'again',
  why: 'expo-server-sdk cannot be loaded, or with another baseUrl: npm install expo-server-sdk, and one baseUrl for a process',
}
const notOne: Delivery = { outcome: 'gone', why: 'no Expo push token' }

/** As its library's `isExpoPushToken` has it, and bounded. */
function isToken(token: string): boolean {
  return /^(Exponent|Expo)PushToken\[[^[\]\s]{1,200}\]$|^[a-z\d]{8}(-[a-z\d]{4}){3}-[a-z\d]{12}$/i.test(token)
}

function tokenOf({ to }: Notice): string | null {
  return to.kind === 'expo' && isToken(to.token) ? to.token : null
}

function messageOf(notice: Notice): ExpoPushMessage {
  const { title, body, data, tag } = notice
  return { to: tokenOf(notice)!, title, body, data, sound: 'default', priority: 'high', ttl, collapseId: tag, tag }
}

type Part = { at: number; message: ExpoPushMessage }[]
type Tell = (each: Part[number], delivery: Delivery) => void

/** One that Expo does not take makes it refuse all that came with it: then each part is sent by itself. */
async function sendAll(expo: Expo, all: Part, withinMs: number, tell: Tell): Promise<void> {
  let isOver = false
  let timer: NodeJS.Timeout | undefined
  const over = new Promise<void>((resolve) => {
    timer = setTimeout(() => {
      isOver = true
      resolve()
    }, withinMs)
  })
  async function sendPart(part: Part): Promise<Part[]> {
    try {
      const asked = expo.sendPushNotificationsAsync(part.map(({ message }) => message))
      // Its word may come when nobody waits for it any more.
      asked.catch(() => undefined)
      const tickets = await Promise.race([asked, over])
      for (const [nth, each] of part.entries()) tell(each, tickets ? deliveryOf(tickets[nth]!) : notAnswered)
    } catch (error) {
      const { statusCode } = error as { statusCode?: number }
      if (statusCode === 400 && part.length > 1) return partsOf(part, error)
      for (const each of part) tell(each, afterError(error, statusCode))
    }
    return []
  }
  let parts: Part[] = []
  for (let at = 0; at < all.length; at += chunkMax) parts.push(all.slice(at, at + chunkMax))
  // So many at a time, so that what is not answered in time was asked.
  while (parts.length > 0 && !isOver) {
    const more = await Promise.all(parts.slice(0, requestsMax).map(sendPart))
    parts = [...parts.slice(requestsMax), ...more.flat()]
  }
  clearTimeout(timer)
  for (const each of parts.flat()) tell(each, tooLate)
}

/** One for each project, where Expo has said whose the tokens are, else halves. */
function partsOf(part: Part, error: unknown): Part[] {
  const ofProjects = Object.values((error as { details?: object }).details ?? {})
  const projects = new Map<number, Part>()
  for (const each of part) {
    const project = ofProjects.findIndex((tokens) => Array.isArray(tokens) && tokens.includes(each.message.to))
    projects.set(project, [...(projects.get(project) ?? []), each])
  }
  if (projects.size > 1) return [...projects.values()]
  const half = Math.ceil(part.length / 2)
  return [part.slice(0, half), part.slice(half)]
}

const tooLate: Delivery = { outcome: 'again', why: 'Expo took too long with others' }
const notAnswered: Delivery = { outcome: 'unknown', why: 'Expo has not answered in time' }

function afterError(error: unknown, status: number | undefined): Delivery {
  if (status === undefined) return connectionFailed(error) ?? { outcome: 'unknown', why: 'Expo has not answered' }
  // Whoever may not send now (401, 403) may when the operator has mended it.
  const isFinal = status === 400 || status === 413
  // What came with 200 and cannot be read: it may have taken them.
  if (status < 300) return { outcome: 'unknown', why: 'Expo’s answer cannot be read' }
  // Of something before it, which does not know what Expo has done.
  if (status === 502 || status === 504) return { outcome: 'unknown', why: `Expo answered ${status}` }
  return { outcome: isFinal ? 'refused' : 'again', why: `Expo answered ${status}` }
}

function deliveryOf(answer: ExpoPushTicket | ExpoPushReceipt): Delivery {
  if (answer.status === 'ok') return { outcome: 'sent', ...('id' in answer ? { ticket: answer.id } : {}) }
  const code = answer.details?.error
  const why = `Expo says ${code ?? 'that it failed'}`
  switch (code) {
    case 'DeviceNotRegistered':
      return { outcome: 'gone', why }
    case 'MessageRateExceeded':
    case 'ExpoError':
    case 'ProviderError':
      return { outcome: 'again', why }
    default:
      return { outcome: 'refused', why }
  }
}

/** It was never reached, so it has not taken them. */
const unreached = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'UND_ERR_CONNECT_TIMEOUT'])

function connectionFailed(error: unknown): Delivery | null {
  const { code = '' } = ((error as Error).cause ?? {}) as { code?: string }
  return unreached.has(code) ? { outcome: 'again', why: `Expo is not reached (${code})` } : null
}

/** Its library takes this from the environment, when it is loaded, and from nowhere else. */
let loadedWith: string | undefined

async function load({ accessToken, baseUrl, retryMinTimeout }: ExpoPushOptions): Promise<Expo> {
  if (baseUrl !== undefined) {
    if (loadedWith !== undefined && loadedWith !== baseUrl) {
      throw new Error('expoPush: one baseUrl for a process. Give the same one everywhere.')
    }
    loadedWith = baseUrl
    process.env.EXPO_BASE_URL = baseUrl
  }
  const { Expo } = await import('expo-server-sdk')
  return new Expo({
    // None of ours waits within the library.
    maxConcurrentRequests: 4 * requestsMax,
    ...(accessToken === undefined ? {} : { accessToken }),
    ...(retryMinTimeout === undefined ? {} : { retryMinTimeout }),
  })
}
