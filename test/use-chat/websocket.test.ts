/** `WebSocketChatTransport` of AI SDK 7, unmodified, on the socket of `/api/chat/ws`, through a proxy that cuts. */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { WebSocketChatTransport } from 'ai7'
import pg from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { limits } from '../../src/core/limits.ts'
import { type HoldfastOptions, type Reply, ReplyError } from '../../src/index.ts'
import { type Chat, openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { tokenOf } from '../support/server.ts'
import { framesOf, openRaw, type RawSocket } from '../support/socket.ts'
import { serverWithTimes } from '../support/timed.ts'
import { type SdkChat, sdkChat, shownBy, textOf } from './sdk.ts'

/** A reply whose words come when the test says so; `asked` counts how often the model was. */
function spoken() {
  const asked: string[] = []
  let open = false
  let waiting: (() => void)[] = []
  const pass = () => new Promise<void>((resolve) => (open ? resolve() : waiting.push(resolve)))
  const reply: Reply = async function* ({ message, attempt, signal }) {
    const said = message.parts.flatMap((part) => (part.type === 'text' ? [String(part.text)] : [])).join('')
    asked.push(said)
    if (said.includes('fail')) throw new ReplyError('provider_rejected', 'no')
    if (said.includes('broken') && attempt === 1) {
      yield 'Another beginning'
      await pass()
      throw new ReplyError('provider_truncated', 'cut')
    }
    yield `Re ${said}`
    if (said.includes('wait')) await pass()
    if (said.includes('long')) yield 'x'.repeat(900_000)
    if (!signal.aborted) yield ', whole.'
  }
  return {
    reply,
    asked,
    goOn() {
      open = true
      for (const resolve of waiting) resolve()
      waiting = []
    },
  }
}

type Scene = Chat & ReturnType<typeof spoken> & { proxy: TcpProxy; through: string; id: string }

async function openScene(options: Partial<HoldfastOptions> = {}): Promise<Scene> {
  const words = spoken()
  const opened = await openChat({ reply: words.reply, limits: { sendsPerMinute: 0 }, ...options })
  onTestFinished(() => words.goOn())
  const { hostname, port } = new URL(opened.url)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  onTestFinished(() => proxy.close())
  return { ...opened, ...words, proxy, through: `http://${proxy.host}:${proxy.port}`, id: randomUUID() }
}

type Opened = { code: number; reason: string }

/** `useChat` with the vendor's transport. `sockets`: those that it opened, and how each ended. */
async function socketChat(
  { through, id }: Pick<Scene, 'through' | 'id'>,
  options: { user?: string; [option: string]: unknown } = {},
): Promise<SdkChat & { sockets: { socket: WebSocket; ended: Promise<Opened> }[]; transport: object }> {
  const { user = 'ann', ...more } = options
  const headers = { authorization: `Bearer ${await tokenOf(user)}` }
  const sockets: { socket: WebSocket; ended: Promise<Opened> }[] = []
  /** In place of a page's, which is signed in by its cookie. */
  class SignedIn extends WebSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(url, protocols, { headers })
      const ended = new Promise<Opened>((resolve) =>
        this.on('close', (code, reason) => resolve({ code, reason: reason.toString() })),
      )
      sockets.push({ socket: this, ended })
      onTestFinished(() => this.terminate())
    }
  }
  const transport = new WebSocketChatTransport({ url: `${through}/api/chat/ws`, webSocket: SignedIn as never })
  const chat = await sdkChat(7, { url: through, id, user, transport, ...more })
  return Object.assign(chat, { sockets, transport })
}

const stored = async ({ ann, id }: Scene) =>
  (await ann.snapshot(id)).messages.map(({ role, parts }) => `${role}: ${textOf({ id: '', role, parts })}`)

const shows = (chat: SdkChat, text: string) => eventually(async () => textOf(chat.messages.at(-1)) === text)

