/** What the database does to us (FAULTS §2: FD1, FD2, FD3), seen from outside: real servers, a real Postgres of our own. */
import { readFile } from 'node:fs/promises'
import { createConnection, createServer, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { gate } from './faults/scene.ts'
import { type Api, apiOf, type Problem, type Sent, type Watcher } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { type Cluster, privateCluster } from './support/postgres.ts'
import { startProvider } from './support/provider.mjs'
import { type Connection, startProxy, type TcpProxy } from './support/proxy.ts'
import { startServer } from './support/server.ts'
import { disorder, lostHeads } from './support/stored.ts'

const stepsServer = fileURLToPath(new URL('faults/steps-server.mjs', import.meta.url))

let cluster: Cluster
let provider: Awaited<ReturnType<typeof startProvider>>
let asking: pg.Pool
beforeEach(async () => {
  cluster = await privateCluster(18)
  provider = await startProvider()
  provider.script(tellParts)
  asking = new pg.Pool({ connectionString: cluster.url, max: 2 })
  asking.on('error', () => undefined)
})
afterEach(async () => {
  await asking.end()
  await provider.stop()
  await cluster.remove()
})

const query = async <Row extends pg.QueryResultRow>(text: string): Promise<Row[]> =>
  (await asking.query<Row>(text)).rows

/** A reply in many pieces. Messages that begin with `flaky` fail at their first try, `refused` ones for good; `endless` ones never end. */
const tried = new Set<string>()
const tellParts: Parameters<typeof provider.script>[0] = ({ body }) => {
  const text: string = body.messages.at(-1).content
  if (text.startsWith('endless')) return [{ forever: 'on and ', everyMs: 20 }]
  if (text.startsWith('refused')) return [{ status: 400 }]
  if (text.startsWith('xxx')) return [{ text: 'That is a lot.' }]
  if (text.startsWith('flaky') && !tried.has(text)) {
    tried.add(text)
    return [{ status: 503 }]
  }
  return parts(text).flatMap((part) => [{ text: part }, { pauseMs: 25 }])
}
const parts = (text: string) => Array.from({ length: 60 }, (_, at) => `${text} ${at}, `)

type Sending = { session: string; sent: Sent; text: string; watcher: Watcher }

/** Sends until it is told that the message is kept, always with the same id. */
async function sendSurely(api: Api, session: string, text: string, id: string): Promise<Sent> {
  return await eventually(() => api.send(session, text, id), 30_000)
}

async function sendTo(api: Api, session: string, text: string, id: string): Promise<Sending> {
  const watcher = api.watch(session)
  return { session, text, watcher, sent: await sendSurely(api, session, text, id) }
}

/** Every reply came to its end once, its follower saw all of it in order, and it is the text that the provider told. */
async function expectAllTold(sendings: Sending[]): Promise<void> {
  for (const { sent, watcher, text } of sendings) {
    const outcome = await watcher.outcome(sent.message.id, 60_000)
    expect([text, outcome.type, outcome.data.code]).toEqual([text, 'message.ai_response', undefined])
    expect(watcher.text(sent.reply.id)).toBe(parts(text).join(''))
  }
  for (const { watcher } of sendings) {
    await watcher.close()
    expect(watcher.problems).toEqual([])
  }
}

async function expectOrder(): Promise<void> {
  expect(await disorder({ query })).toEqual([])
  expect(await lostHeads({ query })).toBe(0)
  expect(await query(`select id from holdfast.turns where state in ('queued', 'running', 'waiting')`)).toEqual([])
  expect(
    await query(`select turn_id, count(*) from holdfast.events
      where type in ('message.ai_response', 'message.error', 'message.stopped') group by 1 having count(*) <> 1`),
  ).toEqual([])
  expect(
    await query(`select turn_id, attempt, index from (
        select *, coalesce(lag(index + n) over (partition by turn_id, attempt order by index), 0) as expected from holdfast.chunks) c
      where index <> expected`),
  ).toEqual([])
}

describe('an answer that is lost after the commit (FD2)', () => {
  let proxy: TcpProxy
  let url: string
  beforeEach(async () => {
    proxy = await startProxy({ target: { host: cluster.host, port: cluster.port } })
    url = `postgresql://postgres@${proxy.host}:${proxy.port}/postgres`
  })
  afterEach(() => proxy.close())

  test('loses nothing and doubles nothing, whatever was asked (I1, I2, I4, I5)', async () => {
    const server = await startServer({
      database: url,
      provider: provider.url,
      env: { HOLDFAST_LEASE_MS: '2000', HOLDFAST_POLL_MS: '200' },
    })
    const ann = await apiOf(server.url)
    const sessions = await Promise.all(Array.from({ length: 8 }, () => ann.createSession()))
    const lost = {
      accept: loseAnswers(proxy, ['accept-one', 'accept-many'], { holding: '', every: 2 }),
      claim: loseAnswers(proxy, ['claim'], { holding: '"claimed"', every: 2 }),
      append: loseAnswers(proxy, ['append', 'append-first'], { holding: '', every: 9 }),
      finish: loseAnswers(proxy, ['finish'], { holding: '"finished"', every: 2 }),
      fail: loseAnswers(proxy, ['fail'], { holding: '"failed"', every: 2 }),
      requeue: loseAnswers(proxy, ['requeue'], { holding: '"requeued"', every: 2 }),
      stop: loseAnswers(proxy, ['stop'], { holding: '"stopped"', every: 2 }),
    }
    const told = sessions
      .slice(0, 6)
      .flatMap((session, at) => [
        sendTo(ann, session, `flaky ${at}`, `a${at}`),
        sendTo(ann, session, `steady ${at}`, `b${at}`),
      ])
    const stopped = sessions.slice(6).flatMap((session) => ['1', '2', '3', '4'].map((id) => stopSoon(ann, session, id)))
    const refused = sessions.slice(0, 6).map((session, at) => sendTo(ann, session, `refused ${at}`, `c${at}`))
    await Promise.all(stopped)
    await expectAllTold(await Promise.all(told))
    await expectRefused(await Promise.all(refused))
    const counts = Object.fromEntries(Object.entries(lost).map(([kind, { count }]) => [kind, count()]))
    for (const [kind, count] of Object.entries(counts)) expect(count, `lost answers of ${kind}`).toBeGreaterThan(1)
    await expectOrder()
    // Nobody died, so nothing was taken over.
    expect(await query(`select from holdfast.events where data ->> 'reason' = 'crashed'`)).toEqual([])
    expect(await query('select count(*)::int as n from holdfast.turns')).toEqual([{ n: 12 + 6 + 8 }])
    expect(await query(`select state, count(*)::int as n from holdfast.turns group by 1 order by 1`)).toEqual([
      { state: 'complete', n: 12 },
      { state: 'failed', n: 6 },
      { state: 'stopped', n: 8 },
    ])
    expect(await server.stop()).toBe(0)
  })

  test('of a checkpoint or of a late report keeps every step once, and every token (I2, I7, I12)', async () => {
    const never = gate()
    provider.script(({ body }) =>
      body.said === 'stopped' && body.step === 2 ? [{ wait: never.passed }] : [{ text: 'ok' }],
    )
    const server = await startServer({ database: url, provider: provider.url, program: stepsServer })
    const ann = await apiOf(server.url)
    const sessions = await Promise.all(Array.from({ length: 8 }, () => ann.createSession()))
    const lost = {
      checkpoint: loseAnswers(proxy, ['checkpoint'], { holding: '', every: 3 }),
      report: loseAnswers(proxy, ['report'], { holding: '', every: 2 }),
    }
    const [told, stopped] = [sessions.slice(0, 4), sessions.slice(4)]
    const watchers = sessions.map((session) => ann.watch(session))
    for (const session of told) await sendSurely(ann, session, 'told', 'm1')
    for (const session of stopped) {
      const { reply } = await sendSurely(ann, session, 'stopped', 'm1')
      const watcher = watchers[sessions.indexOf(session)]!
      await watcher.until(() => watcher.text(reply.id)?.includes('[1:1]') ?? false)
      await eventually(() => ann.command(session, 'm1', 'stop'))
    }
    for (const [at, watcher] of watchers.entries()) {
      const outcome = await watcher.outcome('m1')
      const texts = outcome.data.message.parts.flatMap(({ text = '' }: { text?: string }) => text).join('')
      expect([outcome.type, texts]).toEqual(
        at < told.length ? ['message.ai_response', '[1:0][1:1][1:2]'] : ['message.stopped', '[1:0][1:1]'],
      )
      await watcher.close()
      expect(watcher.problems).toEqual([])
    }
    // What an attempt that was stopped had used is told after its end.
    const reported = (outcome: string) =>
      query(`select attempt, step, input_tokens, output_tokens, count(*)::int as rows from holdfast.usage
        where outcome = '${outcome}' and state = 'reported' group by 1, 2, 3, 4 order by 2`)
    const used = (step: number) => ({ attempt: 1, step, input_tokens: 3, output_tokens: 5, rows: 4 })
    expect(
      await eventually(async () => {
        const rows = await reported('stopped')
        return rows.length > 1 && rows.every(({ rows: n }) => n === 4) && rows
      }),
    ).toEqual([used(0), used(1)])
    expect(await reported('complete')).toEqual([used(0), used(1), used(2)])
    // The call that was on its way when it was stopped: of it nobody will report.
    expect(
      await query(`select step, count(*)::int as rows from holdfast.usage where state <> 'reported' group by 1`),
    ).toEqual([{ step: 2, rows: 4 }])
    for (const [kind, { count }] of Object.entries(lost)) expect(count(), `lost answers of ${kind}`).toBeGreaterThan(1)
    await expectOrder()
    never.open()
    expect(await server.stop()).toBe(0)
  })
})

/** Each failed once, at its only attempt, and said so. */
async function expectRefused(sendings: Sending[]): Promise<void> {
  for (const { sent, watcher } of sendings) {
    const { type, data } = await watcher.outcome(sent.message.id, 60_000)
    expect([type, data.code]).toEqual(['message.error', 'provider_rejected'])
    await watcher.close()
    expect(watcher.problems).toEqual([])
  }
}

/** Stops an endless reply as soon as there is something of it, until the stop is answered. */
async function stopSoon(api: Api, session: string, id: string): Promise<void> {
  const watcher = api.watch(session)
  const { reply } = await sendSurely(api, session, `endless ${id}`, id)
  const first = await watcher.until(({ type, messageId, data }) =>
    type === 'chunk' ? messageId === reply.id : data?.userMessageId === id,
  )
  expect([first.type, first.data?.code]).toEqual(['chunk', undefined])
  const stopped = await eventually(() => api.command(session, id, 'stop'), 30_000)
  expect(stopped.turn.state).toBe('stopped')
  expect((await watcher.outcome(id)).type).toBe('message.stopped')
  await watcher.close()
  expect(watcher.problems).toEqual([])
}

/**
 * Loses every so-manieth answer to the statements of these names that holds this text: it is awaited to its end, so
 * that the statement has been committed, and the connection is cut without its last bytes.
 */
function loseAnswers(proxy: TcpProxy, names: string[], { holding, every }: { holding: string; every: number }) {
  const asked = new Map<Connection, string>()
  const victims = new Map<Connection, Buffer>()
  let seen = 0
  let count = 0
  proxy.watch({
    onUpstream: (data, connection) => {
      asked.set(connection, (asked.get(connection) ?? '') + data.toString('latin1'))
      return 'pass'
    },
    onDownstream: (data, connection) => {
      const question = asked.get(connection)
      asked.delete(connection)
      const isOurs = question !== undefined && names.some((name) => question.includes(`\0${name}\0`))
      if (isOurs && data.includes(holding) && ++seen % every === 0) victims.set(connection, Buffer.alloc(0))
      const answer = victims.get(connection)
      if (answer === undefined) return 'pass'
      const all = Buffer.concat([answer, data])
      victims.set(connection, all)
      if (!all.subarray(-6, -1).equals(Buffer.from([0x5a, 0, 0, 0, 5]))) return 'drop'
      victims.delete(connection)
      count++
      return 'cut'
    },
  })
  return { count: () => count }
}

describe('a database that goes away (FD1)', () => {
  test.each<[string, () => Promise<unknown>]>([
    ['is restarted at once', () => cluster.restart('immediate')],
    [
      'ends every connection',
      () => query('select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()'),
    ],
  ])('and %s ends no server and no reply, and is used again within 5 s (I2, I5)', async (_, harm) => {
    const servers = await Promise.all([1, 2].map(() => startServer({ database: cluster.url, provider: provider.url })))
    const apis = await Promise.all(servers.map(({ url }) => apiOf(url)))
    const sessions = await Promise.all(Array.from({ length: 6 }, (_, at) => apis[at % 2]!.createSession()))
    const sendings: Sending[] = []
    for (let times = 1; times <= 2; times++) {
      const streaming = sessions.map((each, at) => sendTo(apis[at % 2]!, each, `steady ${at} ${times}`, `m${times}`))
      sendings.push(...(await Promise.all(streaming)))
      const begun = sendings
        .slice(-sessions.length)
        .map(({ watcher, sent }) =>
          watcher.until(({ type, messageId }) => type === 'chunk' && messageId === sent.reply.id),
        )
      await Promise.all(begun)
      await harm()
      const backMs = performance.now()
      const more = await Promise.all(apis.map((api, at) => sendTo(api, sessions[at]!, `more ${times}`, `more${times}`)))
      expect(performance.now() - backMs).toBeLessThan(5_000)
      sendings.push(...more)
    }
    await expectAllTold(sendings)
    const lost = servers
      .flatMap(({ lines }) => lines)
      .filter((line) => /connection lost|flush failed|claim failed/.test(line))
    expect(lost.length).toBeGreaterThan(0)
    await expectOrder()
    for (const server of servers) expect(await server.stop()).toBe(0)
  })
})

test('a database that ends each connection in the packet that opens it ends no server (FD1)', async () => {
  const relay = await startRelay()
  const server = await startServer({ database: relay.url })
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  relay.endNext(8)
  await query('select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()')
  // Each try opens connections until there are no more of those that end at once.
  await eventually(async () => (await ann.snapshot(session)) && relay.left() === 0)
  await sendSurely(ann, session, 'kept', 'm1')
  expect(await server.stop()).toBe(0)
  await relay.close()
})

test('a stream whose first read of the log fails ends with the word to come back, and the reader does (P42, P49)', async () => {
  const proxy = await startProxy({ target: { host: cluster.host, port: cluster.port } })
  const server = await startServer({ database: `postgresql://postgres@${proxy.host}:${proxy.port}/postgres` })
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  let cuts = 0
  const stop = proxy.watch({ onUpstream: (data) => (data.includes('\0read-head\0') && ++cuts ? 'cut' : 'pass') })
  const response = await ann.request(`/v1/sessions/${session}/events`)
  expect([response.status, await response.text()]).toEqual([
    200,
    'retry: 1000\n\ndata: {"type":"reconnect","afterMs":1000}\n\n',
  ])
  expect(cuts).toBe(1)
  const watcher = ann.watch(session)
  await watcher.until(({ type }) => type === 'reconnect')
  stop()
  await watcher.until(({ type }) => type === 'caught-up')
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await server.stop()).toBe(0)
  await proxy.close()
})

