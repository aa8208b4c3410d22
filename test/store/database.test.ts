import { createServer } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openDatabase } from '../../src/store/database.ts'
import { apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { type Cluster, freshDatabase, postgresVersions, privateCluster } from '../support/postgres.ts'
import { startProxy } from '../support/proxy.ts'
import { startServer } from '../support/server.ts'

const one = { name: 'one', text: 'select 1 as one' }
const pause = { name: 'pause', text: 'select pg_sleep($1)' }
const open = (url: string) => openDatabase(url, { poolMax: 6, onError: () => undefined })

describe.each(postgresVersions)('the connections of a process, to Postgres %i', (version) => {
  let url: string
  let drop: () => Promise<void>
  beforeEach(async () => {
    const fresh = await freshDatabase(version)
    url = fresh.url
    drop = fresh.drop
  })
  afterEach(() => drop())

  const terminate = (database: ReturnType<typeof open>) =>
    database.query(
      'read',
      {
        name: 'terminate',
        text: `select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()`,
      },
      [],
    )

  test('are all gone at once when they are abandoned: what is and will be asked rejects, and the server sees a dead client', async () => {
    const database = open(url)
    const heard: string[] = []
    const listener = await database.listen('abandoned', { payload: () => undefined, end: () => heard.push('end') })
    // More than there are connections of this purpose, so that some wait for one.
    const under = Array.from({ length: 4 }, () => database.query('turns', pause, [30]))
    const transaction = database.transaction((query) => query('select pg_sleep(30)'))
    const watcher = open(url)
    const others = {
      name: 'others',
      text: `select query from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()`,
    }
    await eventually(async () => (await watcher.query('read', others, [])).length === 4)
    const begun = performance.now()
    database.abandon()
    const asked = await Promise.allSettled([...under, transaction, database.query('read', one, [])])
    expect(asked.map((each) => each.status === 'rejected' && each.reason.kind)).toEqual(asked.map(() => 'abandoned'))
    await expect(database.listen('abandoned', { payload: () => undefined, end: () => undefined })).rejects.toThrow()
    await expect(listener.notify(['x'])).rejects.toThrow()
    expect(heard).toEqual(['end'])
    await database.close()
    // No bound of ours was waited for.
    expect(performance.now() - begun).toBeLessThan(3_000)
    // A backend that sleeps looks up when it has slept; those that were idle have gone.
    await eventually(async () => {
      const left = await watcher.query<{ query: string }>('read', others, [])
      return left.every(({ query }) => query.includes('pg_sleep'))
    })
    await watcher.close()
  })

  test('carry the bounds and the settings that hot plans need', async () => {
    const database = open(url)
    const settings = async (purpose: 'flush' | 'turns' | 'accept' | 'read') =>
      (
        await database.query<{ name: string; setting: string }>(
          purpose,
          {
            name: 'settings',
            text: `select name, setting from pg_settings
        where name in ('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout', 'synchronous_commit',
          'plan_cache_mode', 'enable_seqscan', 'enable_hashjoin', 'enable_mergejoin')`,
          },
          [],
        )
      )
        .map(({ name, setting }) => `${name}=${setting}`)
        .sort()
    for (const purpose of ['flush', 'turns', 'accept', 'read'] as const) {
      expect(await settings(purpose)).toEqual([
        'enable_hashjoin=off',
        'enable_mergejoin=off',
        'enable_seqscan=off',
        'idle_in_transaction_session_timeout=2000',
        'lock_timeout=2000',
        'plan_cache_mode=force_generic_plan',
        'statement_timeout=10000',
        'synchronous_commit=on',
      ])
    }
    await database.close()
  })

  test('that end under a statement leave it unknown, end no process, and are opened again', async () => {
    const database = open(url)
    const under = (['flush', 'turns', 'accept'] as const).map((purpose) =>
      database.query(purpose, pause, [30]).catch((error: unknown) => error),
    )
    const other = open(url)
    await eventually(
      async () =>
        (
          await other.query<{ n: number }>(
            'read',
            {
              name: 'asleep',
              text: `select count(*)::int as n
      from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`,
            },
            [],
          )
        )[0]!.n === 3,
    )
    await terminate(other)
    for (const error of await Promise.all(under))
      expect(error).toMatchObject({ name: 'DatabaseError', kind: 'unknown' })
    for (const purpose of ['flush', 'turns', 'accept'] as const)
      expect(await database.query(purpose, one, [])).toEqual([{ one: 1 }])
    await Promise.all([database.close(), other.close()])
  })

  test('that are cut under a statement without a word leave it unknown and end no process', async () => {
    const { hostname: host, port } = new URL(url)
    const proxy = await startProxy({ target: { host, port: Number(port) } })
    const database = open(Object.assign(new URL(url), { port: `${proxy.port}` }).href)
    await database.query('turns', one, [])
    const asleep = new Promise<void>((resolve) => {
      proxy.watch({
        onUpstream: () => {
          resolve()
          return 'pass'
        },
      })
    })
    const under = database.query('turns', pause, [30]).catch((error: unknown) => error)
    await asleep
    proxy.cutAll()
    expect(await under).toMatchObject({ name: 'DatabaseError', kind: 'unknown' })
    expect(await database.query('turns', one, [])).toEqual([{ one: 1 }])
    await database.close()
    await proxy.close()
  })

  test('undo a transaction whose work throws, and pass on what it threw', async () => {
    const database = open(url)
    const thrown = new RangeError('of the work itself')
    const refused = database.transaction(async (query) => {
      await query('create table t (a int)')
      throw thrown
    })
    await expect(refused).rejects.toBe(thrown)
    await expect(database.transaction((query) => query('select * from t'))).rejects.toMatchObject({
      code: '42P01',
      kind: 'bug',
    })
    await database.close()
  })

  test('tell what they are told at once in its order, one query at a time', async () => {
    const database = open(url)
    const warnings: string[] = []
    const warn = (warning: Error) => void warnings.push(warning.message)
    process.on('warning', warn)
    const heard: string[] = []
    const listener = await database.listen('holdfast', {
      payload: (text) => void heard.push(text),
      end: () => undefined,
    })
    const told = Array.from({ length: 50 }, (_, at) => String(at))
    await Promise.all(told.map((each) => listener.notify([each])))
    await eventually(async () => heard.length === told.length)
    process.off('warning', warn)
    expect({ heard, warnings }).toEqual({ heard: told, warnings: [] })
    await listener.close()
    await database.close()
  })

  test('listen until they end, and say so once', async () => {
    const database = open(url)
    const heard: string[] = []
    let ends = 0
    const listener = await database.listen('holdfast', {
      payload: (text) => void heard.push(text),
      end: () => void ends++,
    })
    await listener.notify(['a', 'b'])
    await eventually(async () => heard.length === 2)
    await terminate(database)
    await eventually(async () => ends > 0)
    await expect(listener.notify(['c'])).rejects.toThrow()
    await listener.close()
    expect({ heard, ends }).toEqual({ heard: ['a', 'b'], ends: 1 })
    await database.close()
  })
})

test('a busy process has as many connections as docs/options.md says: poolMax, one that listens, one for transactions', async () => {
  const database = await freshDatabase(18)
  const server = await startServer({ database: database.url, env: { HOLDFAST_POOL_MAX: '7' } })
  const ann = await apiOf(server.url)
  const sessions = await Promise.all(Array.from({ length: 8 }, () => ann.createSession()))
  const asking = open(database.url)
  const count = async () =>
    (
      await asking.query<{ n: number }>(
        'read',
        {
          name: 'connections',
          text: `select count(*)::int as n from pg_stat_activity
      where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()`,
        },
        [],
      )
    )[0]!.n
  // Those for statements stay open once they were needed; the eighth and ninth are the listener's and the sweeper's.
  await eventually(async () => {
    await Promise.all(
      sessions.flatMap((each) => [
        ann.send(each, 'hi'),
        ann.snapshot(each),
        ann.command(each, 'none', 'stop').catch(() => undefined),
      ]),
    )
    return (await count()) >= 9
  })
  await Promise.all(sessions.map((each) => ann.snapshot(each)))
  expect(await count()).toBe(9)
  await asking.close()
  expect(await server.stop()).toBe(0)
  await database.drop()
})

test('a listener that cannot be opened is told by the rejection alone: told twice, it would be opened twice', async () => {
  const nobody = createServer((socket) => socket.destroy())
  await new Promise<void>((resolve) => nobody.listen(0, '127.0.0.1', resolve))
  const { port } = nobody.address() as { port: number }
  const database = open(`postgresql://postgres@127.0.0.1:${port}/postgres`)
  let ends = 0
  await expect(database.listen('holdfast', { payload: () => undefined, end: () => void ends++ })).rejects.toMatchObject(
    {
      kind: 'refused',
    },
  )
  await expect(database.query('read', one, [])).rejects.toMatchObject({ kind: 'refused' })
  await new Promise((resolve) => nobody.close(resolve))
  expect(ends).toBe(0)
  await database.close()
})

describe('a server that hangs', () => {
  let cluster: Cluster
  beforeEach(async () => {
    cluster = await privateCluster(18)
  })
  afterEach(() => cluster.remove())

  test('leaves a statement unknown and what comes after it refused, answers again when it goes on, and holds up no end', async () => {
    const database = open(cluster.url)
    await database.query('flush', one, [])
    const listener = await database.listen('holdfast', { payload: () => undefined, end: () => undefined })
    await cluster.freeze()
    await expect(database.query('flush', one, [])).rejects.toMatchObject({ kind: 'unknown' })
    await expect(database.query('flush', one, [])).rejects.toMatchObject({ kind: 'refused' })
    await cluster.thaw()
    expect(await database.query('flush', one, [])).toEqual([{ one: 1 }])
    await cluster.freeze()
    await Promise.all([listener.close(), database.close()])
    await cluster.thaw()
  })
})
