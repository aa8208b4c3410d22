/**
 * Who is there. A user is `here` in a session while one of their devices follows it and is in front of them, `away` while
 * all that follow it are in the background, and gone when none does.
 *
 *   device ──enter, say, leave──▶ process ──rows, 20 times a second at most──▶ table ──▶ GET, the snapshot, `chat.presence`
 *                                    │  └──what changed, to who follows──▶ wakeups ──▶ other processes
 *                                    └──each `beatMs`: I live; what do the others have?──▶ table
 *
 * Each process writes of its own users alone, and tells its own followers. What another process has told is known from its
 * wakeup; what was lost is found by the next beat, which compares what the table has with what was told last: also that a
 * process has died, because its rows count only until `aliveMs` after its last beat. So who was there through one that was
 * killed is gone within `aliveMs + beatMs`, 8 s.
 *
 * What is better is told at once. What is worse holds only when it has held for `graceMs`: a reload, another connection
 * and the time between two polls are no leaving, and who looks at another tab for a moment is not away.
 *
 * A beat goes over what has changed, not over what there is. With 10,000 users here and as many of another process in the same
 * sessions it took 3 ms of the database and 2 ms of this process; just after all of them had come, 240 ms of the database (30
 * November 2026, PostgreSQL 18, 2 cores with six others at work).
 */
import { type Note, passingNote } from '../log/wakeups.ts'
import { type Database, DatabaseError } from '../store/database.ts'
import {
  changedElsewhere,
  type Elsewhere,
  elsewhereInMine,
  elsewhereInSessions,
  keepPresence,
  type PresenceState,
  type SessionOf,
} from '../store/presence.ts'

export type Device = { say(state: PresenceState): void; leave(): void }

export type Presence = {
  /** A device follows the session, by a right that the caller has asked for. */
  enter(who: SessionOf & { userId: string }, state: PresenceState): Device
  hear(note: Note | null): void
  /** What this process has said runs out soon, unless another one says it by then. */
  stop(): Promise<void>
}

type PresenceOptions = {
  database: Database
  processId: string
  /** To the followers of all processes. */
  tell(note: Note): void
  /** To those of this one. */
  tellHere(note: Note): void
  log(line: string, detail: Record<string, unknown>): void
  beatMs?: number
  aliveMs?: number
  graceMs?: number
}

/** Changes that come together are one write. */
const gatherMs = 50
/** Of one write. */
const changesMax = 2_000
/** A look goes over what was stored since so many beats before the last one: a statement may take a while. */
const beatsSeen = 2
/** What is gone is kept for so long (sql/0010). */
const keptMs = 60_000
const beatsOfAll = 15

type Person = SessionOf & {
  userId: string
  devices: Record<PresenceState, number>
  /** Until when a state still counts that no device has any more. */
  untilMs: Record<PresenceState, number>
  timer: NodeJS.Timeout | undefined
  /** What is to be in the table, and what is. */
  said: PresenceState | null
  stored: PresenceState | null
}
/**
 * `elsewhere`: what other processes have, by user and process. `told`: what followers here were told last; before `isKnown`
 * it is of those only of whom something was heard.
 */
type Session = SessionOf & {
  people: Map<string, Person>
  elsewhere: Map<string, Map<string, PresenceState>>
  told: Told
  isKnown: boolean
}
type Told = Map<string, PresenceState>

