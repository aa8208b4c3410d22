/** Sessions over HTTP: made, listed, paged through, renamed, deleted. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Api, type ApiError, apiOf, type Snapshot } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProvider } from '../support/provider.mjs'
import { startServer, type TestServer } from '../support/server.ts'
import { openTables, type Tables } from './tables.ts'

let database: Awaited<ReturnType<typeof freshDatabase>>
let provider: Awaited<ReturnType<typeof startProvider>>
let server: TestServer
let tables: Tables
let ann: Api
let zoe: Api

beforeEach(async () => {
  database = await freshDatabase(18)
  provider = await startProvider()
  server = await startServer({ database: database.url, provider: provider.url, env: { HOLDFAST_POLL_MS: '200' } })
  tables = await openTables(database.url)
  ann = await apiOf(server.url)
  zoe = await apiOf(server.url, 'zoe')
})
afterEach(async () => {
  await tables.close()
  await server.kill()
  expect(server.lines.filter((line) => line.includes('"internal"'))).toEqual([])
  await provider.stop()
  await database.drop()
})

type Session = Snapshot['session'] & { metadata: object; createdAt: string; updatedAt: string; unread: number }
type Page = { data: Session[]; before: string | null; after: string | null }
const json = (body: unknown, method = 'POST'): RequestInit => ({ method, body: JSON.stringify(body) })
const answer = async <T>(response: Response | Promise<Response>) => (await (await response).json()) as T
const statusOf = async (api: Api, path: string, init?: RequestInit) => (await api.request(path, init)).status

test('create answers 201 and where the session is, 200 for the caller’s own id, 422 for somebody else’s (P20)', async () => {
  const created = await ann.request(
    '/v1/sessions',
    json({ id: 'one', title: 'First', metadata: { topic: ['a', null, 1.5] } }),
  )
  expect([created.status, created.headers.get('location')]).toEqual([201, '/v1/sessions/one'])
  const session = await answer<Session>(created)
  expect(session).toEqual({
    id: 'one',
    title: 'First',
    metadata: { topic: ['a', null, 1.5] },
    createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    updatedAt: session.createdAt,
    messageCount: 0,
    totalTokens: 0,
    lastPreview: null,
    lastModel: null,
    unread: 0,
  })
  const again = await ann.request('/v1/sessions', json({ id: 'one', title: 'Second' }))
  expect([again.status, await answer(again)]).toEqual([200, session])
  const foreign = await zoe.request('/v1/sessions', json({ id: 'one' }))
  expect([foreign.status, (await answer<{ code: string }>(foreign)).code]).toEqual([422, 'id_conflict'])
  const elsewhere = await apiOf(server.url, 'ann', 'other')
  expect(await statusOf(elsewhere, '/v1/sessions', json({ id: 'one' }))).toBe(201)
  expect((await answer<Session>(ann.request('/v1/sessions', json({})))).id).toMatch(/^[\da-f-]{36}$/)
})

test('a session says how many replies its user has not read, whatever answers it (P20, P21, P22, P25)', async () => {
  const session = await ann.createSession('one')
  const watcher = ann.watch(session)
  for (const id of ['m1', 'm2']) {
    await ann.send(session, 'hi', id)
    await watcher.outcome(id)
  }
  await watcher.close()
  await tables.query(
    "update holdfast.members set read_seq = (select min(told_seq) from holdfast.messages where role = 'assistant')",
  )
  const answers = {
    again: await answer<Session>(ann.request('/v1/sessions', json({ id: session }))),
    renamed: await answer<Session>(ann.request(`/v1/sessions/${session}`, json({ title: 'new' }, 'PATCH'))),
    listed: (await answer<Page>(ann.request('/v1/sessions'))).data[0]!,
    shown: (await ann.snapshot(session)).session as Session,
  }
  const unread = Object.entries(answers).map(([name, each]) => [name, each.unread])
  expect(Object.fromEntries(unread)).toEqual({ again: 1, renamed: 1, listed: 1, shown: 1 })
})

test('ten creates of one id at once make one session, and all are answered with it', async () => {
  const answers = await Promise.all(Array.from({ length: 10 }, () => ann.request('/v1/sessions', json({ id: 'one' }))))
  expect(answers.map(({ status }) => status).sort()).toEqual([...Array(9).fill(200), 201])
  expect(await tables.countsOf('one')).toMatchObject({ sessions: 1, members: 1 })
})

test('a walk through the pages of sessions sees each once, last changed first, and nobody else’s (P21, I15)', async () => {
  const ids = ['a', 'b', 'c', 'd', 'e']
  for (const id of ids) await ann.createSession(id)
  await zoe.createSession('z')
  // All in one millisecond, some in one microsecond: places are exact.
  await tables.query(`update holdfast.sessions set updated_at = date_trunc('second', now())
      + case when id in ('b', 'd') then interval '3 microseconds' else interval '1 microsecond' end`)
  const seen: string[] = []
  let before: string | null = null
  do {
    const query: string = before === null ? '?limit=2' : `?limit=2&before=${before}`
    const page: Page = await answer<Page>(ann.request(`/v1/sessions${query}`))
    seen.push(...page.data.map(({ id }) => id))
    expect(page.data.length).toBeGreaterThan(0)
    before = page.before
  } while (before !== null)
  expect(seen).toEqual(['d', 'b', 'e', 'c', 'a'])
})

test('changedSince lists what was changed after it: renamed, written to, answered (P21)', async () => {
  for (const id of ['a', 'b', 'c']) await ann.createSession(id)
  await tables.query("update holdfast.sessions set updated_at = now() - interval '1 hour'")
  const since = new Date(Date.now() - 60_000).toISOString()
  const changed = async () => (await answer<Page>(ann.request(`/v1/sessions?changedSince=${since}`))).data
  expect(await changed()).toEqual([])
  await ann.request('/v1/sessions/c', json({ title: 'new' }, 'PATCH'))
  const watcher = ann.watch('a')
  await ann.send('a', 'hi', 'm1')
  await watcher.outcome('m1')
  await watcher.close()
  expect(
    (await changed()).map(({ id, lastPreview, messageCount, unread }) => [id, lastPreview, messageCount, unread]),
  ).toEqual([
    ['a', 'Hello from the stub.', 2, 1],
    ['c', null, 0, 0],
  ])
  const offset = encodeURIComponent(since.replace('Z', '+00:00'))
  expect((await answer<Page>(ann.request(`/v1/sessions?changedSince=${offset}`))).data).toHaveLength(2)
})

test('a rename is an event of the log, and null takes the title away (P22)', async () => {
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  for (const title of ['Plans', null]) {
    const renamed = await ann.request(`/v1/sessions/${session}`, json({ title }, 'PATCH'))
    expect([renamed.status, (await answer<Session>(renamed)).title]).toEqual([200, title])
    const event = await watcher.until((frame) => frame.type === 'session.updated' && frame.data.session.title === title)
    expect(event.data.session).toMatchObject({ id: session, title })
    expect((await ann.snapshot(session)).session.title).toBe(title)
  }
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('delete takes everything that was said away, tells followers, and later requests find nothing (P23)', async () => {
  const session = await ann.createSession('gone')
  const other = await ann.createSession('kept')
  await ann.send(other, 'stay', 'kept-1')
  let goOn!: () => void
  provider.script([
    { text: 'half a ' },
    {
      wait: new Promise<void>((resolve) => {
        goOn = resolve
      }),
    },
    { text: 'reply' },
  ])
  const watcher = ann.watch(session)
  const file = { type: 'file', mediaType: 'text/plain', url: 'data:text/plain,hello' }
  await ann.send(session, '', 'm1', { text: undefined, parts: [file] })
  expect(await tables.countsOf(session)).toMatchObject({ files: 1 })
  await watcher.until(({ type }) => type === 'chunk')
  expect(
    await tables.query('select count(*)::int as n from holdfast.chunks c join holdfast.turns t on t.id = c.turn_id'),
  ).not.toEqual([{ n: 0 }])
  // It may come after the delete: then there is no such session.
  const polling = ann.poll(session, { cursor: 'now', wait: 20 }).then(
    ({ frames }) => frames,
    ({ problem }: { problem: { code: string } }) => problem.code,
  )

  expect(await statusOf(ann, `/v1/sessions/${session}`, { method: 'DELETE' })).toBe(204)
  expect(await watcher.until(({ type }) => type === 'reset')).toEqual({ type: 'reset', reason: 'gone' })
  // It comes back, is told 404, and is told nothing else.
  await eventually(async () => watcher.connections > 2)
  await watcher.close()
  expect(['not_found', [{ type: 'reset', reason: 'gone' }]]).toContainEqual(await polling)
  expect(await tables.countsOf(session)).toEqual({
    sessions: 0,
    members: 0,
    messages: 0,
    turns: 0,
    events: 0,
    files: 0,
  })
  for (const [path, init] of [
    ['', {}],
    ['', { method: 'DELETE' }],
    ['', json({ title: 'x' }, 'PATCH')],
    ['/events', {}],
    ['/messages', {}],
    ['/messages', json({ id: 'm2', text: 'x' })],
    ['/messages/m1/stop', json({})],
  ] as const) {
    expect([path, await statusOf(ann, `/v1/sessions/${session}${path}`, init)]).toEqual([path, 404])
  }

  // The attempt that was running finds its turn gone and writes nothing. The id is not used again, by anybody: an old
  // cursor would fit the new log, and miss what stands before it (I5).
  goOn()
  for (const user of [ann, await apiOf(server.url, 'somebody-else')]) {
    expect(await statusOf(user, '/v1/sessions', json({ id: 'gone' }))).toBe(422)
  }
  expect(
    await tables.query(
      'select count(*)::int as n from holdfast.chunks c where not exists (select from holdfast.turns t where t.id = c.turn_id)',
    ),
  ).toEqual([{ n: 0 }])
  expect((await ann.snapshot('kept')).messages).toHaveLength(2)
})

test('whoever is no member any more stops hearing of the session (I15)', async () => {
  const session = await ann.createSession()
  await tables.query(
    "insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, 'zoe', 'reader')",
    [session],
  )
  const hers = zoe.watch(session)
  await hers.until(({ type }) => type === 'caught-up')
  await tables.query("delete from holdfast.members where user_id = 'zoe'")
  expect(await hers.until(({ type }) => type === 'reset')).toEqual({ type: 'reset', reason: 'gone' })
  await ann.send(session, 'for members only', 'm1')
  await hers.close()
  expect(hers.frames.filter(({ type }) => type === 'message.created')).toEqual([])
})

test.each<[when: string, env: Record<string, string>, harm: string]>([
  ['polls rarely', { HOLDFAST_POLL_MS: '10000' }, 'select'],
  ['cannot read the epoch', {}, 'alter table holdfast.meta rename to away'],
])('whoever is no member any more is gone within 5 s although the server %s (I15)', async (_, env, harm) => {
  const other = await startServer({ database: database.url, env: { HOLDFAST_ROLES: 'http', ...env } })
  const session = await ann.createSession()
  await tables.query(
    "insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, 'zoe', 'reader')",
    [session],
  )
  const hers = (await apiOf(other.url, 'zoe')).watch(session)
  await hers.until(({ type }) => type === 'caught-up')
  await tables.query(harm)
  await tables.query("delete from holdfast.members where user_id = 'zoe'")
  expect(await hers.until(({ type }) => type === 'reset', 5_000)).toEqual({ type: 'reset', reason: 'gone' })
  await hers.close()
  await other.kill()
})

test('history pages walk back and forth over every message once, and a snapshot is the last page (P24)', async () => {
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  for (let at = 1; at <= 4; at++) {
    await ann.send(session, `message ${at}`, `m${at}`)
    await watcher.outcome(`m${at}`)
  }
  await watcher.close()
  const whole = (await ann.snapshot(session)).messages.map(({ id }) => id)
  expect(whole).toHaveLength(8)
  type Messages = { data: { id: string }[]; before: string | null; after: string | null }
  const page = (query: string) => answer<Messages>(ann.request(`/v1/sessions/${session}/messages?limit=3${query}`))

  let back: string[] = []
  let at: Messages = await page('')
  expect(at.after).toBeNull()
  let first = at.before
  for (;;) {
    back = [...at.data.map(({ id }) => id), ...back]
    if (at.before === null) break
    first = at.before
    at = await page(`&before=${at.before}`)
  }
  expect(back).toEqual(whole)

  const forth: string[] = []
  for (let after: string | null = '0u'; after !== null; ) {
    const next: Messages = await page(`&after=${after}`)
    forth.push(...next.data.map(({ id }) => id))
    after = next.after
  }
  expect(forth).toEqual(whole)

  const snapshot = await answer<Snapshot>(ann.request(`/v1/sessions/${session}?limit=3`))
  expect(snapshot.messages.map(({ id }) => id)).toEqual(whole.slice(-3))
  expect((await page(`&before=${snapshot.before}`)).data.map(({ id }) => id)).toEqual(whole.slice(2, 5))
  expect(first).not.toBeNull()
})

test('a long poll answers what is there at once, waits for what is not, and goes on from its cursor (P43)', async () => {
  const session = await ann.createSession()
  expect(await ann.poll(session, {})).toMatchObject({ frames: [] })
  await ann.send(session, 'hi', 'm1')
  const seen: string[] = []
  let cursor: string | undefined
  while (!seen.includes('message.ai_response')) {
    const polled: { frames: { type: string; after?: string }[]; cursor: string } = await ann.poll(session, {
      wait: 20,
      ...(cursor && { cursor }),
    })
    if (cursor !== undefined && polled.frames.length > 0) expect(polled.frames[0]!.after).toBe(cursor)
    seen.push(...polled.frames.map(({ type }) => type))
    cursor = polled.cursor
  }
  expect(seen.filter((type) => type !== 'chunk')).toEqual(['message.created', 'attempt.started', 'message.ai_response'])
  const nothing = await ann.poll(session, { ...(cursor && { cursor }), wait: 0 })
  expect(nothing).toEqual({ frames: [], cursor })
  await expect(ann.poll('missing', {})).rejects.toMatchObject({ problem: { status: 404 } } satisfies
    | Partial<ApiError>
    | object)
})
