/** Jobs of the app: added in its own transaction, done at least once, in the order of their keys (R2.8, P240 to P243). */
import { tmpdir } from 'node:os'
import { Client, Pool } from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import * as z from 'zod'
import {
  createHoldfast,
  type Holdfast,
  HoldfastError,
  type JobAbout,
  OptionError,
  PermanentFailure,
  RetryLater,
} from '../../src/index.ts'
import { startCommand } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'

type Run = { process: string; payload: unknown; about: JobAbout }
let database: Awaited<ReturnType<typeof freshDatabase>>
let sql: Client
let chat: Holdfast
let other: Holdfast
let url: string
let lines: string[] = []
const runs: Run[] = []
/** What the next runs of a payload do, by its `name`. */
const scripts = new Map<string, ((about: JobAbout) => unknown)[]>()

/** What jobs of the topic `stuck` wait for. */
let unstuck: Promise<void> = Promise.resolve()

const jobsOf = (process: string) => ({
  stuck: { run: () => unstuck },
  sync: {
    schema: z.object({ name: z.string(), n: z.coerce.number().optional() }),
    run: async (payload: { name: string }, about: JobAbout) => {
      runs.push({ process, payload, about })
      await scripts.get(payload.name)?.shift()?.(about)
    },
    attemptsMax: 3,
    backoffMinMs: 20,
    timeoutMs: 150,
  },
})
const holdfast = (process: string, at: string, own: object = {}) =>
  createHoldfast({
    database: at,
    // What is done sooner was woken.
    pollMs: 10_000,
    leaseMs: 1_000,
    serverKey: 'k'.repeat(32),
    jobs: jobsOf(process),
    reply: () => 'hi',
    log: (line, detail) => lines.push(`${line} ${JSON.stringify(detail)}`),
    ...own,
  })

beforeAll(async () => {
  database = await freshDatabase(18)
  chat = holdfast('one', database.url)
  ;({ url } = await chat.listen(0))
  // Another process of the same database: its own registry entry, by another spelling of the address.
  other = holdfast('two', `${database.url}?application_name=other`, { roles: ['runner'] })
  await other.start()
  sql = new Client({ connectionString: database.url })
  await sql.connect()
})
afterAll(async () => {
  await sql.end()
  await Promise.all([chat.close(), other.close()])
  await database.drop()
})
beforeEach(() => {
  runs.length = 0
  lines = []
  scripts.clear()
})

type Row = { n: number; id: string; state: string; tries: number; error: string | null; payload: { name: string } }
const rows = async (where = 'true') =>
  (await sql.query<Row>(`select * from holdfast.outbox where ${where} order by n`)).rows
const ended = (id: string) =>
  eventually(async () => (await rows(`id = '${id}'`)).find(({ state }) => state === 'done' || state === 'dead'))
const named = (name: string) => runs.filter(({ payload }) => (payload as { name: string }).name === name)
const fail = () => {
  throw new Error('no luck')
}

test('a job is done once, by one of two processes, soon after it was added, with what its schema makes of the payload (P240)', async () => {
  const beganMs = performance.now()
  const { id } = await chat.outbox.add('sync', { name: 'a', n: '7' })
  await eventually(async () => runs.length > 0)
  expect(performance.now() - beganMs).toBeLessThan(5_000)
  expect(await ended(id)).toMatchObject({ state: 'done', tries: 1, error: null, payload: { name: 'a', n: '7' } })
  expect(runs.map(({ payload, about: { signal, ...about } }) => [payload, about])).toEqual([
    [
      { name: 'a', n: 7 },
      { id, key: null, tenantId: 'default', attempt: 1 },
    ],
  ])
})

test('a job in the app’s own transaction is rolled back with it, and begins when that commits, from SQL as from code (P240)', async () => {
  const pool = new Pool({ connectionString: database.url, max: 1 })
  const client = await pool.connect()
  try {
    await client.query('create table if not exists public.orders (id text)')
    await client.query('begin')
    await client.query(`insert into public.orders values ('o1')`)
    await chat.outbox.add('sync', { name: 'gone' }, { client, id: 'gone' })
    await client.query('rollback')
    await client.query('begin')
    await client.query(`insert into public.orders values ('o2')`)
    await chat.outbox.add('sync', { name: 'kept' }, { client, id: 'kept' })
    await client.query(`select holdfast.outbox_add('sync', '{"name": "sql"}', p_id => 'sql')`)
    // Looked for meanwhile, and not there yet.
    await chat.outbox.add('sync', { name: 'beside' }, { id: 'beside' })
    await ended('beside')
    expect(named('kept')).toEqual([])
    const committedMs = performance.now()
    await client.query('commit')
    await eventually(async () => named('kept').length + named('sql').length === 2)
    expect(performance.now() - committedMs).toBeLessThan(5_000)
    expect(await rows(`id = 'gone'`)).toEqual([])
    expect(named('gone')).toEqual([])
  } finally {
    client.release()
    await pool.end()
  }
})

