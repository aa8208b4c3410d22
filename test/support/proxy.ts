import { createConnection, createServer, type Server, type Socket } from 'node:net'

/**
 * A TCP proxy for fault tests. It stands between a client and a server (Postgres, Redis, a provider, ours) and does what
 * networks do: cuts, hangs, slows down, loses an answer. Everything passes until a test says otherwise.
 */
export type TcpProxy = {
  host: string
  port: number
  counts: { accepted: number; refused: number; cut: number; open: number; up: number; down: number }
  /** Cuts every connection now, with a reset where the socket can do that (TCP can, Unix sockets cannot). */
  cutAll(): void
  /** Lets this many more bytes through in this direction, all connections together; then cuts the one that has more. Once. */
  cutAfter(direction: Direction, bytes: number): void
  /** Ends this direction of every connection, as who has nothing more to say: what comes after is lost. The other one goes on. */
  halfClose(direction: Direction): void
  /** Forwards nothing more in this direction, as if the network hung: senders fill their buffers and wait. */
  hang(direction: Direction): void
  /** Undoes `hang` and `trickle`; what was held goes on in order. */
  resume(direction: Direction): void
  /** Forwards at most so many bytes a second for each connection, and lets the sender feel it. */
  trickle(direction: Direction, bytesPerSecond: number): void
  /** New connections are reset at once. Those that are open stay. */
  refuse(): void
  accept(): void
  /** Asks the watcher about all data that comes from now on. The first verdict that is not `pass` counts. */
  watch(watcher: Watcher): Stop
  /** Cuts everything and stops listening. */
  close(): Promise<void>
}

/** `up` is from the client to the server, `down` is the server's answer. */
export type Direction = 'up' | 'down'
/** `drop` loses these bytes and keeps the connection; `cut` loses them and the connection. */
export type Verdict = 'pass' | 'drop' | 'cut'
/** One client's connection, the same object for all of its data. */
export type Connection = { id: number; cut(): void }
export type Watcher = {
  onUpstream?: (data: Buffer, connection: Connection) => Verdict
  onDownstream?: (data: Buffer, connection: Connection) => Verdict
}
export type Stop = () => void
export type Target = { host: string; port: number } | { path: string }

/**
 * Listens on a free loopback port, and on the Unix socket `listenPath` too if it is given: to front a Postgres socket,
 * give `<dir>/.s.PGSQL.<port>` and let `pg` connect to `{host: dir, port}`.
 */
export async function startProxy(options: { target: Target; listenPath?: string }): Promise<TcpProxy> {
  const flows = { up: openFlow(), down: openFlow() }
  const watchers = new Set<Watcher>()
  const pairs = new Map<Connection, Pair>()
  const counts = { accepted: 0, refused: 0, cut: 0, open: 0, up: 0, down: 0 }
  let isRefusing = false
  let lastId = 0

  const judge = (direction: Direction, data: Buffer, connection: Connection): Verdict => {
    for (const { onUpstream, onDownstream } of watchers) {
      const verdict = (direction === 'up' ? onUpstream : onDownstream)?.(data, connection) ?? 'pass'
      if (verdict !== 'pass') return verdict
    }
    return 'pass'
  }

  const onClient = (client: Socket) => {
    if (isRefusing) {
      counts.refused++
      reset(client)
      return
    }
    counts.accepted++
    const server = createConnection({ ...options.target, allowHalfOpen: true, noDelay: true })
    const connection: Connection = { id: ++lastId, cut: () => cutPair(connection) }
    const laneOf = (direction: Direction, source: Socket, dest: Socket) =>
      openLane(source, dest, flows[direction], {
        judge: (data) => judge(direction, data, connection),
        onForwarded: (bytes) => {
          counts[direction] += bytes
        },
        onCut: connection.cut,
      })
    const lanes = { up: laneOf('up', client, server), down: laneOf('down', server, client) }
    pairs.set(connection, { client, server, lanes })
    counts.open = pairs.size
    for (const socket of [client, server]) {
      // Whoever breaks off, the other one is to see it break.
      socket.on('error', () => endPair(connection))
      socket.on('close', () => client.destroyed && server.destroyed && endPair(connection))
    }
  }

  const cutPair = (connection: Connection) => {
    if (pairs.has(connection)) counts.cut++
    endPair(connection)
  }
  const endPair = (connection: Connection) => {
    const pair = pairs.get(connection)
    if (pair === undefined) return
    pairs.delete(connection)
    counts.open = pairs.size
    pair.lanes.up.stop()
    pair.lanes.down.stop()
    reset(pair.client)
    reset(pair.server)
  }
  const set = (direction: Direction, change: Partial<Flow>) => {
    Object.assign(flows[direction], change)
    for (const { lanes } of pairs.values()) lanes[direction].pump()
  }
  const cutAll = () => {
    for (const connection of pairs.keys()) cutPair(connection)
  }

  const servers = [await listen({ host: '127.0.0.1', port: 0 }, onClient)]
  if (options.listenPath !== undefined) servers.push(await listen({ path: options.listenPath }, onClient))
  const address = servers[0]?.address()
  if (typeof address !== 'object' || address === null) throw new Error('The proxy has no port to listen on.')

  return {
    host: '127.0.0.1',
    port: address.port,
    counts,
    cutAll,
    cutAfter: (direction, bytes) => set(direction, { bytesLeft: bytes }),
    halfClose: (direction) => {
      for (const { lanes } of pairs.values()) lanes[direction].end()
    },
    hang: (direction) => set(direction, { isHung: true }),
    resume: (direction) => set(direction, { isHung: false, bytesPerSecond: null }),
    trickle: (direction, bytesPerSecond) => set(direction, { bytesPerSecond }),
    refuse: () => {
      isRefusing = true
    },
    accept: () => {
      isRefusing = false
    },
    watch: (watcher) => {
      watchers.add(watcher)
      return () => void watchers.delete(watcher)
    },
    close: async () => {
      const closed = servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve())))
      cutAll()
      await Promise.all(closed)
    },
  }
}