/** FATAL 57P01, "terminating connection due to administrator command". */
const terminating = (() => {
  const fields = Buffer.from('SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0')
  const head = Buffer.from('E\0\0\0\0')
  head.writeInt32BE(fields.length + 4, 1)
  return Buffer.concat([head, fields])
})()

/** Passes everything on; the connections that `endNext` counts end with the first ReadyForQuery, in the same packet. */
async function startRelay() {
  let left = 0
  const sockets = new Set<Socket>()
  const relay = createServer((client) => {
    const server = createConnection(cluster.port, cluster.host)
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      sockets.add(from)
      from.on('error', () => to.destroy())
      from.on('close', () => to.destroy())
    }
    client.pipe(server)
    server.on('data', (data) => {
      if (left === 0 || data.at(-6) !== 0x5a) return client.write(data)
      left--
      client.end(Buffer.concat([data, terminating]))
    })
  })
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve))
  const { port } = relay.address() as { port: number }
  return {
    url: `postgresql://postgres@127.0.0.1:${port}/postgres`,
    endNext: (count: number) => {
      left = count
    },
    left: () => left,
    async close() {
      for (const each of sockets) each.destroy()
      await new Promise((resolve) => relay.close(resolve))
    },
  }
}

describe('a database that hangs (FD3)', () => {
  test('for 3 s delays, and takes nothing over (I2, I5)', async () => {
    const { problems, attempts } = await hang(3_000)
    expect(problems).toEqual([])
    expect(attempts).toEqual([1])
  })

  test('for 8 s is told to senders as unavailable, keeps memory flat, and takes nothing over (I2, I5)', async () => {
    const { problems, grownBytes, attempts, claimer } = await hang(8_000)
    expect(problems.length).toBeGreaterThan(0)
    for (const { status, retryAfter, type, code, retryable } of problems) {
      expect({ status, type, code, retryable }).toEqual({
        status: 503,
        type: 'application/problem+json',
        code: 'unavailable',
        retryable: true,
      })
      expect(Number(retryAfter)).toBeGreaterThan(0)
    }
    expect(grownBytes).toBeLessThan(grownBytesMax)
    // The other process asked all the while, and when the leases had run out it left them to their holder for a poll.
    expect(claimer.lines.filter((line) => line.includes('claim failed')).length).toBeGreaterThan(0)
    expect(attempts).toEqual([1])
  })
})

