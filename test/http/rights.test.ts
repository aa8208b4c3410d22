/**
 * Who may do what: every route × every kind of caller × own, foreign, foreign child, missing (I15). The table below
 * declares what each route asks for; a route that is not in it fails, and so does one whose right was changed.
 */
import { randomUUID } from 'node:crypto'
import { SignJWT } from 'jose'
import { Client } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import webPushLibrary from 'web-push'
import { expoPush } from '../../src/adapters/expo.ts'
import { webPush } from '../../src/adapters/web-push.ts'
import { routes, serverRoutes } from '../../src/http/app.ts'
import type { Route } from '../../src/http/route.ts'
import { createHoldfast, type Holdfast } from '../../src/index.ts'
import { type Api, apiOf } from '../support/client.ts'
import { freshDatabase } from '../support/postgres.ts'
import { jwtSecret, tokenOf } from '../support/server.ts'

type Row = {
  right: Route['right']
  /** Each way to ask for it: what to send, and what a caller with the right is answered (about another's, if it differs). */
  asks: { headers?: Record<string, string>; query?: string; body?: () => object; ok: number; ofAnother?: number }[]
  /** What strangers are answered, as if there were no such session. */
  stranger?: number
  /** The session is gone with it. */
  erases?: true
}

const newFile = () => ({ file: randomUUID() })