test('sends, streams and shows what is stored; what follows goes over the same socket (P105)', async () => {
  const scene = await openScene()
  const chat = await socketChat(scene)
  await chat.sendMessage({ text: 'hello' })
  expect(chat.status).toBe('ready')
  expect(shownBy(chat)).toEqual(['user: hello', 'assistant: Re hello, whole.'])
  await chat.sendMessage({ text: 'again' })
  expect(shownBy(chat)).toEqual(await stored(scene))
  expect(chat.messages.map(({ id }) => id)).toEqual((await scene.ann.snapshot(scene.id)).messages.map(({ id }) => id))
  expect(chat.sockets).toHaveLength(1)
})

test('a cut in the middle is resumed from the beginning, and once more after the end; the model is asked once (I7)', async () => {
  const scene = await openScene()
  const chat = await socketChat(scene)
  const sent = chat.sendMessage({ text: 'wait' })
  await shows(chat, 'Re wait')
  scene.proxy.cutAll()
  await sent
  expect([chat.status, chat.error?.message]).toEqual(['error', expect.stringContaining('network connection')])
  const resumed = chat.resumeStream()
  await eventually(async () => chat.status === 'streaming')
  scene.goOn()
  await resumed
  expect(chat.status).toBe('ready')
  expect(shownBy(chat)).toEqual(await stored(scene))
  await chat.resumeStream()
  expect(shownBy(chat)).toEqual(['user: wait', 'assistant: Re wait, whole.'])
  expect(scene.asked).toEqual(['wait'])
})

test('a send whose socket was cut may be sent again: it is one message (I1, P31)', async () => {
  const scene = await openScene()
  const chat = await socketChat(scene)
  const sent = chat.sendMessage({ text: 'wait' })
  await shows(chat, 'Re wait')
  scene.proxy.cutAll()
  await sent
  const again = chat.regenerate()
  await eventually(async () => chat.status === 'streaming')
  scene.goOn()
  await again
  expect(shownBy(chat)).toEqual(await stored(scene))
  expect(scene.asked).toEqual(['wait'])
})

test('two chats on one transport are told side by side, each its own (I5)', async () => {
  const scene = await openScene()
  const first = await socketChat(scene)
  const second = await socketChat({ ...scene, id: randomUUID() }, { transport: first.transport })
  const sent = [first.sendMessage({ text: 'wait one' }), second.sendMessage({ text: 'wait two' })]
  await Promise.all([shows(first, 'Re wait one'), shows(second, 'Re wait two')])
  scene.goOn()
  await Promise.all(sent)
  expect([...shownBy(first), ...shownBy(second)]).toEqual([
    ...['user: wait one', 'assistant: Re wait one, whole.'],
    ...['user: wait two', 'assistant: Re wait two, whole.'],
  ])
  expect(first.sockets).toHaveLength(1)
})

test('a second message waits its turn, and a second tab is told both replies (R2.6)', async () => {
  const scene = await openScene()
  const chat = await socketChat(scene)
  const sent = [chat.sendMessage({ text: 'wait' })]
  await shows(chat, 'Re wait')
  sent.push(chat.sendMessage({ text: 'second' }))
  await eventually(async () => (await stored(scene)).length === 4)
  const { messages } = await scene.ann.snapshot(scene.id)
  const loaded = messages.filter(({ role }) => role === 'user')
  const tab = await socketChat(scene, { messages: loaded })
  const resumed = tab.resumeStream()
  await eventually(async () => shownBy(tab).includes('assistant: Re wait'))
  scene.goOn()
  await Promise.all([...sent, resumed])
  for (const each of [chat, tab]) {
    expect(shownBy(each).toSorted()).toEqual((await stored(scene)).toSorted())
    expect(each.status).toBe('ready')
  }
  expect(scene.asked).toEqual(['wait', 'second'])
})