export function createPresence(options: PresenceOptions): Presence {
  const { database, processId, tell, tellHere, log } = options
  const { beatMs = 2_000, aliveMs = 6_000, graceMs = 3_000 } = options
  const sessions = new Map<string, Session>()
  const changed = new Set<Person>()
  /** Whose picture may not be what was told last. */
  const touched = new Set<string>()
  /** The other processes, as of the last beat. */
  let alive: ReadonlySet<string> = new Set()
  let beats = 0
  let lookedAtMs = 0
  /** Sessions of which something was heard while the table was read: what was read may be older. */
  const heard = new Set<string>()
  let gathering: NodeJS.Timeout | undefined
  let beating: NodeJS.Timeout | undefined
  let working: Promise<void> | undefined
  let stopped = false

  function personOf({ tenantId, sessionId, userId }: SessionOf & { userId: string }): Person {
    const key = keyOf({ tenantId, sessionId })
    const session = sessions.get(key) ?? {
      tenantId,
      sessionId,
      people: new Map(),
      elsewhere: new Map(),
      told: new Map(),
      isKnown: false,
    }
    sessions.set(key, session)
    const none = { here: 0, away: 0 }
    const person: Person = session.people.get(userId) ?? {
      ...{ tenantId, sessionId, userId, devices: { ...none }, untilMs: { ...none } },
      ...{ timer: undefined, said: null, stored: null },
    }
    session.people.set(userId, person)
    return person
  }

  function moved(person: Person, state: PresenceState, by: 1 | -1): void {
    person.devices[state] += by
    if (person.devices[state] === 0) person.untilMs[state] = performance.now() + graceMs
  }

  /** Says what is so now, and looks again when something that counts still does no more. */
  function look(person: Person): void {
    clearTimeout(person.timer)
    if (stopped) return
    const nowMs = performance.now()
    const counts = (state: PresenceState) => person.devices[state] > 0 || person.untilMs[state] > nowMs
    const now = counts('here') ? 'here' : counts('away') ? 'away' : null
    if (now !== null && person.devices[now] === 0) {
      person.timer = setTimeout(() => look(person), person.untilMs[now] - nowMs + 1).unref()
    }
    if (now === person.said) return
    person.said = now
    change(person)
  }

  function change(person: Person): void {
    changed.add(person)
    gathering ??= setTimeout(() => void work(writeChanges), gatherMs).unref()
    beating ??= setTimeout(beat, beatMs).unref()
  }

  function beat(): void {
    beating = undefined
    // Each for itself: that this process lives is said whatever becomes of the rest.
    for (const step of [() => keep([]), writeChanges, lookElsewhere]) {
      void work(async () => {
        if (sessions.size > 0) await step()
      })
    }
    void work(async () => undefined).then(() => {
      if (sessions.size > 0 && !stopped) beating ??= setTimeout(beat, beatMs).unref()
    })
  }

  /** One after the other. What the database did not do is done by the next beat. */
  function work(step: () => Promise<void>): Promise<void> {
    const done = (working ?? Promise.resolve())
      .then(() => (stopped ? undefined : step()))
      .catch((error: unknown) => {
        if (!(error instanceof DatabaseError)) log('presence: a step failed', { error: String(error) })
      })
    working = done
    return done
  }

  async function writeChanges(): Promise<void> {
    clearTimeout(gathering)
    gathering = undefined
    while (changed.size > 0) {
      const taken = [...changed].slice(0, changesMax)
      for (const person of taken) changed.delete(person)
      // Of one user one row: whoever was forgotten is somebody else by now.
      const batch = taken.filter(isKept)
      try {
        await keep(batch)
        await settle(batch)
      } catch (error) {
        for (const person of batch) changed.add(person)
        throw error
      }
    }
  }

  /** Also without any it says that this process lives. */
  async function keep(batch: Person[]): Promise<void> {
    const states = new Map(batch.map((person) => [person, person.said]))
    const changes = batch.map(({ tenantId, sessionId, userId, said }) => ({
      ...{ tenantId, sessionId, userId, state: said },
    }))
    const isNew = await keepPresence(database, { processId, aliveMs, changes })
    for (const [person, state] of states) person.stored = state
    if (isNew) sayAllAgain(states)
  }

  function isKept(person: Person): boolean {
    return sessions.get(keyOf(person))?.people.get(person.userId) === person
  }

  /** The table was emptied: after a crash of the database, or because this process was taken for dead. */
  function sayAllAgain(but: Map<Person, PresenceState | null>): void {
    for (const { people } of sessions.values()) {
      for (const person of people.values()) if (person.said !== null && !but.has(person)) changed.add(person)
    }
  }

  /** Tells everybody of those who were just stored, where that is news. */
  async function settle(batch: Person[]): Promise<void> {
    const concerned = new Map<string, { session: Session; userIds: Set<string> }>()
    for (const person of batch) {
      const key = keyOf(person)
      const { userIds } = concerned.get(key) ?? { userIds: new Set<string>() }
      concerned.set(key, { session: sessions.get(key)!, userIds: userIds.add(person.userId) })
    }
    heard.clear()
    const asked = [...concerned.values()].map(({ session }) => session)
    const rows = await elsewhereInSessions(database, processId, asked)
    for (const { elsewhere } of asked) elsewhere.clear()
    for (const row of rows) take(row)
    for (const [key, { session, userIds }] of concerned) {
      const isOlder = heard.has(key)
      // Whoever begins to follow here asks for those who are there already.
      if (!session.isKnown) session.told = new Map([...pictureOf(session, false), ...session.told])
      session.isKnown = true
      for (const [userId, state] of news(session.told, pictureOf(session))) {
        if (userIds.has(userId)) tell(noteOf(session, userId, state))
        else if (!isOlder) tellFollowers(session, userId, state)
      }
      // A wakeup may be lost, also the own one.
      touched.add(key)
      forgetGone(key, session)
    }
  }

  function take({ userId, processId: by, state, ...row }: Elsewhere): void {
    const key = keyOf(row)
    const session = sessions.get(key)
    if (session === undefined) return
    const ofUser = session.elsewhere.get(userId) ?? new Map<string, PresenceState>()
    if (state === null) ofUser.delete(by)
    else ofUser.set(by, state)
    if (ofUser.size === 0) session.elsewhere.delete(userId)
    else session.elsewhere.set(userId, ofUser)
    touched.add(key)
  }

  async function lookElsewhere(): Promise<void> {
    heard.clear()
    const lookedBeforeMs = lookedAtMs
    lookedAtMs = performance.now()
    const sinceMs = Math.ceil(lookedAtMs - lookedBeforeMs + beatMs * beatsSeen)
    const now = await changedElsewhere(database, processId, Math.min(sinceMs, keptMs))
    const living = new Set(now.alive)
    // All of one that came, or came back, and now and then all: what was stored very late is not seen as a change.
    if (now.alive.some((id) => !alive.has(id)) || beats++ % beatsOfAll === 0) {
      const rows = await elsewhereInMine(database, processId)
      for (const [key, { elsewhere }] of sessions) {
        if (elsewhere.size > 0) touched.add(key)
        elsewhere.clear()
      }
      for (const row of rows) take(row)
    } else {
      for (const row of now.changes) if (living.has(row.processId)) take(row)
      const dead = [...alive].filter((id) => !living.has(id))
      if (dead.length > 0) bury(dead)
    }
    alive = living
    for (const key of touched) {
      const session = sessions.get(key)
      if (session !== undefined && heard.has(key)) continue
      touched.delete(key)
      if (!session?.isKnown) continue
      for (const [userId, state] of news(session.told, pictureOf(session))) tellFollowers(session, userId, state)
    }
  }

  function bury(dead: string[]): void {
    for (const { tenantId, sessionId, elsewhere } of sessions.values()) {
      for (const [userId, ofUser] of elsewhere) {
        for (const by of dead) {
          if (ofUser.has(by)) take({ tenantId, sessionId, userId, processId: by, state: null })
        }
      }
    }
  }

  function tellFollowers(session: Session, userId: string, state: PresenceState | 'gone'): void {
    set(session.told, userId, state)
    tellHere(noteOf(session, userId, state))
  }

  function forgetGone(key: string, { people }: Session): void {
    for (const person of people.values()) {
      // What is still to be written of them needs them, and their session.
      if (person.said === null && person.stored === null && !changed.has(person)) people.delete(person.userId)
    }
    if (people.size === 0) sessions.delete(key)
  }

  return {
    enter(who, first) {
      let state: PresenceState | null = null
      let isOver = false
      const to = (next: PresenceState | null) => {
        if (isOver || next === state) return
        const person = personOf(who)
        if (state !== null) moved(person, state, -1)
        if (next !== null) moved(person, next, 1)
        state = next
        isOver = next === null
        look(person)
      }
      to(first)
      return { say: to, leave: () => to(null) }
    },
    hear(note) {
      if (!note?.presence) return
      const key = keyOf(note)
      const session = sessions.get(key)
      if (session === undefined) return
      heard.add(key)
      const { userId, state } = note.presence
      set(session.told, userId, state)
      // Another process has not seen yet that they are there through this one. One who is leaving here is not.
      const person = session.people.get(userId)
      if (person && rankOf(person.said) > rankOf(state)) change(person)
    },
    async stop() {
      stopped = true
      clearTimeout(gathering)
      clearTimeout(beating)
      const people = [...sessions.values()].flatMap((session) => [...session.people.values()])
      for (const { timer } of people) clearTimeout(timer)
      await working
      if (people.some(({ stored }) => stored !== null)) {
        await keepPresence(database, { processId, aliveMs: graceMs, changes: [] }).catch(() => undefined)
      }
    },
  }
}

