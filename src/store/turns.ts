/** Transitions of a turn after it was accepted. Each is one call of a function in `sql/`; its answer is a value. */

import type { Part } from '../core/chunk.ts'
import { type Failure, inLastRound } from '../core/errors.ts'
import type { Event } from '../core/event.ts'
import type { JsonObject } from '../core/json.ts'
import type { StepUsage } from '../core/message.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'

/** Names one attempt: what the fence compares. */
export type AttemptKey = { tenantId: string; sessionId: string; turnId: string; attempt: number }

/** How a round ends as failed. In the last of `roundsMax` rounds `last` is stored instead; without: there is no last one. */
export type Failing = Failure | (Failure & { roundsMax: number; last: Failure })

export function failingOf(failure: Failure, roundsMax: number): Failing {
  return { ...failure, roundsMax, last: inLastRound(failure) }
}

/** Stored at the end of each step but the last, where a tool call begins or ends, and where the turn waits: what a takeover starts from. */
export type Checkpoint = {
  attempt: number
  /** Steps finished over all attempts of the round. */
  step: number
  /** `parts` go on into the step after those: a tool of it has begun, or somebody was asked about it. */
  isOpen: boolean
  /** The index, in `attempt`, of the first chunk after it. */
  nextIndex: number
  parts: Part[]
  metadata: JsonObject | null
  /** Ids of the messages that were handed over before its last step: what it holds may answer them. */
  told: string[]
  /** Ids of calls in its last step that are a client's to run. */
  forClients: string[]
  /** Tokens that the round has reported, since it began or somebody let it use more. */
  tokens: number
}

export type Claimed = AttemptKey & {
  messageId: string
  replyId: string
  userId: string
  lane: string
  position: number
  audience: string | null
  round: number
  /** Attempts of this round that ended by an error. */
  failures: number
  checkpoint: Checkpoint | null
  /** Finished steps that its budget does not count: those before somebody let it go on. */
  stepsFrom: number
  /** How often somebody has let this round go on beyond a budget. */
  letGoOn: number
  /** Of its author, as it is known. */
  plan: string | null
  /** As in the checkpoint, with what attempts have reported since. */
  tokens: number
  /** What the claim wrote: `attempt.started`, after `attempt.ended` where it took over. */
  events: Event[]
}
export type ClaimAnswer = {
  claimed: Claimed[]
  /** Turns that brought too many processes down and ended as failed instead. */
  failed: { tenantId: string; sessionId: string; events: Event[] }[]
  /** When the next turn falls due or the next lease runs out, if it is not renewed. */
  dueInMs: number | null
  /** The database's time that this claim judged by. */
  seenAt: string
  /** An operator has said that no turn begins. */
  paused: boolean
}

const claimTurns: Statement = {
  name: 'claim',
  text: 'select holdfast.claim($1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10) as row',
}

/**
 * Takes up to `limit` turns that are due, and with `takeExpired` those whose lease has run out: of these only what had
 * run out at `expiredBefore`, the `seenAt` of an earlier answer (absent: at present), so that a claim which hung with the
 * database takes nothing that could not be renewed meanwhile.
 *
 * When its answer was lost, ask again with another number and the lost one in `lost`: what that one took is answered
 * again, also beyond `limit` (it is this runner's already), with a new lease.
 */
