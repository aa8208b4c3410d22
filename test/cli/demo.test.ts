import { execFile, fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { get, type IncomingMessage } from 'node:http'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ignoreDirectory } from '../../src/cli/gitignore.ts'
import { endCommands, main, startCommand } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-demo-'))
})
afterEach(async () => {
  await endCommands()
  await rm(folder, { recursive: true, force: true })
})

const ready = /Holdfast {2,}(http:\/\/\S+)/
const post = (cookie: string, body: unknown) => ({
  method: 'POST',
  headers: { 'content-type': 'application/json', cookie },
  body: JSON.stringify(body),
})

/** What a browser on this machine has after it opened the page. */
async function openPage(url: string): Promise<string> {
  const response = await fetch(url)
  expect(response.headers.get('content-type')).toContain('text/html')
  return response.headers.getSetCookie()[0]!.split(';')[0]!
}

/** What browsers subscribe with, and what is kept for it. */
const noticeKey = async (url: string, cookie: string) =>
  ((await (await fetch(`${url}/v1/devices/key`, { headers: { cookie } })).json()) as { publicKey: string }).publicKey
const keptKey = async () => {
  const kept = await readFile(join(folder, '.holdfast/vapid.json'), 'utf8')
  return (JSON.parse(kept) as { publicKey: string }).publicKey
}

type Answer = { id: string; messages: { role: string; status: string; parts: { text?: string }[] }[] }
const json = async (response: Promise<Response>) => (await (await response).json()) as Answer

async function processesOf(directory: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ps', ['-eo', 'pid=,args='])
  return stdout.split('\n').filter((line) => line.includes(directory))
}

test('six tidy lines, and a server that is killed from the page is back with the reply it owed (R1.7)', async () => {
  const demo = startCommand([], { cwd: folder })
  const url = (await demo.said(ready))[1]!
  const lines = ['Holdfast', 'store', 'runner', 'model', 'realtime', 'add to your app']
  await demo.said(/add to your app .*\n/)
  const printed = demo.printed()
  expect(printed.split('\n').filter((line) => line.trim() !== '')).toHaveLength(lines.length)
  for (const line of lines) expect(printed).toMatch(new RegExp(`^ {2}${line} {2,}\\S`, 'm'))

  const cookie = await openPage(url)
  expect(await (await fetch(`${url}/demo/info`)).json()).toMatchObject({ supervised: true, url })
  const { id } = await json(fetch(`${url}/v1/sessions`, post(cookie, {})))
  await fetch(`${url}/v1/sessions/${id}/messages`, post(cookie, { id: 'm1', text: 'hello' }))
  const snapshot = () => json(fetch(`${url}/v1/sessions/${id}`, { headers: { cookie } }))
  await eventually(async () => (await snapshot()).messages[1]?.status === 'streaming')

  expect((await fetch(`${url}/demo/kill`, post(cookie, {}))).status).toBe(202)
  await demo.said(/the server ended \(SIGKILL\), starting it again\n.*the server is back at http/)
  const reply = await eventually(async () => {
    const last = (await snapshot()).messages[1]
    return last?.status === 'complete' && last
  }, 60_000)
  expect(reply.parts.map((part) => part.text ?? '').join('')).toContain('demo model')

  // Ctrl-C ends all: the supervisor, the server, the database.
  demo.signal('SIGINT')
  expect(await demo.ended).toBe(0)
  expect(await processesOf(folder)).toEqual([])
}, 120_000)

test('nobody but a guest on this machine may kill the demo, and not from another site; who is invited is another guest', async () => {
  const demo = startCommand(['demo'], { cwd: folder })
  const url = (await demo.said(ready))[1]!
  const cookie = await openPage(url)
  const kill = (headers: Record<string, string>) => fetch(`${url}/demo/kill`, { method: 'POST', headers, body: '{}' })
  expect((await kill({ 'content-type': 'application/json' })).status).toBe(403)
  expect((await kill({ cookie })).status).toBe(403)
  expect((await kill({ cookie, 'content-type': 'text/plain' })).status).toBe(403)
  expect(await (await fetch(`${url}/readyz`)).text()).toBe('ready\n')
  expect(await noticeKey(url, cookie)).toBe(await keptKey())
  // One demo is tried by two people: who opens the link of an invitation in another browser is a guest of their own.
  const [invited, again] = [await openPage(`${url}/?guest`), await openPage(url)]
  expect(again).toBe(cookie)
  expect(invited).not.toBe(cookie)
  expect((await fetch(`${url}/?guest`, { headers: { cookie } })).headers.getSetCookie()).toEqual([])
  const { id } = await json(fetch(`${url}/v1/sessions`, post(cookie, {})))
  expect((await fetch(`${url}/v1/sessions/${id}`, { headers: { cookie: invited } })).status).toBe(404)
})

