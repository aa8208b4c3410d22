/**
 * Answers in what `useChat` sends: of the assistant's messages these are all that is read, and only where a question of ours
 * waits for exactly that. What was asked, of which call and with what input, is what is stored.
 *
 * Such a client sends its whole history with every send. So the questions are looked up first, and the history is searched
 * for their answers alone; and an answer that cannot be stored as it is refuses nothing: the same page would be refused for
 * as long as it has it. What the tool answered becomes an error then, which the model is told.
 */
import * as z from 'zod'
import { canonicalJson } from '../core/canonical.ts'
import type { Part } from '../core/chunk.ts'
import { cleanJson } from '../core/clean.ts'
import type { Json, JsonObject } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { lastStep } from '../core/open-step.ts'
import { cleanText } from '../core/plain-json.ts'
import { type Answer, closedAsks, type FoundAsk, type OpenAsk, openAsks } from '../store/asks.ts'
import { approvalOf, storeAnswer, toolResultOf } from './approvals.ts'
import { checkShape } from './body.ts'
import { pairNow } from './control.ts'
import { Problem } from './problem.ts'
import { type Call, sessionOf } from './route.ts'
import type { PairToTell } from './ui-reply.ts'

/** What of it is stored, and whether that is just what the client shows. */
type Given = { answer: Answer; isAsShown: boolean }

/** An approved call that a client runs may have its output by then. */
const approvalPart = z.object({
  state: z.enum(['approval-responded', 'output-available', 'output-error']),
  approval: z.object({ id: z.string(), approved: z.boolean(), reason: z.string().catch('') }),
})
const outputPart = z.object({ toolCallId: z.string(), state: z.literal('output-available'), output: z.custom<Json>() })
const errorPart = z.object({ toolCallId: z.string(), state: z.literal('output-error'), errorText: z.string() })

type Reply = { id: string; parts: Part[] }

function replyIn(message: Json | undefined): Reply | null {
  if (!isObject(message) || message.role !== 'assistant') return null
  if (typeof message.id !== 'string' || !Array.isArray(message.parts)) return null
  return { id: message.id, parts: (message.parts as unknown[]).filter(isPart) }
}

const stepsIn = ({ parts }: Reply): number => parts.filter(({ type }) => type === 'step-start').length

/** In the last step of the reply as the client has it: there it was asked. */
function answerIn({ parts }: Reply, { kind, id }: FoundAsk): Given | null {
  for (const part of lastStep(parts)) {
    const given = kind === 'tool' ? resultIn(part, id) : approvalIn(part, id)
    if (given !== null) return given
  }
  return null
}

/**
 * Providers that number the calls of a step use an id again in the next: a client that was cut off, and sends what it has
 * sent, has answered the call of an earlier one.
 */
function answerTo(ask: OpenAsk, messages: readonly Json[]): Answer | null {
  const isReply = (message: Json) => isObject(message) && message.role === 'assistant' && message.id === ask.replyId
  const reply = replyIn(messages.findLast(isReply))
  if (reply === null) return null
  const steps = stepsIn(reply)
  return steps === 0 || steps === ask.steps ? (answerIn(reply, ask)?.answer ?? null) : null
}

function approvalIn(part: Part, id: string): Given | null {
  const { data } = approvalPart.safeParse(part)
  if (data?.approval.id !== id) return null
  const reason = shortText(data.approval.reason)
  return { answer: approvalOf(id, { approved: data.approval.approved, reason: reason || undefined }), isAsShown: true }
}

function resultIn(part: Part, id: string): Given | null {
  if (part.toolCallId !== id) return null
  const { data: failed } = errorPart.safeParse(part)
  if (failed !== undefined) {
    // An `Error` without a message has a text, too.
    const errorText = shortText(failed.errorText) || 'Error'
    return { answer: toolResultOf(id, { errorText }), isAsShown: errorText === failed.errorText }
  }
  const { data: done } = outputPart.safeParse(part)
  return done === undefined ? null : outputOf(id, done.output ?? null)
}

