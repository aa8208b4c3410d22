/** What the server makes of input that nobody should send. Only 2xx and 4xx are answers to it, and a 4xx changes nothing. */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { connect, type Socket } from 'node:net'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { limits } from '../../src/core/limits.ts'
import { type Api, apiOf, type Problem } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProvider } from '../support/provider.mjs'
import { startServer, type TestServer, tokenOf } from '../support/server.ts'
import { openTables, type Tables } from './tables.ts'

type Place = { server: TestServer; ann: Api; session: string; tables: Tables }

/** A server that runs no replies, so that nothing changes but by the requests, and ann's session with message `m1`. */
async function withPlace(check: (place: Place) => Promise<void>): Promise<void> {
  const database = await freshDatabase(18)
  const server = await startServer({ database: database.url, env: { HOLDFAST_ROLES: 'http' } })
  const tables = await openTables(database.url)
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  await ann.send(session, 'hello', 'm1')
  await check({ server, ann, session, tables })
  // Still the process that was started, and it ends as it should.
  expect(await server.stop()).toBe(0)
  expect(server.lines.filter((line) => line.includes('"internal"'))).toEqual([])
  await tables.close()
  await database.drop()
}

const secret = 'SECRET-7e1'
const json = { 'content-type': 'application/json' }
const post = (body: unknown, method = 'POST'): RequestInit => ({ method, headers: json, body: JSON.stringify(body) })
const raw = (body: BodyInit, headers: Record<string, string> = json): RequestInit => ({ method: 'POST', headers, body })
const deep = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`
/** A body whose length is not announced; a new one each time that the request is made. */
const chunked = (bytes: number): RequestInit & { duplex: 'half' } => ({
  method: 'POST',
  headers: json,
  duplex: 'half',
  get body() {
    let left = bytes
    return new ReadableStream<Uint8Array>({
      pull(controller) {
        if (left <= 0) return controller.close()
        controller.enqueue(new Uint8Array(Math.min(left, 16_384)).fill(32))
        left -= 16_384
      },
    })
  },
})
const place = (at: string, id = 's') => Buffer.from(JSON.stringify([at, id])).toString('base64url')

/** Route, what is wrong with it, the request, and what the answer's `detail` has to say. */
type Bad = [path: string, what: string, init: RequestInit, detail: RegExp, status?: number]
const send = '/v1/sessions/:s/messages'
/** As the URL of a file in a message. */
const fileUrls: [what: string, url: string, detail: RegExp, status?: number][] = [
  ['a data URL without content', 'data:text/plain', /"parts.1.url": this data: URL cannot be read/],
  ['a data URL that is no base64', `data:text/plain;base64,${secret}!`, /"parts.1.url": this data: URL cannot be read/],
  ['a data URL that was cut', 'data:text/plain;base64,aGVsb', /"parts.1.url": this data: URL cannot be read/],
  ['a data URL with broken escapes', 'data:text/plain,%F', /"parts.1.url": this data: URL cannot be read/],
  ['a data URL whose type is none', 'data:text,hello', /"parts.1.url": this data: URL cannot be read/],
  ['a data URL of nothing', 'data:text/plain,', /"parts.1.url": the file is empty/],
  ['a data URL of another type', 'data:text/html;base64,aGk=', /"parts.1.mediaType": expected the type that/],
  [
    'a file of another session',
    `/v1/sessions/other/files/${'a'.repeat(43)}`,
    /"parts.1.url": this session has no such file/,
  ],
  ['a path that is no file’s', '/v1/sessions', /"parts.1.url": expected an http/],
  ['a file on another host', `//evil.example/v1/sessions/s/files/${'a'.repeat(43)}`, /"parts.1.url": expected an http/],
]
const bad: Bad[] = [
  [send, 'no body', { method: 'POST', headers: json }, /not valid JSON/],
  [send, 'no JSON', raw(`{"id":"${secret}"`), /not valid JSON/],
  [send, 'null', post(null), /expected object, received null/],
  [send, 'an array', post([]), /expected object, received array/],
  [send, 'a text', post(secret), /expected object, received string/],
  [send, 'no id', post({ text: secret }), /"id".*expected string/],
  [send, 'an id that is a number', post({ id: 7, text: 'x' }), /"id".*expected string, received number/],
  [send, 'an empty id', post({ id: '', text: 'x' }), /"id": expected 1 to 128 of/],
  [send, 'an id with a space', post({ id: `a ${secret}`, text: 'x' }), /"id": expected 1 to 128 of/],
  [send, 'an id that is too long', post({ id: 'x'.repeat(129), text: 'x' }), /"id": expected 1 to 128 of/],
  [send, 'an id that no path can hold', post({ id: '..', text: 'x' }), /"id": expected 1 to 128 of/],
  [send, 'no text', post({ id: 'a' }), /either "text" or "parts"/],
  [send, 'an empty text', post({ id: 'a', text: '' }), /"text".*>=1 characters/],
  [send, 'a text that is a number', post({ id: 'a', text: 5 }), /"text".*expected string, received number/],
  [
    send,
    'text and parts',
    post({ id: 'a', text: secret, parts: [{ type: 'text', text: 'x' }] }),
    /either "text" or "parts"/,
  ],
  [send, 'no parts', post({ id: 'a', parts: [] }), /"parts".*>=1 items/],
  [
    send,
    'too many parts',
    post({ id: 'a', parts: Array(65).fill({ type: 'text', text: 'x' }) }),
    /"parts".*<=64 items/,
  ],
  [
    send,
    'a part of the assistant',
    post({ id: 'a', parts: [{ type: 'tool-x', output: secret }] }),
    /"parts.0.*"text" or "file"/,
  ],
  [send, 'a part that is a text', post({ id: 'a', parts: [secret] }), /"parts.0"/],
  [send, 'a part with a state', post({ id: 'a', parts: [{ type: 'text', text: 'x', state: 'done' }] }), /"state"/],
  [
    send,
    'a file that is a script',
    post({ id: 'a', parts: [{ type: 'file', mediaType: 'text/html', url: `javascript:${secret}` }] }),
    /"parts.0.url": expected an http or https URL/,
  ],
  ...[
    'role',
    'status',
    'author',
    'seq',
    'error',
    'lane',
    'audience',
    'userId',
    'tenantId',
    'createdAt',
    'whatever',
  ].map(
    (key): Bad => [
      send,
      `the server’s own key ${key}`,
      post({ id: 'a', text: 'x', [key]: secret }),
      new RegExp(`"${key}"`),
    ],
  ),
  [send, '__proto__', raw('{"id":"a","text":"x","__proto__":{"role":"assistant"}}'), /"__proto__" is not allowed/],
  [send, '__proto__ deep inside', raw('{"id":"a","text":"x","metadata":{"a":[{"__proto__":1}]}}'), /"__proto__"/],
  [send, 'a NUL', raw(`{"id":"a","text":"${secret}\\u0000"}`), /no NUL/],
  [send, 'a NUL in a key', raw('{"id":"a","text":"x","metadata":{"a\\u0000":1}}'), /no NUL/],
  [send, 'half a character', raw(`{"id":"a","text":"${secret}\\ud83d"}`), /half of a surrogate pair/],
  [send, 'half a character in metadata', raw('{"id":"a","text":"x","metadata":{"a":["\\udc00"]}}'), /half of a/],
  [send, 'a number without end', raw('{"id":"a","text":"x","metadata":{"a":1e999}}'), /1e21/],
  [send, 'a number that is 309 digits in full', raw('{"id":"a","text":"x","metadata":{"a":[1e308]}}'), /1e21/],
  [send, 'a number that is as small', raw('{"id":"a","text":"x","metadata":{"a":-1e-300}}'), /1e-21/],
  [send, 'metadata that is a list', post({ id: 'a', text: 'x', metadata: [1] }), /"metadata".*expected record/],
  [send, 'too deep', raw(`{"id":"a","text":"x","metadata":{"a":${deep(40)}}}`), /nested at most 32 deep/],
  [send, 'absurdly deep', raw(deep(100_000)), /nested at most 32 deep/],
  [send, 'no UTF-8', raw(Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d])), /not valid UTF-8/],
  [send, 'half a UTF-8 character', raw(Buffer.from('{"id":"a","text":"é"}').subarray(0, -3)), /not valid UTF-8/],
  [
    send,
    'a compressed body',
    raw(Buffer.from([0x1f, 0x8b, 8, 0, 0, 0]), { ...json, 'content-encoding': 'gzip' }),
    /UTF-8/,
  ],
  [
    send,
    'a form',
    raw('id=a&text=x', { 'content-type': 'application/x-www-form-urlencoded' }),
    /expected content-type/i,
  ],
  [
    send,
    'plain text',
    raw('{"id":"a","text":"x"}', { 'content-type': 'text/plain' }),
    /application\/json, got "text\/plain"/,
  ],
  [
    send,
    'a type that only begins well',
    raw('{}', { 'content-type': 'application/json-patch+json' }),
    /expected content-type/i,
  ],
  [send, 'no content type', raw('{}', { 'content-type': '' }), /expected content-type application\/json, got none/i],
  [send, 'too many bytes', post({ id: 'a', text: 'x'.repeat(limits.requestBytesMax) }), /at most 262144 bytes/, 413],
  [send, 'too many bytes in chunks', chunked(limits.requestBytesMax + 16_384), /at most 262144 bytes/, 413],
  ...fileUrls.map(([what, url, detail, status = 400]): Bad => {
    const parts = [
      { type: 'text', text: 'look' },
      { type: 'file', mediaType: 'text/plain', url },
    ]
    return [send, what, post({ id: 'a', parts }), detail, status]
  }),
  [
    send,
    'a file of no type',
    post({ id: 'a', parts: [{ type: 'file', mediaType: '', url: 'https://a.example' }] }),
    /"parts.0.mediaType"/,
  ],
  ['/v1/sessions/:s/files', 'no file', raw('', { 'content-type': 'text/plain' }), /file is empty/],
  ['/v1/sessions/:s/files', 'no type', raw('x', { 'content-type': '' }), /content-type that it has, got none/],
  ['/v1/sessions/:s/files', 'a type that is none', raw('x', { 'content-type': 'png' }), /got "png"/],
  [
    '/v1/sessions/:s/files',
    'a form',
    raw('x', { 'content-type': 'multipart/form-data; boundary=x' }),
    /the file itself/,
  ],
  [
    '/v1/sessions/:s/files',
    'a text from another site',
    raw('x', { 'content-type': 'text/plain', 'sec-fetch-site': 'cross-site' }),
    /the file itself/,
  ],
  ['/v1/sessions/:s/files?filename=', 'no name', raw('x', { 'content-type': 'text/plain' }), /"filename"/],
  ['/v1/sessions/:s/files?filename=%00', 'a NUL', raw('x', { 'content-type': 'text/plain' }), /"filename".*NUL/],
  ['/v1/sessions/:s/files/none', 'a file that cannot be', {}, /nothing here/, 404],
  ['/v1/sessions', 'an id with a slash', post({ id: 'a/b' }), /"id": expected 1 to 128 of/],
  ['/v1/sessions', 'a title that is a number', post({ title: 1 }), /"title".*expected string, received number/],
  ['/v1/sessions', 'an empty title', post({ title: '' }), /"title".*>=1 characters/],
  ['/v1/sessions', 'a title that is too long', post({ title: 'x'.repeat(201) }), /"title".*<=200 characters/],
  ['/v1/sessions', 'counters', post({ messageCount: 7 }), /"messageCount"/],
  ['/v1/sessions', 'members', post({ members: [{ userId: 'eve', role: 'owner' }] }), /"members"/],
  ['/v1/sessions/:s', 'no title', post({}, 'PATCH'), /"title".*expected string/],
  ['/v1/sessions/:s', 'metadata in a rename', post({ title: 'x', metadata: {} }, 'PATCH'), /"metadata"/],
  [`${send}/m1/stop`, 'round 0', post({ round: 0 }), /"round".*>=1/],
  [`${send}/m1/retry`, 'a round larger than any', post({ round: 3_000_000_000 }), /"round".*<=2147483647/],
  [`${send}/m1/stop`, 'half a round', post({ round: 1.5 }), /"round".*expected int/],
  [`${send}/m1/stop`, 'a round as text', post({ round: '1' }), /"round".*expected number, received string/],
  [`${send}/m1/stop`, 'who stopped it', post({ by: 'zoe' }), /"by"/],
  ...['0', '-1', '201', '1.5', 'abc', ''].flatMap((limit): Bad[] => [
    [`/v1/sessions/:s?limit=${limit}`, 'a bad limit', {}, /In the query, "limit"/],
    [`${send}?limit=${limit}`, 'a bad limit', {}, /In the query, "limit"/],
    [`/v1/sessions?limit=${limit}`, 'a bad limit', {}, /In the query, "limit"/],
  ]),
  ...['yesterday', '2026-02-30T00:00:00Z', '0000-01-01T00:00:00Z', '0001-01-01T00:00:00%2B23:59', ''].map(
    (time): Bad => [`/v1/sessions?changedSince=${time}`, 'a bad time', {}, /In the query, "changedSince": expected/],
  ),
  ...['x', place('yesterday'), place('2026-02-30 00:00:00+00'), place('2026-01-01 00:00:00+23'), place('', '')].map(
    (before): Bad => [`/v1/sessions?before=${before}`, 'a bad place', {}, /not one that a page of sessions gave/],
  ),
  [`${send}?before=1`, 'a place without its side', {}, /no place that a page of messages gave/],
  [`${send}?after=99999999999u`, 'a place beyond all', {}, /no place that a page of messages gave/],
  [`${send}?after=1u&before=2u`, 'both sides', {}, /"before" or "after", not both/],
  ...['x', 'abc', 'e.1.2', 'e.-1', 'e.1.1:1', 'E.1', 'e.9999999999', `e.1${'.1:1:1'.repeat(65)}`].map(
    (cursor): Bad => [`/v1/sessions/:s/events?cursor=${cursor}`, 'a bad cursor', {}, /cursor cannot be read/],
  ),
  ['/v1/sessions/:s/events', 'a bad Last-Event-ID', { headers: { 'last-event-id': 'x' } }, /cursor cannot be read/],
  ...['-1', '56', 'x', 'Infinity'].map(
    (wait): Bad => [`/v1/sessions/:s/events?wait=${wait}`, 'a bad wait', {}, /In the query, "wait"/],
  ),
  ...['a%20b', '%00', 'x'.repeat(129), '%ff', 'a%2fb', '%F0%9F%98%80'].map(
    (id): Bad => [`/v1/sessions/${id}`, 'an id that cannot be', {}, /nothing here|no such route/, 404],
  ),
]

