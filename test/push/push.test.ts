/** Notices on devices, from a turn's end to what Expo and browsers' services are asked at the wire: I14, I15, P190 to P195. */
import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import webPushLibrary from 'web-push'
import { expoPush } from '../../src/adapters/expo.ts'
import { webPush } from '../../src/adapters/web-push.ts'
import type { PushDevice } from '../../src/core/pushing.ts'
import { createHoldfast, type Holdfast } from '../../src/index.ts'
import { scriptedReply } from '../../src/testing/index.ts'
import { type Api, apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { jwtSecret } from '../support/server.ts'
import { type ExpoStub, startExpo, startWeb, type WebStub } from './stubs.ts'

let database: Awaited<ReturnType<typeof freshDatabase>>
let sql: Client
let expo: ExpoStub
let web: WebStub
let chat: Holdfast
let url: string
let lines: string[]
let ofApp: PushDevice[] = []
let forgotten: PushDevice[] = []
const keys = webPushLibrary.generateVAPIDKeys()

beforeAll(async () => {
  database = await freshDatabase(18)
  ;[expo, web] = [await startExpo(), await startWeb()]
  lines = []
  chat = createHoldfast({
    database: database.url,
    tokens: { secret: jwtSecret },
    limits: { sendsPerMinute: 0 },
    pollMs: 100,
    pushGraceMs: 0,
    push: {
      expo: expoPush({ baseUrl: expo.url, accessToken: 'the access token', retryMinTimeout: 1 }),
      web: webPush({
        vapid: { subject: 'mailto:us@example.com', ...keys },
        agent: web.agent,
        privateEndpoints: true,
      }),
      receiptsAfterMs: 150,
      texts: (event, locale) =>
        locale === 'de' && event === 'message.ai_response' ? { title: 'Deine Antwort ist da' } : null,
      devices: (userId) => (userId.startsWith('app') ? ofApp : []),
      forget: (device) => void forgotten.push(device),
    },
    reply: scriptedReply([
      { to: 'fail', says: [{ fail: 'provider_auth' }] },
      { to: 'ask', says: [{ type: 'tool-input-available', toolCallId: 'c1', toolName: 'where', input: {} }] },
      { to: 'wait', says: [{ wait: 'for the test' }, 'late'] },
      { says: ['the secret answer'] },
    ]),
    log: (line, detail) => lines.push(`${line} ${JSON.stringify(detail)}`),
  })
  ;({ url } = await chat.listen(0))
  sql = new Client({ connectionString: database.url })
  await sql.connect()
})
afterAll(async () => {
  await sql.end()
  await chat.close()
  await Promise.all([expo.close(), web.close()])
  await database.drop()
})
beforeEach(() => {
  expo.messages.length = 0
  expo.requests.length = 0
  web.notices.length = 0
  web.requests.length = 0
  lines.length = 0
})

const post = (api: Api, path: string, body: object) => api.request(path, { method: 'POST', body: JSON.stringify(body) })
const register = (api: Api, body: object) => post(api, '/v1/devices', body)
const token = (name: string) => `ExponentPushToken[${name}]`
const addMember = (session: string, user: string) =>
  sql.query(
    `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, $2, 'member')`,
    [session, user],
  )
const mute = (api: Api, session: string, muted: boolean) =>
  api.request(`/v1/sessions/${session}/membership`, { method: 'PATCH', body: JSON.stringify({ muted }) })
type Row = { device: string; state: string; event: string; tries: number; user_id: string; ticket: string | null }
const rowsOf = async (session: string): Promise<Row[]> =>
  // But for those that stand until the app was asked for its devices.
  (
    await sql.query(
      `select * from holdfast.pushes where session_id = $1 and device not like 'app:%' order by user_id, device`,
      [session],
    )
  ).rows
const settled = (session: string, states: string[]) =>
  eventually(async () => {
    const rows = await rowsOf(session)
    return rows.map(({ state }) => state).join() === states.join() && rows
  })
/** Somebody with a device, alone in a session of their own. */
async function someone(user = randomUUID()): Promise<{ api: Api; user: string; session: string }> {
  const api = await apiOf(url, user)
  expect((await register(api, { kind: 'expo', token: token(user) })).status).toBe(201)
  return { api, user, session: await api.createSession() }
}

test('a reply is noticed on every device of its member, with ids and no word of it (I14, R3.4, P193, P194)', async () => {
  const { api, user, session } = await someone()
  const subscription = web.subscribe(`browser of ${user}`.replaceAll(' ', '-'))
  expect((await register(api, { kind: 'web', subscription, locale: 'de' })).status).toBe(201)
  const { turn } = await api.send(session, 'hello')
  await settled(session, ['sent', 'sent'])
  const tag = turn.id.replaceAll('-', '')
  const data = { sessionId: session, event: 'message.ai_response', turnId: turn.id, messageId: turn.replyId }
  const [{ seq }] = (await sql.query('select seq from holdfast.pushes where session_id = $1', [session])).rows
  expect(expo.messages).toEqual([
    {
      to: token(user),
      title: 'Your reply is ready',
      body: 'The assistant has answered.',
      sound: 'default',
      priority: 'high',
      ttl: 86_400,
      collapseId: tag,
      tag,
      data: { ...data, seq },
    },
  ])
  expect(expo.requests[0]!.headers.authorization).toBe('Bearer the access token')
  expect(web.notices).toHaveLength(1)
  const [{ payload, headers }] = web.notices as [WebStub['notices'][number]]
  expect(payload).toEqual({
    tag,
    title: 'Deine Antwort ist da',
    body: 'The assistant has answered.',
    data: { ...data, seq },
  })
  expect(headers).toMatchObject({ topic: tag, ttl: '86400', urgency: 'high' })
  expect(headers.authorization).toContain(keys.publicKey)
  expect(JSON.stringify([expo.messages, web.notices])).not.toContain('secret')
})

test('a failed reply and a question are noticed, a stop is not (P190)', async () => {
  const { api, session } = await someone()
  await api.send(session, 'fail')
  await settled(session, ['sent'])
  await api.send(session, 'ask')
  await settled(session, ['sent', 'sent'])
  expect(expo.messages.map(({ data, title }) => [data.event, title])).toEqual([
    ['message.error', 'The reply failed'],
    ['turn.waiting', 'Your answer is needed'],
  ])
  const other = await api.createSession()
  const { message } = await api.send(other, 'wait')
  await api.command(other, message.id, 'stop')
  expect(await rowsOf(other)).toEqual([])
})

test('who may not see it, has muted it, is no member or is of another tenant is noticed of nothing (I15, P190)', async () => {
  const { api, user, session } = await someone()
  const [muted, otto, same] = [await someone(), await someone(), await apiOf(url, user, 'elsewhere')]
  await register(same, { kind: 'expo', token: token('elsewhere') })
  for (const each of [muted, otto]) await addMember(session, each.user)
  expect((await mute(muted.api, session, true)).status).toBe(200)
  await chat.notify(session, otto.user, 'partner.waved', { from: user })
  await settled(session, ['sent'])
  await api.send(session, 'hello')
  await eventually(async () => expo.messages.length >= 3)
  expect(expo.messages.map(({ to, data }) => [to, data.event]).sort()).toEqual(
    [
      [token(otto.user), 'partner.waved'],
      [token(otto.user), 'message.ai_response'],
      [token(user), 'message.ai_response'],
    ].sort(),
  )
})

test('what is due already is withheld from who mutes the session, and who takes that back is noticed again (P196)', async () => {
  const { user, session } = await someone()
  const otto = await someone()
  await addMember(session, otto.user)
  await sql.query('update holdfast.meta set push_grace_ms = 600000')
  await chat.notify(session, otto.user, 'partner.waved', { from: user })
  await mute(otto.api, session, true)
  await sql.query('update holdfast.meta set push_grace_ms = 0')
  await sql.query(`update holdfast.pushes set due_at = now() where session_id = $1`, [session])
  await settled(session, ['withheld'])
  await mute(otto.api, session, false)
  await chat.notify(session, otto.user, 'partner.waved', { from: user })
  await eventually(async () => expo.messages.length === 1)
  expect((await rowsOf(session)).map(({ state }) => state).sort()).toEqual(['sent', 'withheld'])
})

test('what is said in a lane of its author’s own is noticed by its author alone, and who was removed by then gets nothing (I15)', async () => {
  const { user, session } = await someone()
  const [otto, gone] = [await someone(), await someone()]
  for (const each of [otto, gone]) await addMember(session, each.user)
  // As the end of a turn with an audience writes it; one of them leaves before it is due.
  await sql.query('update holdfast.meta set push_grace_ms = 600000')
  await sql.query(`select holdfast.push_due('default', $1, 'private', null, 'app.event', 1, $2, '{}')`, [
    session,
    `user:${otto.user}`,
  ])
  expect((await rowsOf(session)).map(({ user_id }) => user_id)).toEqual([otto.user])
  await sql.query(`delete from holdfast.pushes where session_id = $1`, [session])
  await chat.notify(session, gone.user, 'partner.waved', {})
  await sql.query(`delete from holdfast.members where user_id = $1`, [gone.user])
  await sql.query(`update holdfast.pushes set due_at = now() where session_id = $1`, [session])
  await settled(session, ['withheld'])
  await sql.query(`update holdfast.meta set push_grace_ms = 0`)
  expect(expo.messages.filter(({ to }) => to !== token(user))).toEqual([])
})

test('what was read in time, answered or tried again is not noticed any more (I14, P191)', async () => {
  await sql.query(`update holdfast.meta set push_grace_ms = 600000`)
  const read = await someone()
  const { message } = await read.api.send(read.session, 'hello')
  const watcher = read.api.watch(read.session)
  await watcher.outcome(message.id)
  await post(read.api, `/v1/sessions/${read.session}/receipts`, { read: watcher.cursor })
  await watcher.close()

  const [answered, failed] = [await someone(), await someone()]
  await answered.api.send(answered.session, 'ask')
  await settled(answered.session, ['due'])
  const sent = await failed.api.send(failed.session, 'fail')
  await settled(failed.session, ['due'])
  // Their next attempts do not begin meanwhile.
  await sql.query(`update holdfast.meta set paused = true`)
  await post(answered.api, `/v1/sessions/${answered.session}/tool-results/c1`, { output: 'here' })
  await failed.api.command(failed.session, sent.message.id, 'retry')

  const sessions = [read.session, answered.session, failed.session]
  await sql.query(`update holdfast.pushes set due_at = now() where session_id = any($1) and state = 'due'`, [sessions])
  for (const session of sessions) await settled(session, ['withheld'])
  expect(expo.messages).toEqual([])
  await sql.query(`update holdfast.meta set paused = false, push_grace_ms = 0`)
})

test('notify: the event is in the log for its user alone, once for its id, and its data go along whole (R3.3, P195)', async () => {
  const { api, user, session } = await someone()
  const otto = await someone()
  await addMember(session, otto.user)
  const data = { from: 'otto', deep: { n: [1] } }
  const first = await chat.notify(session, user, 'partner.signed', data, { id: 'n1' })
  expect(await chat.notify(session, user, 'partner.signed', data, { id: 'n1' })).toEqual(first)
  await settled(session, ['sent'])
  expect(expo.messages.filter(({ to }) => to === token(user))).toMatchObject([
    {
      to: token(user),
      title: 'Something new',
      data: { ...data, sessionId: session, event: 'partner.signed', seq: first.seq },
    },
  ])
  const seen = async (of: Api) => (await of.poll(session, {})).frames.filter(({ type }) => type === 'partner.signed')
  expect(await seen(api)).toMatchObject([{ data }])
  expect(await seen(otto.api)).toEqual([])
  await expect(chat.notify(session, user, 'partner.signed', {}, { id: 'n1' })).rejects.toThrow(/another event/)
  await expect(chat.notify(session, 'nobody', 'partner.signed', {})).rejects.toThrow(/no member/)
  await expect(chat.notify(session, user, 'partner.signed', { a: 'x'.repeat(2_560) })).rejects.toThrow(/4 KB/)
})

test('the largest notice fits what services take (P194)', async () => {
  const { api, user, session } = await someone()
  const subscription = web.subscribe(`large-${user}`)
  await register(api, { kind: 'web', subscription, locale: 'de' })
  await chat.notify(session, user, `a.${'b'.repeat(98)}`, { a: '€'.repeat(849) })
  await settled(session, ['sent', 'sent'])
  expect(web.notices).toHaveLength(1)
})

test('429 and 500 are tried again, 404 and 410 remove the device, and no line names a token (I14)', async () => {
  const { api, user, session } = await someone()
  const names = ['gone-410', 'gone-404', 'busy'].map((name) => `${name}-${user}`)
  for (const name of names) await register(api, { kind: 'web', subscription: web.subscribe(name) })
  web.next(names[0]!, 410)
  web.next(names[1]!, 404)
  web.next(names[2]!, 429, { 'retry-after': '0' })
  web.next(names[2]!, 500)
  expo.next({ status: 500 })
  await api.send(session, 'hello')
  const rows = await eventually(async () => {
    const all = await rowsOf(session)
    return all.length === 4 && all.every(({ state }) => state === 'sent' || state === 'gone') && all
  })
  expect(rows.map(({ state }) => state).sort()).toEqual(['gone', 'gone', 'sent', 'sent'])
  expect(web.notices.map(({ at }) => at)).toEqual([names[2]])
  expect(expo.messages.filter(({ to }) => to === token(user))).toHaveLength(1)
  const left = (await (await api.request('/v1/devices')).json()) as { data: { kind: string }[] }
  expect(left.data.map(({ kind }) => kind).sort()).toEqual(['expo', 'web'])
  expect(lines.join()).toContain('not delivered')
  expect(lines.join()).not.toMatch(/ExponentPushToken|localhost:/)
})

test('a device that Expo knows no more, at once or by its receipt, is removed here and forgotten by the app (R3.4)', async () => {
  const { api, session } = await someone()
  const notRegistered = { status: 'error', message: 'no', details: { error: 'DeviceNotRegistered' } }
  expo.next(() => notRegistered)
  await api.send(session, 'hello')
  await settled(session, ['gone'])
  expect(await (await api.request('/v1/devices')).json()).toEqual({ data: [] })

  ofApp = ['a', 'b', 'not one'].map((name) => ({
    kind: 'expo',
    token: name === 'not one' ? name : token(`app-${name}`),
  }))
  // Whatever an app may say as well: left out, and the others are told.
  ofApp.push(...([null, { kind: 'expo' }, { kind: 'fcm', token: 'x' }, { kind: 'web', subscription: {} }] as never[]))
  expo.receipts.set(token('app-b'), notRegistered)
  const app = await apiOf(url, 'app')
  const own = await app.createSession()
  // The same device in both places is one.
  await register(app, { kind: 'expo', token: token('app-a') })
  forgotten = []
  await app.send(own, 'hello')
  const rows = await eventually(async () => {
    const all = await rowsOf(own)
    return (
      all.length === 3 && all.every(({ state, ticket }) => ['sent', 'gone'].includes(state) && ticket === null) && all
    )
  })
  expect(rows.map(({ state }) => state).sort()).toEqual(['gone', 'gone', 'sent'])
  expect(
    expo.messages
      .map(({ to }) => to)
      .filter((to) => to.includes('app-'))
      .sort(),
  ).toEqual([token('app-a'), token('app-b')])
  await eventually(async () => forgotten.length === 2)
  expect(forgotten).toEqual(expect.arrayContaining([ofApp[1], ofApp[2]]))
})

test('a device that the app keeps is not tried again where the app has it no more by then (I15)', async () => {
  const app = await apiOf(url, 'app-2')
  const session = await app.createSession()
  ofApp = ['sold', 'kept'].map((name) => ({ kind: 'expo', token: token(`app-${name}`) }))
  forgotten = []
  expo.next(({ to }) => {
    if (to !== token('app-sold')) return undefined
    ofApp = ofApp.slice(1)
    return { status: 'error', message: 'later', details: { error: 'MessageRateExceeded' } }
  })
  await app.send(session, 'hello')
  const rows = await eventually(async () => {
    const all = await rowsOf(session)
    return all.length === 2 && all.every(({ state }) => state === 'sent' || state === 'gone') && all
  })
  expect(rows.map(({ state }) => state).sort()).toEqual(['gone', 'sent'])
  expect(expo.messages.filter(({ to }) => to === token('app-sold'))).toHaveLength(1)
  expect(forgotten).toEqual([])
})

test('one that Expo does not take keeps none of the others from being sent', async () => {
  const { session } = await someone()
  const users = Array.from({ length: 4 }, () => randomUUID())
  for (const user of users) {
    await addMember(session, user)
    await register(await apiOf(url, user), { kind: 'expo', token: token(user) })
  }
  // As Expo's validation does: all that came with it are refused.
  expo.next({ status: 400 })
  const api = await apiOf(url, users[0])
  await api.send(session, 'hello')
  await eventually(async () => (await rowsOf(session)).filter(({ state }) => state === 'sent').length === 5)
  expect(expo.requests.filter(({ path }) => path === 'send').map(({ count }) => count)).toEqual([5, 3, 2])
})

test('devices: a token is one user’s at a time, twenty each, strict, and answered to nobody (P192, I15)', async () => {
  const [ann, bob] = [await apiOf(url, randomUUID()), await apiOf(url, randomUUID())]
  const listOf = async (api: Api) =>
    ((await (await api.request('/v1/devices')).json()) as { data: { id: string }[] }).data
  const registered = await register(ann, { id: 'phone', kind: 'expo', token: token('moves'), locale: 'pt-BR' })
  const shown = { id: 'phone', kind: 'expo', locale: 'pt-BR', registeredAt: expect.any(String) }
  expect(await registered.json()).toEqual(shown)
  expect(await listOf(ann)).toEqual([shown])
  await register(bob, { id: 'phone', kind: 'expo', token: token('moves') })
  expect([await listOf(ann), (await listOf(bob)).map(({ id }) => id)]).toEqual([[], ['phone']])
  // Its token was changed.
  await register(bob, { id: 'phone', kind: 'expo', token: token('changed') })
  expect(await listOf(bob)).toHaveLength(1)
  for (let at = 0; at < 22; at++) await register(ann, { id: `d${at}`, kind: 'expo', token: token(`many-${at}`) })
  expect((await listOf(ann)).map(({ id }) => id)).toEqual(Array.from({ length: 20 }, (_, at) => `d${21 - at}`))
  expect((await ann.request('/v1/devices/d5', { method: 'DELETE' })).status).toBe(204)
  expect(await listOf(ann)).toHaveLength(19)

  const subscription = web.subscribe('strict')
  const wrong = [
    { kind: 'expo', token: 'no token' },
    { kind: 'expo', token: token('a'), more: 1 },
    { kind: 'fcm', token: 'a' },
    { kind: 'web', subscription: { ...subscription, endpoint: subscription.endpoint.replace('https', 'http') } },
    { kind: 'web', subscription: { ...subscription, keys: { ...subscription.keys, auth: 'AAAA' } } },
    // No point of the curve: nothing can be encrypted for it.
    {
      kind: 'web',
      subscription: {
        ...subscription,
        keys: { ...subscription.keys, p256dh: Buffer.alloc(65, 7).toString('base64url') },
      },
    },
    { kind: 'expo', token: token('a'), locale: 'de_DE; drop' },
  ]
  for (const body of wrong) expect([body, (await register(ann, body)).status]).toEqual([body, 400])
  expect(await (await ann.request('/v1/devices/key')).json()).toEqual({ publicKey: keys.publicKey })
})

test('an endpoint within this machine or a private network is refused, unless a test allows it', () => {
  const sender = webPush({ vapid: { subject: 'mailto:us@example.com', ...keys } })
  const { keys: ofBrowser } = web.subscribe('private')
  const refused = (endpoint: string) =>
    sender.refusalOf({ kind: 'web', subscription: { endpoint, keys: ofBrowser } }) !== null
  const inside = [
    'localhost',
    '127.0.0.1',
    '2130706433',
    '0x7f.1',
    '10.1.2.3',
    '169.254.169.254',
    '[::1]',
    '[::ffff:10.0.0.1]',
    '[fd00::1]',
    'db',
    'db.internal',
    'printer.local',
    'user:word@push.example.com',
    '[fec0::1]',
    '[::ffff:0:127.0.0.1]',
    '[2001:0:1::1]',
    'push.example.com:22',
    // Valid names of a URL, of which others read the beginning.
    ...[';', "'", '{', '`', '!', ',', '='].map((end) => `127.0.0.1${end}.example.com`),
  ]
  for (const host of inside) expect([host, refused(`https://${host}/x`)]).toEqual([host, true])
  for (const url of ['http://push.example.com/x', 'file:///etc/passwd', 'nothing']) expect(refused(url)).toBe(true)
  for (const host of ['fcm.googleapis.com', 'web.push.apple.com', '8.8.8.8']) {
    expect([host, refused(`https://${host}/x`)]).toEqual([host, false])
  }
})