const matrix: Record<string, Row> = {
  'sessions.create': { right: 'none', asks: [{ body: () => ({}), ok: 201 }] },
  'sessions.list': { right: 'none', asks: [{ ok: 200 }, { query: '?changedSince=2020-01-01T00:00:00Z', ok: 200 }] },
  'sessions.snapshot': { right: 'read', asks: [{ ok: 200 }, { query: '?limit=1', ok: 200 }] },
  'sessions.rename': { right: 'write', asks: [{ body: () => ({ title: 'renamed' }), ok: 200 }] },
  'sessions.delete': { right: 'own', asks: [{ ok: 204 }], erases: true },
  'messages.send': {
    right: 'write',
    asks: [
      { body: () => ({ id: randomUUID(), text: 'hi' }), ok: 202 },
      { query: '?wait=0.1', body: () => ({ id: randomUUID(), text: 'hi' }), ok: 202 },
    ],
  },
  'messages.list': { right: 'read', asks: [{ ok: 200 }, { query: '?limit=1&after=1u', ok: 200 }] },
  'messages.retry': { right: 'write', asks: [{ body: () => ({}), ok: 200 }] },
  'messages.stop': { right: 'write', asks: [{ body: () => ({}), ok: 200 }] },
  'messages.edit': {
    right: 'write',
    asks: [{ body: () => ({ id: randomUUID(), text: 'hi' }), ok: 200, ofAnother: 403 }],
  },
  // Its reply is still to be written.
  'messages.regenerate': { right: 'write', asks: [{ body: () => ({ id: randomUUID() }), ok: 409 }] },
  'messages.select': { right: 'write', asks: [{ body: () => ({}), ok: 200 }] },
  'approvals.answer': { right: 'write', asks: [{ body: () => ({ approved: true, reason: 'so' }), ok: 200 }] },
  'toolResults.answer': {
    right: 'write',
    asks: [
      { body: () => ({ output: [1] }), ok: 200 },
      { body: () => ({ errorText: 'no' }), ok: 200 },
    ],
  },
  // Its session is named in the body, and made: test/use-chat tries a foreign one.
  'chat.send': {
    right: 'none',
    asks: [
      {
        body: () => ({
          id: randomUUID(),
          messages: [{ id: '1', role: 'user', parts: [{ type: 'text', text: 'hi' }] }],
        }),
        ok: 200,
      },
    ],
  },
  'chat.resume': { right: 'read', asks: [{ ok: 200 }], stranger: 204 },
  'chat.stop': { right: 'write', asks: [{ body: () => ({}), ok: 200 }] },
  // Without an upgrade it says what it is. What is said on the socket: test/use-chat/websocket.test.ts.
  'chat.socket': { right: 'none', asks: [{ ok: 400 }] },
  'me.read': { right: 'none', asks: [{ ok: 200 }] },
  // This server publishes nothing over Ably. Where one does: test/ably.
  'ably.token': { right: 'none', asks: [{ body: () => ({}), ok: 404 }] },
  'tickets.issue': { right: 'none', asks: [{ body: () => ({}), ok: 201 }] },
  'files.upload': {
    right: 'write',
    asks: [
      { body: newFile, ok: 201 },
      { query: '?filename=a.json', body: newFile, ok: 201 },
    ],
  },
  'files.list': { right: 'read', asks: [{ ok: 200 }] },
  'files.serve': { right: 'read', asks: [{ ok: 200 }] },
  'receipts.store': { right: 'read', asks: [{ body: () => ({}), ok: 200 }] },
  'presence.list': { right: 'read', asks: [{ ok: 200 }] },
  'typing.say': { right: 'write', asks: [{ body: () => ({ isTyping: true }), ok: 204 }] },
  'members.list': { right: 'read', asks: [{ ok: 200 }] },
  'members.add': { right: 'own', asks: [{ body: () => ({ userId: randomUUID() }), ok: 201 }] },
  'members.change': { right: 'own', asks: [{ body: () => ({ role: 'owner' }), ok: 200 }] },
  'members.membership': { right: 'read', asks: [{ body: () => ({ muted: true }), ok: 200 }] },
  // Of another; that everybody may leave: test/people/members.test.ts.
  'members.remove': { right: 'own', asks: [{ ok: 204 }] },
  'invites.list': { right: 'own', asks: [{ ok: 200 }] },
  'invites.create': { right: 'own', asks: [{ body: () => ({}), ok: 201 }] },
  'invites.revoke': { right: 'own', asks: [{ ok: 204 }] },
  // Whose token is nobody's.
  'invites.accept': { right: 'none', asks: [{ body: () => ({ token: randomUUID() }), ok: 404 }] },
  'devices.register': {
    right: 'none',
    asks: [{ body: () => ({ kind: 'expo', token: `ExponentPushToken[${randomUUID()}]` }), ok: 201 }],
  },
  'devices.list': { right: 'none', asks: [{ ok: 200 }] },
  'devices.key': { right: 'none', asks: [{ ok: 200 }] },
  'usage.read': { right: 'none', asks: [{ query: '?by=session,day', ok: 200 }] },
  // Also where the caller has no such device.
  'devices.remove': { right: 'none', asks: [{ ok: 204 }] },
  // None of them has a guest's cookie beside.
  'guest.merge': { right: 'none', asks: [{ body: () => ({}), ok: 404 }] },
  import: { right: 'none', asks: [{ body: () => ({ rows: [] }), ok: 200 }] },
  export: { right: 'none', asks: [{ ok: 200 }] },
  'sessions.export': { right: 'read', asks: [{ ok: 200 }] },
  'me.erase': { right: 'none', asks: [{ ok: 204 }] },
  // Its sessions are named in the query, and each is judged: test/realtime.
  'events.followMany': {
    right: 'none',
    asks: [
      { query: '?list=1', ok: 200 },
      { query: '?sessions=some@now&wait=0', headers: { accept: 'application/json' }, ok: 200 },
    ],
  },
  // As `chat.socket`. What is said on the socket: test/realtime/socket.test.ts.
  'realtime.socket': { right: 'none', asks: [{ ok: 400 }] },
  'events.follow': {
    right: 'read',
    asks: [
      { ok: 200 },
      { query: '?cursor=now', ok: 200 },
      { query: '?wait=0', headers: { accept: 'application/json' }, ok: 200 },
    ],
  },
}

