/** Many sessions on one connection: over the socket, the stream and the long poll, through a proxy that cuts. */
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { expect, onTestFinished, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { createFollows, type Out } from '../../src/http/follows.ts'
import type { Reply } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import { apiOf, type Frame, isOutcomeOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import {
  type Carry,
  type ManyFrame,
  overLongPoll,
  overSocket,
  overStream,
  sessionsQuery,
  subprotocol,
  watchMany,
} from '../support/many.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProxy } from '../support/proxy.ts'
import { startServer, tokenOf } from '../support/server.ts'
import { openRaw } from '../support/socket.ts'
import { engineOf } from '../support/timed.ts'

const words = 'The quick brown fox jumps over the lazy dog and comes back for more of the same.'.split(' ')
const spoken: Reply = async function* ({ message }) {
  yield `Re ${message.parts.map((part) => ('text' in part ? part.text : '')).join('')}:`
  for (const word of words) {
    await new Promise((resolve) => setTimeout(resolve, 5))
    yield ` ${word}`
  }
}
const wholeOf = (text: string) => `Re ${text}: ${words.join(' ')}`

async function openScene() {
  const opened = await openChat({ reply: spoken, limits: { sendsPerMinute: 0 } })
  const { hostname, port } = new URL(opened.url)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  onTestFinished(() => proxy.close())
  const sessions = [opened.session, await opened.ann.createSession(), await opened.ann.createSession()]
  return { ...opened, proxy, through: () => `http://${proxy.host}:${proxy.port}`, sessions }
}

const transports: [string, (url: () => string) => Carry][] = [
  ['the socket', overSocket],
  ['the stream', overStream],
  ['the long poll', overLongPoll],
]

test.each(transports)(
  'over %s each session is told whole and in order, whatever byte the connection is cut at (I5, I7, P121, P130, P132)',
  async (_name, carry) => {
    const { ann, proxy, through, sessions } = await openScene()
    const many = watchMany(sessions, carry(through))
    const sent = []
    let seed = 7
    for (let round = 0; round < 4; round++) {
      for (const session of sessions) sent.push({ session, ...(await ann.send(session, `${round}`)) })
      // Anywhere in what is told next, from the head of a frame to far into it.
      seed = (seed * 48_271) % 2_147_483_647
      proxy.cutAfter('down', seed % 4_000)
    }
    for (const { session, message, reply } of sent) {
      await many.of(session).outcome(message.id)
      expect(many.of(session).text(reply.id)).toBe(wholeOf(textOf(message.parts)))
    }
    expect(many.problems()).toEqual([])
    expect(proxy.counts.cut).toBeGreaterThan(0)
    for (const session of sessions) {
      const seqs = many.of(session).frames.flatMap(({ seq }) => (seq === undefined ? [] : [seq as number]))
      expect(seqs).toEqual(seqs.map((_, at) => at + 1))
    }
  },
)

test('what goes on in one process is followed in another, also when that one is killed (I5, P121)', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const [first, second] = [await startServer({ database: database.url }), await startServer({ database: database.url })]
  const ann = await apiOf(first.url)
  const sessions = [await ann.createSession(), await ann.createSession()]
  let url = second.url
  const many = watchMany(
    sessions,
    overSocket(() => url),
  )
  const sent = await Promise.all(sessions.map((session) => ann.send(session, 'hello')))
  await many.of(sessions[0]!).until(({ type }) => type === 'chunk')
  url = first.url
  await second.kill()
  for (const [at, { message }] of sent.entries()) await many.of(sessions[at]!).outcome(message.id)
  expect(many.problems()).toEqual([])
  expect(many.connections()).toBeGreaterThan(1)
})

test('a session with much to tell does not hide the others (P122)', async () => {
  const { url, chat, sessions } = await openScene()
  const [large, small] = sessions as [string, string]
  // More than one page of the log, and far more than a socket holds.
  for (let at = 0; at < 60; at++) await chat.say(large, { id: randomUUID(), text: 'x'.repeat(90_000) })
  const many = watchMany(
    [large, small],
    overSocket(() => url),
  )
  await many.of(small).until(({ type }) => type === 'caught-up')
  expect(many.of(large).frames.length).toBeLessThan(30)
  await many.of(large).until(({ type }) => type === 'caught-up')
  expect(many.of(large).frames).toHaveLength(61)
  expect(many.problems()).toEqual([])
})

test('of many sessions with much to tell no more than one page is read for a reader without room (P104, P122)', async () => {
  const { ann, database, chat } = await openScene()
  const ids = await Promise.all(Array.from({ length: 8 }, () => ann.createSession()))
  for (const id of ids)
    for (let at = 0; at < 7; at++) await chat.say(id, { id: randomUUID(), text: 'x'.repeat(90_000) })
  const { parts } = await engineOf(database)
  let waiting = 0
  let most = 0
  let over!: () => void
  const all = new Promise<void>((resolve) => {
    over = resolve
  })
  let caughtUp = 0
  const drained = async () => {
    await new Promise((resolve) => setTimeout(resolve, 20))
    waiting = 0
  }
  const out: Out = {
    say(frames) {
      for (const { length } of frames) waiting += length
      most = Math.max(most, waiting)
    },
    word: ({ type }) => void (type === 'caught-up' && ++caughtUp === ids.length && over()),
    refused: (_named, error) => expect(error).toBe(undefined),
    // Takes what waits a while later, all at once.
    room: () => (waiting === 0 ? null : drained()),
    hold: () => () => undefined,
  }
  const follows = createFollows(parts, { tenantId: 'default', userId: 'ann' }, out)
  onTestFinished(() => follows.stop())
  for (const sessionId of ids) follows.follow({ sessionId })
  await all
  expect(most).toBeLessThan(700_000)
})

/** What is told of one session from a cursor, until there is no more: events and chunks. */
async function toldBy(carry: Carry, sessionId: string, cursor: string | undefined): Promise<Frame[]> {
  const control = new AbortController()
  const frames: Frame[] = []
  const take = ({ sessionId: of, ...frame }: ManyFrame) => {
    if (of !== sessionId) return
    if (frame.type === 'caught-up') control.abort()
    else if (frame.type !== 'following') frames.push(frame)
  }
  await carry([{ sessionId, cursor }], take, control.signal).catch(() => undefined)
  return frames
}

test('from whatever cursor, the frames over socket, stream and long poll are those of the session’s own stream (P120)', async () => {
  const { ann, url, session, watcher } = await openScene()
  const sent = [await ann.send(session, 'one'), await ann.send(session, 'two')]
  await watcher.outcome(sent[1]!.message.id)
  const cursors = [undefined, ...watcher.frames.flatMap(({ cursor }) => (cursor === undefined ? [] : [cursor]))]
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...cursors), async (cursor) => {
      const own = await ann.poll(session, cursor === undefined ? {} : { cursor })
      for (const [, carry] of transports) {
        const wait = carry === overLongPoll ? overLongPoll(() => url, 'ann', 0) : carry(() => url)
        expect(await toldBy(wait, session, cursor)).toEqual(own.frames)
      }
    }),
    { numRuns: 12 },
  )
})

