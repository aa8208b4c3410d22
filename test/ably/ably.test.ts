/**
 * `holdfast/ably` and `holdfast/ably-client` with the package `ably` itself against a stub of Ably at the wire (stub.ts):
 * R0.2, R3.2, R3.5, and I4, I5, I6, I15 over Ably.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterAll, beforeAll, expect, inject, onTestFinished, test } from 'vitest'
import { type AblyOptions, ably } from '../../src/ably/ably.ts'
import type { AblyRealtime } from '../../src/ably-client/line.ts'
import { ablyTransport } from '../../src/ably-client/transport.ts'
import { createClient } from '../../src/client/client.ts'
import type { LineFrame, LineStart } from '../../src/client/line.ts'
import { createWire } from '../../src/client/wire.ts'
import { textOf } from '../../src/core/parts.ts'
import { createHoldfast, type LaneOf } from '../../src/index.ts'
import { type Script, scriptedReply, type TestServer, testServer } from '../../src/testing/index.ts'
import { run } from '../examples/example.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { type AblyMessage, installAbly, type Ably as RealAbly, type Realtime } from './package-of-ably.ts'
import { key, type Published, type Stub, startStub } from './stub.ts'

let Ably: RealAbly
let folder: string
let remove: () => Promise<void>
beforeAll(async () => {
  ;({ Ably, folder, remove } = await installAbly())
}, 120_000)
afterAll(() => remove())

type Says = {
  says?: Script
  stub?: { mutableMessages?: boolean }
  ably?: Partial<AblyOptions>
  leaseMs?: number
  lane?: LaneOf
}

async function open({ says = ['To ', 'the ', 'sea.'], stub: rules, ably: options, leaseMs = 1_000, lane }: Says = {}) {
  const stub = await startStub(rules)
  onTestFinished(() => stub.close())
  const adapter = () => ably({ key, prefix: 'beheard:', endpoint: stub.endpoint, ...options })
  const reply = scriptedReply(says)
  const live = adapter()
  const server = await testServer({
    database: inject('postgres').url18,
    reply,
    ably: live,
    leaseMs,
    ...(lane ? { lane } : {}),
  })
  onTestFinished(() => server.close())
  await server.chat.sessions.create({ id: 'trip', userId: 'ann' })
  return { stub, server, reply, live, adapter, send: senderOf(server) }
}

function senderOf(server: TestServer) {
  return async (id: string) => {
    await server.chat.send('trip', { userId: 'ann', id, text: 'Where to?' })
    return id
  }
}

type Granted = {
  tokenRequest: { capability: string; ttl: number; clientId: string }
  sessions: { id: string; channels: { session: string; user: string; presence: string } }[]
}
async function grantOf(server: TestServer, token: string, body: object = {}): Promise<Granted> {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const path = `${server.url}/v1/realtime/ably-token`
  const response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) })
  expect(response.status).toBe(200)
  return (await response.json()) as Granted
}

const optionsOf = ({ port }: Stub) =>
  ({ endpoint: '127.0.0.1', port, tls: false, useBinaryProtocol: false, logLevel: 0 }) as const

/** A client of Ably's alone, as an app has one. */
async function plain(stub: Stub, server: TestServer, userId: string): Promise<Realtime> {
  const token = await server.token(userId)
  const realtime = new Ably.Realtime({
    ...optionsOf(stub),
    authCallback: (_params, callback) => {
      void grantOf(server, token).then(({ tokenRequest }) => callback(null, tokenRequest))
    },
  })
  onTestFinished(() => realtime.close())
  return realtime
}

const eventsIn = (published: Published[], channel = 'beheard:session:trip') =>
  published.filter((each) => each.channel === channel && each.name !== 'holdfast.chunks')
const seqOf = ({ extras }: { extras?: unknown }) =>
  Number((extras as { headers: { seq: string } } | undefined)?.headers.seq)

async function stored(server: TestServer): Promise<{ seq: number; type: string; data: unknown }[]> {
  const client = new pg.Client({ connectionString: server.database })
  await client.connect()
  try {
    return (await client.query('select seq, type, data from holdfast.events order by seq')).rows
  } finally {
    await client.end()
  }
}