test('stop() and an unmount only stop looking; the stop route ends the reply on every socket (I11, P106)', async () => {
  const scene = await openScene()
  const chat = await socketChat(scene)
  const sent = chat.sendMessage({ text: 'wait' })
  await shows(chat, 'Re wait')
  await chat.stop()
  await sent
  expect(chat.status).toBe('ready')
  const other = await socketChat(scene, { messages: chat.messages.slice(0, 1) })
  const resumed = other.resumeStream()
  await shows(other, 'Re wait')
  expect((await scene.ann.snapshot(scene.id)).turns).toMatchObject([{ state: 'running' }])
  await scene.ann.request(`/api/chat/${scene.id}/stop`, { method: 'POST', body: '{}' })
  await resumed
  expect([other.status, shownBy(other)]).toEqual(['ready', ['user: wait', 'assistant: Re wait']])
  expect(await stored(scene)).toEqual(shownBy(other))
  await chat.sendMessage({ text: 'next' })
  expect(shownBy(chat).at(-1)).toBe('assistant: Re next, whole.')
  expect(chat.sockets).toHaveLength(1)
})

test('a reply that failed is a sentence, and regenerate() tries the same message again (I10)', async () => {
  const scene = await openScene()
  const chat = await socketChat(scene)
  await chat.sendMessage({ text: 'fail' })
  expect([chat.status, chat.error?.message]).toEqual(['error', expect.stringMatching(/^The model refused[^{]+\.$/)])
  await chat.regenerate()
  expect(scene.asked).toEqual(['fail', 'fail'])
  expect((await scene.ann.snapshot(scene.id)).messages.filter(({ role }) => role === 'user')).toHaveLength(1)
  expect(chat.sockets).toHaveLength(1)
})

test('a takeover is told as the step again, because this transport knows it (I9, P83, P105)', async () => {
  const scene = await openScene()
  const chat = await socketChat(scene)
  const sent = chat.sendMessage({ text: 'broken' })
  await shows(chat, 'Another beginning')
  scene.goOn()
  await sent
  expect([chat.status, shownBy(chat).at(-1)]).toEqual(['ready', 'assistant: Re broken, whole.'])
  expect(shownBy(chat)).toEqual(await stored(scene))
})

test('signed in by a header, it brings a ticket, which it asks for anew for each socket (P101)', async () => {
  const scene = await openScene()
  const origin = 'http://page.example'
  const tickets: string[] = []
  class OfPage extends WebSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      // Behind a proxy that passes on the host.
      super(url, protocols, { origin, headers: { host: 'page.example' } })
      onTestFinished(() => this.terminate())
    }
  }
  const params = async () => {
    const asked = { method: 'POST', headers: { origin }, body: '{}' }
    const { ticket } = (await (await scene.ann.request('/v1/realtime/tickets', asked)).json()) as { ticket: string }
    tickets.push(ticket)
    return { ticket }
  }
  const url = `${scene.through}/api/chat/ws`
  const transport = new WebSocketChatTransport({ url, params, webSocket: OfPage as never })
  const chat = await sdkChat(7, { url: scene.through, id: scene.id, transport })
  const sent = chat.sendMessage({ text: 'wait' })
  await shows(chat, 'Re wait')
  scene.proxy.cutAll()
  await sent
  scene.goOn()
  await chat.resumeStream()
  expect([chat.status, shownBy(chat)]).toEqual(['ready', await stored(scene)])
  expect(new Set(tickets).size).toBe(2)
})

test('what is refused is a sentence in an error, and the socket stays: rights, too many, what cannot be (I15, P35)', async () => {
  const scene = await openScene({ limits: { sendsPerMinute: 2 } })
  const chat = await socketChat(scene)
  await chat.sendMessage({ text: 'hello' })
  const bob = await socketChat(scene, { user: 'bob' })
  await bob.resumeStream()
  expect([bob.status, bob.messages]).toEqual(['ready', []])
  await bob.sendMessage({ text: 'let me in' })
  expect([bob.status, bob.error?.message]).toEqual(['error', 'There is nothing here that you may see.'])
  await chat.sendMessage({ text: 'second' })
  await chat.sendMessage({ text: 'third' })
  expect([chat.status, chat.error?.message]).toEqual(['error', expect.stringMatching(/^At most 2 messages a minute/)])
  await chat.sendMessage()
  expect(chat.error?.message).toMatch(/^At most 2 messages/)
  expect(await stored(scene)).toHaveLength(4)
  expect([chat.sockets.length, bob.sockets.length]).toEqual([1, 1])
})

