/** Conversations come in and go out: P233 to P235. */
import { expect, onTestFinished, test } from 'vitest'
import { limits } from '../../src/core/limits.ts'
import { textOf } from '../../src/core/parts.ts'
import type { HoldfastOptions } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { startServer } from '../support/server.ts'

type Row = Record<string, unknown>
type Imported = {
  new: number
  known: number
  waiting: number
  passedOver: number
  badCount: number
  bad: { line: number; id?: string; error: string }[]
}

const at = (second: number) => new Date(Date.UTC(2024, 0, 1) + second * 1000).toISOString()
const asked = (sessionId: string, n: number, more: Row = {}): Row => ({
  ...{ type: 'message', sessionId, id: `u${n}`, role: 'user', text: `question ${n}`, createdAt: at(n * 10), ...more },
})
const replied = (sessionId: string, n: number, more: Row = {}): Row => ({
  ...{ type: 'message', sessionId, id: `a${n}`, role: 'assistant', text: `answer ${n}`, repliesTo: `u${n}` },
  ...{ createdAt: at(n * 10 + 1), model: 'elsewhere', ...more },
})
const talk = (sessionId: string, pairs: number): Row[] => [
  { type: 'session', id: sessionId, title: `talk ${sessionId}`, metadata: { from: 'elsewhere' }, createdAt: at(0) },
  ...Array.from({ length: pairs }, (_, n) => [asked(sessionId, n), replied(sessionId, n)]).flat(),
]

async function importInto(api: Api, rows: Row[], isLines = false): Promise<Imported> {
  const response = await api.request('/v1/import', {
    method: 'POST',
    body: isLines ? rows.map((row) => JSON.stringify(row)).join('\n') : JSON.stringify({ rows }),
    headers: { 'content-type': isLines ? 'application/x-ndjson' : 'application/json' },
  })
  expect({ status: response.status, text: response.status === 200 ? '' : await response.text() }).toEqual({
    status: 200,
    text: '',
  })
  return (await response.json()) as Imported
}
const counts = ({ bad: _bad, ...rest }: Imported) => rest
const all = (n: number) => ({ new: n, known: 0, waiting: 0, passedOver: 0, badCount: 0 })
const none = (n: number) => ({ ...all(0), known: n })

async function inPieces(rows: Row[], each: number, take: (rows: Row[]) => Promise<unknown>): Promise<void> {
  for (let from = 0; from < rows.length; from += each) await take(rows.slice(from, from + each))
}

/** A fixed order that mixes all of it. */
function shuffled<T>(values: T[]): T[] {
  let seed = 7
  return values
    .map((value) => {
      seed = (seed * 48_271) % 2_147_483_647
      return { value, seed }
    })
    .sort((a, b) => a.seed - b.seed)
    .map(({ value }) => value)
}

/** All that is shown of a user's imported messages, and in what order. */
async function stored(database: string, userId: string): Promise<unknown[]> {
  return await queryOnce(
    database,
    `select m.session_id, m.id, m.role, m.parts, m.metadata, m.replies_to, m.parent, m.shown, m.chosen, m.position, m.created_at,
        m.model, m.turn_id is not null as has_turn, s.title, s.metadata as about, s.message_count, s.created_at as begun,
        s.last_preview, s.input_tokens, s.output_tokens
       from holdfast.messages m join holdfast.sessions s on s.id = m.session_id
       join holdfast.members o on o.session_id = s.id and o.user_id = $1
      order by m.session_id, m.position, m.role desc`,
    [userId],
  )
}

async function open(options: Partial<HoldfastOptions> = {}) {
  const chat = await openChat({ limits: { sendsPerMinute: 0 }, ...options })
  const ledger = () => queryOnce(chat.database, 'select from holdfast.usage')
  return { ...chat, ledger }
}

const sessionsOf = (prefix: string) => Array.from({ length: 10 }, (_, n) => `${prefix}${n}`)
const withoutPrefix = (rows: unknown[]) =>
  JSON.parse(JSON.stringify(rows).replaceAll(/("|talk )[xy](\d)(?=")/g, '$1$2')) as unknown[]

