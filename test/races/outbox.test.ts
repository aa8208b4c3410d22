/** The outbox under takers, adders, renewals and deaths at once: one of a key at a time, in order, and none forgotten (P242). */
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrations.ts'
import {
  addToOutbox,
  endOutbox,
  firstKey,
  renewOutbox,
  repairOutbox,
  sweepOutbox,
  type Taken,
  takeOutbox,
} from '../../src/store/outbox.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { seeded } from '../support/random.ts'

const keys = ['a', 'b', 'c']
const perAdder = 40
const leaseMs = 60_000

async function openOutbox(limit = 20) {
  const fresh = await freshDatabase(18)
  const database = openDatabase(fresh.url, { poolMax: 12, onError: () => undefined })
  await migrate(database)
  const clients: Client[] = []
  onTestFinished(async () => {
    for (const each of clients) await each.end()
    await database.close()
    await fresh.drop()
  })
  return {
    database,
    /** On a connection of its own, whose transactions the test ends when it likes. */
    async connect(): Promise<Client> {
      const client = new Client(fresh.url)
      clients.push(client)
      await client.connect()
      return client
    },
    async take() {
      return (await takeOutbox(database, { topics: ['t', 'other'], limits: [limit, limit], leaseMs })).taken
    },
  }
}
const add = (client: Client, id: string) => client.query(`select holdfast.outbox_add('t', '1', 'k', $1)`, [id])
const takeWithin = (client: Client) =>
  client.query(
    `select t ->> 'id' as id from json_array_elements(holdfast.take_outbox('{t}', '{20}', 60000) -> 'taken') t`,
  )

test('one that is committed late is not taken while another of its key is being taken (P242)', async () => {
  const { database, connect, take } = await openOutbox()
  const [late, early, taker] = [await connect(), await connect(), await connect()]
  await late.query('begin')
  await add(late, 'late')
  await add(early, 'early')
  await taker.query('begin')
  expect((await takeWithin(taker)).rows).toEqual([{ id: 'early' }])
  await late.query('commit')
  expect(await take()).toEqual([])
  await taker.query('commit')
  expect(await take()).toEqual([])
  await endOutbox(database, { n: 2, attempt: 1 }, { state: 'done' })
  expect((await take()).map(({ id }) => id)).toEqual(['late'])
})

test('one that is parked while the one before it ends is not forgotten (P242)', async () => {
  const { database, connect, take } = await openOutbox()
  const [adder, taker] = [await connect(), await connect()]
  await add(adder, 'first')
  const [first] = await take()
  await add(adder, 'second')
  await taker.query('begin')
  expect((await takeWithin(taker)).rows).toEqual([])
  let isEnded = false
  const ending = endOutbox(database, first!, { state: 'done' }).then(() => {
    isEnded = true
  })
  const waiting = `select from pg_locks where locktype = 'advisory' and not granted
    and database = (select oid from pg_database where datname = current_database())`
  await eventually(async () => isEnded || (await adder.query(waiting)).rowCount === 1)
  await taker.query('commit')
  await ending
  expect((await take()).map(({ id }) => id)).toEqual(['second'])
})

test('a lease is renewed at once, however many wait for an app’s transaction with the id of their job (P241)', async () => {
  const { database, connect, take } = await openOutbox()
  const client = await connect()
  await add(client, 'runs')
  const [runs] = await take()
  await client.query('begin')
  await add(client, 'held')
  const adding = { tenantId: 'default', topic: 't', payload: '1', key: 'k', id: 'held', delayMs: 0 }
  let ended = 0
  const adds = Array.from({ length: 3 }, () => addToOutbox(database, adding).finally(() => ended++))
  const waiting = `select from pg_locks where locktype = 'transactionid' and not granted`
  await eventually(async () => ended > 0 || (await client.query(waiting)).rowCount! >= 2)
  expect(await renewOutbox(database, [runs!], leaseMs)).toEqual(new Set([runs!.n]))
  expect(ended).toBe(0)
  await client.query('commit')
  await Promise.all(adds)
})