test('the same id is one job, and with another payload it is refused (P241)', async () => {
  for (let time = 0; time < 3; time++) await chat.outbox.add('sync', { name: 'once' }, { id: 'once' })
  await ended('once')
  await chat.outbox.add('sync', { name: 'once' }, { id: 'once' })
  expect(await rows(`id = 'once'`)).toHaveLength(1)
  expect(named('once')).toHaveLength(1)
  const again = chat.outbox.add('sync', { name: 'other' }, { id: 'once' })
  await expect(again).rejects.toMatchObject({ code: 'id_conflict' })
  await sql.query('begin')
  const within = chat.outbox.add('sync', { name: 'other' }, { id: 'once', client: sql })
  await expect(within).rejects.toMatchObject({ code: 'id_conflict' })
  await sql.query('rollback')
})

test('by SQL a payload with what only the type json takes is one job for its id, too (P241)', async () => {
  const add = (payload: string) => sql.query(`select holdfast.outbox_add('nobody', $1, p_id => 'odd')`, [payload])
  for (let time = 0; time < 2; time++)
    await add('{"nul": "\\u0000", "half": "\\ud800", "__proto__": 1, "large": 1e999999}')
  await expect(add('{"nul": "\\u0000"}')).rejects.toThrow(/the id odd was used/)
  await sql.query(`delete from holdfast.outbox where topic = 'nobody'`)
})

test('what is no job is refused with a sentence, and SQL keeps to the same bounds (P240)', async () => {
  const refusals: [() => Promise<unknown>, RegExp][] = [
    [() => chat.outbox.add('sync', { name: 7 }), /"payload.name"/],
    [() => chat.outbox.add('webhook:mine', {}), /begin with webhook:/],
    [() => chat.outbox.add('no topic', {}), /expected 1 to 128/],
    [() => chat.outbox.add('else', 'x'.repeat(256 * 1024)), /256|262144/],
    [() => chat.outbox.add('else', undefined), /"payload"/],
    [() => chat.outbox.add('else', {}, { delayMs: -1 }), /"delayMs"/],
  ]
  for (const [ask, sentence] of refusals) {
    const error = await ask().catch((failed: unknown) => failed)
    expect(error).toBeInstanceOf(HoldfastError)
    expect((error as HoldfastError).message).toMatch(sentence)
  }
  await expect(sql.query(`select holdfast.outbox_add('webhook:mine', '1')`)).rejects.toThrow(/webhook:/)
  await expect(sql.query(`select holdfast.outbox_add('sync', to_json(repeat('x', 262143)))`)).rejects.toThrow(/check/)
  expect(() => holdfast('wrong', 'postgres://localhost/x', { jobs: { 'a b': { run: fail } } })).toThrow(OptionError)
  expect(() => holdfast('wrong', 'postgres://localhost/x', { jobs: { a: {} } })).toThrow(/jobs\["a"\].run/)
})

test('jobs of one key are done one at a time and in their order, whatever fails, and others do not wait for them (P242)', async () => {
  let open = 0
  const alone = async () => {
    expect(++open).toBe(1)
    await new Promise(setImmediate)
    open--
  }
  scripts.set('k0', [fail, alone])
  scripts.set('k3', [fail, fail, fail])
  const ids: string[] = []
  for (let at = 0; at < 8; at++) {
    if (at !== 0 && at !== 3) scripts.set(`k${at}`, [alone])
    ids.push((await chat.outbox.add('sync', { name: `k${at}` }, { key: 'k' })).id)
    await chat.outbox.add('sync', { name: 'free' })
  }
  await ended(ids[7]!)
  const order = runs.map(({ payload }) => (payload as { name: string }).name).filter((name) => name !== 'free')
  expect(order).toEqual(['k0', 'k0', 'k1', 'k2', 'k3', 'k3', 'k3', 'k4', 'k5', 'k6', 'k7'])
  expect(await rows(`id = '${ids[3]}'`)).toMatchObject([{ state: 'dead', tries: 3, error: 'Error: no luck' }])
  expect(named('free')).toHaveLength(8)
  // The line for operators says nothing of what the job said.
  expect(lines.filter((line) => line.startsWith('outbox'))).toHaveLength(1)
  expect(lines.join()).not.toContain('no luck')
})

