/** Questions of a turn that waits for people: asked at the end of an attempt, answered once, or by nobody in time. */
import type { Ask, Budget, expiredAnswers } from '../core/asks.ts'
import type { Part } from '../core/chunk.ts'
import type { Event } from '../core/event.ts'
import type { Json } from '../core/json.ts'
import type { Allowance } from './accept.ts'
import type { Rule } from './budgets.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'
import {
  type AttemptKey,
  type BadRow,
  type Checkpoint,
  type Ended,
  type EndedJson,
  type ExpiredRow,
  ended,
  expiredRows,
  type Failing,
  type StepReport,
  usageJson,
} from './turns.ts'

const waitStatement: Statement = {
  name: 'wait',
  text: 'select holdfast.wait($1, $2, $3, $4, $5, $6::json, $7, $8::json, $9, $10, $11::json, $12::jsonb) as answer',
}

/** As it is stored. One about a budget is of no call. */
export type StoredAsk =
  | (Omit<Ask, 'input'> & { inputHash: string })
  | { kind: 'budget'; id: string; callId: ''; name: string; inputHash: ''; used: number; max: number; rule?: Rule }

export type Waiting = {
  nextIndex: number
  /** Null: the one that is stored stays. */
  checkpoint: Checkpoint | null
  /** What is shown, where that is not what the checkpoint holds. */
  shown?: Part[]
  model: string | null
  asks: StoredAsk[]
  expiresMs: number
  holdsLane: boolean
}

/** Ends the attempt with questions, if it is still the turn's and the log holds all `nextIndex` chunks of it. */
export async function waitIfHeld(
  database: Database,
  { tenantId, sessionId, turnId, attempt }: AttemptKey,
  asked: Waiting,
  usage: StepReport[],
): Promise<Ended> {
  const rows = await database.query<{ answer: EndedJson }>('turns', waitStatement, [
    tenantId,
    sessionId,
    turnId,
    attempt,
    asked.nextIndex,
    asked.checkpoint && JSON.stringify(asked.checkpoint),
    asked.model,
    JSON.stringify(asked.asks),
    asked.expiresMs,
    asked.holdsLane,
    usageJson(usage),
    asked.shown ? JSON.stringify(asked.shown) : null,
  ])
  return ended(rows[0]!.answer)
}

/** What a person said, or their device: yes or no to any question that has these, or for a call of a client's tool. */
export type Answer =
  | { kind: 'approval'; id: string; answer: { approved: boolean; reason?: string } }
  | { kind: 'tool'; id: string; answer: { output: Json } | { errorText: string } }

export type Answered =
  /** `allowance`: null where it was not counted as a send. */
  | { outcome: 'answered'; messageId: string; event: Event; allowance: Allowance | null }
  /** It would have let the reply go on beyond a budget, which counts as one. */
  | { outcome: 'rate_limited'; messageId: string; allowance: Allowance }
  /** `not_waiting`: something else was answered first, or nobody is asked any more. */
  | { outcome: 'same' | 'not_waiting'; messageId: string }
  | { outcome: 'not_found' }
  /** `mayGoOn`: who may, where it is to go on beyond a budget. */
  | { outcome: 'forbidden'; mayGoOn?: Rule['mayGoOn'] }

const answerStatement: Statement = {
  name: 'answer-ask',
  text: 'select holdfast.answer_ask($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10) as answer',
}

/**
 * May be asked again when its answer was lost. `userId` null: the server. `turnId`, `attempt`: only what that one asked.
 * `sendsMax`: as in `Acceptance`; defaults to 0.
 */
