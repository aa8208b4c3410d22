/** Webhooks against a receiver that is down, slow, or refuses: signed, at least once, in each session's order (R2.8, P245 to P249). */
import dns from 'node:dns'
import { createServer } from 'node:http'
import { syncBuiltinESMExports } from 'node:module'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { Client } from 'pg'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { createHoldfast, type Holdfast, OptionError, type WebhookOptions } from '../../src/index.ts'
import { publicLookup } from '../../src/net/public-address.ts'
import { bodyOf, webhookOf } from '../../src/outbox/webhooks.ts'
import { startCommand } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { type Received, type Receiver, secrets, startReceiver } from './receiver.ts'

let database: Awaited<ReturnType<typeof freshDatabase>>
let sql: Client
let chat: Holdfast
let url: string
let main: Receiver
let whole: Receiver
let slow: Receiver
const serverKey = 'k'.repeat(32)
const said = 'what was said is nobody else’s'
const lines: string[] = []
const soon = { privateAddresses: true, backoffMinMs: 20 }
/** A port of this machine that nothing should ever come to. */
let canary: { url: string; port: number; seen: string[] }

const holdfast = (at: string, webhooks: WebhookOptions[], roles?: ['runner']) =>
  createHoldfast({
    ...{ database: at, pollMs: 200, leaseMs: 1_000, serverKey, webhooks, roles },
    reply: () => said,
    log: (line, detail) => lines.push(`${line} ${JSON.stringify(detail)}`),
  })

beforeAll(async () => {
  database = await freshDatabase(18)
  main = await startReceiver()
  whole = await startReceiver()
  slow = await startReceiver()
  const seen: string[] = []
  const server = createServer((_request, response) => void response.end())
  server.on('connection', ({ remoteAddress }) => seen.push(String(remoteAddress)))
  await new Promise<void>((resolve) => server.listen(0, resolve))
  const { port } = server.address() as AddressInfo
  canary = { url: `http://127.0.0.1:${port}/`, port, seen }
  chat = holdfast(database.url, [
    { ...soon, url: main.url, name: 'main', secrets: [secrets.new, secrets.old], attemptsMax: 4 },
    { ...soon, url: whole.url, secrets: [secrets.new], events: ['message.ai_response', 'app.event'], content: true },
    {
      ...soon,
      url: slow.url,
      name: 'slow',
      secrets: [secrets.new],
      events: ['app.slow', 'app.next'],
      answerWithinMs: 150,
    },
    { url: `https://hooks.example.com:${port}/`, name: 'guarded', secrets: [secrets.new], events: ['app.guarded'] },
  ])
  ;({ url } = await chat.listen(0))
  sql = new Client({ connectionString: database.url })
  await sql.connect()
  return () => server.close()
})
afterAll(async () => {
  await sql.end()
  await chat.close()
  await Promise.all([main.close(), whole.close(), slow.close()])
  await database.drop()
})

const ask = async (path: string, method = 'GET') =>
  await (await fetch(`${url}${path}`, { method, headers: { authorization: `Bearer ${serverKey}` } })).json()
const of = (receiver: Receiver, session: string) =>
  receiver.received.filter(({ body }) => body.data.sessionId === session)
const came = (receiver: Receiver, session: string, n: number) =>
  eventually(async () => of(receiver, session).length >= n && of(receiver, session))
type Row = { n: number; key: string; topic: string; state: string; tries: number; error: string | null }
const rowsOf = async (session: string) =>
  (await sql.query<Row>('select * from holdfast.outbox where session_id = $1 order by n', [session])).rows
const open = async (session: string) => {
  await chat.sessions.create({ id: session, userId: 'ann' })
  return session
}
const publish = (session: string, ...events: string[]) =>
  events.reduce(
    (before, event) => before.then(() => chat.publish(session, event, said)),
    Promise.resolve<unknown>(null),
  )
const signed = ({ headers, text }: Received, secret: string, body = text) =>
  new Webhook(secret).verify(body, headers as Record<string, string>)