test('a server that goes away closes with 1012, and another one goes on with the reply (I9)', async () => {
  const scene = await openScene()
  const chat = await socketChat(scene)
  const sent = chat.sendMessage({ text: 'wait' })
  await shows(chat, 'Re wait')
  const closing = scene.chat.close()
  expect(await chat.sockets[0]!.ended).toEqual({
    code: 1012,
    reason: 'This server is going away. Connect again; another one takes over.',
  })
  await Promise.all([sent, closing])
  expect([chat.status, chat.error?.message]).toEqual(['error', expect.stringContaining('code 1012')])
})

test('a socket on which nothing is open is dropped, 4408, and none that waits for a reply; the next send opens another (P103)', async () => {
  const scene = await openScene()
  const { through } = await serverWithTimes(scene, { idleMs: 200, pingEveryMs: 60_000, frameMs: 60_000 })
  const chat = await socketChat({ through, id: scene.id })
  const sent = chat.sendMessage({ text: 'wait' })
  await shows(chat, 'Re wait')
  const idle = await openRaw(`${through}/api/chat/ws`)
  expect((await idle.ended).code).toBe(4408)
  // Opened before that one, and asked for something since.
  scene.goOn()
  await sent
  expect([chat.status, chat.sockets.length]).toEqual(['ready', 1])
  expect((await chat.sockets[0]!.ended).code).toBe(4408)
  expect(chat.status).toBe('ready')
  await chat.sendMessage({ text: 'more' })
  expect(shownBy(chat)).toEqual(await stored(scene))
  expect(chat.sockets).toHaveLength(2)
})

// What a client could do that is none of the SDK's.

async function openOn(scene: Pick<Scene, 'url'>, user = 'ann'): Promise<RawSocket> {
  return await openRaw(`${scene.url}/api/chat/ws`, { headers: { authorization: `Bearer ${await tokenOf(user)}` } })
}

const sendOf = (id: string, text: string, requestId = 'r', more: object = {}) => ({
  ...{ type: 'send', requestId, id, trigger: 'submit-message', headers: {}, body: {} },
  messages: [{ id: randomUUID(), role: 'user', parts: [{ type: 'text', text }] }],
  ...more,
})
const isLast = ({ type }: { type: string }) => ['end', 'error', 'no-active'].includes(type)

test('each request has start, its chunks from 0 without a hole, and one end; nothing else is sent (P105)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene)
  socket.say(sendOf(scene.id, 'hello'))
  await socket.until(isLast)
  socket.say({ type: 'resume', requestId: 'again', id: scene.id, headers: {}, body: {}, lastSequence: 4 })
  await socket.until(({ type, requestId }) => type === 'end' && requestId === 'again')
  for (const requestId of ['r', 'again']) {
    const frames = framesOf(socket, requestId) as { type: string; sequence?: number; chunk?: { type: string } }[]
    expect([frames[0], frames.at(-1)]).toEqual([{ type: 'start' }, { type: 'end' }])
    const chunks = frames.slice(1, -1)
    expect(chunks.map(({ sequence }) => sequence)).toEqual(chunks.map((_, at) => at))
    expect([chunks[0]?.chunk?.type, chunks.at(-1)?.chunk?.type]).toEqual(['start', 'finish'])
  }
  expect(socket.frames).toHaveLength(framesOf(socket, 'r').length + framesOf(socket, 'again').length)
})