test('live, the socket and the stream tell the very frames that the session’s own stream tells (P120, P130)', async () => {
  const { ann, url, session, watcher } = await openScene()
  const many = [overSocket, overStream].map((carry) =>
    watchMany(
      [session],
      carry(() => url),
    ).of(session),
  )
  for (const each of [watcher, ...many]) await each.until(({ type }) => type === 'caught-up')
  const { message } = await ann.send(session, 'hello')
  for (const each of [watcher, ...many]) await each.until((frame) => isOutcomeOf(frame, message.id))
  for (const each of many) expect(each.frames).toEqual(watcher.frames)
})

test('a query that names a session twice, too many, or nothing is refused; what cannot be told is said in frames (P131)', async () => {
  const { ann, session } = await openScene()
  const zoe = await apiOf(new URL((await ann.request('/livez')).url).origin, 'zoe')
  const foreign = await zoe.createSession()
  const poll = async (query: string) => {
    const response = await ann.request(`/v1/events?wait=0&${query}`, { headers: { accept: 'application/json' } })
    return { status: response.status, ...((await response.json()) as { frames: ManyFrame[]; cursors: object }) }
  }
  const many = Array.from({ length: 101 }, (_, at) => ({ sessionId: `s${at}`, cursor: undefined }))
  for (const query of ['', `sessions=${session},${session}`, `sessions=${sessionsQuery(many)}`]) {
    expect(await poll(query)).toMatchObject({ status: 400, code: 'invalid_request' })
  }
  const { frames, cursors } = await poll(`sessions=${session},${foreign},missing@now,bad@x,..`)
  const codes = frames.flatMap(({ type, sessionId, problem }) =>
    type === 'problem' ? [[sessionId, problem.code]] : [],
  )
  expect(Object.fromEntries(codes)).toEqual({
    [foreign]: 'not_found',
    missing: 'not_found',
    bad: 'bad_cursor',
    '..': 'not_found',
  })
  expect(Object.keys(cursors)).toEqual([session])
})

