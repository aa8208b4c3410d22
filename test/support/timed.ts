/** An engine in the test's process, and the sockets on a server of their own with times that a test can wait for. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'
import { type Engine, startEngine } from '../../src/engine.ts'
import { createSockets, type SocketTimes } from '../../src/http/socket.ts'
import { listenForUpgrades } from '../../src/http/upgradable-server.ts'
import { createUpgrades } from '../../src/http/upgrade.ts'
import type { Reply } from '../../src/index.ts'
import { resolveOptions } from '../../src/options.ts'

/** It writes no replies, and is stopped after the test. */
export async function engineOf(database: string, reply: Reply = () => 'never asked'): Promise<Engine> {
  const options = { database, reply, roles: ['http'] as const, log: () => undefined }
  const resolved = resolveOptions(options, { production: false, isFrozen: false, log: () => undefined })
  const engine = await startEngine(
    resolved,
    () => resolved,
    () => undefined,
  )
  onTestFinished(() => engine.stop())
  return engine
}

/** Whoever opens one is `ann`. */
export async function serverWithTimes(
  { database, reply }: { database: string; reply?: Reply },
  times: SocketTimes,
): Promise<{ through: string }> {
  const engine = await engineOf(database, reply)
  const parts = { ...engine.parts, sockets: createSockets(times) }
  const { upgrade } = createUpgrades({
    basePath: '',
    origins: undefined,
    authenticate: async () => ({ principal: { userId: 'ann', tenantId: 'default' } }),
    parts: async () => parts,
    log: () => undefined,
    handshakeMs: 10_000,
  })
  const server = createServer()
  listenForUpgrades(server, upgrade)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  onTestFinished(async () => {
    parts.sockets.stop()
    await once(server.close(), 'close')
  })
  return { through: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}
