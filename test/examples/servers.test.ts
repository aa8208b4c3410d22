/** Holdfast inside Express, Fastify, Hono and node:http: each example installed, built, started and used. */
import { randomUUID } from 'node:crypto'
import { access, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { UIMessage } from 'ai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Command, endCommands, startCommand } from '../support/command.ts'
import { freshDatabase } from '../support/postgres.ts'
import { type Checkout, endPostgresOf, freePort, packedCheckout, run } from './example.ts'
import { type ExamplePage, firstWords, pageOf, readOut, resumeToEnd, type Stored } from './page.ts'

const names = ['express', 'fastify', 'hono', 'node-http']
let checkout: Checkout
const folders = new Map<string, string>()
beforeAll(async () => {
  checkout = await packedCheckout()
  const installed = names.map(async (name) => {
    const folder = await checkout.install(name)
    await run('npm', ['run', 'build'], folder)
    folders.set(name, folder)
  })
  await Promise.all(installed)
}, 240_000)
afterAll(async () => {
  await endCommands()
  for (const folder of folders.values()) await endPostgresOf(folder)
  await checkout.remove()
})

type Started = { url: string; command: Command }

/** What `npm start` runs, without npm, which passes no SIGKILL on. */
async function start(folder: string, env: Record<string, string>): Promise<Started> {
  const { scripts } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as { scripts: { start: string } }
  const [program, ...args] = scripts.start.split(' ')
  const settings = { LOG_LEVEL: 'error', PORT: await freePort(), ...env }
  const command = startCommand(args, { cwd: folder, program: [program!], env: settings })
  const [url] = await command.said(/^http:\/\/localhost:\d+$/m)
  return { url, command }
}

async function storedFor(page: ExamplePage, chatId: string): Promise<string[]> {
  const { messages } = (await (await page.fetch(`/v1/sessions/${chatId}`)).json()) as { messages: Stored[] }
  return messages.map(({ status, parts }) => `${status}: ${parts.map(({ text }) => text ?? '').join('')}`)
}

const words = (count: number) => Array.from({ length: count }, (_, at) => `word${at}`).join(' ')
/** As the examples' reply ends each of its words. */
const replyTo = (text: string) => `You said: ${text} `
/** Longer than parsers take by default: a page sends its whole history each time. */
const longHistory: UIMessage[] = [
  { id: 'long', role: 'assistant', parts: [{ type: 'text', text: 'long '.repeat(400_000) }] },
]

/** The lines of the example's README: send, come back, look at what is stored. */
async function expectReadmeHolds(folder: string, url: string): Promise<void> {
  const { host, port } = new URL(url)
  const readme = await readFile(join(folder, 'README.md'), 'utf8')
  const lines = readme
    .replaceAll('localhost:3000', host)
    .replaceAll(' jar ', ` jar-${port} `)
    .match(/^curl .*$/gm)
  const [send, resume, look] = lines ?? []
  const shell = (line = '') => run('sh', ['-c', line], folder)
  expect(await shell(send)).toContain('"type":"finish"')
  expect(await shell(resume)).toContain('You said: Hello from curl')
  expect(JSON.parse(await shell(look)).messages).toMatchObject([{ id: 'm1' }, { status: 'complete' }])
}

/** A page that is cut off, that stops, and whose server is killed. Resolves to the server that then runs. */
async function live(folder: string, env: Record<string, string>): Promise<Started> {
  let server = await start(folder, env)
  const chatId = randomUUID()
  const page = pageOf(chatId, () => server.url)
  expect(await (await page.fetch('/')).text()).toContain('POST /api/chat')

  await expectReadmeHolds(folder, server.url)

  const [first, second, third] = [words(15), words(200), words(25)]
  await firstWords(await page.send('m1', first, longHistory))
  page.cut()
  expect(await resumeToEnd(page)).toBe(replyTo(first))

  const stopped = await page.send('m2', second)
  await firstWords(stopped)
  const stop = await page.fetch(`/api/chat/${chatId}/stop`, { method: 'POST' })
  expect([stop.status, await stop.json()]).toEqual([200, { success: true }])
  await readOut(stopped)

  const killed = await page.send('m3', third)
  await firstWords(killed)
  server.command.signal('SIGKILL')
  await server.command.ended
  await expect(readOut(killed)).rejects.toThrow()
  server = await start(folder, env)
  expect(await resumeToEnd(page)).toBe(replyTo(third))

  expect(await page.askBySocket(randomUUID(), 'by a socket')).toBe(replyTo('by a socket'))

  const stored = await storedFor(page, chatId)
  expect(stored).toEqual([
    `complete: ${first}`,
    `complete: ${replyTo(first)}`,
    `complete: ${second}`,
    expect.stringMatching(/^stopped: You /),
    `complete: ${third}`,
    `complete: ${replyTo(third)}`,
  ])
  return server
}

async function end({ command }: Started): Promise<void> {
  command.signal('SIGTERM')
  expect(await command.ended).toBe(0)
}

test.concurrent.each([
  ['express', 'before express.json()', {}],
  ['express', 'behind express.json()', { PARSER_FIRST: '1' }],
  ['fastify', 'in a scope without parsers', {}],
  ['hono', 'by chat.fetch', {}],
] as const)(
  'examples/%s, %s: a cut is resumed, a stop stops, a reply whose server was killed is completed, and a socket is answered (I1, I2, I11)',
  async (name, _how, env) => {
    const database = await freshDatabase(18)
    await end(await live(folders.get(name)!, { DATABASE_URL: database.url, ...env }))
    await database.drop()
  },
)

test.concurrent('examples/node-http does the same on the embedded Postgres, and ends it when it is told to end', async () => {
  const folder = folders.get('node-http')!
  const server = await live(folder, { LOG_LEVEL: 'info' })
  await end(server)
  expect(server.command.printed()).toContain('PostgreSQL 18')
  // Its own end is nothing that an operator has to be told.
  expect(server.command.printed()).not.toContain('database connection lost')
  await expect(access(join(folder, '.holdfast', 'data', 'postmaster.pid'))).rejects.toThrow('ENOENT')
})