function outputOf(id: string, given: Json): Given {
  try {
    checkShape(given)
    const output = cleanJson(given) ?? null
    const bytes = Buffer.byteLength(JSON.stringify(output))
    if (bytes > limits.requestBytesMax) {
      throw new Problem('too_large', `It has ${bytes} bytes, and may have at most ${limits.requestBytesMax}.`)
    }
    return { answer: toolResultOf(id, { output }), isAsShown: canonicalJson(output) === canonicalJson(given) }
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    const errorText = `The tool has run, but its result cannot be taken. ${error.message}`
    return { answer: toolResultOf(id, { errorText }), isAsShown: false }
  }
}

const shortText = (text: string) => cleanText(text.slice(0, limits.reasonCharactersMax))

const isObject = (value: Json | undefined): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const isPart = (value: unknown): value is Part =>
  isObject(value as Json) && typeof (value as JsonObject).type === 'string'

/** What was stored just now, by turn and question. */
type Stored = ReadonlySet<string>
const keyOf = ({ turnId, seq, callId }: FoundAsk) => `${turnId} ${seq} ${callId}`

/** Answers the open questions that the messages hold answers to, each once. Those that come too late are passed over. */
export async function storeAnswers(call: Call, messages: readonly Json[]): Promise<Stored> {
  const stored = new Set<string>()
  if (!messages.some((message) => isObject(message) && message.role === 'assistant')) return stored
  for (const ask of await openAsks(call.parts.database, sessionOf(call))) {
    const answer = answerTo(ask, messages)
    if (answer === null) continue
    const { outcome } = await storeAnswer(call, answer, ask.turnId, call.principal.userId, ask.attempt)
    if (outcome === 'forbidden') throw new Problem('forbidden')
    if (outcome === 'answered') stored.add(keyOf(ask))
  }
  return stored
}

/**
 * For a body that ends with a reply: what goes on when it is answered. The client is told only what is new to it. Where
 * nothing is, it is refused: a client that goes on by itself would otherwise ask again at once, and for ever.
 */
export async function goOn(call: Call, messages: readonly Json[]): Promise<PairToTell> {
  const stored = await storeAnswers(call, messages)
  const reply = replyIn(messages.at(-1))
  if (reply === null) throw nothingWaits()
  const at = { replyId: reply.id, step: stepsIn(reply) }
  // What is open now was asked after those, and has its answer the next time.
  const asks = await closedAsks(call.parts.database, sessionOf(call), at)
  const given = asks.flatMap((ask) => {
    const answered = answerIn(reply, ask)
    return answered === null ? [] : [{ ...answered, ask }]
  })
  const seq = Math.max(0, ...given.map(({ ask }) => ask.seq))
  const now = given.filter(({ ask }) => ask.seq === seq)
  if (now.length === 0) throw nothingWaits()
  if (now.some(({ ask, answer }) => !isAnsweredBy(ask, answer))) throw answeredOtherwise()
  const pair = await pairNow(call, now[0]!.ask.messageId)
  const isFresh = now.some(({ ask }) => stored.has(keyOf(ask)))
  if (pair.turn.state === 'waiting' && !isFresh && !(await waitsFurtherOn(call, reply))) throw waitsForMore()
  const gave = now.flatMap(({ ask, isAsShown }) => (isAsShown ? [ask.callId] : []))
  return { ...pair, goesOnAfter: seq, gave }
}

/** In a later step than the client has: that is new to it. */
async function waitsFurtherOn(call: Call, reply: Reply): Promise<boolean> {
  const has = stepsIn(reply)
  const asks = await openAsks(call.parts.database, sessionOf(call))
  return has > 0 && asks.some(({ replyId, steps }) => replyId === reply.id && steps > has)
}

const isAnsweredBy = ({ state, answer: stored }: FoundAsk, { answer }: Answer) =>
  state === 'answered' && canonicalJson(stored) === canonicalJson(answer as Json)

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
