/** Which lane a message of this user joins, as the app says. */
import { privateLane } from '../core/event.ts'
import { messagePair } from '../store/messages.ts'
import type { UserPart } from './body.ts'
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

/**
 * The lane of a message that is sent, maybe again. Its files are stored before it is, for whom its lane says: so one that is
 * there already keeps its own, or what was said alone would be there for all once the app answers something else.
 */
export async function laneOfMessage(call: Within, { id, parts = [] }: { id: string; parts?: UserPart[] | undefined }) {
  if (!parts.some(({ type }) => type === 'file')) return await laneOf(call)
  const { tenantId, sessionId, userId } = sessionOf(call)
  const there = await messagePair(call.parts.database, tenantId, sessionId, id, userId)
  return there?.message.id === id && there.message.author === userId ? there.message.lane : await laneOf(call)
}