export async function claim(
  database: Database,
  ask: {
    /** A name that nobody else has had: it is found again by it, and by the claim's number. */
    runner: string
    /** Rises with each claim of this runner. */
    claim: number
    /** Numbers of its claims whose answers were lost. */
    lost: readonly number[]
    leaseMs: number
    limit: number
    takeExpired: boolean
    expiredBefore?: string
    crashesMax: number
    crashed: Failing
    /** What becomes of those whose lease has run out. Defaults to `continue`. */
    takeover?: 'continue' | 'restart' | 'fail'
  },
): Promise<ClaimAnswer> {
  type Row =
    | ({ kind: 'claimed'; events: EventJson[] } & Omit<Claimed, 'events'>)
    | { kind: 'failed'; tenantId: string; sessionId: string; events: EventJson[] }
    | { kind: 'next'; dueInMs: number | null; seenAt: string; paused?: true }
  const { runner, leaseMs, limit, takeExpired, expiredBefore = 'infinity', crashesMax, crashed } = ask
  const rows = await database.query<{ row: Row }>('turns', claimTurns, [
    runner,
    leaseMs,
    limit,
    takeExpired,
    crashesMax,
    JSON.stringify(crashed),
    expiredBefore,
    ask.claim,
    ask.lost,
    ask.takeover ?? 'continue',
  ])
  const answer: ClaimAnswer = { claimed: [], failed: [], dueInMs: null, seenAt: '', paused: false }
  for (const { row } of rows) {
    if (row.kind === 'claimed') answer.claimed.push({ ...row, events: row.events.map(eventOf) })
    if (row.kind === 'failed') answer.failed.push({ ...row, events: row.events.map(eventOf) })
    if (row.kind === 'next') {
      const { dueInMs, seenAt, paused = false } = row
      Object.assign(answer, { dueInMs, seenAt, paused })
    }
  }
  return answer
}

/** Of one call of the model, the `step`-th of its attempt. What is not spoken of and was opened is estimated. */
export type StepReport =
  /** As its provider reported it. `cost`: a decimal number in the app's currency; null: not known. */
  | { step: number; usage: StepUsage; cost?: string | null }
  /** As its process thinks, which was told nothing. */
  | { step: number; usage: StepUsage; cost?: string | null; estimated: true }
  /** The model was not called. */
  | { step: number; usage: null }

export type Ended = { outcome: 'stored'; event: Event } | { outcome: 'lost' } | { outcome: 'mismatch' }
export type EndedJson = { outcome: string; event?: EventJson }

export function ended({ outcome, event }: EndedJson): Ended {
  if (outcome === 'lost' || outcome === 'mismatch') return { outcome }
  return { outcome: 'stored', event: eventOf(event!) }
}

export function usageJson(reports: StepReport[]): string {
  return JSON.stringify(
    reports.map(({ step, usage, ...rest }) => (usage === null ? { step, notMade: true } : { step, ...usage, ...rest })),
  )
}

const finishAttempt: Statement = {
  name: 'finish',
  text: 'select holdfast.finish($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10::json) as answer',
}

/** Ends the attempt as `complete`, if it is still the turn's and the log holds all `nextIndex` chunks of it. */
export async function finishIfHeld(
  database: Database,
  key: AttemptKey,
  reply: {
    nextIndex: number
    parts: Part[]
    metadata: JsonObject | null
    model: string | null
    preview: string | null
  },
  usage: StepReport[],
): Promise<Ended> {
  const rows = await database.query<{ answer: EndedJson }>('turns', finishAttempt, [
    ...keyed(key),
    reply.nextIndex,
    JSON.stringify(reply.parts),
    jsonOrNull(reply.metadata),
    reply.model,
    reply.preview,
    usageJson(usage),
  ])
  return ended(rows[0]!.answer)
}

const requeueAttempt: Statement = {
  name: 'requeue',
  text: 'select holdfast.requeue($1, $2, $3, $4, $5, $6, $7, $8::json) as answer',
}

/** Ends the attempt without an outcome; the turn is due again after `retryMs`. */
export async function requeueIfHeld(
  database: Database,
  key: AttemptKey,
  why: { reason: 'error' | 'handover'; code: string | null; retryMs: number },
  usage: StepReport[],
): Promise<Ended> {
  const rows = await database.query<{ answer: EndedJson }>('turns', requeueAttempt, [
    ...keyed(key),
    why.reason,
    why.code,
    why.retryMs,
    usageJson(usage),
  ])
  return ended(rows[0]!.answer)
}

const failAttempt: Statement = {
  name: 'fail',
  text: 'select holdfast.fail($1, $2, $3, $4, $5::jsonb, $6::jsonb, $7::jsonb, $8, $9::json) as answer',
}