test('nothing is told after an abort, also of a message that is being accepted: it is stored, and answered (I1)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene)
  socket.say(sendOf(scene.id, 'wait'))
  socket.say({ type: 'abort', requestId: 'r' })
  await eventually(async () => (await scene.ann.snapshot(scene.id).catch(() => null))?.turns[0]?.state === 'running')
  expect(socket.frames).toEqual([])
  scene.goOn()
  // The id is free again.
  await eventually(async () => (await stored(scene))[1] === 'assistant: Re wait, whole.')
  socket.say({ type: 'resume', requestId: 'r', id: scene.id })
  await socket.until(isLast)
  expect(socket.frames[0]).toEqual({ type: 'start', requestId: 'r' })
})

/** Says two messages one right after the other, and answers the texts of the user's messages as they are stored. */
async function saidInARow(scene: Scene, socket: RawSocket, [first, second]: [object, object]): Promise<string[]> {
  socket.say({ ...first, requestId: 'first' })
  socket.say({ ...second, requestId: 'second' })
  const over = (id: string) => socket.until((frame) => isLast(frame) && frame.requestId === id)
  const ends = await Promise.all([over('first'), over('second')])
  expect(ends.map(({ type }) => type)).toEqual(['end', 'end'])
  return (await stored(scene)).filter((each) => each.startsWith('user'))
}

test('two sends in a row are accepted in their order, also where who asks is slow to be known (P105, I5)', async () => {
  let asked = 0
  let isKnown!: () => void
  const known = new Promise<void>((resolve) => {
    isKnown = resolve
  })
  const authenticate = async (request: Request) => {
    if (request.headers.get('x-socket') !== null && ++asked === 2) await known
    return { userId: 'ann' }
  }
  const scene = await openScene({ tokens: undefined, authenticate })
  const socket = await openRaw(`${scene.url}/api/chat/ws`, { headers: { 'x-socket': 'yes' } })
  const texts = saidInARow(scene, socket, [sendOf(scene.id, 'one'), sendOf(scene.id, 'two')])
  await eventually(async () => asked >= 2)
  // An abort, and what is asked on another socket, waits for nobody.
  socket.say({ type: 'abort', requestId: 'nobody' })
  const other = await openRaw(`${scene.url}/api/chat/ws`)
  other.say(sendOf(randomUUID(), 'other'))
  await other.until(({ type }) => type === 'end')
  expect(socket.frames).toEqual([])
  isKnown()
  expect(await texts).toEqual(['user: one', 'user: two'])
})

test('a message with a file of 2 MB is stored before the one that is sent right after it (P105, I5)', async () => {
  const scene = await openScene()
  const url = `data:image/png;base64,${Buffer.alloc(2_000_000, 7).toString('base64')}`
  const parts = [
    { type: 'text', text: 'one' },
    { type: 'file', mediaType: 'image/png', url },
  ]
  const first = { ...sendOf(scene.id, ''), messages: [{ id: randomUUID(), role: 'user', parts }] }
  expect(await saidInARow(scene, await openOn(scene), [first, sendOf(scene.id, 'two')])).toEqual([
    'user: one',
    'user: two',
  ])
})

test('frames that wait for who asks to be known are held for the user, 32 MB at most; others are served (P104)', async () => {
  const isKnown: (() => void)[] = []
  let asked = 0
  const authenticate = async (request: Request) => {
    const userId = request.headers.get('x-user') ?? 'ann'
    if (userId === 'eve' && ++asked > 1) await new Promise<void>((resolve) => isKnown.push(resolve))
    return { userId }
  }
  const scene = await openScene({ tokens: undefined, authenticate })
  const eve = await openRaw(`${scene.url}/api/chat/ws`, { headers: { 'x-user': 'eve' } })
  const old = { id: 'old', role: 'assistant', parts: [{ type: 'text', text: 'x'.repeat(12_000_000) }] }
  for (let n = 0; n < 3; n++) {
    const frame = sendOf(randomUUID(), 'hello', `r${n}`)
    eve.say({ ...frame, messages: [old, ...frame.messages] })
  }
  expect(await eve.ended).toEqual({ code: 4429, reason: expect.stringContaining('too much at once') })
  const bob = await openRaw(`${scene.url}/api/chat/ws`, { headers: { 'x-user': 'bob' } })
  bob.say(sendOf(randomUUID(), 'hello'))
  await bob.until(({ type }) => type === 'end')
  while (asked < 3) {
    for (const each of isKnown.splice(0)) each()
    await scene.ann.snapshot(scene.session)
  }
  for (const each of isKnown) each()
})

