/** The names of Ably's channels, as the server publishes to them and grants them, and what it hands out for a token. */

export type AblyChannels = {
  /** What all members may see. */
  session: string
  /** What only this user may see. */
  user: string
  presence: string
}

/** What Ably exchanges for a token: https://ably.com/docs/api/token-request-spec. */
export type AblyTokenRequest = {
  keyName: string
  clientId: string
  /** JSON. */
  capability: string
  ttl: number
  timestamp: number
  nonce: string
  mac: string
}

/**
 * `{prefix}session:{id}` for the tenant `default`. Whatever a session or a user is called, no name is another's: in a name
 * that is part of one the characters that part names, and Ably's wildcard, are escaped. An id without a colon stays as it is.
 */
export function sessionChannel(prefix: string, tenantId: string, sessionId: string): string {
  const tenant = tenantId === 'default' ? '' : `tenant:${segment(tenantId)}:`
  return `${prefix}${tenant}session:${segment(sessionId)}`
}

export function userChannel(channel: string, userId: string): string {
  return `${channel}:user:${segment(userId)}`
}

export function presenceChannel(channel: string): string {
  return `${channel}:presence`
}

/** Half a surrogate pair is no name: encoding would throw. */
function segment(name: string): string {
  return encodeURIComponent(
    name.replace(/[\ud800-\udfff]/gu, (half) => `%${half.charCodeAt(0).toString(16)}`),
  ).replaceAll('*', '%2A')
}
