/** From a handshake to a socket: whose page may open it, who it is (tickets, cookies, headers), and in whose server it is. */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, request, type Server } from 'node:http'
import { createServer as createEncrypted } from 'node:https'
import { type AddressInfo, connect } from 'node:net'
import { connect as connectEncrypted } from 'node:tls'
import { serve } from '@hono/node-server'
import pg from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { WebSocketServer } from 'ws'
import { closes } from '../../src/core/errors.ts'
import { limits } from '../../src/core/limits.ts'
import { listenForUpgrades } from '../../src/http/upgradable-server.ts'
import { createUpgrades } from '../../src/http/upgrade.ts'
import { createHoldfast, type Holdfast, type HoldfastOptions } from '../../src/index.ts'
import { type Database, openDatabase } from '../../src/store/database.ts'
import { sweepTickets } from '../../src/store/tickets.ts'
import { freshDatabase } from '../support/postgres.ts'
import { jwtSecret, startServer, tokenOf } from '../support/server.ts'
import { type End, openRaw, type RawSocket, type SocketSettings } from '../support/socket.ts'

type Scene = { chat: Holdfast; database: string; lines: string[] }

/** An app with Holdfast in it, which is not yet in a server. */
async function makeChat(options: Partial<HoldfastOptions> = {}): Promise<Scene> {
  const database = await freshDatabase(18)
  const lines: string[] = []
  const chat = createHoldfast({
    database: database.url,
    tokens: { secret: jwtSecret },
    log: (line, detail) => lines.push(`${line} ${JSON.stringify(detail)}`),
    drainMs: 0,
    reply: () => 'the answer',
    ...options,
  })
  onTestFinished(async () => {
    await chat.close()
    await database.drop()
  })
  return { chat, database: database.url, lines }
}

type Listening = Scene & { url: string; host: string }
async function listening(options: Partial<HoldfastOptions> = {}): Promise<Listening> {
  const scene = await makeChat(options)
  const { url } = await scene.chat.listen(0)
  return { ...scene, url, host: new URL(url).host }
}

const path = '/api/chat/ws'
const bearer = async (user = 'ann', claims = {}) => ({ authorization: `Bearer ${await tokenOf(user, claims)}` })

/** Opens it and has a message answered; resolves to who it was, or to how it ended or was refused. */
async function openedBy(
  scene: Pick<Scene, 'database'>,
  at: string,
  settings: SocketSettings = {},
): Promise<string | End> {
  let socket: RawSocket
  try {
    socket = await openRaw(at, settings)
  } catch (error) {
    return String(error)
  }
  const id = randomUUID()
  const messages = [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'hello' }] }]
  socket.say({ type: 'send', requestId: 'r', id, trigger: 'submit-message', messages, headers: {}, body: {} })
  const said = await socket.until(({ type }) => type === 'end' || type === 'error').catch(() => undefined)
  if (said === undefined) return await socket.ended
  socket.ws.terminate()
  const rows = await query<{ author: string }>(scene, 'select author from holdfast.messages where session_id = $1', [
    id,
  ])
  return `${said.type} ${rows.find(({ author }) => author !== null)?.author}`
}

async function query<Row>({ database }: Pick<Scene, 'database'>, text: string, values: unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: database })
  await client.connect()
  const { rows } = await client.query(text, values)
  await client.end()
  return rows as Row[]
}

