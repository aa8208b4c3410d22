/** The socket layer by itself: what every socket is held to, whatever is said on it. With times that a test can wait for. */
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo, Socket as NetSocket } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { type WebSocket, WebSocketServer } from 'ws'
import { closes, requestErrors } from '../../src/core/errors.ts'
import { limits } from '../../src/core/limits.ts'
import { holdBytes, releaseBytes, tooMuchAtOnce } from '../../src/http/body.ts'
import { Problem, problemOf } from '../../src/http/problem.ts'
import { createSockets, type Hear, type Socket, type Sockets, type SocketTimes } from '../../src/http/socket.ts'
import { tooMuchOfYours, tooSlowly } from '../../src/http/socket-frames.ts'
import { eventually } from '../support/eventually.ts'
import { startProxy } from '../support/proxy.ts'
import { openRaw, type RawSocket } from '../support/socket.ts'

const frameBytesMax = limits.chatRequestBytesMax

type Scene = {
  url: string
  port: number
  sockets: Sockets
  /** Opens a socket as this user, and answers both ends of it. */
  meet(userId?: string, through?: string): Promise<{ client: RawSocket; server: Socket; raw: NetSocket; ws: WebSocket }>
  server: Server
}

async function openScene({
  speak = () => () => undefined,
  expiresAt,
  ...times
}: Partial<SocketTimes> & { speak?: (socket: Socket) => Hear; expiresAt?: number } = {}): Promise<Scene> {
  const sockets = createSockets({ pingEveryMs: 60_000, idleMs: 60_000, frameMs: 60_000, ...times })
  const upgrades = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    autoPong: false,
    maxPayload: frameBytesMax,
  })
  const server = createServer()
  const opened: ((met: { server: Socket; raw: NetSocket; ws: WebSocket }) => void)[] = []
  server.on('upgrade', (incoming, raw, head) => {
    upgrades.handleUpgrade(incoming, raw, head, (ws) => {
      const userId = new URL(incoming.url!, 'http://localhost').searchParams.get('user')!
      const principal = { tenantId: 'default', userId, ...(expiresAt === undefined ? {} : { expiresAt }) }
      const told = (server: Socket) => {
        opened.shift()?.({ server, raw: raw as NetSocket, ws })
        return speak(server)
      }
      sockets.open(ws, raw, { principal, speak: told, refusalOf: problemOf })
    })
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}`
  onTestFinished(async () => {
    sockets.stop()
    await once(server.close(), 'close')
  })
  return {
    url,
    port,
    sockets,
    server,
    async meet(userId = 'ann', through = url) {
      const met = new Promise<{ server: Socket; raw: NetSocket; ws: WebSocket }>((resolve) => opened.push(resolve))
      const client = await openRaw(`${through}/?user=${userId}`)
      return { client, ...(await met) }
    },
  }
}

const countOf = (server: Server) =>
  new Promise<number>((resolve, reject) => server.getConnections((error, n) => (error ? reject(error) : resolve(n))))

test('who answers no ping is gone with the third; who answers stays (P103)', async () => {
  const { meet, port } = await openScene({ pingEveryMs: 30 })
  const proxy = await startProxy({ target: { host: '127.0.0.1', port } })
  onTestFinished(() => proxy.close())
  const [there, away] = [await meet(), await meet('ann', `http://${proxy.host}:${proxy.port}`)]
  let pings = 0
  const answered = new Promise<void>((resolve) => there.client.ws.on('ping', () => ++pings === 6 && resolve()))
  // Half-open: what is sent is taken, and nothing comes back.
  proxy.hang('up')
  const sinceMs = performance.now()
  await once(away.server.ended, 'abort')
  expect(performance.now() - sinceMs).toBeGreaterThanOrEqual(80)
  await answered
  expect(there.server.ended.aborted).toBe(false)
})