test('a thousand jobs behind one that waits keep nobody else waiting (P242)', async () => {
  await chat.outbox.add('sync', { name: 'head' }, { key: 'long', delayMs: 60_000 })
  await sql.query(`select holdfast.outbox_add('sync', '{"name": "behind"}', 'long') from generate_series(1, 1000)`)
  const { id } = await chat.outbox.add('sync', { name: 'quick' }, { key: 'q' })
  await ended(id)
  // They are set aside, and not looked at again.
  await eventually(async () => (await rows(`key = 'long' and due_at is not null`)).length === 1)
  await sql.query(`delete from holdfast.outbox where key = 'long'`)
})

test('nine hundred keys whose first job waits keep nobody else waiting (P242)', async () => {
  const of = (part: string, delayMs: number) =>
    sql.query(
      `select holdfast.outbox_add('sync', '{"name": "${part}"}', 'w' || i, p_delay_ms => ${delayMs}) from generate_series(1, 900) i`,
    )
  await sql.query('begin')
  await of('head', 60_000)
  await of('behind', 0)
  const { id } = await chat.outbox.add('sync', { name: 'quick' }, { client: sql })
  await sql.query('commit')
  // Before the poll.
  await eventually(async () => named('quick').some(({ about }) => about.id === id), 8_000)
  expect(named('behind')).toEqual([])
  await sql.query(`delete from holdfast.outbox where key like 'w%'`)
})

test('a topic whose jobs all hang takes no place from the others (P242)', async () => {
  let end: () => void = () => undefined
  unstuck = new Promise((resolve) => {
    end = resolve
  })
  await sql.query(`select holdfast.outbox_add('stuck', '1') from generate_series(1, 60)`)
  await eventually(async () => (await rows(`topic = 'stuck' and state = 'running'`)).length === 20)
  const { id } = await chat.outbox.add('sync', { name: 'free' })
  await ended(id)
  expect(await rows(`topic = 'stuck' and state = 'running'`)).toHaveLength(20)
  end()
  await eventually(async () => (await rows(`topic = 'stuck' and state = 'done'`)).length === 60)
})

test('a job may ask to be tried later, or never; one that takes too long is tried again and told so (P243)', async () => {
  scripts.set('later', [
    () => {
      throw new RetryLater(120)
    },
  ])
  const begin = performance.now()
  const later = await chat.outbox.add('sync', { name: 'later' })
  expect(await ended(later.id)).toMatchObject({ state: 'done', tries: 2 })
  expect(performance.now() - begin).toBeGreaterThanOrEqual(120)
  scripts.set('never', [
    () => {
      throw new PermanentFailure('this address does not exist')
    },
  ])
  const never = await chat.outbox.add('sync', { name: 'never' })
  expect(await ended(never.id)).toMatchObject({
    ...{ state: 'dead', tries: 1 },
    error: 'PermanentFailure: this address does not exist',
  })
  let aborted = false
  scripts.set('slow', [
    ({ signal }) =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          aborted = true
          reject(new Error('aborted'))
        })
      }),
  ])
  const slow = await chat.outbox.add('sync', { name: 'slow' })
  expect(await ended(slow.id)).toMatchObject({ state: 'done', tries: 2 })
  expect(aborted).toBe(true)
  // Past its schema, by SQL.
  await sql.query(`select holdfast.outbox_add('sync', '{"name": 1}', p_id => 'bad')`)
  expect(await ended('bad')).toMatchObject({ state: 'dead', error: expect.stringContaining('"payload.name"') })
})

test('a job whose processes die each time it runs is a dead letter in the end (P243)', async () => {
  await sql.query(`insert into holdfast.outbox (topic, id, payload, state, tries, attempt, due_at)
    values ('sync', 'deadly', '{"name": "deadly"}', 'running', 3, 3, now())`)
  await sql.query(`select pg_notify('holdfast', 'outbox')`)
  expect(await ended('deadly')).toMatchObject({ state: 'dead', error: expect.stringContaining('has died (3 times)') })
  expect(named('deadly')).toEqual([])
})