test('a session that is followed from two places on one connection is told from each, under its ref (P130, P132)', async () => {
  const { ann, session } = await openScene()
  const { cursor: early } = await ann.snapshot(session)
  const { message } = await ann.send(session, 'hello')
  await ann.watch(session).until((frame) => isOutcomeOf(frame, message.id))
  const { cursor: late } = await ann.snapshot(session)
  const sessions = `${session}@${early}@first,${session}@${late}@second`
  const poll = async (query: string) => {
    const response = await ann.request(`/v1/events?${query}`, { headers: { accept: 'application/json' } })
    return {
      status: response.status,
      ...((await response.json()) as { frames: (ManyFrame & { ref?: string })[]; cursors: Record<string, string> }),
    }
  }
  const { frames, cursors } = await poll(`wait=0&sessions=${sessions}`)
  expect(cursors).toEqual({ first: late, second: late })
  expect(frames.map(({ ref, sessionId }) => [ref, sessionId])).toEqual(frames.map(() => ['first', session]))
  expect(frames.at(-1)).toMatchObject({ type: 'message.ai_response', cursor: late })
  const control = new AbortController()
  const stream = await ann.request(`/v1/events?sessions=${sessions}`, { signal: control.signal })
  let seen = ''
  for await (const piece of stream.body!.pipeThrough(new TextDecoderStream())) {
    seen += piece
    if (seen.split('"caught-up"').length > 2) break
  }
  control.abort()
  const told = seen.split('\n').flatMap((line) => (line.startsWith('data: ') ? [JSON.parse(line.slice(6))] : []))
  const ofRef = (name: string) => told.filter(({ ref }) => ref === name).map(({ type }) => String(type))
  expect(ofRef('second')).toEqual(['following', 'caught-up'])
  expect(ofRef('first')).toEqual(['following', ...frames.map(({ type }) => type), 'caught-up'])
  for (const refs of [
    ['a', 'a'],
    ['a', ''],
    ['a', 'b c'],
    ['a', 'ä'],
  ]) {
    const query = refs.map((ref) => `${session}@${late}@${encodeURIComponent(ref)}`).join(',')
    expect(await poll(`wait=0&sessions=${query}`)).toMatchObject({ status: 400, code: 'invalid_request' })
  }
})

test('a server that goes away says so once to a stream and to a long poll, with where each session stands (P130, P132)', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const server = await startServer({ database: database.url })
  const ann = await apiOf(server.url)
  const sessions = [await ann.createSession(), await ann.createSession()]
  const cursors = Object.fromEntries(
    await Promise.all(sessions.map(async (id) => [id, (await ann.snapshot(id)).cursor] as const)),
  )
  const query = `sessions=${sessionsQuery(sessions.map((sessionId) => ({ sessionId, cursor: cursors[sessionId] })))}`
  const polled = ann.request(`/v1/events?wait=30&${query}`, { headers: { accept: 'application/json' } })
  const lists = await ann.request('/v1/events?list=1')
  const stream = await ann.request(`/v1/events?list=1&${query}`)
  // Asked after the poll, so when it is told all the poll is, too.
  const [first, second] = stream.body!.tee()
  let seen = ''
  for await (const piece of first.pipeThrough(new TextDecoderStream())) {
    seen += piece
    if (seen.split('"caught-up"').length > 2) break
  }
  const told = new Response(second).text()
  const stopped = server.stop()
  for (const text of [await told, await lists.text()]) expect(text.match(/"type":"reconnect"/g)).toHaveLength(1)
  expect(await (await polled).json()).toEqual({ frames: [{ type: 'reconnect', afterMs: 250 }], cursors })
  expect(await stopped).toBe(0)
})