test('each event of a session is sent once and in its order, signed with both secrets, and says ids alone (P245, P246)', async () => {
  const session = await open('first')
  await chat.send(session, { id: 'm1', userId: 'ann', text: said, waitMs: 10_000 })
  const all = await came(main, session, 3)
  expect(all.map(({ body }) => [body.type, body.data.seq])).toEqual([
    ['message.created', 1],
    ['attempt.started', 2],
    ['message.ai_response', 3],
  ])
  expect(all[2]!.body).toMatchObject({
    timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
    data: { tenantId: 'default', sessionId: session, attempt: 1, userMessageId: 'm1', messageId: expect.any(String) },
  })
  for (const each of all) {
    for (const secret of [secrets.new, secrets.old]) expect(signed(each, secret)).toEqual(each.body)
    expect(each.headers['content-type']).toBe('application/json')
    expect(each.text).not.toContain(said)
  }
  expect(new Set(all.map(({ headers }) => headers['webhook-id'])).size).toBe(3)
  const [response] = await came(whole, session, 1)
  expect(response!.body.type).toBe('message.ai_response')
  expect(JSON.stringify(response!.body.data.content)).toContain(said)
  // What the app publishes is content, too.
  await publish(session, 'app.event')
  const own = (await came(main, session, 4))[3]!
  expect(own.body.data).toEqual({
    ...{ tenantId: 'default', sessionId: session, seq: 4 },
    turnId: null,
    attempt: null,
    audience: null,
  })
  expect((await came(whole, session, 2))[1]!.body.data.content).toEqual(said)
})

test('content that is too large for a body is left out, and the ids still come (P245)', () => {
  const event = {
    seq: 1,
    type: 'message.ai_response',
    turnId: null,
    position: 1,
    attempt: 1,
    audience: null,
    at: 'now',
  }
  const json = JSON.stringify({ message: { id: 'r1', repliesTo: 'm1', parts: 'x'.repeat(300_000) } })
  const body = JSON.parse(bodyOf({ tenantId: 't', sessionId: 's' }, { ...event, json }, true))
  expect(body.data).toMatchObject({ messageId: 'r1', userMessageId: 'm1', contentTooLarge: true })
  expect(body.data).not.toHaveProperty('content')
})

test('a forged or changed event is refused by a receiver’s verifier, and so is one that is replayed later (P246)', async () => {
  const [event] = await came(main, 'first', 1)
  const stranger = `whsec_${Buffer.alloc(32, 3).toString('base64')}`
  expect(() => signed(event!, stranger)).toThrow(/signature/)
  expect(() => signed(event!, secrets.new, event!.text.replace('first', 'other'))).toThrow(/signature/)
  const headers = { ...(event!.headers as Record<string, string>), 'webhook-id': 'evt_another' }
  expect(() => new Webhook(secrets.new).verify(event!.text, headers)).toThrow(/signature/)
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 6 * 60_000 })
  onTestFinished(() => void vi.useRealTimers())
  expect(() => signed(event!, secrets.new)).toThrow(/too old/)
})

test('a receiver that fails or sends elsewhere is tried again under the same id, and what comes later waits for it (P247)', async () => {
  const session = await open('failing')
  const other = await open('beside')
  main.next({ status: 500 }, { status: 302, headers: { location: canary.url } }, { status: 404 })
  await publish(session, 'app.a', 'app.b', 'app.c')
  const all = await came(main, session, 6)
  expect(all.map(({ body }) => body.type)).toEqual(['app.a', 'app.a', 'app.a', 'app.a', 'app.b', 'app.c'])
  expect(new Set(all.slice(0, 4).map(({ headers }) => headers['webhook-id'])).size).toBe(1)
  expect(canary.seen).toEqual([])
  await publish(other, 'app.a')
  await came(main, other, 1)
})

test('a receiver that does not answer in time is tried again, and what comes later waits for it (P247)', async () => {
  const session = await open('slow')
  slow.next(null, null)
  await publish(session, 'app.slow', 'app.next')
  // On a busy machine it may be late once more.
  const all = await eventually(async () => of(slow, session).at(-1)?.body.type === 'app.next' && of(slow, session))
  expect(all.slice(0, 3).map(({ body }) => body.type)).toEqual(['app.slow', 'app.slow', 'app.slow'])
  const [first] = (await rowsOf(session)).filter(({ topic }) => topic === 'webhook:slow')
  expect(first).toMatchObject({ state: 'done', error: null })
})

test('one that is tried as often as it may be is a dead letter with a reason, the next goes on, and it can be sent again (P244, P247)', async () => {
  const session = await open('dying')
  main.next(...Array.from({ length: 4 }, () => ({ status: 500 })))
  await publish(session, 'app.a', 'app.b')
  const all = await came(main, session, 5)
  expect(all.map(({ body }) => body.type)).toEqual(['app.a', 'app.a', 'app.a', 'app.a', 'app.b'])
  const { data } = await ask('/v1/outbox?state=dead&topic=webhook:main')
  expect(data).toMatchObject([{ key: session, state: 'dead', tries: 4, error: 'The receiver answered 500.' }])
  await ask(`/v1/outbox/${data[0].n}/retry`, 'POST')
  const again = (await came(main, session, 6))[5]!
  expect(again.headers['webhook-id']).toBe(all[0]!.headers['webhook-id'])
})