test('a socket that nobody holds is dropped: 4408; one that is held is not, and rests when the last has let go (P103)', async () => {
  const { meet } = await openScene({ idleMs: 60 })
  const [idle, held] = [await meet(), await meet()]
  const [first, second] = [held.server.hold(), held.server.hold()]
  expect(await idle.client.ended).toEqual({ code: 4408, reason: closes[4408].sentence })
  first()
  // Let go twice counts once.
  first()
  const later = await meet()
  await later.client.ended
  expect(held.server.ended.aborted).toBe(false)
  second()
  expect((await held.client.ended).code).toBe(4408)
})

test('what is sent comes in order; after the end it is dropped, and nobody waits for ever', async () => {
  const { meet } = await openScene()
  const { client, server } = await meet()
  server.send(['{"type":"a"}', '{"type":"b"}'])
  server.send(['{"type":"c"}'])
  await client.until(({ type }) => type === 'c')
  expect(client.frames.map(({ type }) => type)).toEqual(['a', 'b', 'c'])
  server.close(4404)
  server.send(['{"type":"d"}'])
  expect([server.isFull(), await server.whenDrained()]).toEqual([false, undefined])
  expect(await client.ended).toEqual({ code: 4404, reason: closes[4404].sentence })
  expect(client.frames).toHaveLength(3)
})

/** Fills what the kernel holds for a reader that reads nothing, until something waits here. */
function fill({ server }: { server: Socket }, frame: string): void {
  while (!server.isFull()) server.send([frame])
}
const frameOf = (bytes: number) => JSON.stringify({ type: 'fill', text: 'x'.repeat(bytes) })

test('a slow reader is full from 256 KB on, and has room again when it has read (P104)', async () => {
  const { meet } = await openScene()
  const met = await meet()
  met.client.ws.pause()
  fill(met, frameOf(50_000))
  expect(met.ws.bufferedAmount).toBeLessThan(limits.sendBufferBytesMax + 51_000)
  const drained = Promise.all([met.server.whenDrained(), met.server.whenDrained()])
  met.client.ws.resume()
  await drained
  expect([met.server.isFull(), met.ws.bufferedAmount]).toEqual([false, 0])
})

test('who is to be sent more while over 1 MB waits is closed, 4429; one whole reply may wait (P104)', async () => {
  const { meet } = await openScene()
  const met = await meet()
  met.client.ws.pause()
  fill(met, frameOf(50_000))
  met.server.send([frameOf(limits.replyBytesMax)])
  expect(met.server.ended.aborted).toBe(false)
  met.server.send(['{"type":"more"}'])
  expect(met.server.ended.aborted).toBe(true)
  met.client.ws.resume()
  expect((await met.client.ended).code).toBe(4429)
})

test('what has waited for room closes nobody, however much waits (P104)', async () => {
  const { meet } = await openScene()
  const met = await meet()
  met.client.ws.pause()
  fill(met, frameOf(50_000))
  met.server.sendWaited([frameOf(limits.socketBufferBytesMax), frameOf(10)])
  met.server.sendWaited(['{"type":"last"}'])
  expect(met.server.ended.aborted).toBe(false)
  met.client.ws.resume()
  await met.client.until(({ type }) => type === 'last')
})

test('answers to pings are not collected for who does not read them: 4429 (P104)', async () => {
  const { meet } = await openScene()
  const met = await meet()
  met.client.ws.pause()
  fill(met, frameOf(50_000))
  met.server.send([frameOf(limits.replyBytesMax)])
  met.client.ws.ping('there?')
  await once(met.server.ended, 'abort')
  met.client.ws.resume()
  expect((await met.client.ended).code).toBe(4429)
})

test('a frame over its bound ends the socket, 1009, and a broken one 1002; the server stays (P104)', async () => {
  const heard: string[] = []
  const { meet } = await openScene({ speak: () => (text) => heard.push(text) })
  const [large, broken] = [await meet(), await meet()]
  large.client.ws.send('x'.repeat(frameBytesMax))
  large.client.ws.send('x'.repeat(frameBytesMax + 1))
  expect((await large.client.ended).code).toBe(1009)
  expect(heard.map(({ length }) => length)).toEqual([frameBytesMax])
  // A frame that is not masked, and one of a kind that there is not.
  rawOf(broken.client).write(Buffer.from([0x8f, 0x01, 0x41]))
  expect((await broken.client.ended).code).toBe(1002)
  expect((await meet()).server.ended.aborted).toBe(false)
})

