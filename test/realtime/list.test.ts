/** Hints that a list of sessions has changed: over the socket, the stream and the long poll, from any process. */
import { randomUUID } from 'node:crypto'
import { createParser } from 'eventsource-parser'
import { expect, onTestFinished, test } from 'vitest'
import type { PassingFrame } from '../../src/core/frames.ts'
import { createPassing } from '../../src/http/passing.ts'
import { createLists } from '../../src/log/lists.ts'
import { renameSession } from '../../src/store/sessions.ts'
import { live, openTwoPeople, post, receive } from '../people/two-people.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { type ManyFrame, subprotocol } from '../support/many.ts'
import { freshDatabase, queryOnce } from '../support/postgres.ts'
import { startServer, tokenOf } from '../support/server.ts'
import { openRaw, type RawSocket, type SocketFrame } from '../support/socket.ts'
import { openStored, sessionsOf, tenantId, userId } from '../support/stored.ts'

async function listOf(url: string, user = 'ann'): Promise<RawSocket> {
  const headers = { authorization: `Bearer ${await tokenOf(user)}` }
  const socket = await openRaw(`${url}/v1/realtime`, { protocols: [subprotocol], headers })
  socket.say({ type: 'list', ref: 'l' })
  expect(await socket.until(({ ref }) => ref === 'l')).toEqual({ type: 'listing', ref: 'l' })
  return socket
}

const hint =
  (sessionId: string, matches: (updatedAt: string | null) => boolean = () => true) =>
  ({ type, data }: SocketFrame) =>
    type === 'session.changed' && data.sessionId === sessionId && matches(data.updatedAt)
const deleted = (sessionId: string) => hint(sessionId, (updatedAt) => updatedAt === null)

/** The hint of the state that is stored now, or of a later one. */
async function untilTold(list: RawSocket, api: Api, sessionId: string): Promise<SocketFrame> {
  const { session } = (await api.snapshot(sessionId)) as unknown as { session: { updatedAt: string } }
  return await list.until(hint(sessionId, (updatedAt) => updatedAt !== null && updatedAt >= session.updatedAt))
}

test('a list is told of what is created, titled, said, answered and deleted, in this process and in another (P126)', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const servers = [await startServer({ database: database.url }), await startServer({ database: database.url })]
  const ann = await apiOf(servers[0]!.url)
  const session = randomUUID()
  const lists = await Promise.all(servers.map(({ url }) => listOf(url)))
  await ann.createSession(session)
  for (const list of lists) await untilTold(list, ann, session)
  await ann.request(`/v1/sessions/${session}`, { method: 'PATCH', body: '{"title":"A title"}' })
  for (const list of lists) await untilTold(list, ann, session)
  const watcher = ann.watch(session)
  onTestFinished(() => watcher.close())
  const { message } = await ann.send(session, 'hello')
  await watcher.outcome(message.id)
  for (const list of lists) await untilTold(list, ann, session)
  await ann.request(`/v1/sessions/${session}`, { method: 'DELETE' })
  for (const list of lists) await list.until(deleted(session))
})

test('only who is a member when it is told is told (I15, P126)', async () => {
  const { ann, url, database } = await openChat()
  const [own, shared] = [await ann.createSession(), await ann.createSession()]
  await queryOnce(
    database,
    `insert into holdfast.members (tenant_id, session_id, user_id, role)
       values ('default', $1, 'mia', 'reader'), ('default', $2, 'mia', 'member')`,
    [own, shared],
  )
  const lists = { ann: await listOf(url), mia: await listOf(url, 'mia'), otto: await listOf(url, 'otto') }
  await queryOnce(database, `delete from holdfast.members where session_id = $1 and user_id = 'mia'`, [own])
  await ann.send(own, 'for ann')
  await untilTold(lists.ann, ann, own)
  await ann.send(shared, 'for both')
  await untilTold(lists.mia, ann, shared)
  await ann.request(`/v1/sessions/${own}`, { method: 'DELETE' })
  await lists.ann.until(deleted(own))
  const toldOf = ({ frames }: RawSocket) => new Set(frames.flatMap(({ data }) => (data ? [data.sessionId] : [])))
  expect(toldOf(lists.mia)).toEqual(new Set([shared]))
  expect(toldOf(lists.otto)).toEqual(new Set())
})

