/** Who the members of a session are: P150 to P155. */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { textOf } from '../../src/core/parts.ts'
import { createView, type LogFrame, type Snapshot } from '../../src/core/view.ts'
import type { HoldfastError } from '../../src/index.ts'
import { gate } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf, type Frame } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { tokenOf } from '../support/server.ts'
import { openTwoPeople } from './two-people.ts'

type Answer = { status: number; body: { code?: string; detail?: string; [key: string]: unknown } }
async function ask(api: Api, method: string, path: string, body?: object): Promise<Answer> {
  const response = await api.request(path, { method, ...(body ? { body: JSON.stringify(body) } : {}) })
  return { status: response.status, body: response.status === 204 ? {} : ((await response.json()) as Answer['body']) }
}
const codeOf = (asked: Promise<unknown>) =>
  asked.then(
    () => null,
    ({ code }: HoldfastError) => code,
  )
const rolesIn = (frames: readonly Frame[]) =>
  frames.flatMap(({ type, data }) => {
    if (type === 'member.left') return [[type, data.userId, data.reason, data.by]]
    return type.startsWith('member.') ? [[type, data.member.userId, data.member.role, data.by]] : []
  })
const textsOf = async (api: Api, session: string) =>
  (await api.snapshot(session)).messages.map(({ parts }) => textOf(parts)).filter((text) => text !== '')

