import { spawn } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openDatabase } from '../../src/store/database.ts'
import { readEpoch } from '../../src/store/epoch.ts'
import { MigrationError, migrate, schemaState } from '../../src/store/migrations.ts'
import { apiOf } from '../support/client.ts'
import { freshDatabase, postgresVersions } from '../support/postgres.ts'
import { startProvider } from '../support/provider.mjs'
import { startServer } from '../support/server.ts'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const sqlFiles = fileURLToPath(new URL('../../sql/', import.meta.url))

describe.each(postgresVersions)('the schema on Postgres %i', (version) => {
  let database: Awaited<ReturnType<typeof freshDatabase>>
  beforeEach(async () => {
    database = await freshDatabase(version)
  })
  afterEach(() => database.drop())

  const opened = async <T>(work: (store: ReturnType<typeof openDatabase>) => Promise<T>): Promise<T> => {
    const store = openDatabase(database.url, { poolMax: 6, onError: () => undefined })
    return await work(store).finally(() => store.close())
  }
  const ask = async (text: string) => {
    const client = new pg.Client(database.url)
    await client.connect()
    return (await client.query(text).finally(() => client.end())).rows
  }

  test('is brought by `holdfast migrate`, once', async () => {
    const names = (await readdir(sqlFiles)).sort()
    expect(await holdfast(['migrate'])).toEqual({ code: 0, stdout: `Applied ${names.join(', ')}.\n`, stderr: '' })
    expect(await holdfast(['migrate'])).toEqual({ code: 0, stdout: 'The schema is up to date.\n', stderr: '' })
    expect(await opened(schemaState)).toEqual({ state: 'current', pending: [] })
  })

  test('is printed by `holdfast migrate --print` and left as it is', async () => {
    const names = (await readdir(sqlFiles)).sort()
    const files = await Promise.all(names.map(async (name) => [name, await readFile(`${sqlFiles}${name}`, 'utf8')]))
    const { code, stdout } = await holdfast(['migrate', '--print'])
    expect(code).toBe(0)
    expect(stdout).toBe(files.map(([name, sql]) => `-- ${name}\n${sql}\n`).join(''))
    expect(await ask(`select 1 from information_schema.schemata where schema_name = 'holdfast'`)).toEqual([])
  })

  test('is not touched by a server in production that finds it behind: it says what to do, and ends', async () => {
    const { code, stderr } = await holdfast(['serve'], { NODE_ENV: 'production' })
    expect(code).toBe(1)
    expect(stderr.trim().split('\n')).toHaveLength(1)
    expect(stderr).toContain('holdfast migrate')
    expect(await ask(`select 1 from information_schema.schemata where schema_name = 'holdfast'`)).toEqual([])
    await opened(migrate)
    const server = await startServer({ database: database.url, env: { NODE_ENV: 'production' } })
    expect(await server.stop()).toBe(0)
  })

  test('is brought by a server that is not in production, by itself, at its first start and not at its second', async () => {
    for (const _ of [1, 2]) {
      const server = await startServer({ database: database.url })
      expect((await fetch(`${server.url}/readyz`)).status).toBe(200)
      expect(await server.stop()).toBe(0)
    }
    expect(await opened(schemaState)).toEqual({ state: 'current', pending: [] })
  })

  test('is brought once by four processes that start together', async () => {
    const applied = await Promise.all([1, 2, 3, 4].map(() => opened(migrate)))
    expect(applied.filter((names) => names.length > 0)).toHaveLength(1)
    expect(await ask('select count(*)::int as n from holdfast.migrations where version > 0')).toEqual([
      { n: (await readdir(sqlFiles)).length },
    ])
  })

  test('is refused when an applied file was edited since', async () => {
    await opened(migrate)
    await ask(`update holdfast.migrations set md5 = 'of another text' where version = 1`)
    const refused = await opened(migrate).catch((error: unknown) => error)
    expect(refused).toBeInstanceOf(MigrationError)
    expect((refused as Error).message).toContain('migration [1]')
    expect((await holdfast(['migrate'])).code).toBe(1)
  })

  test('of a newer version is left alone by an older one', async () => {
    await opened(migrate)
    await ask(`insert into holdfast.migrations (version, name, md5) values (9999, 'newer', 'x')`)
    expect(await opened(schemaState)).toEqual({ state: 'ahead', pending: [] })
    expect(await opened(migrate)).toEqual([])
    expect(await ask('select max(version)::int as n from holdfast.migrations')).toEqual([{ n: 9999 }])
  })

  test('leaves nothing half done when it fails in the middle', async () => {
    await ask('create schema holdfast')
    await ask('create table holdfast.usage (a int)')
    await expect(opened(migrate)).rejects.toMatchObject({ name: 'DatabaseError', code: '42P07' })
    expect(await ask(`select table_name from information_schema.tables where table_schema = 'holdfast'`)).toEqual([
      { table_name: 'usage' },
    ])
  })

  test('has the tenant in every key of every table that holds anything of a user (I15)', async () => {
    await opened(migrate)
    const keys = await ask(`
      select c.relname as table, exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id'
            and a.attnotnull and a.attnum = any(i.indkey))
          and exists (select from pg_index p where p.indrelid = c.oid and p.indisprimary) as "hasTenant"
        from pg_class c left join pg_index i on i.indrelid = c.oid and i.indisunique
       where c.relnamespace = 'holdfast'::regnamespace and c.relkind in ('r', 'p')`)
    const without = keys.filter(({ hasTenant }) => !hasTenant).map(({ table }) => table)
    // The log's epoch, which files were applied, which processes live, and over what is published or sent on: of all
    // tenants. A device is one user's, of whichever tenant: its address is the key.
    expect(without.toSorted()).toEqual(['devices', 'meta', 'migrations', 'processes', 'publishers', 'webhooks'])
    expect(keys.length).toBeGreaterThan(9)
  })

  test('that changes beside a running process costs it no answer', async () => {
    await opened(migrate)
    await opened(async (store) => {
      const statement = { name: 'all-of-meta', text: 'select * from holdfast.meta' }
      await store.query('read', statement, [])
      await ask('alter table holdfast.meta add column later int')
      await expect(store.query('read', statement, [])).rejects.toMatchObject({ kind: 'conflict', code: '0A000' })
      expect(await store.query('read', statement, [])).toEqual([])
    })
  })

  async function holdfast(args: string[], env: Record<string, string> = {}) {
    const { PATH, HOME } = process.env
    const child = spawn(process.execPath, [main, ...args], {
      env: { PATH, HOME, DATABASE_URL: database.url, PORT: '0', HOLDFAST_JWT_SECRET: 'x'.repeat(32), ...env },
    })
    const output = { stdout: '', stderr: '' }
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output.stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      output.stderr += text
    })
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
    return { code, ...output }
  }
})