test('of the headers in a frame nothing is read: who asks is who opened the socket (I15, P106)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene, 'bob')
  const headers = { authorization: `Bearer ${await tokenOf('ann')}`, cookie: 'holdfast_guest=x', 'x-ai-sdk': '6' }
  socket.say(sendOf(scene.id, 'hello', 'r', { headers }))
  await socket.until(isLast)
  expect((await (await apiOf(scene.url, 'bob')).snapshot(scene.id)).messages).toHaveLength(2)
  await expect(scene.ann.snapshot(scene.id)).rejects.toThrow('not_found')
})

test('whenBusy stands in the body, as over HTTP (P33, P80)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene)
  socket.say(sendOf(scene.id, 'wait', 'first'))
  await socket.until(({ type }) => type === 'chunk')
  socket.say(sendOf(scene.id, 'no', 'second', { body: { whenBusy: 'reject' } }))
  const refused = await socket.until(({ type }) => type === 'error')
  expect(refused).toEqual({ type: 'error', requestId: 'second', errorText: expect.stringContaining('being written') })
})

const unreadable: [what: string, frame: object | string | Buffer][] = [
  ['no JSON', '{"type":'],
  ['no object', '[]'],
  ['no type', { requestId: 'r' }],
  ['no requestId', { type: 'ping' }],
  ['an endless requestId', { type: 'abort', requestId: 'r'.repeat(129) }],
  ['bytes', Buffer.from('{"type":"abort","requestId":"r"}')],
]
test.each(unreadable)('a frame with %s closes the socket: 4400 and a sentence (P104)', async (_what, frame) => {
  const socket = await openOn(await openScene())
  if (frame instanceof Buffer) socket.ws.send(frame, { binary: true })
  else socket.say(frame)
  expect(await socket.ended).toEqual({ code: 4400, reason: expect.stringMatching(/^Expected [^{]+\.$/) })
})

test('a frame that asks for what cannot be is an error of its request alone (P104)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene)
  const wrong: [object, RegExp][] = [
    [{ type: 'subscribe' }, /^Expected a frame of type "send", "resume" or "abort"\.$/],
    [sendOf('no/id', 'hi'), /^"id": expected 1 to 128/],
    [{ ...sendOf(scene.id, 'hi'), messages: [] }, /^"messages": expected a message of the user\.$/],
    [{ ...sendOf(scene.id, 'hi'), body: { whenBusy: 'shout' } }, /^"whenBusy"/],
    [{ ...sendOf(scene.id, 'hi'), messages: [{ id: 'a', role: 'assistant', parts: [] }] }, /^Nothing waits for this/],
  ]
  for (const [at, [frame, sentence]] of wrong.entries()) {
    socket.say({ ...frame, requestId: `r${at}` })
    const { errorText } = await socket.until(({ requestId }) => requestId === `r${at}`)
    expect(errorText).toMatch(sentence)
  }
  socket.say({ type: 'resume', requestId: 'bad', id: '../etc' })
  await socket.until(({ type, requestId }) => type === 'no-active' && requestId === 'bad')
  socket.say(sendOf(scene.id, 'hello', 'last'))
  await socket.until(({ type }) => type === 'end')
})

test('a requestId that is in use is not taken twice (P105)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene)
  socket.say(sendOf(scene.id, 'wait'))
  socket.say({ type: 'resume', requestId: 'r', id: scene.id })
  expect(await socket.ended).toEqual({ code: 4400, reason: expect.stringContaining('requestId') })
})