test('what a user has read on one device is told to the lists of theirs, in every process, and to nobody else (P126, P141)', async () => {
  const { ann, bob, session } = await openTwoPeople()
  const urls = await Promise.all([ann, bob].map(async (api) => new URL((await api.request('/livez')).url).origin))
  const his = await Promise.all(urls.map((url) => listOf(url, 'bob')))
  const hers = await listOf(urls[0]!)
  const watcher = await live(ann)
  onTestFinished(() => watcher.close())
  const { cursor } = await ann.send(session, 'hi', 'm1')
  await watcher.outcome('m1')
  for (const list of [...his, hers]) await untilTold(list, ann, session)
  const before = [...his, hers].map(({ frames }) => frames.length)

  expect(await receive(bob, { read: cursor })).toMatchObject({ unread: 1 })
  const { updatedAt } = (await ann.snapshot(session)).session as unknown as { updatedAt: string }
  const isTold = hint(session, (at) => at === updatedAt)
  for (const [at, list] of his.entries()) {
    await eventually(async () => list.frames.slice(before[at]).some(isTold))
  }
  // A receipt that changes nothing, and typing, are none.
  await receive(bob, { read: cursor })
  await post(bob, 'typing', { isTyping: true })
  const other = await ann.createSession()
  await hers.until(hint(other))
  expect(hers.frames.slice(before[2]).filter(hint(session))).toEqual([])
  expect(his.map(({ frames }, at) => frames.slice(before[at]).filter(hint(session)).length)).toEqual([1, 1])
  // What changes next is told to all.
  await ann.request(`/v1/sessions/${session}`, { method: 'PATCH', body: '{"title":"A title"}' })
  for (const list of [...his, hers]) await untilTold(list, ann, session)
})

test('a user of this name in another tenant is not told (I15, P126)', async () => {
  const { ann, url } = await openChat()
  const headers = { authorization: `Bearer ${await tokenOf('ann', { tenant: 'other' })}` }
  const other = await openRaw(`${url}/v1/realtime`, { protocols: [subprotocol], headers })
  other.say({ type: 'list', ref: 'l' })
  await other.until(({ ref }) => ref === 'l')
  const list = await listOf(url)
  const session = await ann.createSession()
  await untilTold(list, ann, session)
  await ann.request(`/v1/sessions/${session}`, { method: 'DELETE' })
  await list.until(deleted(session))
  expect(other.frames).toHaveLength(1)
})

test('a session that changes all the time is told of once a second, and its last change is told (P126)', async () => {
  const { ann, url, session } = await openChat()
  const list = await listOf(url)
  const at: number[] = []
  list.ws.on('message', () => at.push(performance.now()))
  const rename = (title: string) =>
    ann.request(`/v1/sessions/${session}`, { method: 'PATCH', body: JSON.stringify({ title }) })
  const untilMs = performance.now() + 2_500
  for (let n = 0; performance.now() < untilMs; n++) await rename(`${n}`)
  await untilTold(list, ann, session)
  expect(at.length).toBeGreaterThanOrEqual(3)
  for (const [n, ms] of at.entries()) if (n > 0) expect(ms - at[n - 1]!).toBeGreaterThan(500)
})

test('the stream and the long poll with list=1 tell them beside what is followed (P126, P130, P132)', async () => {
  const { ann, session } = await openChat()
  const control = new AbortController()
  onTestFinished(() => control.abort())
  const response = await ann.request(`/v1/events?list=1&sessions=${session}@now`, { signal: control.signal })
  const frames: ManyFrame[] = []
  const parser = createParser({ onEvent: ({ data }) => frames.push(JSON.parse(data) as ManyFrame) })
  const reader = response.body!.getReader()
  const until = async (type: string) => {
    while (!frames.some((frame) => frame.type === type)) {
      parser.feed(new TextDecoder().decode((await reader.read()).value, { stream: true }))
    }
    return frames.find((frame) => frame.type === type)!
  }
  await until('caught-up')
  expect(frames.map(({ type }) => type)).toEqual(['listing', 'following', 'caught-up'])
  const polled = ann.request('/v1/events?list=1&wait=20', { headers: { accept: 'application/json' } })
  let isPolled = false
  void polled.then(() => {
    isPolled = true
  })
  // The poll has no word for when it began: something changes until it has answered.
  const other = await ann.createSession()
  for (let n = 0; !isPolled; n++) {
    await ann.request(`/v1/sessions/${other}`, { method: 'PATCH', body: JSON.stringify({ title: `${n}` }) })
  }
  expect((await until('session.changed')).data.sessionId).toBe(other)
  expect(await (await polled).json()).toMatchObject({
    frames: [{ type: 'session.changed', data: { sessionId: other } }],
    cursors: {},
  })
})

