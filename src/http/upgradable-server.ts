/**
 * Hearing a server's upgrades without a change for anybody else. A Node server that somebody listens to for `upgrade` takes
 * every request with that header for one, answers none of them itself and forgets the connection: also `Upgrade: h2c`,
 * which Java's client says with its first request to any server. Where nobody else listens, such a request is given back
 * to the server without the header.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Upgrade } from './upgrade.ts'

/** Of Node, HTTP or HTTPS. */
export type UpgradableServer = NodeJS.EventEmitter

type Hearing = {
  /** Each with how often it was attached and not yet detached: it is asked once. */
  upgrades: Map<Upgrade, number>
  listener: (incoming: IncomingMessage, raw: Duplex, head: Buffer) => void
}

/** Answers what stops it. May be called again for the same server, as a reloaded module does. */
export function listenForUpgrades(server: UpgradableServer, upgrade: Upgrade): () => void {
  const { upgrades, listener } = hearingOf(server)
  upgrades.set(upgrade, (upgrades.get(upgrade) ?? 0) + 1)
  let isStopped = false
  return () => {
    if (isStopped) return
    isStopped = true
    const left = upgrades.get(upgrade)! - 1
    if (left > 0) upgrades.set(upgrade, left)
    else upgrades.delete(upgrade)
    if (upgrades.size > 0) return
    server.off('upgrade', listener)
    hearings().delete(server)
  }
}

/** One listener for all of ours: several would take each other for the app's, and leave to each other what is nobody's. */
function hearingOf(server: UpgradableServer): Hearing {
  const known = hearings().get(server)
  if (known !== undefined) return known
  const upgrades: Hearing['upgrades'] = new Map()
  const listener: Hearing['listener'] = (incoming, raw, head) => {
    for (const upgrade of upgrades.keys()) if (upgrade(incoming, raw, head)) return
    if (server.listenerCount('upgrade') === 1) giveBack(server, incoming, raw, head)
  }
  const hearing = { upgrades, listener }
  hearings().set(server, hearing)
  server.on('upgrade', listener)
  return hearing
}

/** On the global object: a second bundle of the same app has modules of its own. */
function hearings(): WeakMap<UpgradableServer, Hearing> {
  const holder = globalThis as { [key: symbol]: WeakMap<UpgradableServer, Hearing> | undefined }
  const name = Symbol.for('holdfast.upgrades')
  holder[name] ??= new WeakMap()
  return holder[name]
}

const aboutUpgrading = new Set(['upgrade', 'connection', 'http2-settings'])

/** As a connection that is new to the server, whose first request is this one. Node: "can be explicitly emitted". */
function giveBack(server: UpgradableServer, incoming: IncomingMessage, raw: Duplex, head: Buffer): void {
  const { method, url, httpVersion, rawHeaders } = incoming
  const lines = [`${method} ${url} HTTP/${httpVersion}`]
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!
    if (!aboutUpgrading.has(name.toLowerCase())) lines.push(`${name}: ${rawHeaders[at + 1]}`)
  }
  raw.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]))
  server.emit('encrypted' in raw ? 'secureConnection' : 'connection', raw)
}