const unauthorized = { code: 4401, reason: expect.stringMatching(/^(Sign in first|This ticket)[^{]+\.$/) }
const forbidden = 'Error: Unexpected server response: 403'

test('pages of the same host may open a socket, whatever the scheme, and what is no page; other pages may not (P100)', async () => {
  const scene = await listening()
  const { host } = scene
  const headers = await bearer()
  const port = new URL(scene.url).port
  const origins: [string | undefined, string][] = [
    [undefined, 'end ann'],
    [`http://${host}`, 'end ann'],
    [`https://${host}`, 'end ann'],
    ['https://evil.example', forbidden],
    ['null', forbidden],
    [`http://localhost:${port}`, forbidden],
    [`http://127.0.0.1:${Number(port) + 1}`, forbidden],
    ['http://127.0.0.1', forbidden],
    [`http://${host}.evil.example`, forbidden],
    [`http://evil.example/${host}`, forbidden],
    [`http://${host}@evil.example`, forbidden],
    [`http://evil.example, http://${host}`, forbidden],
    [`file://${host}`, forbidden],
    [`http://${host}/`, forbidden],
  ]
  for (const [origin, outcome] of origins) {
    const given = origin === undefined ? {} : { origin }
    expect([origin, await openedBy(scene, `${scene.url}${path}`, { headers, ...given })]).toEqual([origin, outcome])
  }
  // Many that are refused are one line.
  expect(scene.lines.filter((line) => line.startsWith('a socket was refused'))).toEqual([
    'a socket was refused: the option origins does not name its page {"origin":"https://evil.example"}',
  ])
})

test('where the request itself is encrypted, a page of http may not, though its host is the same (P100)', async () => {
  const scene = await makeChat()
  const key = Buffer.alloc(32, 1)
  const tls = { ciphers: 'PSK', minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const
  const { server, port } = await serverOf(createEncrypted({ ...tls, pskCallback: () => key }))
  scene.chat.attach(server)
  const { authorization } = await bearer()
  for (const [scheme, status] of [
    ['http', '403 Forbidden'],
    ['https', '101 Switching Protocols'],
  ]) {
    const pskCallback = () => ({ psk: key, identity: 'x' })
    const raw = connectEncrypted({ ...tls, port, host: '127.0.0.1', pskCallback, checkServerIdentity: () => undefined })
    const lines = [`origin: ${scheme}://x.example`, `authorization: ${authorization}`]
    raw.write(wholeHandshake('x.example', ...lines))
    const [answered] = (await once(raw, 'data')) as [Buffer]
    raw.destroy()
    expect(answered.toString().split('\r\n')[0]).toBe(`HTTP/1.1 ${status}`)
  }
})

test('with the option origins those pages may, and no others, also not those of the own host (P100)', async () => {
  const scene = await listening({ origins: ['https://app.example', 'capacitor://localhost'] })
  const headers = await bearer()
  for (const [origin, outcome] of [
    ['https://app.example', 'end ann'],
    ['capacitor://localhost', 'end ann'],
    [`http://${scene.host}`, forbidden],
    ['http://app.example', forbidden],
    ['https://app.example.evil.example', forbidden],
    ['https://app.example:444', forbidden],
  ] as const) {
    expect([origin, await openedBy(scene, `${scene.url}${path}`, { headers, origin })]).toEqual([origin, outcome])
  }
})

test('a port that the scheme has anyway is the same, said or not (P100)', async () => {
  const scene = await listening()
  const headers = { ...(await bearer()), host: 'app.example:443' }
  expect(await openedBy(scene, `${scene.url}${path}`, { headers, origin: 'https://app.example' })).toBe('end ann')
  expect(await openedBy(scene, `${scene.url}${path}`, { headers, origin: 'http://app.example' })).toBe(forbidden)
})

test.each([['https://app.example/'], ['app.example'], ['*'], ['https://App.example'], ['https://app.example:443']])(
  'the option origins takes no %s, which no browser says',
  (origin) => {
    const make = () => createHoldfast({ database: 'postgres://nowhere.invalid/x', reply: () => '', origins: [origin] })
    expect(make).toThrow(/^origins \(HOLDFAST_ORIGINS\): expected origins like https:\/\/app\.example\.com, got /)
  },
)

const page = 'https://app.example'
type Ticket = { ticket: string; expiresAt: string }

async function ticketOf({ url }: Listening, headers: Record<string, string>, body = '{}'): Promise<Response> {
  const all = { 'content-type': 'application/json', ...headers }
  return await fetch(`${url}/v1/realtime/tickets`, { method: 'POST', headers: all, body })
}

/** A page's, signed in by its header, which a browser's socket cannot have. */
async function withTickets(options: Partial<HoldfastOptions> = {}) {
  const scene = await listening({ origins: [page, 'https://other.example'], ...options })
  const issue = async (user = 'ann', from: Record<string, string> = { origin: page }) => {
    const issued = await ticketOf(scene, { ...(await bearer(user)), ...from })
    expect([issued.status, issued.headers.get('cache-control')]).toEqual([201, 'no-store'])
    return (await issued.json()) as Ticket
  }
  const bring = (ticket: string, settings: SocketSettings = { origin: page }) =>
    openedBy(scene, `${scene.url}${path}?ticket=${ticket}`, settings)
  return { ...scene, issue, bring }
}

test('a ticket opens one socket, of who asked for it, and is good for 30 s (P101)', async () => {
  const { issue, bring } = await withTickets()
  const { ticket, expiresAt } = await issue()
  const lastsMs = Date.parse(expiresAt) - Date.now()
  expect([lastsMs > 25_000, lastsMs < 31_000]).toEqual([true, true])
  expect(await bring(ticket)).toBe('end ann')
  expect(await bring(ticket)).toEqual(unauthorized)
})

test('brought ten times at once it opens one socket (P101)', async () => {
  const { issue, bring } = await withTickets()
  const { ticket } = await issue()
  const outcomes = await Promise.all(Array.from({ length: 10 }, () => bring(ticket)))
  expect(outcomes.filter((outcome) => outcome === 'end ann')).toHaveLength(1)
  expect(outcomes.filter((outcome) => typeof outcome === 'object' && outcome.code === 4401)).toHaveLength(9)
})

test('it is of no use to another page, to no page, or too late; and then to nobody (P101)', async () => {
  const scene = await withTickets()
  const { issue, bring } = scene
  for (const settings of [{ origin: 'https://other.example' }, {}]) {
    const { ticket } = await issue()
    expect(await bring(ticket, settings)).toEqual(unauthorized)
    expect(await bring(ticket)).toEqual(unauthorized)
  }
  // Its page may not open a socket at all, and has seen the ticket.
  const { ticket: seen } = await issue()
  expect(await bring(seen, { origin: 'https://evil.example' })).toBe(forbidden)
  expect(await bring(seen)).toEqual(unauthorized)
  const { ticket: late } = await issue()
  await query(scene, `update holdfast.tickets set expires_at = clock_timestamp() - interval '1 ms'`)
  expect(await bring(late)).toEqual(unauthorized)
  for (const made of ['', 'x', 'A'.repeat(43), `${'A'.repeat(42)}%00`, `${late}${late}`]) {
    expect([made, await bring(made)]).toEqual([made, unauthorized])
  }
})

test('one that no page asked for is good with any origin that may open a socket, as React Native names one there alone (P101)', async () => {
  const { issue, bring } = await withTickets()
  const tickets = await Promise.all([1, 2, 3].map(async () => (await issue('ann', {})).ticket))
  expect(await bring(tickets[0]!)).toBe('end ann')
  expect(await bring(tickets[0]!)).toEqual(unauthorized)
  expect(await bring(tickets[1]!, {})).toBe('end ann')
  expect(await bring(tickets[2]!, { origin: 'https://evil.example' })).toBe(forbidden)
  expect(await bring(tickets[2]!)).toEqual(unauthorized)
})

test('it says who it is, whatever else the handshake brings; and nothing else does where it is wrong (P101, I15)', async () => {
  const { issue, bring } = await withTickets()
  const { ticket } = await issue('ann')
  const asBob = { origin: page, headers: await bearer('bob') }
  expect(await bring(ticket, asBob)).toBe('end ann')
  expect(await bring(ticket, asBob)).toEqual(unauthorized)
})

test('its socket ends with the token that it was asked for with (P12, P101)', async () => {
  const scene = await withTickets()
  const expiresIn = Math.floor(Date.now() / 1_000) + 2
  const issued = await ticketOf(scene, { ...(await bearer('ann', { expiresIn })), origin: page })
  const { ticket } = (await issued.json()) as Ticket
  const socket = await openRaw(`${scene.url}${path}?ticket=${ticket}`, { origin: page })
  expect(await socket.ended).toEqual({ code: 4401, reason: closes[4401].sentence })
})

test('it is stored as its hash, stands in no line of the log, and goes when nobody used it (P101)', async () => {
  const scene = await withTickets()
  const tickets = [(await scene.issue()).ticket, (await scene.issue()).ticket]
  await scene.bring(tickets[0]!)
  await scene.bring(tickets[0]!)
  await scene.bring(tickets[1]!, { origin: 'https://evil.example' })
  tickets.push((await scene.issue()).ticket)
  const rows = await query<object>(scene, 'select * from holdfast.tickets')
  expect(rows).toHaveLength(1)
  const dumped = JSON.stringify([rows, scene.lines])
  for (const ticket of tickets) {
    expect(dumped).not.toContain(ticket)
    expect(JSON.stringify(rows)).not.toContain(JSON.stringify(Buffer.from(ticket)))
  }
  const database: Database = openDatabase(scene.database, { poolMax: 6, onError: () => undefined })
  onTestFinished(() => database.close())
  expect(await sweepTickets(database, 100)).toBe(0)
  await query(scene, `update holdfast.tickets set expires_at = clock_timestamp()`)
  expect(await sweepTickets(database, 100)).toBe(1)
})

test('a user has at most 32 that wait to be used; one more is 429, and others have their own (P101)', async () => {
  const scene = await withTickets()
  for (let n = 0; n < limits.ticketsOfUserMax; n++) await scene.issue()
  const refused = await ticketOf(scene, await bearer())
  expect([refused.status, refused.headers.get('retry-after'), await refused.json()]).toEqual([
    429,
    '30',
    expect.objectContaining({ code: 'rate_limited', detail: expect.stringContaining('At most 32 tickets') }),
  ])
  await scene.issue('bob')
})

test('tickets are asked for with JSON, by somebody, and with nothing else in it (P2, P4, P10)', async () => {
  const scene = await listening()
  const asForm = await ticketOf(scene, { ...(await bearer()), 'content-type': 'text/plain' })
  const forOthers = await ticketOf(scene, await bearer(), '{"userId":"bob"}')
  const byNobody = await ticketOf(scene, {})
  expect([asForm.status, forOthers.status, byNobody.status]).toEqual([400, 400, 401])
})

const guests: Partial<HoldfastOptions> = { tokens: undefined }

test('a guest is made by the handshake, and is the same one with its cookie, over HTTP and with a ticket (P11)', async () => {
  const scene = await listening(guests)
  const first = await openRaw(`${scene.url}${path}`, { origin: scene.url })
  expect(first.setCookie).toEqual([expect.stringMatching(/^holdfast_guest=[\w-]{32}; Path=\/; HttpOnly; SameSite=Lax/)])
  const cookie = first.setCookie[0]!.split(';')[0]!
  const id = randomUUID()
  const messages = [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'hello' }] }]
  first.say({ type: 'send', requestId: 'r', id, messages })
  await first.until(({ type }) => type === 'end')
  const { ticket } = (await (await ticketOf(scene, { cookie, origin: scene.url })).json()) as Ticket
  for (const [at, headers] of [
    [path, { cookie }],
    [`${path}?ticket=${ticket}`, {}],
  ] as const) {
    const again = await openRaw(`${scene.url}${at}`, { origin: scene.url, headers })
    expect(again.setCookie).toEqual([])
    again.say({ type: 'resume', requestId: 'r', id })
    await again.until(({ type }) => type === 'end')
  }
  expect((await fetch(`${scene.url}/v1/sessions/${id}`, { headers: { cookie } })).status).toBe(200)
})

