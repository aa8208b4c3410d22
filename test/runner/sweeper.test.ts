import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { createSeal } from '../../src/log/seal.ts'
import { createWakeups } from '../../src/log/wakeups.ts'
import { createSweeper } from '../../src/runner/sweeper.ts'
import { waitIfHeld } from '../../src/store/asks.ts'
import type { Database } from '../../src/store/database.ts'
import { publish } from '../../src/store/publish.ts'
import { acceptTurns, claimAll, claimOne, finish, writeText } from '../races/held.ts'
import { openStored, sessionsOf, tenantId } from '../support/stored.ts'

function sweeperOf(database: Database) {
  const logged: string[] = []
  const log = (line: string, { jobs, error }: { jobs?: string; error?: string } = {}) =>
    void logged.push(jobs === undefined ? (error ?? line) : `${line} of ${jobs}`)
  const wakeups = createWakeups({ database, seal: createSeal('key', randomUUID()), log, enabled: false })
  return {
    sweeper: createSweeper({ database, wakeups, everyMs: 60_000, roundsMax: 10, priceOf: () => null, log }),
    logged,
  }
}

/** A turn in each session that waits with a question whose time is over, and one behind it that nobody made due. */
async function openOverdue(count: number) {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const database = stored.open()
  const sessions = await sessionsOf(database, count)
  await acceptTurns(database, sessions)
  const { claimed } = await claimAll(database, 'a')
  for (const key of claimed) {
    const ask = { kind: 'budget', id: 'b', callId: '', name: 'steps', inputHash: '', used: 1, max: 1 } as const
    const asked = { nextIndex: 0, checkpoint: null, model: null, shown: [], expiresMs: 1, holdsLane: true }
    await waitIfHeld(database, key, { ...asked, asks: [ask] }, [])
  }
  // In order, the first one first.
  await stored.query(
    `update holdfast.asks set expires_at = now() - interval '1 h' + substr(session_id, 2)::int * interval '1 s'`,
  )
  const open = async () =>
    (
      await stored.query<{ session_id: string }>(
        `select session_id from holdfast.asks where state = 'open' order by session_id`,
      )
    ).map((row) => row.session_id)
  return { stored, database, sessions, open, ...sweeperOf(database) }
}

test('a question that cannot be ended keeps no other waiting, and neither does a turn (P115)', async () => {
  const { stored, database, open, sweeper, logged } = await openOverdue(3)
  const [never] = await sessionsOf(database, 1, 'never')
  const [early] = await sessionsOf(database, 1, 'early')
  await acceptTurns(database, [early!, never!])
  await stored.query(`update holdfast.turns set expires_at = now() - interval '1 s' where session_id = 'never0'`)
  await stored.query(`update holdfast.turns set expires_at = now() - interval '2 s' where session_id = 'early0'`)
  await stored.query(`create function public.spoil() returns trigger language plpgsql as $$
    begin if new.session_id in ('s0', 'early0') then raise exception 'spoilt: %', new.session_id; end if; return new; end $$`)
  await stored.query(
    'create trigger spoilt before insert on holdfast.events for each row execute function public.spoil()',
  )
  await sweeper.sweep()
  expect(await open()).toEqual(['s0'])
  expect(
    await stored.query(`select session_id, state from holdfast.turns where session_id ~ 'never|early' order by 1`),
  ).toEqual([
    { session_id: 'early0', state: 'queued' },
    { session_id: 'never0', state: 'failed' },
  ])
  expect(logged).toEqual(['spoilt: early0', 'spoilt: s0'])
  await stored.query('drop trigger spoilt on holdfast.events')
  await sweeper.sweep()
  expect(await open()).toEqual([])
})

