/** Holdfast inside an app: as a handler of web requests, below a base path, with the app's own sign-in. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { networkInterfaces } from 'node:os'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import { createHoldfast, type Holdfast, type HoldfastOptions, OptionError } from '../../src/index.ts'
import { freshDatabase } from '../support/postgres.ts'

let database: Awaited<ReturnType<typeof freshDatabase>>
let chat: Holdfast | undefined
const lines: string[] = []

beforeEach(async () => {
  lines.length = 0
  database = await freshDatabase(18)
})
afterEach(async () => {
  await chat?.close()
  await database.drop()
})

const mount = (options: Partial<HoldfastOptions> = {}) => {
  chat = createHoldfast({
    database: database.url,
    basePath: '/chat',
    reply: () => 'A reply.',
    authenticate: (request) => {
      const userId = request.headers.get('x-user')
      return userId === null ? null : { userId }
    },
    log: (line, detail) => lines.push(`${line} ${JSON.stringify(detail)}`),
    ...options,
  })
}

const ask = (path: string, init: RequestInit = {}) =>
  chat!.fetch(
    new Request(`https://app.example${path}`, {
      ...init,
      headers: { 'x-user': 'ann', 'content-type': 'application/json', ...init.headers },
    }),
  )
const post = (body: unknown): RequestInit => ({ method: 'POST', body: JSON.stringify(body) })

test('a handler of web requests serves every route below its base path, and streams (P9, P40)', async () => {
  mount()
  expect((await ask('/chat/v1/sessions', post({ id: 's' }))).status).toBe(201)
  const control = new AbortController()
  const stream = await ask('/chat/v1/sessions/s/events', { signal: control.signal })
  expect([stream.status, stream.headers.get('content-type')]).toEqual([200, 'text/event-stream; charset=utf-8'])
  expect((await ask('/chat/v1/sessions/s/messages', post({ id: 'm1', text: 'hi' }))).status).toBe(202)
  let text = ''
  const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader()
  while (!text.includes('message.ai_response')) text += (await reader.read()).value
  expect(text).toMatch(/^retry: 1000\n\n/)
  expect(text.match(/"type":"(message|attempt)[^"]*"/g)).toEqual([
    '"type":"message.created"',
    '"type":"attempt.started"',
    '"type":"message.ai_response"',
  ])
  await reader.cancel()
  control.abort()
  for (const path of ['/v1/sessions', '/chat', '/chatter/v1/sessions', '/livez']) {
    expect([path, (await ask(path)).status]).toEqual([path, 404])
  }
  expect((await ask('/chat/livez')).status).toBe(200)
  expect((await ask('/chat/readyz')).status).toBe(200)
})

test('what says where a session is names a path that leads to it, below the base path (P9, P20, P30)', async () => {
  mount()
  const created = await ask('/chat/v1/sessions', post({ id: 's' }))
  const sent = await ask('/chat/v1/sessions/s/messages', post({ id: 'm1', text: 'hi' }))
  for (const { headers } of [created, sent]) {
    expect(headers.get('location')).toBe('/chat/v1/sessions/s')
    expect((await ask(headers.get('location')!)).status).toBe(200)
  }
})

/** As `express.json()`, `text()` and `raw()` do, and Express 4 for what no parser was for. */
const parsers: [name: string, parse: (body: Buffer) => unknown][] = [
  ['an object', (body) => JSON.parse(body.toString())],
  ['a text', (body) => body.toString()],
  ['bytes', (body) => body],
]