const rawOf = ({ ws }: RawSocket) => (ws as unknown as { _socket: NetSocket })._socket

test('a frame that cannot be read closes with its code and its sentence, and what goes wrong here without words', async () => {
  const speak = () => (text: string) => {
    if (text === 'bad') throw new Problem('invalid_request', `Expected a frame, got ${'ü'.repeat(200)}.`)
    if (text === 'lost') throw new Problem('not_found')
    throw new Error('of our own')
  }
  const { meet } = await openScene({ speak })
  const ended = []
  for (const text of ['bad', 'lost', 'other']) {
    const { client } = await meet()
    client.say(text)
    ended.push(await client.ended)
  }
  expect(ended).toMatchObject([{ code: 4400 }, { code: 4404, reason: closes[4404].sentence }, { code: 1011 }])
  expect(ended[0]!.reason).toMatch(/^Expected a frame, got ü+$/)
  expect(ended[2]!.reason).not.toContain('own')
})

test('nothing is heard after the end, also not what was on its way (P102)', async () => {
  const heard: string[] = []
  const { meet } = await openScene({ speak: (socket) => (text) => heard.push(text) && socket.close(4404) })
  const { client } = await meet()
  for (const text of ['1', '2', '3']) client.say(text)
  await client.ended
  expect(heard).toEqual(['1'])
})

test('a user has at most 64 sockets here; one more is closed, 4429, and when one has gone it may be (P104)', async () => {
  const { meet, url } = await openScene()
  const ann = []
  for (let n = 0; n < limits.socketsOfUserMax; n++) ann.push(await meet('ann'))
  const one = await openRaw(`${url}/?user=ann`)
  expect(await one.ended).toEqual({ code: 4429, reason: 'At most 64 sockets may be open at a time. Close some.' })
  expect((await meet('bob')).server.ended.aborted).toBe(false)
  ann[0]!.client.ws.close()
  await once(ann[0]!.server.ended, 'abort')
  expect((await meet('ann')).server.ended.aborted).toBe(false)
})

/** What others are sending at this moment: so much of what a process may hold is taken. */
function holdForOthers(bytes: number): void {
  expect(holdBytes(bytes)).toBe(true)
  onTestFinished(() => releaseBytes(bytes))
}

/** Half a frame, of which the server has heard all. */
async function sendHalf({ client }: { client: RawSocket }, bytes: number): Promise<void> {
  client.ws.send('x'.repeat(bytes), { fin: false })
  client.ws.ping()
  await once(client.ws, 'pong')
}

test('halves of frames count with all bodies: beyond 128 MB the largest gives way and not who comes; then it is free (P104)', async () => {
  const heard: number[] = []
  const { meet } = await openScene({ speak: () => (text) => heard.push(text.length) })
  const [large, small, comes] = [await meet('eve'), await meet('bob'), await meet('ann')]
  holdForOthers(limits.bodiesBytesMax - 150_000)
  await sendHalf(large, 90_000)
  await sendHalf(small, 40_000)
  const gone = once(large.ws, 'close')
  comes.client.ws.send('x'.repeat(50_000))
  expect(await large.client.ended).toEqual({ code: 4429, reason: tooMuchAtOnce })
  small.client.ws.send('x')
  await eventually(async () => heard.length === 2)
  expect(heard.toSorted((a, b) => a - b)).toEqual([40_001, 50_000])
  await gone
  expect(holdBytes(150_000)).toBe(true)
  releaseBytes(150_000)
})

test('a body that comes has room that frames took: it is theirs who hold it that are refused (P104)', async () => {
  const { meet } = await openScene()
  const half = await meet()
  await sendHalf(half, 90_000)
  holdForOthers(limits.bodiesBytesMax)
  expect((await half.client.ended).code).toBe(4429)
})