/** Ends the round as `failed`; `parts` are what was stored of the reply, closed. */
export async function failIfHeld(
  database: Database,
  key: AttemptKey,
  failure: Failing,
  reply: { parts: Part[]; metadata: JsonObject | null; model: string | null },
  usage: StepReport[],
): Promise<Ended> {
  const rows = await database.query<{ answer: EndedJson }>('turns', failAttempt, [
    ...keyed(key),
    JSON.stringify(failure),
    JSON.stringify(reply.parts),
    jsonOrNull(reply.metadata),
    reply.model,
    usageJson(usage),
  ])
  return ended(rows[0]!.answer)
}

const reportUsage: Statement = { name: 'report', text: 'select holdfast.report($1, $2, $3, $4, $5, $6::json)' }

/** The provider's word on an attempt that lost its turn: kept, whoever owns the turn now. */
export async function reportUsageOfLost(
  database: Database,
  key: AttemptKey,
  userId: string,
  usage: StepReport[],
): Promise<void> {
  if (usage.length === 0) return
  const { tenantId, sessionId, turnId, attempt } = key
  await database.query('turns', reportUsage, [tenantId, sessionId, userId, turnId, attempt, usageJson(usage)])
}

const storeCheckpoint: Statement = {
  name: 'checkpoint',
  text: 'select holdfast.checkpoint($1, $2, $3, $4, $5::json, $6::json, $7) as held',
}

/** What was used up to it is settled with it, and the next call of the model opened. False: the attempt is not the turn's any more. */
export async function checkpointIfHeld(
  database: Database,
  key: AttemptKey,
  checkpoint: Checkpoint,
  ledger: { usage: StepReport[]; nextStep: number | null } = { usage: [], nextStep: null },
): Promise<boolean> {
  const { usage, nextStep } = ledger
  const given = [...keyed(key), JSON.stringify(checkpoint), usageJson(usage), nextStep]
  const rows = await database.query<{ held: boolean }>('turns', storeCheckpoint, given)
  return rows[0]!.held
}

/** A turn as a stopper needs it: its latest attempt and what the log holds of it. */
export type Stoppable = {
  turnId: string
  state: string
  attempt: number
  round: number
  /** Whether an attempt has chunks in the log, or may have. */
  isOpen: boolean
  /** Where it has no chunks in the log: how many of its questions were answered, which changes what is stored. */
  nextIndex: number
  /** What the attempt started from; of a turn that has no chunks in the log, all that is stored of its reply. */
  base: Part[]
  metadata: JsonObject | null
  /** JSON texts of arrays of chunks, in order. */
  chunks: string[]
}

const readStoppable: Statement = {
  name: 'read-stoppable',
  text: `
    select t.id as "turnId", t.state, t.attempt, t.round, t.open as "isOpen",
        case when t.open then holdfast.base_of(t) else r.parts::json end as base,
        case when t.open then t.checkpoint -> 'metadata' else r.metadata::json end as metadata,
        case when t.open then coalesce(c.next, 0)::int else holdfast.answers_of(t) end as "nextIndex", coalesce(c.chunks, '{}') as chunks
      from holdfast.turns t
      join holdfast.messages r on r.tenant_id = t.tenant_id and r.session_id = t.session_id and r.id = t.reply_id
      left join lateral (select sum(n) as next, array_agg(data::text order by index) as chunks from holdfast.chunks
        where t.open and tenant_id = t.tenant_id and turn_id = t.id and attempt = t.attempt) c on true
     where t.tenant_id = $1 and t.session_id = $2 and t.message_id = $3
       and ($4::text is null or holdfast.may_see(t.audience, $4))`,
}

/**
 * By the user's message. Null: no such turn, or none that the user may see (null sees all). One statement, so that attempt
 * and chunks belong together.
 */
export async function stoppable(
  database: Database,
  tenantId: string,
  sessionId: string,
  messageId: string,
  userId: string | null,
): Promise<Stoppable | null> {
  const rows = await database.query<Stoppable>('read', readStoppable, [tenantId, sessionId, messageId, userId])
  return rows[0] ?? null
}

const stopTurn: Statement = {
  name: 'stop',
  text: 'select holdfast.stop($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10, $11, $12, $13, $14, $15) as answer',
}