test('a ticket makes nobody a guest: beside the request that does, the browser would be another than its socket (P11, P101)', async () => {
  const scene = await listening(guests)
  const byNobody = await ticketOf(scene, { origin: scene.url })
  expect([byNobody.status, byNobody.headers.getSetCookie()]).toEqual([401, []])
})

test('a page whose own name was pointed at this machine has no guest, though its origin is the host (P11)', async () => {
  const scene = await listening(guests)
  const settings = { origin: 'http://evil.example', headers: { host: 'evil.example' } }
  expect(await openedBy(scene, `${scene.url}${path}`, settings)).toEqual(unauthorized)
})

test('what goes wrong in the app’s sign-in is said without its words: 1011, and a line in the log', async () => {
  const scene = await listening({
    tokens: undefined,
    authenticate: () => {
      throw new Error('the app’s own trouble')
    },
  })
  const ended = (await openedBy(scene, `${scene.url}${path}`)) as End
  expect([ended.code, ended.reason.includes('trouble')]).toEqual([1011, false])
  expect(scene.lines).toContainEqual(expect.stringMatching(/^internal .*chat\.socket.*trouble/))
})

test('who goes away while it is asked who they are harms nobody', async () => {
  let asked!: () => void
  let answer!: (principal: null) => void
  const isAsked = new Promise<void>((resolve) => {
    asked = resolve
  })
  const scene = await listening({
    tokens: undefined,
    authenticate: (request) => {
      if (request.headers.get('x-user') !== null) return { userId: 'ann' }
      asked()
      return new Promise<null>((resolve) => {
        answer = resolve
      })
    },
  })
  const raw = connect(Number(new URL(scene.url).port), '127.0.0.1')
  raw.write(handshake(path, scene.host))
  await isAsked
  raw.resetAndDestroy()
  await once(raw, 'close')
  answer(null)
  // And while it is told that its page may not.
  for (let n = 0; n < 20; n++) {
    const page = connect(Number(new URL(scene.url).port), '127.0.0.1')
    await once(page, 'connect')
    page.write(handshake(path, scene.host, 'origin: https://evil.example'), () => page.resetAndDestroy())
    await once(page, 'close')
  }
  expect(await openedBy(scene, `${scene.url}${path}`, { headers: { 'x-user': 'ann' } })).toBe('end ann')
})