test('a topic that nobody handles waits, is seen, and is done when somebody does (P244)', async () => {
  const ask = (path: string, method = 'GET') =>
    fetch(`${url}${path}`, { method, headers: { authorization: `Bearer ${'k'.repeat(32)}` } })
  await chat.outbox.add('reports', { secret: 'payload' }, { id: 'r1' })
  const list = await (await ask('/v1/outbox?topic=reports')).json()
  expect(list).toMatchObject({ data: [{ topic: 'reports', id: 'r1', state: 'due', tries: 0 }], before: null })
  expect(JSON.stringify(list)).not.toContain('secret')
  const entry = await (await ask(`/v1/outbox/${list.data[0].n}`)).json()
  expect(entry).toMatchObject({ id: 'r1', payload: { secret: 'payload' } })
  await sql.query(`delete from holdfast.outbox where topic = 'reports'`)
})

test('dead letters are listed with the server’s key, and sent again in their order (P244)', async () => {
  const ask = (path: string, method = 'GET') =>
    fetch(`${url}${path}`, { method, headers: { authorization: `Bearer ${'k'.repeat(32)}` } })
  scripts.set('d', [fail, fail, fail])
  const { id } = await chat.outbox.add('sync', { name: 'd' }, { key: 'd' })
  await ended(id)
  const { data } = await (await ask('/v1/outbox?state=dead&limit=1')).json()
  expect(data).toMatchObject([{ id, state: 'dead', error: 'Error: no luck' }])
  expect((await ask(`/v1/outbox/${data[0].n}/retry`, 'POST')).status).toBe(200)
  const again = await eventually(async () => (await rows(`id = '${id}' and state = 'done'`))[0])
  expect(again).toMatchObject({ tries: 1 })
  expect(named('d').map(({ about }) => about.attempt)).toEqual([1, 2, 3, 4])
  // Once it is done nothing is sent again.
  expect(await (await ask(`/v1/outbox/${data[0].n}/retry`, 'POST')).json()).toMatchObject({ state: 'done' })
  expect((await ask('/v1/outbox/999999/retry', 'POST')).status).toBe(404)
  expect((await ask('/v1/outbox/none')).status).toBe(404)
  expect((await ask('/v1/outbox?state=other')).status).toBe(400)
})

test('holdfast outbox lists what is dead and why, shows its payload, and sends it again (P244)', async () => {
  const command = async (...args: string[]) => {
    const done = startCommand(['outbox', ...args], { cwd: tmpdir(), env: { DATABASE_URL: database.url } })
    return { code: await done.ended, text: done.printed() }
  }
  const failLoudly = () => {
    throw new Error('no \u001b[2J\u0000 luck')
  }
  scripts.set('cli', [failLoudly, failLoudly, failLoudly])
  const { id } = await chat.outbox.add('sync', { name: 'cli' }, { key: 'order 7' })
  await ended(id)
  const [{ n } = { n: 0 }] = await rows(`id = '${id}'`)
  const [list, show, wrong] = await Promise.all([
    command('list', '--state', 'dead'),
    command('show', String(n)),
    command('retry'),
  ])
  expect(list.text).toMatch(/sync: \d+ waiting, \d+ dead/)
  expect(list.text).toMatch(new RegExp(`${n} {2}dead +sync {2}key order 7 .*tried 3 times {2}Error: no  \\[2J. luck`))
  expect(list.text).not.toContain('"cli"')
  expect(show.text).toContain('payload   {"name":"cli"}')
  expect([wrong.code, wrong.text]).toEqual([1, expect.stringContaining('--all')])
  expect(await command('retry', String(n))).toEqual({ code: 0, text: `${n} is sent again now.\n` })
  await eventually(async () => (await rows(`id = '${id}' and state = 'done'`))[0])
})

test('two processes that both live do nothing twice (P242)', async () => {
  await sql.query(
    `select holdfast.outbox_add('sync', json_build_object('name', 'm' || i), 'm' || i % 40) from generate_series(1, 120) i`,
  )
  await eventually(async () => (await rows(`key like 'm%' and state = 'done'`)).length === 120)
  expect(runs).toHaveLength(120)
  expect(new Set(runs.map(({ about }) => about.id)).size).toBe(120)
  expect(new Set(runs.map(({ process }) => process)).size).toBe(2)
})