test('the page is served under a policy without inline scripts, and its assets for ever', async () => {
  const demo = startCommand(['demo'], { cwd: folder })
  const url = (await demo.said(ready))[1]!
  const page = await fetch(url)
  expect(page.headers.get('content-security-policy')).toContain(
    "default-src 'none'; script-src 'self'; style-src 'self'",
  )
  const html = await page.text()
  expect(html).not.toMatch(/<script(?![^>]*\bsrc=)[^>]*>/)
  const asset = /src="(\/assets\/[^"]+\.js)"/.exec(html)?.[1]
  const script = await fetch(`${url}${asset}`)
  expect(script.headers.get('cache-control')).toContain('immutable')
  expect(script.headers.get('content-encoding')).toBe('gzip')
  // From the root, so that it is the whole page's, and looked for again at each visit.
  const worker = await fetch(`${url}/notices-worker.js`)
  expect(worker.headers.get('cache-control')).toBe('no-cache')
  expect(worker.headers.get('content-type')).toContain('text/javascript')
  expect(page.headers.get('content-security-policy')).toContain("worker-src 'self'")
  // As they stand: fetch would make them short.
  for (const path of [
    '/../../package.json',
    '/assets/../../package.json',
    '/assets/..',
    '//etc/hosts.json',
    '/%2e%2e/a.js',
  ]) {
    const [answer] = (await once(get(url, { path }), 'response')) as [IncomingMessage]
    answer.resume()
    expect([path, answer.statusCode]).toEqual([path, 404])
  }
})