/** Every event of the log has been published: each once, in order, as it is stored. */
async function allPublished(server: TestServer, { published }: Stub): Promise<void> {
  const rows = await stored(server)
  await eventually(async () => eventsIn(published).length >= rows.length)
  const got = eventsIn(published).map((each) => ({ seq: seqOf(each), type: each.name, data: JSON.parse(each.data) }))
  expect(got).toEqual(rows)
}

test('an app that listens to Ably has each event under its name with its own data, in order, once, and a reply’s chunks as appends to one message (R0.2, I4, I6)', async () => {
  const { stub, server, reply, send } = await open({
    says: ['To ', { wait: 'half' }, 'the ', { wait: 'tide' }, 'sea.'],
  })
  const realtime = await plain(stub, server, 'ann')
  const channel = realtime.channels.get('beheard:session:trip')
  const answers: AblyMessage[] = []
  const all: AblyMessage[] = []
  await channel.subscribe('message.ai_response', (message) => answers.push(message))
  await channel.subscribe((message) => all.push(message))
  await send('one')
  const chunksOf = () => stub.published.find(({ name }) => name === 'holdfast.chunks')
  await eventually(async () => chunksOf()?.data.includes('To '))
  reply.open('half')
  await eventually(async () => chunksOf()?.data.includes('the '))
  reply.open('tide')
  await eventually(async () => answers.length === 1)
  const { message } = answers[0]!.data as { message: { parts: never[] } }
  expect(textOf(message.parts)).toBe('To the sea.')
  await allPublished(server, stub)
  expect(all.filter(({ name }) => name?.startsWith('message.')).map(({ name }) => name)).toEqual([
    'message.created',
    'message.ai_response',
  ])
  expect(chunksOf()!.appends).toBeGreaterThan(0)
  expect(stub.published.filter(({ name }) => name === 'holdfast.chunks')).toHaveLength(1)
  const lines = chunksOf()!
    .data.trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { index: number; n: number })
  for (const [at, { index, n }] of lines.entries()) expect(lines[at + 1]?.index ?? index + n).toBe(index + n)
})

test('two processes publish what both write: each event once, in order (I4, I5)', async () => {
  const { stub, server, reply, adapter, send } = await open()
  const second = new URL(server.database)
  second.searchParams.set('application_name', 'second')
  const other = createHoldfast({
    database: second.href,
    reply,
    ably: adapter(),
    leaseMs: 1_000,
    pollMs: 200,
    limits: { sendsPerMinute: 0 },
    log: () => undefined,
  })
  onTestFinished(() => other.close())
  await other.start()
  for (let n = 0; n < 4; n++) {
    await send(`here${n}`)
    await other.send('trip', { userId: 'ann', id: `there${n}`, text: 'And?' })
    await server.outcome('trip', `there${n}`)
  }
  await allPublished(server, stub)
})

test('a process killed after Ably has taken an event and before it knew leaves no gap and no double (I5)', async () => {
  const { stub, server, send } = await open()
  let takenAt: () => void
  const taken = new Promise<void>((resolve) => {
    takenAt = resolve
  })
  stub.answerAfter(() => {
    takenAt()
    return new Promise(() => undefined)
  })
  await send('one')
  await taken
  await server.kill()
  stub.answerAfter(() => Promise.resolve())
  await server.restart()
  await server.outcome('trip', 'one')
  await allPublished(server, stub)
  expect(stub.requests.filter((each) => each.startsWith('POST')).length).toBeGreaterThan(stub.published.length)
})

test('a process that is closed has published what it ended', async () => {
  const { stub, server, reply, send } = await open({ says: ['To ', { wait: 'end' }, 'the sea.'] })
  await send('one')
  await eventually(async () => stub.published.some(({ name }) => name === 'holdfast.chunks'))
  reply.open('end')
  await server.outcome('trip', 'one')
  await server.chat.close()
  expect(eventsIn(stub.published).map(({ name }) => name)).toEqual([
    'message.created',
    'attempt.started',
    'message.ai_response',
  ])
})