test('while the database is away a follow is told to ask again, a stream to come back, and what is followed goes on (I5, P122, P130)', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const through = new URL(database.url)
  const proxy = await startProxy({ target: { host: through.hostname, port: Number(through.port) } })
  onTestFinished(() => proxy.close())
  through.host = `${proxy.host}:${proxy.port}`
  const server = await startServer({ database: through.href })
  const ann = await apiOf(server.url)
  const [followed, asked] = [await ann.createSession(), await ann.createSession()]
  const many = watchMany(
    [followed],
    overSocket(() => server.url),
  )
  await many.of(followed).until(({ type }) => type === 'caught-up')
  const socket = await openRaw(`${server.url}/v1/realtime`, {
    protocols: [subprotocol],
    headers: { authorization: `Bearer ${await tokenOf('ann')}` },
  })
  proxy.refuse()
  proxy.cutAll()
  socket.say({ type: 'follow', sessionId: asked, ref: 'away' })
  const { problem } = await socket.until(({ ref }) => ref === 'away')
  expect(problem).toMatchObject({ code: 'unavailable', retryable: true, retryAfterMs: 1_000 })
  const stream = await ann.request(`/v1/events?sessions=${asked}`)
  expect(await stream.text()).toContain('{"type":"reconnect","afterMs":1000}')
  proxy.accept()
  await eventually(async () => {
    const ref = randomUUID()
    socket.say({ type: 'follow', sessionId: asked, ref })
    return (await socket.until((frame) => frame.ref === ref)).type === 'following'
  })
  const { message } = await eventually(() => ann.send(followed, 'hello', 'one-id'))
  await many.of(followed).outcome(message.id)
  expect([many.problems(), many.connections()]).toEqual([[], 1])
})

test('a stream with nothing left to tell ends, and a browser’s own coming back is ended (P130, P131)', async () => {
  const { ann } = await openScene()
  const response = await ann.request('/v1/events?sessions=missing')
  const text = await response.text()
  const id = /^id: (.*)$/m.exec(text)![1]!
  expect(text).toContain('"type":"problem"')
  const again = await ann.request('/v1/events?sessions=missing', { headers: { 'last-event-id': id } })
  expect(again.status).toBe(204)
})

test('a long poll that is full answers a place for each session, also for those that it did not come to (P132)', async () => {
  const long = 'x'.repeat(20_000)
  const opened = await openChat({
    limits: { sendsPerMinute: 0 },
    async *reply() {
      for (let at = 0; at < 20; at++) yield long
    },
  })
  const { ann, session, watcher } = opened
  const { message } = await ann.send(session, 'long, please')
  await watcher.outcome(message.id)
  const others = await Promise.all(Array.from({ length: 99 }, () => ann.createSession()))
  const ids = [session, ...others]
  const query = sessionsQuery(ids.map((sessionId) => ({ sessionId, cursor: undefined })))
  for (let more: string | null = query; more !== null; ) {
    const response = await ann.request(`/v1/events?wait=0&sessions=${more}`, {
      headers: { accept: 'application/json' },
    })
    const { frames, cursors } = (await response.json()) as { frames: Frame[]; cursors: Record<string, string> }
    expect(Object.keys(cursors).sort()).toEqual([...ids].sort())
    more =
      frames.length === 0 ? null : sessionsQuery(ids.map((sessionId) => ({ sessionId, cursor: cursors[sessionId] })))
  }
})
