/** Receivers that do what they like, at the wire: a POST to them always ends, in time, and never at a private address (P247, P249). */
import dns from 'node:dns'
import { readFileSync } from 'node:fs'
import { Agent as HttpAgent } from 'node:http'
import { Agent } from 'node:https'
import { syncBuiltinESMExports } from 'node:module'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { endingOf } from '../../src/core/outbox.ts'
import { post } from '../../src/net/post.ts'
import { isPlainUrl, isPublicHost, publicLookup } from '../../src/net/public-address.ts'
import { runJob } from '../../src/outbox/jobs.ts'

const pem = readFileSync(new URL('../push/localhost.pem', import.meta.url))
let behave: (socket: Socket) => void
let connections = 0
let closed: Promise<void>
const server = createServer((socket) => {
  connections++
  closed = new Promise((resolve) => socket.on('close', () => resolve()))
  socket.on('error', () => undefined)
  // When the request has come.
  socket.once('data', () => behave(socket))
})
const tls = createTlsServer({ key: pem, cert: pem }, (socket) => socket.on('error', () => undefined))
tls.on('tlsClientError', () => undefined)
beforeAll(async () => {
  for (const each of [server, tls]) await new Promise<void>((resolve) => each.listen(0, '127.0.0.1', resolve))
})
afterAll(() => {
  server.close()
  tls.close()
})

const portOf = (each: typeof server) => (each.address() as AddressInfo).port
const answerWithinMs = 300
const ask = (does: typeof behave, signal?: AbortSignal) => {
  behave = does
  const agent = new HttpAgent()
  const url = new URL(`http://127.0.0.1:${portOf(server)}/`)
  return post(url, { headers: {}, body: '{}', agent, answerWithinMs, ...(signal && { signal }) })
}
/** Writes it again and again, as fast as it is taken. */
const forEver = (first: string, text: string) => (socket: Socket) => {
  socket.write(first)
  const more = () => {
    if (socket.destroyed) return
    if (socket.write(text)) setImmediate(more)
    else socket.once('drain', more)
  }
  more()
}
const once = (text: string) => (socket: Socket) => void socket.end(text)

const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
test.each<[string, (socket: Socket) => void, object]>([
  ['streams for ever', forEver(chunked, `1000\r\n${'x'.repeat(4_096)}\r\n`), { status: 200 }],
  ['never ends its body', (socket) => void socket.write(`${chunked}1\r\nx\r\n`), { status: 200 }],
  ['closes within its body', once('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx'), { status: 200 }],
  ['never ends its headers', (socket) => void socket.write('HTTP/1.1 200 OK\r\nA: b\r\n'), { code: 'ETIMEDOUT' }],
  ['sends headers for ever', forEver('HTTP/1.1 200 OK\r\n', `A: ${'x'.repeat(60_000)}\r\n`), { code: /OVERFLOW/ }],
  ['sends hints for ever', forEver('', 'HTTP/1.1 103 Early Hints\r\n\r\n'), { code: 'ETIMEDOUT' }],
  ['changes the protocol', once('HTTP/1.1 101 On\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'), { code: 'no answer' }],
  ['speaks another language', once('SSH-2.0-x\r\n'), { code: /^HPE_/ }],
  ['hangs up', once(''), { code: 'ECONNRESET' }],
  ['says nothing', () => undefined, { code: 'ETIMEDOUT' }],
])('one that %s is over in time, and its connection with it', async (_what, does, expected) => {
  const beganMs = performance.now()
  const answer = await ask(does)
  for (const [name, value] of Object.entries(expected)) {
    expect(answer).toHaveProperty(name, value instanceof RegExp ? expect.stringMatching(value) : value)
  }
  await closed
  expect(performance.now() - beganMs).toBeLessThan(5_000)
})

test('what was given up before is not sent, and a certificate that nobody vouches for is not trusted', async () => {
  const before = connections
  expect(await ask(once('HTTP/1.1 200 OK\r\n\r\n'), AbortSignal.abort())).toMatchObject({ code: 'ABORTED' })
  const url = new URL(`https://127.0.0.1:${portOf(tls)}/`)
  const own = { headers: {}, body: '{}', agent: new Agent(), answerWithinMs: 5_000 }
  expect(await post(url, own)).toMatchObject({ code: expect.stringMatching(/CERT/) })
  expect(await post(new URL(`https://127.0.0.1:${portOf(server)}/`), own)).toMatchObject({ code: expect.any(String) })
  expect(connections).toBe(before + 1)
})