test('a log that was restored, and a session that was deleted, are told as a reset, and what comes after is published', async () => {
  const { stub, server, send } = await open({ leaseMs: 60_000 })
  const isTold = (reason: string) =>
    eventually(async () => stub.published.some(({ name, data }) => name === 'holdfast.reset' && data.includes(reason)))
  const isAnswered = (id: string) =>
    eventually(async () => stub.published.some(({ name, data }) => name === 'message.ai_response' && data.includes(id)))
  await send('one')
  await isAnswered('one')
  const client = new pg.Client({ connectionString: server.database })
  await client.connect()
  onTestFinished(() => client.end())
  await client.query("update holdfast.meta set epoch = 'another'")
  await server.restart()
  await send('two')
  await isTold('epoch')
  await send('three')
  await isAnswered('three')
  await server.chat.sessions.delete('trip')
  await isTold('gone')
})

test('what Ably refuses for its rate comes when it said, in order, and nothing is lost (I5)', async () => {
  const { stub, server, send } = await open()
  stub.refuse({ code: 42_913, status: 429, retryAfterS: 1 })
  const sinceMs = performance.now()
  await send('one')
  await server.outcome('trip', 'one')
  await allPublished(server, stub)
  expect(performance.now() - sinceMs).toBeGreaterThan(900)
  expect(server.lines.filter((line) => line.startsWith('not published'))).toHaveLength(1)
})

test('where the namespace allows no appends (93002) chunks are messages of their own; what is larger than Ably takes is named, and the outcome comes', async () => {
  const long = 'x'.repeat(70_000)
  const says = ['To ', { wait: 'half' }, 'the ', { wait: 'tide' }, 'sea.', { wait: 'long' }, long]
  const { stub, server, reply, send } = await open({ says, stub: { mutableMessages: false } })
  await send('one')
  const chunks = () => stub.published.filter(({ name }) => name === 'holdfast.chunks')
  for (const [said, gate] of [
    ['To ', 'half'],
    ['the ', 'tide'],
    ['sea.', 'long'],
  ] as const) {
    await eventually(async () => chunks().some(({ data }) => data.includes(said)))
    reply.open(gate)
  }
  await server.outcome('trip', 'one')
  await eventually(async () => stub.published.some(({ name }) => name === 'holdfast.too_large'))
  expect(chunks().length).toBeGreaterThan(2)
  expect(chunks().every(({ appends }) => appends === 0)).toBe(true)
  expect(stub.requests.filter((each) => each.startsWith('PATCH'))).toHaveLength(1)
  const { seq } = (await stored(server)).find(({ type }) => type === 'message.ai_response')!
  const named = stub.published.find(({ name }) => name === 'holdfast.too_large')!
  expect(JSON.parse(named.data)).toEqual({ type: 'message.ai_response', seq })
})

test('an event that excludes a user, and a private lane with its chunks, go to the channels of those alone who may see them (R3.2, I15)', async () => {
  const { stub, server, send } = await open({ lane: () => 'private' })
  const { chat } = server
  for (const userId of ['bob', 'cleo']) await chat.members.add('trip', { userId })
  await eventually(async () => stub.published.length === 2)
  await chat.publish('trip', 'partner.signed_compact', { by: 'ann' }, { excludeUserId: 'ann' })
  await chat.publish('trip', 'session.paused', null)
  await send('one')
  await server.outcome('trip', 'one')
  await eventually(async () => stub.published.some(({ name }) => name === 'message.ai_response'))
  const told = stub.published.map(({ channel, name }) => `${channel.slice('beheard:session:'.length)} ${name}`)
  expect(told.filter((each) => !each.includes('chunks'))).toEqual([
    'trip member.joined',
    'trip member.joined',
    'trip:user:bob partner.signed_compact',
    'trip:user:cleo partner.signed_compact',
    'trip session.paused',
    'trip:user:ann message.created',
    'trip:user:ann attempt.started',
    'trip:user:ann message.ai_response',
  ])
  expect(told.filter((each) => each.includes('chunks')).every((each) => each.startsWith('trip:user:ann '))).toBe(true)
  expect(stub.published.map(seqOf).filter((seq) => !Number.isNaN(seq))).toEqual([1, 2, 3, 3, 4, 5, 6, 7])
})

