/** Which addresses this server sends requests to that others have chosen: public hosts, by name and where the name leads. */
import { type LookupAddress, type LookupOptions, lookup } from 'node:dns'
import { BlockList, isIP, type LookupFunction } from 'node:net'

/** Whoever registers an endpoint chooses where this server sends requests to: nothing that only it may reach. */
export function isAllowed(endpoint: string, privateEndpoints: boolean): boolean {
  if (!isPlainUrl(endpoint, ['https:'])) return false
  const { hostname, port } = new URL(endpoint)
  return privateEndpoints || (port === '' && isPublicHost(hostname))
}

/** Without a user in it, and with a host that is read alike everywhere. */
export function isPlainUrl(url: string, protocols: readonly string[]): boolean {
  if (url.length > 2_048 || !URL.canParse(url)) return false
  const { protocol, username, password, hostname } = new URL(url)
  if (!protocols.includes(protocol) || username !== '' || password !== '') return false
  // Others are valid in a URL, and read as the end of the name elsewhere.
  return /^[a-z0-9.-]+$|^\[[0-9a-f:.]+\]$/.test(hostname)
}

/** By its name, or as an address. Where a name leads is judged by `publicLookup`. `hostname`: as a URL has it. */
export function isPublicHost(hostname: string): boolean {
  const host = hostname.replace(/^\[|\]$/g, '')
  if (isIP(host) !== 0) return !isPrivate(host)
  return host.includes('.') && !/\.(localhost|local|internal|lan|home|arpa)\.?$/i.test(`.${host}`)
}

const privateAddresses = new BlockList()
for (const [net, prefix] of [
  // RFC 6890 and 6598, and what is multicast or reserved.
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['224.0.0.0', 3],
] as const) {
  privateAddresses.addSubnet(net, prefix, 'ipv4')
}
for (const [net, prefix] of [
  ['::', 96],
  // IPv4 within IPv6, as SIIT (RFC 2765), Teredo (RFC 4380) and 6to4 have it.
  ['::ffff:0:0:0', 96],
  ['2001::', 32],
  ['64:ff9b::', 96],
  ['64:ff9b:1::', 48],
  ['100::', 64],
  ['2002::', 16],
  ['fc00::', 7],
  ['fe80::', 10],
  ['fec0::', 10],
  ['ff00::', 8],
] as const) {
  privateAddresses.addSubnet(net, prefix, 'ipv6')
}

/** An IPv4 address within an IPv6 one is judged as itself. */
function isPrivate(address: string): boolean {
  return privateAddresses.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
}

export const privateCode = 'EPRIVATE'

type Hear = (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void

/**
 * Names are looked up on the few threads that all of the process shares, and one whose servers are silent holds its thread for
 * many seconds: of these names few at a time are, and each once for all who ask, so that whoever chose them holds up nobody else.
 */
const lookupsMax = 2
const queueMax = 1_000
const hearersOf = new Map<string, Hear[]>()
const queue: (() => void)[] = []
let looking = 0

function lookUp(hostname: string, options: LookupOptions, hear: Hear): void {
  const key = JSON.stringify([hostname, options.family, options.hints])
  const hearers = hearersOf.get(key)
  if (hearers) {
    hearers.push(hear)
    return
  }
  if (queue.length >= queueMax) {
    const error = Object.assign(new Error('Too many names are looked up at a time.'), { code: 'EBUSY' })
    process.nextTick(hear, error, [])
    return
  }
  hearersOf.set(key, [hear])
  const ask = () => {
    looking++
    lookup(hostname, { ...options, all: true }, (error, addresses) => {
      looking--
      const all = hearersOf.get(key)!
      hearersOf.delete(key)
      queue.shift()?.()
      for (const each of all) each(error, addresses)
    })
  }
  if (looking < lookupsMax) ask()
  else queue.push(ask)
}

/** Judged where it is connected to, because a name may lead elsewhere by then. */
export const publicLookup: LookupFunction = (hostname, options, done) => {
  lookUp(hostname, options, (error, addresses) => {
    if (error) return done(error, [])
    const open = addresses.filter(({ address }) => !isPrivate(address))
    if (open.length === 0) {
      return done(Object.assign(new Error('This name leads to private addresses.'), { code: privateCode }), [])
    }
    if (options.all) return done(null, open)
    done(null, open[0]!.address, open[0]!.family)
  })
}
