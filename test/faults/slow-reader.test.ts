/** FN3: a reader that is far too slow, and one that stops reading, beside a normal one. */
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { limits } from '../../src/core/limits.ts'
import { createHoldfast } from '../../src/index.ts'
import { apiOf } from '../support/client.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProxy } from '../support/proxy.ts'
import { jwtSecret } from '../support/server.ts'
import { textIn } from './scene.ts'

const line = `${'x'.repeat(2_000)}\n`
const lines = 450
const replies = 8

/** A server in this process, so that the bytes which wait in each of its responses can be seen. */
async function openServer(databaseUrl: string) {
  const responses = new Set<ServerResponse>()
  const seen = { waitingMax: 0, listenersMax: 0 }
  const chat = createHoldfast({
    database: databaseUrl,
    tokens: { secret: jwtSecret },
    log: () => undefined,
    async *reply() {
      for (let at = 0; at < lines; at++) {
        if (at % 10 === 0) await new Promise(setImmediate)
        yield line
      }
    },
  })
  const server = createServer((incoming, outgoing) => {
    responses.add(outgoing)
    outgoing.on('close', () => responses.delete(outgoing))
    void chat.node(incoming, outgoing)
  }).listen(0, '127.0.0.1')
  const measuring = setInterval(() => {
    for (const response of responses) {
      seen.waitingMax = Math.max(seen.waitingMax, response.writableLength)
      seen.listenersMax = Math.max(seen.listenersMax, response.listenerCount('drain'))
    }
  }, 1)
  onTestFinished(async () => {
    clearInterval(measuring)
    server.closeAllConnections()
    server.close()
    await chat.close()
  })
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return { port, seen }
}

test('a slow reader holds up nothing but itself, in bounded memory, and catches up by its cursor (FN3, I5)', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const { port, seen } = await openServer(database.url)
  const proxy = await startProxy({ target: { host: '127.0.0.1', port } })
  onTestFinished(() => proxy.close())
  const ann = await apiOf(`http://127.0.0.1:${port}`)
  const slowAnn = await apiOf(`http://127.0.0.1:${proxy.port}`)
  const session = await ann.createSession()

  const normal = ann.watch(session)
  const slow = slowAnn.watch(session)
  await Promise.all([normal, slow].map((each) => each.until(({ type }) => type === 'caught-up')))
  proxy.trickle('down', 1_000)
  const stopped = ann.watch(session)
  const whole = line.repeat(lines)
  for (let at = 0; at < replies; at++) {
    const { reply } = await ann.send(session, 'long, please', `m${at}`)
    if (at === 1) await stopped.close()
    expect(textIn(await normal.outcome(`m${at}`))).toBe(whole)
    expect(normal.text(reply.id)).toBe(whole)
  }
  // The fault was there: the slow one is replies behind, and its response was as full as it may be.
  expect(slow.frames.filter(({ type }) => type === 'message.ai_response').length).toBeLessThan(replies / 2)
  expect(seen.waitingMax).toBeGreaterThan(limits.sendBufferBytesMax)
  // What is on its way when it gets full: a page, which passes its bound by one reply at most, and that reply's chunks.
  expect(seen.waitingMax).toBeLessThan(limits.sendBufferBytesMax + 2.5 * limits.replyBytesMax)
  expect(seen.listenersMax).toBeLessThan(5)

  const { connections } = slow
  proxy.resume('down')
  proxy.cutAll()
  expect(textIn(await slow.outcome(`m${replies - 1}`))).toBe(whole)
  expect(slow.connections).toBeGreaterThan(connections)
  await Promise.all([normal.close(), slow.close()])
  expect([...normal.problems, ...slow.problems, ...stopped.problems]).toEqual([])
})
