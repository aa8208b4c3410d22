/** The feeds of a process, against a real log. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Frame } from '../../src/core/frames.ts'
import { createHub, type Hub, type Sink } from '../../src/log/hub.ts'
import { passingNote } from '../../src/log/wakeups.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import type { Database } from '../../src/store/database.ts'
import { eventually } from '../support/eventually.ts'
import { acceptanceOf, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'

let stored: Stored
let database: Database
let hub: Hub
beforeEach(async () => {
  stored = await openStored(18)
  database = stored.open()
  hub = createHub({ database, epoch: 'e', readEpoch: async () => 'e', pollMs: 10_000, log: () => undefined })
})
afterEach(async () => {
  hub.stop()
  await stored.close()
})

function collector() {
  const frames: Frame[] = []
  const sink: Sink = {
    send: (some) => void frames.push(...some),
    control: () => undefined,
    room: () => null,
    end: () => undefined,
  }
  return { sink, frames }
}

test('a follower that begins in the very moment in which the last other one stops is woken (I5)', async () => {
  const acceptor = createAcceptor(database)
  // By so many microtasks later: in one of them the feed stands, and is forgotten before the new follower is in it.
  const moments = Array.from({ length: 12 }, (_, at) => at)
  const sessions = await sessionsOf(database, moments.length)
  for (const at of moments) {
    const place = { tenantId, sessionId: sessions[at]!, userId, cursor: null }
    const leaving = await hub.follow(place, collector().sink)
    const { sink, frames } = collector()
    const beginning = hub.follow(place, sink)
    for (let passed = 0; passed < at; passed++) await null
    leaving!.stop()
    await beginning
    await acceptor.accept(acceptanceOf(place.sessionId))
    hub.hear(null)
    const isWoken = await eventually(async () => frames.length === 1, 5_000).catch(() => false)
    expect([at, isWoken]).toEqual([at, true])
  }
})

/** A hub that polls, and what it asks of the database: `onBehind` is called when a poll finds a session with more. */
async function polling(onBehind: () => void) {
  hub.stop()
  const asked: string[] = []
  const seen: Database = {
    ...database,
    async query<Row>(...[purpose, statement, values]: Parameters<Database['query']>) {
      const rows = await database.query<Row>(purpose, statement, values)
      asked.push(statement.name)
      if (statement.name === 'poll-log' && rows.length > 0) onBehind()
      return rows
    },
  }
  hub = createHub({ database: seen, epoch: 'e', readEpoch: async () => 'e', pollMs: 100, log: () => undefined })
  hub.start()
  const [sessionId] = await sessionsOf(database, 1)
  const { sink, frames } = collector()
  await hub.follow({ tenantId, sessionId: sessionId!, userId, cursor: null }, sink)
  const reads = () => asked.filter((name) => name === 'read-after').length
  await eventually(async () => reads() === 1)
  return { asked, reads, frames, sessionId: sessionId! }
}

test('what a poll finds and a wakeup brings in the same moment is not read once more', async () => {
  let told: () => void = () => undefined
  const { asked, reads, frames, sessionId } = await polling(() => told())
  told = () => {
    told = () => undefined
    hub.hear({ tenantId, sessionId, events: [event], runs: [], due: false })
  }
  const accepted = await createAcceptor(database).accept(acceptanceOf(sessionId))
  const { event } = accepted as Extract<typeof accepted, { outcome: 'created' }>
  await eventually(async () => frames.length === 1)
  const polls = asked.length
  await eventually(async () => asked.slice(polls).filter((name) => name === 'poll-log').length >= 3)
  expect({ reads: reads(), frames: frames.length }).toEqual({ reads: 1, frames: 1 })
})

test('what a poll finds and no wakeup brings is read (I8)', async () => {
  const { reads, frames, sessionId } = await polling(() => undefined)
  await createAcceptor(database).accept(acceptanceOf(sessionId))
  await eventually(async () => frames.length === 1)
  expect(reads()).toBe(2)
})

test('what is told in passing comes to who is live and has room, and is not kept for the others (P145)', async () => {
  const [sessionId] = await sessionsOf(database, 1)
  const who = { tenantId, sessionId: sessionId!, cursor: null }
  await stored.query(`insert into holdfast.members (tenant_id, session_id, user_id, role)
    select '${tenantId}', '${sessionId}', x, 'member' from unnest('{bob,full}'::text[]) x`)
  const told: string[] = []
  const follow = (userId: string, more: Partial<Sink> = {}) =>
    hub.follow({ ...who, userId }, { ...collector().sink, pass: (json) => told.push(`${userId} ${json}`), ...more })
  const note = (isTyping: boolean, notTo: string | null) =>
    passingNote(who, { type: 'typing', data: { userId, isTyping, lastsMs: 0 } }, notTo)
  await follow('bob')
  let isFull = false
  await follow('full', {
    // Live, and then it takes no more.
    control: () => {
      isFull = true
    },
    room: () => (isFull ? new Promise(() => undefined) : null),
  })
  await follow(userId)
  // The last one has not been read for yet.
  hub.hear(note(true, null))
  expect(told.filter((each) => each.startsWith(userId))).toEqual([])
  await eventually(async () => isFull)
  await eventually(async () => {
    told.splice(0)
    hub.hear(note(true, null))
    return told.length === 2
  })
  expect(told.map((each) => each.split(' ')[0]).sort()).toEqual([userId, 'bob'].sort())
  told.splice(0)
  hub.hear(note(false, userId))
  expect(told.map((each) => each.split(' ')[0])).toEqual(['bob'])
  expect(JSON.parse(told[0]!.slice('bob '.length))).toEqual({
    ...{ type: 'typing', data: { userId, isTyping: false, lastsMs: 0 } },
  })
})
