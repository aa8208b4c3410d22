import { createHash } from 'node:crypto'
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import { point } from '#points'
import { canonicalJson } from '../core/canonical.ts'
import type { Part } from '../core/chunk.ts'
import { encodeCursor } from '../core/cursor.ts'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { previewOf } from '../core/parts.ts'
import { stopTurn } from '../log/stop.ts'
import {
  type Acceptance,
  type Accepted,
  type Allowance,
  findsBudgetAsked,
  type Interrupted,
  type SendRates,
} from '../store/accept.ts'
import { DatabaseError } from '../store/database.ts'
import { type MessagePlace, messagePage, type Pair } from '../store/messages.ts'
import { idSchema, metadataSchema, partSchema, readBody, readQuery } from './body.ts'
import { withinToken } from './events.ts'
import { type FilePlace, filePlaceOf, takeOutFiles } from './files.ts'
import { laneOfMessage } from './lane.ts'
import { Problem } from './problem.ts'
import { rateHeaders, ratesOf, tooManySends } from './rate.ts'
import { type Call, json, jsonText, locationOf, type Route, sessionOf, type Within } from './route.ts'
import { hasOutcome } from './wait.ts'

const contentFields = {
  id: idSchema,
  text: z.string().min(1).optional(),
  parts: z.array(partSchema).min(1).max(limits.partsMax).optional(),
  metadata: metadataSchema.optional(),
}
export const hasEither = (body: { text?: string | undefined; parts?: unknown }) =>
  (body.text === undefined) !== (body.parts === undefined)
export const eitherSentence = 'expected either "text" or "parts"'

/** What a message says, under an id that its client made. */
export const contentSchema = z.strictObject(contentFields).refine(hasEither, eitherSentence)
/** What becomes of a message whose lane is busy. */
export const whenBusySchema = z.enum(['queue', 'interrupt', 'steer', 'reject']).default('queue')
export type WhenBusy = z.infer<typeof whenBusySchema>
export const sendSchema = z
  .strictObject({ ...contentFields, whenBusy: whenBusySchema })
  .refine(hasEither, eitherSentence)

const waitSchema = z.object({ wait: z.coerce.number().min(0).max(limits.longPollMax).default(0) })

async function send(call: Call): Promise<Response> {
  const { wait } = readQuery(call.url, waitSchema)
  const body = await readBody(call.request, sendSchema)
  const taken = await takeMessage(call, body, await ratesOf(call))
  if (taken.outcome === 'rate_limited') return tooManySends(taken.allowance, body.id)
  const { json: data, seq, created, allowance } = taken
  const headers = { ...locationOf(call, sessionOf(call).sessionId), ...rateHeaders(allowance) }
  const answered = await call.parts.waiting.outcome(
    { ...sessionOf(call), messageId: body.id, created },
    withinToken(call, wait * 1_000),
    call.request.signal,
  )
  if (answered) return pairResponse(call, answered, headers, {}, hasOutcome(answered) ? 200 : 202)
  // `data` is the JSON text of {message, reply, turn}: it goes out as it came from the database, with the cursor.
  return jsonText(202, `${data.slice(0, -1)},"cursor":"${cursorAfter(call, seq)}"}`, headers)
}

type Taken =
  /** `created`: null where it was stored before. `json`: the text of `{message, reply, turn}` as they are stored. */
  | {
      outcome: 'taken'
      json: string
      seq: number
      created: { turnId: string; seq: number } | null
      allowance: Allowance | null
    }
  | { outcome: 'rate_limited'; allowance: Allowance }

/**
 * Stores a message, tells of it, and stops what it interrupts. Rejects with a Problem.
 * `lane`: where its files were stored for that already. `mayRefuseBudget`: it is the no to what its lane asks about a budget, if it does.
 */
export async function takeMessage(
  call: Within,
  body: z.infer<typeof sendSchema> & { lane?: string | undefined },
  rates: SendRates,
  mayRefuseBudget = false,
): Promise<Taken> {
  const { id } = body
  if (call.parts.isDraining()) throw new Problem('draining', undefined, { retryAfterMs: 1_000, userMessageId: id })
  const lane = body.lane ?? (await laneOfMessage(call, body))
  const place = { ...sessionOf(call), lane, messageId: id }
  const acceptance = {
    ...place,
    ...(await contentOf(filePlaceOf(call, lane), body)),
    turnId: uuidv7(),
    replyId: uuidv7(),
    expiresMs: call.parts.expiresMs,
    whenBusy: body.whenBusy,
    ...rates,
    refusesBudget: mayRefuseBudget && (await findsBudgetAsked(call.parts.database, place)),
  }
  const accepted = await acceptSurely(call, acceptance)
  await point('accept.answered')
  if (accepted.outcome === 'conflict') {
    throw new Problem('id_conflict', 'This message id was used for another message. Give every message a new id.', {
      userMessageId: id,
    })
  }
  if (accepted.outcome === 'rate_limited') return accepted
  if (accepted.outcome === 'busy') throw new Problem('busy', undefined, { userMessageId: id })
  if (accepted.outcome === 'not_found' || accepted.outcome === 'forbidden') throw new Problem(accepted.outcome)
  if (accepted.outcome === 'created') {
    const { tenantId, sessionId } = acceptance
    call.parts.wakeups.tell({ tenantId, sessionId, events: [accepted.event], runs: [], due: true })
  }
  for (const marked of accepted.interrupted) interrupt(call, marked)
  if (accepted.outcome === 'same') {
    return { outcome: 'taken', json: accepted.json, seq: accepted.seq, created: null, allowance: null }
  }
  const { event, allowance } = accepted
  const created = { turnId: acceptance.turnId, seq: event.seq }
  return { outcome: 'taken', json: event.json, seq: event.seq, created, allowance }
}

