import { Client } from 'pg'
import { expect, test } from 'vitest'
import { apiOf } from './support/client.ts'
import { freshDatabase } from './support/postgres.ts'
import { startServer } from './support/server.ts'

test('a database that turns out to be another while the server runs sends its followers to the snapshot (I5, P49)', async () => {
  const database = await freshDatabase(18)
  const server = await startServer({ database: database.url, env: { HOLDFAST_ROLES: 'http' } })
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  const before = (await ann.snapshot(session)).cursor
  const watcher = ann.watch(session, before)
  await watcher.until(({ type }) => type === 'caught-up')

  // As after a failover: the epoch was made for another timeline.
  const client = new Client(database.url)
  await client.connect()
  await client.query('update holdfast.meta set timeline = timeline - 1')
  await client.end()

  expect(await watcher.until(({ type }) => type === 'reset')).toMatchObject({ reason: 'epoch' })
  await watcher.close()
  const after = (await ann.snapshot(session)).cursor
  expect(after.split('.')[0]).not.toBe(before.split('.')[0])
  const again = ann.watch(session, after)
  await again.until(({ type }) => type === 'caught-up')
  await again.close()
  expect(again.problems).toEqual([])
  await server.stop()
  await database.drop()
})

test('a follower from now on that is cut before its first frame comes back by the cursor of caught-up and misses nothing (I5, P48)', async () => {
  const database = await freshDatabase(18)
  const server = await startServer({ database: database.url, env: { HOLDFAST_ROLES: 'http' } })
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  const control = new AbortController()
  const response = await ann.request(`/v1/sessions/${session}/events?cursor=now`, { signal: control.signal })
  let text = ''
  for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
    text += Buffer.from(bytes).toString()
    if (text.includes('caught-up')) break
  }
  control.abort()
  const cursor = /^id: (\S+)\ndata: \{"type":"caught-up"\}$/m.exec(text)?.[1]
  await ann.send(session, 'while away', 'm1')
  const { frames } = await ann.poll(session, { cursor })
  expect(frames.map((frame) => frame.data.message.id)).toEqual(['m1'])
  await server.stop()
  await database.drop()
})