/** Of nearly the largest bodies that are taken, all at once. */
const flood = { count: 500, text: `${'x'.repeat(250_000)}€` }
/** Seen: 170 MB, most of it garbage of what was refused, and on a busy machine 390; where all are kept waiting, 700 MB. */
const grownBytesMax = 450 * 1024 * 1024

/**
 * Freezes Postgres while replies stream and large messages are sent, thaws it, and waits until everything is told. A
 * second process looks for turns to take over all the time.
 */
async function hang(ms: number) {
  const server = await startServer({ database: cluster.url, provider: provider.url })
  const ann = await apiOf(server.url)
  const sessions = await Promise.all(Array.from({ length: 4 }, () => ann.createSession()))
  const large = await ann.createSession()
  const sendings = await Promise.all(sessions.map((each, at) => sendTo(ann, each, `steady ${at}`, 'm1')))
  await Promise.all(sendings.map(({ watcher }) => watcher.until(({ type, index }) => type === 'chunk' && index > 3)))
  const claimer = await startServer({
    database: cluster.url,
    provider: provider.url,
    env: { HOLDFAST_ROLES: 'runner' },
  })
  const before = await memoryOf(server.pid, 'VmRSS')
  await cluster.freeze()
  const thawed = new Promise<void>((resolve, reject) => setTimeout(() => cluster.thaw().then(resolve, reject), ms))
  const count = ms > 5_000 ? flood.count : 4
  const sends = Array.from({ length: count }, (_, at) => sendOnce(ann, large, `flood${at}`, flood.text))
  const problems = (await Promise.all(sends)).filter((each) => each !== null)
  await thawed
  // The most that it has had at any time.
  const grownBytes = (await memoryOf(server.pid, 'VmHWM')) - before
  sendings.push(await sendTo(ann, sessions[0]!, 'after it', 'm2'))
  await expectAllTold(sendings)
  const rows = await query<{ attempt: number }>(`select distinct attempt from holdfast.turns
    where message_id = 'm1'`)
  expect(await disorder({ query })).toEqual([])
  await server.kill()
  await claimer.kill()
  return { problems, grownBytes, claimer, attempts: rows.map(({ attempt }) => attempt) }
}

/** One try. Null: accepted. */
async function sendOnce(api: Api, session: string, id: string, text: string) {
  const response = await api.request(`/v1/sessions/${session}/messages`, {
    method: 'POST',
    body: JSON.stringify({ id, text }),
  })
  if (response.status === 202) return null
  const { headers } = response
  const { status, code, retryable } = (await response.json()) as Problem
  return { status, code, retryable, retryAfter: headers.get('retry-after'), type: headers.get('content-type') }
}

/** Resident now, or the most that it ever was. */
async function memoryOf(pid: number, what: 'VmRSS' | 'VmHWM'): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(new RegExp(`${what}:\\s+(\\d+) kB`).exec(status)?.[1]) * 1024
}
