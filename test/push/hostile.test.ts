/** Services that keep to nothing, at the wire: a batch always ends, and what is known of the others is kept (I14). */
import { readFileSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { Agent, createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { gunzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import webPushLibrary from 'web-push'
import { expoPush } from '../../src/adapters/expo.ts'
import { webPush } from '../../src/adapters/web-push.ts'
import type { Notice } from '../../src/core/pushing.ts'
import { expoDevice } from './stubs.ts'

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

test('of tokens of many projects at Expo each project is sent, by what Expo says of them or in parts, and the rest later when it is slow', async () => {
  /** Of these only a list of one project’s is taken. */
  let says: 'details' | 'nothing' | 'nothing, slowly' = 'details'
  const projectOf = (token: string) => token.slice(token.indexOf('[') + 1, token.indexOf('-'))
  let requests = 0
  const expo = createHttp(async (asked, answer) => {
    requests++
    const chunks: Buffer[] = []
    for await (const chunk of asked) chunks.push(chunk as Buffer)
    const bytes = Buffer.concat(chunks)
    const zipped = asked.headers['content-encoding'] === 'gzip'
    const sent = JSON.parse(String(zipped ? gunzipSync(bytes) : bytes)) as { to: string }[]
    const details: Record<string, string[]> = {}
    for (const { to } of sent) details[projectOf(to)] = [...(details[projectOf(to)] ?? []), to]
    if (says === 'nothing, slowly' && requests > 4) return
    if (Object.keys(details).length === 1) {
      answer.end(JSON.stringify({ data: sent.map(({ to }) => ({ status: 'ok', id: to })) }))
      return
    }
    const error = { code: 'PUSH_TOO_MANY_EXPERIENCE_IDS', message: 'x', ...(says === 'details' ? { details } : {}) }
    answer.writeHead(400).end(JSON.stringify({ errors: [error] }))
  })
  await new Promise<void>((resolve) => expo.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    expo.close()
    expo.closeAllConnections()
  })
  const baseUrl = `http://127.0.0.1:${(expo.address() as AddressInfo).port}`
  const notices = Array.from({ length: 30 }, (_, at) => ({ ...notice(''), to: expoDevice(`p${at % 3}-${at}`) }))
  const sentOf = async (answerWithinMs: number) => {
    requests = 0
    return (await expoPush({ baseUrl, answerWithinMs }).send(notices)).map((each) =>
      each.outcome === 'sent' ? each.ticket : each.outcome,
    )
  }
  const tickets = notices.map(({ to }) => to.kind === 'expo' && to.token)
  expect(await sentOf(10_000)).toEqual(tickets)
  expect(requests).toBe(4)
  says = 'nothing'
  expect(await sentOf(10_000)).toEqual(tickets)
  says = 'nothing, slowly'
  expect(new Set(await sentOf(500))).toEqual(new Set(['again', 'unknown']))
})
