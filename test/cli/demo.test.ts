import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { endCommands, startCommand } from '../support/command.ts'
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

test('nobody but a guest on this machine may kill the demo, and not from another site', async () => {
  const demo = startCommand(['demo'], { cwd: folder })
  const url = (await demo.said(ready))[1]!
  const cookie = await openPage(url)
  const kill = (headers: Record<string, string>) => fetch(`${url}/demo/kill`, { method: 'POST', headers, body: '{}' })
  expect((await kill({ 'content-type': 'application/json' })).status).toBe(403)
  expect((await kill({ cookie })).status).toBe(403)
  expect((await kill({ cookie, 'content-type': 'text/plain' })).status).toBe(403)
  expect(await (await fetch(`${url}/readyz`)).text()).toBe('ready\n')
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
  expect((await fetch(`${url}/assets/../../package.json`)).status).toBe(404)
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

test('the data directory is added to a .gitignore once, and none is made', async () => {
  const start = async () => {
    const demo = startCommand(['demo'], { cwd: folder })
    await demo.said(ready)
    demo.signal('SIGTERM')
    await demo.ended
  }
  await start()
  expect(existsSync(join(folder, '.gitignore'))).toBe(false)
  await writeFile(join(folder, '.gitignore'), 'node_modules')
  await start()
  await start()
  expect(await readFile(join(folder, '.gitignore'), 'utf8')).toBe('node_modules\n.holdfast/\n')
})

test('--lan gives one way in, once: the phone goes on with the same sessions, and nobody else gets in', async () => {
  const demo = startCommand(['demo', '--lan'], { cwd: folder })
  const url = (await demo.said(ready))[1]!.replace('0.0.0.0', '127.0.0.1')
  const [, token] = await demo.said(/http:\/\/\S+\/demo\/join\/(\S+)/)
  // The picture of the link.
  expect(demo.printed()).toMatch(/[█▀▄]{10}/)
  const laptop = await openPage(url)
  const { id } = await json(fetch(`${url}/v1/sessions`, post(laptop, {})))

  const stranger = `holdfast_guest=${'x'.repeat(32)}`
  expect((await fetch(`${url}/v1/sessions/${id}`, { headers: { cookie: stranger } })).status).toBe(401)
  expect((await fetch(`${url}/v1/sessions`, post(stranger, {}))).status).toBe(401)
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