test.each([429, 503])('a receiver that answers %i is left alone for as long as it says (P247)', async (status) => {
  const session = await open(`busy-${status}`)
  main.next({ status, headers: { 'retry-after': '1' } })
  await publish(session, 'app.a')
  const [first, second] = await came(main, session, 2)
  expect(second!.atMs - first!.atMs).toBeGreaterThan(950)
  expect(second!.atMs - first!.atMs).toBeLessThan(2_000)
})

test('nothing of a conversation waits for a receiver that is down, and what it missed comes in order (P247)', async () => {
  const session = await open('down')
  const port = Number(new URL(main.url).port)
  await main.close()
  const sent = await chat.send(session, { id: 'd1', userId: 'ann', text: said, waitMs: 10_000 })
  expect(sent.turn?.state).toBe('complete')
  await eventually(async () => (await rowsOf(session)).some(({ tries }) => tries > 0))
  main = await startReceiver(port)
  const all = await came(main, session, 3)
  expect(all.map(({ body }) => body.data.seq)).toEqual([1, 2, 3])
})

test('410 disables the webhook, also for processes that start later, until somebody enables it (P248)', async () => {
  const session = await open('gone')
  main.next({ status: 410 })
  await publish(session, 'app.a', 'app.b')
  await eventually(async () => (await rowsOf(session)).every(({ state }) => state === 'dead'))
  expect((await rowsOf(session))[0]).toMatchObject({ error: expect.stringMatching(/answered 410.*enable/) })
  const another = holdfast(
    `${database.url}?application_name=another`,
    [{ ...soon, url: main.url, name: 'main', secrets: [secrets.new] }],
    ['runner'],
  )
  onTestFinished(() => another.close())
  await another.start()
  const before = main.received.length
  await publish(session, 'app.c')
  const { data } = await ask('/v1/webhooks')
  expect(data.find(({ name }: { name: string }) => name === 'main')).toMatchObject({ state: 'disabled', events: null })
  expect((await rowsOf(session)).map(({ state }) => state)).toEqual(['dead', 'dead'])
  await ask('/v1/webhooks/main/enable', 'POST')
  await publish(session, 'app.d')
  const all = await came(main, session, 2)
  expect(all.map(({ body }) => body.type)).toEqual(['app.a', 'app.d'])
  expect(main.received.length).toBe(before + 1)
  expect(
    (
      await fetch(`${url}/v1/webhooks/none/enable`, {
        method: 'POST',
        headers: { authorization: `Bearer ${serverKey}` },
      })
    ).status,
  ).toBe(404)
})

test('holdfast outbox shows the webhooks, enables one again, and forgets one that is set up no more (P248)', async () => {
  const command = async (...args: string[]) => {
    const done = startCommand(['outbox', ...args], { cwd: tmpdir(), env: { DATABASE_URL: database.url } })
    return { code: await done.ended, text: done.printed() }
  }
  await sql.query(`insert into holdfast.webhooks (name, events, disabled_at, disabled_why) values
    ('off', '{app.old}', now(), 'its receiver answered 410'), ('old', '{app.old}', null, null)`)
  const session = await open('forgotten')
  await publish(session, 'app.old', 'app.old')
  const waiting = async () => (await rowsOf(session)).filter(({ topic }) => topic === 'webhook:old').length
  expect(await waiting()).toBe(2)
  const [all, enabled, forgotten, none] = await Promise.all([
    command('webhooks'),
    command('enable', 'slow'),
    command('forget', 'old'),
    command('enable', 'none'),
  ])
  expect(all.text).toMatch(/^main {2}on {2}all events$/m)
  expect(all.text).toMatch(/^off {2}disabled {2}app.old {2}\S+Z {2}its receiver answered 410$/m)
  expect(enabled.text).toMatch(/^slow is sent what comes from now on/)
  expect(forgotten.code).toBe(0)
  expect([none.code, none.text]).toEqual([1, expect.stringContaining('There is no webhook none')])
  expect(await waiting()).toBe(0)
  await publish(session, 'app.old')
  expect(await waiting()).toBe(0)
  expect((await command('enable', 'off')).code).toBe(0)
  await publish(session, 'app.old')
  expect((await rowsOf(session)).filter(({ topic }) => topic === 'webhook:off')).toHaveLength(1)
})

