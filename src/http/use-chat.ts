/**
 * The routes that `DefaultChatTransport` of the AI SDK (6 and 7) calls, so that an unmodified `useChat` has replies that
 * are never lost. Of what a client sends the last user's message is read, and answers to what a reply waits for
 * (chat-answers.ts): nothing of the history that it believes in.
 *
 * `regenerate()` and a sent message that is there already may be a retry, or a device that was cut off: what is running
 * is attached to, and only what has ended is begun again. An edited message keeps its id in such a client; here it is
 * another message, whose id is made of both, so that the same edit is one message whoever repeats it.
 */
import { createHash } from 'node:crypto'
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import { canonicalJson } from '../core/canonical.ts'
import { encodeCursor } from '../core/cursor.ts'
import type { Json, JsonObject } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import type { SdkMajor } from '../core/ui-chunks.ts'
import { readSnapshot } from '../log/snapshot.ts'
import { stopTurn } from '../log/stop.ts'
import { edit, regenerate, retry, selectBranch } from '../store/control.ts'
import { messagePair, type Pair } from '../store/messages.ts'
import { createSession } from '../store/sessions.ts'
import { approvalOf, forbiddenToAnswer, storeAnswer } from './approvals.ts'
import { checked, checkValue, idSchema, partSchema, readJson, type UserPart } from './body.ts'
import { goOn, storeAnswers } from './chat-answers.ts'
import { pairNow, roundOf, type StateAfter, stateAfter, tell } from './control.ts'
import { filePlaceOf, takeOutFiles } from './files.ts'
import { laneOfMessage } from './lane.ts'
import { contentOf, takeMessage, type WhenBusy, whenBusySchema } from './messages.ts'
import { inWords, Problem, wantsJson } from './problem.ts'
import { rateHeaders, ratesOf, tooManySends } from './rate.ts'
import { mustHave } from './right.ts'
import { type Call, json, type Route, sessionOf } from './route.ts'
import { followFrom, type PairToTell, tellReplies } from './ui-reply.ts'

/** A reply that ended so long ago is told whole to a page that comes: it may have been loaded before the end. */
const endedWithinMs = 15 * 60_000
/** `regenerate()` so soon after the end may come from a page that did not see the end: it is shown, not paid again. */
const unseenWithinMs = 3_000
/** More than a session has messages waiting. */
const shownMax = 50

const bodySchema = z.object({
  id: idSchema,
  messages: z.array(z.custom<Json>()).optional(),
  message: z.custom<Json>().optional(),
  trigger: z.string().optional(),
  messageId: z.string().nullish(),
  whenBusy: whenBusySchema,
})
/** Anything else is what the SDK's own stop route is sent; it is not read. */
const stopSchema = z.object({ replyId: z.string() })
const looseMessage = z.object({
  id: idSchema,
  role: z.string(),
  parts: z.array(z.custom<Json>()),
  metadata: z.unknown().optional(),
})

type Asked = Sending | Answering
/** A reply, the last message, was answered. */
type Answering = { history: readonly Json[]; id?: undefined }
type Sending = {
  id: string
  /** May hold answers to what was asked before the message was sent. */
  history: readonly Json[]
  parts: UserPart[]
  /** For which its files were stored, if it has any. */
  lane?: string
  metadata: JsonObject | undefined
  regenerates: boolean
  /** What `sendMessage({messageId})` and `regenerate({messageId})` name. */
  named: string | undefined
  whenBusy: WhenBusy
}

type Done = { pair: PairToTell; headers: Record<string, string> } | { refused: Response }

async function chat(call: Call): Promise<Response> {
  const { sessionId, asked } = readChat(await readJson(call.request, limits.chatRequestBytesMax))
  const inSession = { ...call, params: { sessionId } }
  const done = await acceptChat(inSession, asked)
  if ('refused' in done) return await inWords(done.refused, call.request)
  if (wantsJson(call.request)) return json(200, fromItsStart(call, done.pair), done.headers)
  return tellReplies(inSession, [done.pair], sdkOf(call), done.headers)
}