/** An app with a parser of bodies before Holdfast. Undefined: it reads nothing, and leaves `{}`. */
async function appWith(parse: ((body: Buffer) => unknown) | undefined) {
  const server = createServer(async (incoming, outgoing) => {
    const pieces: Buffer[] = []
    if (parse) for await (const piece of incoming) pieces.push(piece as Buffer)
    Object.assign(incoming, { body: parse ? parse(Buffer.concat(pieces)) : {} })
    await chat!.node(incoming, outgoing)
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  onTestFinished(async () => {
    server.closeAllConnections()
    await once(server.close(), 'close')
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return (path: string, body: string) =>
    fetch(`${url}/chat${path}`, {
      method: 'POST',
      headers: { 'x-user': 'ann', 'content-type': 'application/json' },
      body,
    })
}

test.each([...parsers, ['nothing', undefined] as const])(
  'a body that a parser of the app’s has read and made %s of is taken as it was sent (P30)',
  async (_, parse) => {
    mount()
    const send = await appWith(parse)
    expect((await send('/v1/sessions', '{"id":"s"}')).status).toBe(201)
    const text = 'Grüße, 世界 🌍'
    const sent = await send('/v1/sessions/s/messages', JSON.stringify({ id: 'm1', text }))
    expect([sent.status, await sent.json()]).toMatchObject([202, { message: { parts: [{ type: 'text', text }] } }])
    // The same text by another way is the same message.
    expect((await ask('/chat/v1/sessions/s/messages', post({ id: 'm1', text }))).status).toBe(202)
    const [badText, deep] = [
      '{"id":"m2","text":"\\ud83d"}',
      `{"id":"m3","text":${'['.repeat(50_000)}${']'.repeat(50_000)}}`,
    ]
    for (const body of [badText, deep]) {
      const refused = await send('/v1/sessions/s/messages', body)
      expect([refused.status, await refused.json()]).toMatchObject([400, { code: 'invalid_request' }])
    }
  },
)

test('a report of usage that the ledger cannot hold harms no reply, and what it can hold is counted (I12)', async () => {
  let asked = 0
  mount({
    reply: ({ usage }) => {
      asked++
      usage({ model: 'm\0', inputTokens: 1.5, outputTokens: 4 })
      usage({ inputTokens: 1e12, cachedInputTokens: -1, reasoningTokens: '7' as unknown as number })
      return 'A reply.'
    },
  })
  await ask('/chat/v1/sessions', post({ id: 's' }))
  const stream = await ask('/chat/v1/sessions/s/events')
  await ask('/chat/v1/sessions/s/messages', post({ id: 'm1', text: 'hi' }))
  let text = ''
  const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader()
  while (!/"message\.(ai_response|error)"/.test(text)) text += (await reader.read()).value
  await reader.cancel()
  const { messages } = (await (await ask('/chat/v1/sessions/s')).json()) as { messages: object[] }
  expect(messages).toMatchObject([
    { error: null, inputTokens: null },
    { status: 'complete', model: 'm\uFFFD', outputTokens: 4 },
  ])
  expect(asked).toBe(1)
})

test('the app’s sign-in decides who asks, and what goes wrong in it is 500 without its words', async () => {
  mount({
    authenticate: (request) => {
      if (request.headers.get('x-user') === 'broken') throw new Error('the app’s own trouble')
      return request.headers.get('x-user') === 'ann' ? { userId: 'ann', tenantId: 't1' } : null
    },
  })
  expect((await ask('/chat/v1/sessions', post({}))).status).toBe(201)
  expect((await ask('/chat/v1/sessions', { headers: { 'x-user': 'nobody' } })).status).toBe(401)
  const broken = await ask('/chat/v1/sessions', { headers: { 'x-user': 'broken' } })
  expect([broken.status, (await broken.text()).includes('trouble')]).toEqual([500, false])
  expect(lines).toContainEqual(expect.stringMatching(/^internal .*trouble/))
})

const reply = () => 'x'
const wrong: [what: string, options: object, message: RegExp][] = [
  ['no reply', {}, /^reply: expected a function/],
  ['an option that does not exist', { reply, leaseMS: 5_000 }, /^leaseMS: there is no such option/],
  ['a number out of bounds', { reply, pollMs: 5 }, /^pollMs: expected a whole number from 100 to 10000, got 5/],
  ['half a number', { reply, flushMs: 1.5 }, /^flushMs: .*got 1\.5/],
  ['a base path with a slash at its end', { reply, basePath: '/chat/' }, /^basePath: expected a path like \/chat/],
  ['a role that is none', { reply, roles: ['worker'] }, /^roles: expected one of http, runner, got worker/],
  ['no role', { reply, roles: [] }, /^roles: /],
  ['a short secret', { reply, tokens: { secret: 'x' } }, /^tokens\.secret: expected at least 32 characters/],
  [
    'keys for anybody',
    { reply, tokens: { jwksUrl: 'https://a.example' } },
    /^tokens: jwksUrl needs issuer and audience/,
  ],
  ['two sign-ins', { reply, tokens: { secret: 'x'.repeat(32) }, authenticate: () => null }, /^tokens: not together/],
  ['a database that is no URL', { reply, database: 'me:hidden@host/db' }, /^database \(DATABASE_URL\): expected a URL/],
]

test.each(wrong)('createHoldfast refuses %s and names the option', (_what, options, message) => {
  const make = () => createHoldfast({ database: 'postgres://nowhere.invalid/x', ...options } as HoldfastOptions)
  expect(make).toThrow(OptionError)
  expect(make).toThrow(message)
  expect(make).not.toThrow(/hidden/)
})

const elsewhere = Object.values(networkInterfaces())
  .flat()
  .find((each) => each?.family === 'IPv4' && !each.internal)?.address

test.skipIf(elsewhere === undefined)(
  'mounted in an app’s server, it has guests on this machine only, whatever name others call it by',
  async () => {
    mount({ authenticate: undefined, basePath: '' })
    const server = createServer((incoming, outgoing) => void chat!.node(incoming, outgoing))
    await once(server.listen(0, '0.0.0.0'), 'listening')
    const { port } = server.address() as AddressInfo
    for (const [address, status] of [
      ['127.0.0.1', 201],
      [elsewhere!, 401],
      ['127.0.0.1', 201],
    ] as const) {
      const headers = { host: 'localhost', 'content-type': 'application/json' }
      const asked = request({ host: address, port, path: '/v1/sessions', method: 'POST', headers }).end('{}')
      const [response] = (await once(asked, 'response')) as [IncomingMessage]
      response.resume()
      expect([address, response.statusCode]).toEqual([address, status])
    }
    server.closeAllConnections()
    await once(server.close(), 'close')
  },
)
