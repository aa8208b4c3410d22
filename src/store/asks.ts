/** Questions of a turn that waits for people: asked at the end of an attempt, answered once, or by nobody in time. */
import type { Ask, expiredAnswers } from '../core/asks.ts'
import type { Event } from '../core/event.ts'
import type { Json } from '../core/json.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'
import {
  type AttemptKey,
  type Checkpoint,
  type Ended,
  type EndedJson,
  ended,
  type StepReport,
  usageJson,
} from './turns.ts'

const waitStatement: Statement = {
  name: 'wait',
  text: 'select holdfast.wait($1, $2, $3, $4, $5, $6::json, $7, $8::json, $9, $10, $11::json) as answer',
}

/** Ends the attempt with questions, if it is still the turn's and the log holds all `nextIndex` chunks of it. */
export async function waitIfHeld(
  database: Database,
  { tenantId, sessionId, turnId, attempt }: AttemptKey,
  asked: {
    nextIndex: number
    checkpoint: Checkpoint
    model: string | null
    asks: (Omit<Ask, 'input'> & { inputHash: string })[]
    expiresMs: number
    holdsLane: boolean
  },
  usage: StepReport[],
): Promise<Ended> {
  const rows = await database.query<{ answer: EndedJson }>('turns', waitStatement, [
    tenantId,
    sessionId,
    turnId,
    attempt,
    asked.nextIndex,
    JSON.stringify(asked.checkpoint),
    asked.model,
    JSON.stringify(asked.asks),
    asked.expiresMs,
    asked.holdsLane,
    usageJson(usage),
  ])
  return ended(rows[0]!.answer)
}

/** What a person said, or their device: yes or no to any question that has these, or for a call of a client's tool. */
export type Answer =
  | { kind: 'approval'; id: string; answer: { approved: boolean; reason?: string } }
  | { kind: 'tool'; id: string; answer: { output: Json } | { errorText: string } }

export type Answered =
  | { outcome: 'answered'; messageId: string; event: Event }
  /** `not_waiting`: something else was answered first, or nobody is asked any more. */
  | { outcome: 'same' | 'not_waiting'; messageId: string }
  | { outcome: 'not_found' | 'forbidden' }

const answerStatement: Statement = {
  name: 'answer-ask',
  text: 'select holdfast.answer_ask($1, $2, $3, $4, $5, $6, $7::jsonb, $8) as answer',
}

/** May be asked again when its answer was lost. `userId` null: the server. `turnId`: only that turn's question. */
export async function answerAsk(
  database: Database,
  { tenantId, sessionId, userId }: { tenantId: string; sessionId: string; userId: string | null },
  { kind, id, answer }: Answer,
  { turnId, by }: { turnId: string | null; by: string },
): Promise<Answered> {
  type Row = { answer: { outcome: Answered['outcome']; messageId: string; event: EventJson } }
  const values = [tenantId, sessionId, userId, kind, id, turnId, JSON.stringify(answer), by]
  const { outcome, messageId, event } = (await database.query<Row>('accept', answerStatement, values))[0]!.answer
  if (outcome === 'answered') return { outcome, messageId, event: eventOf(event) }
  return outcome === 'same' || outcome === 'not_waiting' ? { outcome, messageId } : { outcome }
}

const findStatement: Statement = {
  name: 'find-asks',
  text: `
    select distinct on (x.ord) (x.ord - 1)::int as at, a.turn_id as "turnId", t.message_id as "messageId", a.seq, a.state, a.answer
      from unnest($4::text[], $5::text[], $6::text[]) with ordinality x(kind, id, reply, ord)
      join holdfast.asks a on a.tenant_id = $1 and a.session_id = $2 and a.id = x.id and (a.kind = 'tool') = (x.kind = 'tool')
      join holdfast.turns t on t.tenant_id = a.tenant_id and t.id = a.turn_id and t.round = a.round and t.reply_id = x.reply
        and holdfast.may_see(t.audience, $3)
     where exists (select from holdfast.members m where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $3)
     order by x.ord, a.seq desc`,
}

/** `at`: of which of the answers. `seq`: of the `turn.waiting` that asked. */
export type FoundAsk = {
  at: number
  turnId: string
  messageId: string
  seq: number
  state: 'open' | 'answered' | 'expired' | 'closed'
  answer: Json
}

/** The questions of replies as they are now that these are answers to, as far as the user may see. */
export function findAsks(
  database: Database,
  { tenantId, sessionId, userId }: { tenantId: string; sessionId: string; userId: string },
  answers: readonly (Pick<Answer, 'kind' | 'id'> & { replyId: string })[],
): Promise<FoundAsk[]> {
  return database.query('read', findStatement, [
    tenantId,
    sessionId,
    userId,
    answers.map(({ kind }) => kind),
    answers.map(({ id }) => id),
    answers.map(({ replyId }) => replyId),
  ])
}

const expireStatement: Statement = {
  name: 'expire-asks',
  text: 'select holdfast.expire_asks($1, $2::jsonb, $3::jsonb) as row',
}

/** Answers what nobody has answered in time. */
export async function expireAsks(
  database: Database,
  limit: number,
  { approval, tool }: typeof expiredAnswers,
): Promise<{ tenantId: string; sessionId: string; event: Event }[]> {
  type Row = { row: { tenantId: string; sessionId: string; event: EventJson } }
  const values = [limit, JSON.stringify(approval), JSON.stringify(tool)]
  const rows = await database.query<Row>('turns', expireStatement, values)
  return rows.map(({ row }) => ({ ...row, event: eventOf(row.event) }))
}
