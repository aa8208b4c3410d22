/** The web app as people meet it: built, served under its policy, in front of the real server, in real Chromium. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { extname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Browser, chromium } from 'playwright-core'
import { contentSecurityPolicy } from '../../src/cli/web-app.ts'
import { needProgram } from '../support/debian.ts'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))

export type Assets = { dir: string; remove(): Promise<void> }

/** Builds the app (or the page of its tests) as a release would, beside the one that may be in web/dist. */
export function buildWeb(which: 'app' | 'renderer'): Promise<Assets> {
  return buildPage(which === 'app' ? here('../../web/vite.config.ts') : here('../../web/test/vite.config.ts'))
}

/** Builds what a configuration of vite in web/ says. */
export async function buildPage(config: string, settings: Record<string, string> = {}): Promise<Assets> {
  const dir = await mkdtemp(join(tmpdir(), 'holdfast-test-web-'))
  const { NODE_ENV: _testing, VITEST: _vitest, ...env } = process.env
  const args = [here('../../node_modules/vite/bin/vite.js'), 'build', '-c', config, '--outDir', dir, '--emptyOutDir']
  await promisify(execFile)(process.execPath, args, { cwd: here('../../web'), env: { ...env, ...settings } })
  return { dir, remove: () => rm(dir, { recursive: true, force: true }) }
}

export async function startBrowser(): Promise<Browser> {
  await needProgram('chromium', 'chromium')
  return await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
}

const types: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
}

/** Serves built files under the policy. */
export async function serveFile(dir: string, incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
  const { pathname } = new URL(incoming.url ?? '/', 'http://localhost')
  const path = pathname === '/' ? '/index.html' : pathname
  const body = path.includes('..') ? null : await readFile(join(dir, path)).catch(() => null)
  const headers = { 'content-security-policy': contentSecurityPolicy, 'x-content-type-options': 'nosniff' }
  outgoing.writeHead(body ? 200 : 404, { ...headers, 'content-type': types[extname(path)] ?? 'text/plain' })
  outgoing.end(body ?? 'not found')
}

export type Site = {
  origin: string
  /** How often the server was killed by the panel. */
  kills: number
  /** Requests that were passed on, as `METHOD path`. */
  passed: string[]
  /**
   * While on, the network is gone: every connection is ended now, and every request without an answer. Answers how many
   * sockets and streams of events were ended.
   */
  setDown(isDown: boolean): number
  /** How many sockets and streams of events are open. */
  openStreams(): number
  /** The open sockets and streams bring nothing more, and nothing tells their readers so. Answers how many there were. */
  silence(): number
  /** The next message, or command of that name, is carried out, and its answer lost. Resolves when that happened. */
  loseAnswer(command?: string): Promise<void>
  close(): Promise<void>
}

export type SiteSettings = {
  dir: string
  database: string
  provider: string
  /** Default: as many as they like. */
  sendsPerMinute?: number
  env?: Record<string, string>
}

type Child = { port: number; kill(): Promise<void> }

