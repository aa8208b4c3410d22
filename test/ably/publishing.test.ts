/** Who publishes what and when, with a real log and database, and a service that takes or refuses as the test says. */
import pg from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createHub, type Hub, type Sink } from '../../src/log/hub.ts'
import { createPublishing, type Publication, type Publisher } from '../../src/log/publishing.ts'
import type { Database } from '../../src/store/database.ts'
import { publish } from '../../src/store/publish.ts'
import { claimPublishing, publisherSeen, renewPublishing } from '../../src/store/publishers.ts'
import { eventually } from '../support/eventually.ts'
import { openStored, type Stored, sessionsOf, tenantId } from '../support/stored.ts'

let stored: Stored
let database: Database
let hub: Hub
let stop: () => Promise<void>
let lines: string[]
beforeEach(async () => {
  stored = await openStored(18)
  database = stored.open()
  await publisherSeen(database, 'service')
  hub = createHub({ database, epoch: 'e', readEpoch: async () => 'e', pollMs: 10_000, log: () => undefined })
  stop = async () => undefined
  lines = []
})
afterEach(async () => {
  await stop()
  hub.stop()
  await stored.close()
})

function startPublishing(
  service: Partial<Publisher>,
  by: Hub = hub,
  held?: { heldMax: number; heldLeastMs: number },
): void {
  const publisher: Publisher = {
    name: 'service',
    publish: async () => undefined,
    reset: async () => undefined,
    chunksEveryMs: () => 40,
    ...service,
  }
  const publishing = createPublishing({
    database,
    hub: by,
    publisher,
    holder: 'here',
    leaseMs: 15_000,
    pollMs: 50,
    ...held,
    log: (line) => lines.push(line),
  })
  stop = () => publishing.stop()
  publishing.start()
}

async function write(sessionId: string, count: number): Promise<void> {
  for (let at = 0; at < count; at++) {
    const event = { tenantId, sessionId, type: 'app.said', audience: null, data: `${at}`, id: `i${at}`, hash: 'h' }
    await publish(database, event)
  }
}

/** The hub, with what the test does to each follower's sink. */
const hubWith = (around: (sink: Sink) => Sink): Hub => ({
  ...hub,
  follow: (who, sink) => hub.follow(who, around(sink)),
})

test('where the service refuses, nothing waits on for room in the queue', async () => {
  await sessionsOf(database, 1)
  await write('s0', 201)
  let [waited, waiting, refused] = [0, 0, 0]
  const watched = hubWith((sink) => ({
    ...sink,
    room() {
      const room = sink.room()
      if (room !== null) {
        waited++
        waiting++
        void room.then(() => waiting--)
      }
      return room
    },
  }))
  const untilWaiting = () => eventually(async () => waited > 0)
  startPublishing(
    {
      async publish() {
        await untilWaiting()
        refused++
        throw new Error('not now')
      },
    },
    watched,
  )
  await eventually(async () => refused === 1)
  await eventually(async () => waiting === 0, 2_000)
})

test('where the log is another one, what was waiting to be published is dropped, and the reset is told (P184)', async () => {
  await sessionsOf(database, 1)
  await write('s0', 3)
  const sinks: Sink[] = []
  let epoch = 'e'
  const watched = hubWith((sink) => {
    sinks.push(sink)
    return sink
  })
  watched.epoch = () => epoch
  const told: string[] = []
  let goOn: () => void = () => undefined
  startPublishing(
    {
      async publish({ epoch: of, items }: Publication) {
        told.push(...items.flatMap((item) => ('event' in item ? [`${of}-${item.event.seq}`] : [])))
        await new Promise<void>((resolve) => {
          goOn = resolve
        })
      },
      async reset(_session, reason) {
        told.push(reason)
      },
    },
    watched,
  )
  await eventually(async () => told.length === 1)
  epoch = 'f'
  sinks[0]!.control({ type: 'reset', reason: 'epoch' })
  sinks[0]!.end()
  goOn()
  await eventually(async () => told.includes('epoch'))
  expect(told).toEqual(['e-1', 'epoch'])
})

test('renewing waits for no writer of events, in whatever order that locks sessions; what it cannot renew is not lost (I4)', async () => {
  await sessionsOf(database, 3)
  for (const id of ['s0', 's1', 's2']) await write(id, 1)
  const who = { publisher: 'service', holder: 'here' }
  const held = await claimPublishing(database, who, { leaseMs: 15_000, limit: 10 })
  const of = (some: Set<(typeof held)[number]>) => [...some].map(({ sessionId }) => sessionId).sort()
  await stored.query("update holdfast.publishing set holder = 'there', fence = fence + 1 where session_id = 's2'")
  const writer = new pg.Client({ connectionString: stored.url })
  await writer.connect()
  try {
    await writer.query("begin; update holdfast.publishing set last_seq = last_seq where session_id = 's1'")
    const { still, renewed } = await renewPublishing(database, who, held, 15_000)
    expect({ still: of(still), renewed: of(renewed) }).toEqual({ still: ['s0', 's1'], renewed: ['s0'] })
    await writer.query('commit')
    expect(of((await renewPublishing(database, who, held, 15_000)).renewed)).toEqual(['s0', 's1'])
  } finally {
    await writer.end()
  }
})

test('with more open replies than a process follows at once the sessions take turns, and the log says so', async () => {
  await sessionsOf(database, 2)
  await write('s0', 1)
  // An attempt is open there that goes on and on.
  await stored.query("update holdfast.publishing set published_seq = 1, cursor = 'e.1.1:1:1', is_open = true")
  await write('s1', 1)
  const published: string[] = []
  const service = { publish: async ({ sessionId }: Publication) => void published.push(sessionId) }
  startPublishing(service, hub, { heldMax: 1, heldLeastMs: 100 })
  await eventually(async () => published.includes('s1'))
  expect(lines).toEqual([expect.stringContaining('they take turns')])
})

test('a session that was deleted while nobody published it is told once, by whoever publishes next (P184)', async () => {
  await sessionsOf(database, 2)
  for (const id of ['s0', 's1']) await write(id, 1)
  await stored.query('update holdfast.publishing set published_seq = 1')
  await stored.query("select holdfast.delete_session($1, 's0')", [tenantId])
  const told: string[] = []
  startPublishing({ reset: async ({ sessionId }, reason) => void told.push(`${sessionId} ${reason}`) })
  const left = () => stored.query<{ session_id: string }>('select session_id from holdfast.publishing')
  await eventually(async () => (await left()).length === 1)
  expect(told).toEqual(['s0 gone'])
  expect(await left()).toEqual([{ session_id: 's1' }])
})
