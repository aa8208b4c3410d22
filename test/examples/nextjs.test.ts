/** Holdfast inside Next.js, with the real `next`: built, started, killed, and edited while a reply is written. */
import { randomUUID } from 'node:crypto'
import { access, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { addressIfRunning } from '../../src/store/embedded.ts'
import { type Command, endCommands, startCommand } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase, queryOnce } from '../support/postgres.ts'
import { startBrowser } from '../web/support.ts'
import { type Checkout, endPostgresOf, freePort, packedCheckout, run } from './example.ts'
import { type ExamplePage, firstWords, pageOf, readOut, resumeToEnd } from './page.ts'

const next = join('node_modules', 'next', 'dist', 'bin', 'next')
/** Two cores that others work on, too: a build takes six times as long then. */
const patienceMs = 240_000
let checkout: Checkout
let folder: string
beforeAll(async () => {
  checkout = await packedCheckout()
  folder = await checkout.install('nextjs')
}, patienceMs)
afterAll(async () => {
  await endCommands()
  await endPostgresOf(folder)
  await checkout.remove()
})

type Started = { url: string; command: Command }

async function start(mode: 'start' | 'dev', settings: Record<string, string>): Promise<Started> {
  const port = await freePort()
  const env = {
    ...settings,
    LOG_LEVEL: 'error',
    NEXT_TELEMETRY_DISABLED: '1',
    // As `npm start` says.
    ...(mode === 'start' ? { NEXT_MANUAL_SIG_HANDLE: '1' } : {}),
  }
  const command = startCommand([next, mode, '-p', port], { cwd: folder, program: [process.execPath], env })
  await command.said(/Ready in/)
  return { url: `http://localhost:${port}`, command }
}

const words = (count: number) => Array.from({ length: count }, (_, at) => `word${at}`).join(' ')
/** As the example's reply ends each of its words. */
const replyTo = (text: string) => `You said: ${text} `

