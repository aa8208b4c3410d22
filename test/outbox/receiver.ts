/** A receiver of webhooks, at the wire. What it is sent it keeps; what it answers a test may choose. */
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { eventually } from '../support/eventually.ts'

export type Received = {
  path: string
  headers: IncomingHttpHeaders
  text: string
  body: { type: string; timestamp: string; data: Record<string, unknown> }
  atMs: number
}
export type Receiver = {
  url: string
  received: Received[]
  /** Answers the next requests so, one after the other; then 204 again. `null`: it is never answered. */
  next(...answers: (Answer | null)[]): void
  /** Resolves when so many have come. */
  count(n: number): Promise<Received[]>
  close(): Promise<void>
}
type Answer = { status: number; headers?: Record<string, string> } | ((response: ServerResponse) => void)

export async function startReceiver(port = 0): Promise<Receiver> {
  const answers: (Answer | null)[] = []
  const received: Received[] = []
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const text = Buffer.concat(chunks).toString()
    received.push({
      path: request.url!,
      headers: request.headers,
      text,
      body: JSON.parse(text),
      atMs: performance.now(),
    })
    const answer = answers.length > 0 ? answers.shift() : { status: 204 }
    if (answer === null || answer === undefined) return
    if (typeof answer === 'function') return answer(response)
    response.writeHead(answer.status, answer.headers).end()
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hooks`,
    received,
    next: (...some) => void answers.push(...some),
    count: (n) => eventually(async () => received.length >= n && received),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

export const secrets = {
  old: `whsec_${Buffer.alloc(32, 1).toString('base64')}`,
  new: `whsec_${Buffer.alloc(32, 2).toString('base64')}`,
}