/**
 * Loses one answer of Postgres: when a client has sent bytes that match (a `COMMIT`, say), they go on to the server, its
 * answer is awaited to the end, so the statement has been carried out and committed, and then the client's connection is
 * cut without a byte of that answer. Resolves when that has happened; only the first match counts.
 *
 * `match` is given what the client sent since the server's last answer. Not for TLS, and not for clients that pipeline.
 */
export function dropAnswerAfter(proxy: TcpProxy, match: (clientBytes: Buffer) => boolean): Promise<void> {
  const sent = new WeakMap<Connection, Buffer>()
  let victim: Connection | undefined
  let answer: Buffer = Buffer.alloc(0)
  return new Promise((resolve) => {
    const stop = proxy.watch({
      onUpstream: (data, connection) => {
        const bytes = Buffer.concat([sent.get(connection) ?? Buffer.alloc(0), data])
        sent.set(connection, bytes)
        if (victim === undefined && match(bytes)) victim = connection
        return 'pass'
      },
      onDownstream: (data, connection) => {
        sent.delete(connection)
        if (connection !== victim) return 'pass'
        answer = Buffer.concat([answer, data])
        if (!isReadyForQuery(answer)) return 'drop'
        stop()
        resolve()
        return 'cut'
      },
    })
  })
}

/** The message with which Postgres ends every answer: `Z`, a length of 5, and a letter for the transaction's state. */
const isReadyForQuery = (answer: Buffer) => answer.subarray(-6, -1).equals(Buffer.from([0x5a, 0, 0, 0, 5]))

type Pair = { client: Socket; server: Socket; lanes: Record<Direction, Lane> }

/** What a direction does at present, for all connections. `bytesLeft` counts down to a cut. */
type Flow = { isHung: boolean; bytesPerSecond: number | null; bytesLeft: number | null }
const openFlow = (): Flow => ({ isHung: false, bytesPerSecond: null, bytesLeft: null })

/** One direction of one connection. */
type Lane = { pump(): void; end(): void; stop(): void }
type LaneHooks = { judge(data: Buffer): Verdict; onForwarded(bytes: number): void; onCut(): void }

/** A trickle is written this often, so that even a few bytes a second come evenly. */
const tickMs = 20

function openLane(source: Socket, dest: Socket, flow: Flow, hooks: LaneHooks): Lane {
  let waiting: Buffer = Buffer.alloc(0)
  let owed = 0
  let timer: NodeJS.Timeout | undefined
  let isFull = false
  let hasEnded = false
  let isClosed = false

  const pump = () => {
    if (isClosed) source.resume()
    else if (flow.isHung) source.pause()
    else if (!isFull && timer === undefined) forward()
  }
  const forward = () => {
    const allowed = Math.min(waiting.length, flow.bytesLeft ?? waiting.length, trickleAllowance())
    if (allowed > 0) write(waiting.subarray(0, allowed))
    waiting = waiting.subarray(allowed)
    if (flow.bytesLeft === 0 && waiting.length > 0) closeAfterLast()
    else if (waiting.length > 0 || isFull) source.pause()
    else if (hasEnded) dest.end()
    else source.resume()
  }
  /** What the trickle grants now, and a timer for what it does not. */
  const trickleAllowance = () => {
    if (flow.bytesPerSecond === null || waiting.length === 0) return Number.POSITIVE_INFINITY
    owed += (flow.bytesPerSecond * tickMs) / 1_000
    timer = setTimeout(() => {
      timer = undefined
      pump()
    }, tickMs)
    const whole = Math.floor(owed)
    owed -= whole
    return whole
  }
  const write = (data: Buffer) => {
    if (flow.bytesLeft !== null) flow.bytesLeft -= data.length
    hooks.onForwarded(data.length)
    isFull = !dest.write(data)
  }
  /** A reset may overtake the last bytes, so they are written out first. */
  const closeAfterLast = () => {
    flow.bytesLeft = null
    waiting = Buffer.alloc(0)
    source.pause()
    dest.end(hooks.onCut)
  }

  const end = () => {
    isClosed = true
    waiting = Buffer.alloc(0)
    dest.end()
    source.resume()
  }

  source.on('data', (data: Buffer) => {
    if (isClosed) return
    const verdict = hooks.judge(data)
    if (verdict === 'cut') hooks.onCut()
    if (verdict !== 'pass') return
    waiting = Buffer.concat([waiting, data])
    pump()
  })
  source.on('end', () => {
    hasEnded = true
    pump()
  })
  dest.on('drain', () => {
    isFull = false
    pump()
  })
  return { pump, end, stop: () => clearTimeout(timer) }
}

function reset(socket: Socket) {
  // A Unix socket knows no reset, and a socket that is still connecting cannot send one.
  if (socket.remoteFamily === undefined || socket.connecting) socket.destroy()
  else socket.resetAndDestroy()
}

function listen(at: { host: string; port: number } | { path: string }, onClient: (client: Socket) => void) {
  return new Promise<Server>((resolve, reject) => {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, onClient)
    server.once('error', reject)
    server.listen(at, () => resolve(server))
  })
}