const handshake = (at: string, host: string, ...lines: string[]) =>
  [`GET ${at} HTTP/1.1`, `host: ${host}`, 'connection: upgrade', 'upgrade: websocket', ...lines, '', ''].join('\r\n')

/** Everything that the server answers until it ends the connection. */
async function answerTo(port: number, text: string): Promise<string> {
  const raw = connect(port, '127.0.0.1')
  raw.write(text)
  let answered = ''
  for await (const piece of raw) answered += piece
  return answered
}

test('a handshake that is none is refused as HTTP (P100)', async () => {
  const scene = await listening(guests)
  const port = Number(new URL(scene.url).port)
  expect(await answerTo(port, handshake(path, scene.host))).toMatch(/^HTTP\/1\.1 400 /)
  expect(await answerTo(port, handshake(path, 'no host'))).toMatch(/^HTTP\/1\.1 400 Bad Request[\s\S]*not valid/)
})

test('asked without an upgrade, the path says what it is for', async () => {
  const { url } = await listening()
  const answer = await fetch(`${url}${path}`, { headers: await bearer() })
  expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining('chat.attach(server)')])
})

/** An app's own server, which is closed after the test. */
async function serverOf(server: Server): Promise<{ server: Server; url: string; port: number }> {
  await once(server.listen(0, '127.0.0.1'), 'listening')
  onTestFinished(async () => {
    server.closeAllConnections()
    await once(server.close(), 'close')
  })
  const { port } = server.address() as AddressInfo
  return { server, url: `http://127.0.0.1:${port}`, port }
}

