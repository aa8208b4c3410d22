/** Where a process is frozen when it has answered: nobody is left to write a reply, unless the app says who. */
import { expect, onTestFinished, test } from 'vitest'
import { createHoldfast, type Holdfast, type HoldfastOptions } from '../../src/index.ts'
import { freshDatabase } from '../support/postgres.ts'

async function openFunction(options: Partial<HoldfastOptions> = {}): Promise<Holdfast> {
  const { VERCEL } = process.env
  process.env.VERCEL = '1'
  const database = await freshDatabase(18)
  const chat = createHoldfast({
    database: database.url,
    authenticate: () => ({ userId: 'ann' }),
    reply: () => 'the answer',
    log: () => undefined,
    ...options,
  })
  if (VERCEL === undefined) delete process.env.VERCEL
  else process.env.VERCEL = VERCEL
  onTestFinished(async () => {
    await chat.close()
    await database.drop()
  })
  return chat
}

const ask = (chat: Holdfast, method: 'GET' | 'POST', path: string, body?: object) =>
  chat.handlers[method](
    new Request(`https://app.example${path}`, {
      method,
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      ...(body ? { body: JSON.stringify(body) } : {}),
    }),
  )
const statusOf = async (chat: Holdfast) => {
  const snapshot = (await (await ask(chat, 'GET', '/v1/sessions/s')).json()) as { messages: { status: string }[] }
  return snapshot.messages.map(({ status }) => status)
}

test('without a runner nothing is stored that nobody answers: 503 no_runner, and the rest works', async () => {
  const chat = await openFunction()
  expect((await ask(chat, 'POST', '/v1/sessions', { id: 's' })).status).toBe(201)
  const message = { id: 'm', role: 'user', parts: [{ type: 'text', text: 'hi' }] }
  for (const [path, body] of [
    ['/v1/sessions/s/messages', { id: 'm', text: 'hi' }],
    ['/v1/sessions/s/messages/m/retry', {}],
    ['/v1/sessions/s/messages/m/edit', { id: 'n', text: 'hi' }],
    ['/v1/sessions/s/messages/m/regenerate', { id: 'n' }],
    ['/api/chat', { id: 's', messages: [message] }],
  ] as const) {
    const response = await ask(chat, 'POST', path, body)
    const { code, detail } = (await response.json()) as { code: string; detail: string }
    expect([path, response.status, code]).toEqual([path, 503, 'no_runner'])
    expect(detail).toContain('waitUntil')
  }
  const sent = chat.send('s', { id: 'm', userId: 'ann', text: 'hi' })
  await expect(sent).rejects.toMatchObject({ code: 'no_runner', message: expect.stringContaining('waitUntil') })
  expect(await statusOf(chat)).toEqual([])
})

test('with a runner elsewhere, said by roles, messages are stored for it', async () => {
  const chat = await openFunction({ roles: ['http'] })
  await ask(chat, 'POST', '/v1/sessions', { id: 's' })
  expect((await ask(chat, 'POST', '/v1/sessions/s/messages', { id: 'm', text: 'hi' })).status).toBe(202)
  expect(await statusOf(chat)).toEqual(['complete', 'pending'])
})

test('waitUntil gets a promise that lasts until the reply is stored, and then ends', async () => {
  const waits: Promise<unknown>[] = []
  let finish!: () => void
  let begin!: () => void
  const held = new Promise<void>((resolve) => {
    finish = resolve
  })
  const begun = new Promise<void>((resolve) => {
    begin = resolve
  })
  const chat = await openFunction({
    waitUntil: (promise) => waits.push(promise),
    reply: async () => {
      begin()
      await held
      return 'the answer'
    },
  })
  await ask(chat, 'POST', '/v1/sessions', { id: 's' })
  expect(waits).toHaveLength(0)
  await ask(chat, 'POST', '/v1/sessions/s/messages', { id: 'm', text: 'hi' })
  expect(waits).toHaveLength(1)
  let isOver = false
  const over = waits[0]!.then(() => {
    isOver = true
  })
  await begun
  expect([isOver, await statusOf(chat)]).toEqual([false, ['complete', 'pending']])
  finish()
  await over
  expect(await statusOf(chat)).toEqual(['complete', 'complete'])
})

test('waitUntil lasts over a reply that is tried again', async () => {
  const waits: Promise<unknown>[] = []
  let asked = 0
  const chat = await openFunction({
    waitUntil: (promise) => waits.push(promise),
    reply: () => {
      if (++asked === 1) throw Object.assign(new Error('503'), { statusCode: 503 })
      return 'the answer'
    },
  })
  await ask(chat, 'POST', '/v1/sessions', { id: 's' })
  await ask(chat, 'POST', '/v1/sessions/s/messages', { id: 'm', text: 'hi' })
  await waits[0]
  expect([asked, await statusOf(chat)]).toEqual([2, ['complete', 'complete']])
})

test('during next build nothing starts, and it is said why', async () => {
  const chat = await openFunction({ roles: ['http', 'runner'] })
  process.env.NEXT_PHASE = 'phase-production-build'
  try {
    await expect(chat.start()).rejects.toThrow('does not start during next build')
  } finally {
    delete process.env.NEXT_PHASE
  }
  await expect(chat.start()).resolves.toBeUndefined()
})
