/** `holdfast/testing`: what befalls a test server, and what its clients and its log show of it. */
import { setTimeout as pause } from 'node:timers/promises'
import { expect, inject, onTestFinished, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import type { Sent } from '../../src/index.ts'
import { scriptedReply, type TestServer, type TestServerOptions, testServer } from '../../src/testing/index.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'

/** On the run's own server; that of an app's first test is in embedded.test.ts. */
async function open(options: TestServerOptions): Promise<TestServer> {
  const server = await testServer({ database: inject('postgres').url18, ...options })
  onTestFinished(() => server.close())
  return server
}

async function send(server: TestServer, id: string, text: string): Promise<Sent> {
  if ((await server.chat.sessions.get('trip')) === null)
    await server.chat.sessions.create({ id: 'trip', userId: 'ann' })
  return await server.chat.send('trip', { id, userId: 'ann', text })
}

/** Frames as a client of the wire gets them, until the connection ends. */
async function follow(server: TestServer, onFrame: (frame: { type: string; cursor?: string }) => void, cursor = '') {
  const response = await fetch(`${server.url}/v1/sessions/trip/events?cursor=${cursor}`, {
    headers: { authorization: `Bearer ${await server.token('ann')}` },
  })
  let text = ''
  const decoder = new TextDecoder()
  for await (const bytes of response.body!) {
    text += decoder.decode(bytes, { stream: true })
    const blocks = text.split('\n\n')
    text = blocks.pop()!
    for (const block of blocks) {
      const data = /^data: (.*)$/m.exec(block)?.[1]
      if (data !== undefined) onFrame(JSON.parse(data))
    }
  }
}

test('a reply survives kill and restart: the message is there, another attempt writes it to its end (I1, I9)', async () => {
  const reply = scriptedReply(['To the ', { wait: 'tide' }, 'sea.'])
  const server = await open({ reply })
  await send(server, 'm1', 'Where to?')
  await reply.reached('tide')
  await server.until('trip', ({ type, chunks }) => type === 'chunk' && JSON.stringify(chunks).includes('To the '))
  const [first] = reply.calls
  await server.kill()

  await expect(fetch(`${server.url}/v1/sessions`)).rejects.toThrow()
  const rows = await queryOnce<{ state: string; attempt: number }>(
    server.database,
    'select state, attempt from holdfast.turns',
  )
  // Nothing was handed over, as nothing is by the dead.
  expect(rows).toEqual([{ state: 'running', attempt: 1 }])
  reply.open('tide')
  await server.restart()

  const { text, turn, message } = await server.outcome('trip', 'm1')
  expect({ text, state: turn.state, attempt: turn.attempt, said: textOf(message.parts) }).toEqual({
    text: 'To the sea.',
    state: 'complete',
    attempt: 2,
    said: 'Where to?',
  })
  expect(reply.calls.map(({ attempt }) => attempt)).toEqual([1, 2])
  expect(reply.calls[1]!.messages).toEqual(first!.messages)
})

test('a reply that does not look at its signal goes on in the test’s process, and nothing that it says is heard (I3)', async () => {
  let goOn!: () => void
  const held = new Promise<void>((resolve) => {
    goOn = resolve
  })
  let over!: () => void
  const ended = new Promise<void>((resolve) => {
    over = resolve
  })
  const server = await open({
    async *reply({ attempt }) {
      try {
        yield `attempt ${attempt} `
        if (attempt === 1) await held
        yield 'ends.'
      } finally {
        if (attempt === 1) over()
      }
    },
  })
  await send(server, 'm1', 'Hello')
  await server.until('trip', ({ type }) => type === 'chunk')
  await server.kill()
  await server.restart()
  await server.until('trip', ({ type, data }) => type === 'attempt.started' && data?.attempt === 2)
  goOn()
  await ended
  const { text, turn } = await server.outcome('trip', 'm1')
  expect({ text, attempt: turn.attempt }).toEqual({ text: 'attempt 2 ends.', attempt: 2 })
})

test('what a killed server’s attempt reports is not written any more, as by the dead (I12)', async () => {
  const reply = scriptedReply(['a ', { usage: { outputTokens: 1 } }, { wait: 'kill' }, 'b'])
  const server = await open({ reply })
  await send(server, 'm1', 'Hi')
  await reply.reached('kill')
  await server.kill()
  reply.open('kill')
  await server.restart()
  await server.outcome('trip', 'm1')
  const rows = await queryOnce(server.database, 'select attempt, state from holdfast.usage order by 1')
  expect(rows).toEqual([
    { attempt: 1, state: 'estimated' },
    { attempt: 2, state: 'reported' },
  ])
})

test('a server that is killed in the middle of its work leaves no connection, and says nothing more', async () => {
  const words = Array.from({ length: 300 }, (_, at) => `${at} `)
  const server = await open({
    async *reply() {
      for (const word of words) {
        yield word
        await pause(1)
      }
    },
  })
  const connections = () =>
    queryOnce<{ n: number }>(
      server.database,
      'select count(*)::int as n from pg_stat_activity where datname = current_database()',
    )
  for (const id of ['m1', 'm2', 'm3']) {
    const { turn } = await send(server, id, 'Count')
    await server.until('trip', ({ type, turnId }) => type === 'chunk' && turnId === turn.id)
    const begun = performance.now()
    await server.kill()
    // Nothing is waited for that asks the database, or for what a drain allows.
    expect(performance.now() - begun).toBeLessThan(4_000)
    const lines = server.lines.length
    // What looks into the database for `until`, and who asks here.
    await eventually(async () => (await connections())[0]!.n <= 2)
    expect(server.lines.length).toBe(lines)
    await server.restart()
    expect((await server.outcome('trip', id)).text).toBe(words.join(''))
  }
})

test('a cut costs a client nothing: it comes back with its cursor, and the reply goes on meanwhile (I5)', async () => {
  const reply = scriptedReply(['One ', { wait: 'cut' }, 'two ', 'three.'])
  const server = await open({ reply })
  await send(server, 'm1', 'Count')
  const frames: { type: string; cursor?: string }[] = []
  const cut = follow(server, (frame) => {
    frames.push(frame)
    if (frame.type === 'chunk') server.cut()
  })
  await expect(cut).rejects.toThrow()
  reply.open('cut')
  await server.outcome('trip', 'm1')
  expect(reply.calls.length).toBe(1)

  const seen = frames.filter(({ cursor }) => cursor !== undefined)
  const control = new Promise<void>((resolve, reject) => {
    const again = (frame: { type: string; cursor?: string }) => {
      frames.push(frame)
      if (frame.type === 'message.ai_response') resolve()
    }
    follow(server, again, seen.at(-1)!.cursor).catch(reject)
  })
  await control
  server.cut()
  const events = frames.flatMap((frame) => ('seq' in frame ? [frame.seq] : []))
  expect(events).toEqual(events.map((_, at) => at + 1))
})

test('a cut after some bytes lets just those through, and everything that comes later is well', async () => {
  const server = await open({ reply: () => 'hello' })
  await send(server, 'm1', 'Hi')
  await server.outcome('trip', 'm1')
  const ask = async () =>
    fetch(`${server.url}/v1/sessions/trip`, { headers: { authorization: `Bearer ${await server.token('ann')}` } })
  const whole = await (await ask()).text()
  server.cut({ afterBytes: 400 })
  await expect(ask().then((response) => response.text())).rejects.toThrow()
  expect(await (await ask()).text()).toBe(whole)
})

test('a client that is refused is offline, while the server writes its reply; allowed, it finds it', async () => {
  const server = await open({ reply: () => 'written meanwhile' })
  await send(server, 'm1', 'Hi')
  server.refuse()
  await expect(fetch(`${server.url}/v1/sessions`)).rejects.toThrow()
  expect((await server.outcome('trip', 'm1')).text).toBe('written meanwhile')
  server.allow()
  expect((await fetch(`${server.url}/v1/sessions`)).status).toBe(401)
})

test('restart without kill is a deploy: the reply is handed over, without waiting for its lease', async () => {
  const reply = scriptedReply([{ wait: 'deploy' }, 'after all'])
  const server = await open({ reply, leaseMs: 60_000 })
  await send(server, 'm1', 'Hi')
  await reply.reached('deploy')
  const before = server.chat
  await server.restart()
  expect(server.chat).not.toBe(before)
  reply.open('deploy')
  const { text, turn } = await server.outcome('trip', 'm1')
  expect({ text, attempt: turn.attempt }).toEqual({ text: 'after all', attempt: 2 })
})

test('two servers beside each other do not see each other, and a kill of one is none of the other’s (I15)', async () => {
  const mine = scriptedReply([{ wait: 'go' }, 'mine'])
  const [one, other] = await Promise.all([open({ reply: mine }), open({ reply: () => 'theirs' })])
  await send(one, 'm1', 'Hi')
  await mine.reached('go')
  expect(await other.chat.sessions.get('trip')).toBeNull()
  await send(other, 'm1', 'Hi')
  await other.kill()
  mine.open('go')
  const { text, turn } = await one.outcome('trip', 'm1')
  expect({ text, attempt: turn.attempt }).toEqual({ text: 'mine', attempt: 1 })
  await other.restart()
  expect((await other.outcome('trip', 'm1')).text).toBe('theirs')
  const token = await one.token('ann')
  const stranger = await fetch(`${other.url}/v1/sessions`, { headers: { authorization: `Bearer ${token}` } })
  expect(stranger.status).toBe(401)
})

test('who waits in vain is told what came instead, and how the server is', async () => {
  const server = await open({ reply: scriptedReply([{ fail: 'provider_rejected' }]) })
  await expect(server.until('nowhere', () => true, { withinMs: 1 })).rejects.toThrow('There is no session nowhere')
  await send(server, 'm1', 'Hi')
  await server.outcome('trip', 'm1')
  const waiting = server.until('trip', ({ type }) => type === 'message.ai_response', { withinMs: 1 })
  await expect(waiting).rejects.toThrow(
    /until: no event matched within 1 ms[\s\S]*message\.created[\s\S]*message\.error/,
  )
  await expect(waiting).rejects.toThrow('attempt failed')
  await server.kill()
  await expect(server.outcome('trip', 'm2', { withinMs: 1 })).rejects.toThrow('restart() starts it again')
})

test('close drops the database and ends who waits; nothing is left of it, also of one that was killed', async () => {
  const admin = inject('postgres').url18
  const server = await testServer({ database: admin, reply: () => 'hi' })
  const name = new URL(server.database).pathname.slice(1)
  const named = () => queryOnce(admin, 'select from pg_database where datname = $1', [name])
  expect(await named()).toHaveLength(1)
  await server.kill()
  const waiting = expect(server.until('trip', () => false)).rejects.toThrow('before the test server was closed')
  await Promise.all([server.close(), server.close()])
  await waiting
  expect(await named()).toEqual([])
  await expect(fetch(server.url)).rejects.toThrow()
  await expect(server.restart()).rejects.toThrow('was closed')
})

test('a wrong option is refused as createHoldfast refuses it, and leaves no database', async () => {
  // The oldest version, where no other test of this kind is.
  const admin = inject('postgres').url15
  const scratches = () => queryOnce(admin, `select from pg_database where starts_with(datname, 'holdfast_scratch_')`)
  const before = await scratches()
  await expect(testServer({ database: admin, reply: () => 'hi', leaseMs: 5 })).rejects.toThrow('leaseMs')
  expect(await scratches()).toHaveLength(before.length)
})

test('a database that a dead test left is dropped by the next one, when it is old and nobody is connected to it', async () => {
  const admin = inject('postgres').url18
  const old = `holdfast_scratch_${Date.now() - 3_600_000}_00aa`
  const young = `holdfast_scratch_${Date.now()}_00bb`
  for (const name of [old, young]) await queryOnce(admin, `create database ${name} template template0`)
  onTestFinished(() => queryOnce(admin, `drop database if exists ${young}`).then(() => undefined))
  await open({ reply: () => 'hi' })
  const left = await queryOnce<{ datname: string }>(admin, 'select datname from pg_database where datname = any($1)', [
    [old, young],
  ])
  expect(left).toEqual([{ datname: young }])
})
