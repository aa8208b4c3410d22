/** Control over what was sent: retry, stop, edit, regenerate, and which branch is shown. Each may be repeated. */
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import type { Event } from '../core/event.ts'
import { stopTurn } from '../log/stop.ts'
import type { Allowance } from '../store/accept.ts'
import { type Controlled, edit, type MessageKey, regenerate, retry, selectBranch } from '../store/control.ts'
import { messagePair } from '../store/messages.ts'
import { idSchema, readBody } from './body.ts'
import { contentOf, contentSchema, pairResponse } from './messages.ts'
import { Problem } from './problem.ts'
import { tooManySends } from './rate.ts'
import { type Call, type Route, sessionOf } from './route.ts'

const roundSchema = z.strictObject({ round: z.number().int().min(1).optional() })
const newIdSchema = z.strictObject({ id: idSchema })
const nothingSchema = z.strictObject({})

async function retryRoute(call: Call): Promise<Response> {
  const { round = null } = await readBody(call.request, roundSchema)
  const { roundsMax, expiresMs } = call.parts
  const ask = { round, replyId: uuidv7(), roundsMax, expiresMs }
  return await told(call, await retry(call.parts.database, keyOf(call), ask), call.params.messageId!)
}

async function stopRoute(call: Call): Promise<Response> {
  const { round = null } = await readBody(call.request, roundSchema)
  const { tenantId, sessionId, userId, messageId } = keyOf(call)
  const ask = { tenantId, sessionId, messageId, by: userId, reason: null, round, withdraws: true }
  const stopped = await stopTurn(call.parts.database, ask)
  if (stopped.outcome === 'not_found') throw new Problem('not_found')
  if (stopped.outcome === 'stopped') tell(call, stopped.event)
  return await stateNow(call, messageId)
}

async function editRoute(call: Call): Promise<Response> {
  const body = await readBody(call.request, contentSchema)
  const content = contentOf(body)
  const { expiresMs, sendsPerMinute: sendsMax } = call.parts
  const ask = { ...content, id: body.id, turnId: uuidv7(), replyId: uuidv7(), expiresMs, sendsMax }
  const edited = await edit(call.parts.database, keyOf(call), ask)
  return await told(call, edited, edited.messageId ?? call.params.messageId!)
}

async function regenerateRoute(call: Call): Promise<Response> {
  const { id } = await readBody(call.request, newIdSchema)
  const { roundsMax, expiresMs } = call.parts
  const ask = { replyId: id, roundsMax, expiresMs }
  return await told(call, await regenerate(call.parts.database, keyOf(call), ask), call.params.messageId!)
}

async function selectRoute(call: Call): Promise<Response> {
  await readBody(call.request, nothingSchema)
  return await told(call, await selectBranch(call.parts.database, keyOf(call)), call.params.messageId!)
}

function keyOf(call: Call): MessageKey {
  return { ...sessionOf(call), messageId: call.params.messageId! }
}

type Outcome = 'same' | 'busy' | 'rounds' | 'conflict' | 'forbidden' | 'rate_limited' | 'gone' | 'not_found'
type Told = Controlled<Outcome> & { allowance?: Allowance }

async function told(call: Call, answer: Told, messageId: string): Promise<Response> {
  switch (answer.outcome) {
    case 'done':
      tell(call, answer.event)
      return await stateNow(call, messageId)
    case 'same':
      return await stateNow(call, messageId)
    case 'busy':
      throw new Problem('busy', 'A reply in this branch is still being written. Stop it first, then ask again.')
    case 'rounds':
      throw new Problem(
        'budget_exceeded',
        `A message is answered at most ${call.parts.roundsMax} times. Send it as a new one.`,
      )
    case 'rate_limited':
      return tooManySends(answer.allowance!, messageId)
    case 'conflict':
      throw new Problem('id_conflict', 'This id was used for another message. Give every message a new id.')
    case 'gone':
      throw new Problem('gone', 'This message was withdrawn or answered within another reply. Send it as a new one.')
    case 'forbidden':
      throw new Problem('forbidden', 'Only who wrote a message may edit it.')
    case 'not_found':
      throw new Problem('not_found')
  }
}

function tell(call: Call, event: Event): void {
  const { tenantId, sessionId } = sessionOf(call)
  call.parts.wakeups.tell({ tenantId, sessionId, events: [event], runs: [], due: true })
}

/** What is stored now, whoever changed it: so a repeated command, and one that came too late, see what won. */
async function stateNow(call: Call, messageId: string): Promise<Response> {
  const { tenantId, sessionId } = sessionOf(call)
  const pair = await messagePair(call.parts.database, tenantId, sessionId, messageId)
  if (pair === null) throw new Problem('not_found')
  return pairResponse(call, pair)
}

const command = (name: string, handle: Route['handle']): Route => ({
  name: `messages.${name}`,
  method: 'POST',
  path: `/v1/sessions/:sessionId/messages/:messageId/${name}`,
  right: 'write',
  judgedBy: 'route',
  handle,
})

export const controlRoutes: Route[] = [
  command('retry', retryRoute),
  command('stop', stopRoute),
  command('edit', editRoute),
  command('regenerate', regenerateRoute),
  command('select', selectRoute),
]