test('10,000 messages, imported once, twice, shuffled and interrupted, are the same rows, and none in the ledger (P233, I12)', async () => {
  const { url, database, ledger } = await open()
  const [once, mixed] = [await apiOf(url, 'once'), await apiOf(url, 'mixed')]
  const rows = sessionsOf('x').flatMap((id) => talk(id, 500))
  expect(rows.filter(({ type }) => type === 'message')).toHaveLength(10_000)
  const told: Imported[] = []
  await inPieces(rows, 1_000, async (piece) => told.push(await importInto(once, piece)))
  expect(told.map(counts)).toEqual(told.map((_, n) => all(n === 10 ? 10 : 1_000)))
  const first = await stored(database, 'once')
  await inPieces(rows, 1_000, async (piece) =>
    expect(counts(await importInto(once, piece))).toEqual(none(piece.length)),
  )
  expect(await stored(database, 'once')).toEqual(first)

  // Each request has some of every session: replies before their messages, messages before their sessions. The first one's
  // process is killed in the middle of it.
  const other = shuffled(sessionsOf('y').flatMap((id) => talk(id, 500)))
  const dying = await startServer({ database, points: ['import-session-stored:4:kill'] })
  await expect(importInto(await apiOf(dying.url, 'mixed'), other.slice(0, 1_000))).rejects.toThrow('fetch failed')
  expect(await queryOnce(database, `select from holdfast.members where user_id = 'mixed'`)).toHaveLength(4)
  await inPieces(other, 1_000, (piece) => importInto(mixed, piece, true))
  expect(withoutPrefix(await stored(database, 'mixed'))).toEqual(withoutPrefix(first))
  expect(await ledger()).toEqual([])
})

test('a session that is imported without metadata has none, as one that was made here (P233)', async () => {
  const { ann } = await open()
  await importInto(ann, [{ type: 'session', id: 'bare', title: 'Bare' }, asked('bare', 1)])
  const [line] = (await (await ann.request('/v1/sessions/bare/export')).text()).split('\n')
  const { title, metadata } = JSON.parse(line!)
  expect({ title, metadata }).toEqual({ title: 'Bare', metadata: {} })
})

test('a bad row is named with its line and what is wrong, and keeps no other out (P234)', async () => {
  const { ann, url, session } = await open()
  await ann.send(session, 'said here', 'live')
  const bob = await apiOf(url, 'bob')
  const bobs = await bob.createSession()
  const rows: [Row, string?][] = [
    [asked('s', 1)],
    [{ ...asked('s', 2), role: 'system' }, '"role": expected "user" or "assistant"'],
    [{ ...asked('s', 3), isAdmin: true }, 'The row: Unrecognized key'],
    [
      { ...replied('s', 1), id: 'tool', parts: [{ type: 'tool-pay', state: 'output-available' }], text: undefined },
      'expected a part of type "text" or "file"',
    ],
    [{ ...replied('s', 1), repliesTo: null, id: 'x' }, '"repliesTo"'],
    [{ ...asked('s', 4), createdAt: 'yesterday' }, '"createdAt": expected an ISO 8601 time'],
    [asked(bobs, 5), 'This session is not yours'],
    [replied(session, 6, { repliesTo: 'live' }), 'only this server gives replies'],
    [{ ...asked('s', 1), text: 'another text' }, 'Another message of this session has this id'],
    [{ ...asked('s', 9), text: 'a\u0000b' }, 'Text must be valid Unicode'],
    [{ type: 'member', id: 'm' }, '"type": expected "session" or "message"'],
    [replied('s', 1)],
    [{ ...asked('s', 7), metadata: { imported: false, mine: 1 } }],
  ]
  const answer = await importInto(
    ann,
    rows.map(([row]) => row),
    true,
  )
  expect(answer.bad).toEqual(
    rows.flatMap(([{ id }, error], n) =>
      error === undefined
        ? []
        : [{ line: n + 1, ...(id === undefined ? {} : { id }), error: expect.stringContaining(error) }],
    ),
  )
  expect(counts(answer)).toMatchObject({ new: 3, badCount: 10 })
  const { messages } = await ann.snapshot('s')
  expect(messages.map(({ id, metadata }) => [id, metadata])).toEqual([
    ['u1', { imported: true }],
    ['a1', { imported: true }],
    ['u7', { imported: true, mine: 1 }],
  ])
  expect((await bob.snapshot(bobs)).messages).toEqual([])
  for (const [body, type, status] of [
    ['{"rows":[]}', 'text/plain', 400],
    ['{"rows":{}}', 'application/json', 400],
    [JSON.stringify({ rows: Array.from({ length: 1_001 }, () => 1) }), 'application/json', 413],
    ['x'.repeat(4 * 1024 * 1024 + 1), 'application/x-ndjson', 413],
  ] as const) {
    const refused = await ann.request('/v1/import', { method: 'POST', body, headers: { 'content-type': type } })
    expect(refused.status).toBe(status)
  }
})