const day = 86_400_000
test.each([
  ['10', 10_000],
  ['0', 0],
  ['315360000', day],
  ['99999999999999999999', day],
  ['Wed, 21 Oct 2015 07:28:00 GMT', 0],
  ['Fri, 21 Oct 2225 07:28:00 GMT', day],
  ['-5', 0],
  ['NaN', 0],
  ['1e9', 0],
])('“Retry-After: %s” is heeded for a day at most (P247)', async (header, expected) => {
  const answer = await ask(once(`HTTP/1.1 503 No\r\nRetry-After: ${header}\r\nContent-Length: 0\r\n\r\n`))
  const { retryAfterMs } = answer as { retryAfterMs?: number }
  const outcome = {
    outcome: 'again',
    why: '',
    ...(retryAfterMs === undefined ? {} : { afterMs: retryAfterMs }),
  } as const
  expect(endingOf(outcome, 1, { attemptsMax: 2, backoffMinMs: 1 }, 0)).toMatchObject({ afterMs: expected })
})

test.each([
  ['127.0.0.1', '2130706433', '0x7f000001', '017700000001', '127.1', '0177.0.0.1', '127.0.0.1.', '%3127.0.0.1'],
  ['0.0.0.0', '0', '0x0', '10.0.0.1', '172.31.255.255', '192.168.0.1', '100.64.0.1', '169.254.169.254', '0xa9fea9fe'],
  ['192.0.0.8', '198.19.0.1', '224.0.0.1', '255.255.255.255', '①②⑦.⓪.⓪.①', '127。0。0。1'],
  [
    '[::]',
    '[::1]',
    '[::127.0.0.1]',
    '[::ffff:127.0.0.1]',
    '[::ffff:7f00:1]',
    '[::ffff:a9fe:a9fe]',
    '[::ffff:0:127.0.0.1]',
  ],
  ['[64:ff9b::127.0.0.1]', '[64:ff9b::a9fe:a9fe]', '[64:ff9b:1::1]', '[2002:7f00:1::]', '[2001::1]'],
  ['[fe80::1]', '[fd00:ec2::254]', '[fec0::1]', '[ff02::1]', '[100::1]'],
  ['localhost', 'LOCALHOST.', 'a.localhost', 'metadata', 'metadata.google.internal', 'instance-data.ec2.internal.'],
  ['printer.local', 'router.lan', 'nas.home', '1.0.0.127.in-addr.arpa', 'kubernetes.default.svc.cluster.local'],
])('%s and its like are no public hosts, however they are written (P249)', (...hosts) => {
  const isTaken = (host: string) => {
    const url = `https://${host}/`
    return isPlainUrl(url, ['https:']) && isPublicHost(new URL(url).hostname)
  }
  expect(hosts.filter(isTaken)).toEqual([])
  expect(['example.com', '8.8.8.8', '[2606:4700::1111]', 'xn--bcher-kva.example'].filter(isTaken)).toHaveLength(4)
})

test('names whose servers are silent hold two threads of the process at most, and a name one (P249)', async () => {
  const { lookup } = dns
  onTestFinished(() => {
    dns.lookup = lookup
    syncBuiltinESMExports()
  })
  const asked: { name: string; answer: () => void }[] = []
  dns.lookup = ((name: string, _options: object, done: (error: null, found: object[]) => void) => {
    asked.push({ name, answer: () => done(null, [{ address: '203.0.113.7', family: 4 }]) })
  }) as typeof dns.lookup
  syncBuiltinESMExports()
  const found: string[] = []
  const names = ['a', 'a', 'b', 'a', 'c', 'd']
  for (const name of names) publicLookup(name, { all: true }, () => void found.push(name))
  expect(asked.map(({ name }) => name)).toEqual(['a', 'b'])
  asked[0]!.answer()
  expect(found).toEqual(['a', 'a', 'a'])
  expect(asked.map(({ name }) => name)).toEqual(['a', 'b', 'c'])
  for (let at = 1; at < 4; at++) asked[at]!.answer()
  expect([...found].sort()).toEqual([...names].sort())
})

test('whatever a job throws is the outcome of its try (P243)', async () => {
  const taken = {
    n: 1,
    tenantId: 't',
    topic: 't',
    id: 'i',
    key: null,
    payload: 1,
    sessionId: null,
    attempt: 1,
    tries: 1,
  }
  const thrown = [undefined, null, Symbol('s'), Object.create(null), 0n, { name: 'RetryLater', afterMs: Number.NaN }]
  const late = { name: 'RetryLater', afterMs: Number.POSITIVE_INFINITY }
  for (const each of [
    ...thrown,
    late,
    {
      get name() {
        throw new Error('no')
      },
    },
  ]) {
    const run = () => {
      throw each
    }
    const outcome = await runJob({ run }, taken, new AbortController().signal)
    expect(outcome).toEqual({ outcome: 'again', why: expect.any(String) })
  }
})
