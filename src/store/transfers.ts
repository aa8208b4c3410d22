/** A guest who becomes an account, and a user who is deleted: session by session, from a row that says it was begun. */
import type { Event } from '../core/event.ts'
import type { Interrupted } from './accept.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'

/** What of a guest was merged so far. */
export type MergedGuest = { guestId: string; userId: string; sessions: number; isDone: boolean }

/** `busy`: these turns were marked, to be stopped now; then it is asked again. */
type Busy = { outcome: 'busy'; interrupted: Interrupted[] }

async function ask<Answer>(database: Database, statement: Statement, values: unknown[]): Promise<Answer> {
  return (await database.query<{ answer: Answer }>('turns', statement, values))[0]!.answer
}

const mergedStatement: Statement = {
  name: 'is-merged-guest',
  text: 'select from holdfast.guests where tenant_id = $1 and guest_id = $2',
}

/** Whether this guest is an account by now: their cookie is worth nothing then. */
export async function isMergedGuest(database: Database, tenantId: string, guestId: string): Promise<boolean> {
  return (await database.query('read', mergedStatement, [tenantId, guestId])).length > 0
}

const claimStatement: Statement = { name: 'claim-guest', text: 'select holdfast.claim_guest($1, $2, $3) as answer' }

/** Of several that claim a guest exactly one has them, and is answered the same again. `sessions`: still to be moved. */
export function claimGuest(
  database: Database,
  { tenantId, guestId, userId }: { tenantId: string; guestId: string; userId: string },
): Promise<{ outcome: 'claimed'; guest: MergedGuest; sessions: string[] } | { outcome: 'taken' }> {
  return ask(database, claimStatement, [tenantId, guestId, userId])
}

const mergeStatement: Statement = {
  name: 'merge-session',
  text: 'select holdfast.merge_session($1, $2, $3, $4) as answer',
}

export async function mergeSession(
  database: Database,
  { tenantId, sessionId, guestId, userId }: { tenantId: string; sessionId: string; guestId: string; userId: string },
): Promise<{ outcome: 'merged'; events: Event[] } | { outcome: 'same' } | Busy> {
  type Answer = { outcome: 'merged'; events: EventJson[] | null } | { outcome: 'same' } | Busy
  const answer = await ask<Answer>(database, mergeStatement, [tenantId, sessionId, guestId, userId])
  return answer.outcome === 'merged' ? { ...answer, events: (answer.events ?? []).map(eventOf) } : answer
}

const finishMergeStatement: Statement = {
  name: 'finish-merge',
  text: 'select holdfast.finish_merge($1, $2, $3) as answer',
}

/** Null: a session is still the guest's. */
export function finishMerge(
  database: Database,
  { tenantId, guestId, devicesMax }: { tenantId: string; guestId: string; devicesMax: number },
): Promise<MergedGuest | null> {
  return ask(database, finishMergeStatement, [tenantId, guestId, devicesMax])
}

const beginErasureStatement: Statement = {
  name: 'begin-erasure',
  text: 'select holdfast.begin_erasure($1, $2) as answer',
}

/**
 * `pseudonym`: what stands for them in what is kept. `sessions`: in which something of theirs is still to be erased. `guests`:
 * that are still being made theirs.
 */
export function beginErasure(
  database: Database,
  { tenantId, userId }: { tenantId: string; userId: string },
): Promise<{ pseudonym: string; sessions: string[]; guests: string[] }> {
  return ask(database, beginErasureStatement, [tenantId, userId])
}

const eraseStatement: Statement = {
  name: 'erase-from-session',
  text: 'select holdfast.erase_from_session($1, $2, $3, $4) as answer',
}

export async function eraseFromSession(
  database: Database,
  {
    tenantId,
    sessionId,
    userId,
    pseudonym,
  }: { tenantId: string; sessionId: string; userId: string; pseudonym: string },
): Promise<{ outcome: 'deleted' } | { outcome: 'left'; events: Event[] } | { outcome: 'same' } | Busy> {
  type Answer = { outcome: 'deleted' } | { outcome: 'left'; events: EventJson[] } | { outcome: 'same' } | Busy
  const answer = await ask<Answer>(database, eraseStatement, [tenantId, sessionId, userId, pseudonym])
  return answer.outcome === 'left' ? { ...answer, events: answer.events.map(eventOf) } : answer
}

const finishErasureStatement: Statement = {
  name: 'finish-erasure',
  text: 'select holdfast.finish_erasure($1, $2) as answer',
}

/** False: a session or a guest is still theirs, made or claimed meanwhile. */
export function finishErasure(database: Database, tenantId: string, userId: string): Promise<boolean> {
  return ask(database, finishErasureStatement, [tenantId, userId])
}

const begunStatement: Statement = { name: 'begun-transfers', text: 'select holdfast.begun_transfers($1, $2) as answer' }

export type BegunTransfer =
  | { kind: 'merge'; tenantId: string; userId: string; guestId: string }
  | { kind: 'erase'; tenantId: string; userId: string }

/** Those that were begun so long ago and are not over: whoever did them has died, or was refused by the database. */
export async function begunTransfers(database: Database, olderMs: number, limit: number): Promise<BegunTransfer[]> {
  const rows = await database.query<{ answer: BegunTransfer }>('turns', begunStatement, [olderMs, limit])
  return rows.map(({ answer }) => answer)
}

const retainStatement: Statement = {
  name: 'retain',
  text: 'select holdfast.retain($1, $2, $3, $4, $5) as answer',
}

export type SessionAt = { tenantId: string; sessionId: string }

/**
 * Looks at the next sessions after a place and deletes those that are too old; of a session of guests alone `guestsMs` counts.
 * Null: another process is at it.
 */
export function retain(
  database: Database,
  {
    after,
    limit,
    sessionsMs,
    guestsMs,
  }: { after: SessionAt; limit: number; sessionsMs: number; guestsMs: number | null },
): Promise<{ gone: (SessionAt & { members: string[] })[]; last: SessionAt | null; isEnd: boolean } | null> {
  return ask(database, retainStatement, [after.tenantId, after.sessionId, limit, sessionsMs, guestsMs])
}