test('a session that is deleted leaves nothing in the outbox', async () => {
  const session = await open('deleted')
  main.next({ status: 500 }, { status: 500 })
  await publish(session, 'app.a', 'app.b')
  await chat.sessions.delete(session)
  expect(await rowsOf(session)).toEqual([])
})

const wrong: [string, Partial<WebhookOptions>, RegExp][] = [
  ['an address of this machine', { url: 'https://127.0.0.1/' }, /public host/],
  ['one in other digits', { url: 'https://0x7f.1/' }, /public host/],
  ['one of IPv6', { url: 'https://[::1]/' }, /public host/],
  ['one within IPv6', { url: 'https://[::ffff:127.0.0.1]/' }, /public host/],
  ['a cloud’s metadata', { url: 'https://169.254.169.254/latest' }, /public host/],
  ['a private network', { url: 'https://10.1.2.3/' }, /public host/],
  ['a name of this machine', { url: 'https://localhost/' }, /public host/],
  ['http', { url: 'http://example.com/' }, /https address/],
  ['a user in it', { url: 'https://a:b@example.com/' }, /https address/],
  ['no address', { url: 'example.com' }, /https address/],
  ['no secret', { secrets: [] }, /secrets: expected 1 to 3/],
  ['a short secret', { secrets: ['whsec_c2hvcnQ='] }, /secrets/],
  ['no events', { events: [] }, /events/],
  ['an option that is none', { secret: 'x' } as object, /webhooks\[0\].secret: there is no such option/],
  ['a bound', { attemptsMax: 0 }, /attemptsMax/],
]
test('what is given to a webhook as undefined counts as not given', () => {
  const nothing = { answerWithinMs: undefined, attemptsMax: undefined, backoffMinMs: undefined }
  const hook = webhookOf({ url: 'https://example.com/', secrets: [secrets.new], ...nothing } as WebhookOptions)
  expect(hook).toMatchObject({ attemptsMax: 16, backoffMinMs: 5_000 })
})

test.each(wrong)(
  'a webhook to %s is refused at the start, and no secret is repeated (P249)',
  (_what, options, sentence) => {
    const hook = { url: 'https://example.com/', secrets: [secrets.new], ...options }
    const make = () => holdfast('postgres://localhost/none', [hook])
    expect(make).toThrow(OptionError)
    expect(make).toThrow(sentence)
    expect(make).not.toThrow(/whsec_c2/)
  },
)

test('a name that leads to private addresses by now is not connected to (P249)', async () => {
  const { lookup } = dns
  onTestFinished(() => {
    dns.lookup = lookup
    syncBuiltinESMExports()
  })
  let leadsTo: { address: string; family: number }[] = []
  dns.lookup = ((_name: string, _options: object, done: (error: null, found: typeof leadsTo) => void) =>
    done(null, leadsTo)) as typeof dns.lookup
  syncBuiltinESMExports()
  for (const [address, family] of [
    ['127.0.0.1', 4],
    ['::1', 6],
    ['::ffff:127.0.0.1', 6],
    ['169.254.169.254', 4],
    ['fd00::1', 6],
  ] as const) {
    leadsTo = [{ address, family }]
    const found = await new Promise((resolve) =>
      publicLookup('hooks.example.com', { all: true }, (error) => resolve(error)),
    )
    expect(found, address).toMatchObject({ code: 'EPRIVATE' })
  }
  leadsTo = [
    { address: '127.0.0.1', family: 4 },
    { address: '203.0.113.7', family: 4 },
  ]
  const found = await new Promise((resolve) =>
    publicLookup('hooks.example.com', { all: true }, (_error, all) => resolve(all)),
  )
  expect(found).toEqual([{ address: '203.0.113.7', family: 4 }])
  leadsTo = [{ address: '127.0.0.1', family: 4 }]
  const session = await open('guarded')
  await publish(session, 'app.guarded')
  const row = await eventually(async () =>
    (await rowsOf(session)).find(({ error, topic }) => topic === 'webhook:guarded' && error),
  )
  expect(row.error).toMatch(/private address/)
  expect(canary.seen).toEqual([])
})

test('lines for operators hold no content, no address and no secret', () => {
  expect(lines.length).toBeGreaterThan(0)
  for (const hidden of [said, secrets.new, secrets.old, main.url]) expect(lines.join()).not.toContain(hidden)
})