function noteOf(session: SessionOf, userId: string, state: PresenceState | 'gone'): Note {
  const { tenantId, sessionId } = session
  // Of oneself nothing is told: whoever asks is here.
  const note = passingNote({ tenantId, sessionId }, { type: 'presence', data: { userId, state } }, userId)
  return { ...note, presence: { userId, state } }
}

function pictureOf({ people, elsewhere }: Session, withOwn = true): Told {
  const now: Told = new Map()
  const add = (userId: string, state: PresenceState | null) => {
    if (state !== null && rankOf(state) > rankOf(now.get(userId) ?? null)) now.set(userId, state)
  }
  for (const [userId, ofUser] of elsewhere) for (const state of ofUser.values()) add(userId, state)
  if (withOwn) for (const { userId, stored } of people.values()) add(userId, stored)
  return now
}

function news(
  told: ReadonlyMap<string, PresenceState>,
  now: ReadonlyMap<string, PresenceState>,
): [userId: string, state: PresenceState | 'gone'][] {
  const userIds = new Set([...told.keys(), ...now.keys()])
  return [...userIds].flatMap((userId) => {
    const state = now.get(userId)
    return state === told.get(userId) ? [] : [[userId, state ?? 'gone'] as [string, PresenceState | 'gone']]
  })
}

function set(told: Told, userId: string, state: PresenceState | 'gone'): void {
  if (state === 'gone') told.delete(userId)
  else told.set(userId, state)
}

const rankOf = (state: PresenceState | 'gone' | null) => (state === 'here' ? 2 : state === 'away' ? 1 : 0)

function keyOf({ tenantId, sessionId }: SessionOf): string {
  return `${tenantId}\n${sessionId}`
}
