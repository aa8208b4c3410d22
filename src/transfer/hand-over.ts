/**
 * A guest becomes an account, and a user is deleted: both session by session, each in a transaction of its own, so that
 * nobody waits for more than their own session. What says that it was begun is committed first, so a process that dies leaves
 * nothing half done for long: whoever looks next goes on (`goOn`, on every runner).
 *
 *   claim ──▶ each session ──▶ the rest ──▶ done
 *              └─ busy: two replies would share a lane, or one is still being written: stopped, and asked again
 */
import { point } from '#points'
import { limits } from '../core/limits.ts'
import { stopTurn } from '../log/stop.ts'
import type { Wakeups } from '../log/wakeups.ts'
import type { Interrupted } from '../store/accept.ts'
import type { Database } from '../store/database.ts'
import {
  beginErasure,
  begunTransfers,
  claimGuest,
  eraseFromSession,
  finishErasure,
  finishMerge,
  type MergedGuest,
  mergeSession,
} from '../store/transfers.ts'

export type HandOverParts = { database: Database; wakeups: Pick<Wakeups, 'tell'> }
type Guest = { tenantId: string; guestId: string; userId: string }
type User = { tenantId: string; userId: string }

/** Somebody goes on making sessions while theirs are moved: then the next look finds the rest. */
const passesMax = 5
/** A reply that cannot be stopped at once is stopped by the next look. */
const busyMax = 3

/** Null: another account has this guest. Asked again by the same account, it answers the same. */
export async function mergeGuest(parts: HandOverParts, guest: Guest): Promise<MergedGuest | null> {
  const { database } = parts
  const { tenantId, guestId } = guest
  for (let pass = 1; ; pass++) {
    const claimed = await claimGuest(database, guest)
    if (claimed.outcome === 'taken') return null
    void point('guest-claimed')
    for (const sessionId of claimed.sessions) {
      await moveSession(parts, guest, sessionId)
      void point('guest-session-moved')
    }
    const done = await finishMerge(database, { tenantId, guestId, devicesMax: limits.devicesOfUserMax })
    if (done !== null || pass === passesMax) return done ?? claimed.guest
  }
}

async function moveSession(parts: HandOverParts, guest: Guest, sessionId: string): Promise<void> {
  const { tenantId, guestId } = guest
  for (let tries = 1; tries <= busyMax; tries++) {
    const moved = await mergeSession(parts.database, { ...guest, sessionId })
    if (moved.outcome === 'busy') {
      await stopAll(parts, tenantId, sessionId, moved.interrupted)
      continue
    }
    if (moved.outcome === 'merged') tell(parts, { tenantId, sessionId, events: moved.events, left: [guestId] })
    return
  }
}

/** Everything of theirs, in every table. Resolves when nothing is left, or what is left will be taken by the next look. */
export async function eraseUser(parts: HandOverParts, user: User): Promise<void> {
  for (let pass = 1; pass <= passesMax; pass++) {
    const { pseudonym, sessions, guests } = await beginErasure(parts.database, user)
    void point('erasure-begun')
    // Their sessions are found by the next look.
    for (const guestId of guests) await mergeGuest(parts, { ...user, guestId })
    for (const sessionId of sessions) {
      await eraseFrom(parts, { ...user, sessionId, pseudonym })
      void point('erasure-session-left')
    }
    if (await finishErasure(parts.database, user.tenantId, user.userId)) return
  }
}

async function eraseFrom(parts: HandOverParts, ask: User & { sessionId: string; pseudonym: string }): Promise<void> {
  const { tenantId, sessionId, userId } = ask
  for (let tries = 1; tries <= busyMax; tries++) {
    const left = await eraseFromSession(parts.database, ask)
    if (left.outcome === 'busy') {
      await stopAll(parts, tenantId, sessionId, left.interrupted)
      continue
    }
    if (left.outcome === 'deleted') tell(parts, { tenantId, sessionId, events: [], members: [userId] })
    if (left.outcome === 'left') tell(parts, { tenantId, sessionId, events: left.events, left: [userId] })
    return
  }
}

async function stopAll(
  parts: HandOverParts,
  tenantId: string,
  sessionId: string,
  interrupted: readonly Interrupted[],
): Promise<void> {
  for (const { messageId, round } of interrupted) {
    const ask = { tenantId, sessionId, messageId, round, by: 'server', reason: null, userId: null }
    const stopped = await stopTurn(parts.database, ask)
    if (stopped.outcome === 'stopped') tell(parts, { tenantId, sessionId, events: [stopped.event], due: true })
  }
}

function tell({ wakeups }: HandOverParts, note: Partial<Parameters<Wakeups['tell']>[0]> & OfSession): void {
  wakeups.tell({ events: [], runs: [], due: false, ...note })
}
type OfSession = { tenantId: string; sessionId: string }

/** Who is at it is given so long before another goes on. */
const leftAfterMs = 1_500

/** What a process that died, or a database that was away, has left. */
export async function goOn(
  parts: HandOverParts,
  limit: number,
  onError: (error: unknown) => void,
  leftMs = leftAfterMs,
): Promise<void> {
  for (const begun of await begunTransfers(parts.database, leftMs, limit)) {
    try {
      if (begun.kind === 'merge') await mergeGuest(parts, begun)
      else await eraseUser(parts, begun)
    } catch (error) {
      // One that cannot be done keeps no other waiting.
      onError(error)
    }
  }
}
