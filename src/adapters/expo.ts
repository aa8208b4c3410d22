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
}

/** Nobody wants to hear of it a day later. In seconds. */
const ttl = 86_400

/**
 * ```ts
 * createHoldfast({ reply, push: { expo: expoPush({ accessToken: process.env.EXPO_ACCESS_TOKEN }) } })
 * ```
 */
export function expoPush(options: ExpoPushOptions = {}): PushSender {
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
      const sendable = places.map((at) => messageOf(notices[at]!))
      let sent = 0
      // One by one they come back in their order.
      for (const chunk of expo.chunkPushNotifications(sendable)) {
        for (const delivery of await sendChunk(expo, chunk)) deliveries[places[sent++]!] = delivery
      }
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

/** One that Expo does not take makes it refuse all that came with it: then each half is sent by itself. */
async function sendChunk(expo: Expo, chunk: ExpoPushMessage[]): Promise<Delivery[]> {
  try {
    return (await expo.sendPushNotificationsAsync(chunk)).map(deliveryOf)
  } catch (error) {
    const { statusCode } = error as { statusCode?: number }
    if (statusCode === 400 && chunk.length > 1) {
      const half = Math.ceil(chunk.length / 2)
      const first = await sendChunk(expo, chunk.slice(0, half))
      return [...first, ...(await sendChunk(expo, chunk.slice(half)))]
    }
    return chunk.map(() => afterError(error, statusCode))
  }
}

function afterError(error: unknown, status: number | undefined): Delivery {
  if (status === undefined) return connectionFailed(error) ?? { outcome: 'unknown', why: 'Expo has not answered' }
  // Whoever may not send now (401, 403) may when the operator has mended it.
  const isFinal = status === 400 || status === 413
  // What came with 200 and cannot be read: it may have taken them.
  if (status < 300) return { outcome: 'unknown', why: 'Expo’s answer cannot be read' }
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
    ...(accessToken === undefined ? {} : { accessToken }),
    ...(retryMinTimeout === undefined ? {} : { retryMinTimeout }),
  })
}