test('those behind a job that somebody has removed by hand go on, a part of the keys at each look (P242)', async () => {
  const { database, connect, take } = await openOutbox()
  const client = await connect()
  const addTo = (key: string) =>
    client.query(`select holdfast.outbox_add('t', '1', $1, $1 || ' ' || i) from generate_series(1, 3) i`, [key])
  for (const key of ['a', 'broken', 'c']) await addTo(key)
  expect((await take()).map(({ id }) => id)).toEqual(['a 1', 'broken 1', 'c 1'])
  await client.query(`delete from holdfast.outbox where id = 'broken 1'`)
  expect(await take()).toEqual([])
  const first = await repairOutbox(database, firstKey, 1)
  expect(first).toEqual({ repaired: 0, next: ['default', 't', 'a'] })
  expect(await repairOutbox(database, first.next, 1)).toEqual({ repaired: 1, next: ['default', 't', 'broken'] })
  expect((await take()).map(({ id }) => id)).toEqual(['broken 2'])
})

test.each([1, 2])(
  'whatever races, jobs of one key are taken one at a time and in order, and all are done (seed %i, P242)',
  async (seed) => {
    const below = seeded(seed)
    const chance = (percent: number) => below(100) < percent
    const { database, connect, take: takeSome } = await openOutbox(2)
    const running = new Map<string, number>()
    const done = new Map<string, string[]>(keys.map((key) => [key, []]))
    let adding = 3
    let died = 0
    let retried = 0

    /** Transactions of different length, so that rows are committed in another order than their numbers. */
    async function add(adder: string): Promise<void> {
      const client = await connect()
      for (let at = 0; at < perAdder; at += 2) {
        await client.query('begin')
        for (let each = 0; each < 2; each++) {
          const key = keys[below(keys.length)]
          await client.query(`select holdfast.outbox_add('t', '1', $1, $2)`, [key, `${adder} ${at + each}`])
          if (chance(30)) await client.query('select pg_sleep(0.003)')
        }
        await client.query('commit')
      }
      adding--
    }

    async function doOne(one: Taken): Promise<void> {
      const key = one.key!
      const before = running.get(key)
      // Of a process that died it may be taken again: nothing else of its key.
      expect([undefined, one.n]).toContain(before)
      running.set(key, one.n)
      if (chance(10)) {
        died++
        await database.query('read', { name: 'die', text: 'update holdfast.outbox set due_at = now() where n = $1' }, [
          one.n,
        ])
        return
      }
      if (chance(30)) await renewOutbox(database, [one], leaseMs)
      running.delete(key)
      if (chance(20)) {
        retried++
        return await endOutbox(database, one, { state: 'due', afterMs: 2, error: 'again' })
      }
      done.get(key)!.push(one.id)
      await endOutbox(database, one, chance(10) ? { state: 'dead', error: 'never' } : { state: 'done' })
    }

    async function take(): Promise<void> {
      for (;;) {
        // Nothing is broken, at whatever moment somebody looks.
        if (chance(20)) expect(await repairOutbox(database, firstKey, 10)).toEqual({ repaired: 0, next: firstKey })
        await Promise.all((await takeSome()).map(doOne))
        const ended = [...done.values()].reduce((sum, each) => sum + each.length, 0)
        if (adding === 0 && ended === 3 * perAdder) return
      }
    }

    await Promise.all([add('x'), add('y'), add('z'), take(), take(), take(), take()])
    expect(died).toBeGreaterThan(3)
    expect(retried).toBeGreaterThan(3)
    // Each once; and what one adder added before another of the key was ended before it.
    const all = [...done.values()].flat()
    expect(new Set(all).size).toBe(3 * perAdder)
    for (const [key, ids] of done) {
      for (const adder of ['x', 'y', 'z']) {
        const own = ids.filter((id) => id.startsWith(adder)).map((id) => Number(id.slice(2)))
        expect(own, key).toEqual([...own].sort((a, b) => a - b))
      }
    }
    const left = await database.query(
      'read',
      { name: 'left', text: `select from holdfast.outbox where state in ('due', 'running')` },
      [],
    )
    expect(left).toEqual([])
    // What has ended is kept for some time, and then removed.
    expect(await sweepOutbox(database, 1_000)).toBe(0)
    const past = { name: 'past', text: `update holdfast.outbox set gone_at = gone_at - interval '30 days'` }
    await database.query('read', past, [])
    expect(await sweepOutbox(database, 1_000)).toBe(3 * perAdder)
  },
)
