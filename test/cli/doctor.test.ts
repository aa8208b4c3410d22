import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client } from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { durability, judged, node, rights, version } from '../../src/cli/doctor.ts'
import { endCommands, startCommand } from '../support/command.ts'
import { freshDatabase } from '../support/postgres.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-doctor-'))
})
afterEach(async () => {
  await endCommands()
  await rm(folder, { recursive: true, force: true })
})

async function doctor(env: Record<string, string> = {}) {
  const command = startCommand(['doctor'], { cwd: folder, env })
  const code = await command.ended
  return { code, printed: command.printed() }
}

test('says that all is well where it is: embedded database, demo model', async () => {
  const { code, printed } = await doctor()
  expect(code).toBe(0)
  for (const line of [
    /^ok {4}node {6}\d/m,
    /^ok {4}data /m,
    /^ok {4}database {2}PostgreSQL 18/m,
    /^ok {4}fsync {5}on/m,
    /^ok {4}rights /m,
    /^note {2}provider {2}the demo model\n +Set OPENAI_API_KEY/m,
  ]) {
    expect(printed).toMatch(line)
  }
})

test('finds a database of one’s own, and that its schema is behind', async () => {
  const database = await freshDatabase(15)
  const { code, printed } = await doctor({ DATABASE_URL: database.url })
  expect(code).toBe(0)
  expect(printed).toMatch(/^ok {4}database {2}PostgreSQL 15/m)
  expect(printed).toMatch(/^note {2}schema {4}\d+ behind\n +.*holdfast migrate/m)
  await database.drop()
})

test('says that a database does not answer, and never its password', async () => {
  const { code, printed } = await doctor({ DATABASE_URL: 'postgres://u:a-secret@127.0.0.1:1/x' })
  expect(code).toBe(1)
  expect(printed).toMatch(/^bad {3}database {2}does not answer\n +The database refuses connections/m)
  expect(printed).not.toContain('a-secret')
})

test('says in one line that another kind of database is none', async () => {
  const { code, printed } = await doctor({ DATABASE_URL: 'mysql://u@127.0.0.1/x' })
  expect(code).toBe(1)
  expect(printed).toMatch(/^database \(DATABASE_URL\): expected a URL like postgres:.*\n$/)
})

test('says what to do about a data directory that holds something else', async () => {
  await mkdir(join(folder, '.holdfast', 'data'), { recursive: true })
  await writeFile(join(folder, '.holdfast', 'data', 'mine'), '')
  const { code, printed } = await doctor()
  expect(code).toBe(1)
  expect(printed).toMatch(
    /^bad {3}database {2}embedded, does not start\n +.*is not a database of PostgreSQL.*HOLDFAST_DATA_DIR/m,
  )
})

test('says that the user may not create the schema', async () => {
  const database = await freshDatabase(18)
  const admin = new Client(database.url)
  await admin.connect()
  const name = `poor_${Date.now()}`
  await admin.query(`create role ${name} login password 'poor'`)
  const url = new URL(database.url)
  url.username = name
  url.password = 'poor'
  const { printed } = await doctor({ DATABASE_URL: url.href })
  expect(printed).toMatch(/^note {2}rights {4}may not create the schema holdfast\n +.*grant create/m)
  await admin.query(`drop role ${name}`)
  await admin.end()
  await database.drop()
})

test('says that the data directory cannot be made there', async () => {
  await writeFile(join(folder, 'file'), '')
  const { code, printed } = await doctor({ HOLDFAST_DATA_DIR: join(folder, 'file', 'data') })
  expect(code).toBe(1)
  expect(printed).toMatch(/^bad {3}data .*cannot be written\n +.*HOLDFAST_DATA_DIR/m)
})

describe('of the provider it', () => {
  const asked: { path?: string; authorization?: string }[] = []
  async function providerThatAnswers(status: number) {
    const server = createServer((request, response) => {
      asked.push({ path: request.url, authorization: request.headers.authorization })
      response.writeHead(status).end('{}')
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, stop: () => server.close() }
  }

  test.each([
    [200, 0, /^ok {4}provider {2}openai\/\S+ answers and accepts the key/m],
    [401, 1, /^bad {3}provider {2}openai\/\S+ refuses the key\n +Set a key/m],
  ])('tells by a %i', async (status, expected, line) => {
    const provider = await providerThatAnswers(status)
    const { code, printed } = await doctor({ OPENAI_API_KEY: 'the-key', OPENAI_BASE_URL: provider.url })
    expect(printed).toMatch(line)
    expect(code).toBe(expected)
    expect(printed).not.toContain('the-key')
    expect(asked.at(-1)).toEqual({ path: '/v1/models', authorization: 'Bearer the-key' })
    provider.stop()
  })

  test('says that it does not answer', async () => {
    const { code, printed } = await doctor({ OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'http://127.0.0.1:1/v1' })
    expect(code).toBe(1)
    expect(printed).toMatch(/^bad {3}provider {2}openai\/\S+ does not answer at http:\/\/127\.0\.0\.1:1\n/m)
  })
})

test('judges what cannot be had here: old Node, old Postgres, fsync off, a standby', () => {
  expect(node('20.18.9').advice).toContain('20.19')
  expect(node('24.0.0').bad).toBeUndefined()
  expect(version({ version: 140_011, name: '14.11' }).bad).toBe(true)
  expect(durability({ fsync: 'off' })).toMatchObject({ bad: true, advice: expect.stringContaining('fsync = on') })
  expect(rights({ creates: false, standby: true }).advice).toContain('primary')
  expect(judged('openai/x', 503).advice).toContain('moment')
})
