/** The command line when something is not as it should be: one line that says what, and an exit code. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { apiOf } from '../support/client.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startServer } from '../support/server.ts'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

async function holdfast(args: string[], env: Record<string, string> = {}) {
  const { PATH, HOME, TMPDIR } = process.env
  const child = spawn(process.execPath, [main, ...args], {
    env: { PATH, HOME, TMPDIR, PORT: '0', ...env } as NodeJS.ProcessEnv,
  })
  let out = ''
  let err = ''
  child.stdout.on('data', (data) => {
    out += data
  })
  child.stderr.on('data', (data) => {
    err += data
  })
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, out, err }
}

const key = { OPENAI_API_KEY: 'k' }
const wrong: [what: string, env: Record<string, string>, line: RegExp][] = [
  ['a port out of range', { PORT: '99999' }, /^PORT: expected a whole number from 0 to 65535, got "99999"\.\n$/],
  ['a port that is no number', { PORT: '3e3' }, /^PORT: .*got "3e3"\.\n$/],
  [
    'a lease that is too short',
    { HOLDFAST_LEASE_MS: '5' },
    /^HOLDFAST_LEASE_MS: expected a whole number from 1000 to 60000, got "5"\.\n$/,
  ],
  [
    'a limit that is none',
    { HOLDFAST_SENDS_PER_MINUTE: 'many' },
    /^HOLDFAST_SENDS_PER_MINUTE: expected a whole number from 0 to 1000, got "many"\.\n$/,
  ],
  ['a level that is none', { LOG_LEVEL: 'loud' }, /^LOG_LEVEL: expected trace or .*, got "loud"\.\n$/],
  ['guests perhaps', { HOLDFAST_GUESTS: 'yes' }, /^HOLDFAST_GUESTS: expected on or off or loopback, got "yes"\.\n$/],
  ['a role that is none', { HOLDFAST_ROLES: 'http,worker' }, /^HOLDFAST_ROLES: expected http, runner or both.*\n$/],
  ['a short secret', { HOLDFAST_JWT_SECRET: 'short' }, /^HOLDFAST_JWT_SECRET: expected at least 32 characters\.\n$/],
  ['a short key', { HOLDFAST_SERVER_KEY: 'short' }, /^serverKey \(HOLDFAST_SERVER_KEY\): expected at least 32.*\n$/],
  ['secret and keys', { HOLDFAST_JWT_SECRET: 'x'.repeat(32), HOLDFAST_JWKS_URL: 'http://a/' }, /not both\.\n$/],
  [
    'keys without an audience',
    { HOLDFAST_JWKS_URL: 'http://a/', HOLDFAST_JWT_ISSUER: 'i' },
    /^HOLDFAST_JWKS_URL needs .*\n$/,
  ],
  [
    'keys that are no web address',
    { HOLDFAST_JWKS_URL: 'ftp://a/' },
    /^HOLDFAST_JWKS_URL: expected an http or https URL\.\n$/,
  ],
  [
    'secrets without a webhook',
    { HOLDFAST_WEBHOOK_SECRETS: 'whsec_x' },
    /^HOLDFAST_WEBHOOK_SECRETS is set, but .*HOLDFAST_WEBHOOK_URL\.\n$/,
  ],
  ['an issuer without a key', { HOLDFAST_JWT_ISSUER: 'i' }, /^HOLDFAST_JWT_ISSUER is set, but no key .*\n$/],
  [
    'a provider that is no web address',
    { OPENAI_BASE_URL: 'localhost:11434/v1', ...key },
    /^OPENAI_BASE_URL: expected a URL like .*, got "localhost:11434\/v1"\.\n$/,
  ],
  ['a model without its key', { HOLDFAST_MODEL: 'anthropic/claude', ...key }, /ANTHROPIC_API_KEY is not set\.\n$/],
  [
    'a database that is no URL',
    { DATABASE_URL: 'u:hidden@nowhere' },
    /^database \(DATABASE_URL\): expected a URL like postgres:.*database\.\n$/,
  ],
  [
    'a database that is not there',
    { DATABASE_URL: 'postgres://u@127.0.0.1:1/x' },
    /^The database refuses connections\..*\n$/,
  ],
  [
    'a host that nobody knows',
    { DATABASE_URL: 'postgres://u@nowhere.invalid/x' },
    /^The host "nowhere\.invalid" is not known\..*\n$/,
  ],
]

test.each(wrong)('serve refuses %s with one line', async (_what, env, line) => {
  const { code, out, err } = await holdfast(['serve'], env)
  expect({ code, out, err }).toEqual({ code: 1, out: '', err: expect.stringMatching(line) })
})

test('serve on a port that is in use says so in one line, and leaves no database running', async () => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-cli-'))
  const env = { PORT: String(port), HOLDFAST_DATA_DIR: dataDir, LOG_LEVEL: 'silent' }
  const { code, err } = await holdfast(['serve'], env)
  expect({ code, err }).toEqual({
    code: 1,
    err: expect.stringMatching(`^Port ${port} is in use..*
$`),
  })
  taken.close()
  // The directory is free again: the same command now starts, and would be refused if the first one's database still ran.
  const again = spawn(process.execPath, [main, 'serve'], {
    env: { ...process.env, ...env, PORT: '0' } as NodeJS.ProcessEnv,
  })
  const [first] = (await once(again.stdout, 'data')) as [Buffer]
  expect(String(first)).toMatch(/^Holdfast {2}http:/)
  again.kill('SIGTERM')
  expect(await once(again, 'exit')).toEqual([0, null])
  await rm(dataDir, { recursive: true })
})

test('serve takes events of the app from who has HOLDFAST_SERVER_KEY, and from nobody else (P155)', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const serverKey = 'k'.repeat(32)
  const { url } = await startServer({ database: database.url, env: { HOLDFAST_SERVER_KEY: serverKey } })
  await (await apiOf(url)).createSession('s')
  const publish = async (key: string) => {
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${key}` }
    const body = JSON.stringify({ event: 'partner.moved', data: {} })
    return (await fetch(`${url}/v1/sessions/s/events`, { method: 'POST', headers, body })).status
  }
  expect([await publish(serverKey), await publish('x'.repeat(32))]).toEqual([200, 401])
})

test('an unknown command is named, with the commands that there are', async () => {
  const { code, out, err } = await holdfast(['server'])
  expect({ code, err }).toEqual({ code: 1, err: expect.stringMatching(/Unknown command.*server/) })
  expect(out + err).toMatch(/serve[\s\S]*migrate/)
  expect(await holdfast(['--version'])).toMatchObject({ code: 0, out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) })
})

test.each([
  ['serve', '--port'],
  ['demo', '--hots'],
  ['migrate', 'now'],
  ['doctor', '--fix'],
])('%s names an option that it does not have: %s', async (command, option) => {
  expect(await holdfast([command, option])).toEqual({
    code: 1,
    out: '',
    err: expect.stringMatching(new RegExp(`^"${option}" is no option here.*\\n$`)),
  })
})

test('migrate prints what is missing, applies it once, and then has nothing to do', async () => {
  const database = await freshDatabase(15)
  const env = { DATABASE_URL: database.url }
  const printed = await holdfast(['migrate', '--print'], env)
  expect(printed).toMatchObject({ code: 0, err: '' })
  expect(printed.out).toMatch(/^-- .*0001[\s\S]*create table holdfast\.sessions/)
  expect(await holdfast(['migrate'], env)).toMatchObject({
    code: 0,
    err: '',
    out: expect.stringMatching(/^Applied .*0001/),
  })
  expect(await holdfast(['migrate'], env)).toEqual({ code: 0, err: '', out: 'The schema is up to date.\n' })
  expect(await holdfast(['migrate', '--print'], env)).toEqual({ code: 0, err: '', out: '' })
  expect(await holdfast(['migrate'])).toEqual({
    code: 1,
    out: '',
    err: expect.stringMatching(/^DATABASE_URL is not set\./),
  })
  const wrong = '--tenant says whose the views are: give --views with it.\n'
  expect(await holdfast(['migrate', '--tenant', 'x'])).toEqual({ code: 1, out: '', err: wrong })
  await database.drop()
})

test('serve with migrate "check" refuses a schema that is behind and names the command', async () => {
  const database = await freshDatabase(18)
  for (const [name, value] of [
    ['HOLDFAST_MIGRATE', 'check'],
    ['NODE_ENV', 'production'],
  ] as const) {
    const { code, err } = await holdfast(['serve'], { DATABASE_URL: database.url, [name]: value })
    expect({ code, err }).toEqual({
      code: 1,
      err: expect.stringMatching(/^The database's schema is \d+ migrations behind .*"holdfast migrate".*\n$/),
    })
  }
  await database.drop()
})
