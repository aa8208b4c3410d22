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

/** Answers what stops it. */
export function listenForUpgrades(server: UpgradableServer, upgrade: Upgrade): () => void {
  const listener = (incoming: IncomingMessage, raw: Duplex, head: Buffer) => {
    if (upgrade(incoming, raw, head) || server.listenerCount('upgrade') > 1) return
    giveBack(server, incoming, raw, head)
  }
  server.on('upgrade', listener)
  return () => void server.off('upgrade', listener)
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
