/** The socket of `/v1/realtime`: who may open it, what may be asked on it, how it ends, and its bounds. */
import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { limits } from '../../src/core/limits.ts'
import { routes } from '../../src/http/app.ts'
import type { HoldfastOptions, Reply } from '../../src/index.ts'
import { type Chat, openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { overSocket, overStream, subprotocol, watchMany } from '../support/many.ts'
import { freshDatabase, queryOnce } from '../support/postgres.ts'
import { startServer, tokenOf } from '../support/server.ts'
import { openRaw, type RawSocket, type SocketFrame, type SocketSettings } from '../support/socket.ts'
import { serverWithTimes } from '../support/timed.ts'

/** A reply that goes on until the test lets it end, or it is stopped. */
function held(): { reply: Reply; letGo(): void } {
  let letGo!: () => void
  const gone = new Promise<void>((resolve) => {
    letGo = resolve
  })
  return {
    letGo,
    async *reply({ signal }) {
      yield 'begun'
      await Promise.race([gone, new Promise((resolve) => signal.addEventListener('abort', resolve))])
      yield ', and ended'
    },
  }
}

type Scene = Chat & { open(settings?: SocketSettings & { user?: string; query?: string }): Promise<RawSocket> }

async function openScene(options: Partial<HoldfastOptions> = {}): Promise<Scene> {
  const opened = await openChat({ limits: { sendsPerMinute: 0 }, ...options })
  return {
    ...opened,
    async open({ user = 'ann', query = '', headers, ...settings } = {}) {
      const signedIn = { authorization: `Bearer ${await tokenOf(user)}` }
      const url = `${opened.url}/v1/realtime${query}`
      return await openRaw(url, { protocols: [subprotocol], headers: headers ?? signedIn, ...settings })
    },
  }
}

const of =
  (sessionId: string, type: string) =>
  (frame: SocketFrame): boolean =>
    frame.sessionId === sessionId && frame.type === type
const answerTo = (ref: string) => (frame: SocketFrame) => frame.ref === ref

test('who speaks another subprotocol, or none, is closed, 4400; ours is chosen among several (P101, P120)', async () => {
  const { ann, open } = await openScene()
  for (const protocols of [[], ['holdfast.v9']]) {
    const refused = await open({ protocols })
    expect(await refused.ended).toMatchObject({ code: 4400, reason: expect.stringContaining('"holdfast.v1"') })
  }
  expect((await open({ protocols: ['x', subprotocol] })).ws.protocol).toBe(subprotocol)
  // It was brought, and is used up.
  const response = await ann.request('/v1/realtime/tickets', { method: 'POST', body: '{}' })
  const { ticket } = (await response.json()) as { ticket: string }
  const byTicket = { headers: {}, query: `?ticket=${ticket}` }
  expect((await (await open({ ...byTicket, protocols: [] })).ended).code).toBe(4400)
  expect((await (await open(byTicket)).ended).code).toBe(4401)
})

test('nobody is closed, 4401, also without a guest cookie; pages of elsewhere are refused; a ticket opens one (P100, P101, P120)', async () => {
  const { ann, url, open, session } = await openScene()
  expect((await (await open({ headers: {} })).ended).code).toBe(4401)
  await expect(open({ origin: 'https://evil.example' })).rejects.toThrow('403')
  await open({ origin: new URL(url).origin })
  const response = await ann.request('/v1/realtime/tickets', { method: 'POST', body: '{}' })
  const { ticket } = (await response.json()) as { ticket: string }
  const query = `?ticket=${ticket}`
  const socket = await open({ headers: {}, query })
  socket.say({ type: 'follow', sessionId: session })
  await socket.until(of(session, 'caught-up'))
  expect((await (await open({ headers: {}, query })).ended).code).toBe(4401)
})

test('a socket ends with the token that opened it: 4401 (P12, P103)', async () => {
  const { open } = await openScene()
  const token = await tokenOf('ann', { expiresIn: Math.floor(Date.now() / 1000) + 2 })
  const socket = await open({ headers: { authorization: `Bearer ${token}` } })
  expect((await socket.ended).code).toBe(4401)
})

test.each([
  ['no JSON', 'follow me'],
  ['bytes', Buffer.from('{"type":"list"}')],
  ['no type', '{}'],
  ['an array', '[]'],
  ['no session', { type: 'follow' }],
  ['a session that is no text', { type: 'follow', sessionId: 7 }],
  ['a field that nobody knows', { type: 'follow', sessionId: 's', cursors: 'x' }],
  ['a request without a ref', { type: 'post', path: '/v1/sessions/s/messages', body: {} }],
  ['a ref that is too long', { type: 'list', ref: 'x'.repeat(129) }],
])('a frame that cannot be read closes the socket, 4400: %s (P104, P123)', async (_what, frame) => {
  const { open } = await openScene()
  const socket = await open()
  socket.say(frame)
  expect((await socket.ended).code).toBe(4400)
})

test('a frame of more than 64 KB ends the socket, 1009; one of a type that is not known is answered (P104, P123)', async () => {
  const { open } = await openScene()
  const socket = await open()
  socket.say({ type: 'wave', ref: 'w', to: 'you' })
  expect(await socket.until(answerTo('w'))).toMatchObject({ type: 'problem', problem: { code: 'invalid_request' } })
  socket.say('x'.repeat(limits.realtimeFrameBytesMax + 1))
  expect((await socket.ended).code).toBe(1009)
})

test('what cannot be followed is a problem of that session; the others go on (I15, P122)', async () => {
  const { url, open, session } = await openScene()
  const foreign = await (await apiOf(url, 'zoe')).createSession()
  const socket = await open()
  for (const [sessionId, cursor] of [[foreign], ['missing'], ['..'], [session, 'no cursor']]) {
    socket.say({ type: 'follow', sessionId, ref: sessionId, ...(cursor && { cursor }) })
  }
  const codes = []
  for (const ref of [foreign, 'missing', '..', session]) {
    const { type, sessionId, problem } = await socket.until(answerTo(ref))
    codes.push([type, sessionId === ref, problem.code, problem.status])
  }
  expect(codes).toEqual([
    ['problem', true, 'not_found', 404],
    ['problem', true, 'not_found', 404],
    ['problem', true, 'not_found', 404],
    ['problem', true, 'bad_cursor', 400],
  ])
  socket.say({ type: 'follow', sessionId: session, ref: 'again' })
  expect(await socket.until(answerTo('again'))).toMatchObject({ type: 'following', sessionId: session })
})

test('followed twice, a session is told anew from the second cursor, and once; unfollowed, no more (P122)', async () => {
  const { ann, open, session, watcher } = await openScene()
  const { message } = await ann.send(session, 'one')
  const { cursor } = await watcher.outcome(message.id)
  const socket = await open()
  socket.say({ type: 'follow', sessionId: session, ref: 'a' })
  await socket.until(of(session, 'caught-up'))
  socket.say({ type: 'follow', sessionId: session, ref: 'b', cursor })
  expect(await socket.until(answerTo('b'))).toEqual({ type: 'following', sessionId: session, ref: 'b', cursor })
  const from = socket.frames.length
  const second = await ann.send(session, 'two')
  await watcher.outcome(second.message.id)
  await socket.until(({ type, seq }) => type === 'message.ai_response' && seq === watcher.frames.at(-1)!.seq)
  const told = socket.frames.slice(from).flatMap(({ after, cursor: to }) => (after ? [[after, to]] : []))
  expect(told[0]![0]).toBe(cursor)
  expect(new Set(told.map(([, to]) => to)).size).toBe(told.length)
  socket.say({ type: 'unfollow', sessionId: session })
  // Answered after what was asked before it.
  socket.say({ type: 'list', ref: 'l' })
  await socket.until(answerTo('l'))
  const before = socket.frames.length
  const third = await ann.send(session, 'three')
  await watcher.outcome(third.message.id)
  socket.say({ type: 'wave', ref: 'w' })
  await socket.until(answerTo('w'))
  expect(socket.frames.slice(before).filter(({ cursor: each }) => each !== undefined)).toEqual([])
})

test('the 101st session is refused on its own, and may be followed when another is not (P79, P122)', async () => {
  const { ann, open } = await openScene()
  const ids = Array.from({ length: limits.followsMax + 1 }, () => randomUUID())
  for (const id of ids) await ann.createSession(id)
  const socket = await open()
  for (const sessionId of ids) socket.say({ type: 'follow', sessionId })
  const last = ids.at(-1)!
  expect((await socket.until(of(last, 'problem'))).problem.code).toBe('rate_limited')
  for (const id of ids.slice(0, -1)) await socket.until(of(id, 'caught-up'))
  socket.say({ type: 'follow', sessionId: ids[0], cursor: 'now', ref: 'replaced' })
  expect((await socket.until(answerTo('replaced'))).type).toBe('following')
  socket.say({ type: 'unfollow', sessionId: ids[0] })
  socket.say({ type: 'follow', sessionId: last, ref: 'now' })
  expect((await socket.until(answerTo('now'))).type).toBe('following')
})

test('send and stop over the socket, answered as over HTTP, and told to everybody (P124)', async () => {
  const { reply } = held()
  const { open, session, watcher } = await openScene({ reply })
  const socket = await open()
  socket.say({ type: 'follow', sessionId: session })
  const id = randomUUID()
  const path = `/v1/sessions/${session}/messages`
  socket.say({ type: 'post', ref: '1', path, body: { id, text: 'hello' } })
  const sent = await socket.until(answerTo('1'))
  expect(sent).toMatchObject({ type: 'response', status: 202, body: { message: { id }, reply: { status: 'pending' } } })
  await socket.until(of(session, 'chunk'))
  socket.say({ type: 'post', ref: '2', path: `${path}/${id}/stop` })
  const stopped = await socket.until(answerTo('2'))
  expect(stopped).toMatchObject({ status: 200, body: { reply: { status: 'stopped' }, withdrawn: false } })
  const event = await watcher.outcome(id)
  expect(event.type).toBe('message.stopped')
  expect(await socket.until(of(session, 'message.stopped'))).toEqual({ sessionId: session, ...event })
})

test('receipts and typing go over the socket, and come in passing over it and over the stream and long poll (P124, P145)', async () => {
  const { ann, url, database, open, session, watcher } = await openScene()
  await queryOnce(
    database,
    `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, 'mia', 'member')`,
    [session],
  )
  const mia = watchMany(
    [session],
    overStream(() => url, 'mia'),
  ).of(session)
  await mia.until(({ type }) => type === 'caught-up')
  const socket = await open({ user: 'mia' })
  socket.say({ type: 'follow', sessionId: session })
  await socket.until(of(session, 'caught-up'))
  const { message } = await ann.send(session, 'hello')
  const { cursor, seq } = await watcher.outcome(message.id)
  socket.say({ type: 'post', ref: 'r', path: `/v1/sessions/${session}/receipts`, body: { read: cursor } })
  expect(await socket.until(answerTo('r'))).toMatchObject({ status: 200, body: { read: seq } })
  const receipt = { type: 'receipt', data: { userId: 'mia', delivered: seq, read: seq } }
  expect(await socket.until(of(session, 'receipt'))).toEqual({ sessionId: session, ...receipt })
  expect(await mia.until(({ type }) => type === 'receipt')).toEqual(receipt)
  const other = await open()
  other.say({ type: 'follow', sessionId: session, cursor: 'now' })
  await other.until(of(session, 'caught-up'))
  const headers = { accept: 'application/json' }
  const poll = ann.request(`/v1/events?wait=20&sessions=${session}@now`, { headers })
  let isPolled = false
  void poll.then(() => {
    isPolled = true
  })
  // The poll has no word for when it began: it is said until it has answered.
  for (let n = 0; !isPolled; n++) {
    socket.say({
      type: 'post',
      ref: `t${n}`,
      path: `/v1/sessions/${session}/typing`,
      body: { isTyping: n % 2 === 0 },
    })
    expect(await socket.until(answerTo(`t${n}`))).toMatchObject({ status: 204, body: null })
  }
  expect((await other.until(of(session, 'typing'))).data).toMatchObject({ userId: 'mia' })
  const { frames } = (await (await poll).json()) as { frames: SocketFrame[] }
  expect(frames[0]).toMatchObject({ sessionId: session, type: 'typing' })
  expect(socket.frames.filter(({ type }) => type === 'typing')).toEqual([])
})

test('messages of one session are stored in the order in which they were sent, and hold up no other session (P124)', async () => {
  let goOn!: () => void
  const gate = new Promise<void>((resolve) => {
    goOn = resolve
  })
  const asked: string[] = []
  // The two sessions are asked for at the same time: which comes first is nobody's promise.
  let held: string | undefined
  const lane = async ({ session }: { session: { id: string } }) => {
    asked.push(session.id)
    if (session.id === held) await gate
    return 'main' as const
  }
  const { ann, open, session } = await openScene({ lane })
  held = session
  const other = await ann.createSession()
  const socket = await open()
  const send = (of: string, id: string) =>
    socket.say({ type: 'post', ref: id, path: `/v1/sessions/${of}/messages`, body: { id, text: id } })
  for (const id of ['a', 'b', 'c']) send(session, id)
  send(other, 'd')
  expect((await socket.until(answerTo('d'))).status).toBe(202)
  expect(asked.filter((of) => of === session).length).toBeLessThanOrEqual(1)
  goOn()
  for (const id of ['a', 'b', 'c']) expect((await socket.until(answerTo(id))).status).toBe(202)
  const { messages } = await ann.snapshot(session)
  expect(messages.flatMap(({ role, id }) => (role === 'user' ? [id] : []))).toEqual(['a', 'b', 'c'])
})

test('what HTTP refuses is refused in the same words; what is no such route is not asked (I15, P35, P124)', async () => {
  const { ann, url, open, session } = await openScene({ limits: { sendsPerMinute: 1 } })
  const foreign = await (await apiOf(url, 'zoe')).createSession()
  const socket = await open()
  const messages = (of: string) => `/v1/sessions/${of}/messages`
  const asks: [string, unknown][] = [
    [messages(session), { id: 'm', text: 'counted' }],
    [messages(session), { id: 'n', text: 'one too many' }],
    [messages(session), { id: 'm', text: 'another text' }],
    [messages(session), { id: 'o', text: '' }],
    [messages(session), JSON.parse(`${'['.repeat(40)}${']'.repeat(40)}`)],
    [messages(foreign), { id: 'm', text: 'hi' }],
    [`${messages(session)}/missing/stop`, {}],
    [`/v1/sessions/${session}/approvals/${encodeURIComponent('a/b%')}`, { approved: true }],
    [`/v1/sessions/${session}/tool-results/none`, { output: 1 }],
  ]
  for (const [at, [path, body]] of asks.entries()) {
    socket.say({ type: 'post', ref: `${at}`, path, body })
    const over = await socket.until(answerTo(`${at}`))
    const response = await ann.request(path, { method: 'POST', body: JSON.stringify(body) })
    const {
      requestId: _,
      retryAfterMs: __,
      reply: ___,
      turn: ____,
      ...same
    } = (await response.json()) as Record<string, unknown>
    expect(over).toMatchObject({ status: response.status, body: same })
  }
  expect((await socket.until(answerTo('1'))).body.retryAfterMs).toBeGreaterThan(0)
  const elsewhere = [
    '/v1/sessions',
    `${messages(session)}?wait=5`,
    '/api/chat',
    `/v1/sessions/${session}/events`,
    'x',
    '',
  ]
  for (const path of [...elsewhere, `/v1/sessions/${session}/files`, '/v1/sessions/%E0%A4%A/messages']) {
    socket.say({ type: 'post', ref: `at ${path}`, path, body: {} })
    expect(await socket.until(answerTo(`at ${path}`))).toMatchObject({ status: 404, body: { code: 'not_found' } })
  }
})

test('the routes that a socket may ask for are those of the page, each a POST in a session (P124)', () => {
  const over = routes.filter(({ overSocket }) => overSocket)
  expect(over.map(({ name }) => name).sort()).toEqual(
    [
      ...[
        'messages.send',
        'messages.retry',
        'messages.stop',
        'messages.edit',
        'messages.regenerate',
        'messages.select',
      ],
      ...['approvals.answer', 'toolResults.answer', 'receipts.store', 'typing.say'],
    ].sort(),
  )
  for (const { method, path } of over) expect([method, path.includes(':sessionId')]).toEqual(['POST', true])
})

test('who follows many sessions in one breath is asked for once (P123)', async () => {
  let asked = 0
  const authenticate = () => {
    asked++
    return { userId: 'ann' }
  }
  const { ann, url } = await openChat({ authenticate, tokens: undefined as never })
  const ids = await Promise.all(Array.from({ length: 20 }, () => ann.createSession()))
  const socket = await openRaw(`${url}/v1/realtime`, { protocols: [subprotocol] })
  asked = 0
  for (const sessionId of ids) socket.say({ type: 'follow', sessionId })
  for (const id of ids) await socket.until(of(id, 'caught-up'))
  expect(asked).toBeLessThan(5)
})

test('who is signed out is closed with what they ask next, 4401, and it is not done (P106, P123)', async () => {
  let known = true
  const authenticate = () => (known ? { userId: 'ann' } : null)
  const chat = await openChat({ authenticate, tokens: undefined as never })
  const ask = async (frame: object) => {
    known = true
    const socket = await openRaw(`${chat.url}/v1/realtime`, { protocols: [subprotocol] })
    known = false
    socket.say(frame)
    return (await socket.ended).code
  }
  const { session } = chat
  const path = `/v1/sessions/${session}/messages`
  expect(await ask({ type: 'follow', sessionId: session })).toBe(4401)
  expect(await ask({ type: 'list' })).toBe(4401)
  expect(await ask({ type: 'post', ref: '1', path, body: { id: 'm', text: 'no' } })).toBe(4401)
  expect(await queryOnce(chat.database, 'select from holdfast.messages')).toEqual([])
})

test('who loses their membership is told `gone` within 5 s, and the other sessions go on (I15, P13)', async () => {
  const { ann, database, open, session } = await openScene()
  const other = await ann.createSession()
  const socket = await open()
  for (const sessionId of [session, other]) socket.say({ type: 'follow', sessionId })
  await socket.until(of(session, 'caught-up'))
  await socket.until(of(other, 'caught-up'))
  await queryOnce(database, 'delete from holdfast.members where session_id = $1', [session])
  const sinceMs = performance.now()
  expect((await socket.until(of(session, 'reset'))).reason).toBe('gone')
  expect(performance.now() - sinceMs).toBeLessThan(5_500)
  await ann.send(other, 'still here')
  await socket.until(of(other, 'message.ai_response'))
})

test('a server that goes away says so before it closes, 1012, and the sessions go on elsewhere (P103, P125)', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const [first, second] = [await startServer({ database: database.url }), await startServer({ database: database.url })]
  const ann = await apiOf(second.url)
  const session = await ann.createSession()
  let url = first.url
  const many = watchMany(
    [session],
    overSocket(() => url),
  )
  const socket = await openRaw(`${first.url}/v1/realtime`, {
    protocols: [subprotocol],
    headers: { authorization: `Bearer ${await tokenOf('ann')}` },
  })
  await many.of(session).until(({ type }) => type === 'caught-up')
  url = second.url
  const stopped = first.stop()
  expect(await socket.until(({ type }) => type === 'reconnect')).toEqual({ type: 'reconnect', afterMs: 250 })
  expect((await socket.ended).code).toBe(1012)
  const { message } = await ann.send(session, 'hello')
  await many.of(session).outcome(message.id)
  expect(many.problems()).toEqual([])
  expect(await stopped).toBe(0)
})