test('serve has the same page and notices, and nothing of the panel', async () => {
  const serve = startCommand(['serve'], { cwd: folder, env: { LOG_LEVEL: 'silent' } })
  const url = (await serve.said(/Holdfast {2}(http:\S+)/))[1]!
  expect(await (await fetch(url)).text()).toMatch(/<script type="module"[^>]* src="\/assets\//)
  expect((await fetch(`${url}/demo/info`)).status).toBe(404)
  const guest = (await fetch(`${url}/v1/sessions`, post('', {}))).headers.getSetCookie()[0]!.split(';')[0]!
  expect(await noticeKey(url, guest)).toBe(await keptKey())
})

test('a port in use is said, with one that is free; nothing is left running', async () => {
  const taken = createServer()
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
  const { port } = taken.address() as { port: number }
  const demo = startCommand(['demo'], { cwd: folder, env: { PORT: String(port) } })
  expect(await demo.ended).toBe(1)
  const [, free] =
    new RegExp(`^Port ${port} is in use\\. Port (\\d+) is free: set PORT=\\1\\.\\n$`).exec(demo.printed()) ?? []
  expect(Number(free)).toBeGreaterThan(port)
  expect(await processesOf(folder)).toEqual([])
  await new Promise((resolve) => taken.close(resolve))
})

test('a wrong setting is one line that names it', async () => {
  const demo = startCommand([], { cwd: folder, env: { HOLDFAST_LEASE_MS: 'soon' } })
  expect(await demo.ended).toBe(1)
  expect(demo.printed()).toBe('HOLDFAST_LEASE_MS: expected a whole number from 1000 to 60000, got "soon".\n')
})

test('a data directory that cannot be made is one line that names it', async () => {
  await writeFile(join(folder, 'file'), '')
  const demo = startCommand([], { cwd: folder, env: { HOLDFAST_DATA_DIR: join('file', 'data') } })
  expect(await demo.ended).toBe(1)
  expect(demo.printed()).toMatch(/^The data directory file\/data cannot be used \(ENOTDIR\): .*HOLDFAST_DATA_DIR.*\n$/)
})

test('an address that others reach, where nobody may be a guest, is refused with what to do', async () => {
  const demo = startCommand([], { cwd: folder, env: { HOST: '0.0.0.0' } })
  expect(await demo.ended).toBe(1)
  expect(demo.printed()).toMatch(/^HOST is 0\.0\.0\.0, .*holdfast demo --lan.*HOLDFAST_GUESTS=on.*\n$/)
})

test('the data directory is added to the .gitignore that there is', async () => {
  await writeFile(join(folder, '.gitignore'), 'node_modules')
  const demo = startCommand(['demo'], { cwd: folder })
  await demo.said(ready)
  expect(await readFile(join(folder, '.gitignore'), 'utf8')).toBe('node_modules\n.holdfast/\n')
})

test.each([
  ['no file', null, '.holdfast', null],
  ['an empty file', '', '.holdfast', '.holdfast/\n'],
  ['a file without a last line end', 'dist', '.holdfast', 'dist\n.holdfast/\n'],
  ['one that has it', '.holdfast\n', '.holdfast', '.holdfast\n'],
  ['one that has it as a directory', '.holdfast/\ndist\n', '.holdfast', '.holdfast/\ndist\n'],
  ['one that has it from the root, with other line ends', '/.holdfast/\r\n', '.holdfast', '/.holdfast/\r\n'],
  ['one that has a longer name', '.holdfast-old/\n', '.holdfast', '.holdfast-old/\n.holdfast/\n'],
  ['a directory named another way', '', './data//chat/', 'data/chat/\n'],
  ['a directory outside', 'dist\n', '../data', 'dist\n'],
  ['the folder itself', 'dist\n', '.', 'dist\n'],
])('.gitignore with %s is left as it should be', async (_what, before, dataDir, after) => {
  const path = join(folder, '.gitignore')
  if (before !== null) await writeFile(path, before)
  expect(ignoreDirectory(folder, dataDir)).toBe(true)
  expect(existsSync(path) ? await readFile(path, 'utf8') : null).toBe(after)
})

test('a .gitignore that cannot be written is said, and the demo starts', async () => {
  await mkdir(join(folder, '.gitignore'))
  const demo = startCommand(['demo'], { cwd: folder })
  await demo.said(/^\.gitignore cannot be written/)
  await demo.said(ready)
})

test('a server that is killed before it ever listened is said, and not started again', async () => {
  // A database that never answers.
  const database = createServer().listen(0, '127.0.0.1')
  await once(database, 'listening')
  const { port } = database.address() as { port: number }
  const demo = startCommand(['demo'], { cwd: folder, env: { DATABASE_URL: `postgres://u@127.0.0.1:${port}/x` } })
  const [socket] = (await once(database, 'connection')) as [Socket]
  const { stdout } = await promisify(execFile)('ps', ['-o', 'pid=', '--ppid', String(demo.pid)])
  process.kill(Number(stdout), 'SIGKILL')
  expect(await demo.ended).toBe(1)
  expect(demo.printed()).toBe('The server was ended (SIGKILL) before it listened. Start it again.\n')
  socket.destroy()
  database.close()
})

test('a server whose supervisor is gone before it listens ends, and leaves no database', async () => {
  const child = fork(main, ['demo'], {
    cwd: folder,
    env: { PATH: process.env.PATH, PORT: '0', HOLDFAST_DEMO_CHILD: 'yes' },
    stdio: 'ignore',
  })
  child.disconnect()
  expect(await once(child, 'exit')).toEqual([0, null])
  expect(await processesOf(folder)).toEqual([])
})

test('the phone goes on with the chats of a browser that was a guest before the demo was', async () => {
  const demo = startCommand(['demo'], { cwd: folder })
  const url = (await demo.said(ready))[1]!
  const cookie = `holdfast_guest=${'y'.repeat(32)}`
  expect((await fetch(url, { headers: { cookie } })).headers.getSetCookie()).toEqual([])
  const { id } = await json(fetch(`${url}/v1/sessions`, post(cookie, {})))
  demo.signal('SIGTERM')
  await demo.ended

  const lan = startCommand(['demo', '--lan'], { cwd: folder })
  const lanUrl = (await lan.said(ready))[1]!
  const [, token] = await lan.said(/http:\/\/\S+\/demo\/join\/(\S+)/)
  const join = await fetch(`${lanUrl}/demo/join/${token}`, { redirect: 'manual' })
  const phone = join.headers.getSetCookie()[0]!.split(';')[0]!
  expect((await fetch(`${lanUrl}/v1/sessions/${id}`, { headers: { cookie: phone } })).status).toBe(200)
})

test('--lan gives one way in, once: the phone goes on with the same sessions, and nobody else gets in', async () => {
  const demo = startCommand(['demo', '--lan'], { cwd: folder })
  const url = (await demo.said(ready))[1]!
  expect(url).toMatch(/^http:\/\/localhost:\d+$/)
  const [, token] = await demo.said(/http:\/\/\S+\/demo\/join\/(\S+)/)
  // The picture of the link.
  expect(demo.printed()).toMatch(/[█▀▄]{10}/)
  const laptop = await openPage(url)
  const { id } = await json(fetch(`${url}/v1/sessions`, post(laptop, {})))

  const stranger = `holdfast_guest=${'x'.repeat(32)}`
  expect((await fetch(`${url}/v1/sessions/${id}`, { headers: { cookie: stranger } })).status).toBe(401)
  expect((await fetch(`${url}/v1/sessions`, post(stranger, {}))).status).toBe(401)
  // A browser on this machine that was another guest before, of another folder, say.
  const other = await fetch(url, { headers: { cookie: stranger } })
  expect(other.headers.getSetCookie()[0]).toContain(laptop)
  expect((await fetch(url, { headers: { cookie: laptop } })).headers.getSetCookie()).toEqual([])
  expect((await fetch(`${url}/demo/kill`, post(stranger, {}))).status).toBe(202)
  await demo.said(/the server is back/)

  const join = await fetch(`${url}/demo/join/${token}`, { redirect: 'manual' })
  expect(join.status).toBe(303)
  const phone = join.headers.getSetCookie()[0]!.split(';')[0]!
  expect((await json(fetch(`${url}/v1/sessions/${id}`, { headers: { cookie: phone } }))).messages).toEqual([])
  const again = () => fetch(`${url}/demo/join/${token}`, { redirect: 'manual' })
  expect((await again()).status).toBe(410)
  // Nor is it good for the next process.
  expect((await fetch(`${url}/demo/kill`, post(phone, {}))).status).toBe(202)
  await demo.said(/(the server is back.*\s+){2}/s)
  expect((await again()).status).toBe(410)
  expect((await fetch(`${url}/demo/join/${'a'.repeat(22)}`, { redirect: 'manual' })).status).toBe(410)
}, 120_000)
