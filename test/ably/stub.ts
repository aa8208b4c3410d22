/**
 * Ably at the wire, as far as Holdfast and the package `ably` meet it: REST, tokens, attaching, presence, appends. Each rule
 * names the page of Ably's documentation that has it, and what Ably refuses is refused, with its code. Faults are asked for.
 */
import { createHmac, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type WebSocket, WebSocketServer } from 'ws'

export const key = 'app1.key1:a-secret-of-the-stub'

/** On the wire of the package (src/common/lib/types/protocolmessagecommon.ts). */
const action = {
  heartbeat: 0,
  ack: 1,
  nack: 2,
  connected: 4,
  close: 7,
  closed: 8,
  error: 9,
  attach: 10,
  attached: 11,
  detach: 12,
  detached: 13,
  presence: 14,
  message: 15,
  sync: 16,
  auth: 17,
}
const hasPresence = 1
const idsKeptMs = 120_000
const modes = { presence: 1 << 16, publish: 1 << 17, subscribe: 1 << 18, presenceSubscribe: 1 << 19 }
/** `action` of a message: create, update, …, append. */
const [create, append] = [0, 5]
const [enter, leave, update, present] = [2, 3, 4, 1]

type Wire = { [name: string]: unknown }
export type Published = {
  channel: string
  id: string | null
  name: string
  data: string
  encoding?: string
  extras?: unknown
  serial: string
  /** How often something was appended. */
  appends: number
}
type Member = { clientId: string; connectionId: string; data?: unknown; encoding?: string }
type Token = { clientId: string; capability: Record<string, string[]>; expires: number }
type Connection = { socket: WebSocket; id: string; token: Token; attached: Set<string> }
export type Refusal = { code: number; status: number; retryAfterS?: number }

export type Stub = Awaited<ReturnType<typeof startStub>>