export type StopAnswer =
  | { outcome: 'stopped'; event: Event }
  /** Without an event: the reply was imported. */
  | { outcome: 'late'; event?: Event }
  | { outcome: 'again' | 'stopping' | 'not_found' | 'forbidden' }

export async function stop(
  database: Database,
  key: AttemptKey,
  folded: { isOpen: boolean; nextIndex: number; parts: Part[]; metadata: JsonObject | null; preview: string | null },
  ask: {
    by: string
    reason: string | null
    lastTry: boolean
    userId: string | null
    round: number
    takesBack?: boolean
  },
): Promise<StopAnswer> {
  const rows = await database.query<{ answer: { outcome: StopAnswer['outcome']; event?: EventJson | null } }>(
    'accept',
    stopTurn,
    [
      ...keyed(key),
      folded.nextIndex,
      JSON.stringify(folded.parts),
      jsonOrNull(folded.metadata),
      folded.preview,
      ask.by,
      ask.reason,
      ask.lastTry,
      ask.userId,
      ask.round,
      folded.isOpen,
      ask.takesBack ?? true,
    ],
  )
  const { outcome, event } = rows[0]!.answer
  if (outcome === 'stopped') return { outcome, event: eventOf(event!) }
  if (outcome === 'late') return { outcome, ...(event && { event: eventOf(event) }) }
  return { outcome }
}

const readStopping: Statement = {
  name: 'read-stopping',
  text: `select tenant_id as "tenantId", session_id as "sessionId", message_id as "messageId", stopping as "by", round
     from holdfast.turns where stopping is not null order by updated_at limit $1`,
}

/** Turns whose stop was asked for and could not be completed at once. */
export function turnsStopping(
  database: Database,
  limit: number,
): Promise<{ tenantId: string; sessionId: string; messageId: string; by: string; round: number }[]> {
  return database.query('read', readStopping, [limit])
}

const expireTurns: Statement = { name: 'expire', text: 'select holdfast.expire($1, $2::jsonb) as row' }

/** Ends turns that were never begun in time. */
export async function expire(
  database: Database,
  limit: number,
  expired: Failing,
  onBad?: (bad: BadRow) => void,
): Promise<ExpiredRow[]> {
  return expiredRows(await database.query('turns', expireTurns, [limit, JSON.stringify(expired)]), onBad)
}

export type ExpiredRow = { tenantId: string; sessionId: string; event: Event }
/** What could not be ended is left as it is, and keeps nothing else waiting. */
export type BadRow = { tenantId: string; sessionId: string; error: string }

/** Of rows that the server ended, or could not end. */
export function expiredRows(
  rows: { row: { tenantId: string; sessionId: string } & ({ event: EventJson } | { error: string }) }[],
  onBad?: (bad: BadRow) => void,
): ExpiredRow[] {
  const ended: ExpiredRow[] = []
  for (const { row } of rows) {
    if ('error' in row) onBad?.(row)
    else ended.push({ ...row, event: eventOf(row.event) })
  }
  return ended
}

const repairLanes: Statement = { name: 'repair-lanes', text: 'select holdfast.repair_lanes($1) as n' }
const sweepChunks: Statement = { name: 'sweep-chunks', text: 'select holdfast.sweep_chunks($1) as n' }

/** Makes heads of lanes due that nobody made due. Resolves to how many there were: more than none is a bug's trace. */
export async function repair(database: Database, limit: number): Promise<number> {
  return (await database.query<{ n: number }>('turns', repairLanes, [limit]))[0]!.n
}

/** Deletes chunks that a later event has stood for since a minute. Resolves to the number of turns swept. */
export async function sweep(database: Database, limit: number): Promise<number> {
  return (await database.query<{ n: number }>('turns', sweepChunks, [limit]))[0]!.n
}

function keyed({ tenantId, sessionId, turnId, attempt }: AttemptKey): unknown[] {
  return [tenantId, sessionId, turnId, attempt]
}

function jsonOrNull(value: unknown): string | null {
  return value === null ? null : JSON.stringify(value)
}
