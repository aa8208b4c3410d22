/** Services that keep to nothing, at the wire: a batch always ends, and what is known of the others is kept (I14). */
import { readFileSync } from 'node:fs'
import { Agent, createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import webPushLibrary from 'web-push'
import { webPush } from '../../src/adapters/web-push.ts'
import type { Notice } from '../../src/core/pushing.ts'

const pem = readFileSync(new URL('localhost.pem', import.meta.url))
const vapid = { subject: 'mailto:us@example.com', ...webPushLibrary.generateVAPIDKeys() }
const keys = { p256dh: vapid.publicKey, auth: Buffer.alloc(16, 1).toString('base64url') }
let floodedBytes = 0
let cutOff: Promise<void>
let onCutOff: () => void
const server = createServer({ key: pem, cert: pem }, (asked, answer) => {
  asked.resume()
  if (asked.url === '/silent') return
  if (asked.url !== '/flood') {
    answer.writeHead(Number(asked.url!.slice(1))).end()
    return
  }
  answer.writeHead(201)
  const block = Buffer.alloc(65_536)
  const flood = () => {
    do floodedBytes += block.length
    while (answer.write(block))
  }
  answer.on('drain', flood)
  answer.on('close', () => onCutOff())
  flood()
})
let port: number

beforeAll(async () => {
  cutOff = new Promise((resolve) => {
    onCutOff = resolve
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  port = (server.address() as AddressInfo).port
})
afterAll(() => {
  server.close()
  server.closeAllConnections()
})

const notice = (path: string): Notice => ({
  to: { kind: 'web', subscription: { endpoint: `https://localhost:${port}/${path}`, keys } },
  tag: 'tag',
  title: 'title',
  body: 'body',
  data: {},
})
const senderOf = (answerWithinMs: number, maxSockets = 20) =>
  webPush({ vapid, privateEndpoints: true, agent: new Agent({ ca: pem, maxSockets }), answerWithinMs })

test('an answer without an end is cut off, and keeps neither memory nor the notice', async () => {
  expect(await senderOf(10_000).send([notice('flood')])).toEqual([{ outcome: 'sent' }])
  await cutOff
  // What lies in buffers between the two.
  expect(floodedBytes).toBeLessThan(50_000_000)
})

test('of a batch in which one is never answered all others are known', async () => {
  const paths = ['201', '410', '429', 'silent', '502', '200']
  const deliveries = await senderOf(1_000).send(paths.map(notice))
  expect(deliveries.map(({ outcome }) => outcome)).toEqual(['sent', 'gone', 'again', 'unknown', 'unknown', 'sent'])
})

test('what never left this process is tried again', async () => {
  const deliveries = await senderOf(300, 1).send(['silent', '201'].map(notice))
  expect(deliveries.map(({ outcome }) => outcome)).toEqual(['unknown', 'again'])
})