/** Does what is asked in the session of the call, once however often it is asked. Rejects with a `Problem`. */
export async function acceptChat(call: Call, asked: Asked): Promise<Done> {
  if (call.parts.isDraining()) {
    const message = asked.id === undefined ? {} : { userMessageId: asked.id }
    throw new Problem('draining', undefined, { retryAfterMs: 1_000, ...message })
  }
  if (asked.id === undefined) return { pair: await goOn(call, asked.history), headers: {} }
  await storeAnswers(call, asked.history)
  return await perform(call, await withoutData(call, asked))
}

/** Of the body that a transport sends, what is read of it. Throws the `Problem` of one that cannot be. */
export function readChat(sent: Json): { sessionId: string; asked: Asked } {
  const body = checked(sent, bodySchema)
  const messages = body.messages ?? (body.message === undefined ? [] : [body.message])
  const last = messages.at(-1)
  const regenerates = body.trigger === 'regenerate-message'
  if (roleIn(last) === 'assistant' && !regenerates) return { sessionId: body.id, asked: { history: messages } }
  const given = messages.findLast((message) => roleIn(message) === 'user')
  if (given === undefined) throw new Problem('invalid_request', '"messages": expected a message of the user.')
  const message = checked(given, looseMessage)
  const parts = message.parts.flatMap(partOf)
  for (const part of parts) checkValue(part)
  const content = checked(parts, z.array(partSchema).min(1, 'expected text or a file').max(limits.partsMax))
  const metadata = message.metadata as Json | undefined
  if (metadata !== undefined) checkValue(metadata)
  const said = { parts: content.filter((part) => !isData(part)), metadata }
  if (Buffer.byteLength(JSON.stringify(said)) > limits.requestBytesMax) {
    throw new Problem('too_large', `A message may have at most ${limits.requestBytesMax} bytes.`)
  }
  const isObject = typeof metadata === 'object' && metadata !== null && !Array.isArray(metadata)
  return {
    sessionId: body.id,
    asked: {
      id: message.id,
      history: regenerates ? [] : messages,
      parts: content,
      metadata: isObject ? (metadata as JsonObject) : undefined,
      regenerates,
      named: body.messageId ?? undefined,
      whenBusy: body.whenBusy,
    },
  }
}

const isData = (part: UserPart) => part.type === 'file' && /^data:/i.test(part.url)

/** Before anything is compared: what is stored has paths, and so has what the client means by the same files. */
async function withoutData(call: Call, asked: Sending): Promise<Sending> {
  const { parts } = asked
  if (!parts.some(({ type }) => type === 'file')) return asked
  const lane = await laneOfMessage(call, asked)
  const take = async () => ({ ...asked, lane, parts: await takeOutFiles(filePlaceOf(call, lane), parts) })
  return await take().catch(async (error: unknown) => {
    if (!is(error, 'not_found')) throw error
    await makeSession(call)
    return await take()
  })
}

/** A chat begins with its first message. A foreign one is not found. */
async function makeSession(call: Call): Promise<void> {
  const { tenantId, sessionId: id, userId } = sessionOf(call)
  const ask = { tenantId, id, userId, title: null, metadata: {} }
  if ((await createSession(call.parts.database, ask)).outcome === 'conflict') throw new Problem('not_found')
}

function roleIn(message: Json | undefined): unknown {
  return typeof message === 'object' && message !== null && 'role' in message ? message.role : undefined
}

/** Only what is stored: a client adds states and provider's metadata to its own parts. An empty text says nothing. */
function partOf(part: Json): Json[] {
  if (typeof part !== 'object' || part === null || Array.isArray(part)) return [part]
  const { type, text, mediaType, url, filename } = part
  if (type === 'text') return text === '' ? [] : [{ type, text: text ?? null }]
  if (type === 'file') {
    return [{ type, mediaType: mediaType ?? null, url: url ?? null, ...(filename === undefined ? {} : { filename }) }]
  }
  return [part]
}

async function perform(call: Call, asked: Sending): Promise<StateAfter> {
  const isFirst = !asked.regenerates && asked.named === undefined
  if (isFirst) return await send(call, asked)
  const there = await find(call, asked)
  if (there === null) return await send(call, asked)
  await mustHave('write', call)
  const { pair, isSame } = there
  if (!isSame) return await editTo(call, pair, asked)
  await show(call, pair)
  if (asked.regenerates) return await again(call, pair, asked)
  return await settle(call, pair, true)
}

