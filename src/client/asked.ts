/** Which question of an id an answer is to: an id may be used again, by another turn or in a later step (PROTOCOL.md, P114). */
import type { Turn } from '../core/message.ts'
import type { View } from '../core/view.ts'

type Which = { turnId?: string; attempt?: number }

/**
 * The answer, to the question that is shown: sent again, because its own answer was lost, it does not meet the next one of
 * that id. As it was given where none such is shown, or several are: then the server takes the one that waits.
 */
export function withQuestion<Answer extends Which>(view: View | null, id: string, answer: Answer): Answer {
  const [turn, ...others] = (view?.now().turns ?? []).filter((each) => asks(each, id) && isMeant(each, answer))
  return turn === undefined || others.length > 0 ? answer : { ...answer, turnId: turn.id, attempt: turn.attempt }
}

function asks({ approvals = [], toolCalls = [] }: Turn, id: string): boolean {
  return approvals.some((asked) => asked.id === id) || toolCalls.some(({ toolCallId }) => toolCallId === id)
}

function isMeant({ id, attempt }: Turn, said: Which): boolean {
  return id === (said.turnId ?? id) && attempt === (said.attempt ?? attempt)
}
