import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client } from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createHoldfast } from '../src/index.ts'
import { startEmbedded } from '../src/store/embedded.ts'
import { gate } from './faults/scene.ts'
import { type Api, apiOf, type Watcher } from './support/client.ts'
import { needProgram } from './support/debian.ts'
import { eventually } from './support/eventually.ts'
import { startProvider } from './support/provider.mjs'
import { jwtSecret, startServer, type TestServer } from './support/server.ts'

let dataDir: string
beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'holdfast-turns-'))
})
afterEach(async () => {
  // Who adopts the database can stop it: a killed server leaves it running.
  await (await startEmbedded({ dataDir, log: () => undefined })).stop()
  await rm(dataDir, { recursive: true, force: true })
})

/** The postmaster's, whose children end with it. */
async function postgresPid(): Promise<number> {
  return Number((await readFile(join(dataDir, 'data', 'postmaster.pid'), 'utf8')).split('\n')[0])
}

/** Sends without a pause until it is told to stop; adds the ids that were acknowledged, and answers how many were not. */
async function sendOn(
  ann: Api,
  session: string,
  name: string,
  acknowledged: string[],
  until: () => boolean,
): Promise<number> {
  let cutOff = 0
  for (let n = 0; !until(); n++) {
    const id = `${name}-${n}`
    await ann.send(session, 'kept?', id).then(
      () => acknowledged.push(id),
      () => cutOff++,
    )
  }
  return cutOff
}

test('every acknowledged message is there after 20 kills of the server, ten of them with Postgres too (I1)', async () => {
  const provider = await startProvider()
  const acknowledged: string[] = []
  let session = ''
  let killedWhileSending = 0
  for (let round = 0; round < 20; round++) {
    const server: TestServer = await startServer({ database: { dataDir }, provider: provider.url })
    const ann = await apiOf(server.url)
    session ||= await ann.createSession()
    const before = acknowledged.length
    let killed = false
    const senders = [0, 1, 2, 3].map((n) => sendOn(ann, session, `r${round}s${n}`, acknowledged, () => killed))
    // A different moment each time, and never before something was acknowledged.
    while (acknowledged.length < before + 5 + ((round * 7) % 23)) await new Promise(setImmediate)
    const postgres = await postgresPid()
    if (round % 2 === 1) process.kill(postgres, 'SIGKILL')
    server.signal('SIGKILL')
    killed = true
    await server.exited
    if ((await Promise.all(senders)).some((cutOff) => cutOff > 0)) killedWhileSending++
  }
  const server = await startServer({ database: { dataDir }, provider: provider.url })
  const ann = await apiOf(server.url)
  const stored = new Map<string, string>()
  let before: string | null | undefined
  do {
    const path: string = `/v1/sessions/${session}/messages?limit=200${before ? `&before=${before}` : ''}`
    const page = (await (await ann.request(path)).json()) as {
      data: { id: string; role: string }[]
      before: string | null
    }
    for (const message of page.data) stored.set(message.id, message.role)
    before = page.before
  } while (before)
  expect(acknowledged.length).toBeGreaterThan(200)
  // In the other rounds every answer was on its way by then.
  expect(killedWhileSending).toBeGreaterThan(15)
  expect(acknowledged.filter((id) => stored.get(id) !== 'user')).toEqual([])
  // The lane goes on in order to its end, whatever was running when it was killed.
  const watcher = ann.watch(session)
  await watcher.outcome((await ann.send(session, 'the last', 'last')).message.id, 60_000)
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await server.stop()).toBe(0)
  await provider.stop()
}, 180_000)

/** Kills Postgres each time that it is back, until it is given up. */
async function killUntilGivenUp(lines: string[]): Promise<void> {
  const said = (pattern: RegExp, times: number) =>
    eventually(async () => lines.filter((line) => pattern.test(line)).length >= times)
  for (let deaths = 1; deaths <= 6; deaths++) {
    process.kill(await postgresPid(), 'SIGKILL')
    if (deaths < 6) await said(/the embedded Postgres is back/, deaths)
  }
  await said(/died 6 times within a minute/, 1)
}

test('an embedded database that was given up is started again by the next request, in the same process (I1, I5)', async () => {
  const lines: string[] = []
  const lost: string[] = []
  const chat = createHoldfast({
    dataDir,
    tokens: { secret: jwtSecret },
    reply: () => 'A reply.',
    onDatabaseLost: (error) => lost.push(error.message),
    log: (line) => lines.push(line),
  })
  const ann = await apiOf((await chat.listen(0)).url)
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  await ann.send(session, 'before', 'm1')
  await watcher.outcome('m1')
  await killUntilGivenUp(lines)
  expect(lost).toEqual([expect.stringMatching(/died 6 times within a minute/)])
  // Coming back is what starts it.
  await watcher.until(({ type }) => type === 'reconnect')
  await eventually(() => ann.send(session, 'after', 'm2'))
  await watcher.outcome('m2')
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect((await ann.snapshot(session)).messages.map(({ status }) => status)).toEqual(Array(4).fill('complete'))
  await chat.close()
})