test('attached to an app’s server it hears its own path below the base path, and leaves the app’s sockets alone (P9)', async () => {
  const scene = await makeChat({ basePath: '/chat' })
  const { server, url } = await serverOf(createServer((incoming, outgoing) => void scene.chat.node(incoming, outgoing)))
  const own = new WebSocketServer({ noServer: true })
  own.on('connection', (ws) => ws.send('{"type":"the app’s own"}'))
  server.on('upgrade', (incoming, raw, head) => {
    if (incoming.url === '/app') own.handleUpgrade(incoming, raw, head, (ws) => own.emit('connection', ws, incoming))
    // As an app does with what is nobody's; Holdfast's is not its affair.
    else if (!incoming.url?.startsWith('/chat/')) raw.destroy()
  })
  const detach = scene.chat.attach(server)
  // As a module that is reloaded does.
  scene.chat.attach(server)()
  scene.chat.attach(server)
  const headers = await bearer()
  expect(await openedBy(scene, `${url}/chat${path}`, { headers })).toBe('end ann')
  const app = await openRaw(`${url}/app`)
  await app.until(({ type }) => type === 'the app’s own')
  expect(await openedBy(scene, `${url}${path}`, { headers })).toMatch(/socket hang up|ECONNRESET/)
  const open = await openRaw(`${url}/chat${path}`, { headers })
  detach()
  expect([server.listenerCount('upgrade'), open.ws.readyState]).toEqual([2, 1])
  await scene.chat.close()
  expect((await open.ended).code).toBe(1012)
  expect([server.listenerCount('upgrade'), app.ws.readyState]).toEqual([1, 1])
})

