/**
 * `holdfast/ably`: an app whose clients listen to Ably keeps them. The log of each session is published to its channel, and
 * clients get tokens for exactly the sessions that they may read. It needs no package of Ably's: what is asked of Ably is a few
 * requests of its REST API.
 */
import { createHmac, randomUUID } from 'node:crypto'
import {
  type AblyChannels,
  type AblyTokenRequest,
  presenceChannel,
  sessionChannel,
  userChannel,
} from '../core/ably-channels.ts'
import type { Publisher } from '../log/publishing.ts'
import { createMessages } from './messages.ts'
import { createRest } from './rest.ts'

export type AblyOptions = {
  /** An API key, `app.id:secret`. It needs `publish`, `message-update-any`, `subscribe` and `presence` on the channels. */
  key: string
  /** Stands before every channel: `beheard:` makes `beheard:session:{id}`. Defaults to none. */
  prefix?: string
  /**
   * The channel on which a session's users are present. It must be another for each tenant and session. Defaults to the
   * session's channel and `:presence`.
   */
  presenceChannel?: (session: { tenantId: string; sessionId: string }) => string
  /** Where Ably's REST API is. Defaults to `https://main.realtime.ably.net`. */
  endpoint?: string
  /** How long a client's token lasts: who is removed from a session hears of it for so long. 60,000 to 24 hours. Defaults to 600,000. */
  tokenMs?: number
  /** Of the account: what Ably takes at once, in bytes. Defaults to 65,536. */
  messageBytesMax?: number
}

export type AblyPresence = { userId: string; data: unknown }

export type Ably = Publisher & {
  readonly tokenMs: number
  channelsOf(who: { tenantId: string; sessionId: string; userId: string }): AblyChannels
  tokenRequest(ask: { userId: string; channels: readonly AblyChannels[]; ttlMs: number }): AblyTokenRequest
  /** Who is present in a session, by their `clientId`: one entry per user. */
  present(session: { tenantId?: string; sessionId: string }): Promise<AblyPresence[]>
}

const tokenMsBounds = { min: 60_000, max: 86_400_000, default: 600_000 }
/** https://ably.com/docs/platform/errors/codes/40009-max-message-size-exceeded */
const messageBytesDefault = 65_536
const messageBytesLeast = 1_024

export function ably(options: AblyOptions): Ably {
  const { key, prefix = '', endpoint = 'https://main.realtime.ably.net' } = options
  const { tokenMs = tokenMsBounds.default, messageBytesMax = messageBytesDefault } = options
  const [, keyName, appId, secret] = /^(([^.:]+)\.[^:]+):(.+)$/.exec(key) ?? []
  if (!keyName || !appId || !secret) throw new TypeError('ably: key: expected an API key of Ably, like app.id:secret.')
  // https://ably.com/docs/channels: a name begins with neither, and has no line break.
  if (/^[[:]|[\r\n*]/.test(prefix)) {
    throw new TypeError(
      'ably: prefix: expected the beginning of a channel, like "beheard:", without * and line breaks.',
    )
  }
  if (!/^https?:\/\//.test(endpoint) || !URL.canParse(endpoint)) throw new TypeError('ably: endpoint: expected a URL.')
  if (!(tokenMs >= tokenMsBounds.min && tokenMs <= tokenMsBounds.max)) {
    throw new TypeError(`ably: tokenMs: expected a number from ${tokenMsBounds.min} to ${tokenMsBounds.max}.`)
  }
  if (!(messageBytesMax >= messageBytesLeast)) {
    throw new TypeError(`ably: messageBytesMax: expected a number of at least ${messageBytesLeast}.`)
  }

  const rest = createRest({ key, endpoint: endpoint.replace(/\/+$/, '') })
  const channelOf = ({ tenantId, sessionId }: { tenantId: string; sessionId: string }) =>
    sessionChannel(prefix, tenantId, sessionId)
  const presenceOf = (session: { tenantId: string; sessionId: string }) =>
    options.presenceChannel?.(session) ?? presenceChannel(channelOf(session))
  const messages = createMessages({ rest, bytesMax: messageBytesMax })

  return {
    name: `ably:${appId}:${prefix}`,
    tokenMs,
    publish({ to, items, epoch, ...session }, signal, log) {
      const channel = channelOf(session)
      const channels = to === null ? [channel] : to.map((userId) => userChannel(channel, userId))
      return messages.publish(channels, epoch, items, signal, log)
    },
    reset: (session, reason, signal) => messages.reset(channelOf(session), reason, signal),
    chunksEveryMs: messages.chunksEveryMs,
    channelsOf({ userId, ...session }) {
      const channel = channelOf(session)
      return { session: channel, user: userChannel(channel, userId), presence: presenceOf(session) }
    },
    tokenRequest({ userId, channels, ttlMs }) {
      const capability = capabilityOf(prefix, channels)
      const [timestamp, nonce, ttl] = [Date.now(), randomUUID().replaceAll('-', ''), Math.floor(ttlMs)]
      const signed = [keyName, ttl, capability, userId, timestamp, nonce].map((line) => `${line}\n`).join('')
      const mac = createHmac('sha256', secret).update(signed).digest('base64')
      return { keyName, clientId: userId, capability, ttl, timestamp, nonce, mac }
    },
    async present({ tenantId = 'default', sessionId }) {
      const members = await rest.presence(presenceOf({ tenantId, sessionId }))
      const users = new Map<string, AblyPresence>()
      for (const { clientId, data } of members) users.set(clientId, { userId: clientId, data })
      return [...users.values()]
    },
  }
}

/** In the order in which Ably signs it: https://ably.com/docs/api/token-request-spec. No user publishes. Nothing is ever published to `none`. */
function capabilityOf(prefix: string, channels: readonly AblyChannels[]): string {
  const operations = new Map<string, string[]>()
  // No capability at all would be that of the key.
  if (channels.length === 0) operations.set(`${prefix}none`, ['subscribe'])
  for (const { session, user, presence } of channels) {
    operations.set(session, ['subscribe'])
    operations.set(user, ['subscribe'])
    operations.set(presence, ['presence', 'subscribe'])
  }
  return JSON.stringify(Object.fromEntries([...operations].sort(([a], [b]) => (a < b ? -1 : 1))))
}
