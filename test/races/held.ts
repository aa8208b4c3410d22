/** Attempts as a process of the store's tests holds them: claimed, with a text that is known beforehand. */
import type { Chunk } from '../../src/core/chunk.ts'
import { failureOf } from '../../src/core/errors.ts'
import { createFold } from '../../src/core/fold.ts'
import { closeParts, previewOf } from '../../src/core/parts.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { appendIfHeld, type ChunkRow } from '../../src/store/chunks.ts'
import { type Database, DatabaseError } from '../../src/store/database.ts'
import {
  type AttemptKey,
  type ClaimAnswer,
  type Claimed,
  claim,
  type Ended,
  finishIfHeld,
} from '../../src/store/turns.ts'
import { acceptanceOf, type Stored, tenantId, userId } from '../support/stored.ts'

export const crashed = failureOf('crashed')

/** Accepts `count` messages to each session, in order. */
export async function acceptTurns(database: Database, sessions: string[], count = 1): Promise<void> {
  const acceptor = createAcceptor(database)
  for (let at = 0; at < count; at++) {
    await Promise.all(sessions.map((sessionId) => acceptor.accept(acceptanceOf(sessionId, `${sessionId}-m${at}`))))
  }
}

/** A claim that also takes expired leases, as a healthy runner makes it. */
export function claimAll(
  database: Database,
  runner: string,
  ask: { limit?: number; leaseMs?: number; crashesMax?: number; claim?: number; lost?: number[] } = {},
): Promise<ClaimAnswer> {
  const { limit = 100, leaseMs = 60_000, crashesMax = 3, claim: number = 1, lost = [] } = ask
  return claim(database, { runner, claim: number, lost, leaseMs, limit, takeExpired: true, crashesMax, crashed })
}

/** The one turn that can be claimed now. */
export async function claimOne(database: Database, runner = 'a', leaseMs = 60_000): Promise<Claimed> {
  const { claimed } = await claimAll(database, runner, { limit: 1, leaseMs })
  if (claimed.length !== 1) throw new Error(`${claimed.length} turns were claimed, not one`)
  return claimed[0]!
}

export function tookOver({ events }: Claimed): boolean {
  return events.length > 1
}

/** As if the lease had run out. */
export async function endLease({ query }: Stored, turnId: string): Promise<void> {
  await query(`update holdfast.turns set lease_until = now() - interval '1 s' where id = $1 and state = 'running'`, [
    turnId,
  ])
}

const wordOf = (attempt: number, index: number) => `${attempt}.${index} `

/** What the chunks `0` to `index` (excluded) of an attempt say: the first one opens the text. */
export function textUpTo(attempt: number, index: number): string {
  return Array.from({ length: Math.max(0, index - 1) }, (_, at) => wordOf(attempt, at + 1)).join('')
}

export function chunkAt(attempt: number, index: number): Chunk {
  return index === 0 ? { type: 'text-start', id: 't' } : { type: 'text-delta', id: 't', delta: wordOf(attempt, index) }
}

export function rowOf(key: AttemptKey, index: number, n = 1): ChunkRow {
  const { tenantId, turnId, attempt } = key
  const chunks = Array.from({ length: n }, (_, at) => chunkAt(attempt, index + at))
  return { tenantId, turnId, attempt, index, n, json: JSON.stringify(chunks), first: index === 0 }
}

/** Stores the attempt's first `n` chunks. */
export async function writeText(database: Database, key: AttemptKey, n: number): Promise<void> {
  const held = await appendIfHeld(database, [rowOf(key, 0, n)], 60_000)
  if (!held.has(key.turnId)) throw new Error('the attempt is not held')
}

export function partsOf(attempt: number, nextIndex: number) {
  const fold = createFold()
  for (let index = 0; index < nextIndex; index++) fold.push(chunkAt(attempt, index))
  return closeParts(fold.parts(), { toolErrorText: 'stopped' })
}

export function finish(
  database: Database,
  key: AttemptKey,
  nextIndex: number,
  usage = [] as Parameters<typeof finishIfHeld>[3],
): Promise<Ended> {
  const parts = partsOf(key.attempt, nextIndex)
  return finishIfHeld(database, key, { nextIndex, parts, metadata: null, model: 'm', preview: previewOf(parts) }, usage)
}

export function stopAsk(sessionId: string, messageId: string, by = userId) {
  return { tenantId, sessionId, messageId, by, reason: null, round: null, userId: null }
}

/** Asks again while a lock could not be had, as every caller of a transition does. Counts those. */
export async function untilAnswered<T>(ask: () => Promise<T>, onConflict: (error: DatabaseError) => void): Promise<T> {
  for (;;) {
    try {
      return await ask()
    } catch (error) {
      if (!(error instanceof DatabaseError) || (error.kind !== 'conflict' && error.kind !== 'unknown')) throw error
      onConflict(error)
    }
  }
}

/** A shuffled copy. */
export function shuffled<T>(items: readonly T[]): T[] {
  const copy = [...items]
  for (let at = copy.length - 1; at > 0; at--) {
    const other = Math.floor(Math.random() * (at + 1))
    ;[copy[at], copy[other]] = [copy[other]!, copy[at]!]
  }
  return copy
}