test('a token grants the channels of exactly the caller’s sessions, to listen and be present; others Ably refuses with 40160 (R3.5, I15)', async () => {
  const { stub, server } = await open()
  await server.chat.sessions.create({ id: 'trip:user:ann', userId: 'eve' })
  await server.chat.sessions.create({ id: 'trip', userId: 'eve', tenantId: 'other' })
  await server.chat.sessions.create({ id: 'walk', userId: 'ann' })
  const granted = await grantOf(server, await server.token('ann'))
  expect(granted.sessions.map(({ id }) => id)).toEqual(['walk', 'trip'])
  const ofSession = (id: string) => ({
    [`beheard:session:${id}`]: ['subscribe'],
    [`beheard:session:${id}:presence`]: ['presence', 'subscribe'],
    [`beheard:session:${id}:user:ann`]: ['subscribe'],
  })
  expect(JSON.parse(granted.tokenRequest.capability)).toEqual({ ...ofSession('trip'), ...ofSession('walk') })
  expect(granted.tokenRequest).toMatchObject({ clientId: 'ann' })
  expect(granted.tokenRequest.ttl).toBeLessThanOrEqual(600_000)
  const named = await grantOf(server, await server.token('ann'), { sessionIds: ['walk', 'trip:user:ann'] })
  expect(JSON.parse(named.tokenRequest.capability)).toEqual(ofSession('walk'))
  const ofNobody = await grantOf(server, await server.token('nobody'))
  expect(JSON.parse(ofNobody.tokenRequest.capability)).toEqual({ 'beheard:none': ['subscribe'] })
  // A session or tenant that is called as another's channel has another one.
  const ofEve = await grantOf(server, await server.token('eve'))
  expect(ofEve.sessions[0]!.channels.session).toBe('beheard:session:trip%3Auser%3Aann')
  const ofOther = await grantOf(server, await server.token('eve', { tenantId: 'other' }))
  expect(ofOther.sessions[0]!.channels.session).toBe('beheard:tenant:other:session:trip')

  const eve = await plain(stub, server, 'eve')
  for (const channel of ['beheard:session:trip', 'beheard:session:trip:user:ann', 'beheard:session:trip:presence']) {
    await expect(eve.channels.get(channel).attach()).rejects.toMatchObject({ code: 40_160 })
  }
  const ann = await plain(stub, server, 'ann')
  const mine = ann.channels.get('beheard:session:trip')
  await mine.attach()
  await expect(mine.publish('message.ai_response', {})).rejects.toMatchObject({ code: 40_160 })
  const token = await server.token('ann')
  const authCallback: ConstructorParameters<RealAbly['Rest']>[0]['authCallback'] = (_params, callback) => {
    void grantOf(server, token).then(({ tokenRequest }) => callback(null, tokenRequest))
  }
  const rest = new Ably.Rest({ ...optionsOf(stub), authCallback })
  await expect(rest.channels.get('beheard:session:trip').publish('x', {})).rejects.toMatchObject({ code: 40_160 })

  const asEverybody = await fetch(`${server.url}/v1/realtime/ably-token`, {
    method: 'POST',
    headers: { authorization: `Bearer ${await server.token('*')}`, 'content-type': 'application/json' },
    body: '{}',
  })
  expect(asEverybody.status).toBe(403)
})

test('who is present on a session’s presence channel the app’s server knows, by their client ids', async () => {
  const { stub, server, live } = await open()
  const ann = await plain(stub, server, 'ann')
  const { presence } = ann.channels.get('beheard:session:trip:presence')
  await presence.enter({ on: 'phone' })
  const tablet = await plain(stub, server, 'ann')
  await tablet.channels.get('beheard:session:trip:presence').presence.enter()
  expect(await live.present({ sessionId: 'trip' })).toMatchObject([{ userId: 'ann' }])
  // So does whoever asks Holdfast, of members alone: a token outlives a membership.
  await server.chat.members.add('trip', { userId: 'bob' })
  const bob = await plain(stub, server, 'bob')
  await bob.channels.get('beheard:session:trip:presence').presence.enter()
  const both = ['ann', 'bob'].map((userId) => ({ userId, state: 'here' }))
  expect(await server.chat.presence('trip')).toEqual(both)
  await server.chat.members.remove('trip', { userId: 'bob' })
  expect(await server.chat.presence('trip')).toEqual(both.slice(0, 1))
  await bob.channels.get('beheard:session:trip:presence').presence.leave()
  await presence.leave()
  await tablet.channels.get('beheard:session:trip:presence').presence.leave()
  expect(await live.present({ sessionId: 'trip' })).toEqual([])
  expect(await server.chat.presence('trip')).toEqual([])
})

