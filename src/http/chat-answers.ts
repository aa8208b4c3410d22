/**
 * Answers in what `useChat` sends: of the assistant's messages these are all that is read, and only where a question of ours
 * waits for exactly that. What was asked, of which call and with what input, is what is stored.
 */
import * as z from 'zod'
import { canonicalJson } from '../core/canonical.ts'
import type { Part } from '../core/chunk.ts'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { lastStep } from '../core/open-step.ts'
import { type Answer, type FoundAsk, findAsks } from '../store/asks.ts'
import { approvalFields, approvalOf, resultFields, storeAnswer, toolResultOf } from './approvals.ts'
import { checkValue } from './body.ts'
import { pairNow } from './control.ts'
import { Problem } from './problem.ts'
import { type Call, sessionOf } from './route.ts'
import type { PairToTell } from './ui-reply.ts'

/** `isLast`: it stands in the last step of the body's last message. */
export type GivenAnswer = Answer & { replyId: string; isLast: boolean }

const idText = z.string().min(1).max(1_000)
const approvalPart = z.object({
  state: z.literal('approval-responded'),
  approval: z.object({ id: idText, approved: approvalFields.approved, reason: approvalFields.reason.catch(undefined) }),
})
const outputPart = z.object({ toolCallId: idText, state: z.literal('output-available'), output: resultFields.output })
const errorPart = z.object({ toolCallId: idText, state: z.literal('output-error'), errorText: z.string() })
const replyMessage = z.object({
  id: idText,
  role: z.literal('assistant'),
  parts: z.array(z.custom<Part>((part) => typeof part === 'object' && part !== null && !Array.isArray(part))),
})

/** All that may be answers: also what the app's own tools have answered, which nobody asked a client for. */
export function answersIn(messages: readonly Json[]): GivenAnswer[] {
  return messages.flatMap((given, at) => {
    const { data: message } = replyMessage.safeParse(given)
    if (message === undefined) return []
    const last = at === messages.length - 1 ? new Set(lastStep(message.parts)) : null
    return message.parts.flatMap((part) => {
      const answer = answerIn(part)
      return answer === null ? [] : [{ ...answer, replyId: message.id, isLast: last?.has(part) === true }]
    })
  })
}

function answerIn(part: Part): Answer | null {
  const approval = approvalPart.safeParse(part).data?.approval
  if (approval !== undefined) return approvalOf(approval.id, approval)
  const result = outputPart.safeParse(part).data
  if (result !== undefined) return toolResultOf(result.toolCallId, { output: result.output ?? null })
  const error = errorPart.safeParse(part).data
  if (error === undefined) return null
  // An `Error` without a message has a text, too.
  const errorText = error.errorText.slice(0, limits.reasonCharactersMax).toWellFormed() || 'Error'
  return toolResultOf(error.toolCallId, { errorText })
}

/** What became of an answer for which there is a question. */
type Given = FoundAsk & { isLast: boolean; how: 'fresh' | 'same' | 'refused' }

/** Stores those that a question waits for. */
export async function storeAnswers(call: Call, answers: readonly GivenAnswer[]): Promise<Given[]> {
  if (answers.length === 0) return []
  const found = await findAsks(call.parts.database, sessionOf(call), answers)
  const given: Given[] = []
  for (const ask of found) {
    const answer = answers[ask.at]!
    given.push({ ...ask, isLast: answer.isLast, how: await storeOne(call, ask, answer) })
  }
  return given
}

async function storeOne(call: Call, ask: FoundAsk, { kind, id, answer }: GivenAnswer): Promise<Given['how']> {
  if (ask.state !== 'open') {
    const isSame = ask.state === 'answered' && canonicalJson(ask.answer) === canonicalJson(answer as Json)
    return isSame ? 'same' : 'refused'
  }
  checkValue(answer as Json)
  if (Buffer.byteLength(JSON.stringify(answer)) > limits.requestBytesMax) {
    throw new Problem('too_large', `A tool's result may have at most ${limits.requestBytesMax} bytes.`)
  }
  const { outcome } = await storeAnswer(call, { kind, id, answer } as Answer, ask.turnId, call.principal.userId)
  if (outcome === 'forbidden') throw new Problem('forbidden')
  if (outcome === 'answered') return 'fresh'
  return outcome === 'same' ? 'same' : 'refused'
}

/**
 * For a body that ends with a reply: what goes on when it is answered. The client is told only what is new to it. Where
 * nothing is, it is refused: a client that goes on by itself would otherwise ask again at once, and for ever.
 */
export async function goOn(call: Call, answers: readonly GivenAnswer[]): Promise<PairToTell> {
  const given = (await storeAnswers(call, answers)).filter(({ isLast }) => isLast)
  const seq = Math.max(0, ...given.map((each) => each.seq))
  const asked = given.filter((each) => each.seq === seq)
  if (asked.length === 0) throw nothingWaits()
  if (asked.some(({ how }) => how === 'refused')) throw answeredOtherwise()
  const pair = await pairNow(call, asked[0]!.messageId)
  const isFresh = asked.some(({ how }) => how === 'fresh')
  if (pair.turn.state === 'waiting' && !isFresh) throw waitsForMore()
  return { ...pair, goesOnAfter: seq }
}

const nothingWaits = () =>
  new Problem(
    'not_waiting',
    'Nothing waits for this answer any more. To have a reply written again, call regenerate().',
  )
const answeredOtherwise = () =>
  new Problem(
    'not_waiting',
    'This was answered otherwise already, or too late. Load the conversation again to see what became of it.',
  )
const waitsForMore = () =>
  new Problem('not_waiting', 'This answer is stored, and the reply waits for another one. Answer that, too.')
