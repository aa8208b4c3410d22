/** Tokens of Ably's for the channels of the sessions that a user may read, and of no others (src/ably). */
import * as z from 'zod'
import { idPattern } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { sessionsOfMember } from '../store/publishers.ts'
import { readBody } from './body.ts'
import { Problem } from './problem.ts'
import { type Call, json, type Route } from './route.ts'

const tokenSchema = z.strictObject({
  sessionIds: z.array(z.string().regex(idPattern)).max(limits.ablySessionsMax).optional(),
})

const noAbly = 'This server publishes nothing over Ably. Give createHoldfast the option ably.'

async function token({ request, parts, principal }: Call): Promise<Response> {
  const { ably } = parts
  if (ably === undefined) throw new Problem('not_found', noAbly)
  const { sessionIds = null } = await readBody(request, tokenSchema)
  const { tenantId, userId, expiresAt = Number.POSITIVE_INFINITY } = principal
  // To Ably it is whoever the bearer says: https://ably.com/docs/auth/identified-clients.
  if (userId === '*')
    throw new Problem('forbidden', 'A user called * would be everybody to Ably. Give users other ids.')
  const ttlMs = Math.min(ably.tokenMs, expiresAt - Date.now())
  if (ttlMs <= 0) throw new Problem('unauthorized')
  const ask = { named: sessionIds, limit: limits.ablySessionsMax }
  const ids = await sessionsOfMember(parts.database, principal, ask)
  const sessions = ids.map((id) => ({ id, channels: ably.channelsOf({ tenantId, sessionId: id, userId }) }))
  const tokenRequest = ably.tokenRequest({ userId, channels: sessions.map(({ channels }) => channels), ttlMs })
  return json(200, { tokenRequest, sessions })
}

export const ablyTokenRoutes: Route[] = [
  {
    name: 'ably.token',
    method: 'POST',
    path: '/v1/realtime/ably-token',
    right: 'none',
    judgedBy: 'statement',
    handle: token,
  },
]
