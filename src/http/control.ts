/** Control over what was sent: retry, stop, edit, regenerate, and which branch is shown. Each may be repeated. */
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import type { Event } from '../core/event.ts'
import { limits } from '../core/limits.ts'
import { stopTurn } from '../log/stop.ts'
import type { Allowance } from '../store/accept.ts'
import { type Controlled, edit, type MessageKey, regenerate, retry, selectBranch } from '../store/control.ts'
import { messagePair, type Pair } from '../store/messages.ts'
import { saidMessage } from '../store/say.ts'
import { idSchema, readBody } from './body.ts'
import { filePlaceOf } from './files.ts'
import { contentOf, contentSchema, cursorAfter, pairResponse } from './messages.ts'
import { Problem } from './problem.ts'
import { rateHeaders, ratesOf, tooManySends } from './rate.ts'
import { type Call, json, type Route, sessionOf, type Within } from './route.ts'

/** No larger than the database's `int`. */
const roundSchema = z.strictObject({ round: z.number().int().min(1).max(2_147_483_647).optional() })
const newIdSchema = z.strictObject({ id: idSchema })
const nothingSchema = z.strictObject({})

async function retryRoute(call: Call): Promise<Response> {
  const { round = null } = await readBody(call.request, roundSchema)
  const done = await retryTurn(call, call.params.messageId!, round)
  return 'refused' in done ? done.refused : pairResponse(call, done.pair, done.headers)
}

export async function retryTurn(
  call: Within<string | null>,
  messageId: string,
  round: number | null,
): Promise<StateAfter> {
  const key = { ...sessionOf(call), messageId }
  const ask = { round, replyId: uuidv7(), ...(await roundOf(call)) }
  return await stateAfter(call, await retry(call.parts.database, key, ask), messageId)
}

async function stopRoute(call: Call): Promise<Response> {
  const { round = null } = await readBody(call.request, roundSchema)
  const { userId, messageId } = keyOf(call)
  const { pair, withdrawn } = await stopReply(call, messageId, { by: userId, reason: null, round })
  return pairResponse(call, pair, {}, { withdrawn })
}

export async function stopReply(
  call: Within<string | null>,
  messageId: string,
  ask: { by: string; reason: string | null; round: number | null },
): Promise<{ pair: Pair; withdrawn: boolean }> {
  const session = sessionOf(call)
  const stopped = await stopTurn(call.parts.database, { ...session, messageId, ...ask })
  if (stopped.outcome === 'not_found' || stopped.outcome === 'forbidden') throw new Problem(stopped.outcome)
  if (stopped.outcome === 'stopped') tell(call, stopped.event)
  const pair = await pairNow(call, messageId)
  // Its text is given back to who wrote it, and to nobody else, whoever asks and however often.
  return { pair, withdrawn: pair.withdrawn && pair.message.author === session.userId }
}

async function editRoute(call: Call): Promise<Response> {
  const body = await readBody(call.request, contentSchema)
  // In the lane that its message has, whatever the app says by now.
  const { tenantId, sessionId, userId, messageId } = keyOf(call)
  const pair = await messagePair(call.parts.database, tenantId, sessionId, messageId, userId)
  if (pair === null) throw new Problem('not_found')
  const content = await contentOf(filePlaceOf(call, pair.message.lane), body)
  const { expiresMs } = call.parts
  const ask = { ...content, id: body.id, turnId: uuidv7(), replyId: uuidv7(), expiresMs, ...(await ratesOf(call)) }
  const edited = await edit(call.parts.database, keyOf(call), ask)
  return await told(call, edited, edited.messageId ?? call.params.messageId!)
}

async function regenerateRoute(call: Call): Promise<Response> {
  const { id } = await readBody(call.request, newIdSchema)
  const ask = { replyId: id, ...(await roundOf(call)) }
  return await told(call, await regenerate(call.parts.database, keyOf(call), ask), call.params.messageId!)
}

