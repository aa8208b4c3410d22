import { expect, test } from 'vitest'
import { apiOf } from './support/client.ts'
import { freshDatabase } from './support/postgres.ts'
import { startProvider } from './support/provider.mjs'
import { startServer } from './support/server.ts'

test('a message is answered at once and its reply is followed to the end (R0.1, R1.5)', async () => {
  const database = await freshDatabase(18)
  const provider = await startProvider()
  provider.script([{ text: 'Hello' }, { text: ', world' }])
  const server = await startServer({ database: database.url, provider: provider.url })
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  const sent = await ann.send(session, 'hi', 'm1')
  expect(sent).toMatchObject({
    message: { id: 'm1', role: 'user' },
    reply: { status: 'pending' },
    turn: { state: 'queued' },
  })
  const outcome = await watcher.outcome('m1')
  expect(outcome.type).toBe('message.ai_response')
  expect(outcome.data.message).toMatchObject({ id: sent.reply.id, status: 'complete', repliesTo: 'm1', round: 1 })
  expect(watcher.text(sent.reply.id)).toBe('Hello, world')
  expect((await ann.snapshot(session)).messages.map((each) => each.status)).toEqual(['complete', 'complete'])
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await server.stop()).toBe(0)
  await provider.stop()
  await database.drop()
})