test('what is imported stands before what was said here, is shown to who follows, and the model is told it with its mark (P233, I13)', async () => {
  const prompts: string[][] = []
  const { ann, session, watcher } = await open({
    reply: ({ messages }) => {
      prompts.push(
        messages.map(({ parts, metadata }) => `${textOf(parts)}${(metadata as Row | null)?.imported ? ' *' : ''}`),
      )
      return 'the answer'
    },
  })
  await ann.send(session, 'here', 'h1')
  await watcher.outcome('h1')
  await importInto(ann, [replied(session, 2), asked(session, 2)])
  await importInto(ann, [asked(session, 1), replied(session, 1)])
  await watcher.until(({ type, seq }) => type === 'branch.selected' && seq > 3)
  const shown = async () => (await ann.snapshot(session)).messages.map(({ parts }) => textOf(parts))
  expect(await shown()).toEqual(['question 1', 'answer 1', 'question 2', 'answer 2', 'here', 'the answer'])
  expect((await ann.snapshot(session)).session).toMatchObject({ messageCount: 6, unread: 1 })
  const page = async (query: string) =>
    (await (await ann.request(`/v1/sessions/${session}/messages?${query}`)).json()) as {
      data: Row[]
      before: string
      after: string
    }
  const last = await page('limit=3')
  expect((await page(`limit=3&before=${last.before}`)).data.map(({ id }) => id)).toEqual(['u1', 'a1', 'u2'])

  await ann.send(session, 'and now', 'h2')
  await watcher.outcome('h2')
  expect(prompts[1]).toEqual([
    'question 1 *',
    'answer 1 *',
    'question 2 *',
    'answer 2 *',
    'here',
    'the answer',
    'and now',
  ])
  // Another reply to an imported message is one of this server's, told live as all are.
  await ann.command(session, 'u1', 'regenerate', { id: 'r1' })
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.id === 'r1')
  expect(prompts[2]).toEqual(['question 1 *'])
  expect(await shown()).toEqual(['question 1', 'the answer'])
  // What comes in later changes nothing of that choice.
  await importInto(ann, [asked(session, 0), replied(session, 0)])
  expect(await shown()).toEqual(['question 0', 'answer 0', 'question 1', 'the answer'])
  await ann.command(session, 'a1', 'select')
  expect((await shown()).slice(2, 5)).toEqual(['question 1', 'answer 1', 'question 2'])
  expect(watcher.problems).toEqual([])
})

