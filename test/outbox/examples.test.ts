/** The examples of docs/outbox.md, as they stand there. */
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Client } from 'pg'
import { Webhook } from 'standardwebhooks'
import { expect, test } from 'vitest'
import * as z from 'zod'
import { createHoldfast } from '../../src/index.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { secrets } from './receiver.ts'

type Hook = { type: string; data: { sessionId: string } }

test('the receiver and the jobs of docs/outbox.md run, and a stranger’s event is refused (P240, P246)', async () => {
  process.env.WEBHOOK_SECRET = secrets.new
  const database = await freshDatabase(18)
  const client = new Client({ connectionString: database.url })
  await client.connect()
  await client.query('create table goals (id text, reached boolean)')
  const handled: unknown[] = []
  const handle = (type: string, data: Hook['data']) => handled.push([type, data.sessionId])
  const analyse = async (sessionId: string, { idempotencyKey }: { idempotencyKey: string; signal: AbortSignal }) =>
    void handled.push([sessionId, idempotencyKey])
  const reply = () => 'To the sea, then.'

  const webhook = new Webhook(process.env.WEBHOOK_SECRET!)
  const seen = new Set<string>()

  const receiver = createServer(async (request, response) => {
    let body = ''
    for await (const piece of request.setEncoding('utf8')) body += piece
    try {
      const { type, data } = webhook.verify(body, request.headers as Record<string, string>) as Hook
      const id = request.headers['webhook-id'] as string
      if (!seen.has(id)) handle(type, data)
      seen.add(id)
      response.writeHead(204).end()
    } catch {
      response.writeHead(400).end()
    }
  })
  await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hooks`

  const chat = createHoldfast({
    reply,
    database: database.url,
    log: () => undefined,
    webhooks: [{ url, secrets: [secrets.new], events: ['message.ai_response'], privateAddresses: true }],
    jobs: {
      insights: {
        schema: z.object({ sessionId: z.string() }),
        run: async ({ sessionId }, { id, signal }) => {
          await analyse(sessionId, { idempotencyKey: id, signal })
        },
      },
    },
  })
  try {
    await chat.sessions.create({ id: 'trip', userId: 'ann' })
    await chat.send('trip', { id: 'm1', userId: 'ann', text: 'To the sea.' })
    await eventually(async () => handled.length === 1)
    await chat.outbox.add('insights', { sessionId: 'trip' }, { id: 'insights-trip', key: 'trip' })
    await eventually(async () => handled.length === 2)
    await client.query('begin')
    await client.query('update goals set reached = true where id = $1', ['g1'])
    await chat.outbox.add('insights', { sessionId: 'trip' }, { client })
    await client.query('commit')
    await eventually(async () => handled.length === 3)
    expect(handled.slice(0, 2)).toEqual([
      ['message.ai_response', 'trip'],
      ['trip', 'insights-trip'],
    ])
    const forged = await fetch(url, { method: 'POST', body: '{"type":"message.ai_response"}' })
    expect([forged.status, handled.length]).toEqual([400, 3])
  } finally {
    receiver.close()
    await chat.close()
    await client.end()
    await database.drop()
  }
})

test('every line of the receiver and the jobs of docs/outbox.md stands in the test that runs them', () => {
  const document = readFileSync(new URL('../../docs/outbox.md', import.meta.url), 'utf8')
  const run = readFileSync(new URL(import.meta.url), 'utf8')
    .split('\n')
    .map((line) => line.trim())
  const examples = [...document.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code]) => code!)
  const lines = examples.flatMap((code) => code.trim().split('\n')).map((line) => line.trim())
  expect(lines.length).toBeGreaterThan(25)
  // The webhook's address and secret are those of the test.
  const others = lines.filter((line) => !run.includes(line) && !/^(webhooks: |const chat = |createHoldfast)/.test(line))
  expect(others).toEqual([])
})