test('input that is not valid is refused with what was expected, and changes nothing', {
  timeout: 60_000,
}, async () => {
  await withPlace(async ({ ann, session, tables }) => {
    const before = await tables.everything()
    for (const [path, what, init, detail, status = 400] of bad) {
      const response = await ann.request(path.replace(':s', session), init)
      const problem = await problemOf(response)
      expect({ path, what, status: problem.status, detail: problem.detail }).toEqual({
        path,
        what,
        status,
        detail: expect.stringMatching(detail),
      })
      expect(JSON.stringify(problem)).not.toContain(secret)
    }
    expect(await tables.everything()).toEqual(before)
  })
})

/** The whole document, or what is wrong with it. */
async function problemOf(response: Response): Promise<Problem> {
  const text = await response.text()
  expect({ status: response.status, type: response.headers.get('content-type'), text }).toMatchObject({
    type: 'application/problem+json',
  })
  const problem = JSON.parse(text) as Problem
  expect(problem).toMatchObject({
    type: `urn:holdfast:${problem.code}`,
    title: expect.stringMatching(/./),
    status: response.status,
    detail: expect.stringMatching(/^[A-Z"].*\.$/s),
    retryable: expect.any(Boolean),
    requestId: expect.stringMatching(/^[\da-f-]{36}$/),
  })
  return problem
}

const nasty = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    '',
    '\0',
    '\ud800',
    '__proto__',
    'constructor',
    'a'.repeat(300),
    '٣',
    'm1',
    '2026-01-01T00:00:00Z',
    'now',
  ),
)
const keys = fc.constantFrom(
  'id',
  'text',
  'parts',
  'metadata',
  'title',
  'round',
  'role',
  'status',
  'constructor',
  'toString',
)
const bodies = fc.oneof(
  fc.json({ depthSize: 'medium' }),
  fc
    .dictionary(fc.oneof(keys, nasty), fc.oneof(nasty, fc.jsonValue(), fc.double(), fc.bigInt().map(Number)))
    .map((body) => JSON.stringify(body)),
  fc.record({ id: nasty, text: nasty, metadata: fc.jsonValue() }).map((body) => JSON.stringify(body)),
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
)
const queries = fc.dictionary(
  fc.constantFrom('limit', 'before', 'after', 'changedSince', 'cursor', 'x'),
  fc.oneof(
    nasty,
    fc.integer().map(String),
    fc.base64String(),
    fc.tuple(fc.nat(), fc.nat(), fc.nat()).map((n) => `e.${n.join(':')}`),
  ),
)
const fuzzed: [string, string][] = [
  ['POST', '/v1/sessions'],
  ['PATCH', '/v1/sessions/:s'],
  ['POST', '/v1/sessions/:s/messages'],
  ['POST', '/v1/sessions/:s/messages/m1/regenerate'],
  ['POST', '/v1/sessions/:s/messages/m1/retry'],
  ['POST', '/v1/sessions/:s/messages/m1/stop'],
  ['POST', '/v1/sessions/:s/messages/m1/edit'],
  ['POST', '/v1/sessions/:s/messages/m1/select'],
  ['DELETE', '/v1/sessions/:s'],
  ['GET', '/v1/sessions'],
  ['GET', '/v1/sessions/:s'],
  ['GET', '/v1/sessions/:s/messages'],
  ['GET', '/v1/sessions/:s/events'],
  ['POST', '/v1/sessions/:s/files'],
  ['GET', '/v1/sessions/:s/files'],
  ['GET', '/v1/sessions/:s/files/x'],
]