/** What the client means by this message: it, or what it was edited to. `isSame`: it says what the client says. */
async function find(call: Call, asked: Sending): Promise<{ pair: Pair; isSame: boolean } | null> {
  const pair = await pairOf(call, asked.id)
  if (pair === null) return null
  if (saysSame(pair, asked)) return { pair, isSame: true }
  const edited = await pairOf(call, editedId(asked))
  return edited === null ? { pair, isSame: false } : { pair: edited, isSame: true }
}

function pairOf(call: Call, messageId: string): Promise<Pair | null> {
  const { tenantId, sessionId, userId } = sessionOf(call)
  return messagePair(call.parts.database, tenantId, sessionId, messageId, userId)
}

function saysSame({ message }: Pair, { parts }: Sending): boolean {
  return canonicalJson(message.parts as Json) === canonicalJson(parts as Json[])
}

const idCharactersKept = 90

function editedId({ id, parts }: Sending): string {
  return `${id.slice(0, idCharactersKept)}~${hashOf([id, parts])}`
}

function hashOf(value: Json): string {
  return createHash('sha256').update(canonicalJson(value)).digest('base64url').slice(0, 22)
}

async function send(call: Call, asked: Sending): Promise<StateAfter> {
  const { id } = asked
  const rates = await ratesOf(call)
  // Such a client cannot show the question: who sends something else has said no to it.
  const take = () => takeMessage(call, asked, rates, true)
  try {
    const taken = await take().catch(async (error: unknown) => {
      if (!is(error, 'not_found')) throw error
      await makeSession(call)
      return await take()
    })
    if (taken.outcome === 'rate_limited') return { refused: tooManySends(taken.allowance, id) }
    const pair = await pairNow(call, id)
    if (taken.created === null) return await settle(call, pair, false)
    return { pair, headers: rateHeaders(taken.allowance) }
  } catch (error) {
    if (!is(error, 'id_conflict')) throw error
    // The same message with other metadata, or one that was edited: what it said last is what the client says.
    const there = await find(call, asked)
    if (!there?.isSame) throw error
    return await settle(call, there.pair, false)
  }
}

function is(error: unknown, code: Problem['code']): boolean {
  return error instanceof Problem && error.code === code
}

/** A message that was sent before: what runs or is complete is told, what failed is tried again. */
async function settle(call: Call, pair: Pair, isNamed: boolean): Promise<StateAfter> {
  const { status } = pair.reply
  // Sent again by the browser itself, when a connection died, a stop by another device must not be undone.
  const mayBegin = status === 'failed' || (status === 'stopped' && isNamed)
  return mayBegin && isOfLastRound(pair) ? await retryOf(call, pair) : { pair, headers: {} }
}

/** What is shown may be of an earlier round of the turn, or be another turn's, which the message was handed to. */
function isOfLastRound({ reply, turn, replyTurnId }: Pair): boolean {
  return reply.id === turn.replyId && replyTurnId === turn.id
}

/** Edited back to what it said before, or asked about where another device shows another branch: the client goes on from it. */
async function show(call: Call, { message }: Pair): Promise<void> {
  const selected = await selectBranch(call.parts.database, keyOf(call, message.id))
  if (selected.outcome === 'done') tell(call, selected.event)
}

/** What runs is attached to, what waits beyond a budget goes on, what failed is tried again, and what ended is written once more. */
async function again(call: Call, pair: Pair, { named }: Sending): Promise<StateAfter> {
  const { message, reply, turn } = pair
  if (reply.status === 'failed' && isOfLastRound(pair)) return await retryOf(call, pair)
  if (turn.state === 'waiting' && isOfLastRound(pair)) return await letGoOn(call, pair)
  if (reply.status === 'pending' || reply.status === 'streaming') return { pair, headers: {} }
  const isUnseen =
    named === undefined && reply.status === 'complete' && Date.now() - Date.parse(reply.updatedAt) < unseenWithinMs
  // Named is a reply that another device has had written again meanwhile: the newer one is what was asked for.
  const isReplaced = named !== undefined && named !== reply.id && named !== message.id
  if (isUnseen || isReplaced) return { pair, headers: {} }
  // The same for all who ask for the next round of this reply: it is one round.
  const replyId = `again~${hashOf([reply.id, turn.round])}`
  const ask = { replyId, ...(await roundOf(call)) }
  return await stateAfter(call, await regenerate(call.parts.database, keyOf(call, message.id), ask), message.id)
}

