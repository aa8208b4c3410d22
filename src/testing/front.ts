/**
 * What stands before the server under test, on a port that stays while servers come and go: a TCP proxy that cuts and refuses
 * as networks do. A connection that is refused is reset as soon as it comes: to who connects it is the same as nobody
 * there, and the port cannot become another process's meanwhile.
 */
import { createConnection, createServer, type Socket } from 'node:net'

export type Front = {
  port: number
  /** Where connections go from now on; null: nobody is there. */
  target(port: number | null): void
  /** Cuts every connection now, without a word. */
  cut(): void
  /** Lets so many more bytes through to clients, all connections together; then cuts them all. Once. */
  cutAfter(bytes: number): void
  /** New connections are reset while it is on. Those that are open stay. */
  refuse(on: boolean): void
  close(): Promise<void>
}

export async function openFront(): Promise<Front> {
  const sockets = new Set<Socket>()
  let port: number | null = null
  let refuses = false
  let bytesLeft: number | undefined

  const server = createServer({ noDelay: true }, (client) => {
    // Whoever breaks off, the other one is to see it break.
    client.on('error', () => client.destroy())
    if (port === null || refuses) return void client.resetAndDestroy()
    const upstream = createConnection({ host: '127.0.0.1', port, noDelay: true })
    pair(client, upstream)
    client.pipe(upstream)
    upstream.on('data', (data) => {
      if (bytesLeft !== undefined && data.length >= bytesLeft) return lastBytes(client, data.subarray(0, bytesLeft))
      if (bytesLeft !== undefined) bytesLeft -= data.length
      if (!client.write(data)) upstream.pause()
    })
    client.on('drain', () => upstream.resume())
    upstream.on('end', () => client.end())
  })

  function pair(client: Socket, upstream: Socket): void {
    upstream.on('error', () => client.destroy())
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(one)
      one.on('close', (failed) => {
        sockets.delete(one)
        // One that has ended well may have more to send to its other side.
        if (failed || one === client) other.destroy()
      })
    }
  }

  /** A reset may overtake the last bytes, so they are written out first. */
  function lastBytes(client: Socket, data: Buffer): void {
    bytesLeft = undefined
    client.end(data, cut)
  }

  function cut(): void {
    for (const socket of sockets) socket.destroy()
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  return {
    port: (server.address() as { port: number }).port,
    target(next) {
      port = next
    },
    cut,
    cutAfter(bytes) {
      bytesLeft = bytes
    },
    refuse(on) {
      refuses = on
    },
    close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      cut()
      return closed
    },
  }
}