/** A Postgres that nobody should ask: it counts who comes. */
async function deafDatabase() {
  let came = 0
  const server = createServer((socket: Socket) => {
    came++
    socket.destroy()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  return {
    url: `postgres://someone@127.0.0.1:${port}/chat`,
    came: () => came,
    close: () => new Promise((resolve) => server.close(resolve)),
  }
}

/** Rendered while the app is built. It asks both kinds of database, and shows what it is told. */
const renderedAhead = `import { createHoldfast } from 'holdfast'
import { chat } from '@/lib/holdfast'
const embedded = createHoldfast({ reply: () => '' })
export const dynamic = 'force-static'
export default async function Page() {
  const asked = [chat, embedded].map((each) => each.sessions.list({ userId: 'ann' }))
  const told = await Promise.all(asked.map((each) => each.then(() => 'listed', (error) => String(error.cause))))
  return <p>{told.join('|')}</p>
}
`

test(
  'next build starts nothing: no connection, no database of its own, also where a page is rendered ahead',
  async () => {
    const database = await deafDatabase()
    await mkdir(join(folder, 'app', 'ahead'))
    await writeFile(join(folder, 'app', 'ahead', 'page.tsx'), renderedAhead)
    await run(process.execPath, [next, 'build'], folder, { DATABASE_URL: database.url })
    const html = await readFile(join(folder, '.next', 'server', 'app', 'ahead.html'), 'utf8')
    expect(html.match(/Holdfast does not start during next build/g)?.length).toBeGreaterThanOrEqual(2)
    expect(html).not.toContain('listed')
    expect(database.came()).toBe(0)
    await expect(access(join(folder, '.holdfast'))).rejects.toThrow('ENOENT')
    await database.close()
  },
  patienceMs,
)

/** What a server component shows: its HTML without the marks between texts. */
async function htmlOf(page: ExamplePage, path: string): Promise<string> {
  return (await (await page.fetch(path)).text()).replaceAll('<!-- -->', '')
}

const migrate = (url: string) =>
  run(process.execPath, ['node_modules/holdfast/dist/cli/main.js', 'migrate'], folder, { DATABASE_URL: url })

test(
  'next start: a cut is resumed, a stop stops, a reply whose server was killed is completed, and pages show them (I1, I2, I11)',
  async () => {
    const database = await freshDatabase(18)
    await migrate(database.url)
    let server = await start('start', { DATABASE_URL: database.url })
    const chatId = randomUUID()
    const page = pageOf(chatId, () => server.url)
    expect(await htmlOf(page, `/chat/${chatId}`)).toContain('Say something...')

    const [first, second, third] = [words(15), words(200), words(25)]
    await firstWords(await page.send('m1', first))
    page.cut()
    expect(await resumeToEnd(page)).toBe(replyTo(first))
    expect(await htmlOf(page, `/chat/${chatId}`)).toContain(`AI: ${replyTo(first)}`)

    const stopped = await page.send('m2', second)
    await firstWords(stopped)
    expect((await page.fetch(`/api/chat/${chatId}/stop`, { method: 'POST' })).status).toBe(200)
    await readOut(stopped)

    const killed = await page.send('m3', third)
    await firstWords(killed)
    server.command.signal('SIGKILL')
    await server.command.ended
    await expect(readOut(killed)).rejects.toThrow()
    server = await start('start', { DATABASE_URL: database.url })
    expect(await resumeToEnd(page)).toBe(replyTo(third))
    const shown = await htmlOf(page, `/chat/${chatId}`)
    for (const text of [first, second, third]) expect(shown).toContain(`User: ${text}`)
    expect(shown.match(/AI: You said: /g)).toHaveLength(2)
    expect(shown).toContain(`AI: ${replyTo(third)}`)
    expect(await htmlOf(page, '/')).toContain(`href="/chat/${chatId}"`)

    await useInBrowser(server.url)
    server.command.signal('SIGTERM')
    expect(await server.command.ended).toBe(0)
    await database.drop()
  },
  patienceMs,
)

/** The page itself, reloaded in the middle of a reply. */
async function useInBrowser(url: string): Promise<void> {
  const browser = await startBrowser()
  try {
    const tab = await browser.newPage()
    const complaints: string[] = []
    tab.on('pageerror', (error) => complaints.push(String(error)))
    await tab.goto(url)
    await tab.getByRole('link', { name: 'New chat' }).click()
    await tab.getByPlaceholder('Say something...').fill(words(20))
    await tab.keyboard.press('Enter')
    await tab.getByText(/^AI: You said: word0/).waitFor()
    await tab.reload()
    await tab.getByText(`AI: ${replyTo(words(20)).trim()}`, { exact: true }).waitFor()
    expect(await tab.locator('p').count()).toBe(2)
    expect(complaints).toEqual([])
  } finally {
    await browser.close()
  }
}

/** How many engines have come to the database, by the connection that each listens and tells with; and their runners. */
async function enginesIn(url: string): Promise<{ listeners: number; connections: number; runners: (string | null)[] }> {
  const connections = await queryOnce<{ listens: boolean }>(
    url,
    `select query ~ '^listen |pg_notify' as listens from pg_stat_activity
     where datname = current_database() and application_name = 'holdfast'`,
  )
  const turns = await queryOnce<{ runner: string | null }>(
    url,
    `select distinct runner from holdfast.turns where state = 'running'`,
  )
  return {
    listeners: connections.filter(({ listens }) => listens).length,
    connections: connections.length,
    runners: turns.map(({ runner }) => runner),
  }
}

/** Of the database that the app has brought itself. */
async function embeddedUrl(): Promise<string> {
  const address = await addressIfRunning(join(folder, '.holdfast'))
  if (!address) throw new Error('No embedded Postgres runs.')
  const { host, port, user, database } = address
  return `postgres://${user}@localhost/${database}?host=${encodeURIComponent(host)}&port=${port}`
}

const files = { chat: 'lib/holdfast.ts', route: 'app/api/chat/[[...path]]/route.ts', page: 'app/chat/[id]/page.tsx' }
/** What nine connections for statements, and those beside them (docs/options.md), are together. */
const connectionsMax = 13

test(
  'next dev: three edits of the route, the page and the reply keep one pool and one runner, and lose no reply (I2)',
  async () => {
    const sources = new Map<string, string>()
    for (const file of Object.values(files)) sources.set(file, await readFile(join(folder, file), 'utf8'))
    const write = (file: string, text: string) => writeFile(join(folder, file), text)
    const replaced = (file: string, what: string, by: string) => {
      const text = sources.get(file)!
      expect(text).toContain(what)
      return text.replace(what, () => by)
    }
    // A reply that begins with its first word and goes on when the test says so.
    const gated = `for (const word of`
    sources.set(
      files.chat,
      `import { existsSync } from 'node:fs'\n${replaced(
        files.chat,
        gated,
        `if (said.startsWith('wait')) yield 'Begun. '
  while (said.startsWith('wait') && !existsSync('go-on')) await pause(20, undefined, { signal })
  ${gated}`,
      )}`,
    )
    await write(files.chat, sources.get(files.chat)!)
    // Without what Next.js may load beside its bundles: route and pages then have modules of the package of their own.
    await rm(join(folder, 'next.config.ts'))

    const { url, command } = await start('dev', {})
    const long = pageOf(randomUUID(), () => url)
    await htmlOf(long, '/')
    const database = await embeddedUrl()
    const waiting = await long.send('m1', 'wait for three edits')
    expect(await firstWords(waiting)).toBe('Begun. ')
    const before = await enginesIn(database)
    expect(before).toMatchObject({ listeners: 1, runners: [expect.any(String)] })

    for (const edit of [1, 2, 3]) {
      const headers = `{ 'x-edit': '${edit}' }`
      await write(files.chat, replaced(files.chat, 'You said:', `Edit ${edit} heard:`))
      await write(
        files.route,
        `${sources.get(files.route)}\nexport const HEAD = () => new Response(null, { headers: ${headers} })\n`,
      )
      await write(files.page, replaced(files.page, 'return <Chat ', `return <Chat data-edit="edit-${edit}" `))
      const chatId = randomUUID()
      const page = pageOf(chatId, () => url)
      await eventually(async () => {
        const head = await page.fetch('/api/chat', { method: 'HEAD' })
        return head.headers.get('x-edit') === String(edit)
      })
      await eventually(async () => (await htmlOf(page, `/chat/${chatId}`)).includes(`edit-${edit}`))
      const reply = await page.send('m1', words(10))
      const begun = await firstWords(reply)
      const now = await enginesIn(database)
      expect(now).toMatchObject({ listeners: 1, runners: before.runners })
      expect(now.connections).toBeLessThanOrEqual(connectionsMax)
      const { text, end } = await readOut(reply)
      expect([begun + text, end]).toEqual([`Edit ${edit} heard: ${words(10)} `, 'finish'])
      expect(await htmlOf(page, `/chat/${chatId}`)).toContain(`AI: Edit ${edit} heard: ${words(10)}`)
    }

    await write('go-on', '')
    expect(await readOut(waiting)).toEqual({ text: 'You said: wait for three edits ', end: 'finish' })
    expect(
      await queryOnce(database, 'select state, attempt from holdfast.turns order by attempt desc limit 1'),
    ).toEqual([{ state: 'complete', attempt: 1 }])
    command.signal('SIGTERM')
    await command.ended
  },
  patienceMs,
)