test('a server of the command line whose embedded database was given up ends, and says why', async () => {
  const server = await startServer({ database: { dataDir } })
  await killUntilGivenUp(server.lines)
  expect(await server.exited).toBe(1)
  // Lost connections may still be said after it.
  expect(server.lines.filter((line) => !line.startsWith('{')).at(-1)).toMatch(
    /^The embedded Postgres died 6 times within a minute: read .*DATABASE_URL\.$/,
  )
})

test('after the server and its Postgres are killed in the middle of replies it serves within 5 s, and every reply goes on within 15 s (FP3, I1, I2, I5)', async () => {
  const provider = await startProvider()
  const begun = gate()
  const requests = new Map<string, number>()
  provider.script(({ body }) => {
    const text: string = body.messages.at(-1).content
    const request = (requests.get(text) ?? 0) + 1
    requests.set(text, request)
    // The first attempt of each is in its middle for good.
    return request === 1 && text.startsWith('old')
      ? [{ text: 'cut off' }, { wait: begun.passed }]
      : [{ text: `${text}!` }]
  })
  let url = ''
  // With the lease and poll that it has by default.
  const start = async () => {
    const server = await startServer({ database: { dataDir }, provider: provider.url })
    url = server.url
    return server
  }
  const first = await start()
  const ann = await apiOf(() => url)
  const sessions = await Promise.all(Array.from({ length: 20 }, () => ann.createSession()))
  const watchers = sessions.map((session) => ann.watch(session))
  const sent = await Promise.all(sessions.map((session, at) => ann.send(session, `old ${at}`, 'm1')))
  await Promise.all(watchers.map((each, at) => each.until(() => each.text(sent[at]!.reply.id) === 'cut off')))

  const postgres = await postgresPid()
  process.kill(postgres, 'SIGKILL')
  await first.kill()
  const killedMs = performance.now()
  const second = await start()
  const other = await ann.createSession()
  await ann.send(other, 'new', 'm1')
  expect(performance.now() - killedMs).toBeLessThan(5_000)
  expect(await postgresPid()).not.toBe(postgres)

  const goesOn = (watcher: Watcher) =>
    watcher
      .until(({ type, data }) => type === 'attempt.started' && data.attempt === 2)
      .then(() => performance.now() - killedMs)
  expect(Math.max(...(await Promise.all(watchers.map(goesOn))))).toBeLessThan(15_000)
  for (const [at, watcher] of watchers.entries()) {
    const outcome = await watcher.outcome('m1')
    expect([outcome.type, watcher.text(sent[at]!.reply.id)]).toEqual(['message.ai_response', `old ${at}!`])
    await watcher.close()
    expect(watcher.problems).toEqual([])
  }
  begun.open()
  expect(await second.stop()).toBe(0)
  await provider.stop()
}, 60_000)

test('an acknowledged message has been synced to the disk: fsync is on, and each answer follows a sync (I1)', async () => {
  await needProgram('strace', 'strace')
  const server = await startServer({ database: { dataDir }, env: { HOLDFAST_ROLES: 'http' } })
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  const { connection } = await embeddedAddress()
  const client = new Client(connection)
  await client.connect()
  expect((await client.query('show fsync')).rows).toEqual([{ fsync: 'on' }])
  expect((await client.query('show full_page_writes')).rows).toEqual([{ full_page_writes: 'on' }])
  // The connections that accept have been opened before strace looks at their processes.
  for (let n = 0; n < 4; n++) await ann.send(session, 'warm', `warm${n}`)
  const backends = (
    await client.query(
      "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
    )
  ).rows
  await client.end()

  const traced = backends.flatMap(({ pid }) => ['-p', String(pid)])
  const strace = spawn('strace', ['-f', '-s', '4000', '-e', 'trace=fdatasync,fsync,sendto', ...traced])
  let seen = ''
  strace.stderr.on('data', (text: Buffer) => {
    seen += text
  })
  while (seen.split('attached').length <= backends.length) await once(strace.stderr, 'data')
  const ids = Array.from({ length: 10 }, (_, n) => `synced${n}-`)
  for (const id of ids) {
    await ann.send(session, 'synced', id)
    while (!seen.includes(id)) await once(strace.stderr, 'data')
  }
  strace.kill('SIGINT')
  await once(strace, 'exit')
  expect(ids.map((id) => callBeforeAnswer(seen, id))).toEqual(ids.map(() => 'fdatasync'))
  expect(await server.stop()).toBe(0)
})

/** What the process that answered with this id did right before. Lines are `[pid 123] call(…`, without pid for one process. */
function callBeforeAnswer(trace: string, id: string): string | undefined {
  const calls = [...trace.matchAll(/^(?:\[pid +(\d+)\] )?(\w+)\((.*)$/gm)].map(([, pid, call, rest]) => ({
    pid,
    call,
    rest,
  }))
  const answer = calls.findIndex(({ call, rest }) => call === 'sendto' && rest?.includes(id))
  return calls.slice(0, answer).findLast(({ pid }) => pid === calls[answer]?.pid)?.call
}

/** Where the running server's database listens, as its own files say. */
async function embeddedAddress() {
  const [, , , port, socketDir] = (await readFile(join(dataDir, 'data', 'postmaster.pid'), 'utf8')).split('\n')
  return { connection: { host: socketDir, port: Number(port), user: 'holdfast', database: 'postgres' } }
}
