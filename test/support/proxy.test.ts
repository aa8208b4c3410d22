import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client } from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { freshDatabase } from './postgres.ts'
import { dropAnswerAfter, startProxy, type TcpProxy } from './proxy.ts'

/** Collects what a socket receives and how it ends. */
function listenTo(socket: Socket) {
  const seen = { text: '', ended: new Promise<void>((resolve) => socket.once('close', () => resolve())) }
  const waits = new Set<() => void>()
  let failure: (NodeJS.ErrnoException & Error) | undefined
  socket.on('error', (error) => {
    failure = error
  })
  socket.on('data', (data: Buffer) => {
    seen.text += data.toString()
    for (const check of waits) check()
  })
  const until = (text: string) =>
    new Promise<void>((resolve) => {
      const check = () => void (seen.text.endsWith(text) && resolve())
      waits.add(check)
      check()
    })
  return { seen, until, failure: () => failure?.code }
}

let proxy: TcpProxy
const stops: (() => unknown)[] = []
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop()
})

describe('the proxy, before a server that repeats what it hears', () => {
  let server: Server
  beforeEach(async () => {
    server = createServer((socket) => {
      socket.on('error', () => socket.destroy())
      socket.pipe(socket)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    proxy = await startProxy({ target: { host: '127.0.0.1', port } })
    stops.push(() => new Promise((resolve) => server.close(resolve)))
    stops.push(() => proxy.close())
  })

  const connect = (isWhole = true) => {
    const socket = createConnection({ host: proxy.host, port: proxy.port, allowHalfOpen: true })
    socket.on('end', () => isWhole && socket.end())
    stops.push(() => socket.destroy())
    return { socket, ...listenTo(socket) }
  }

  /** A question past the proxy: once it is answered, the server has long answered what it got before. */
  const askDirectly = async () => {
    const socket = createConnection(server.address() as { port: number })
    socket.end('direct')
    await once(socket.resume(), 'close')
  }

  it('passes everything on, both ways and to the end', async () => {
    const { socket, seen } = connect()
    const text = 'x'.repeat(1_000_000)
    socket.end(text)
    await seen.ended
    expect(seen.text).toBe(text)
    expect(proxy.counts).toMatchObject({ accepted: 1, cut: 0, up: 1_000_000, down: 1_000_000 })
  })

  it('resets all connections at once', async () => {
    const clients = [connect(), connect()]
    for (const { socket, until } of clients) {
      socket.write('hi')
      await until('hi')
    }
    proxy.cutAll()
    await Promise.all(clients.map(({ seen }) => seen.ended))
    expect(clients.map(({ failure }) => failure())).toEqual(['ECONNRESET', 'ECONNRESET'])
    expect(proxy.counts).toMatchObject({ cut: 2, open: 0 })
  })

  it('cuts after exactly so many more bytes, once', async () => {
    proxy.cutAfter('down', 5)
    const first = connect()
    first.socket.write('Hello, world')
    await first.seen.ended
    expect(first.seen.text).toBe('Hello')
    const second = connect()
    second.socket.write('Hello, world')
    await second.until('Hello, world')
  })

  it('holds one direction back and then goes on in order', async () => {
    const { socket, until, seen } = connect()
    socket.write('a')
    await until('a')
    proxy.hang('down')
    socket.write('b')
    await expect.poll(() => proxy.counts.up).toBe(2)
    await askDirectly()
    expect(seen.text).toBe('a')
    proxy.resume('down')
    socket.write('c')
    await until('c')
    expect(seen.text).toBe('abc')
  })

  it('closes one direction and goes on in the other', async () => {
    const { socket, until, seen } = connect(false)
    socket.write('a')
    await until('a')
    const ended = once(socket, 'end')
    proxy.halfClose('down')
    await ended
    socket.write('b')
    await expect.poll(() => proxy.counts.up).toBe(2)
    await askDirectly()
    expect(seen.text).toBe('a')
  })

  it('trickles so many bytes a second', async () => {
    const { socket, until } = connect()
    proxy.trickle('up', 1_000)
    const from = performance.now()
    socket.write(`${'x'.repeat(299)}y`)
    await until('y')
    expect(performance.now() - from).toBeGreaterThan(200)
  })

  it('lets a trickle be felt by the sender', async () => {
    proxy.trickle('up', 1_000)
    const { socket } = connect()
    const sent = 30_000_000
    socket.write(Buffer.alloc(sent))
    await expect.poll(() => proxy.counts.up).toBeGreaterThan(100)
    expect(socket.writableLength).toBeGreaterThan(sent / 2)
    expect(proxy.counts.up).toBeLessThan(100_000)
  })

  it('refuses new connections and keeps the old ones', async () => {
    const old = connect()
    old.socket.write('a')
    await old.until('a')
    proxy.refuse()
    const fresh = connect()
    await fresh.seen.ended
    old.socket.write('b')
    await old.until('ab')
    expect(proxy.counts).toMatchObject({ accepted: 1, refused: 1 })
    proxy.accept()
    const next = connect()
    next.socket.write('c')
    await next.until('c')
  })

  it('loses what a watcher drops and cuts where it says so', async () => {
    let dropped = 0
    const stop = proxy.watch({
      onDownstream: () => {
        dropped++
        return 'drop'
      },
    })
    const { socket, until, seen } = connect()
    socket.write('drop')
    await expect.poll(() => dropped).toBe(1)
    stop()
    proxy.watch({ onUpstream: (data) => (data.includes('cut') ? 'cut' : 'pass') })
    socket.write('kept')
    await until('kept')
    socket.write('cut')
    await seen.ended
    expect(seen.text).toBe('kept')
  })
})

describe('the proxy, before Postgres', () => {
  let dir: string
  let url: URL
  beforeEach(async () => {
    const database = await freshDatabase(18)
    stops.push(() => database.drop())
    dir = await mkdtemp(join(tmpdir(), 'holdfast-proxy-'))
    stops.push(() => rm(dir, { recursive: true }))
    url = new URL(database.url)
    const target = { host: url.hostname, port: Number(url.port) }
    proxy = await startProxy({ target, listenPath: join(dir, '.s.PGSQL.5432') })
    stops.push(() => proxy.close())
  })

  const connect = async (at: { host: string; port: number }) => {
    const { username: user, password } = url
    const client = new Client({ ...at, user, password, database: url.pathname.slice(1) })
    client.on('error', () => undefined)
    await client.connect()
    stops.push(() => client.end().catch(() => undefined))
    return client
  }
  const names = async (client: Client) => {
    const { rows } = await client.query<{ name: string }>('select name from t order by name')
    return rows.map((row) => row.name)
  }

  it('fronts it on a port and on a Unix socket', async () => {
    for (const at of [
      { host: proxy.host, port: proxy.port },
      { host: dir, port: 5432 },
    ]) {
      const client = await connect(at)
      expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }])
    }
    expect(proxy.counts.accepted).toBe(2)
  })

  it('loses the answer to a commit that was carried out', async () => {
    const direct = await connect({ host: url.hostname, port: Number(url.port) })
    await direct.query('create table t (name text)')
    for (const at of [
      { host: proxy.host, port: proxy.port },
      { host: dir, port: 5432 },
    ]) {
      const client = await connect(at)
      const dropped = dropAnswerAfter(proxy, (bytes) => bytes.includes('COMMIT'))
      await client.query('BEGIN')
      await client.query('insert into t values ($1)', [at.host])
      const commit = client.query('COMMIT').catch((error: Error) => error)
      await dropped
      expect(await commit).toBeInstanceOf(Error)
      expect(await names(direct)).toContain(at.host)
    }
    expect(proxy.counts.cut).toBe(2)
  })

  it('loses the answer to a statement with parameters, for one client only', async () => {
    const [one, two] = [await connect({ host: proxy.host, port: proxy.port }), await connect({ host: dir, port: 5432 })]
    await one.query('create table t (name text)')
    const dropped = dropAnswerAfter(proxy, (bytes) => bytes.includes('insert into t'))
    const first = one.query('insert into t values ($1) returning name', ['first']).catch((error: Error) => error)
    await dropped
    expect(await first).toBeInstanceOf(Error)
    await two.query('insert into t values ($1)', ['second'])
    expect(await names(two)).toEqual(['first', 'second'])
  })
})
