/** Expo's push service and a browser's, at the wire. What they are asked they keep; what they answer a test may choose. */
import { createECDH, type ECDH, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import { Agent, createServer as createTlsServer } from 'node:https'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { gunzipSync } from 'node:zlib'
import type { PushDevice, PushSubscriptionKeys } from '../../src/core/pushing.ts'

// What web-push encrypts with, and the other half of it.
type Ece = { decrypt(body: Buffer, params: { version: string; privateKey: ECDH; authSecret: Buffer }): Buffer }
const ece = createRequire(createRequire(import.meta.url).resolve('web-push'))('http_ece') as Ece

export type ExpoMessage = {
  to: string
  title: string
  body: string
  data: Record<string, unknown>
  [key: string]: unknown
}
export type ExpoStub = {
  url: string
  /** Of all requests, in their order. */
  messages: ExpoMessage[]
  requests: { path: string; headers: IncomingHttpHeaders; count: number }[]
  /** Answers the next request to send with this instead: a status, or that of each message. */
  next(answer: { status: number; body?: object } | ((message: ExpoMessage) => object | undefined)): void
  /** By token: what its receipts will say. */
  receipts: Map<string, object>
  close(): Promise<void>
}

export async function startExpo(): Promise<ExpoStub> {
  const answers: Parameters<ExpoStub['next']>[0][] = []
  const stub: Omit<ExpoStub, 'url' | 'close'> = {
    messages: [],
    requests: [],
    receipts: new Map(),
    next: (answer) => answers.push(answer),
  }
  const server = createServer(async (request, response) => {
    const bytes = await bytesOf(request)
    const body = JSON.parse((request.headers['content-encoding'] === 'gzip' ? gunzipSync(bytes) : bytes).toString())
    const path = request.url!.replace('/--/api/v2/push/', '')
    const count = path === 'send' ? body.length : body.ids.length
    stub.requests.push({ path, headers: request.headers, count })
    if (path === 'getReceipts') {
      const known = (body.ids as string[]).map((id) => [
        id,
        stub.receipts.get(id.replace('ticket of ', '')) ?? { status: 'ok' },
      ])
      answer(response, 200, { data: Object.fromEntries(known) })
      return
    }
    const chosen = answers.shift()
    if (chosen !== undefined && typeof chosen !== 'function') {
      answer(response, chosen.status, chosen.body ?? { errors: [{ code: 'CODE', message: 'refused' }] })
      return
    }
    stub.messages.push(...body)
    const tickets = (body as ExpoMessage[]).map(
      (message) => chosen?.(message) ?? { status: 'ok', id: `ticket of ${message.to}` },
    )
    answer(response, 200, { data: tickets })
  })
  const port = await listening(server)
  return { ...stub, url: `http://127.0.0.1:${port}`, close: () => closed(server) }
}

export type WebNotice = {
  at: string
  headers: IncomingHttpHeaders
  payload: { tag: string; title: string; body: string; data: Record<string, unknown> }
}
export type WebStub = {
  /** Trusts the stub. */
  agent: Agent
  notices: WebNotice[]
  /** A browser's subscription, and its own path here. */
  subscribe(name: string): PushSubscriptionKeys
  /** Answers the next request for this browser so. */
  next(name: string, status: number, headers?: Record<string, string>): void
  requests: string[]
  close(): Promise<void>
}

export async function startWeb(): Promise<WebStub> {
  const pem = readFileSync(new URL('localhost.pem', import.meta.url))
  const browsers = new Map<string, { ecdh: ECDH; auth: Buffer }>()
  const answers: { name: string; status: number; headers: Record<string, string> }[] = []
  const notices: WebNotice[] = []
  const requests: string[] = []
  const server = createTlsServer({ key: pem, cert: pem }, async (request, response) => {
    const body = await bytesOf(request)
    const name = request.url!.slice(1)
    requests.push(name)
    const at = answers.findIndex((each) => each.name === name)
    const chosen = at === -1 ? undefined : answers.splice(at, 1)[0]
    if (chosen !== undefined) {
      response.writeHead(chosen.status, chosen.headers).end()
      return
    }
    const { ecdh, auth } = browsers.get(name)!
    const text = ece.decrypt(body, { version: 'aes128gcm', privateKey: ecdh, authSecret: auth }).toString()
    notices.push({ at: name, headers: request.headers, payload: JSON.parse(text) })
    response.writeHead(201).end()
  })
  const port = await listening(server)
  return {
    agent: new Agent({ ca: pem }),
    notices,
    requests,
    subscribe(name) {
      const ecdh = createECDH('prime256v1')
      const p256dh = ecdh.generateKeys('base64url')
      const auth = randomBytes(16)
      browsers.set(name, { ecdh, auth })
      return { endpoint: `https://localhost:${port}/${name}`, keys: { p256dh, auth: auth.toString('base64url') } }
    },
    next: (name, status, headers = {}) => void answers.push({ name, status, headers }),
    close: () => closed(server),
  }
}

export const expoDevice = (name: string): PushDevice => ({ kind: 'expo', token: `ExponentPushToken[${name}]` })

async function bytesOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

function answer(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

type AnyServer = ReturnType<typeof createServer> | ReturnType<typeof createTlsServer>

function listening(server: AnyServer): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port))
  })
}

function closed(server: AnyServer): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeAllConnections()
  })
}
