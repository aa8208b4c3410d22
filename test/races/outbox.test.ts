/** The outbox under takers, adders, renewals and deaths at once: one of a key at a time, in order, and none forgotten (P242). */
import { Client } from 'pg'
import { expect, test } from 'vitest'
import { openDatabase } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrations.ts'
import { endOutbox, renewOutbox, type Taken, takeOutbox } from '../../src/store/outbox.ts'
import { freshDatabase } from '../support/postgres.ts'
import { seeded } from '../support/random.ts'

const keys = ['a', 'b', 'c']
const perAdder = 40
const leaseMs = 60_000

test.each([1, 2])(
  'whatever races, jobs of one key are taken one at a time and in order, and all are done (seed %i, P242)',
  async (seed) => {
    const below = seeded(seed)
    const chance = (percent: number) => below(100) < percent
    const fresh = await freshDatabase(18)
    const database = openDatabase(fresh.url, { poolMax: 12, onError: () => undefined })
    await migrate(database)
    const running = new Map<string, number>()
    const done = new Map<string, string[]>(keys.map((key) => [key, []]))
    let adding = 3
    let died = 0
    let retried = 0

    /** Transactions of different length, so that rows are committed in another order than their numbers. */
    async function add(adder: string): Promise<void> {
      const client = new Client(fresh.url)
      await client.connect()
      for (let at = 0; at < perAdder; at += 2) {
        await client.query('begin')
        for (let each = 0; each < 2; each++) {
          const key = keys[below(keys.length)]
          await client.query(`select holdfast.outbox_add('t', '1', $1, $2)`, [key, `${adder} ${at + each}`])
          if (chance(30)) await client.query('select pg_sleep(0.003)')
        }
        await client.query('commit')
      }
      await client.end()
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
        const { taken } = await takeOutbox(database, { topics: ['t', 'other'], limit: 2, leaseMs })
        await Promise.all(taken.map(doOne))
        const ended = [...done.values()].reduce((sum, each) => sum + each.length, 0)
        if (adding === 0 && ended === 3 * perAdder) return
      }
    }

    try {
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
    } finally {
      await database.close()
      await fresh.drop()
    }
  },
)
