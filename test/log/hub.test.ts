/** The feeds of a process, against a real log. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Frame } from '../../src/core/frames.ts'
import { createHub, type Hub, type Sink } from '../../src/log/hub.ts'
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
