/** The turns without an outcome, as the page reads them. */
import type { Message, Turn } from 'holdfast/client'

/** While it waits to be tried again: when the next attempt is due. */
export const retryAtOf = ({ state, dueAt }: Turn): string | null => (state === 'queued' ? (dueAt ?? null) : null)

/** Its reply is being written, or waits for people, and so for no other turn. */
export const isUnderWay = ({ state }: Turn) => state === 'running' || state === 'waiting'

/** In its present round: it is being answered, or waits to be tried again, and those behind it wait for it. */
export const hasBegun = (turn: Turn) => isUnderWay(turn) || retryAtOf(turn) !== null

/**
 * In the order in which they are answered: the first is being answered, or backs off, or is about to begin. One that is
 * retried stands where its message does, also before one that backs off. Where messages are answered while a reply waits
 * for people, that one stands behind the one being written.
 */
export function lineOf(turns: readonly Turn[], messages: readonly Pick<Message, 'id'>[]): readonly Turn[] {
  if (turns.length < 2) return turns
  const placeOf = new Map(messages.map(({ id }, at) => [id, at]))
  const rank = (turn: Turn) => {
    if (!isUnderWay(turn)) return placeOf.get(turn.messageId) ?? 0
    return turn.state === 'waiting' ? -1 : -2
  }
  return turns.toSorted((a, b) => rank(a) - rank(b))
}