test('whatever is sent, each route answers with a success or a problem document, never a 5xx', {
  timeout: 240_000,
}, async () => {
  await withPlace(async ({ ann, session }) => {
    const statuses = new Set<number>()
    /** What a DELETE names: a session of its own, or what is no id. */
    const doomed = async (id: string | null) =>
      id === null ? await ann.createSession() : encodeURIComponent(id.toWellFormed())
    for (const [method, path] of fuzzed) {
      const input = fc.record({
        id: fc.oneof(fc.constant(null), nasty),
        query: method === 'GET' ? queries.map((query) => ({ wait: '0', ...query })) : fc.constant({}),
        body: method === 'GET' ? fc.constant(undefined) : bodies,
      })
      await fc.assert(
        fc.asyncProperty(input, async ({ id, query, body }) => {
          const named = method === 'DELETE' ? await doomed(id) : session
          const response = await ann.request(`${path.replace(':s', named)}?${new URLSearchParams(query)}`, {
            method,
            headers: { accept: 'application/json', ...json },
            ...(body === undefined ? {} : { body }),
          })
          statuses.add(response.status)
          if (response.ok) await response.arrayBuffer()
          else expect((await problemOf(response)).status).toBeLessThan(500)
        }),
        { numRuns: 250 },
      )
    }
    // The inputs are not all of one kind.
    expect([...statuses]).toEqual(expect.arrayContaining([200, 201, 204, 400, 404]))
    // Nothing of that was about this one.
    const { message } = await ann.command(session, 'm1', 'stop')
    expect(message).toMatchObject({ id: 'm1', status: 'complete', parts: [{ type: 'text', text: 'hello' }] })
  })
})