test('5 MB of history are taken and not read; more than 16 MB end the socket: 1009 (P104)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene)
  const old = { id: 'old', role: 'assistant', parts: [{ type: 'text', text: 'x'.repeat(5_000_000) }] }
  const frame = sendOf(scene.id, 'hello')
  socket.say({ ...frame, messages: [old, ...frame.messages] })
  await socket.until(({ type }) => type === 'end')
  socket.say(sendOf(scene.id, 'x'.repeat(limits.chatRequestBytesMax)))
  expect(await socket.ended).toEqual({ code: 1009, reason: '' })
})

test('a frame in more than 16,384 pieces ends the socket: 1008 (P102)', async () => {
  const socket = await openOn(await openScene())
  for (let n = 0; n <= 16_384; n++) socket.ws.send('', { fin: false })
  expect(await socket.ended).toEqual({ code: 1008, reason: '' })
})

test('at most 32 requests are open on one socket; one more is an error, and when one has ended it may be (P104)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene)
  socket.say(sendOf(scene.id, 'wait', 'r0'))
  await socket.until(({ type }) => type === 'chunk')
  for (let at = 1; at <= limits.socketRequestsMax; at++) {
    socket.say({ type: 'resume', requestId: `r${at}`, id: scene.id })
  }
  const refused = await socket.until(({ type }) => type === 'error')
  expect(refused).toEqual({
    type: 'error',
    requestId: `r${limits.socketRequestsMax}`,
    errorText: 'At most 32 requests may be open on one socket. Wait until one has ended.',
  })
  await socket.until(({ type, requestId }) => type === 'start' && requestId === 'r1')
  socket.say({ type: 'abort', requestId: 'r1' })
  socket.ws.ping()
  await once(socket.ws, 'pong')
  socket.say({ type: 'resume', requestId: 'more', id: scene.id })
  await socket.until(({ requestId }) => requestId === 'more')
  scene.goOn()
  await socket.until(({ type, requestId }) => type === 'end' && requestId === 'more')
})

test('what is given up while it is accepted counts until it is: nobody makes more work than 32 at a time (P104)', async () => {
  const scene = await openScene()
  const socket = await openOn(scene)
  for (let at = 0; at < 200; at++) {
    socket.say(sendOf(scene.id, `hello ${at}`, `r${at}`))
    socket.say({ type: 'abort', requestId: `r${at}` })
  }
  let tries = 0
  await eventually(async () => {
    const requestId = `last${tries++}`
    socket.say({ type: 'resume', requestId, id: scene.id })
    return (await socket.until((frame) => isLast(frame) && frame.requestId === requestId)).type === 'end'
  })
  const accepted = (await query(scene, `select 1 from holdfast.turns where session_id = $1`, [scene.id])).length
  expect([accepted >= limits.socketRequestsMax, accepted < 100]).toEqual([true, true])
})

test('a reader that takes nothing and asks for ever more is closed: 4429; others are told as ever (P104)', async () => {
  const scene = await openScene()
  const [slow, honest] = [await openOn(scene), await openOn(scene)]
  slow.ws.pause()
  // Answers of 23 MB: more than the kernel holds for a reader, and 1 MB.
  const idOf = (n: number) => String(n).padEnd(limits.requestIdCharactersMax, '.')
  for (let n = 0; n < 100_000; n++) slow.say({ type: 'unknown', requestId: idOf(n) })
  honest.say(sendOf(scene.id, 'hello'))
  await honest.until(({ type }) => type === 'end')
  slow.ws.resume()
  expect((await slow.ended).code).toBe(4429)
})

test('a reply of 900 KB reaches a slow reader whole: it is waited for (I7)', async () => {
  const scene = await openScene()
  const first = await openOn(scene)
  first.say(sendOf(scene.id, 'long'))
  await first.until(isLast)
  scene.proxy.trickle('down', 2_000_000)
  const chat = await socketChat(scene, { messages: (await scene.ann.snapshot(scene.id)).messages.slice(0, 1) })
  await chat.resumeStream()
  expect([chat.status, shownBy(chat)]).toEqual(['ready', await stored(scene)])
})