/** So much that no kernel holds it for a reader that does not read. */
async function fillSessions({ ann, chat }: Scene, count: number): Promise<string[]> {
  const ids = await Promise.all(Array.from({ length: count }, () => ann.createSession()))
  for (const id of ids) {
    for (let at = 0; at < 12; at++) await chat.say(id, { id: randomUUID(), text: 'x'.repeat(90_000) })
  }
  return ids
}

test('a slow reader is waited for, however many sessions have much to tell at once (P104, P122)', async () => {
  const scene = await openScene()
  const ids = await fillSessions(scene, 12)
  const socket = await scene.open()
  for (const sessionId of ids) socket.say({ type: 'follow', sessionId, ref: sessionId })
  await socket.until(answerTo(ids[0]!))
  socket.ws.pause()
  await new Promise((resolve) => setTimeout(resolve, 500))
  socket.ws.resume()
  for (const id of ids) await socket.until(of(id, 'caught-up'))
  for (const id of ids) expect(socket.frames.filter(of(id, 'message.said'))).toHaveLength(12)
})

test('a reader that goes on asking and does not read is closed, 4429, and resumes by its cursor (I5, P104)', async () => {
  const scene = await openScene()
  const { ann, open, session } = scene
  const { message } = await ann.send(session, 'y'.repeat(240_000))
  const ids = await fillSessions(scene, 6)
  const socket = await open()
  for (const sessionId of ids) socket.say({ type: 'follow', sessionId, ref: sessionId })
  await socket.until(answerTo(ids[0]!))
  socket.ws.pause()
  // An answer holds that message: 25 MB, if they were all sent.
  for (let at = 0; at < 100; at++) {
    socket.say({ type: 'post', ref: `${at}`, path: `/v1/sessions/${session}/messages/${message.id}/stop` })
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  socket.ws.resume()
  expect((await socket.ended).code).toBe(4429)
  const cursors = new Map(
    ids.map((id) => [id, socket.frames.findLast((each) => each.sessionId === id && each.cursor !== undefined)?.cursor]),
  )
  const again = await open()
  for (const sessionId of ids) again.say({ type: 'follow', sessionId, cursor: cursors.get(sessionId) })
  for (const id of ids) {
    await again.until(of(id, 'caught-up'))
    const seqs = [...socket.frames, ...again.frames].filter(of(id, 'message.said')).map(({ seq }) => seq)
    expect(seqs).toEqual(Array.from({ length: 12 }, (_, at) => at + 1))
  }
})

test('more than 32 requests at a time are refused on their own (P79, P124)', async () => {
  let answer!: (lane: 'main') => void
  const lane = new Promise<'main'>((resolve) => {
    answer = resolve
  })
  const { open, session } = await openScene({ lane: () => lane })
  const socket = await open()
  const path = `/v1/sessions/${session}/messages`
  for (let at = 0; at < 33; at++) socket.say({ type: 'post', ref: `${at}`, path, body: { id: `m${at}`, text: 'hi' } })
  expect(await socket.until(answerTo('32'))).toMatchObject({ status: 429, body: { code: 'rate_limited' } })
  answer('main')
  expect((await socket.until(answerTo('31'))).status).toBe(202)
})

test('a socket on which something is followed or looked at is not idle; one on which nothing is, is dropped: 4408 (P103)', async () => {
  const { database, session } = await openScene()
  const { through } = await serverWithTimes({ database }, { idleMs: 300, pingEveryMs: 60_000, frameMs: 60_000 })
  const open = async (...frames: object[]) => {
    const socket = await openRaw(`${through}/v1/realtime`, { protocols: [subprotocol] })
    for (const frame of frames) socket.say(frame)
    return socket
  }
  const follow = { type: 'follow', sessionId: session }
  const [following, looking] = [await open(follow), await open({ type: 'list' })]
  const given = await open(follow, follow, { type: 'unfollow', sessionId: session })
  const idle = await open()
  expect((await idle.ended).code).toBe(4408)
  expect((await given.ended).code).toBe(4408)
  for (const each of [following, looking]) expect(each.ws.readyState).toBe(each.ws.OPEN)
})
