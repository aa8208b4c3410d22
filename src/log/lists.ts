/**
 * Lists of sessions that somebody looks at in this process, and the hint that one of their sessions has changed. A hint may
 * be lost: whoever gets none asks for the list now and then.
 *
 * A wakeup names a session and not its members, and every process hears those of all processes. So what has changed is
 * collected, and one statement asks for all of it who is a member: then, when it is told, and not before. That is 5
 * statements a second at most, however many wakeups and lists there are, and none where nobody looks. Of 20 changed sessions
 * with two members each, out of 100,000, it took 0.5 ms, of 1,000 some 50 ms (30 November 2026, PostgreSQL 15 and 18, 2 cores
 * with 14 other processes on them).
 *
 * A session is told of at most once a second, and its last change always is.
 *
 * A list of changes does not say that a session is not the user's any more, so no client would find that out by asking for
 * one: while somebody looks, this process looks every two seconds for who has left of late, should no wakeup have told.
 */
import { maySee } from '../core/event.ts'
import type { Database } from '../store/database.ts'
import { leftOfLate } from '../store/members.ts'
import { changedSessions } from '../store/sessions.ts'
import type { Note } from './wakeups.ts'

/** `updatedAt`: null where it was deleted, or is not the user's any more. */
export type ChangedSession = { sessionId: string; updatedAt: string | null }

export type ListLooker = {
  changed(session: ChangedSession): void
  /** This process goes away: come back elsewhere, after so long. */
  drain(afterMs: number): void
}

export type Lists = {
  /** Answers what ends it. */
  look(who: { tenantId: string; userId: string }, looker: ListLooker): () => void
  hear(note: Note | null): void
  drain(afterMs: number): void
  stop(): void
}

const askEveryMs = 200
const sameEveryMs = 1_000
const leftEveryMs = 2_000
/** What was committed later than it says. */
const leftMarginMs = 10_000
/** Of one statement. */
const sessionsMax = 1_000
/** Beyond this a change is not told. */
const pendingMax = 10_000

type Key = { tenantId: string; sessionId: string }
/**
 * `isChange` false: these users have read on, and nobody else is concerned. `audiences`: whom what has changed concerns; a
 * private message is no change to others.
 */
type Pending = Key & { isChange: boolean; audiences: ReadonlySet<string | null>; readers: ReadonlySet<string> }