export async function answerAsk(
  database: Database,
  { tenantId, sessionId, userId }: { tenantId: string; sessionId: string; userId: string | null },
  { kind, id, answer }: Answer,
  {
    turnId,
    attempt = null,
    by,
    sendsMax = 0,
  }: { turnId: string | null; attempt?: number | null; by: string; sendsMax?: number },
): Promise<Answered> {
  type Told = { messageId: string; event: EventJson; allowance: Allowance | null; mayGoOn?: Rule['mayGoOn'] }
  type Row = { answer: { outcome: Answered['outcome'] } & Told }
  const values = [tenantId, sessionId, userId, kind, id, turnId, attempt, JSON.stringify(answer), by, sendsMax]
  const { outcome, messageId, event, allowance, ...who } = (
    await database.query<Row>('accept', answerStatement, values)
  )[0]!.answer
  if (outcome === 'answered') return { outcome, messageId, event: eventOf(event), allowance }
  if (outcome === 'rate_limited') return { outcome, messageId, allowance: allowance! }
  if (outcome === 'forbidden') return { outcome, ...who }
  return outcome === 'same' || outcome === 'not_waiting' ? { outcome, messageId } : { outcome }
}

const askColumns = `a.kind, a.id, a.call_id as "callId", t.reply_id as "replyId", a.turn_id as "turnId",
      t.message_id as "messageId", a.attempt, a.seq, a.state, a.answer`
const maySee = `holdfast.may_see(t.audience, $3)
       and exists (select from holdfast.members m where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $3)`

const openStatement: Statement = {
  name: 'open-asks',
  text: `
    select ${askColumns},
        (select count(*)::int from jsonb_array_elements(r.parts) p where p ->> 'type' = 'step-start') as steps
      from holdfast.turns t
      join holdfast.asks a on a.tenant_id = t.tenant_id and a.turn_id = t.id and a.round = t.round and a.state = 'open'
      join holdfast.messages r on r.tenant_id = t.tenant_id and r.session_id = t.session_id and r.id = t.reply_id
     where t.tenant_id = $1 and t.session_id = $2 and t.state = 'waiting' and ${maySee}
     order by a.seq, a.call_id`,
}

const closedStatement: Statement = {
  name: 'closed-asks',
  text: `
    select distinct on (a.kind = 'tool', a.id) ${askColumns}
      from holdfast.messages r
      join holdfast.turns t on t.tenant_id = r.tenant_id and t.session_id = r.session_id and t.message_id = r.replies_to
        and t.reply_id = r.id
      join holdfast.asks a on a.tenant_id = t.tenant_id and a.turn_id = t.id and a.round = t.round and a.state <> 'open'
     where r.tenant_id = $1 and r.session_id = $2 and r.id = $4 and ${maySee}
     order by a.kind = 'tool', a.id, (a.step + 1 = $5) desc, a.seq desc`,
}

/** `attempt`, `seq`: of the `turn.waiting` that asked. */
export type FoundAsk = {
  kind: Ask['kind']
  id: string
  callId: string
  replyId: string
  turnId: string
  messageId: string
  attempt: number
  seq: number
  state: 'open' | 'answered' | 'expired' | 'closed'
  answer: Json
}
/** `steps`: as many the reply has marked so far. */
export type OpenAsk = FoundAsk & { steps: number }
type Reader = { tenantId: string; sessionId: string; userId: string }

/** What is asked in the session now, as far as the user may see. */
export function openAsks(database: Database, { tenantId, sessionId, userId }: Reader): Promise<OpenAsk[]> {
  return database.query('read', openStatement, [tenantId, sessionId, userId])
}

/** What this reply has asked and nobody is asked any more; of those with one id that of this step (1, 2…), else the latest. */
export function closedAsks(
  database: Database,
  { tenantId, sessionId, userId }: Reader,
  { replyId, step }: { replyId: string; step: number },
): Promise<FoundAsk[]> {
  return database.query('read', closedStatement, [tenantId, sessionId, userId, replyId, step])
}

const expireStatement: Statement = {
  name: 'expire-asks',
  text: 'select holdfast.expire_asks($1, $2::jsonb, $3::jsonb, $4::jsonb) as row',
}

/** Answers what nobody has answered in time; where that was about a budget, the turn fails. */
export async function expireAsks(
  database: Database,
  limit: number,
  { approval, tool }: typeof expiredAnswers,
  failures: Record<Exclude<Budget['budget'], 'limit'>, Failing>,
  onBad?: (bad: BadRow) => void,
): Promise<ExpiredRow[]> {
  const values = [limit, JSON.stringify(approval), JSON.stringify(tool), JSON.stringify(failures)]
  return expiredRows(await database.query('turns', expireStatement, values), onBad)
}
