/** A message as it is shown: what is stored or waits to be, and how far it has come. */
import type { Message } from '../core/message.ts'
import { newMessage, type Shown } from '../core/view.ts'
import type { MessageOf } from './typed.ts'
import type { UnsentView } from './unsent.ts'

/**
 * Of a message of this user: `waiting` for the network, its turn to be sent or a limit; `sending`; `failed`, with the reason;
 * `sent`: the server has it; `delivered` and `read`: another member has, or where there is none, the assistant (P143).
 */
export type Delivery =
  | { state: 'waiting' | 'sending'; retryAt: string | null }
  | { state: 'failed'; failure: NonNullable<UnsentView['failure']> }
  | { state: 'sent' | 'delivered' | 'read' }

/** `delivery` null: it is a reply. */
export type ShownMessage<Chat = unknown> = MessageOf<Chat> & { delivery: Delivery | null }

/** The same object where it is of the same message, so that only what changed is drawn again. */
export function withDelivery(
  message: Message,
  delivery: Delivery | null,
  known: ShownMessage | undefined,
): ShownMessage {
  if (known !== undefined && sources.get(known) === message && known.delivery?.state === delivery?.state) return known
  const shown: ShownMessage = { ...message, delivery }
  sources.set(shown, message)
  return shown
}
const sources = new WeakMap<ShownMessage, Message>()

export function deliveryOf({ id, role, seq, author }: Message, shown: Shown | null): Delivery | null {
  if (role !== 'user') return null
  if (shown === null) return { state: 'sent' }
  const { members, messages, turns } = shown
  const others = members.filter(({ userId }) => userId !== author)
  if (others.some(({ read }) => read >= seq)) return { state: 'read' }
  if (others.some(({ delivered }) => delivered >= seq)) return { state: 'delivered' }
  if (others.length > 0) return { state: 'sent' }
  const reply = messages.find(({ repliesTo }) => repliesTo === id)
  if (reply !== undefined && (reply.status !== 'pending' || reply.parts.length > 0)) return { state: 'read' }
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
