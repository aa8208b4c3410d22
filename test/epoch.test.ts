import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Client } from 'pg'
import { afterEach, expect, test } from 'vitest'
import { apiOf } from './support/client.ts'
import { endCommands, startCommand } from './support/command.ts'
import { freshDatabase } from './support/postgres.ts'
import { type ServerSettings, startServer } from './support/server.ts'

afterEach(endCommands)

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

/** `backup` and `putBack` work on a database that no server runs on. */
type Restorable = { database: ServerSettings['database']; backup(): Promise<void>; putBack(): Promise<void> }

/**
 * A cursor of three messages, of which the last two are undone by a backup that is put back. Then two others are sent:
 * they have the numbers of the lost ones, and system identifier and timeline are what they were.
 */
async function followAcrossRestore({ database, backup, putBack }: Restorable, afterwards: () => Promise<unknown>) {
  const env = { HOLDFAST_ROLES: 'http' }
  const first = await startServer({ database, env })
  const ann = await apiOf(first.url)
  const session = await ann.createSession()
  await ann.send(session, 'kept', 'm1')
  expect(await first.stop()).toBe(0)
  await backup()
  const second = await startServer({ database, env })
  const meanwhile = await apiOf(second.url)
  for (const id of ['lost1', 'lost2']) await meanwhile.send(session, 'lost', id)
  const { cursor } = await meanwhile.poll(session, {})
  expect(await second.stop()).toBe(0)
  await putBack()
  await afterwards()
  const third = await startServer({ database, env })
  const restored = await apiOf(third.url)
  for (const id of ['new1', 'new2']) await restored.send(session, 'in their place', id)
  const { frames } = await restored.poll(session, { cursor })
  const snapshot = await restored.snapshot(session)
  expect(snapshot.messages.filter(({ role }) => role === 'user').map(({ id }) => id)).toEqual(['m1', 'new1', 'new2'])
  const again = await restored.poll(session, { cursor: snapshot.cursor })
  expect(again.frames).toEqual([])
  expect(await third.stop()).toBe(0)
  return frames
}

function doctorRestored(env: Record<string, string>) {
  return async () => {
    const command = startCommand(['doctor', '--restored'], { cwd: tmpdir(), env })
    expect(await command.ended).toBe(0)
    expect(command.printed()).toMatch(
      /^The log has a new epoch, [\da-f]{8} instead of [\da-f]{8}: clients .* load their sessions anew\. .*\n$/,
    )
  }
}

async function copiedDatabase(): Promise<Restorable & { url: string; drop(): Promise<void> }> {
  const database = await freshDatabase(15)
  const name = new URL(database.url).pathname.slice(1)
  const url = new URL(database.url)
  url.pathname = '/postgres'
  const admin = new Client(url.href)
  await admin.connect()
  return {
    database: database.url,
    url: database.url,
    backup: async () => void (await admin.query(`create database ${name}_copy template ${name}`)),
    async putBack() {
      await admin.query(`drop database ${name} with (force)`)
      await admin.query(`create database ${name} template ${name}_copy`)
    },
    async drop() {
      await admin.query(`drop database ${name}_copy`)
      await admin.end()
      await database.drop()
    },
  }
}

test('a backup put back into its own server answers reset to every older cursor after `holdfast doctor --restored` (I5, P49)', async () => {
  const copied = await copiedDatabase()
  const frames = await followAcrossRestore(copied, doctorRestored({ DATABASE_URL: copied.url }))
  expect(frames).toEqual([{ type: 'reset', reason: 'epoch' }])
  await copied.drop()
})

test('without it such a cursor fits the restored log, which is why it is to be run', async () => {
  const copied = await copiedDatabase()
  expect(await followAcrossRestore(copied, () => Promise.resolve())).toEqual([])
  await copied.drop()
})

test('a data directory put back answers reset, too, and is left alone while a server runs on it (I5, P49)', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-restored-'))
  const dataDir = join(folder, 'data')
  const env = { HOLDFAST_DATA_DIR: dataDir }
  const copy = (from: string, to: string) => promisify(execFile)('cp', ['-a', from, to])
  const restorable: Restorable = {
    database: { dataDir },
    backup: async () => void (await copy(dataDir, `${dataDir}.copy`)),
    async putBack() {
      await rm(dataDir, { recursive: true })
      await copy(`${dataDir}.copy`, dataDir)
    },
  }
  expect(await followAcrossRestore(restorable, doctorRestored(env))).toEqual([{ type: 'reset', reason: 'epoch' }])
  const server = await startServer({ database: { dataDir } })
  const refused = startCommand(['doctor', '--restored'], { cwd: folder, env })
  expect(await refused.ended).toBe(1)
  expect(refused.printed()).toMatch(new RegExp(`is in use by process ${server.pid} .*: stop that process`))
  expect(await server.stop()).toBe(0)
  await rm(folder, { recursive: true })
})

test('`holdfast doctor --restored` says so where there is nothing that was restored', async () => {
  const database = await freshDatabase(18)
  const command = startCommand(['doctor', '--restored'], { cwd: tmpdir(), env: { DATABASE_URL: database.url } })
  expect(await command.ended).toBe(1)
  expect(command.printed()).toMatch(/^There is no Holdfast in this database: .*\n$/)
  await database.drop()
})