/** In ann's session. The owner comes last: what she deletes nobody else finds. */
const roles = ['reader', 'member', 'owner'] as const
const may: Record<Route['right'], readonly string[]> = {
  none: ['owner', 'member', 'reader'],
  read: ['owner', 'member', 'reader'],
  write: ['owner', 'member'],
  own: ['owner'],
}
/** Of the app's servers, which bring a key. */
const forServers: Record<string, { body?(): object; ok: number; ofUser?: number; ofMissing: number }> = {
  'events.publish': { body: () => ({ event: 'a.b', data: 1 }), ok: 200, ofMissing: 404 },
  // Users ask for the same path, and are told what is theirs.
  'usage.readAll': { ok: 200, ofUser: 200, ofMissing: 200 },
  // Whoever was never there is gone as well.
  'users.erase': { ok: 204, ofMissing: 204 },
  // What there is: test/outbox.
  'outbox.list': { ok: 200, ofMissing: 200 },
  'outbox.entry': { ok: 404, ofMissing: 404 },
  'outbox.retry': { ok: 404, ofMissing: 404 },
  'webhooks.list': { ok: 200, ofMissing: 200 },
  'webhooks.enable': { ok: 404, ofMissing: 404 },
}
const serverKey = 'k'.repeat(32)

type Caller = { name: string; headers: Record<string, string>; role: (typeof roles)[number] | null; known: boolean }

let chat: Holdfast
let url: string
let database: Awaited<ReturnType<typeof freshDatabase>>
let sql: Client
let callers: Caller[]

beforeAll(async () => {
  database = await freshDatabase(18)
  // Nothing runs replies here, so nothing changes but by the requests.
  chat = createHoldfast({
    database: database.url,
    tokens: { secret: jwtSecret },
    serverKey,
    roles: ['http'],
    limits: { sendsPerMinute: 0 },
    push: {
      expo: expoPush(),
      web: webPush({ vapid: { subject: 'mailto:us@example.com', ...webPushLibrary.generateVAPIDKeys() } }),
    },
    reply: () => 'never asked',
    log: () => undefined,
  })
  ;({ url } = await chat.listen(0))
  sql = new Client({ connectionString: database.url })
  await sql.connect()
  callers = await makeCallers()
})
afterAll(async () => {
  await sql.end()
  await chat.close()
  await database.drop()
})