test('requests that never end, end early or are too large hold nobody else up', async () => {
  await withPlace(async ({ server, ann, session }) => {
    const head = await headOf(send.replace(':s', session))
    const slow = await Promise.all(
      Array.from({ length: 40 }, () => begin(server, `${head}content-length: 1000\r\n\r\n{"id":"a"`)),
    )
    const halfHeads = await Promise.all(Array.from({ length: 20 }, () => begin(server, head)))
    expect((await ann.send(session, 'served meanwhile')).message.status).toBe('complete')
    for (const { socket } of [...slow, ...halfHeads]) socket.destroy()

    const large = await begin(server, `${head}x: ${'y'.repeat(40_000)}\r\n\r\n`)
    expect(await large.status).toBe(431)
    const endless = await begin(server, `${head}transfer-encoding: chunked\r\n\r\n`)
    const chunk = `4000\r\n${' '.repeat(0x4000)}\r\n`
    for (let sent = 0; sent <= limits.requestBytesMax; sent += 0x4000) endless.socket.write(chunk)
    expect(await endless.status).toBe(413)
    const nonsense = await begin(server, 'GET / HTTP/9.9\r\n\r\n')
    expect(await nonsense.status).toBe(400)
    for (const { socket } of [large, endless, nonsense]) socket.destroy()

    expect((await ann.send(session, 'served afterwards')).message.status).toBe('complete')
    expect((await ann.snapshot(session)).messages.filter(({ role }) => role === 'user')).toHaveLength(3)
  })
})