test('ten thousand wakeups are a few statements, and no list none (P126)', async () => {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const database = stored.open()
  let statements = 0
  const counting = {
    ...database,
    query: ((...ask: Parameters<typeof database.query>) => {
      statements++
      return database.query(...ask)
    }) as typeof database.query,
  }
  const lists = createLists(counting)
  onTestFinished(() => lists.stop())
  const ids = await sessionsOf(database, 40)
  const note = (sessionId: string) => ({ tenantId, sessionId, events: [], runs: [], due: false })
  for (const id of ids) lists.hear(note(id))
  const told = new Set<string>()
  let all!: () => void
  const whole = new Promise<void>((resolve) => {
    all = resolve
  })
  const looker = (sessionId: string) => {
    told.add(sessionId)
    if (told.size === ids.length) all()
  }
  for (let at = 0; at < 50; at++) {
    lists.look({ tenantId, userId }, { changed: ({ sessionId }) => looker(sessionId), drain: () => undefined })
  }
  expect(statements).toBe(0)
  for (let at = 0; at < 10_000; at++) lists.hear(note(ids[at % ids.length]!))
  await whole
  expect(statements).toBe(1)
})

test('a wakeup without a change is no hint (P126)', async () => {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const database = stored.open()
  const lists = createLists(database)
  onTestFinished(() => lists.stop())
  const [same, other] = (await sessionsOf(database, 2)) as [string, string]
  const note = (sessionId: string) => ({ tenantId, sessionId, events: [], runs: [], due: false })
  const told: string[] = []
  let toldOf: (sessionId: string) => void = () => undefined
  const until = (sessionId: string) =>
    new Promise<void>((resolve) => {
      toldOf = (id) => id === sessionId && resolve()
    })
  const changed = ({ sessionId }: { sessionId: string }) => {
    told.push(sessionId)
    toldOf(sessionId)
  }
  lists.look({ tenantId, userId }, { changed, drain: () => undefined })
  lists.hear(note(same))
  await until(same)
  lists.hear(note(same))
  // Later than that, and told later.
  lists.hear(note(other))
  await until(other)
  await renameSession(database, { tenantId, id: other, userId, title: 'changed' })
  lists.hear(note(other))
  await until(other)
  expect(told).toEqual([same, other, other])
})

test('what all see is told to all, also where it was stored when somebody was told what they alone see (P126, P157)', async () => {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const database = stored.open()
  const lists = createLists(database)
  onTestFinished(() => lists.stop())
  const [sessionId] = (await sessionsOf(database, 1)) as [string]
  await stored.query(`insert into holdfast.members (tenant_id, session_id, user_id, role)
    select tenant_id, session_id, 'bob', 'member' from holdfast.members where session_id = '${sessionId}'`)
  const told: string[] = []
  for (const each of [userId, 'bob']) {
    lists.look({ tenantId, userId: each }, { changed: () => told.push(each), drain: () => undefined })
  }
  const note = (audience: string | null) => ({
    ...{ tenantId, sessionId, events: [], runs: [], due: false },
    audiences: [audience],
  })
  lists.hear(note(`user:${userId}`))
  // That they have read it is theirs, too.
  lists.hear({ ...note(null), audiences: undefined, passing: { json: '{}', notTo: null }, readBy: userId })
  await eventually(async () => told.length > 0)
  expect(told).toEqual([userId])
  lists.hear(note(null))
  await eventually(async () => told.length > 1)
  expect(told).toEqual([userId, 'bob'])
})

test('a reader without room is told the last hint about each session, when it has room (P126)', async () => {
  let drained: (() => void) | undefined
  const said: string[] = []
  const full = new Promise<void>((resolve) => {
    drained = resolve
  })
  let isFull = true
  const { pass } = createPassing({ say: (frames) => said.push(...frames), room: () => (isFull ? full : null) })
  const frame = (sessionId: string, updatedAt: string): PassingFrame => ({
    type: 'session.changed',
    data: { sessionId, updatedAt },
  })
  pass('a', frame('a', '1'))
  pass('b', frame('b', '2'))
  pass('a', frame('a', '3'))
  expect(said).toEqual([])
  isFull = false
  drained!()
  await full
  await Promise.resolve()
  expect(said).toEqual([frame('b', '2'), frame('a', '3')].map((each) => JSON.stringify(each)))
})