/** A message with its reply and turn as they are now, and the cursor from which to follow on. */
export function pairResponse(
  call: Call,
  pair: Pair,
  headers: Record<string, string> = {},
  more: { withdrawn?: boolean } = {},
  status = 200,
): Response {
  return json(status, { ...standOf(call, pair), ...more }, headers)
}

export function standOf(call: Pick<Within, 'parts'>, { message, reply, turn, seq }: Pair) {
  return { message, reply, turn, cursor: cursorAfter(call, seq) }
}

/** From where to follow what comes after an event. */
export function cursorAfter({ parts: { hub } }: Pick<Within, 'parts'>, seq: number): string {
  return encodeCursor({ epoch: hub.epoch(), seq, open: new Map() })
}

/**
 * What a message says, as it is stored, and what a repeated one is compared with. Its files are stored by then. No place:
 * it is nobody's, and may only name files that are elsewhere.
 */
export async function contentOf(
  place: FilePlace | null,
  { text, parts: said, metadata }: z.infer<typeof contentSchema>,
) {
  if (place === null && said?.some((part) => part.type === 'file' && !/^https?:/i.test(part.url))) {
    throw new Problem('invalid_request', '"parts": expected files by an http or https URL.')
  }
  const parts =
    said === undefined ? [{ type: 'text', text: text! }] : place === null ? said : await takeOutFiles(place, said)
  const body = canonicalJson({ parts: parts as Json[], metadata: metadata ?? null })
  return {
    parts: JSON.stringify(parts),
    metadata: metadata === undefined ? null : JSON.stringify(metadata),
    bodyHash: createHash('sha256').update(body).digest('base64url'),
    preview: previewOf(parts as Part[]),
  }
}

/** The turn is marked with the acceptance; completing the stop here makes it quick, and is not what makes it sure. */
function interrupt(call: Within, { messageId, round }: Interrupted): void {
  const { tenantId, sessionId, userId } = sessionOf(call)
  const { database, wakeups } = call.parts
  stopTurn(database, {
    tenantId,
    sessionId,
    messageId,
    by: userId,
    reason: 'interrupted',
    round,
    // It was marked by who had the right to.
    userId: null,
  })
    .then((stopped) => {
      if (stopped.outcome !== 'stopped') return
      wakeups.tell({ tenantId, sessionId, events: [stopped.event], runs: [], due: true })
    })
    // The sweeper completes what is marked.
    .catch(() => undefined)
}

/** After this long the database is not busy but hangs: the client is told, and asks again with the same id. */
const askAgainWithinMs = 3_000

/** An answer that was lost is asked for again, once, with the same ids: the second finds what the first has stored. */
function acceptSurely({ parts: { acceptor } }: Within, acceptance: Acceptance): Promise<Accepted> {
  return surely(() => acceptor.accept(acceptance))
}

export async function surely<T>(ask: () => Promise<T>): Promise<T> {
  const sinceMs = performance.now()
  try {
    return await ask()
  } catch (error) {
    const mayPass = error instanceof DatabaseError && (error.kind === 'unknown' || error.kind === 'conflict')
    if (!mayPass || performance.now() - sinceMs > askAgainWithinMs) throw error
    return await ask()
  }
}

export const historySchema = z
  .object({
    limit: z.coerce.number().int().min(1).max(limits.messagePageMax).default(limits.messagePageDefault),
    before: z.string().optional(),
    after: z.string().optional(),
  })
  .refine((query) => query.before === undefined || query.after === undefined, 'expected "before" or "after", not both')

async function history(call: Call): Promise<Response> {
  return json(200, await historyPage(call, readQuery(call.url, historySchema)))
}

export async function historyPage(
  call: Within<string | null>,
  { limit, before, after }: z.infer<typeof historySchema>,
) {
  const from =
    before !== undefined
      ? { side: 'before' as const, place: placeOf(before) }
      : after !== undefined
        ? { side: 'after' as const, place: placeOf(after) }
        : null
  const page = await messagePage(call.parts.database, { ...sessionOf(call), limit, from })
  return {
    data: page.messages,
    before: page.before && placeText(page.before),
    after: page.after && placeText(page.after),
  }
}

/** A place in a session's messages, as pages give it: opaque to clients. */
export function placeText({ position, role }: MessagePlace): string {
  return `${position}${role === 'user' ? 'u' : 'a'}`
}

function placeOf(text: string): MessagePlace {
  const [, position, role] = /^(-?\d{1,10})([ua])$/.exec(text) ?? []
  if (position === undefined) throw new Problem('bad_cursor', 'This is no place that a page of messages gave.')
  return { position: Number(position), role: role === 'u' ? 'user' : 'assistant' }
}

export const messageRoutes: Route[] = [
  {
    name: 'messages.send',
    method: 'POST',
    path: '/v1/sessions/:sessionId/messages',
    right: 'write',
    judgedBy: 'statement',
    asksForReply: true,
    overSocket: true,
    handle: send,
  },
  {
    name: 'messages.list',
    method: 'GET',
    path: '/v1/sessions/:sessionId/messages',
    right: 'read',
    judgedBy: 'route',
    handle: history,
  },
]