export async function startStub({ mutableMessages = true } = {}) {
  const published: Published[] = []
  /** When each id was taken, by channel and id. */
  const taken = new Map<string, number>()
  let aheadMs = 0
  const tokens = new Map<string, Token>()
  const nonces = new Set<string>()
  const members = new Map<string, Member[]>()
  const connections = new Set<Connection>()
  const refusals: Refusal[] = []
  const requests: string[] = []
  let serials = 0
  let loses: (message: Wire) => boolean = () => false
  /** By message, what was appended and is not told yet. Null: each is told at once. */
  let conflated: Map<string, { channel: string; told: Wire }> | null = null
  let answering: () => Promise<void> = () => Promise.resolve()
  let holding = 0
  let released: Promise<void> = Promise.resolve()

  class Refused extends Error {
    readonly refusal: Refusal
    constructor(code: number, status: number, retryAfterS?: number) {
      super(`refused with ${code}`)
      this.refusal = { code, status, ...(retryAfterS === undefined ? {} : { retryAfterS }) }
    }
  }

  /** https://ably.com/docs/auth/capabilities#wildcards */
  function may({ capability }: Token, channel: string, operation: string): boolean {
    return Object.entries(capability).some(([resource, operations]) => {
      const parts = resource.split(':')
      const names = channel.split(':')
      const isIn =
        resource === '*' ||
        parts.every((part, at) => (part === '*' && (at === parts.length - 1 || names[at])) || part === names[at])
      const isWhole = resource === '*' || parts.at(-1) === '*' || parts.length === names.length
      return isIn && isWhole && (operations.includes('*') || operations.includes(operation))
    })
  }
  /** https://ably.com/docs/platform/errors/codes/40160-capability-denied */
  function must(token: Token, channel: string, operation: string): void {
    if (!may(token, channel, operation)) throw new Refused(40_160, 401)
  }

  /** https://ably.com/docs/auth: basic with a key, bearer with a token in base64. */
  function authorized({ headers }: IncomingMessage): Token {
    const [scheme, credentials = ''] = (headers.authorization ?? '').split(' ')
    const said = Buffer.from(credentials, 'base64').toString()
    if (scheme === 'Basic' && said === key) return { clientId: '*', capability: { '*': ['*'] }, expires: Infinity }
    return bearer(scheme === 'Bearer' ? said : '')
  }
  /** https://ably.com/docs/platform/errors/codes: 40101 invalid credentials, 40142 token expired. */
  function bearer(name: string): Token {
    const token = tokens.get(name)
    if (!token) throw new Refused(40_101, 401)
    if (token.expires < Date.now()) throw new Refused(40_142, 401)
    return token
  }

  /** https://ably.com/docs/api/token-request-spec */
  function requestToken(asked: Record<string, string | number>): Wire {
    const { keyName, ttl, capability, clientId, timestamp, nonce, mac } = asked
    const [name, secret] = key.split(':') as [string, string]
    const text = `${keyName}\n${ttl}\n${capability}\n${clientId}\n${timestamp}\n${nonce}\n`
    if (keyName !== name || mac !== createHmac('sha256', secret).update(text).digest('base64'))
      throw new Refused(40_101, 401)
    // https://ably.com/docs/platform/errors/codes: 40104 the timestamp is not current, 40105 the nonce was used.
    if (Math.abs(Date.now() - Number(timestamp)) > 120_000) throw new Refused(40_104, 401)
    if (String(nonce).length < 16 || nonces.has(String(nonce))) throw new Refused(40_105, 401)
    nonces.add(String(nonce))
    const granted = JSON.parse(String(capability)) as Record<string, string[]>
    // The canonical form: resources and operations in order.
    const sorted = Object.fromEntries(
      Object.keys(granted)
        .sort()
        .map((each) => [each, [...granted[each]!].sort()]),
    )
    if (JSON.stringify(sorted) !== capability || Object.keys(granted).length === 0) throw new Refused(40_000, 400)
    const token = `app1.${randomUUID()}`
    const expires = Date.now() + Number(ttl)
    tokens.set(token, { clientId: String(clientId), capability: granted, expires })
    return { token, keyName, issued: Date.now(), expires, capability, clientId }
  }

  function send({ socket }: Connection, message: Wire): void {
    socket.send(JSON.stringify(message))
  }
  function tell(channel: string, message: Wire): void {
    if (loses(message)) return
    for (const connection of connections) {
      if (connection.attached.has(channel)) send(connection, { ...message, channel, timestamp: Date.now() })
    }
  }

  /** https://ably.com/docs/pub-sub/advanced#idempotency, and its codes. */
  function publish(token: Token, channel: string, messages: Wire[]): (string | null)[] {
    must(token, channel, 'publish')
    // https://ably.com/docs/platform/errors/codes/40009-max-message-size-exceeded: all of them together.
    const size = messages.reduce((sum, { name = '', data = '', extras }) => {
      return (
        sum + Buffer.byteLength(String(name)) + Buffer.byteLength(textOf(data)) + (extras ? textOf(extras).length : 0)
      )
    }, 0)
    if (size > 65_536) throw new Refused(40_009, 413)
    // https://ably.com/docs/platform/errors/codes/40031-invalid-client-specified-message-id: of several, all or none have one,
    // and theirs are one base with their places, which is what is known again.
    const ids = messages.map(({ id }) => id)
    const [base] = String(ids[0] ?? '').split(':')
    const isOff = ids.some((id) => id !== undefined && (typeof id !== 'string' || id === ''))
    const isOne = messages.length === 1 || ids.every((id) => id === undefined)
    if (isOff || !(isOne || ids.every((id, at) => id === `${base}:${at}`))) throw new Refused(40_031, 400)
    // Two minutes from when it was published first: https://ably.com/docs/pub-sub/advanced#idempotency.
    const known = `${channel} ${messages.length === 1 ? String(ids[0] ?? '') : base}`
    const nowMs = performance.now() + aheadMs
    if (ids[0] !== undefined) {
      if (nowMs - (taken.get(known) ?? Number.NEGATIVE_INFINITY) < idsKeptMs) return messages.map(() => null)
      taken.set(known, nowMs)
    }
    return messages.map((message) => {
      const serial = `${String(++serials).padStart(10, '0')}-000@stub`
      const { id = null, name, data, encoding, extras } = message
      const one = { channel, id, name, data: textOf(data), encoding, extras, serial, appends: 0 } as Published
      published.push(one)
      tell(channel, { action: action.message, id: randomUUID(), messages: [{ ...message, serial, action: create }] })
      return serial
    })
  }

  /** https://ably.com/docs/messages/updates-deletes#append */
  function change(token: Token, channel: string, serial: string, { action: kind, name, data }: Wire): Wire {
    must(token, channel, 'message-update-any')
    // https://ably.com/docs/platform/errors/codes/93002-message-updates-not-enabled
    if (!mutableMessages) throw new Refused(93_002, 400)
    const one = published.find((each) => each.channel === channel && each.serial === serial)
    if (!one) throw new Refused(40_400, 404)
    if (kind !== append || typeof data !== 'string') throw new Refused(40_000, 400)
    one.data += data
    one.appends++
    const version = { serial: `${String(++serials).padStart(10, '0')}-000@stub`, timestamp: Date.now() }
    const held = conflated?.get(serial)?.told.data ?? ''
    const told = { serial, action: append, name, data: `${String(held)}${data}`, version }
    if (conflated) conflated.set(serial, { channel, told })
    else tell(channel, { action: action.message, id: randomUUID(), messages: [told] })
    return { versionSerial: version.serial }
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url!, 'http://stub')
    const [, root, name = '', verb, serial = ''] = url.pathname.split('/').map(decodeURIComponent)
    const text = await textOfBody(request)
    const body = text === '' ? null : (JSON.parse(text) as Wire | Wire[])
    requests.push(`${request.method} /${root}/${name}/${verb}`)
    const reply = (status: number, value: unknown, headers = {}) => {
      response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value))
    }
    try {
      if (url.pathname === '/time') return reply(200, [Date.now()])
      if (root === 'keys' && verb === 'requestToken') return reply(201, requestToken(body as Record<string, string>))
      const token = authorized(request)
      if (root !== 'channels') throw new Refused(40_400, 404)
      if (request.method === 'GET' && verb === 'presence') {
        must(token, name, 'subscribe')
        return reply(
          200,
          (members.get(name) ?? []).map((member) => ({ ...member, action: present })),
        )
      }
      // https://ably.com/docs/platform/errors/codes/42913-rate-limit-exceeded-per-channel-inbound
      const refusal = refusals.shift()
      if (refusal) throw new Refused(refusal.code, refusal.status, refusal.retryAfterS)
      if (holding > 0) {
        holding--
        await released
      }
      if (request.method === 'PATCH') {
        const result = change(token, name, serial, body as Wire)
        await answering()
        return reply(200, result)
      }
      const sent = publish(token, name, Array.isArray(body) ? body : [body!])
      await answering()
      reply(201, { channel: name, messageId: randomUUID(), serials: sent })
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      const { code, status, retryAfterS } = error.refusal
      const headers = retryAfterS === undefined ? {} : { 'retry-after': String(retryAfterS) }
      reply(status, { error: { code, statusCode: status, message: `refused with ${code}` } }, headers)
    }
  }

  const detailsOf = ({ id, token }: Connection): Wire => ({
    action: action.connected,
    connectionId: id,
    connectionDetails: {
      connectionKey: `${id}-key`,
      clientId: token.clientId,
      maxMessageSize: 65_536,
      maxInboundRate: 50,
      maxFrameSize: 262_144,
      connectionStateTtl: 120_000,
      maxIdleInterval: 15_000,
    },
  })
  const errorOf = (code: number, statusCode: number) => ({ code, statusCode, message: `refused with ${code}` })

  /** What is answered, if anything. */
  function answerTo(connection: Connection, message: Wire): Wire | null {
    const channel = String(message.channel)
    const { token, attached } = connection
    const { msgSerial } = message
    switch (message.action) {
      case action.heartbeat:
        return { action: action.heartbeat, id: message.id }
      case action.close:
        setImmediate(() => connection.socket.close())
        return { action: action.closed }
      case action.auth:
        connection.token = bearer(String((message.auth as { accessToken: string }).accessToken))
        return detailsOf(connection)
      case action.attach:
        return attach(connection, channel)
      case action.detach:
        attached.delete(channel)
        return { action: action.detached, channel }
      case action.presence:
        // https://ably.com/docs/presence-occupancy/presence: identified, and with the capability.
        if (!may(token, channel, 'presence'))
          return { action: action.nack, msgSerial, count: 1, error: errorOf(40_160, 401) }
        hearPresence(connection, channel, message)
        return { action: action.ack, msgSerial, count: 1 }
      case action.message:
        try {
          const sent = publish(token, channel, message.messages as Wire[])
          return { action: action.ack, msgSerial, count: 1, res: [{ serials: sent }] }
        } catch (error) {
          const { code, status } = (error as Refused).refusal
          return { action: action.nack, msgSerial, count: 1, error: errorOf(code, status) }
        }
    }
    return null
  }

  /** https://ably.com/docs/channels/states#attach: what the token does not grant fails the channel. */
  function attach(connection: Connection, channel: string): Wire {
    const { token, attached } = connection
    const mayHear = may(token, channel, 'subscribe')
    if (!mayHear && !may(token, channel, 'publish') && !may(token, channel, 'presence')) {
      return { action: action.error, channel, error: errorOf(40_160, 401) }
    }
    if (mayHear) attached.add(channel)
    const there = members.get(channel) ?? []
    const granted =
      (mayHear ? modes.subscribe | modes.presenceSubscribe : 0) |
      (may(token, channel, 'publish') ? modes.publish : 0) |
      (may(token, channel, 'presence') ? modes.presence : 0)
    if (there.length > 0) {
      const set = there.map((member) => ({ ...member, action: present, id: `${member.connectionId}:0:0` }))
      const sync = { action: action.sync, channel, channelSerial: 'sync:', presence: set, timestamp: Date.now() }
      setImmediate(() => send(connection, sync))
    }
    // Nothing is resumed: what was told meanwhile is lost, as after two minutes (https://ably.com/docs/connect/states).
    const flags = granted | (there.length > 0 ? hasPresence : 0)
    return { action: action.attached, channel, channelSerial: `at:${serials}`, flags }
  }

  function hearPresence({ id, token }: Connection, channel: string, { msgSerial, presence }: Wire): void {
    for (const { action: kind, clientId = token.clientId, data, encoding } of presence as Wire[]) {
      const others = (members.get(channel) ?? []).filter(
        (each) => each.connectionId !== id || each.clientId !== clientId,
      )
      const member = { clientId, connectionId: id, data, encoding } as Member
      members.set(channel, kind === enter || kind === update ? [...others, member] : others)
      const told = [{ ...member, action: kind, id: `${id}:${String(msgSerial)}:0` }]
      tell(channel, { action: action.presence, id: `${id}:${String(msgSerial)}`, presence: told })
    }
  }

  function gone(connection: Connection): void {
    connections.delete(connection)
    for (const [channel, there] of members) {
      const left = there.filter(({ connectionId }) => connectionId === connection.id)
      members.set(
        channel,
        there.filter((each) => !left.includes(each)),
      )
      for (const member of left) {
        const told = [{ ...member, action: leave, id: `${connection.id}:9:0` }]
        tell(channel, { action: action.presence, id: `${connection.id}:9`, presence: told })
      }
    }
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => response.writeHead(500).end(String(error)))
  })
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', (socket, request) => {
    const asked = new URL(request.url!, 'http://stub').searchParams
    let token: Token
    try {
      token = bearer(asked.get('access_token') ?? '')
    } catch {
      socket.send(JSON.stringify({ action: action.error, error: errorOf(40_101, 401) }))
      return socket.close()
    }
    const connection: Connection = { socket, id: randomUUID().slice(0, 10), token, attached: new Set() }
    connections.add(connection)
    socket.on('message', (data) => {
      const answer = answerTo(connection, JSON.parse(String(data)) as Wire)
      if (answer) send(connection, answer)
    })
    socket.on('close', () => gone(connection))
    send(connection, detailsOf(connection))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  return {
    port,
    endpoint: `http://127.0.0.1:${port}`,
    /** What was taken, in order. */
    published,
    /** Of the requests, in order. */
    requests,
    /** The next publications and appends are refused so. */
    refuse: (...next: Refusal[]) => void refusals.push(...next),
    /** What subscribers do not get. */
    lose(which: (message: Wire) => boolean) {
      loses = which
    },
    /**
     * Appends are held back until what this answers is called: then those to one message are told as one
     * (rollups: https://ably.com/docs/ai-transport/token-streaming/message-per-response).
     */
    conflate() {
      conflated = new Map()
      return () => {
        for (const { channel, told } of conflated!.values()) {
          tell(channel, { action: action.message, id: randomUUID(), messages: [told] })
        }
        conflated = null
      }
    },
    /** Publications are taken, and answered when this resolves. */
    answerAfter(wait: () => Promise<void>) {
      answering = wait
    },
    /** The next publications and appends come only when what this answers is called: as if they had been on their way. */
    hold(count: number) {
      holding = count
      let release: () => void = () => undefined
      released = new Promise((resolve) => {
        release = resolve
      })
      return release
    },
    /** How many of those have not come so far. */
    toHold: () => holding,
    /** Its clock goes on by so long. */
    later(ms: number) {
      aheadMs += ms
    },
    /** Ends all connections of clients; they come back, and nothing is resumed. */
    cut() {
      for (const { socket } of connections) socket.terminate()
    },
    /** On how many connections somebody listens to it. */
    listeners: (channel: string) => [...connections].filter(({ attached }) => attached.has(channel)).length,
    async close() {
      for (const { socket } of connections) socket.terminate()
      sockets.close()
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function textOf(data: unknown): string {
  return typeof data === 'string' ? data : JSON.stringify(data ?? '')
}

async function textOfBody(request: IncomingMessage): Promise<string> {
  let text = ''
  for await (const part of request.setEncoding('utf8')) text += part
  return text
}
