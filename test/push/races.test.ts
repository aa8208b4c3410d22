/** Notices beside receipts, each other and what comes after: what the statements promise, however they meet (I14, R3.3). */
import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { afterDelivery } from '../../src/core/pushing.ts'
import type { Database } from '../../src/store/database.ts'
import { deviceHash, registerDevice } from '../../src/store/devices.ts'
import { readEpoch } from '../../src/store/epoch.ts'
import {
  giveUpPushes,
  markPushes,
  notify,
  sayPushing,
  spreadPush,
  stillPushing,
  sweepPushes,
  type TakenPush,
  takePushes,
} from '../../src/store/pushes.ts'
import { storeReceipt } from '../../src/store/receipts.ts'
import { deleteSession } from '../../src/store/sessions.ts'
import { acceptTurns, claimOne, finish, writeText } from '../races/held.ts'
import { eventually } from '../support/eventually.ts'
import { seeded } from '../support/random.ts'
import { openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { expoDevice } from './stubs.ts'

let stored: Stored
let databases: Database[]
let database: Database
beforeAll(async () => {
  stored = await openStored(15)
  databases = [stored.open(), stored.open(), stored.open()]
  database = databases[0]!
  // Makes the row in which it stands whether anybody pushes.
  await readEpoch(database, 'epoch')
  for (const name of ['phone', 'tablet']) {
    const device = expoDevice(name)
    await registerDevice(database, { tenantId, userId }, { id: name, device, hash: deviceHash(device), max: 20 })
  }
})
afterAll(() => stored.close())
beforeEach(async () => {
  await stored.query('delete from holdfast.pushes')
  await stored.query('update holdfast.meta set push_app_seen_at = null')
  await sayPushing(database, { graceMs: 0, asksApp: false })
})

const sendingMs = 60_000
const policy = { resend: false, receiptsAfterMs: 1_000 }
const sentMark = (each: TakenPush) => ({ ...each, ...afterDelivery({ outcome: 'sent' }, each.tries, policy, 0) })

async function told(sessionId: string): Promise<number> {
  const ask = { tenantId, sessionId, userId, type: 'app.event', data: '{}', id: randomUUID(), hash: '' }
  const answer = await notify(database, ask)
  if (answer.outcome !== 'published') throw new Error(answer.outcome)
  return answer.event.seq
}

const read = (sessionId: string, seq: number) =>
  storeReceipt(database, { tenantId, sessionId, userId, delivered: null, read: seq })

const statesOf = async (sessionId: string) =>
  (
    await stored.query<{ state: string }>('select state from holdfast.pushes where session_id = $1 order by device', [
      sessionId,
    ])
  ).map(({ state }) => state)

/** What happened, in one order: between two numbers that were asked and answered lies the moment in the database. */
type Receipt = { sessionId: string; seq: number; askedAt: number; answeredAt: number }
type Taking = { state: string; askedAt: number; answeredAt: number }

test('of 1,000 notices whose user is there, goes and comes back meanwhile, none is missed and none comes twice on a device (R3.3, I14)', async () => {
  await sayPushing(database, { graceMs: 250, asksApp: false })
  const sessions = await sessionsOf(database, 50, 'flap')
  const random = seeded(20)
  const receipts: Receipt[] = []
  /** By session, seq and device. */
  const takings = new Map<string, Taking[]>()
  const onTaken = new Map<string, () => void>()
  let clock = 0
  let over = false
  const senders = databases.slice(1).map(async (own) => {
    while (!over) {
      const askedAt = ++clock
      const { taken } = await takePushes(own, 50, sendingMs)
      const answeredAt = ++clock
      for (const { sessionId, seq, device, state } of taken) {
        const key = `${sessionId} ${seq} ${device}`
        takings.set(key, [...(takings.get(key) ?? []), { state, askedAt, answeredAt }])
        onTaken.get(`${sessionId} ${seq}`)?.()
      }
      const sending = taken.filter(({ state }) => state === 'sending')
      if (sending.length > 0) await markPushes(own, sending.map(sentMark))
      else await pause(2)
    }
  })
  const telling = sessions.map(async (sessionId) => {
    for (let at = 0; at < 20; at++) {
      const seq = await told(sessionId)
      const flap = random(4)
      // There, and reads; there, and reads as it falls due; gone until it was delivered; or gone, and then the next one comes.
      if (flap === 1) await pause(random(400))
      if (flap < 2) {
        const askedAt = ++clock
        await read(sessionId, seq)
        receipts.push({ sessionId, seq, askedAt, answeredAt: ++clock })
      } else if (flap === 2) {
        await new Promise<void>((resolve) => onTaken.set(`${sessionId} ${seq}`, resolve))
      }
    }
  })
  await Promise.all(telling)
  await eventually(async () => (await stored.query(`select from holdfast.pushes where state = 'due'`)).length === 0)
  over = true
  await Promise.all(senders)

  expect(takings.size).toBe(2_000)
  const wrong: string[] = []
  const counts: Record<string, number> = {}
  for (const [key, [taking, ...others]] of takings) {
    const [sessionId, seq] = key.split(' ') as [string, string]
    const { state, askedAt, answeredAt } = taking!
    counts[state] = (counts[state] ?? 0) + 1
    const covering = receipts.filter((each) => each.sessionId === sessionId && each.seq >= Number(seq))
    if (others.length > 0) wrong.push(`${key}: taken ${others.length + 1} times`)
    if (state === 'sending' && covering.some((each) => each.answeredAt < askedAt))
      wrong.push(`${key}: sent though read`)
    if (state !== 'sending' && !covering.some((each) => each.askedAt < answeredAt)) wrong.push(`${key}: missed`)
  }
  expect(wrong).toEqual([])
  // It went both ways.
  expect(counts.sending).toBeGreaterThan(100)
  expect(counts.withheld).toBeGreaterThan(100)
})

test('a receipt that is being stored holds nobody up, and one that was answered is seen by whoever takes next (I14)', async () => {
  const [sessionId] = (await sessionsOf(database, 1, 'receipt')) as [string]
  await told(sessionId)
  const storing = new pg.Client(stored.url)
  await storing.connect()
  await storing.query('begin')
  await storing.query(`select holdfast.receive($1, $2, $3, null, 1)`, [tenantId, sessionId, userId])
  const first = await takePushes(database, 1, sendingMs)
  expect(first.taken.map(({ state }) => state)).toEqual(['sending'])
  await storing.query('commit')
  await storing.end()
  const second = await takePushes(database, 100, sendingMs)
  expect(second.taken.map(({ state }) => state)).toEqual(['withheld'])
})

test('what one process takes no other takes, also where it has not committed (I14)', async () => {
  const sessions = await sessionsOf(database, 40, 'both')
  await Promise.all(sessions.map(told))
  const holding = new pg.Client(stored.url)
  await holding.connect()
  await holding.query('begin')
  const held = await holding.query(`select device from holdfast.pushes where session_id = $1 for update`, [sessions[0]])
  expect(held.rows).toHaveLength(2)
  const takes = await Promise.all(databases.flatMap((own) => [takePushes(own, 30, sendingMs), takePushes(own, 30, 1)]))
  const keys = takes.flatMap(({ taken }) => taken).map(({ sessionId, device }) => `${sessionId} ${device}`)
  expect([keys.length, new Set(keys).size]).toEqual([78, 78])
  await holding.query('commit')
  await holding.end()
  expect((await takePushes(database, 30, sendingMs)).taken).toHaveLength(2)
})

test('a reply takes the notice of its question’s place, and what is known of that one says nothing of this one (I14, P193)', async () => {
  const [sessionId] = (await sessionsOf(database, 1, 'again')) as [string]
  await acceptTurns(database, [sessionId])
  const claimed = await claimOne(database)
  const asked = (seq: number) =>
    stored.query(`select holdfast.push_due($1, $2, $3::text, $3::uuid, 'turn.waiting', $4, null, null)`, [
      tenantId,
      sessionId,
      claimed.turnId,
      seq,
    ])
  await asked(2)
  await stored.query(`update holdfast.turns set state = 'waiting'`)
  const { taken: questions } = await takePushes(database, 10, sendingMs)
  expect(questions.map(({ state, event }) => [state, event])).toEqual(Array(2).fill(['sending', 'turn.waiting']))
  await stored.query(`update holdfast.turns set state = 'running'`)
  await writeText(database, claimed, 2)
  await finish(database, claimed, 2)
  await markPushes(database, questions.map(sentMark))
  expect(await statesOf(sessionId)).toEqual(['due', 'due'])
  const { taken: replies } = await takePushes(database, 10, sendingMs)
  expect(replies.map(({ about, event }) => [about, event])).toEqual(
    Array(2).fill([claimed.turnId, 'message.ai_response']),
  )
  // Marks and new events of many devices in either order wait for each other, and never both.
  await Promise.all(
    Array.from({ length: 60 }, (_, at) =>
      at % 2 ? asked(100 + at) : markPushes(databases[1]!, (at % 4 ? replies : [...replies].reverse()).map(sentMark)),
    ),
  )
})

test('a late word of a try that was given up counts, and one of an older try does not (I14)', async () => {
  const [sessionId] = (await sessionsOf(database, 1, 'late')) as [string]
  await told(sessionId)
  const { taken } = await takePushes(database, 10, 1)
  await pause(2)
  expect(await giveUpPushes(database, 10, false)).toBe(2)
  expect(await statesOf(sessionId)).toEqual(['unknown', 'unknown'])
  await markPushes(database, [sentMark(taken[0]!)])
  expect((await statesOf(sessionId)).sort()).toEqual(['sent', 'unknown'])
  await stored.query(`update holdfast.pushes set state = 'sending', due_at = now() - interval '1 s'`)
  expect(await giveUpPushes(database, 10, true)).toBe(2)
  const { taken: again } = await takePushes(database, 10, sendingMs)
  expect(again.map(({ tries }) => tries)).toEqual([2, 2])
  await markPushes(database, taken.map(sentMark))
  expect(await statesOf(sessionId)).toEqual(['sending', 'sending'])
})

test('where nobody pushes nothing is written; old rows are swept, and those of a deleted session go with it', async () => {
  const [sessionId, other] = (await sessionsOf(database, 2, 'old')) as [string, string]
  await stored.query('update holdfast.meta set push_grace_ms = null')
  await told(sessionId)
  expect(await statesOf(sessionId)).toEqual([])
  await sayPushing(database, { graceMs: 0, asksApp: false })
  await Promise.all([told(sessionId), told(other)])
  await markPushes(database, (await takePushes(database, 10, sendingMs)).taken.map(sentMark))
  expect(await sweepPushes(database, 10)).toBe(0)
  await stored.query(`update holdfast.pushes set due_at = now() where session_id = $1`, [sessionId])
  expect(await sweepPushes(database, 10)).toBe(2)
  expect(await statesOf(other)).toEqual(['sent', 'sent'])
  await deleteSession(database, tenantId, other, userId)
  expect(await stored.query('select from holdfast.pushes')).toEqual([])
})

test('marking waits for nobody who locks notices of many sessions, and says which are to be marked again', async () => {
  const [first, second] = (await sessionsOf(database, 2, 'held')) as [string, string]
  await told(first)
  await told(second)
  const { taken } = await takePushes(database, 10, sendingMs)
  expect(taken).toHaveLength(4)
  const expiring = new pg.Client(stored.url)
  await expiring.connect()
  await expiring.query('begin')
  const rewrite = (session: string) =>
    expiring.query(`select holdfast.push_due($1, $2, '1', null, 'app.event', 1, null, '{}')`, [tenantId, session])
  await rewrite(second)
  const held = await markPushes(database, taken.map(sentMark))
  expect(held.map(({ sessionId }) => sessionId)).toEqual([second, second])
  expect(await statesOf(first)).toEqual(['sent', 'sent'])
  // As a sweeper goes on to the next session: nobody who marks holds it.
  await rewrite(first)
  await expiring.query('rollback')
  await expiring.end()
  expect(await markPushes(database, held)).toEqual([])
  expect(await statesOf(second)).toEqual(['sent', 'sent'])
})

const appRows = () =>
  stored.query<{ n: number }>(`select count(*)::int as n from holdfast.pushes where device like 'app:%'`)

test('who keeps tokens is asked by a process that can, as long as one is there, and the deletion of the session waits for nobody (I14)', async () => {
  const [sessionId] = (await sessionsOf(database, 1, 'app')) as [string]
  await sayPushing(database, { graceMs: 0, asksApp: true })
  // Another that started since, and knows of no devices.
  await sayPushing(database, { graceMs: 0, asksApp: false })
  await told(sessionId)
  expect((await takePushes(database, 10, sendingMs)).taken.map(({ state }) => state)).toEqual(['sending', 'sending'])
  const { taken } = await takePushes(database, 10, sendingMs, true)
  expect(taken.map(({ device, state }) => [device, state])).toEqual([[`app:${userId}`, 'due']])

  // As the deletion of the session begins.
  const deleting = new pg.Client(stored.url)
  await deleting.connect()
  await deleting.query('begin')
  await deleting.query('select from holdfast.sessions where id = $1 for update', [sessionId])
  const spread = spreadPush(databases[1]!, taken[0]!, [{ device: 'x', target: expoDevice('x') }])
  await eventually(async () => (await stored.query('select from pg_locks where not granted')).length > 0)
  await deleting.query('delete from holdfast.sessions where id = $1', [sessionId])
  await deleting.query('commit')
  await deleting.end()
  await spread
  expect(await appRows()).toEqual([{ n: 0 }])
})

test('a day after the last process that pushes, or asks the app, nothing is written for it any more', async () => {
  const [sessionId] = (await sessionsOf(database, 1, 'off')) as [string]
  await stillPushing(database, { asksApp: true })
  await stored.query(`update holdfast.meta set push_app_seen_at = now() - interval '25 hours'`)
  await told(sessionId)
  expect(await appRows()).toEqual([{ n: 0 }])
  await stillPushing(database, { asksApp: true })
  await told(sessionId)
  expect(await appRows()).toEqual([{ n: 1 }])
  await stored.query(`update holdfast.meta set push_seen_at = now() - interval '25 hours', push_app_seen_at = null`)
  await stored.query('delete from holdfast.pushes')
  await told(sessionId)
  expect(await statesOf(sessionId)).toEqual([])
})

test('a token that the app keeps is told nothing of its user once somebody else has registered it here (I15)', async () => {
  const [sessionId] = (await sessionsOf(database, 1, 'moved')) as [string]
  await sayPushing(database, { graceMs: 0, asksApp: true })
  await told(sessionId)
  const app = (await takePushes(database, 10, sendingMs, true)).taken.find(({ state }) => state === 'due')!
  const devices = ['moved', 'stays'].map(expoDevice).map((target) => ({ device: deviceHash(target), target }))
  await spreadPush(database, app, devices)
  const bob = { tenantId, userId: 'bob' }
  await registerDevice(database, bob, { id: null, device: devices[0]!.target, hash: devices[0]!.device, max: 20 })
  const { taken } = await takePushes(database, 10, sendingMs)
  const stateOf = (at: number) => taken.find(({ device }) => device === devices[at]!.device)
  expect([stateOf(0), stateOf(1)]).toMatchObject([{ state: 'gone' }, { state: 'sending', isStale: false }])
  // Its service wants it later: by then the app is asked again.
  const later = afterDelivery({ outcome: 'again', why: '' }, 1, policy, 0)
  await markPushes(database, [{ ...stateOf(1)!, ...later, afterMs: 0 }])
  expect((await takePushes(database, 10, sendingMs)).taken).toMatchObject([{ state: 'sending', isStale: true }])
})

test('what was tried for a day has failed, and what nobody tried in a day is withheld', async () => {
  const [sessionId] = (await sessionsOf(database, 1, 'day')) as [string]
  await told(sessionId)
  await stored.query(
    `update holdfast.pushes set at = now() - interval '25 hours', tries = case device when $1 then 9 else 0 end`,
    [deviceHash(expoDevice('phone'))],
  )
  await takePushes(database, 10, sendingMs)
  expect((await statesOf(sessionId)).sort()).toEqual(['failed', 'withheld'])
})
