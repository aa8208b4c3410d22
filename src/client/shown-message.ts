/** A message as it is shown: what is stored or waits to be, and how far it has come. */
import { privateLane } from '../core/event.ts'
import type { Message } from '../core/message.ts'
import { newMessage, type Shown } from '../core/view.ts'
import type { MessageOf } from './typed.ts'
import type { UnsentView } from './unsent.ts'

/**
 * Of a message of this user: `waiting` for the network, its turn to be sent or a limit; `sending`; `failed`, with the reason;
 * `sent`: the server has it; `delivered` and `read`: every other member has, or where there is none, or none who sees it, the
 * assistant (P143).
 */
export type Delivery =
  | { state: 'waiting' | 'sending'; retryAt: string | null }
  | { state: 'failed'; failure: NonNullable<UnsentView['failure']> }
  | { state: 'sent' | 'delivered' | 'read' }

/** `delivery` null: it is a reply. */
export type ShownMessage<Chat = unknown> = MessageOf<Chat> & { delivery: Delivery | null }

/** The same object where it is of the same message, so that only what changed is drawn again. */
export function withDelivery(message: Message, shown: Shown | null, at: number): ShownMessage {
  const known = drawn.get(message)
  // A reply's, and one that was read: it stays so, and of thousands nothing is looked for.
  if (known && (known.delivery === null || known.delivery.state === 'read')) return known
  const delivery = deliveryOf(message, shown, at)
  if (known?.delivery?.state === delivery?.state && known) return known
  const next: ShownMessage = { ...message, delivery }
  drawn.set(message, next)
  return next
}
const drawn = new WeakMap<Message, ShownMessage>()

/** `at`: where it stands. Its reply stands right behind it. */
function deliveryOf({ id, role, seq, author, lane }: Message, shown: Shown | null, at: number): Delivery | null {
  if (role !== 'user') return null
  if (shown === null) return { state: 'sent' }
  const { members, messages, turns } = shown
  const others = lane.startsWith(privateLane) ? [] : members.filter(({ userId }) => userId !== author)
  if (others.length > 0) {
    const reached = (['read', 'delivered'] as const).find((has) => others.every((member) => member[has] >= seq))
    return { state: reached ?? 'sent' }
  }
  const reply = messages[at + 1]
  if (reply?.repliesTo === id && (reply.status !== 'pending' || reply.parts.length > 0)) return { state: 'read' }
  const turn = turns.find(({ messageId }) => messageId === id)
  if (turn === undefined || turn.attempt === 0) return { state: 'sent' }
  // What was read stays so where the reply is begun anew.
  return { state: turn.attempt > 1 || turn.round > 1 ? 'read' : 'delivered' }
}

export function optimistic(unsent: UnsentView): ShownMessage {
  const { sessionId, id, parts, metadata, writtenAt, state, failure, isSending, retryAt } = unsent
  const delivery: Delivery =
    state === 'failed' && failure !== null
      ? { state: 'failed', failure }
      : { state: isSending ? 'sending' : 'waiting', retryAt }
  const message = newMessage({ id, sessionId, seq: 0, role: 'user', lane: 'main', at: writtenAt })
  return { ...message, parts, metadata, delivery }
}