/** To ask for a reply again that waits beyond a budget is the yes to that: such a client has no other. */
async function letGoOn(call: Call, pair: Pair): Promise<StateAfter> {
  const { id, approvals = [] } = pair.turn
  const asked = approvals.find(({ kind }) => kind === 'budget')
  if (asked === undefined) return { pair, headers: {} }
  const answered = await storeAnswer(call, approvalOf(asked.id, { approved: true }), id, call.principal.userId)
  const { outcome } = answered
  if (outcome === 'forbidden') throw forbiddenToAnswer(answered)
  if (outcome === 'not_found') throw new Problem(outcome)
  if (outcome === 'rate_limited') return { refused: tooManySends(answered.allowance, pair.message.id) }
  const headers = outcome === 'answered' ? rateHeaders(answered.allowance) : {}
  return { pair: await pairNow(call, pair.message.id), headers }
}

async function retryOf(call: Call, { message, turn }: Pair): Promise<StateAfter> {
  // Only of the round that was seen: whoever else tries again at the same time begins the same one.
  const ask = { round: turn.round, replyId: uuidv7(), ...(await roundOf(call)) }
  return await stateAfter(call, await retry(call.parts.database, keyOf(call, message.id), ask), message.id)
}

async function editTo(call: Call, { message }: Pair, asked: Sending): Promise<StateAfter> {
  const { expiresMs, database } = call.parts
  const id = editedId(asked)
  const content = await contentOf(filePlaceOf(call, message.lane), { id, parts: asked.parts, metadata: asked.metadata })
  const ask = { ...content, id, turnId: uuidv7(), replyId: uuidv7(), expiresMs, ...(await ratesOf(call)) }
  const edited = await edit(database, keyOf(call, message.id), ask)
  return await stateAfter(call, edited, edited.messageId ?? message.id)
}

function keyOf(call: Call, messageId: string) {
  return { ...sessionOf(call), messageId }
}

async function resume(call: Call): Promise<Response> {
  const pairs = await repliesToResume(call)
  // A page that loads shows any other status as its error, so a foreign chat is answered like an empty one.
  if (pairs.length === 0) return nothing()
  if (wantsJson(call.request)) return json(200, { data: pairs.map((pair) => fromItsStart(call, pair)) })
  return tellReplies(call, pairs, sdkOf(call))
}

/** What a page that was loaded has not: what is being written and waits, else what ended a moment ago. To strangers none. */
export async function repliesToResume(call: Call): Promise<Pair[]> {
  const { database, hub, isDraining } = call.parts
  if (isDraining()) throw new Problem('draining', undefined, { retryAfterMs: 1_000 })
  const { tenantId, sessionId, userId } = sessionOf(call)
  const snapshot = await readSnapshot(database, hub.epoch(), { tenantId, sessionId, userId, limit: shownMax })
  if (snapshot === null) return []
  const pairs: Pair[] = []
  // What the assistant said by itself is no reply, and stands as it is.
  const messages = (snapshot.messages as Pair['reply'][]).filter(({ role, repliesTo }) => role === 'user' || repliesTo)
  const now = Date.now()
  for (const reply of messages) {
    const isOpen = reply.status === 'pending' || reply.status === 'streaming'
    const isLast = reply === messages.at(-1)
    const hasJustEnded = isLast && now - Date.parse(reply.updatedAt) < endedWithinMs
    if (reply.role !== 'assistant' || !(isOpen || hasJustEnded)) continue
    const pair = await pairOf(call, reply.id)
    if (pair !== null && pair.turn.state !== 'waiting') pairs.push(pair)
  }
  return pairs
}

/**
 * For a client that follows the log itself: from this cursor it is told the reply from its beginning, or (`goesOn`) from the
 * `turn.waiting` on that it has answered.
 */
function fromItsStart({ parts: { hub } }: Call, { message, reply, turn, replyTurnId, goesOnAfter, gave }: PairToTell) {
  const seq = followFrom(reply, goesOnAfter)
  const cursor = encodeCursor({ epoch: hub.epoch(), seq, open: new Map() })
  return { message, reply, turn, replyTurnId, cursor, ...(goesOnAfter === undefined ? {} : { goesOn: true, gave }) }
}

