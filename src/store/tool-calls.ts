/** Tool calls: the intent before a call runs, its result after. Both are fenced, and move the turn's checkpoint on. */
import type { Json } from '../core/json.ts'
import type { Database, Statement } from './database.ts'
import type { AttemptKey, Checkpoint } from './turns.ts'

/** Names a call within its turn's round: `step` is how many steps were finished before the one that it is of. */
export type CallKey = AttemptKey & { step: number; callId: string }

export type CallBegun =
  /** To be run now. `isFirst`: nobody has begun it before, this attempt by a question whose answer was lost included. */
  | { outcome: 'begun'; isFirst: boolean }
  /** What came of it in an earlier attempt: it does not run. */
  | { outcome: 'done' | 'failed'; output: Json }
  /** An earlier attempt began it, and nobody knows whether it ran. */
  | { outcome: 'uncertain' }
  /** A person was asked about it and has not approved it, or not with this input. */
  | { outcome: 'refused' }
  | { outcome: 'lost' }

const begin: Statement = {
  name: 'begin-call',
  text: 'select holdfast.begin_call($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::json) as answer',
}

/** `again`: one that is uncertain may run once more. May be asked again when its answer was lost. */
export async function beginCallIfHeld(
  database: Database,
  { step, callId, ...key }: CallKey,
  call: { name: string; inputHash: string; again: boolean; leaseMs: number },
  checkpoint: Checkpoint,
): Promise<CallBegun> {
  const rows = await database.query<{ answer: CallBegun }>('turns', begin, [
    ...placeOf(key, step, callId),
    call.name,
    call.inputHash,
    call.again,
    call.leaseMs,
    JSON.stringify(checkpoint),
  ])
  return rows[0]!.answer
}

const takeBack: Statement = {
  name: 'take-back-call',
  text: `
    with held as materialized (
      select round from holdfast.turns where tenant_id = $1 and session_id = $2 and id = $3 and attempt = $4
        and state = 'running' and stopping is null for no key update)
    delete from holdfast.tool_calls c using held
     where c.tenant_id = $1 and c.turn_id = $3 and c.round = held.round and c.attempt = $4 and c.step = $5
       and c.call_id = $6 and c.state = 'begun'`,
}

/** Of a call that this attempt has begun first, and surely not run: it counts as not begun. */
export async function takeBackCallIfHeld(database: Database, { step, callId, ...key }: CallKey): Promise<void> {
  await database.query('turns', takeBack, placeOf(key, step, callId))
}

const findUncertain: Statement = {
  name: 'find-uncertain-calls',
  text: `
    select c.call_id as "callId", c.input_hash as "inputHash"
      from holdfast.turns t
      join holdfast.tool_calls c on c.tenant_id = t.tenant_id and c.turn_id = t.id and c.round = t.round
     where t.tenant_id = $1 and t.session_id = $2 and t.id = $3 and c.attempt < $4 and c.step = $5 and c.state = 'begun'
       and holdfast.may_run_again(c) is null
     order by c.begun_at`,
}

/** Calls of a step that earlier attempts began, without a result and without a person's word. */
export function uncertainCalls(
  database: Database,
  { tenantId, sessionId, turnId, attempt }: AttemptKey,
  step: number,
): Promise<{ callId: string; inputHash: string }[]> {
  return database.query('read', findUncertain, [tenantId, sessionId, turnId, attempt, step])
}

const end: Statement = {
  name: 'end-call',
  text: 'select holdfast.end_call($1, $2, $3, $4, $5, $6, $7, $8::json, $9::json, $10) as answer',
}

/** `output`: of one that failed, the text of its error. `nextStep`: the model may be called next, as this step of the attempt. */
export async function endCallIfHeld(
  database: Database,
  { step, callId, ...key }: CallKey,
  ended: { state: 'done' | 'failed'; output: Json },
  checkpoint: Checkpoint,
  nextStep: number | null = null,
): Promise<'stored' | 'lost'> {
  const rows = await database.query<{ answer: { outcome: 'stored' | 'lost' } }>('turns', end, [
    ...placeOf(key, step, callId),
    ended.state,
    JSON.stringify(ended.output),
    JSON.stringify(checkpoint),
    nextStep,
  ])
  return rows[0]!.answer.outcome
}

function placeOf({ tenantId, sessionId, turnId, attempt }: AttemptKey, step: number, callId: string): unknown[] {
  return [tenantId, sessionId, turnId, attempt, step, callId]
}