test('fourteen replies of 900 KB reach a slow reader on one socket, each in its time (I7, P104)', async () => {
  let asked = 0
  const authenticate = (request: Request) => {
    if (request.headers.get('x-slow') !== null) asked++
    return { userId: 'ann' }
  }
  const scene = await openScene({ tokens: undefined, authenticate })
  const first = await openRaw(`${scene.url}/api/chat/ws`)
  const ids = Array.from({ length: 14 }, () => randomUUID())
  const all = (socket: RawSocket) =>
    Promise.all(ids.map((id) => socket.until((frame) => frame.requestId === id && isLast(frame))))
  for (const id of ids) first.say(sendOf(id, 'long', id))
  await all(first)
  const slow = await openRaw(`${scene.url}/api/chat/ws`, { headers: { 'x-slow': 'yes' } })
  slow.ws.pause()
  for (const id of ids) slow.say({ type: 'resume', requestId: id, id })
  // Until all are accepted, and all but what the kernel holds waits there.
  await eventually(async () => asked === 1 + ids.length)
  first.say(sendOf(randomUUID(), 'hello', 'later'))
  await first.until((frame) => frame.requestId === 'later' && isLast(frame))
  slow.ws.resume()
  expect((await all(slow)).map(({ type }) => type)).toEqual(ids.map(() => 'end'))
})

test('who loses their membership is told nothing more within 5 s (I15, P13)', async () => {
  const scene = await openScene()
  await openToBob(scene)
  const bob = await openOn(scene, 'bob')
  bob.say({ type: 'resume', requestId: 'r', id: scene.session })
  await bob.until(({ type }) => type === 'chunk')
  await query(scene, `delete from holdfast.members where user_id = 'bob'`)
  const sinceMs = performance.now()
  const { errorText } = await bob.until(isLast)
  expect([errorText, performance.now() - sinceMs < 5_500]).toEqual([expect.stringMatching(/^The connection/), true])
  scene.goOn()
  await scene.watcher.until(({ type }) => type === 'message.ai_response')
  expect(bob.frames.at(-1)?.type).toBe('error')
})

async function query({ database }: Scene, text: string, values: unknown[] = []): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: database })
  await client.connect()
  const { rows } = await client.query(text, values)
  await client.end()
  return rows
}

/** Bob is a member of ann's session, where a reply is being written. */
async function openToBob(scene: Scene): Promise<void> {
  await query(
    scene,
    `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, 'bob', 'member')`,
    [scene.session],
  )
  await scene.ann.send(scene.session, 'wait')
  await scene.watcher.until(({ type }) => type === 'chunk')
}

test('who signs out says nothing more on a socket that is open: 4401, and nothing is stored (P106, I15)', async () => {
  let signedIn: string | null = 'ann'
  const authenticate = (request: Request) => {
    const userId = request.headers.get('x-session') === 'of ann' ? signedIn : 'ann'
    return userId === null ? null : { userId }
  }
  const scene = await openScene({ tokens: undefined, authenticate })
  for (const then of [null, 'bob']) {
    signedIn = 'ann'
    const socket = await openRaw(`${scene.url}/api/chat/ws`, { headers: { 'x-session': 'of ann' } })
    socket.say(sendOf(scene.id, 'hello', 'r1'))
    await socket.until(({ type }) => type === 'end')
    const before = await stored(scene)
    signedIn = then
    socket.say(sendOf(scene.id, 'again', 'r2'))
    expect((await socket.ended).code).toBe(4401)
    expect(await stored(scene)).toEqual(before)
  }
})

test('a socket ends with the token that opened it: 4401 (P12)', async () => {
  const scene = await openScene()
  const token = await tokenOf('ann', { expiresIn: Math.floor(Date.now() / 1_000) + 2 })
  const socket = await openRaw(`${scene.url}/api/chat/ws`, { headers: { authorization: `Bearer ${token}` } })
  socket.say(sendOf(scene.id, 'wait'))
  await socket.until(({ type }) => type === 'chunk')
  expect(await socket.ended).toEqual({ code: 4401, reason: 'Sign in, or get a new ticket, then connect again.' })
})
