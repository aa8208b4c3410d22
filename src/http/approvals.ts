/** Answers to what a reply waits for: whether a call may run, and what a client's own tool answered. Each is taken once. */
import * as z from 'zod'
import { point } from '#points'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import type { Allowance } from '../store/accept.ts'
import { type Answer, type Answered, answerAsk } from '../store/asks.ts'
import type { Pair } from '../store/messages.ts'
import { readBody } from './body.ts'
import { pairNow, tell } from './control.ts'
import { pairResponse, surely } from './messages.ts'
import { Problem } from './problem.ts'
import { rateHeaders, ratesOf, tooManySends } from './rate.ts'
import { type Call, type Route, sessionOf, type Within } from './route.ts'

/** Where several things were asked under one id, which of them: what this turn asked, and what this attempt of it. */
const whichFields = { turnId: z.uuid().optional(), attempt: z.number().int().min(1).max(2_147_483_647).optional() }
export const approvalFields = {
  approved: z.boolean(),
  reason: z.string().min(1).max(limits.reasonCharactersMax).optional(),
  ...whichFields,
}
export const resultFields = {
  output: z.custom<Json>(() => true).optional(),
  errorText: z.string().min(1).max(limits.reasonCharactersMax).optional(),
  ...whichFields,
}
export const hasOneResult = (body: object) => 'output' in body !== 'errorText' in body
export const oneResultSentence = 'expected either "output" or "errorText"'
const approvalSchema = z.strictObject(approvalFields)
const resultSchema = z.strictObject(resultFields).refine(hasOneResult, oneResultSentence)

/** Of a body that was checked; absent fields are not stored. */
export function approvalOf(id: string, { approved, reason }: z.infer<typeof approvalSchema>): Answer {
  return { kind: 'approval', id, answer: { approved, ...(reason === undefined ? {} : { reason }) } }
}

export function toolResultOf(id: string, { output, errorText }: z.infer<typeof resultSchema>): Answer {
  return { kind: 'tool', id, answer: errorText === undefined ? { output: output ?? null } : { errorText } }
}

async function approve(call: Call): Promise<Response> {
  const body = await readBody(call.request, approvalSchema)
  return await answered(call, approvalOf(call.params.approvalId!, body), body)
}

async function answerTool(call: Call): Promise<Response> {
  const body = await readBody(call.request, resultSchema)
  return await answered(call, toolResultOf(call.params.toolCallId!, body), body)
}

type Which = { turnId?: string | undefined; attempt?: number | undefined }

async function answered(call: Call, answer: Answer, { turnId, attempt }: Which): Promise<Response> {
  const taken = await takeAnswer(call, answer, turnId ?? null, call.principal.userId, attempt)
  if ('tooMany' in taken) return tooManySends(taken.tooMany, taken.messageId)
  return pairResponse(call, taken.pair, rateHeaders(taken.allowance))
}

/** `allowance`: where it was counted as a send, which a yes to use more of a budget is. */
type TakenAnswer = { pair: Pair; allowance: Allowance | null } | { tooMany: Allowance; messageId: string }

/** How the message stands then. Throws the `Problem` of an answer that nothing waits for. */
export async function takeAnswer(
  call: Within<string | null>,
  answer: Answer,
  turnId: string | null,
  by: string,
  attempt?: number,
): Promise<TakenAnswer> {
  const answered = await storeAnswer(call, answer, turnId, by, attempt)
  switch (answered.outcome) {
    case 'answered':
      return { pair: await pairNow(call, answered.messageId), allowance: answered.allowance }
    case 'same':
      return { pair: await pairNow(call, answered.messageId), allowance: null }
    case 'rate_limited':
      return { tooMany: answered.allowance, messageId: answered.messageId }
    case 'forbidden':
      throw forbiddenToAnswer(answered)
    case 'not_waiting':
    case 'not_found':
      throw new Problem(answered.outcome)
  }
}

export function forbiddenToAnswer({ mayGoOn }: { mayGoOn?: string }): Problem {
  if (mayGoOn === undefined) return new Problem('forbidden')
  const who = mayGoOn === 'owner' ? 'an owner of the session' : 'who runs this service'
  return new Problem('forbidden', `Only ${who} may let the reply go on beyond this budget. You may end it.`)
}

/** Stores it, if it is the first, and tells of it. */
export async function storeAnswer(
  call: Within<string | null>,
  answer: Answer,
  turnId: string | null,
  by: string,
  attempt: number | null = null,
): Promise<Answered> {
  await point('answer.send')
  const who = sessionOf(call)
  const { sendsMax } = await ratesOf(call)
  const answered = await surely(() => answerAsk(call.parts.database, who, answer, { turnId, attempt, by, sendsMax }))
  await point('answer.answered')
  if (answered.outcome === 'answered') tell(call, answered.event)
  return answered
}

export const approvalRoutes: Route[] = [
  {
    name: 'approvals.answer',
    method: 'POST',
    path: '/v1/sessions/:sessionId/approvals/:approvalId',
    right: 'write',
    judgedBy: 'route',
    asksForReply: true,
    overSocket: true,
    handle: approve,
  },
  {
    name: 'toolResults.answer',
    method: 'POST',
    path: '/v1/sessions/:sessionId/tool-results/:toolCallId',
    right: 'write',
    judgedBy: 'route',
    asksForReply: true,
    overSocket: true,
    handle: answerTool,
  },
]
