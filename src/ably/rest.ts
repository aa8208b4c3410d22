/** What is asked of Ably's REST API (https://ably.com/docs/api/rest-api). */

export type AblyMessage = { id?: string; name: string; data: unknown; encoding?: string; extras?: object }
type AblyMember = { clientId: string; data: unknown }

export class AblyError extends Error {
  override readonly name = 'AblyError'
  /** Ably's own: https://ably.com/docs/platform/errors/codes. 0: no answer of Ably's. */
  readonly code: number
  readonly status: number
  readonly retryAfterMs: number
  constructor(what: string, code: number, status: number, retryAfterMs = 0) {
    super(`Ably: ${what}`)
    this.code = code
    this.status = status
    this.retryAfterMs = retryAfterMs
  }
  /** What it does not take it would not take later either. */
  get isRefused(): boolean {
    return this.code !== 0 && [400, 413, 422].includes(this.status)
  }
  /** It was not done, and not for Ably's being busy or down. */
  get isAnswered(): boolean {
    return this.status >= 400 && this.status < 500 && this.status !== 429
  }
}

export type AblyRest = {
  /** Resolves to the message's serial, null where the channel gives none. */
  publish(channel: string, message: AblyMessage, signal: AbortSignal): Promise<string | null>
  append(channel: string, serial: string, more: { name: string; data: string }, signal: AbortSignal): Promise<void>
  presence(channel: string): Promise<AblyMember[]>
}

const answerMs = 8_000
/** As of ably 2.28: from this one on an answer names the serials. */
const protocolVersion = '6'
/** Of `message.append` on the wire. */
const appendAction = 5
const presencePage = 1_000
const presencePagesMax = 10

export function createRest({ key, endpoint }: { key: string; endpoint: string }): AblyRest {
  const authorization = `Basic ${Buffer.from(key).toString('base64')}`

  async function ask(method: string, path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
    const within = AbortSignal.timeout(answerMs)
    const response = await fetch(`${endpoint}${path}`, {
      method,
      headers: {
        authorization,
        accept: 'application/json',
        'x-ably-version': protocolVersion,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: signal ? AbortSignal.any([signal, within]) : within,
    }).catch((error: unknown) => {
      throw new AblyError(`no answer (${error instanceof Error ? error.name : 'error'})`, 0, 0)
    })
    if (response.ok) return response
    throw await errorOf(response)
  }

  return {
    async publish(channel, message, signal) {
      const response = await ask('POST', `/channels/${encodeURIComponent(channel)}/messages`, message, signal)
      const { serials } = (await response.json().catch(() => ({}))) as { serials?: (string | null)[] }
      return serials?.[0] ?? null
    },
    async append(channel, serial, more, signal) {
      const path = `/channels/${encodeURIComponent(channel)}/messages/${encodeURIComponent(serial)}`
      const response = await ask('PATCH', path, { action: appendAction, ...more }, signal)
      await response.arrayBuffer().catch(() => undefined)
    },
    async presence(channel) {
      const members: AblyMember[] = []
      let query = `limit=${presencePage}`
      const within = AbortSignal.timeout(answerMs)
      for (let page = 0; page < presencePagesMax; page++) {
        const response = await ask(
          'GET',
          `/channels/${encodeURIComponent(channel)}/presence?${query}`,
          undefined,
          within,
        )
        const found = (await response.json()) as { clientId?: unknown; data?: unknown; encoding?: unknown }[]
        for (const { clientId, data, encoding } of found) {
          if (typeof clientId === 'string') members.push({ clientId, data: decoded(data, encoding) })
        }
        // https://ably.com/docs/api/rest-api#pagination
        const next = /<[^>]*\?([^>]*)>;\s*rel="next"/.exec(response.headers.get('link') ?? '')?.[1]
        if (next === undefined) break
        query = next
      }
      return members
    },
  }
}

/** What is not JSON, such as binary, stays as it is. */
function decoded(data: unknown, encoding: unknown): unknown {
  if (encoding !== 'json' || typeof data !== 'string') return data
  try {
    return JSON.parse(data)
  } catch {
    return data
  }
}

async function errorOf(response: Response): Promise<AblyError> {
  const body = (await response.json().catch(() => null)) as { error?: { code?: unknown; message?: unknown } } | null
  const { code, message } = body?.error ?? {}
  const afterS = Number(response.headers.get('retry-after'))
  const retryAfterMs = afterS > 0 ? Math.min(afterS, 3_600) * 1_000 : 0
  const what = `${response.status}, ${typeof message === 'string' ? message.slice(0, 200) : 'no reason was given'}`
  return new AblyError(what, typeof code === 'number' ? code : 0, response.status, retryAfterMs)
}