test('an export is imported again as it was, by its user alone, and says what an import passes over (P235)', async () => {
  const { ann, url, session, watcher } = await open({
    reply: async function* () {
      yield { type: 'reasoning-start', id: 'r' } as const
      yield { type: 'reasoning-delta', id: 'r', delta: 'hm' } as const
      yield { type: 'reasoning-end', id: 'r' } as const
      yield { type: 'text-start', id: 't' } as const
      yield { type: 'text-delta', id: 't', delta: 'the answer' } as const
      yield { type: 'text-end', id: 't' } as const
      yield { type: 'finish' } as const
    },
  })
  for (const id of ['m1', 'm2']) {
    await ann.send(session, `said ${id}`, id)
    await watcher.outcome(id)
  }
  await importInto(ann, talk('other', 30))
  const linesOf = async (api: Api, path: string) => {
    const response = await api.request(path)
    expect(response.headers.get('content-type')).toBe('application/x-ndjson')
    return (await response.text())
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Row)
  }
  const own = await linesOf(ann, `/v1/sessions/${session}/export`)
  expect(own.map(({ type, role }) => [type, role])).toEqual([
    ['session', 'owner'],
    ['message', 'user'],
    ['message', 'assistant'],
    ['message', 'user'],
    ['message', 'assistant'],
  ])
  expect(own[2]).toMatchObject({ parts: [{ type: 'text', text: 'the answer' }], status: 'complete' })
  expect(JSON.stringify(own[2]!.otherParts)).toContain('hm')
  const lines = await linesOf(ann, '/v1/export')
  expect(lines).toHaveLength(5 + 61)

  const bob = await apiOf(url, 'bob')
  expect(await linesOf(bob, '/v1/export')).toEqual([])
  const moved = JSON.parse(JSON.stringify(lines).replaceAll(session, 'copy').replaceAll('"other"', '"copy2"')) as Row[]
  expect(counts(await importInto(bob, moved, true))).toEqual(all(66))
  const again = await linesOf(bob, '/v1/export')
  const bare = (rows: Row[]) =>
    rows
      .map(({ type, id, role, parts, createdAt, repliesTo, title }) => ({
        type,
        id,
        role,
        parts,
        createdAt,
        repliesTo,
        title,
      }))
      .sort((a, b) => (String(a.id) < String(b.id) ? -1 : 1))
  const times = (rows: Row[]) => bare(rows).map((row) => (row.type === 'session' ? { ...row, createdAt: null } : row))
  expect(times(again)).toEqual(times(moved))
  expect(counts(await importInto(bob, again, true))).toEqual(none(66))
})

test('a user imports so many new rows in a day, and hears when more are taken; what is known is not counted (P236)', async () => {
  const { ann, url, database } = await open()
  await importInto(ann, talk('s', 2))
  expect(await queryOnce(database, 'select imported from holdfast.limits')).toEqual([{ imported: 5 }])
  await importInto(ann, talk('s', 2))
  await queryOnce(database, 'update holdfast.limits set imported = imported + $1', [limits.importedRowsOfDayMax - 6])
  const more = [asked('t', 1), asked('u', 1)]
  const refused = await ann.request('/v1/import', { method: 'POST', body: JSON.stringify({ rows: more }) })
  expect([refused.status, await refused.json()]).toEqual([
    429,
    expect.objectContaining({
      code: 'rate_limited',
      detail: expect.stringMatching(/^At most 100,000 new rows/),
      retryable: true,
    }),
  ])
  const waitS = Number(refused.headers.get('retry-after'))
  expect(waitS).toBeGreaterThan(0)
  expect(waitS).toBeLessThanOrEqual(86_400)
  expect(refused.headers.get('ratelimit')).toMatch(/^"imported-rows";r=0;t=\d+$/)
  // The first of the two was taken, and nobody else is held up.
  expect((await ann.snapshot('t')).messages).toHaveLength(1)
  expect(counts(await importInto(await apiOf(url, 'bob'), [asked('v', 1)]))).toEqual(all(1))
  await queryOnce(database, `update holdfast.limits set imported_on = imported_on - 1 where user_id = 'ann'`)
  expect(counts(await importInto(ann, more))).toEqual({ ...all(1), known: 1 })
  expect(await queryOnce(database, `select imported from holdfast.limits where user_id = 'ann'`)).toEqual([
    { imported: 2 },
  ])
})

test('lists that are open hear of an imported session', async () => {
  const { ann } = await open()
  const heard = new AbortController()
  onTestFinished(() => heard.abort())
  const response = await ann.request('/v1/events?list=1', { signal: heard.signal })
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  void (async () => {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      text += value
    }
  })().catch(() => undefined)
  await eventually(async () => text !== '')
  await importInto(ann, talk('fresh', 1))
  await eventually(async () => text.includes('session.changed') && text.includes('fresh'))
})