function nothing(): Response {
  return new Response(null, { status: 204, headers: { 'cache-control': 'no-store' } })
}

/** Ends what is being written, on every device; with the id of a reply that one or nothing, so that it may be repeated. */
async function stop(call: Call): Promise<Response> {
  const { database, hub, wakeups } = call.parts
  const { tenantId, sessionId, userId } = sessionOf(call)
  // First: by the time that it is here its sender may have lost the right.
  const named = await namedIn(call.request)
  const snapshot = await readSnapshot(database, hub.epoch(), { tenantId, sessionId, userId, limit: 1 })
  if (snapshot === null) throw new Problem('not_found')
  const turns = snapshot.turns as { messageId: string; replyId: string; round: number; state: string }[]
  const turn =
    named === undefined
      ? (turns.find(({ state }) => state === 'running') ?? turns[0])
      : turns.find(({ replyId }) => replyId === named)
  if (turn !== undefined) {
    const { messageId, round } = turn
    // Such a client goes on showing the message: it is not withdrawn.
    const ask = { tenantId, sessionId, messageId, by: userId, reason: null, round, userId, takesBack: false }
    const stopped = await stopTurn(database, ask)
    if (stopped.outcome === 'not_found' || stopped.outcome === 'forbidden') throw new Problem(stopped.outcome)
    if (stopped.outcome === 'stopped') {
      wakeups.tell({ tenantId, sessionId, events: [stopped.event], runs: [], due: true })
    }
  }
  return Response.json({ success: true }, { headers: { 'cache-control': 'no-store' } })
}

/** A body that breaks off is refused: taken for one without a name, it would end another turn than was meant. */
async function namedIn(request: Request): Promise<string | undefined> {
  if (!/^application\/json/i.test(request.headers.get('content-type') ?? '')) return undefined
  return stopSchema.safeParse(await readJson(request, limits.chatRequestBytesMax)).data?.replyId
}

/**
 * Nothing in an unmodified request tells the version: who does not say 7 gets what every 6 knows, and so does who says a
 * version of 7 that cannot take a step back yet (before 7.0.70).
 */
function sdkOf({ request, url }: Call): SdkMajor {
  const said = /^(\d+)(?:\.(\d+)\.(\d+))?/.exec(request.headers.get('x-ai-sdk') ?? url.searchParams.get('sdk') ?? '')
  if (said === null) return 6
  const [major, minor, patch] = said.slice(1).map((number) => (number === undefined ? Infinity : Number(number)))
  return major! > 7 || (major === 7 && (minor! > 0 || patch! >= 70)) ? 7 : 6
}

/** Upgraded before a request comes here (use-chat-socket.ts), where the app's server lets it be. */
export const chatSocketAt = { name: 'chat.socket', path: '/api/chat/ws' } as const

/** Of the path of a socket, for a request that is no upgrade. */
export async function notUpgraded(): Promise<never> {
  throw new Problem(
    'invalid_request',
    'This is the path of a WebSocket. Open it with one, on a server whose upgrades lead here: chat.attach(server).',
  )
}

export const useChatRoutes: Route[] = [
  {
    name: 'chat.send',
    method: 'POST',
    path: '/api/chat',
    right: 'none',
    judgedBy: 'statement',
    asksForReply: true,
    makesGuests: true,
    refusesInWords: true,
    handle: chat,
  },
  {
    name: 'chat.resume',
    method: 'GET',
    path: '/api/chat/:sessionId/stream',
    right: 'read',
    judgedBy: 'statement',
    // A page resumes before its user has ever said anything.
    makesGuests: 'passing',
    endless: true,
    refusesInWords: true,
    handle: resume,
  },
  {
    name: 'chat.stop',
    method: 'POST',
    path: '/api/chat/:sessionId/stop',
    right: 'write',
    judgedBy: 'route',
    refusesInWords: true,
    handle: stop,
  },
  {
    ...chatSocketAt,
    method: 'GET',
    right: 'none',
    judgedBy: 'statement',
    makesGuests: 'passing',
    refusesInWords: true,
    handle: notUpgraded,
  },
]