export function createLists(database: Database): Lists {
  /** By user. */
  const users = new Map<string, Set<ListLooker>>()
  const pending = new Map<string, Pending>()
  /** When a session was told of last, while nothing more may be, and to each user how far its log had got by then. */
  const told = new Map<string, { atMs: number; nextSeqs: Map<string, number> }>()
  let timer: NodeJS.Timeout | undefined
  let timerAtMs = Number.POSITIVE_INFINITY
  let askedAtMs = Number.NEGATIVE_INFINITY
  let asking = false
  let stopped = false
  let leftTimer: NodeJS.Timeout | undefined
  let leftAtMs = 0
  /** Who has left, and was told. */
  let leftTold = new Set<string>()

  const mayBeToldAtMs = (key: string) => (told.get(key)?.atMs ?? Number.NEGATIVE_INFINITY) + sameEveryMs

  function schedule(mayBeAtMs: number): void {
    const atMs = Math.max(mayBeAtMs, askedAtMs + askEveryMs)
    if (stopped || asking || timerAtMs <= atMs) return
    clearTimeout(timer)
    timerAtMs = atMs
    timer = setTimeout(() => void ask(), Math.max(0, atMs - performance.now())).unref()
  }

  function mark(key: string, { isChange, audiences, readers, ...session }: Pending): void {
    const there = pending.get(key)
    pending.set(key, {
      ...session,
      isChange: isChange || there?.isChange === true,
      audiences: new Set([...(there?.audiences ?? []), ...audiences]),
      readers: there === undefined ? readers : new Set([...there.readers, ...readers]),
    })
  }

  async function ask(): Promise<void> {
    timerAtMs = Number.POSITIVE_INFINITY
    asking = true
    askedAtMs = performance.now()
    const due = [...pending].filter(([key]) => mayBeToldAtMs(key) <= askedAtMs).slice(0, sessionsMax)
    for (const [key] of due) pending.delete(key)
    try {
      if (due.length > 0 && users.size > 0) await tell(due.map(([, session]) => session))
    } catch {
      // The database is away: in a second again. What has changed meanwhile is in there already.
      for (const [key, session] of due) {
        told.set(key, { atMs: askedAtMs, nextSeqs: new Map() })
        mark(key, session)
      }
    }
    asking = false
    for (const key of told.keys()) {
      if (!pending.has(key) && mayBeToldAtMs(key) <= performance.now()) told.delete(key)
    }
    if (pending.size > 0) schedule(Math.min(...[...pending.keys()].map(mayBeToldAtMs)))
  }

  async function tell(sessions: Pending[]): Promise<void> {
    for (const { session, nextSeq, members } of await changedSessions(database, sessions)) {
      const key = keyOf(session.tenantId, session.sessionId)
      const nextSeqs = told.get(key)?.nextSeqs ?? new Map<string, number>()
      told.set(key, { atMs: askedAtMs, nextSeqs })
      for (const [userId, updatedAt] of Object.entries(members ?? {})) {
        if (!users.has(keyOf(session.tenantId, userId))) continue
        const concerns = session.isChange && [...session.audiences].some((audience) => maySee(audience, userId))
        // A wakeup need not be about a change. What one user was told the others were not, where it was theirs alone.
        const isNew = concerns && nextSeqs.get(userId) !== nextSeq
        if (concerns) nextSeqs.set(userId, nextSeq)
        if (isNew || session.readers.has(userId)) tellUsers(session, [userId], updatedAt)
      }
    }
  }

  function lookForLeft(): void {
    clearTimeout(leftTimer)
    if (stopped || users.size === 0) return
    leftTimer = setTimeout(() => void tellLeft().then(lookForLeft, lookForLeft), leftEveryMs).unref()
  }

  /** Where it fails, the next one looks as far back as this one. */
  async function tellLeft(): Promise<void> {
    const atMs = performance.now()
    const all = await leftOfLate(database, Math.ceil(atMs - leftAtMs) + leftMarginMs)
    leftAtMs = atMs
    const before = leftTold
    leftTold = new Set(all.map(leftKeyOf))
    for (const left of all) {
      if (!before.has(leftKeyOf(left))) tellUsers(left, [left.userId], null)
    }
  }

  function tellUsers({ tenantId, sessionId }: Key, userIds: string[], updatedAt: string | null): void {
    for (const userId of userIds) {
      for (const looker of users.get(keyOf(tenantId, userId)) ?? []) looker.changed({ sessionId, updatedAt })
    }
  }

  return {
    look({ tenantId, userId }, looker) {
      const key = keyOf(tenantId, userId)
      const lookers = users.get(key) ?? new Set()
      const isFirst = users.size === 0
      users.set(key, lookers.add(looker))
      if (isFirst) {
        leftAtMs = performance.now()
        lookForLeft()
      }
      return () => {
        if (lookers.delete(looker) && lookers.size === 0) users.delete(key)
      }
    },
    hear(note) {
      if (note === null || users.size === 0) return
      const isChange = mayBeChange(note)
      const { tenantId, sessionId, events, members, left, readBy } = note
      if (left) {
        for (const { type, seq } of events) if (type === 'member.left') leftTold.add(leftKeyOf({ ...note, seq }))
        tellUsers(note, left, null)
      }
      if (!isChange && (readBy === undefined || !users.has(keyOf(tenantId, readBy)))) return
      const key = keyOf(tenantId, sessionId)
      if (members) {
        pending.delete(key)
        tellUsers(note, members, null)
      } else if (pending.size < pendingMax) {
        // One without events may be about any.
        const some = note.audiences ?? events.map(({ audience }) => audience)
        const audiences = new Set(!isChange ? [] : some.length > 0 ? some : [null])
        const readers = new Set(readBy === undefined ? [] : [readBy])
        mark(key, { tenantId, sessionId, isChange, audiences, readers })
        schedule(mayBeToldAtMs(key))
      }
    },
    drain(afterMs) {
      const lookers = [...users.values()].flatMap((some) => [...some])
      for (const looker of lookers) looker.drain(afterMs)
    },
    stop() {
      stopped = true
      clearTimeout(timer)
      clearTimeout(leftTimer)
      users.clear()
    },
  }
}

/** All but chunks, and what is told in passing. One that says nothing may have been too large to say what it is about. */
function mayBeChange({ events, runs, passing }: Note): boolean {
  return events.length > 0 || (runs.length === 0 && passing === undefined)
}

function leftKeyOf({ tenantId, sessionId, seq }: Key & { seq: number }): string {
  return `${tenantId}\n${sessionId}\n${seq}`
}

function keyOf(tenantId: string, id: string): string {
  return `${tenantId}\n${id}`
}