/** The real server, for guests. Unlike those of test/support/server.ts it lives for all tests of a file. */
async function startChild(
  { database, provider, sendsPerMinute = 0, env = {} }: SiteSettings,
  port: number,
): Promise<Child> {
  const { PATH, HOME, TMPDIR } = process.env
  const child = spawn(process.execPath, [here('../../dist/cli/main.js'), 'serve'], {
    env: {
      ...{ PATH, HOME, TMPDIR, DATABASE_URL: database, PORT: String(port), HOST: '127.0.0.1', LOG_LEVEL: 'warn' },
      ...{ OPENAI_API_KEY: 'a-key-of-the-tests', OPENAI_BASE_URL: provider, HOLDFAST_LEASE_MS: '1000' },
      ...{ HOLDFAST_SENDS_PER_MINUTE: String(sendsPerMinute), ...env },
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  return { port: await portOf(child), kill: () => killed(child) }
}

async function portOf(child: ChildProcess): Promise<number> {
  for await (const line of createInterface({ input: child.stdout! })) {
    const [, port] = /^Holdfast\s+http\S+:(\d+)/.exec(line) ?? []
    // What it says later is read and dropped.
    if (port !== undefined) child.stdout!.resume()
    if (port !== undefined) return Number(port)
  }
  throw new Error('the server ended before it listened')
}

async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = once(child, 'exit')
  child.kill('SIGKILL')
  await gone
}

/** The real server as a child process, and before it what serves the files, the trying panel's routes, and faults. */
export async function startSite(settings: SiteSettings): Promise<Site> {
  const { dir } = settings
  let server = await startChild(settings, 0)
  const { port } = server
  let restarting: Promise<void> | undefined
  let isDown = false
  let loses: { path: RegExp; lost(): void } | undefined
  const sockets = new Set<Socket>()
  const streams = new Map<Socket, () => void>()
  const passed: string[] = []

  const kill = async () => {
    await server.kill()
    restarting = startChild(settings, port).then((started) => {
      server = started
    })
    await restarting
  }

  const demo = (incoming: IncomingMessage, outgoing: ServerResponse) => {
    if (incoming.url === '/demo/kill' && incoming.method === 'POST') {
      site.kills++
      // Answered first: where a connection breaks without an answer the browser asks again, which would kill again.
      outgoing.writeHead(202, { connection: 'close' }).end()
      outgoing.on('finish', () => void kill())
      return
    }
    outgoing.writeHead(200, { 'content-type': 'application/json' })
    outgoing.end(
      JSON.stringify({ supervised: true, model: 'demo model', store: 'embedded Postgres', url: site.origin }),
    )
  }

  const pass = (incoming: IncomingMessage, outgoing: ServerResponse) => {
    passed.push(`${incoming.method} ${incoming.url}`)
    const { socket } = incoming
    const upstream = request({ port, path: incoming.url, method: incoming.method, headers: incoming.headers })
    upstream.on('error', () => socket.destroy())
    upstream.on('response', (answer) => {
      const isDone = incoming.method === 'POST' && (answer.statusCode ?? 500) < 300
      if (isDone && loses?.path.test(incoming.url ?? '')) {
        loses.lost()
        loses = undefined
        socket.destroy()
        return
      }
      if (answer.headers['content-type']?.startsWith('text/event-stream')) {
        streams.set(socket, () => answer.unpipe(outgoing).resume())
        outgoing.on('close', () => streams.delete(socket))
      }
      answer.on('error', () => socket.destroy())
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(outgoing)
    })
    outgoing.on('close', () => upstream.destroy())
    incoming.pipe(upstream)
  }

  /** A handshake and all after it, as bytes. */
  const passUpgrade = (incoming: IncomingMessage, socket: Socket, head: Buffer) => {
    passed.push(`${incoming.method} ${incoming.url}`)
    const upstream = connect({ port, host: '127.0.0.1' })
    const { rawHeaders } = incoming
    const headers = rawHeaders.flatMap((name, at) => (at % 2 === 0 ? [`${name}: ${rawHeaders[at + 1]}`] : []))
    upstream.write([`GET ${incoming.url} HTTP/1.1`, ...headers, '', ''].join('\r\n'))
    upstream.write(head)
    streams.set(socket, () => upstream.unpipe(socket).resume())
    socket.on('close', () => {
      streams.delete(socket)
      upstream.destroy()
    })
    upstream.on('close', () => socket.destroy())
    for (const each of [socket, upstream]) each.on('error', () => each.destroy())
    socket.pipe(upstream).pipe(socket)
  }

  const front = createServer((incoming, outgoing) => {
    const path = incoming.url ?? '/'
    if (isDown) incoming.socket.destroy()
    else if (path.startsWith('/demo/')) demo(incoming, outgoing)
    else if (path.startsWith('/v1/')) pass(incoming, outgoing)
    else void serveFile(dir, incoming, outgoing)
  })
  front.on('upgrade', (incoming, socket: Socket, head) => {
    if (isDown) socket.destroy()
    else passUpgrade(incoming, socket, head)
  })
  front.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  front.listen(0, '127.0.0.1')
  await once(front, 'listening')
  const cut = () => {
    const count = streams.size
    for (const socket of sockets) socket.destroy()
    return count
  }
  const site: Site = {
    origin: `http://127.0.0.1:${(front.address() as AddressInfo).port}`,
    kills: 0,
    passed,
    setDown(next) {
      isDown = next
      return isDown ? cut() : 0
    },
    openStreams: () => streams.size,
    silence() {
      for (const silence of streams.values()) silence()
      return streams.size
    },
    loseAnswer: (command) =>
      new Promise((lost) => {
        loses = { path: command === undefined ? /\/messages$/ : new RegExp(`/${command}$`), lost }
      }),
    async close() {
      await restarting
      cut()
      front.close()
      await once(front, 'close')
      await server.kill()
    },
  }
  return site
}