async function clientOver(stub: Stub, server: TestServer, lookEveryMs = 60_000) {
  const transport = ablyTransport((authCallback) => new Ably.Realtime({ ...optionsOf(stub), authCallback }), {
    lookEveryMs,
    lookUnheardEveryMs: 500,
  })
  const asked: string[] = []
  const client = createClient({
    url: server.url,
    token: await server.token('ann'),
    transport,
    fetch: (input, init) => {
      asked.push(String(input).slice(server.url.length))
      return fetch(input, init)
    },
  })
  onTestFinished(() => client.close())
  const session = client.session('trip')
  onTestFinished(session.subscribe(() => undefined))
  const shown = () => session.getSnapshot().messages.map(({ role, parts }) => `${role}: ${textOf(parts)}`)
  const shows = (...texts: string[]) => eventually(async () => JSON.stringify(shown()) === JSON.stringify(texts))
  const isHeard = () =>
    eventually(async () => session.getSnapshot().isLive && stub.listeners('beheard:session:trip') > 0)
  const reads = () => asked.filter((path) => path.includes('/events')).length
  return { client, session, shows, isHeard, reads }
}

test('the client follows over Ably: chunks as they come, nothing read from the server while nothing is missing (I5, I7)', async () => {
  const { stub, server, reply, send } = await open({
    says: ['To ', { wait: 'half' }, 'the ', { wait: 'tide' }, 'sea.'],
  })
  const { client, session, shows, isHeard, reads } = await clientOver(stub, server)
  await isHeard()
  await eventually(async () => stub.listeners('beheard:session:trip:user:ann') > 0)
  expect(client.connection.getSnapshot()).toMatchObject({ phase: 'live', transport: 'ably' })
  // What is read at the start, and when both channels are there, has been.
  let before = -1
  await eventually(async () => {
    const same = reads() === before
    before = reads()
    return same
  })
  await send('one')
  await shows('user: Where to?', 'assistant: To ')
  reply.open('half')
  await shows('user: Where to?', 'assistant: To the ')
  reply.open('tide')
  await shows('user: Where to?', 'assistant: To the sea.')
  await eventually(async () => session.getSnapshot().messages[1]!.status === 'complete')
  expect(reads()).toBe(before)
})

test('several appends that Ably hands over as one are shown, each chunk once, and nothing is read for them (I5, I7)', async () => {
  const { stub, server, reply, send } = await open({
    says: ['To ', { wait: 'half' }, 'the ', { wait: 'tide' }, 'sea', { wait: 'last' }, '.'],
  })
  const { session, shows, isHeard, reads } = await clientOver(stub, server)
  await isHeard()
  await send('one')
  await shows('user: Where to?', 'assistant: To ')
  const before = reads()
  const tell = stub.conflate()
  const chunks = () => stub.published.find(({ name }) => name === 'holdfast.chunks')!
  const { appends } = chunks()
  reply.open('half')
  await eventually(async () => chunks().data.includes('the '))
  reply.open('tide')
  await eventually(async () => chunks().data.includes('sea'))
  expect(chunks().appends - appends).toBeGreaterThan(1)
  await shows('user: Where to?', 'assistant: To ')
  tell()
  await shows('user: Where to?', 'assistant: To the sea')
  reply.open('last')
  await eventually(async () => session.getSnapshot().messages[1]!.status === 'complete')
  await shows('user: Where to?', 'assistant: To the sea.')
  expect(reads()).toBe(before)
})