async function headOf(path: string): Promise<string> {
  const token = await tokenOf('ann')
  return `POST ${path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${token}\r\ncontent-type: application/json\r\n`
}

/** A request as bytes, for what no client would send. */
function begin({ url }: TestServer, bytes: string): Promise<{ socket: Socket; status: Promise<number> }> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1', () => {
      socket.write(bytes)
      resolve({ socket, status })
    })
    let text = ''
    const status = new Promise<number>((answered) => {
      socket.on('data', (data) => {
        text += data.toString('latin1')
        const found = /^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]
        if (found) answered(Number(found))
      })
    })
    socket.on('error', reject)
  })
}

test('HEAD answers as GET without a body, OPTIONS with the methods, and any other method is 405 with them', async () => {
  await withPlace(async ({ server, ann, session }) => {
    const get = await ann.request(`/v1/sessions/${session}`)
    const head = await ann.request(`/v1/sessions/${session}`, { method: 'HEAD' })
    expect([head.status, head.headers.get('content-type'), await head.text()]).toEqual([
      200,
      get.headers.get('content-type'),
      '',
    ])
    const options = await fetch(`${server.url}/v1/sessions/${session}`, {
      method: 'OPTIONS',
      headers: { origin: 'https://evil.example' },
    })
    expect([options.status, options.headers.get('allow')]).toEqual([204, 'GET, HEAD, PATCH, DELETE, OPTIONS'])
    expect([...options.headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([])
    for (const [method, path, allow] of [
      ['PUT', `/v1/sessions/${session}`, 'GET, HEAD, PATCH, DELETE, OPTIONS'],
      ['DELETE', `/v1/sessions/${session}/messages`, 'POST, GET, HEAD, OPTIONS'],
      ['GET', `/v1/sessions/${session}/messages/m1/stop`, 'POST, OPTIONS'],
      ['POST', '/livez', 'GET, HEAD, OPTIONS'],
    ] as const) {
      const response = await ann.request(path, { method })
      expect([path, response.status, response.headers.get('allow')]).toEqual([path, 405, allow])
      expect((await problemOf(response)).code).toBe('method_not_allowed')
    }
    // A stream has no end that HEAD could leave out.
    const stream = await ann.request(`/v1/sessions/${session}/events`, { method: 'HEAD' })
    expect([stream.status, stream.headers.get('allow')]).toEqual([405, 'GET, POST, OPTIONS'])
    expect((await problemOf(await ann.request('/v1/nowhere'))).code).toBe('not_found')
    expect((await problemOf(await ann.request('/'.padEnd(5_000, 'x')))).code).toBe('not_found')
  })
})

test('a request for what is no path is answered, and harms nothing', async () => {
  await withPlace(async ({ server }) => {
    const { hostname, port } = new URL(server.url)
    for (const path of ['//', '//v1/sessions', '///', '/?//', '*', 'http://[', '/%', '/%ff%00']) {
      const asked = request({ hostname, port, path }).end()
      const [response] = (await once(asked, 'response')) as [IncomingMessage]
      response.resume()
      expect([path, [200, 400, 404].includes(response.statusCode ?? 0)]).toEqual([path, true])
    }
  })
})

test('the server’s log never holds what users wrote or the tokens they came with', async () => {
  const database = await freshDatabase(18)
  const provider = await startProvider()
  // Providers repeat the prompt in their errors.
  provider.script([{ status: 400, body: { error: { message: `cannot answer ${secret}`, code: secret } } }])
  const server = await startServer({ database: database.url, provider: provider.url, env: { LOG_LEVEL: 'trace' } })
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  await ann.request(`/v1/sessions/${session}`, post({ title: secret }, 'PATCH'))
  await ann.request('/v1/sessions', post({ title: secret, metadata: { [secret]: secret } }))
  const watcher = ann.watch(session)
  const body = { id: randomUUID(), text: secret, metadata: { [secret]: secret } }
  expect((await ann.request(send.replace(':s', session), post(body))).status).toBe(202)
  expect((await watcher.outcome(body.id)).type).toBe('message.error')
  await watcher.close()
  for (const [path, , init] of bad) await (await ann.request(path.replace(':s', session), init)).text()
  for (const authorization of [`Bearer ${secret}`, `Basic ${secret}`, `Bearer ${await tokenOf(secret)}x`]) {
    await fetch(`${server.url}/v1/sessions?before=${secret}`, {
      headers: { authorization, cookie: `holdfast_guest=${secret}` },
    })
  }
  // Requests that fail inside: the database goes away under them.
  await database.drop()
  const failed = await eventually(async () => {
    const response = await ann.request(send.replace(':s', session), post({ id: randomUUID(), text: secret }))
    return response.status >= 500 && (await problemOf(response))
  })
  expect(failed).toMatchObject({ status: 503, code: 'unavailable', retryable: true })
  await server.line(/"unavailable"/)
  await server.stop()
  expect(server.lines.length).toBeGreaterThan(3)
  expect(server.lines.filter((line) => line.includes(secret))).toEqual([])
  await provider.stop()
})
