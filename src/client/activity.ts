/**
 * What is going on in a session, and who has read what, from what the client has already. That the assistant thinks or writes
 * nobody tells: it follows from the turn and from what its reply ends in, so it is never stale, and never somebody else's.
 */
import { privateLane } from '../core/event.ts'
import type { Member } from '../core/view.ts'
import type { SessionState } from './session.ts'
import type { ShownMessage } from './shown-message.ts'

/** `messageId` is the user's message that is being answered. `thinking`: no text just now; it may reason, or use a tool. */
export type Activity =
  | { userId: string; doing: 'typing' }
  | { assistant: 'thinking' | 'writing'; messageId: string; replyId: string }

export function activityOf({ typing, turns, messages }: SessionState): readonly Activity[] {
  const writers = turns.flatMap(({ state, messageId, replyId }): Activity[] => {
    const reply = messages.find(({ id }) => id === replyId)
    if (state !== 'running' || reply === undefined) return []
    const last = reply.parts.at(-1)
    const writes = last?.type === 'text' && last.text !== ''
    return [{ assistant: writes ? 'writing' : 'thinking', messageId, replyId }]
  })
  return [...writers, ...typing.map((userId): Activity => ({ userId, doing: 'typing' }))]
}

/** The other members who have read a user's message; of a reply, what is not sent yet and what nobody else sees, none. */
export function readersOf(message: ShownMessage, members: readonly Member[]): readonly string[] {
  const { role, seq, author, lane, delivery } = message
  if (
    role !== 'user' ||
    author === null ||
    lane.startsWith(privateLane) ||
    (delivery !== null && notSent.has(delivery.state))
  )
    return []
  return members.flatMap(({ userId, read }) => (userId !== author && read >= seq ? [userId] : []))
}
const notSent: ReadonlySet<string> = new Set(['waiting', 'sending', 'failed'])
