/** A user is deleted who has something in every table, and while other things of theirs are under way (P237, P238, I15). */
import { randomBytes } from 'node:crypto'
import { Client } from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { guest } from '../../src/http/principal.ts'
import { createHoldfast, type Holdfast } from '../../src/index.ts'
import { secrets } from '../outbox/receiver.ts'
import { type Api, apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { gate } from '../support/obedient.ts'
import { onPoint } from '../support/points.mjs'
import { freshDatabase } from '../support/postgres.ts'
import { jwtSecret } from '../support/server.ts'
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
    // Nobody answers there: what is to be sent stays.
    webhooks: [{ url: 'http://127.0.0.1:9/', name: 'away', secrets: [secrets.new], privateAddresses: true }],
    lane: ({ session }) =>
      session.id.includes('private') ? 'private' : session.id.includes('each') ? 'author' : 'main',
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
const fresh = (name: string) => `${name}-${randomBytes(6).toString('hex')}`
const post = (api: Api, path: string, body: object = {}) =>
  api.request(path, { method: 'POST', body: JSON.stringify(body) })
const removed = async (userId: string) =>
  (
    await fetch(`${url}/v1/users/${encodeURIComponent(userId)}`, {
      method: 'DELETE',
      headers: { authorization: `Bearer ${serverKey}` },
    })
  ).status

async function said(api: Api, session: string, id: string): Promise<void> {
  await post(api, '/v1/sessions', { id: session })
  expect((await post(api, `/v1/sessions/${session}/messages?wait=20`, { id, text: `said ${id}` })).status).toBe(200)
}

const tracesOf = (text: string) => tracesIn(sql, text)

test('a user who has something in each table that can hold anything of theirs is in none of them any more (P237, P238)', async () => {
  const id = fresh('zoe')
  const [zoe, bob] = [await apiOf(url, id), await apiOf(url, 'bob')]
  const [alone, shared, each, own] = [fresh('alone'), fresh('shared'), fresh('each'), fresh('private')]
  await said(zoe, alone, 'm1')
  for (const session of [shared, each, own]) {
    await said(zoe, session, 'm2')
    await chat.members.add(session, { userId: 'bob' })
    await said(bob, session, 'b1')
  }
  const left = fresh('left')
  await said(bob, left, 'b2')
  await chat.members.add(left, { userId: id })
  await said(zoe, left, 'm3')
  await chat.members.remove(left, { userId: id })
  const g = guest('a'.repeat(32)).userId
  await sql.query(
    `insert into holdfast.guests (tenant_id, guest_id, user_id, done_at) values ('default', $1, $2, now())`,
    [g, id],
  )
  for (const session of [alone, shared, own]) {
    await chat.publish(session, 'a.b', { who: { was: [id, 'another', g] } }, { id: `p-${session}` })
    await post(zoe, `/v1/sessions/${session}/invites`)
    await sql.query(
      `insert into holdfast.pushes (tenant_id, session_id, about, device, user_id, event, seq, state, due_at)
        values ('default', $1, 'turn', 'app:' || $2, $2, 'message.ai_response', 1, 'sent', now() + interval '1 day')`,
      [session, id],
    )
    await sql.query(
      `insert into holdfast.files (tenant_id, session_id, id, media_type, bytes, author) values ('default', $1, 'f', 'text/plain', 'x', $2)`,
      [session, id],
    )
    await sql.query(
      `insert into holdfast.asks (tenant_id, session_id, turn_id, round, step, call_id, kind, id, name, input_hash, used, max, rule,
          attempt, seq, state, expires_at)
        select tenant_id, session_id, id, 1, 0, '', 'budget', 'ask', 'limit', '', 1, 1,
          jsonb_build_object('per', 'user', 'key', $2::text, 'measure', 'tokens', 'max', 1), 1, 1, 'closed', now()
          from holdfast.turns where session_id = $1 order by position limit 1`,
      [session, id],
    )
  }
  await post(zoe, '/v1/realtime/tickets')
  await sql.query(
    `insert into holdfast.devices (tenant_id, user_id, id, kind, address, address_hash) values ('default', $1, 'd', 'expo', '{}', md5($1))`,
    [id],
  )
  await sql.query(`insert into holdfast.limits (tenant_id, user_id) values ('default', $1)`, [id])
  const streams = [alone, shared, own].map(async (session) =>
    (await zoe.request(`/v1/sessions/${session}/events`)).text(),
  )
  await eventually(async () => (await tracesOf(id)).includes('presences'))

  // Whoever makes a table that holds something of a user fills it above.
  expect(await tracesOf(id)).toEqual(
    [
      'asides',
      'asks',
      'departures',
      'devices',
      'events',
      'files',
      'former_members',
      'guests',
      'invites',
      'limits',
      'members',
    ]
      .concat(['messages', 'presences', 'pushes', 'tickets', 'turns', 'usage', 'usage_daily_parts'])
      .sort(),
  )
  const withUsers =
    await rows(`select table_name as name from information_schema.columns c where table_schema = 'holdfast'
    and column_name = 'user_id' and exists (select from information_schema.tables t where t.table_schema = 'holdfast'
      and t.table_name = c.table_name and t.table_type = 'BASE TABLE') order by 1`)
  const filled = await tracesOf(id)
  expect(withUsers.map(({ name }) => name).filter((name) => !filled.includes(String(name)))).toEqual(['erasures'])
  expect(await tracesOf(alone)).toEqual(expect.arrayContaining(['outbox', 'published', 'pushes', 'events', 'usage']))

  // What one says to the assistant alone is in nobody else's export.
  const exported = await (await bob.request(`/v1/sessions/${own}/export`)).text()
  expect([exported.includes('said b1'), exported.includes('said m2')]).toEqual([true, false])

  expect(await removed(id)).toBe(204)
  expect(await tracesOf(id)).toEqual([])
  // That the guest who they were is nobody's for good.
  expect(await tracesOf(g)).toEqual(['guests'])
  await sql.query(`update holdfast.erased set at = at - interval '1 day'`)
  await sql.query('select holdfast.begun_transfers(0, 0)')
  expect(await rows('select from holdfast.erased')).toEqual([])
  expect(await tracesOf(alone)).toEqual(['deleted_sessions', 'usage'])
  expect(await rows('select * from holdfast.usage_differences()')).toEqual([])
  // Also when the connections have ended that they had, and this process has told who is there.
  for (const text of await Promise.all(streams)) expect(text).toContain('gone')
  expect(await tracesOf(id)).toEqual([])
  // What is not theirs alone still goes to the webhook.
  expect((await rows('select from holdfast.outbox where session_id = $1', [shared])).length).toBeGreaterThan(0)
})

test('of a user who is called as a word of the log is, no word of it is renamed, and no key of the app’s (P237)', async () => {
  const [user, bob] = [await apiOf(url, 'user'), await apiOf(url, 'bob')]
  const session = fresh('words')
  await said(user, session, 'm1')
  await chat.members.add(session, { userId: 'bob' })
  await chat.publish(session, 'a.b', { user: 'another', who: 'user' })
  expect(await removed('user')).toBe(204)
  const { frames } = await bob.poll(session, {})
  const [created, published] = ['message.created', 'a.b'].map(
    (type) => frames.find((frame) => frame.type === type)!.data,
  )
  expect(created.message).toMatchObject({ role: 'user', author: expect.stringMatching(/^deleted-/) })
  expect(published).toEqual({ user: 'another', who: created.message.author })
})

test('a deletion beside a merge, an import, replies that are written and another deletion leaves nothing (P231, P233, P237)', async () => {
  const id = fresh('yan')
  const [yan, visitor] = [await apiOf(url, id), fresh('visitor')]
  const guestApi = await apiOf(url, visitor)
  const [one, two] = [fresh('one'), fresh('two')]
  for (const session of [one, two]) await said(guestApi, session, 'm1')
  // A process that merges has come so far, and goes on when the user is gone.
  await sql.query('select holdfast.claim_guest($1, $2, $3)', ['default', visitor, id])
  await sql.query('select holdfast.merge_session($1, $2, $3, $4)', ['default', one, visitor, id])
  mayEnd = gate()
  const own = [fresh('own'), fresh('with-bob')]
  try {
    for (const session of own) {
      await yan.createSession(session)
      await yan.send(session, 'said', 'm1')
    }
    await chat.members.add(own[1]!, { userId: 'bob' })
    await eventually(
      async () =>
        (await rows(`select from holdfast.turns where session_id = any($1) and state = 'running'`, [own])).length === 2,
    )
    expect(await Promise.all([removed(id), removed(id)])).toEqual([204, 204])
  } finally {
    mayEnd.open()
    mayEnd = undefined
  }
  const moved = await rows(`select holdfast.merge_session('default', $1, $2, $3) as answer`, [two, visitor, id])
  expect(moved).toEqual([{ answer: { outcome: 'same' } }])
  expect([await tracesOf(id), await rows(`select from holdfast.members where user_id like 'deleted-%'`)]).toEqual([
    [],
    [],
  ])
  expect((await tracesOf(one)).concat(await tracesOf(two))).toEqual([
    'deleted_sessions',
    'usage',
    'deleted_sessions',
    'usage',
  ])
  await eventually(async () => (await rows(`select from holdfast.usage where state = 'open'`)).length === 0)
  expect(await rows('select * from holdfast.usage_differences()')).toEqual([])

  const stored = [fresh('first'), fresh('second')]
  let deleted: Promise<number> | undefined
  onTestFinished(
    onPoint('import-session-stored', async () => {
      deleted ??= removed(id)
      await deleted
    }),
  )
  const answer = await post(yan, '/v1/import', { rows: stored.map((session) => ({ type: 'session', id: session })) })
  expect(await answer.json()).toMatchObject({
    new: 1,
    bad: [{ id: stored[1], error: 'Whose it is was deleted meanwhile.' }],
  })
  expect(await deleted).toBe(204)
  expect(await tracesOf(id)).toEqual([])
})
