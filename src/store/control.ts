/** Control over turns: a new round, another branch, another text, handing a message to the turn that runs. */
import type { Event } from '../core/event.ts'
import type { JsonObject } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { type Allowance, rated, type SendRates } from './accept.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'

/** A message of a session, and who asks: whether they may is judged under the lock. */
export type MessageKey = { tenantId: string; sessionId: string; userId: string; messageId: string }
/** Null: the operator or the server itself, who see all and are counted nowhere. */
export type RetryKey = Omit<MessageKey, 'userId'> & { userId: string | null }

/**
 * `done`: it has changed something, and this is what was written. Every other outcome has changed nothing. `allowance`: what
 * is left to who asked, where it was counted as a send or would have been one too many (`rate_limited`).
 */
export type Controlled<Outcome extends string> = { outcome: 'done'; event: Event } | { outcome: Outcome }

/** Of every command. */
type Refused = 'not_found' | 'forbidden'

type Answer = { outcome: string; event?: EventJson; messageId?: string; allowance?: Allowance | null }

const doing = new Set(['queued', 'changed', 'created', 'selected'])

async function controlled<Outcome extends string>(
  database: Database,
  statement: Statement,
  values: unknown[],
): Promise<Controlled<Outcome | Refused> & Pick<Answer, 'messageId' | 'allowance'>> {
  const { outcome, event, ...more } = (await database.query<{ answer: Answer }>('accept', statement, values))[0]!.answer
  if (doing.has(outcome)) return { outcome: 'done', event: eventOf(event!), ...more }
  return { outcome: outcome as Outcome, ...more }
}

const keyed = ({ tenantId, sessionId, userId, messageId }: RetryKey) => [tenantId, sessionId, userId, messageId]

const retryStatement: Statement = {
  name: 'retry',
  text: 'select holdfast.retry($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb) as answer',
}

/** A new round of a turn that failed or was stopped. `round`: only of that one. With no user it is the server that asks. */
export function retry(
  database: Database,
  key: RetryKey,
  ask: { round: number | null; replyId: string; roundsMax: number; expiresMs: number } & SendRates,
) {
  const values = [...keyed(key), ask.round, ask.replyId, ask.roundsMax, ask.expiresMs, ...rated(ask)]
  return controlled<'same' | 'rounds' | 'rate_limited' | 'gone'>(database, retryStatement, values)
}

const regenerateStatement: Statement = {
  name: 'regenerate',
  text: 'select holdfast.regenerate($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb) as answer',
}

/** Another reply beside the one that is there. `replyId` is the client's: asked again it finds what it made. */
export function regenerate(
  database: Database,
  key: MessageKey,
  ask: { replyId: string; roundsMax: number; expiresMs: number } & SendRates,
) {
  const values = [...keyed(key), ask.replyId, ask.roundsMax, ask.expiresMs, ...rated(ask)]
  return controlled<'same' | 'busy' | 'rounds' | 'conflict' | 'rate_limited' | 'gone'>(
    database,
    regenerateStatement,
    values,
  )
}

const editStatement: Statement = {
  name: 'edit',
  text: 'select holdfast.edit($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9::jsonb, $10, $11, $12, $13, $14, $15::jsonb) as answer',
}

/**
 * Another text for a message: in its place while nobody has begun to answer it, `limits.editsMax` times at most, else as a new
 * message with `id`, which begins a branch of its own. `messageId` of the answer: the message that has the text now.
 */
export function edit(
  database: Database,
  key: MessageKey,
  ask: {
    id: string
    turnId: string
    replyId: string
    parts: string
    metadata: string | null
    bodyHash: string
    preview: string | null
    expiresMs: number
  } & SendRates,
) {
  const { id, turnId, replyId, parts, metadata, bodyHash, preview, expiresMs } = ask
  const content = [id, turnId, replyId, parts, metadata, bodyHash, preview]
  const values = [...keyed(key), ...content, expiresMs, limits.editsMax, ...rated(ask)]
  return controlled<'same' | 'busy' | 'conflict' | 'another_author' | 'edits' | 'rate_limited' | 'gone'>(
    database,
    editStatement,
    values,
  )
}

const selectStatement: Statement = {
  name: 'select-branch',
  text: 'select holdfast.select_branch($1, $2, $3, $4) as answer',
}

/** Shows the branch that a message is in. */
export function selectBranch(database: Database, key: MessageKey) {
  return controlled<'same'>(database, selectStatement, keyed(key))
}

const steerStatement: Statement = {
  name: 'take-steering',
  text: 'select holdfast.take_steering($1, $2, $3, $4) as answer',
}

export type Steering = {
  /** All that were handed to this round so far, in order. */
  messages: { id: string; parts: { type: string }[]; metadata: JsonObject | null }[]
  events: Event[]
}

/** Hands messages that were sent to steer it to an attempt that holds its turn. */
export async function takeSteeringIfHeld(
  database: Database,
  key: { tenantId: string; sessionId: string; turnId: string; attempt: number },
): Promise<Steering> {
  type Row = { answer: { messages: Steering['messages']; events: EventJson[] } }
  const values = [key.tenantId, key.sessionId, key.turnId, key.attempt]
  const { messages, events } = (await database.query<Row>('turns', steerStatement, values))[0]!.answer
  return { messages, events: events.map(eventOf) }
}