/** What a socket is told from the moment on in which it follows, or lists. */
async function openSocket(url: string, userId: string, command: object): Promise<Frame[]> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/realtime`, 'holdfast.v1', {
    headers: { authorization: `Bearer ${await tokenOf(userId)}` },
  })
  onTestFinished(() => socket.terminate())
  const heard: Frame[] = []
  socket.on('message', (text) => heard.push(JSON.parse(String(text)) as Frame))
  await new Promise((resolve) => socket.once('open', resolve))
  socket.send(JSON.stringify(command))
  await eventually(async () => heard.some(({ type }) => type === 'caught-up' || type === 'listing'))
  return heard
}

test('each says for themselves whether they have muted a session, and is told of it alone (P196)', async () => {
  const { ann, url, session, watcher } = await openChat()
  const [bob, rita, eve] = [await apiOf(url, 'bob'), await apiOf(url, 'rita'), await apiOf(url, 'eve')]
  const path = `/v1/sessions/${session}`
  await ask(ann, 'POST', `${path}/members`, { userId: 'bob' })
  await ask(ann, 'POST', `${path}/members`, { userId: 'rita', role: 'reader' })
  await watcher.until(({ type, data }) => type === 'member.joined' && data.member.userId === 'rita')
  const muted = { userId: 'rita', role: 'reader', muted: true }
  expect(await ask(rita, 'PATCH', `${path}/membership`, { muted: true })).toMatchObject({ status: 200, body: muted })
  const seenBy = async (api: Api) => {
    const { body } = await ask(api, 'GET', `${path}/members`)
    return (body.data as { userId: string; muted?: boolean }[]).map((each) => `${each.userId} ${each.muted}`)
  }
  expect(await seenBy(rita)).toEqual(['ann undefined', 'bob undefined', 'rita true'])
  expect(await seenBy(bob)).toEqual(['ann undefined', 'bob false', 'rita undefined'])
  expect(JSON.stringify(await bob.snapshot(session))).not.toContain('muted')
  expect(await ask(rita, 'PATCH', `${path}/membership`, { muted: false })).toMatchObject({ body: { muted: false } })
  for (const wrong of [{}, { muted: 'yes' }, { muted: true, role: 'owner' }, { muted: true, userId: 'bob' }]) {
    expect(await ask(rita, 'PATCH', `${path}/membership`, wrong)).toMatchObject({ status: 400 })
  }
  expect(await ask(eve, 'PATCH', `${path}/membership`, { muted: true })).toMatchObject({ status: 404 })
  expect(watcher.frames.filter(({ type }) => type === 'member.changed')).toEqual([])
})

test('owners add, change and remove members; all see it, and a role holds at the next call (P150, P151)', async () => {
  const { ann, url, session, watcher } = await openChat()
  await ann.send(session, 'before', 'm1')
  await watcher.outcome('m1')
  const bob = await apiOf(url, 'bob')
  const members = `/v1/sessions/${session}/members`
  expect(await ask(bob, 'GET', members)).toMatchObject({ status: 404 })
  const added = await ask(ann, 'POST', members, { userId: 'bob' })
  expect(added).toMatchObject({ status: 201, body: { userId: 'bob', role: 'member' } })
  expect(await ask(ann, 'POST', members, { userId: 'bob', role: 'owner' })).toEqual({ ...added, status: 200 })
  // The history from its beginning, of which nothing is unread.
  expect(await textsOf(bob, session)).toEqual(['before', 'the answer'])
  expect((await bob.snapshot(session)).session).toMatchObject({ unread: 0 })
  expect((await ask(bob, 'GET', members)).body.data).toMatchObject([{ userId: 'ann' }, { userId: 'bob' }])

  await ask(ann, 'PATCH', `${members}/bob`, { role: 'reader' })
  await expect(bob.send(session, 'no')).rejects.toMatchObject({ problem: { code: 'forbidden' } })
  expect(await ask(bob, 'PATCH', `${members}/bob`, { role: 'owner' })).toMatchObject({ status: 403 })
  await ask(ann, 'PATCH', `${members}/bob`, { role: 'owner' })
  expect(await ask(bob, 'PATCH', `${members}/ann`, { role: 'member' })).toMatchObject({ status: 200 })
  expect(await ask(ann, 'DELETE', `${members}/bob`)).toMatchObject({ status: 403 })
  // The last owner stays, and stays one, while others are there.
  for (const [method, body] of [['DELETE'], ['PATCH', { role: 'member' }]] as const) {
    expect(await ask(bob, method, `${members}/bob`, body)).toMatchObject({
      ...{ status: 403, body: { code: 'forbidden', detail: expect.stringContaining('only owner') } },
    })
  }
  // Once and again, as where the first answer was lost.
  for (const by of [ann, ann, bob]) expect(await ask(by, 'DELETE', `${members}/ann`)).toMatchObject({ status: 204 })
  for (const userId of ['never', 'ann/']) {
    expect(await ask(bob, 'DELETE', `${members}/${encodeURIComponent(userId)}`)).toMatchObject({ status: 404 })
  }
  // Nobody could remove them again: no path leads there.
  for (const userId of ['.', '..']) expect(await ask(bob, 'POST', members, { userId })).toMatchObject({ status: 400 })
  const { frames } = await bob.poll(session, {})
  expect(rolesIn(frames)).toEqual([
    ['member.joined', 'bob', 'member', 'ann'],
    ['member.changed', 'bob', 'reader', 'ann'],
    ['member.changed', 'bob', 'owner', 'ann'],
    ['member.changed', 'ann', 'member', 'bob'],
    ['member.left', 'ann', 'left', 'ann'],
  ])
  // Alone, one may go.
  expect(await ask(bob, 'DELETE', `${members}/bob`)).toMatchObject({ status: 204 })
})

test('a client’s view has the members that the snapshot has, whoever comes, goes and is given another role (P150, P151)', async () => {
  const { ann, chat, session } = await openChat()
  const stored = async () => (await ann.snapshot(session)) as unknown as Snapshot
  const view = createView(await stored())
  const alike = async () => {
    const { frames } = await ann.poll(session, { cursor: view.now().cursor })
    for (const frame of frames as unknown as LogFrame[]) expect(view.take(frame)).toBe(true)
    const { members } = await stored()
    expect(view.now().members).toEqual(members)
    return members.map(({ userId, role }) => `${userId} ${role}`)
  }
  await chat.members.add(session, { userId: 'bob' })
  await chat.members.add(session, { userId: 'cat', role: 'reader' })
  expect(await alike()).toEqual(['ann owner', 'bob member', 'cat reader'])
  await chat.members.change(session, { userId: 'bob', role: 'reader' })
  expect(await alike()).toEqual(['ann owner', 'bob reader', 'cat reader'])
  await chat.members.remove(session, { userId: 'bob' })
  expect(await alike()).toEqual(['ann owner', 'cat reader'])
})

test('in code the server does the same, and deletes a session that nobody owns any more', async () => {
  const { chat, session } = await openChat()
  expect(await chat.members.add(session, { userId: 'bob', role: 'reader' })).toMatchObject({ role: 'reader' })
  expect(await chat.members.change(session, { userId: 'bob', role: 'member' })).toMatchObject({ role: 'member' })
  expect(await codeOf(chat.members.remove(session, { userId: 'ann' }))).toBe('forbidden')
  expect(await chat.members.remove(session, { userId: 'bob' })).toBe(true)
  expect(await chat.members.remove(session, { userId: 'bob' })).toBe(false)
  expect(await codeOf(chat.members.add('missing', { userId: 'bob' }))).toBe('not_found')
  for (let at = 1; at < 100; at++) await chat.members.add(session, { userId: `user ${at}` })
  expect(await codeOf(chat.members.add(session, { userId: 'one more' }))).toBe('too_large')
  expect(await chat.members.list(session)).toHaveLength(100)
  const alone = await chat.sessions.create({ userId: 'ann' })
  expect(await chat.members.remove(alone.id, { userId: 'ann' })).toBe(true)
  expect(await chat.sessions.delete(alone.id)).toBe(true)
})

test('an invitation makes members as often as it may, once each, until it is revoked; its token is stored nowhere (P152, P153)', async () => {
  const { ann, url, session, chat } = await openChat()
  const [bob, cat, dan] = [await apiOf(url, 'bob'), await apiOf(url, 'cat'), await apiOf(url, 'dan')]
  const invites = `/v1/sessions/${session}/invites`
  const accept = (api: Api, token: unknown) => ask(api, 'POST', '/v1/invites/accept', { token })
  const made = await ask(ann, 'POST', invites, { role: 'reader', uses: 2 })
  expect(made).toMatchObject({ status: 201, body: { role: 'reader', uses: 2, used: 0 } })
  const { token, id } = made.body
  expect(JSON.stringify(await ask(ann, 'GET', invites))).not.toContain(token)
  const joined = await accept(bob, token)
  expect(joined).toMatchObject({ status: 200, body: { sessionId: session, member: { userId: 'bob', role: 'reader' } } })
  expect(await accept(bob, token)).toEqual(joined)
  expect(await accept(ann, token)).toMatchObject({ status: 200, body: { member: { role: 'owner' } } })
  expect((await ask(ann, 'GET', invites)).body.data).toMatchObject([{ id, used: 1 }])
  // Of many at once no more than are left.
  const others = await Promise.all([cat, dan].map((api) => accept(api, token)))
  expect(others.map(({ status }) => status).sort()).toEqual([200, 410])
  expect((await ask(ann, 'GET', invites)).body.data).toEqual([])
  expect(await accept(bob, token)).toMatchObject({ status: 200 })
  const second = await ask(ann, 'POST', invites, {})
  expect(await ask(ann, 'DELETE', `${invites}/${second.body.id}`)).toMatchObject({ status: 204 })
  const eve = await apiOf(url, 'eve')
  // In code the server does the same.
  const third = await chat.invites.create(session, { role: 'reader', uses: 3 })
  expect(await chat.invites.list(session)).toEqual([{ ...third, token: undefined }])
  expect(third).toMatchObject({ uses: 3, used: 0, createdBy: 'server' })
  expect(await accept(await apiOf(url, 'fay'), third.token)).toMatchObject({ body: { member: { role: 'reader' } } })
  expect(await chat.invites.revoke(session, third.id)).toBe(true)
  expect(await chat.invites.list(session)).toEqual([])
  for (const none of ['none', randomUUID()]) expect(await chat.invites.revoke(session, none)).toBe(false)
  expect(await codeOf(chat.invites.list('missing'))).toBe('not_found')
  expect(await codeOf(chat.invites.create('missing'))).toBe('not_found')
  expect(await codeOf(chat.invites.create(session, { uses: 101 }))).toBe('invalid_request')
  expect(await accept(eve, third.token)).toMatchObject({ status: 410 })
  expect(await accept(eve, second.body.token)).toMatchObject({ status: 410, body: { code: 'gone' } })
  expect(await accept(eve, 'nobody’s')).toMatchObject({ status: 404 })
  expect(await ask(bob, 'POST', invites, {})).toMatchObject({ status: 403 })
  expect(await ask(ann, 'POST', invites, { role: 'owner' })).toMatchObject({ status: 400 })
  expect((await chat.members.list(session)).length).toBe(4)
})

test('no invitation from before lets in again who was removed, nor one of who is no owner any more, nor any once nobody is there (P152, P153)', async () => {
  const { ann, url, session, chat } = await openChat()
  const [bob, cat] = [await apiOf(url, 'bob'), await apiOf(url, 'cat')]
  const path = `/v1/sessions/${session}`
  const invite = async (by: Api) => (await ask(by, 'POST', `${path}/invites`, { uses: 10 })).body.token
  const accept = async (by: Api, token: unknown) => (await ask(by, 'POST', '/v1/invites/accept', { token })).status
  const token = await invite(ann)
  expect(await accept(bob, token)).toBe(200)
  expect((await ask(ann, 'DELETE', `${path}/members/bob`)).status).toBe(204)
  expect([await accept(bob, token), await accept(cat, token)]).toEqual([410, 200])
  const newer = await invite(ann)
  expect(await accept(bob, newer)).toBe(200)
  // Who leaves may come back.
  expect((await ask(bob, 'DELETE', `${path}/members/bob`)).status).toBe(204)
  expect(await accept(bob, token)).toBe(200)
  // An owner is one no more, and another is removed: what they gave out is not good for anybody.
  const given: unknown[] = []
  for (const [who, api] of [
    ['bob', bob],
    ['cat', cat],
  ] as const) {
    await chat.members.change(session, { userId: who, role: 'owner' })
    given.push(await invite(api))
  }
  await chat.members.change(session, { userId: 'bob', role: 'member' })
  await chat.members.remove(session, { userId: 'cat' })
  const eve = await apiOf(url, 'eve')
  expect(await Promise.all([cat, eve].flatMap((by) => given.map((each) => accept(by, each))))).toEqual([
    410, 410, 410, 410,
  ])
  await chat.members.remove(session, { userId: 'bob' })
  expect((await ask(ann, 'DELETE', `${path}/members/ann`)).status).toBe(204)
  expect(await accept(eve, newer)).toBe(410)
  expect(await chat.members.list(session)).toEqual([])
})

test('what a removed member has asked for is stopped, running or waiting its turn, and others’ goes on (P154, I2)', async () => {
  const held = gate()
  const { chat, ann, url, session, watcher } = await openChat({
    async *reply({ user }) {
      yield 'begun'
      if (user.id === 'bob') await held.passed
    },
  })
  await chat.members.add(session, { userId: 'bob' })
  const bob = await apiOf(url, 'bob')
  await bob.send(session, 'runs', 'b1')
  await watcher.until(({ type }) => type === 'chunk')
  await bob.send(session, 'waits', 'b2')
  await ann.send(session, 'waits, too', 'a1')
  await chat.members.remove(session, { userId: 'bob' })
  const ends = await Promise.all(['b1', 'b2', 'a1'].map((id) => watcher.outcome(id)))
  held.open()
  expect(ends.map(({ type, data }) => [type, data.reason])).toEqual([
    ['message.stopped', 'removed'],
    ['message.stopped', 'removed'],
    ['message.ai_response', undefined],
  ])
  expect(watcher.problems).toEqual([])
  expect(await textsOf(ann, session)).toEqual(['runs', 'begun', 'waits', 'waits, too', 'begun'])
})

test('who asked for a reply to be written again has asked for it, not the author of its message (P154)', async () => {
  const held = gate()
  let begun = 0
  const { chat, ann, url, session, watcher } = await openChat({
    lane: () => 'author',
    async *reply() {
      yield 'begun'
      if (++begun > 2) await held.passed
    },
  })
  await chat.members.add(session, { userId: 'bob' })
  const bob = await apiOf(url, 'bob')
  const ids = ['a1', 'b1']
  await ann.send(session, 'hello', 'a1')
  await bob.send(session, 'hello', 'b1')
  await Promise.all(ids.map((id) => watcher.outcome(id)))
  for (const [by, of] of [
    [ann, 'b1'],
    [bob, 'a1'],
  ] as const) {
    const path = `/v1/sessions/${session}/messages/${of}/regenerate`
    expect((await ask(by, 'POST', path, { id: `${of}-again` })).status).toBe(200)
  }
  await eventually(async () => begun === 4)
  await chat.members.remove(session, { userId: 'bob' })
  await eventually(async () =>
    watcher.frames.some(({ type, data }) => type === 'message.stopped' && data.reason === 'removed'),
  )
  held.open()
  const ended = () =>
    watcher.frames.filter(({ type }) => ['message.stopped', 'message.ai_response'].includes(type)).slice(2)
  await eventually(async () => ended().length === 2)
  expect(ended().map(({ type, data }) => [type, data.message.repliesTo])).toEqual([
    ['message.stopped', 'a1'],
    ['message.ai_response', 'b1'],
  ])
})

test('a stop over useChat whose body comes after its sender was removed ends nothing (P13, P154, I15)', async () => {
  const held = gate()
  const { chat, ann, url, session, watcher } = await openChat({
    async *reply() {
      yield 'begun'
      await held.passed
    },
  })
  await chat.members.add(session, { userId: 'bob' })
  await ann.send(session, 'hello', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  const { hostname, port } = new URL(url)
  const slow = connect(Number(port), hostname)
  onTestFinished(() => void slow.destroy())
  const head = ['host: x', `authorization: Bearer ${await tokenOf('bob')}`, 'content-type: application/json']
  slow.write(
    [`POST /api/chat/${session}/stop HTTP/1.1`, ...head, 'content-length: 2', 'connection: close', '', '{'].join(
      '\r\n',
    ),
  )
  // By then it is judged.
  for (let asked = 0; asked < 5; asked++) await ann.snapshot(session)
  await chat.members.remove(session, { userId: 'bob' })
  slow.write('}')
  const [answer] = (await once(slow, 'data')) as [Buffer]
  expect(String(answer)).toMatch(/^HTTP\/1.1 404 /)
  held.open()
  expect((await watcher.outcome('m1')).type).toBe('message.ai_response')
})

test('open lists hear that one has joined a session, and that it is not theirs any more (P126, P154)', async () => {
  const { chat, url, session } = await openChat({ pollMs: 10_000 })
  const heard = await openSocket(url, 'bob', { type: 'list' })
  const hints = () => heard.filter(({ type }) => type === 'session.changed').map(({ data }) => data)
  await chat.members.add(session, { userId: 'bob' })
  await eventually(async () => hints().length > 0)
  await chat.members.remove(session, { userId: 'bob' })
  await eventually(async () => hints().length > 1)
  const changed = { sessionId: session, updatedAt: expect.any(String) }
  expect(hints()).toEqual([changed, { ...changed, updatedAt: null }])
})

test('with every wakeup lost, whoever is removed is told nothing more on any connection to any process, within 5 s (P13, P154, I15)', async () => {
  const { ann, bob, session, provider } = await openTwoPeople({ HOLDFAST_WAKEUPS: 'off' })
  provider.script(() => [{ text: 'one ' }, { hang: true }])
  await ann.send(session, 'hello', 'm1')
  const watcher = bob.watch(session)
  await watcher.until(({ type }) => type === 'chunk')
  const url = (await bob.request('/livez')).url.replace('/livez', '')
  const heard = await openSocket(url, 'bob', { type: 'follow', sessionId: session })
  const listed = await openSocket(url, 'bob', { type: 'list' })
  const json = { headers: { accept: 'application/json' } }
  const { cursor } = await bob.poll(session, {})
  const polls = [
    `/v1/events?sessions=${session}@${cursor}&wait=50`,
    `/v1/sessions/${session}/events?cursor=${cursor}&wait=50`,
  ]
  const asked = polls.map((path) => bob.request(path, json))
  const streams = [`/v1/events?sessions=${session}`, `/api/chat/${session}/stream`].map((path) => bob.request(path))
  await Promise.all(streams)
  // The last one is cut, not ended.
  const ends = [...asked, ...streams].map(async (response) => (await response).text().catch(() => 'cut'))
  const sinceMs = performance.now()
  const left = await ask(ann, 'DELETE', `/v1/sessions/${session}/members/bob`)
  expect(left.status).toBe(204)
  await ann.send(session, 'a secret', 'm2')
  await watcher.until(({ type }) => type === 'reset')
  await eventually(async () => heard.some(({ type }) => type === 'reset'))
  const bodies = await Promise.all(ends)
  await eventually(async () => listed.some(({ data }) => data?.updatedAt === null))
  expect(performance.now() - sinceMs).toBeLessThan(5_000)
  const hints = listed.filter(({ type }) => type === 'session.changed').map(({ data }) => data)
  expect(hints.at(-1)).toEqual({ sessionId: session, updatedAt: null })
  const all = [...bodies, JSON.stringify(heard), JSON.stringify(watcher.frames)]
  expect(all.filter((text) => text.includes('secret') || text.includes('member.left'))).toEqual([])
  expect(bodies.filter((text) => !/"reason":"gone"|"code":"not_found"|^cut$/.test(text))).toEqual([])
  await watcher.close()
})