test('a client over Ably whose messages are lost and cut off ends with the stored message (I5, I7)', async () => {
  const { stub, server, reply, send } = await open({
    says: ['To ', { wait: 'half' }, 'the ', { wait: 'tide' }, 'sea', { wait: 'last' }, '.'],
  })
  const { shows, isHeard, reads } = await clientOver(stub, server)
  await isHeard()
  // What comes after them tells that they are missing.
  let told = 0
  stub.lose(() => told++ < 2)
  await send('one')
  await shows('user: Where to?', 'assistant: To ')
  const before = reads()
  reply.open('half')
  await shows('user: Where to?', 'assistant: To the ')
  stub.cut()
  reply.open('tide')
  await shows('user: Where to?', 'assistant: To the sea')
  expect(reads()).toBeGreaterThan(before)
  // Not even the last word comes: it is looked for.
  const looking = await clientOver(stub, server, 500)
  await looking.isHeard()
  await looking.shows('user: Where to?', 'assistant: To the sea')
  stub.lose(() => true)
  reply.open('last')
  await looking.shows('user: Where to?', 'assistant: To the sea.')
  await eventually(async () => looking.session.getSnapshot().messages[1]!.status === 'complete')
})

test('over an `Ably.Realtime` of the app’s own, channels that are attached already are heard, and one that was refused is attached when its token allows it', async () => {
  const { stub, server } = await open()
  await server.chat.sessions.create({ id: 'walk', userId: 'ann' })
  const token = await server.token('ann')
  let sessionIds = ['trip']
  const realtime = new Ably.Realtime({
    ...optionsOf(stub),
    authCallback: (_params, callback) => {
      void grantOf(server, token, { sessionIds }).then(({ tokenRequest }) => callback(null, tokenRequest))
    },
  })
  onTestFinished(() => realtime.close())
  for (const name of ['trip', 'trip:user:ann']) await realtime.channels.get(`beheard:session:${name}`).attach()
  const refused: string[] = []
  realtime.channels.get('beheard:session:walk').on('failed', () => refused.push('walk'))

  const follow = (lookEveryMs: number, ...ids: string[]) => {
    const asked: string[] = []
    const client = createClient({
      url: server.url,
      token,
      transport: ablyTransport(realtime, { lookEveryMs, lookUnheardEveryMs: 50 }),
      fetch: (input, init) => {
        asked.push(String(input))
        return fetch(input, init)
      },
    })
    onTestFinished(() => client.close())
    for (const id of ids) onTestFinished(client.session(id).subscribe(() => undefined))
    const reads = (id: string) => asked.filter((path) => path.includes(`/${id}/events`)).length
    return { client, reads, isLive: (id: string) => client.session(id).getSnapshot().isLive }
  }
  const rarely = follow(60_000, 'trip', 'walk')
  await eventually(async () => refused.length === 2 && rarely.isLive('trip'))
  const before = { trip: rarely.reads('trip'), walk: rarely.reads('walk') }
  await eventually(async () => rarely.reads('walk') >= before.walk + 4)
  expect(rarely.reads('trip')).toBe(before.trip)
  rarely.client.close()

  const again = follow(100, 'walk')
  await eventually(async () => refused.length >= 4)
  sessionIds = ['trip', 'walk']
  await realtime.auth.authorize()
  await eventually(async () => stub.listeners('beheard:session:walk') > 0)
  again.client.close()
})

