/** Which lane a message of this user joins, as the app says. */
import { privateLane } from '../core/event.ts'
import { sessionOf, type Within } from './route.ts'

/** No user's id makes the name of another lane: `main` has no colon, and the two others begin each in their own way. */
export async function laneOf(call: Within): Promise<string> {
  const { tenantId, sessionId, userId } = sessionOf(call)
  const lane = await call.parts.lane({ session: { id: sessionId }, user: { id: userId, tenantId } })
  if (lane === 'main') return 'main'
  if (lane === 'author') return `user:${userId}`
  if (lane === 'private') return `${privateLane}${userId}`
  throw new TypeError(`The option lane must answer 'main', 'author' or 'private', not ${String(lane)}.`)
}
