import { createConnection, createServer, type Socket } from 'node:net'

/**
 * Stands between a client and Postgres as a pooler in transaction mode does, as far as LISTEN goes: it is answered well,
 * and no notification arrives.
 */
export type Pooler = {
  /** The same database, reached through it. */
  url: string
  /** False: notifications pass. */
  isDeaf: boolean
  /** Cuts everything and stops listening. */
  close(): Promise<void>
}

export async function startPooler(databaseUrl: string): Promise<Pooler> {
  const target = new URL(databaseUrl)
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const backend = createConnection({ host: target.hostname, port: Number(target.port) })
    for (const [socket, other] of [
      [client, backend],
      [backend, client],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => other.destroy())
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    client.pipe(backend)
    const messages = messagesIn()
    backend.on('data', (data) => {
      for (const message of messages(data)) if (!pooler.isDeaf || !isNotification(message)) client.write(message)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('The pooler has no port to listen on.')
  const url = new URL(databaseUrl)
  url.hostname = '127.0.0.1'
  url.port = String(address.port)
  const pooler: Pooler = {
    url: url.href,
    isDeaf: true,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
  return pooler
}

/** Cuts what a server sends into its messages: a letter, and a length that counts itself. Not for TLS. */
function messagesIn(): (data: Buffer) => Buffer[] {
  let waiting: Buffer = Buffer.alloc(0)
  return (data) => {
    waiting = Buffer.concat([waiting, data])
    const messages: Buffer[] = []
    while (waiting.length >= 5 && waiting.length > waiting.readInt32BE(1)) {
      const end = 1 + waiting.readInt32BE(1)
      messages.push(waiting.subarray(0, end))
      waiting = waiting.subarray(end)
    }
    return messages
  }
}

const isNotification = (message: Buffer) => message[0] === 'A'.charCodeAt(0)