test('what one session’s read is refused with (500) ends nothing else: the line stands, the other is heard, and this one is read again', async () => {
  const { stub, server, send } = await open()
  await server.chat.sessions.create({ id: 'walk', userId: 'ann' })
  let [refusals, made] = [0, 0]
  let isBroken = false
  const client = createClient({
    url: server.url,
    token: await server.token('ann'),
    transport: ablyTransport(
      (authCallback) => {
        made++
        return new Ably.Realtime({ ...optionsOf(stub), authCallback })
      },
      { lookEveryMs: 100, lookUnheardEveryMs: 100 },
    ),
    async fetch(input, init) {
      if (!isBroken || !String(input).includes('/walk/events')) return await fetch(input, init)
      refusals++
      const problem = { code: 'internal', detail: 'Something went wrong.', retryable: true, retryAfterMs: 50 }
      return Response.json({ ...problem, status: 500 }, { status: 500 })
    },
  })
  onTestFinished(() => client.close())
  const [trip, walk] = [client.session('trip'), client.session('walk')]
  const phases = new Set<string>()
  for (const session of [trip, walk]) onTestFinished(session.subscribe(() => undefined))
  await eventually(async () => trip.getSnapshot().isLive && walk.getSnapshot().isLive)
  const isTripLive = new Set<boolean>()
  onTestFinished(client.connection.subscribe(() => phases.add(client.connection.getSnapshot().phase)))
  onTestFinished(trip.subscribe(() => isTripLive.add(trip.getSnapshot().isLive)))
  isBroken = true
  await eventually(async () => refusals > 2 && !walk.getSnapshot().isLive)
  await send('one')
  await eventually(async () => trip.getSnapshot().messages[1]?.status === 'complete')
  await server.chat.send('walk', { userId: 'ann', id: 'two', text: 'And?' })
  isBroken = false
  await eventually(async () => walk.getSnapshot().isLive && walk.getSnapshot().messages[1]?.status === 'complete')
  expect([...phases]).not.toContain('waiting')
  expect([...isTripLive]).toEqual([true])
  expect(made).toBe(1)
})

test('a session that is far behind is read to its end while it is heard, and one that is near is read once (I5)', async () => {
  const { stub, server } = await open()
  const written = 300
  const data = 'x'.repeat(2_000)
  for (let at = 0; at < written; at++) await server.chat.publish('trip', 'app.said', data)
  const token = await server.token('ann')
  let reads = 0
  const wire = createWire({
    api: server.url,
    headers: async () => new Headers({ authorization: `Bearer ${token}` }),
    headersMayChange: false,
    credentials: undefined,
    silentMs: 10_000,
    fetch(input, init) {
      if (String(input).includes('/events')) reads++
      return fetch(input, init)
    },
  })
  const realtime = (await plain(stub, server, 'ann')) as Realtime & AblyRealtime
  for (const name of ['trip', 'trip:user:ann']) await realtime.channels.get(`beheard:session:${name}`).attach()
  const seqs: number[] = []
  let isCaughtUp = false
  const start: LineStart = {
    follows: () => [{ sessionId: 'trip', cursor: `${epoch}.0`, ref: '1' }],
    list: () => false,
    isAway: () => false,
    take(frame: LineFrame) {
      if ('seq' in frame) seqs.push(frame.seq as number)
      if (frame.type === 'caught-up') isCaughtUp = true
    },
    opened: () => undefined,
    ended: () => undefined,
  }
  const [{ epoch } = { epoch: '' }] = await queryOnce<{ epoch: string }>(
    server.database,
    'select epoch from holdfast.meta',
  )
  const line = ablyTransport(realtime, { lookEveryMs: 60_000 }).open(wire, start)
  onTestFinished(() => line.close())
  await eventually(async () => isCaughtUp)
  expect(seqs).toEqual(Array.from({ length: written }, (_, at) => at + 1))
  stub.lose(() => true)
  const before = reads
  for (const more of [1, 2]) {
    await server.chat.publish('trip', 'app.said', 'small')
    line.check()
    await eventually(async () => seqs.length === written + more)
  }
  expect(reads).toBe(before + 2)
})

test('an `Ably.Realtime` fits the transport as the package declares it, and the authCallback fits the package', async () => {
  const transport = fileURLToPath(new URL('../../src/ably-client/transport.ts', import.meta.url))
  await writeFile(
    join(folder, 'app.ts'),
    `import * as Ably from 'ably'
    import { ablyTransport } from ${JSON.stringify(transport)}
    export const made = ablyTransport((authCallback) => new Ably.Realtime({ authCallback }))
    export const own = ablyTransport(new Ably.Realtime({ key: 'app.id:secret' }))`,
  )
  const compiler = fileURLToPath(new URL('../../node_modules/typescript/bin/tsc', import.meta.url))
  const options = '--strict --noEmit --skipLibCheck --allowImportingTsExtensions --module nodenext --target es2023'
  await run(process.execPath, [compiler, ...options.split(' '), '--types', '', 'app.ts'], folder)
})