async function selectRoute(call: Call): Promise<Response> {
  await readBody(call.request, nothingSchema)
  const key = keyOf(call)
  const selected = await selectBranch(call.parts.database, key)
  const isThere = selected.outcome === 'done' || selected.outcome === 'same'
  const said = isThere ? await saidMessage(call.parts.database, key) : null
  if (said === null) return await told(call, selected, key.messageId)
  if (selected.outcome === 'done') tell(call, selected.event)
  return json(200, { message: said.message, reply: null, turn: null, cursor: cursorAfter(call, said.seq) })
}

/** What a new round may be. */
export async function roundOf(call: Within<string | null>) {
  const { roundsMax, expiresMs } = call.parts
  return { roundsMax, expiresMs, ...(await ratesOf(call)) }
}

function keyOf(call: Call): MessageKey {
  return { ...sessionOf(call), messageId: call.params.messageId! }
}

type Outcome =
  | ('same' | 'busy' | 'rounds' | 'edits' | 'conflict')
  | ('another_author' | 'forbidden' | 'rate_limited' | 'gone' | 'not_found')
type Told = Controlled<Outcome> & { allowance?: Allowance | null }

async function told(call: Call, answer: Told, messageId: string): Promise<Response> {
  const done = await stateAfter(call, answer, messageId)
  return 'refused' in done ? done.refused : pairResponse(call, done.pair, done.headers)
}

export type StateAfter = { pair: Pair; headers: Record<string, string> } | { refused: Response }

/** How the message stands after a command on it. Throws the `Problem` of a command that was refused. */
export async function stateAfter(call: Within<string | null>, answer: Told, messageId: string): Promise<StateAfter> {
  switch (answer.outcome) {
    case 'done':
      tell(call, answer.event)
      return { pair: await pairNow(call, messageId), headers: rateHeaders(answer.allowance) }
    case 'same':
      return { pair: await pairNow(call, messageId), headers: {} }
    case 'busy':
      throw new Problem('busy', 'A reply in this branch is still being written. Stop it first, then ask again.')
    case 'rounds':
      throw new Problem(
        'budget_exceeded',
        `A message is answered at most ${call.parts.roundsMax} times. Send it as a new one.`,
        { retryable: false },
      )
    case 'edits':
      throw new Problem(
        'budget_exceeded',
        `A message that waits is changed at most ${limits.editsMax} times. Stop it, then send it as a new one.`,
        { retryable: false },
      )
    case 'rate_limited':
      return { refused: tooManySends(answer.allowance!, messageId) }
    case 'conflict':
      throw new Problem('id_conflict', 'This id was used for another message. Give every message a new id.')
    case 'gone':
      throw new Problem('gone', 'This message was withdrawn or answered within another reply. Send it as a new one.')
    case 'another_author':
      throw new Problem('forbidden', 'Only who wrote a message may edit it.')
    case 'forbidden':
    case 'not_found':
      throw new Problem(answer.outcome)
  }
}

export function tell(call: Within<string | null>, event: Event): void {
  const { tenantId, sessionId } = sessionOf(call)
  call.parts.wakeups.tell({ tenantId, sessionId, events: [event], runs: [], due: true })
}

/** What is stored now, whoever changed it: so a repeated command, and one that came too late, see what won. */
export async function pairNow(call: Within<string | null>, messageId: string): Promise<Pair> {
  const { tenantId, sessionId, userId } = sessionOf(call)
  const pair = await messagePair(call.parts.database, tenantId, sessionId, messageId, userId)
  if (pair === null) throw new Problem('not_found')
  return pair
}

const command = (name: string, handle: Route['handle'], more: Pick<Route, 'asksForReply'> = {}): Route => ({
  name: `messages.${name}`,
  method: 'POST',
  path: `/v1/sessions/:sessionId/messages/:messageId/${name}`,
  right: 'write',
  judgedBy: 'route',
  overSocket: true,
  handle,
  ...more,
})

export const controlRoutes: Route[] = [
  command('retry', retryRoute, { asksForReply: true }),
  command('stop', stopRoute),
  command('edit', editRoute, { asksForReply: true }),
  command('regenerate', regenerateRoute, { asksForReply: true }),
  command('select', selectRoute),
]