test('a job that fails keeps no other from running, and where all are too much takes one the next time (P115, I2)', async () => {
  const { stored, database, open, sweeper, logged } = await openOverdue(3)
  const [due] = await sessionsOf(database, 1, 'due')
  await acceptTurns(database, [due!])
  await stored.query(`update holdfast.turns set due_at = null where session_id = 'due0'`)
  // As the database cancels what takes too long: no row is the bad one.
  await stored.query(`create function public.cancel() returns trigger language plpgsql as $$
    begin
      if current_setting('test.seen', true) = 'yes' then raise exception 'too long' using errcode = '57014'; end if;
      perform set_config('test.seen', 'yes', true);
      return new;
    end $$`)
  await stored.query(
    'create trigger cancelled before insert on holdfast.events for each row execute function public.cancel()',
  )
  await sweeper.sweep()
  expect((await claimAll(database, 'a')).claimed.map(({ sessionId }) => sessionId)).toEqual([due])
  expect(logged).toEqual(['lanes without a due head were repaired', 'sweep failed of questions'])
  expect(await open()).toEqual(['s0', 's1', 's2'])
  await sweeper.sweep()
  expect(await open()).toEqual(['s1', 's2'])
})

test('lanes are repaired and chunks swept while somebody vacuums what the planner has to look at (I2)', async () => {
  const stored = await openStored(18)
  const database = stored.open()
  const vacuuming = new Client(stored.url)
  await vacuuming.connect()
  onTestFinished(async () => {
    await vacuuming.end()
    await stored.close()
  })
  const [done, waiting] = await sessionsOf(database, 2)
  await acceptTurns(database, [done!])
  const claimed = await claimOne(database)
  await writeText(database, claimed, 3)
  await finish(database, claimed, 3)
  await stored.query('update holdfast.turns set sweep_at = now() where id = $1', [claimed.turnId])
  await acceptTurns(database, [waiting!])
  await stored.query('update holdfast.turns set due_at = null where session_id = $1', [waiting])
  // The table has grown so much that it is looked at, which waits for the lock of a vacuum.
  await vacuuming.query(
    `insert into holdfast.deleted_sessions (tenant_id, id) select 'default', n from generate_series(1, 500) n`,
  )
  await vacuuming.query('select pg_stat_force_next_flush()')
  await vacuuming.query('begin')
  await vacuuming.query('lock table holdfast.deleted_sessions in share update exclusive mode')

  const { sweeper, logged } = sweeperOf(database)
  await sweeper.sweep()

  expect((await claimAll(database, 'a')).claimed.map(({ sessionId }) => sessionId)).toEqual([waiting])
  expect(await stored.query('select from holdfast.chunks')).toEqual([])
  expect(logged).toEqual(['lanes without a due head were repaired', 'sweep failed of statistics'])
})

test('the id of an event that was published 30 days ago is forgotten, a younger one is not (P155)', async () => {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const database = stored.open()
  const [sessionId] = await sessionsOf(database, 1)
  const { sweeper } = sweeperOf(database)
  const say = async (id: string) =>
    (
      await publish(database, {
        tenantId,
        sessionId: sessionId!,
        type: 'a.b',
        audience: null,
        data: '1',
        id,
        hash: 'h',
      })
    ).outcome
  expect(await say('old 0')).toBe('published')
  // More than are taken at once.
  await stored.query(`insert into holdfast.published select tenant_id, session_id, 'old ' || n, hash, seq, at
    from holdfast.published, generate_series(1, 100) n`)
  await stored.query(`update holdfast.published set at = now() - interval '30 days 1 hour'`)
  expect(await say('young')).toBe('published')
  await stored.query(`update holdfast.published set at = now() - interval '29 days 23 hours' where id = 'young'`)
  await sweeper.sweep()
  expect(await stored.query('select id from holdfast.published')).toEqual([{ id: 'young' }])
  expect(await say('young')).toBe('same')
  expect(await say('old 0')).toBe('published')
})

test('a job that waits for one that somebody has removed by hand is made due, and an operator is told (P242)', async () => {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const { sweeper, logged } = sweeperOf(stored.open())
  await stored.query(`insert into holdfast.outbox (topic, id, key, payload) values ('t', 'left', 'k', '1')`)
  await sweeper.sweep()
  expect(await stored.query('select due_at <= now() as is_due from holdfast.outbox')).toEqual([{ is_due: true }])
  expect(logged).toEqual(['jobs that waited for one that is gone were repaired'])
})
