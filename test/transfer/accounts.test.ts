/** A guest signs in (P230 to P232), a user is deleted (P237, P238), and what is too old goes (P239). */
import { randomBytes } from 'node:crypto'
import { Client } from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { createClient, memoryStorage, mergeGuest } from '../../src/client/client.ts'
import { processLocks } from '../../src/client/locks.ts'
import { textOf } from '../../src/core/parts.ts'
import { guest } from '../../src/http/principal.ts'
import { createHoldfast, type Holdfast } from '../../src/index.ts'
import { openDatabase } from '../../src/store/database.ts'
import { createRetaining } from '../../src/transfer/retention.ts'
import { type Api, apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { gate } from '../support/obedient.ts'
import { freshDatabase } from '../support/postgres.ts'
import { jwtSecret, startServer, tokenOf } from '../support/server.ts'
import { openRaw } from '../support/socket.ts'
import { tracesIn } from './traces.ts'

const serverKey = 'k'.repeat(32)
let chat: Holdfast
let url: string
let database: Awaited<ReturnType<typeof freshDatabase>>
let sql: Client
let mayEnd: ReturnType<typeof gate> | undefined

beforeAll(async () => {
  database = await freshDatabase(18)
  chat = createHoldfast({
    database: database.url,
    tokens: { secret: jwtSecret },
    guests: 'on',
    serverKey,
    limits: { sendsPerMinute: 0 },
    lane: ({ session }) => (session.id.startsWith('private') ? 'private' : 'main'),
    async *reply({ usage }) {
      usage({ model: 'some', inputTokens: 1, outputTokens: 1 })
      yield 'the '
      await mayEnd?.passed
      yield 'answer'
    },
    log: () => undefined,
    drainMs: 0,
  })
  ;({ url } = await chat.listen(0))
  sql = new Client({ connectionString: database.url })
  await sql.connect()
})
afterAll(async () => {
  await sql.end()
  await chat.close()
  await database.drop()
})

const rows = async (text: string, values: unknown[] = []) =>
  (await sql.query(text, values)).rows as Record<string, unknown>[]
type Guest = {
  id: string
  cookie: string
  ask(path: string, body?: object, method?: string, at?: string): Promise<Response>
}

function newGuest(): Guest {
  const secret = randomBytes(24).toString('base64url')
  const cookie = `holdfast_guest=${secret}`
  return {
    id: guest(secret).userId,
    cookie,
    ask: (path, body, method = body ? 'POST' : 'GET', at = url) =>
      fetch(`${at}${path}`, {
        method,
        headers: { cookie, ...(body ? { 'content-type': 'application/json' } : {}) },
        ...(body ? { body: JSON.stringify(body) } : {}),
      }),
  }
}

async function merge(by: string, { cookie }: { cookie?: string }, at = url) {
  const response = await fetch(`${at}/v1/guest/merge`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${await tokenOf(by)}`,
      'content-type': 'application/json',
      ...(cookie === undefined ? {} : { cookie }),
    },
    body: '{}',
  })
  return {
    status: response.status,
    setCookie: response.headers.get('set-cookie'),
    body: (await response.json()) as Record<string, unknown>,
  }
}

async function said(
  ask: (path: string, body: object) => Promise<Response>,
  session: string,
  id: string,
): Promise<void> {
  await ask('/v1/sessions', { id: session })
  expect((await ask(`/v1/sessions/${session}/messages?wait=20`, { id, text: `said ${id}` })).status).toBe(200)
}

const asUser = (api: Api) => (path: string, body: object) =>
  api.request(path, { method: 'POST', body: JSON.stringify(body) })

const tracesOf = (text: string) => tracesIn(sql, text)

test('what a guest has becomes the account’s, once, and the cookie is worth nothing from then on (P230, P231)', async () => {
  const g = newGuest()
  const ann = await apiOf(url, 'ann')
  const bob = await apiOf(url, 'bob')
  await said(g.ask, 'one', 'm1')
  await said(g.ask, 'private-g', 'm2')
  // A session with another member, in which the account is a reader.
  await said(asUser(bob), 'shared', 'b1')
  for (const [userId, role] of [
    [g.id, 'member'],
    ['ann', 'reader'],
  ])
    await chat.members.add('shared', { userId: userId!, role: role as 'member' })
  await said(g.ask, 'shared', 'g1')
  await g.ask('/v1/sessions/one/files', {})
  await g.ask('/v1/sessions/one/receipts', {
    read: ((await (await g.ask('/v1/sessions/one')).json()) as { cursor: string }).cursor,
  })
  await sql.query(
    `insert into holdfast.devices (tenant_id, user_id, id, kind, address, address_hash) values ('default', $1, 'd', 'expo', '{}', md5($1))`,
    [g.id],
  )

  for (const [by, cookie, status] of [
    ['ann', undefined, 404],
    ['ann', `holdfast_guest=${'x'.repeat(10)}`, 404],
  ] as const) {
    expect((await merge(by, cookie === undefined ? {} : { cookie })).status).toBe(status)
  }
  // A guest is no account, and nobody is somebody who has only the guest's id.
  expect((await g.ask('/v1/guest/merge', {})).status).toBe(403)
  const tickets = async () => ((await (await g.ask('/v1/realtime/tickets', {})).json()) as { ticket: string }).ticket
  const byTicket = await openRaw(`${url}/v1/realtime?ticket=${await tickets()}`, { protocols: ['holdfast.v1'] })
  const [socket, chatSocket] = await Promise.all(
    ['/v1/realtime', '/api/chat/ws'].map((path) =>
      openRaw(`${url}${path}`, { headers: { cookie: g.cookie }, protocols: ['holdfast.v1'] }),
    ),
  )
  const unused = await tickets()
  const followed = await g.ask('/v1/sessions/one/events')
  const ended = followed.text()
  const bobs = bob.watch('shared')
  onTestFinished(() => bobs.close())
  await bobs.until(({ type }) => type === 'caught-up')

  const merged = await merge('ann', g)
  expect(merged).toEqual({
    status: 200,
    setCookie: expect.stringMatching(/^holdfast_guest=; .*Max-Age=0/),
    body: { guestId: g.id, userId: 'ann', sessions: 3 },
  })
  expect(await merge('ann', g)).toEqual(merged)
  expect((await merge('bob', g)).status).toBe(403)
  // Living connections of the guest's are over, and others are told who is there now.
  const mergedAtMs = performance.now()
  expect(await ended).toContain('gone')
  expect(performance.now() - mergedAtMs).toBeLessThan(5_000)
  await bobs.until(({ type }) => type === 'branch.selected')
  expect(
    bobs.frames
      .filter(({ type }) => type.startsWith('member.'))
      .slice(-2)
      .map(({ type, data }) => [type, data.reason ?? data.member.role]),
  ).toEqual([
    ['member.left', 'merged'],
    ['member.changed', 'member'],
  ])
  // In whatever way it is brought, also on sockets and by tickets from before.
  const dead: [string, object?, string?][] = [
    ...['', '/messages', '/events', '/export', '/files/f', '/presence'].map((rest): [string] => [
      `/v1/sessions/one${rest}`,
    ]),
    ...['/v1/sessions', '/v1/events', '/v1/export', '/v1/usage', '/v1/me', '/api/chat/one/stream'].map(
      (path): [string] => [path],
    ),
    ['/v1/sessions/one/messages', { id: 'm9', text: 'still me' }],
    ['/v1/sessions/one/receipts', {}],
    ['/v1/import', { rows: [] }],
    ['/v1/realtime/tickets', {}],
    ['/v1/guest/merge', {}],
    ['/v1/devices', {}],
    ['/v1/me', undefined, 'DELETE'],
  ]
  const statuses = await Promise.all(dead.map(async ([path, body, method]) => (await g.ask(path, body, method)).status))
  expect(
    dead
      .map(([path], n) => [path, statuses[n]])
      .filter(([path, status]) => status !== (path === '/api/chat/one/stream' ? 204 : 401)),
  ).toEqual([])
  const late = await openRaw(`${url}/v1/realtime?ticket=${unused}`, { protocols: ['holdfast.v1'] })
  expect(await late.ended).toMatchObject({ code: 4401 })
  socket!.say({ type: 'follow', sessionId: 'one' })
  const text = { id: 'm9', role: 'user', parts: [{ type: 'text', text: 'still me' }] }
  chatSocket!.say({ type: 'send', requestId: 'r', trigger: 'submit-message', id: 'anew', messages: [text] })
  for (const { ended } of [socket!, chatSocket!]) expect(await ended).toMatchObject({ code: 4401 })
  // One that was opened by a ticket is known by nothing else.
  byTicket.say({ type: 'follow', sessionId: 'one' })
  expect(await byTicket.until(({ type }) => type === 'problem')).toMatchObject({ problem: { code: 'not_found' } })
  expect(await rows(`select from holdfast.messages where id = 'm9'`)).toEqual([])
  // No account is a guest by its name, and whoever brings credentials that are not good hears it.
  for (const token of [
    await tokenOf(newGuest().id),
    'none',
    await tokenOf('ann', { expiresIn: Math.floor(Date.now() / 1000) - 60 }),
  ]) {
    const headers = { authorization: `Bearer ${token}`, cookie: newGuest().cookie }
    expect((await fetch(`${url}/v1/sessions`, { headers })).status).toBe(401)
  }
  // What makes a guest makes another one.
  const another = await g.ask('/v1/sessions', {})
  expect([another.status, another.headers.get('set-cookie')]).toEqual([201, expect.stringContaining('holdfast_guest=')])

  const one = await ann.snapshot('one')
  expect(one.messages.map(({ author, status }) => [author, status])).toEqual([
    ['ann', 'complete'],
    [null, 'complete'],
  ])
  expect(one.session).toMatchObject({ unread: 0, messageCount: 2 })
  expect((await ann.snapshot('private-g')).messages.map(({ id, lane }) => [id, lane])[0]).toEqual(['m2', 'private:ann'])
  expect((await bob.snapshot('shared')).messages.map(({ author }) => author).filter(Boolean)).toEqual(['bob', 'ann'])
  // The same message again, from a list that a signed-in page took over, is the same.
  expect((await ann.send('one', 'said m1', 'm1')).message.author).toBe('ann')
  await said(asUser(ann), 'one', 'after')
  expect(await rows(`select user_id from holdfast.devices where id = 'd'`)).toEqual([{ user_id: 'ann' }])
  // What they used stays theirs.
  expect((await tracesOf(g.id)).filter((name) => !name.startsWith('usage'))).toEqual(['events', 'guests'])
})

test('of accounts that race for a guest exactly one has them, and both lanes’ replies that meet are one line (P231)', async () => {
  const g = newGuest()
  await said(g.ask, 'raced', 'm1')
  const racers = ['r1', 'r2', 'r3', 'r4']
  const answers = await Promise.all(racers.map((by) => merge(by, g)))
  const won = racers.filter((_, n) => answers[n]!.status === 200)
  expect(won).toHaveLength(1)
  expect(answers.filter(({ status }) => status === 403)).toHaveLength(3)
  expect(await rows(`select user_id from holdfast.members where session_id = 'raced'`)).toEqual([{ user_id: won[0] }])

  // In code, an app's own guests: whatever they are called.
  await said(asUser(await apiOf(url, 'visitor-7')), 'visited', 'm1')
  expect(await chat.users.merge({ guestId: 'visitor-7', userId: 'fay' })).toBe(true)
  expect(await chat.users.merge({ guestId: 'visitor-7', userId: 'gus' })).toBe(false)
  expect((await (await apiOf(url, 'fay')).snapshot('visited')).messages[0]!.author).toBe('fay')
  await chat.users.delete('fay')
  expect(await tracesOf('fay')).toEqual([])

  // The account and the guest each talk with the assistant alone in one session, and both replies are being written.
  const [h, cat] = [newGuest(), await apiOf(url, 'cat')]
  await said(asUser(cat), 'private-two', 'c1')
  await chat.members.add('private-two', { userId: h.id })
  mayEnd = gate()
  try {
    await asUser(cat)('/v1/sessions/private-two/messages', { id: 'c2', text: 'mine' })
    await h.ask('/v1/sessions/private-two/messages', { id: 'h1', text: 'the guest’s' })
    await eventually(
      async () =>
        (await rows(`select from holdfast.turns where session_id = 'private-two' and state = 'running'`)).length === 2,
    )
    expect((await merge('cat', h)).status).toBe(200)
  } finally {
    mayEnd.open()
    mayEnd = undefined
  }
  await eventually(async () => (await cat.snapshot('private-two')).turns.length === 0)
  const { messages } = await cat.snapshot('private-two')
  expect(messages.map(({ id, status, role }) => (role === 'user' ? id : status))).toEqual([
    'c1',
    'complete',
    'c2',
    'complete',
    'h1',
    'stopped',
  ])
})

test('a merge whose process is killed at any of its steps is finished by another one: nothing or all (P231)', async () => {
  const steps = [
    ['guest-claimed:1', 0],
    ['guest-session-moved:1', 1],
    ['guest-session-moved:2', 2],
  ] as const
  const killedAt = async ([step, moved]: (typeof steps)[number]) => {
    const [g, by] = [newGuest(), `dan-${step}`]
    for (const n of [1, 2]) await said(g.ask, `half-${step}-${n}`, 'm1')
    const dying = await startServer({
      database: database.url,
      points: [`${step}:kill`],
      env: { HOLDFAST_GUESTS: 'on', HOLDFAST_ROLES: 'http' },
    })
    const own = async () => (await rows('select from holdfast.members where user_id = $1', [by])).length
    await expect(merge(by, g, dying.url)).rejects.toThrow()
    expect(await own()).toBe(moved)
    // Nobody else gets them in between.
    expect((await merge('eve', g)).status).toBe(403)
    expect((await g.ask('/v1/sessions')).status).toBe(401)
    await eventually(
      async () =>
        (await rows(`select from holdfast.guests where guest_id = $1 and done_at is not null`, [g.id])).length === 1,
    )
    expect(await own()).toBe(2)
    expect((await merge(by, g)).body).toEqual({ guestId: g.id, userId: by, sessions: 2 })
  }
  await Promise.all(steps.map(killedAt))
})

test('a deleted user is in no table any more, whatever it is called; what others were told stays, under no name (P237, P238, I15)', async () => {
  const id = `zoe-${randomBytes(6).toString('hex')}`
  const [zoe, bob] = [await apiOf(url, id), await apiOf(url, 'bob')]
  await said(asUser(zoe), 'zoes', 'm1')
  await said(asUser(zoe), 'with-bob', 'm2')
  await chat.members.add('with-bob', { userId: 'bob' })
  await said(asUser(bob), 'with-bob', 'b1')
  await said(asUser(zoe), 'private-zoe', 'm3')
  await chat.members.add('private-zoe', { userId: 'bob' })
  await said(asUser(bob), 'left-before', 'b2')
  await chat.members.add('left-before', { userId: id })
  await said(asUser(zoe), 'left-before', 'm4')
  await chat.members.remove('left-before', { userId: id })
  const g = newGuest()
  await said(g.ask, 'was-guest', 'm5')
  await merge(id, g)
  await asUser(zoe)('/v1/sessions/with-bob/invites', {})
  await zoe.request('/v1/realtime/tickets', { method: 'POST', body: '{}' })
  await chat.publish('with-bob', 'a.b', { to: id }, { audience: `user:${id}` })
  await sql.query(
    `insert into holdfast.devices (tenant_id, user_id, id, kind, address, address_hash) values ('default', $1, 'd', 'expo', '{}', md5($1))`,
    [id],
  )
  await sql.query(`insert into holdfast.limits (tenant_id, user_id) values ('default', $1)`, [id])
  const ledger = () => rows(`select count(*)::int as n from holdfast.usage`)
  const usedBy = async (userId: string) =>
    (await rows(`select count(*)::int as n from holdfast.usage where user_id = $1`, [userId]))[0]!.n
  const before = await ledger()
  expect([await usedBy(id), await usedBy(g.id)]).toEqual([4, 1])
  const bobs = bob.watch('with-bob')
  onTestFinished(() => bobs.close())
  const streams = ['zoes', 'with-bob'].map(async (session) =>
    (await zoe.request(`/v1/sessions/${session}/events`)).text(),
  )
  await bobs.until(({ type }) => type === 'caught-up')

  const remove = (key: string) =>
    fetch(`${url}/v1/users/${encodeURIComponent(id)}`, {
      method: 'DELETE',
      headers: { authorization: `Bearer ${key}` },
    })
  expect((await remove(await tokenOf(id))).status).toBe(401)
  const beganAtMs = performance.now()
  expect((await remove(serverKey)).status).toBe(204)
  expect(await tracesOf(id)).toEqual([])
  expect(await tracesOf('said m3')).toEqual([])
  for (const text of await Promise.all(streams)) expect(text).toContain('gone')
  expect(performance.now() - beganAtMs).toBeLessThan(5_000)
  expect(await ledger()).toEqual(before)
  expect([await usedBy(id), await usedBy(g.id)]).toEqual([0, 0])
  expect((await remove(serverKey)).status).toBe(204)
  // What a provider says late, of a turn that is gone, is counted under the other name, too.
  const late = await rows(
    `insert into holdfast.usage select r.* from (select u from holdfast.usage u limit 1) x,
      jsonb_populate_record(x.u, jsonb_build_object('turn_id', gen_random_uuid(), 'user_id', $1::text)) r
      returning user_id`,
    [id],
  )
  expect(late[0]!.user_id).toMatch(/^deleted-/)

  await bobs.until(({ type }) => type === 'branch.selected')
  const { messages, session } = await bob.snapshot('with-bob')
  expect(messages.map(({ author, parts }) => [author, textOf(parts)])).toEqual([
    [expect.stringMatching(/^deleted-/), 'said m2'],
    [null, 'the answer'],
    ['bob', 'said b1'],
    [null, 'the answer'],
  ])
  expect(session.messageCount).toBe(4)
  expect(await (await bob.request('/v1/sessions/with-bob/members')).json()).toMatchObject({
    data: [{ userId: 'bob', role: 'owner' }],
  })
  // The log is whole for who reads it from its beginning.
  const again = bob.watch('with-bob')
  onTestFinished(() => again.close())
  await again.until(({ type }) => type === 'caught-up')
  expect(
    [bobs.problems, again.problems].flat().filter((problem) => !/^event \d+ came after \d+$/.test(problem)),
  ).toEqual([])
  expect((await bob.snapshot('left-before')).messages.map(({ author }) => author)).toEqual([
    'bob',
    null,
    expect.stringMatching(/^deleted-/),
    null,
  ])
  // Also when the connections have ended that they had, and this process has told who is there.
  expect(await tracesOf(id)).toEqual([])
  // Whoever has the same name begins anew.
  expect(await (await zoe.request('/v1/sessions')).json()).toMatchObject({ data: [] })
})

test('a user deletes themselves while a reply of theirs is written, and a killed deletion is finished (P237)', async () => {
  const id = `yan-${randomBytes(6).toString('hex')}`
  const yan = await apiOf(url, id)
  for (const session of ['y1', 'y2']) {
    await said(asUser(yan), session, 'm1')
    await chat.members.add(session, { userId: 'bob' })
  }
  mayEnd = gate()
  try {
    await asUser(yan)('/v1/sessions/y1/messages', { id: 'm2', text: 'more' })
    await eventually(
      async () => (await rows(`select from holdfast.turns where session_id = 'y1' and state = 'running'`)).length === 1,
    )
    const dying = await startServer({
      database: database.url,
      points: ['erasure-session-left:1:kill'],
      env: { HOLDFAST_ROLES: 'http' },
    })
    await expect(
      fetch(`${dying.url}/v1/me`, { method: 'DELETE', headers: { authorization: `Bearer ${await tokenOf(id)}` } }),
    ).rejects.toThrow()
    await eventually(async () => (await tracesOf(id)).length === 0)
  } finally {
    mayEnd.open()
    mayEnd = undefined
  }
  expect(
    (await rows(`select state from holdfast.turns where session_id = 'y1' order by position`)).map(
      ({ state }) => state,
    ),
  ).toEqual(['complete', 'stopped'])
  expect((await yan.request('/v1/me', { method: 'DELETE' })).status).toBe(204)
})

test('what nobody has touched for longer than the app keeps goes, of guests earlier, and nothing that waits (P239)', async () => {
  const g = newGuest()
  const kim = await apiOf(url, 'kim')
  await said(g.ask, 'guests-old', 'm1')
  for (const session of ['old', 'old-waits', 'fresh', 'middle']) await said(asUser(kim), session, 'm1')
  const age = (ids: string[], days: number) =>
    sql.query(`update holdfast.sessions set updated_at = now() - $2 * interval '1 day' where id = any($1)`, [ids, days])
  await age(['old', 'old-waits'], 100)
  await age(['guests-old', 'middle'], 20)
  await sql.query(`update holdfast.turns set state = 'waiting' where session_id = 'old-waits'`)
  const other = openDatabase(database.url, { poolMax: 6, onError: () => undefined })
  onTestFinished(() => other.close())
  const told: (string[] | undefined)[] = []
  const wakeups = { tell: ({ members }: { members?: string[] }) => void told.push(members) }
  const day = 86_400_000
  const keeping = () =>
    createRetaining({ database: other, wakeups }, { sessionsMs: 90 * day, guestSessionsMs: 10 * day })
  const [first, second] = [keeping(), keeping()]
  const gone = (await Promise.all([first.next(), second.next()])).reduce((sum: number, n) => sum + (n ?? 0), 0)
  expect(gone).toBe(2)
  expect(told.flat().sort()).toEqual([g.id, 'kim'].sort())
  expect(
    await rows(
      `select id from holdfast.sessions where id in ('old', 'old-waits', 'fresh', 'middle', 'guests-old') order by id`,
    ),
  ).toEqual(['fresh', 'middle', 'old-waits'].map((id) => ({ id })))
  expect(() => createHoldfast({ reply: () => '', retention: { sessionsMs: 1 } })).toThrow(/retention.sessionsMs/)
})

test('what a guest had not sent yet is sent by the account, once (P232, I16)', async () => {
  const g = newGuest()
  const storage = memoryStorage()
  let isOnline = true
  const asGuest: typeof fetch = async (input, init) => {
    if (!isOnline) throw new TypeError('offline')
    return await fetch(input, {
      ...init,
      headers: { ...Object.fromEntries(new Headers(init?.headers)), cookie: g.cookie },
    })
  }
  const guestClient = createClient({ url, storage, fetch: asGuest, transport: 'poll' })
  await g.ask('/v1/sessions', { id: 'unsent' })
  const session = guestClient.session('unsent')
  await session.send({ text: 'arrived' }, { id: 'm1' })
  isOnline = false
  void session.send({ text: 'not yet' }, { id: 'm2' }).catch(() => undefined)
  await eventually(async () => (await storage.entries('unsent:')).length === 1)
  guestClient.close()
  isOnline = true
  const token = await tokenOf('lea')
  const account = { url, storage, user: 'lea', token, transport: 'poll' as const }
  await expect(mergeGuest({ ...account, token: 'none', fetch: asGuest })).rejects.toMatchObject({ kind: 'auth' })
  expect(await mergeGuest({ ...account, fetch: asGuest })).toMatchObject({ guestId: g.id, sessions: 1, unsent: 1 })
  const client = createClient(account)
  onTestFinished(() => client.close())
  client.wake()
  const lea = await apiOf(url, 'lea')
  await eventually(async () => (await lea.snapshot('unsent')).messages.length === 4)
  expect(
    (await lea.snapshot('unsent')).messages.map(({ id, author }) => [id, author]).filter(([, author]) => author),
  ).toEqual([
    ['m1', 'lea'],
    ['m2', 'lea'],
  ])
  // Two tabs at once: each message goes over by one of them. Where both have one name, nothing has to.
  const locks = processLocks()
  vi.stubGlobal('navigator', {
    locks: { request: (name: string, _: object, act: () => Promise<unknown>) => locks.hold(name, act) },
  })
  onTestFinished(() => void vi.unstubAllGlobals())
  const other = memoryStorage()
  const key = (user: string) => `unsent:${encodeURIComponent(url)}:${user}:1`
  await other.set(key('me'), '{}')
  // So slow that the other tab comes while one reads.
  const entries = async (prefix: string) => {
    const read = await other.entries(prefix)
    await new Promise((resolve) => setTimeout(resolve, 50))
    return read
  }
  const two = await Promise.all([1, 2].map(() => mergeGuest({ ...account, storage: { ...other, entries } })))
  expect(two.map(({ unsent }) => unsent).sort()).toEqual([0, 1])
  expect(await other.entries('unsent:')).toEqual([[key('lea'), '{}']])
  await mergeGuest({ ...account, storage: other, guest: 'lea' })
  expect(await other.entries('unsent:')).toEqual([[key('lea'), '{}']])
  // Asked again, as after a page that was closed in the middle of it.
  expect(await mergeGuest(account)).toEqual({ guestId: null, sessions: 0, unsent: 0 })
})