async function makeCallers(): Promise<Caller[]> {
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
  const forged = new SignJWT({}).setProtectedHeader({ alg: 'HS256' }).setSubject('ann').setExpirationTime('1h')
  const [head, payload] = (await tokenOf('ann')).split('.')
  const unsigned = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${payload}.`
  const user = async (name: string, userId: string, role: Caller['role'], claims = {}): Promise<Caller> => ({
    name,
    headers: bearer(await tokenOf(userId, claims)),
    role,
    known: true,
  })
  const nobody = (name: string, headers: Record<string, string>): Caller => ({
    name,
    headers,
    role: null,
    known: false,
  })
  return [
    await user('another user', 'otto', null),
    await user('the owner’s name in another tenant', 'ann', null, { tenant: 'other' }),
    nobody('a guest', { cookie: `holdfast_guest=${'g'.repeat(32)}` }),
    nobody('nobody', {}),
    nobody('an expired token', bearer(await tokenOf('ann', { expiresIn: Math.floor(Date.now() / 1000) - 60 }))),
    nobody('another server’s token', bearer(await forged.sign(new TextEncoder().encode('x'.repeat(40))))),
    nobody('an unsigned token', bearer(unsigned)),
    nobody('a token with its signature cut off', bearer(`${head}.${payload}.`)),
    nobody('a token in another scheme', { authorization: `Basic ${await tokenOf('ann')}` }),
    await user('a reader', 'rita', 'reader'),
    await user('a member', 'mia', 'member'),
    await user('the owner', 'ann', 'owner'),
  ]
}

type Place = {
  sessionId: string
  messageId: string
  fileId: string
  approvalId: string
  toolCallId: string
  /** One more member. */
  userId: string
  inviteId: string
}
type Answer = { status: number; text: string; headers: string[] }

/** Ann's session with a member and a reader, and zoe's, each with a message. */
async function makePlaces(): Promise<{ own: Place; foreign: Place }> {
  const place = async (userId: string): Promise<Place> => {
    const api = await apiOf(url, userId)
    const sessionId = await api.createSession(randomUUID())
    const messageId = randomUUID()
    await api.send(sessionId, 'hello', messageId)
    const file = await api.request(`/v1/sessions/${sessionId}/files`, {
      method: 'POST',
      headers: { 'content-type': 'text/plain' },
      body: `of ${userId}`,
    })
    const { id: fileId } = (await file.json()) as { id: string }
    const member = `friend of ${userId}`
    await api.request(`/v1/sessions/${sessionId}/members`, { method: 'POST', body: JSON.stringify({ userId: member }) })
    const invite = await api.request(`/v1/sessions/${sessionId}/invites`, { method: 'POST', body: '{}' })
    const { id: inviteId } = (await invite.json()) as { id: string }
    return { sessionId, messageId, fileId, userId: member, inviteId, ...(await makeWaiting(api, sessionId)) }
  }
  const [own, foreign] = [await place('ann'), await place('zoe')]
  await sql.query(
    `insert into holdfast.members (tenant_id, session_id, user_id, role)
       values ('default', $1, 'rita', 'reader'), ('default', $1, 'mia', 'member')`,
    [own.sessionId],
  )
  return { own, foreign }
}

/** A turn behind the other one that waits for an approval and for a result. */
async function makeWaiting(api: Api, sessionId: string): Promise<Pick<Place, 'approvalId' | 'toolCallId'>> {
  const [approvalId, toolCallId] = [randomUUID(), randomUUID()]
  const { turn } = await api.send(sessionId, 'wait', randomUUID())
  const parts = [
    { type: 'tool-book', toolCallId: 'k1', state: 'approval-requested', input: {}, approval: { id: approvalId } },
    { type: 'tool-where', toolCallId, state: 'input-available', input: {} },
  ]
  await sql.query(
    `update holdfast.turns set state = 'waiting', holds_lane = false, attempt = 1, checkpoint = $2 where id = $1`,
    [
      turn.id,
      JSON.stringify({
        attempt: 1,
        step: 0,
        isOpen: true,
        nextIndex: 0,
        parts,
        metadata: null,
        told: [],
        forClients: [],
        tokens: 0,
      }),
    ],
  )
  await sql.query(
    `insert into holdfast.asks (tenant_id, session_id, turn_id, round, step, call_id, kind, id, name, input_hash, attempt, seq, expires_at)
       values ('default', $1, $2, 1, 0, 'k1', 'approval', $3, 'book', '', 1, 1, 'infinity'),
         ('default', $1, $2, 1, 0, $4, 'tool', $4, 'where', '', 1, 1, 'infinity')`,
    [sessionId, turn.id, approvalId, toolCallId],
  )
  return { approvalId, toolCallId }
}

async function ask(
  route: Pick<Route, 'path' | 'method'>,
  { headers, query = '', body }: Row['asks'][number],
  caller: Pick<Caller, 'headers'>,
  place: Place,
) {
  const path = Object.entries(place).reduce(
    (path, [name, id]) => path.replace(`:${name}`, encodeURIComponent(id)),
    route.path,
  )
  const control = new AbortController()
  const response = await fetch(`${url}${path}${query}`, {
    method: route.method,
    headers: { ...caller.headers, ...headers, ...(body ? { 'content-type': 'application/json' } : {}) },
    ...(body ? { body: JSON.stringify(body()) } : {}),
    signal: control.signal,
  })
  const isStream = response.headers.get('content-type')?.startsWith('text/event-stream') === true
  const text = isStream ? '' : (await response.text()).replace(/"requestId":"[^"]+"/, '')
  control.abort()
  const answered = [...response.headers].filter(([name]) => name !== 'date').map(([name, value]) => `${name}: ${value}`)
  return { status: response.status, text, headers: answered } satisfies Answer
}

test('every route has a row in the table of rights, with the right that it is judged by', () => {
  expect(Object.fromEntries(routes.map(({ name, right }) => [name, right]))).toEqual(
    Object.fromEntries(Object.entries(matrix).map(([name, { right }]) => [name, right])),
  )
})

test.each(routes.map((route) => [route.name, route] as const))(
  '%s is for those who have the right, and tells others nothing (I15)',
  async (name, route) => {
    const row = matrix[name]!
    const concernsSession = route.path.includes(':sessionId')
    const missing: Place = {
      sessionId: randomUUID(),
      messageId: randomUUID(),
      fileId: randomUUID(),
      approvalId: randomUUID(),
      toolCallId: randomUUID(),
      userId: randomUUID(),
      inviteId: randomUUID(),
    }
    for (const each of row.asks) {
      const { own, foreign } = await makePlaces()
      const before = await rowsOf(foreign.sessionId)
      const childMissing: Place = { ...missing, sessionId: own.sessionId }
      const childForeign: Place = { ...foreign, sessionId: own.sessionId }
      for (const caller of callers) {
        const answers = {
          foreign: await ask(route, each, caller, foreign),
          missing: await ask(route, each, caller, missing),
          childForeign: await ask(route, each, caller, childForeign),
          childMissing: await ask(route, each, caller, childMissing),
          own: await ask(route, each, caller, own),
        }
        const statuses = Object.fromEntries(Object.entries(answers).map(([place, { status }]) => [place, status]))
        expect({ caller: caller.name, ...statuses }).toEqual({
          caller: caller.name,
          ...expected(caller, row.right, caller.role === 'member' ? (each.ofAnother ?? each.ok) : each.ok, {
            concernsSession,
            hasChild: /:(messageId|fileId|approvalId|toolCallId|userId|inviteId)/.test(route.path),
            erases: row.erases === true,
            stranger: row.stranger ?? 404,
          }),
        })
        if (concernsSession) {
          expect(answers.foreign).toEqual(answers.missing)
          if (statuses.childForeign === 404) expect(answers.childForeign).toEqual(answers.childMissing)
        }
      }
      expect(await rowsOf(foreign.sessionId)).toEqual(before)
    }
  },
)

test('routes for servers ask for their key, whoever asks: no user’s token is one (I15)', async () => {
  expect(serverRoutes.map(({ name }) => name)).toEqual(Object.keys(forServers))
  const { own } = await makePlaces()
  for (const route of serverRoutes) {
    const before = await rowsOf(own.sessionId)
    const { ofUser = 401, ...asked } = forServers[route.name]!
    const asking = (headers: Caller['headers'], place = own) => ask(route, asked, { headers }, place)
    for (const { headers, known } of callers) expect((await asking(headers)).status).toBe(known ? ofUser : 401)
    expect(await rowsOf(own.sessionId)).toEqual(before)
    const headers = { authorization: `Bearer ${serverKey}` }
    const missing = { ...own, sessionId: randomUUID(), userId: randomUUID() }
    expect((await asking(headers, missing)).status).toBe(asked.ofMissing)
    expect((await asking(headers)).status).toBe(asked.ok)
  }
})

function expected(
  caller: Caller,
  right: Route['right'],
  ok: number,
  {
    concernsSession,
    hasChild,
    stranger,
    erases,
  }: { concernsSession: boolean; hasChild: boolean; stranger: number; erases: boolean },
): Record<string, number> {
  const all = (status: number) => ({
    foreign: status,
    missing: status,
    childForeign: status,
    childMissing: status,
    own: status,
  })
  if (!caller.known) return all(401)
  if (!concernsSession) return all(ok)
  if (caller.role === null) return all(stranger)
  if (!may[right].includes(caller.role)) return { ...all(403), foreign: stranger, missing: stranger }
  // The owner deletes with the first request that names her session; then it is gone for the others.
  if (erases) return { foreign: 404, missing: 404, childForeign: 204, childMissing: 404, own: 404 }
  const child = hasChild ? 404 : ok
  return { foreign: stranger, missing: stranger, childForeign: child, childMissing: child, own: ok }
}

/** Everything that is stored of a session. */
async function rowsOf(sessionId: string): Promise<unknown[]> {
  const tables = [
    'sessions',
    'members',
    'messages',
    'turns',
    'events',
    'files',
    'asks',
    'invites',
    'asides',
    'published',
  ]
  const found: unknown[] = []
  for (const table of tables) {
    const column = table === 'sessions' ? 'id' : 'session_id'
    found.push(
      (await sql.query(`select * from holdfast.${table} where ${column} = $1 order by 1, 2, 3`, [sessionId])).rows,
    )
  }
  return found
}