test('small frames, pings and pongs are taken whatever others hold (P104)', async () => {
  const heard: number[] = []
  const { meet } = await openScene({ speak: () => (text) => heard.push(text.length) })
  const { client, server } = await meet()
  holdForOthers(limits.bodiesBytesMax)
  client.ws.pong('of nobody’s')
  await sendHalf({ client }, 5_000)
  client.ws.send('x'.repeat(5_000))
  await eventually(async () => heard.length === 1)
  expect([heard, server.ended.aborted]).toEqual([[10_000], false])
})

test('a frame has its time, however it trickles, also with pings in it; many whole ones have as long as they like: 4429 (P104)', async () => {
  const { meet } = await openScene({ frameMs: 150 })
  const [slow, lively] = [await meet(), await meet()]
  slow.client.ws.send('x', { fin: false })
  const trickle = setInterval(() => {
    slow.client.ws.ping()
    slow.client.ws.send('x', { fin: false })
    lively.client.ws.send('x')
  }, 10)
  const ended = await slow.client.ended.finally(() => clearInterval(trickle))
  expect(ended).toEqual({ code: 4429, reason: tooSlowly(150) })
  expect(lively.server.ended.aborted).toBe(false)
})

test('a user holds at most 32 MB of frames on all their sockets: one more is refused, and others are not (P104)', async () => {
  const { meet } = await openScene()
  const eve = [await meet('eve'), await meet('eve'), await meet('eve')]
  const bob = await meet('bob')
  for (const each of eve.slice(0, 2)) await sendHalf(each, limits.framesOfUserBytesMax / 2 - 10_000)
  await sendHalf(bob, 60_000)
  eve[2]!.client.ws.send('x'.repeat(60_000), { fin: false })
  expect(await eve[2]!.client.ended).toEqual({ code: 4429, reason: tooMuchOfYours })
  expect([eve[0]!, eve[1]!, bob].map(({ server }) => server.ended.aborted)).toEqual([false, false, false])
  eve[0]!.client.ws.terminate()
  await once(eve[0]!.ws, 'close')
  await sendHalf(await meet('eve'), 60_000)
})

test('a frame counts until what is asked in it was accepted, also when its socket has gone (P104)', async () => {
  const accept: (() => void)[] = []
  const speak = () => () => new Promise<void>((resolve) => accept.push(resolve))
  const { meet } = await openScene({ speak })
  const first = await meet()
  for (let n = 0; n < 2; n++) first.client.ws.send('x'.repeat(limits.framesOfUserBytesMax / 2 - 10_000))
  await eventually(async () => accept.length === 2)
  first.client.ws.terminate()
  await once(first.server.ended, 'abort')
  const second = await meet()
  second.client.ws.send('x'.repeat(60_000))
  expect((await second.client.ended).reason).toBe(tooMuchOfYours)
  accept[0]!()
  const third = await meet()
  third.client.ws.send('x'.repeat(60_000))
  await eventually(async () => accept.length === 3)
  for (const each of accept) each()
})

test('a drain closes all, 1012, and who comes then; what does not go is cut by stop, and nothing is left (P103)', async () => {
  const { meet, sockets, server, url } = await openScene()
  const [open, deaf] = [await meet(), await meet()]
  rawOf(deaf.client).pause()
  sockets.drain(0)
  expect(await open.client.ended).toEqual({ code: 1012, reason: closes[1012].sentence })
  const late = await openRaw(`${url}/?user=ann`)
  expect((await late.ended).code).toBe(1012)
  expect(await countOf(server)).toBe(1)
  const cut = once(deaf.raw, 'close')
  sockets.stop()
  await cut
  expect(await countOf(server)).toBe(0)
})

test('who is known until a moment is closed then: 4401 (P12)', async () => {
  const { meet } = await openScene({ expiresAt: Date.now() + 150 })
  expect(await (await meet()).client.ended).toEqual({ code: 4401, reason: closes[4401].sentence })
})

test('no sentence of the tables is longer than a close can say', () => {
  const closing = Object.values(requestErrors).filter(({ close }) => close !== null)
  for (const { sentence } of [...Object.values(closes), ...closing])
    expect(Buffer.byteLength(sentence)).toBeLessThanOrEqual(123)
})
