import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { createSeal } from '../../src/log/seal.ts'
import { createWakeups } from '../../src/log/wakeups.ts'
import { createSweeper } from '../../src/runner/sweeper.ts'
import { acceptTurns, claimAll, claimOne, finish, writeText } from '../races/held.ts'
import { openStored, sessionsOf } from '../support/stored.ts'

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

  const logged: string[] = []
  const log = (line: string) => void logged.push(line)
  const wakeups = createWakeups({ database, seal: createSeal('key', randomUUID()), log, enabled: false })
  await createSweeper({ database, wakeups, everyMs: 60_000, roundsMax: 10, log }).sweep()

  expect((await claimAll(database, 'a')).claimed.map(({ sessionId }) => sessionId)).toEqual([waiting])
  expect(await stored.query('select from holdfast.chunks')).toEqual([])
  expect(logged).toEqual(['lanes without a due head were repaired', 'statistics not refreshed'])
})