test('holdfast serve has it, for the pages that HOLDFAST_ORIGINS names', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const env = { HOLDFAST_ORIGINS: 'https://app.example, https://other.example', HOLDFAST_DRAIN_MS: '0' }
  const server = await startServer({ database: database.url, env })
  const headers = await bearer()
  const scene = { database: database.url }
  expect(await openedBy(scene, `${server.url}${path}`, { headers, origin: 'https://other.example' })).toBe('end ann')
  expect(await openedBy(scene, `${server.url}${path}`, { headers, origin: server.url })).toBe(forbidden)
  const open = await openRaw(`${server.url}${path}`, { headers })
  const stopped = server.stop()
  expect((await open.ended).code).toBe(1012)
  expect(await stopped).toBe(0)
})

test('in the app’s own listener: upgrade says whether the path was Holdfast’s, and touches nothing else', async () => {
  const scene = await makeChat()
  const { server, url } = await serverOf(createServer())
  const others: string[] = []
  server.on('upgrade', (incoming, raw, head) => {
    if (scene.chat.upgrade(incoming, raw, head)) return
    others.push(`${incoming.url} ${raw.listenerCount('error')}`)
    raw.destroy()
  })
  expect(await openedBy(scene, `${url}${path}?x=1`, { headers: await bearer() })).toBe('end ann')
  for (const other of ['/', '/api/chat/ws/', '/api/chat/ws2', '/api/chat', '//api/chat/ws']) {
    await openedBy(scene, `${url}${other}`)
  }
  expect(others).toEqual(['/ 0', '/api/chat/ws/ 0', '/api/chat/ws2 0', '/api/chat 0', '//api/chat/ws 0'])
})

test('what serve of @hono/node-server answers is such a server', async () => {
  const scene = await makeChat()
  const server = serve({ fetch: scene.chat.fetch, port: 0, hostname: '127.0.0.1' }) as Server
  await once(server, 'listening')
  scene.chat.attach(server)
  onTestFinished(() => void server.close())
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  expect(await openedBy(scene, `${url}${path}`, { headers: await bearer() })).toBe('end ann')
})

test('where nobody else hears upgrades, other requests for one are answered as if nobody did, body and all', async () => {
  const scene = await makeChat()
  const heard: string[] = []
  const { server, port } = await serverOf(
    createServer(async (incoming, outgoing) => {
      let body = ''
      for await (const piece of incoming) body += piece
      heard.push(
        `${incoming.method} ${incoming.url} ${incoming.headers.upgrade} ${incoming.headers['x-a']} ${body.length}`,
      )
      outgoing.end('answered')
    }),
  )
  scene.chat.attach(server)
  // As Java's client begins with every server: https://docs.oracle.com/en/java/javase/21/docs/api/java.net.http.
  const upgrading = { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': 'AAEAAEAAAAIAAAAB' }
  const ask = async (method: string, at: string, headers: Record<string, string>, body = '') => {
    const asked = request({ host: '127.0.0.1', port, path: at, method, headers: { ...headers, 'x-a': 'b' } }).end(body)
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    let text = ''
    for await (const piece of response) text += piece
    return `${response.statusCode} ${text}`
  }
  expect(await ask('GET', '/one', upgrading)).toBe('200 answered')
  const long = 'x'.repeat(300_000)
  expect(await ask('POST', '/two', { ...upgrading, 'content-length': String(long.length) }, long)).toBe('200 answered')
  expect(await ask('GET', '/three', { connection: 'upgrade', upgrade: 'websocket' })).toBe('200 answered')
  expect(heard).toEqual(['GET /one undefined b 0', 'POST /two undefined b 300000', 'GET /three undefined b 0'])
})

test('attached twice, or by two Holdfasts, a server is heard once, and what is nobody’s is answered as if nobody heard', async () => {
  const [one, other] = [await makeChat({ basePath: '/one' }), await makeChat({ basePath: '/other' })]
  const { server, url, port } = await serverOf(createServer((_, outgoing) => void outgoing.end('the app')))
  const upgrading = async () => {
    const raw = connect(port, '127.0.0.1')
    raw.write('GET /x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n')
    const [answered] = (await once(raw, 'data')) as [Buffer]
    raw.destroy()
    return answered.toString().split('\r\n')[0]
  }
  const detach = one.chat.attach(server)
  const detaches = [one.chat.attach(server), other.chat.attach(server)]
  expect([server.listenerCount('upgrade'), await upgrading()]).toEqual([1, 'HTTP/1.1 200 OK'])
  const headers = await bearer()
  expect(await openedBy(one, `${url}/one${path}`, { headers })).toBe('end ann')
  expect(await openedBy(other, `${url}/other${path}`, { headers })).toBe('end ann')
  // Of those that were attached twice each has to be detached; one detach counts once.
  detach()
  detach()
  expect(await openedBy(one, `${url}/one${path}`, { headers })).toBe('end ann')
  for (const each of detaches) each()
  expect(server.listenerCount('upgrade')).toBe(0)
})

test('while a server drains, who opens a socket is told to come back elsewhere: 1012; and over HTTP 503 (P103)', async () => {
  let goOn!: () => void
  const isClosing = new Promise<void>((resolve) => {
    goOn = resolve
  })
  const reply = async function* () {
    yield 'half'
    await isClosing
    yield ' and whole'
  }
  const scene = await makeChat({ drainMs: 20_000, reply })
  const own = await serverOf(createServer((incoming, outgoing) => void scene.chat.node(incoming, outgoing)))
  const attached = await serverOf(createServer((incoming, outgoing) => void scene.chat.node(incoming, outgoing)))
  own.server.on('upgrade', scene.chat.upgrade)
  scene.chat.attach(attached.server)
  const headers = await bearer()
  const before = await openRaw(`${attached.url}${path}`, { headers })
  const messages = [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'hello' }] }]
  before.say({ type: 'send', requestId: 'r', id: randomUUID(), messages })
  await before.until(({ chunk }) => chunk?.delta === 'half')
  const closed = scene.chat.close()
  const goneAway = { code: 1012, reason: closes[1012].sentence }
  expect(await before.ended).toEqual(goneAway)
  for (const { url } of [own, attached]) {
    expect(await (await openRaw(`${url}${path}`, { headers })).ended).toEqual(goneAway)
    const listed = await fetch(`${url}/v1/sessions`, { headers })
    expect([listed.status, await listed.json()]).toEqual([503, expect.objectContaining({ code: 'draining' })])
  }
  goOn()
  await closed
  expect(attached.server.listenerCount('upgrade')).toBe(0)
})

