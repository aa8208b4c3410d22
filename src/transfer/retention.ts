/**
 * Deletes sessions in which nothing has happened for longer than the app wants to keep them: a few at a time, by one process
 * at a time (the database's lock), walking through all of them again and again. What is held meanwhile is one place.
 */
import type { Database } from '../store/database.ts'
import { retain, type SessionAt } from '../store/transfers.ts'
import type { HandOverParts } from './hand-over.ts'

/**
 * How long what nobody touches is kept. A session counts from its last event; one in which a reply is still to come, or
 * waits for people, is kept.
 */
export type Retention = {
  /** Milliseconds. From a minute to 100 years. */
  sessionsMs: number
  /** Of sessions whose members are all guests. Defaults to `sessionsMs`. */
  guestSessionsMs?: number
}

/** Looked at in one go; some hundred of them are deleted at most. */
const sessionsMax = 1_000
const first: SessionAt = { tenantId: '', sessionId: '' }

export type Retaining = {
  /** Looks at the next ones. Resolves to how many were deleted; null where another process is at it. */
  next(): Promise<number | null>
}

export function createRetaining(parts: HandOverParts & { database: Database }, retention: Retention): Retaining {
  const { sessionsMs, guestSessionsMs = null } = retention
  let after = first
  return {
    async next() {
      const ask = { after, limit: sessionsMax, sessionsMs, guestsMs: guestSessionsMs }
      const looked = await retain(parts.database, ask)
      if (looked === null) return null
      after = looked.isEnd || looked.last === null ? first : looked.last
      for (const { tenantId, sessionId, members } of looked.gone) {
        parts.wakeups.tell({ tenantId, sessionId, events: [], runs: [], due: false, members })
      }
      return looked.gone.length
    },
  }
}
