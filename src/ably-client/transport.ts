/** `holdfast/ably-client`: `createClient({ transport: ablyTransport(…) })` follows sessions over Ably. */

import type { OwnTransport } from '../client/connection.ts'
import type { Wire } from '../client/wire.ts'
import type { AblyTokenRequest } from '../core/ably-channels.ts'
import { type AblyGrant, type AblyRealtime, openAblyLine } from './line.ts'

export type { AblyChannel, AblyRealtime } from './line.ts'

/** As Ably's `authCallback`. */
export type AblyAuthCallback = (
  params: unknown,
  callback: (error: string | null, tokenRequest: AblyTokenRequest | null) => void,
) => void

export type AblyTransportOptions = {
  /** Reads from the server what may have been lost. Defaults to 10,000. */
  lookEveryMs?: number
  /** The same, where Ably is not connected, or refuses. Defaults to 1,500. */
  lookUnheardEveryMs?: number
}

/**
 * `realtime`: the app's own `Ably.Realtime`, whose tokens then have to be those of `POST /v1/realtime/ably-token`, and which
 * the app closes. Or a function that makes one, with the `authCallback` that it is given: that one is closed when nothing is
 * followed any more.
 */
export function ablyTransport(
  realtime: AblyRealtime | ((authCallback: AblyAuthCallback) => AblyRealtime),
  { lookEveryMs = 10_000, lookUnheardEveryMs = 1_500 }: AblyTransportOptions = {},
): OwnTransport {
  return {
    name: 'ably',
    open(wire, start) {
      const authCallback: AblyAuthCallback = (_params, callback) => {
        const ids = start.follows().map(({ sessionId }) => sessionId)
        grantOf(wire, ids, undefined).then(
          (grant) => callback(grant === null ? 'The server did not answer.' : null, grant?.tokenRequest ?? null),
          (error: unknown) => callback(String(error), null),
        )
      }
      const own = typeof realtime === 'function' ? realtime(authCallback) : null
      return openAblyLine({
        wire,
        start,
        isOwn: own !== null,
        realtime: own ?? (realtime as AblyRealtime),
        lookEveryMs,
        lookUnheardEveryMs,
        grant: (ids, signal) => grantOf(wire, ids, signal),
        ended: () => own?.close(),
      })
    },
  }
}

/** As the server has it. */
const sessionsMax = 50

/** Of the last ones, where there are more than one token may name. Null: no answer came. */
async function grantOf(wire: Wire, sessionIds: string[], signal: AbortSignal | undefined): Promise<AblyGrant | null> {
  const ask = { method: 'POST', body: { sessionIds: sessionIds.slice(-sessionsMax) } } as const
  const grant = await wire.askOnce('/v1/realtime/ably-token', ask, signal, wire.silentMs)
  return grant === undefined ? null : (grant as unknown as AblyGrant)
}