describe.each(postgresVersions)('the epoch on Postgres %i', (version) => {
  let database: Awaited<ReturnType<typeof freshDatabase>>
  beforeEach(async () => {
    database = await freshDatabase(version)
    const store = openDatabase(database.url, { poolMax: 6, onError: () => undefined })
    await migrate(store).finally(() => store.close())
  })
  afterEach(() => database.drop())

  test('stays while the database is the same, and is the same for all who ask first', async () => {
    const store = openDatabase(database.url, { poolMax: 6, onError: () => undefined })
    const other = openDatabase(database.url, { poolMax: 6, onError: () => undefined })
    const epochs = await Promise.all([readEpoch(store, 'first111'), readEpoch(other, 'second22')])
    epochs.push(await readEpoch(store, 'third333'))
    await Promise.all([store.close(), other.close()])
    expect(new Set(epochs).size).toBe(1)
  })

  test.each([
    ['system identifier', `system_identifier = 'of the server that was backed up'`],
    ['timeline', 'timeline = timeline + 1'],
  ])('changes with the %s, and a follower with an old cursor is told to start over', async (_, change) => {
    const provider = await startProvider()
    const server = await startServer({ database: database.url, provider: provider.url })
    const ann = await apiOf(server.url)
    const session = await ann.createSession()
    const watcher = ann.watch(session)
    await ann.send(session, 'hi', 'm1')
    await watcher.outcome('m1')
    await watcher.close()
    await server.stop()

    const client = new pg.Client(database.url)
    await client.connect()
    await client.query(`update holdfast.meta set ${change}`).finally(() => client.end())
    const restored = await startServer({ database: database.url, provider: provider.url })
    const again = await apiOf(restored.url)
    const { frames } = await again.poll(session, { cursor: watcher.cursor!, wait: 5 })
    expect(frames).toEqual([{ type: 'reset', reason: 'epoch' }])
    const { cursor } = await again.snapshot(session)
    expect((await again.poll(session, { cursor })).frames).toEqual([])
    await restored.stop()
    await provider.stop()
  })
})