/** A handshake that is whole, of a client that says nothing after it. */
const wholeHandshake = (host: string, ...lines: string[]) =>
  handshake(path, host, 'sec-websocket-version: 13', 'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==', ...lines)

test('close does not wait for handshakes that are not over, nor for refused sockets that do not go', async () => {
  let asked!: () => void
  const isAsked = new Promise<void>((resolve) => {
    asked = resolve
  })
  const authenticate = (request: Request) => {
    if (request.headers.get('x-user') === null) return null
    asked()
    return new Promise<null>(() => undefined)
  }
  const scene = await listening({ tokens: undefined, authenticate })
  const port = Number(new URL(scene.url).port)
  const [refused, pending] = [connect(port, '127.0.0.1'), connect(port, '127.0.0.1')]
  for (const each of [refused, pending]) each.on('error', () => undefined)
  const ends = [once(refused, 'close'), once(pending, 'close')]
  pending.write(wholeHandshake(scene.host, 'x-user: ann'))
  await isAsked
  refused.write(wholeHandshake(scene.host))
  await once(refused, 'data')
  const sinceMs = performance.now()
  await scene.chat.close()
  expect(performance.now() - sinceMs).toBeLessThan(1_500)
  await Promise.all(ends)
})

test('a handshake that nobody answers is cut (P100)', async () => {
  const never = () => new Promise<never>(() => undefined)
  const options = { basePath: '', origins: undefined, authenticate: never, parts: never, log: () => undefined }
  const { server, port } = await serverOf(createServer())
  listenForUpgrades(server, createUpgrades({ ...options, handshakeMs: 50 }).upgrade)
  expect(await answerTo(port, wholeHandshake('x'))).toBe('')
})

test('a server that is closed with Holdfast in it has no connection left, also of who does not answer a close', async () => {
  const scene = await listening()
  const raw = connect(Number(new URL(scene.url).port), '127.0.0.1')
  const { authorization } = await bearer()
  const lines = ['sec-websocket-version: 13', 'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==']
  raw.write(handshake(path, scene.host, ...lines, `authorization: ${authorization}`))
  const [answered] = (await once(raw, 'data')) as [Buffer]
  expect(answered.toString()).toMatch(/^HTTP\/1\.1 101 /)
  const gone = once(raw, 'close')
  await scene.chat.close()
  await gone
})
