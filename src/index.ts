import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { resolve } from 'node:path'
import type { Duplex } from 'node:stream'
import { getRequestListener } from '@hono/node-server'
import { pino } from 'pino'
import { type Abandonable, abandon } from './abandon.ts'
import type { AnyEvents, EventSchemas, EventsOf, EventTypes } from './core/app-event.ts'
import type { JsonObject } from './core/json.ts'
import type { AnyTools, ToolTypes } from './core/known-part.ts'
import { type Engine, startEngine } from './engine.ts'
import { createApp, type HttpEnv } from './http/app.ts'
import { restoreBody } from './http/body.ts'
import {
  type Authenticate,
  accountsAndGuests,
  appAuthenticate,
  guestAuthenticate,
  isLoopbackAddress,
  isLoopbackHost,
  isLoopbackName,
  type Principal,
  tokenAuthenticate,
} from './http/principal.ts'
import { Problem } from './http/problem.ts'
import { listenForUpgrades, type UpgradableServer } from './http/upgradable-server.ts'
import { createUpgrades, handshakeMs } from './http/upgrade.ts'
import type { InCode } from './in-code.ts'
import { inCode } from './in-code-calls.ts'
import { OptionError } from './option-checks.ts'
import { type AppFunctions, type HoldfastOptions, type Log, type Resolved, resolveOptions } from './options.ts'
import type { JobsOf } from './outbox/jobs.ts'
import type { Reply, ToolsOf } from './reply/reply.ts'
import { DatabaseError } from './store/database.ts'
import { isMergedGuest } from './store/transfers.ts'

export type { AnyEvents, EventSchema, EventSchemas, EventTypes } from './core/app-event.ts'
export type { Chunk, Part } from './core/chunk.ts'
export type { Failure, RequestCode, TurnCode } from './core/errors.ts'
export { ReplyError } from './core/errors.ts'
export type { Json, JsonObject } from './core/json.ts'
export type { Message, MessageStatus, StepUsage, Turn } from './core/message.ts'
export type { Price, Prices } from './core/prices.ts'
export type { PushDevice, PushSender } from './core/pushing.ts'
export type { AppAuthenticate, AppPrincipal, TokenSettings } from './http/principal.ts'
export type { Lane, LaneOf } from './http/route.ts'
export type { UpgradableServer } from './http/upgradable-server.ts'
export type {
  AddAsk,
  Content,
  InCode,
  Page,
  PublishAsk,
  Published,
  Said,
  SayAsk,
  SendAsk,
  Sent,
  Stand,
  Stopped,
  ToolAnswerAsk,
  UseChatMessage,
} from './in-code.ts'
export { HoldfastError } from './in-code.ts'
export { OptionError } from './option-checks.ts'
export type { HoldfastOptions, Log, Role } from './options.ts'
export type { AnyJobs, Job, JobAbout, JobsOf } from './outbox/jobs.ts'
export { PermanentFailure, RetryLater } from './outbox/jobs.ts'
export type { WebhookOptions } from './outbox/webhooks.ts'
export type { PushOptions, PushTexts } from './push/options.ts'
export type { AiResponse, FinishedContext, FinishedReply, OnReply, Title, TitleContext } from './reply/finished.ts'
export type { MessagePart, UserOrAssistantMessage } from './reply/message.ts'
export type {
  Reply,
  ReplyChunk,
  ReplyContext,
  ReplyValue,
  StreamTextPart,
  StreamTextResult,
  UiStreamOptions,
} from './reply/reply.ts'
export { steerSteps } from './reply/steer-steps.ts'
export type { WrapTools } from './reply/tools.ts'
export type { OnUncertain, UncertainCall, Uncertainty } from './reply/uncertain.ts'
export type { WhenBusy } from './store/accept.ts'
export type { Member } from './store/log.ts'
export type { Invite } from './store/members.ts'
export type { PresenceState, Present } from './store/presence.ts'
export type { Role as MemberRole, ServerSession, Session } from './store/sessions.ts'
export type { Retention } from './transfer/retention.ts'
export type { SpendBudget } from './usage/budgets.ts'
export type { Limits, LimitsAsk, LimitsByPlan, LimitsOf } from './usage/limits.ts'

/**
 * `Metadata` is what `onReply` answers: messages have it, as far as `typeof chat` knows. `Tools` are those that `reply`
 * gave to `streamText`, `Events` those of the option `events`.
 */
export type Holdfast<
  Metadata extends object = object,
  Tools extends ToolTypes = AnyTools,
  Events extends EventTypes = AnyEvents,
> = InCode<Metadata, Events> & {
  /** Never a value: from here the types of clients are taken (`useChatSession<typeof chat>`). */
  readonly '~types'?: { metadata: Metadata; tools: Tools; events: Events }
  /** Answers a web request: for Next.js, Hono, Bun. Never rejects. */
  fetch(request: Request): Promise<Response>
  /** `fetch` by method: in Next.js `export const { GET, POST, PATCH, DELETE, HEAD, OPTIONS } = chat.handlers`. */
  readonly handlers: Readonly<Record<Method, (request: Request) => Promise<Response>>>
  /**
   * Answers a Node request: for Express, Fastify, `node:http`. Never rejects. Where a parser has read the body before,
   * as `express.json()` does, it is taken from `incoming.body`.
   */
  node(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void>
  /**
   * For the event `upgrade` of a Node server: opens the WebSocket where the request's path is one of Holdfast's, and says
   * so. False: it is not, and the socket was not touched: it is the app's.
   */
  upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): boolean
  /**
   * Hears the event `upgrade` of an app's own Node server (`node:http`, Express's `app.listen()`, Fastify's `app.server`,
   * what `serve` of `@hono/node-server` answers), until what it answers is called, or Holdfast is closed. Other paths are
   * left to the server's other listeners; where it has none, they are answered as if nobody listened.
   */
  attach(server: UpgradableServer): () => void
  /** Starts the engine now, instead of at the first request. Rejects with the reason it cannot start. */
  start(): Promise<void>
  /**
   * Starts the engine and a server of its own, on loopback unless told otherwise. `before` may answer a request itself
   * and say so with true: pages, say. Rejects where the port is taken.
   */
  listen(port: number, host?: string, before?: Before): Promise<{ url: string }>
  /** Ends everything: running replies may go on for `drainMs`, then others take them over. Idempotent. */
  close(): Promise<void>
}

export type Method = 'GET' | 'POST' | 'PATCH' | 'DELETE' | 'HEAD' | 'OPTIONS'

export type Before = (incoming: IncomingMessage, outgoing: ServerResponse) => boolean

/**
 * Makes the one Holdfast of this process and database. It is synchronous and starts nothing (no connection, no child,
 * no timer) until the first request, `start` or `listen`. Called again for the same database, as a reloaded module
 * does, it answers the one that is there, which from then on uses the newer `reply`, `onReply`,
 * `onUncertain`, `title`, `lane`, `events`, `jobs` and `limits`. Throws an
 * `OptionError` that names the option that is wrong. `Metadata` is what `onReply` answers.
 */
export function createHoldfast<
  Metadata extends object = JsonObject,
  OwnReply extends Reply = Reply,
  Schemas extends EventSchemas = EventSchemas,
  Payloads extends object = object,
>(
  options: HoldfastOptions<Metadata, OwnReply, Schemas, JobsOf<Payloads>>,
): Holdfast<Metadata, ToolsOf<OwnReply>, EventsOf<Schemas>> {
  type Own = Holdfast<Metadata, ToolsOf<OwnReply>, EventsOf<Schemas>>
  const { env } = process
  const resolved = resolveOptions(options, {
    production: env.NODE_ENV === 'production',
    isFrozen: isFrozenBy(env),
    log: defaultLog(),
  })
  const key = resolved.database ?? `embedded:${resolve(resolved.dataDir)}`
  const running = registry().get(key)
  if (running) {
    running.app = resolved
    return running.holdfast as unknown as Own
  }
  const entry: Entry = { app: resolved, holdfast: undefined as unknown as Holdfast }
  entry.holdfast = makeHoldfast(resolved, entry, () => registry().delete(key))
  registry().set(key, entry)
  return entry.holdfast as unknown as Own
}

/** `vercel env pull` and `vercel dev` set the variable on a developer's machine, where nothing is frozen. */
function isFrozenBy({ VERCEL, VERCEL_ENV, AWS_LAMBDA_FUNCTION_NAME }: NodeJS.ProcessEnv): boolean {
  return (VERCEL === '1' && VERCEL_ENV !== 'development') || Boolean(AWS_LAMBDA_FUNCTION_NAME)
}

type Entry = { app: AppFunctions; holdfast: Holdfast }

/** On the global object: a second bundle of the same app has modules of its own. */
function registry(): Map<string, Entry> {
  const holder = globalThis as { [key: symbol]: Map<string, Entry> | undefined }
  const name = Symbol.for('holdfast.registry')
  holder[name] ??= new Map()
  return holder[name]
}

function defaultLog(): Log {
  let logger: ReturnType<typeof pino> | undefined
  return (line, detail = {}) => {
    logger ??= pino({ name: 'holdfast', level: logLevel(process.env.LOG_LEVEL) })
    logger.info(detail, line)
  }
}

/** The variable may be another logger's, whose words pino refuses: that must not bring the app down. */
function logLevel(named = 'info'): string {
  return named === 'silent' || named in pino.levels.values ? named : 'info'
}

const duringBuild =
  'Holdfast does not start during next build. Say export const dynamic = "force-dynamic" in the page or route that uses it.'

function makeHoldfast(options: Resolved, entry: Entry, forget: () => void): Holdfast & Abandonable {
  let starting: Promise<Engine> | undefined
  let server: Server | undefined
  let closing: Promise<void> | undefined
  /** Until what is left of engines whose database was given up has ended. */
  let leaving: Promise<unknown> = Promise.resolve()
  let reachedBeyondLoopback = false
  // Any stranger may call this machine `localhost`: where the socket is known, its address counts, too.
  const fromElsewhere = new WeakSet<Request>()

  const engine = (): Promise<Engine> => {
    if (closing) return Promise.reject(new DatabaseError('refused', new Error('this Holdfast was closed')))
    // Pages that Next.js renders ahead would start a database that nobody stops.
    if (process.env.NEXT_PHASE === 'phase-production-build') return Promise.reject(new OptionError(duringBuild))
    starting ??= begin()
    return starting
  }
  function begin(): Promise<Engine> {
    const begun = startEngine(
      options,
      () => entry.app,
      (error) => databaseLost(begun, error),
    )
    // After a failed start the next request tries again: the database may be back.
    begun.catch(() => forgetEngine(begun))
    return begun
  }
  function forgetEngine(begun: Promise<Engine>): void {
    if (starting === begun) starting = undefined
  }
  /** The next request starts it again. Meanwhile followers are told to come back, which is such a request. */
  function databaseLost(begun: Promise<Engine>, error: Error): void {
    if (closing) return
    forgetEngine(begun)
    const left = begun.then(async (started) => {
      started.drain()
      await started.stop()
    })
    leaving = Promise.allSettled([leaving, left])
    options.onDatabaseLost(error)
  }
  const parts = async () => {
    if (closing) throw new Problem('draining', undefined, { retryAfterMs: 1_000 })
    return (await engine().catch(toldToClients)).parts
  }
  const partsInCode = async () => {
    if (closing) throw new Problem('draining', 'This Holdfast was closed. Make another one with createHoldfast.')
    return await parts()
  }
  const authenticate = authenticateOf(options, {
    isFromElsewhere: (request) => reachedBeyondLoopback || fromElsewhere.has(request),
    isMerged: async ({ tenantId, userId }) => await isMergedGuest((await parts()).database, tenantId, userId),
  })
  const rememberFrom = (request: Request, { socket }: IncomingMessage) => {
    if (!isLoopbackAddress(socket.remoteAddress)) fromElsewhere.add(request)
  }
  const app = createApp({
    basePath: options.basePath,
    serverKey: options.serverKey,
    authenticate,
    parts,
    isReady: () =>
      engine().then(
        (started) => started.isReady(),
        () => false,
      ),
    log: options.log,
  })
  const listener = getRequestListener(
    (request, env) => {
      rememberFrom(request, env.incoming as IncomingMessage)
      return app.fetch(request, env as HttpEnv['Bindings'])
    },
    { overrideGlobalObjects: false },
  )
  const upgrades = createUpgrades({
    basePath: options.basePath,
    origins: options.origins,
    authenticate(request, mayBecomeGuest, incoming) {
      rememberFrom(request, incoming)
      return authenticate(request, mayBecomeGuest)
    },
    parts,
    log: options.log,
    handshakeMs,
  })
  const attached = new Set<() => void>()
  const attach: Holdfast['attach'] = (to) => {
    const stopListening = listenForUpgrades(to, upgrades.upgrade)
    const detach = () => {
      attached.delete(detach)
      stopListening()
    }
    attached.add(detach)
    return detach
  }
  const node: Holdfast['node'] = (incoming, outgoing) => {
    restoreBody(incoming)
    return listener(incoming, outgoing)
  }

  async function close(): Promise<void> {
    forget()
    const started = await starting?.catch(() => undefined)
    started?.drain()
    const closed = server ? new Promise<void>((resolve) => server?.close(() => resolve())) : undefined
    await started?.stop()
    // Only now: who opens a socket meanwhile is told to come back elsewhere.
    for (const detach of attached) detach()
    upgrades.stop()
    server?.closeAllConnections()
    await Promise.all([closed, leaving])
  }

  async function giveUp(): Promise<void> {
    forget()
    for (const detach of attached) detach()
    upgrades.stop()
    server?.close()
    server?.closeAllConnections()
    const started = await starting?.catch(() => undefined)
    await started?.abandon()
  }

  const fetch = async (request: Request) => app.fetch(request)
  return {
    ...inCode(partsInCode),
    fetch,
    handlers: { GET: fetch, POST: fetch, PATCH: fetch, DELETE: fetch, HEAD: fetch, OPTIONS: fetch },
    node,
    upgrade: upgrades.upgrade,
    attach,
    start: async () => void (await engine()),
    async listen(port, host = '127.0.0.1', before = () => false) {
      if (server) throw new OptionError('listen: this Holdfast listens already. Close it first, or use chat.node.')
      reachedBeyondLoopback ||= !isLoopbackHost(host)
      await engine()
      server = createServer(
        // A file of 8 MB over half a megabit per second takes two minutes.
        { requestTimeout: 120_000, headersTimeout: 10_000, keepAliveTimeout: 65_000 },
        (incoming, outgoing) => {
          const answer = async () => before(incoming, outgoing) || (await node(incoming, outgoing))
          answer().catch((error: unknown) => {
            options.log('request failed', { error: String(error) })
            outgoing.destroy()
          })
        },
      )
      attach(server)
      const url = await listening(server, port, host).catch((error: unknown) => {
        server = undefined
        throw error
      })
      return { url }
    },
    close() {
      closing ??= close()
      return closing
    },
    [abandon]() {
      closing ??= giveUp()
      return closing
    },
  }
}

/**
 * An embedded database that does not start is, to clients, one that does not answer. Told by its name, so that with a
 * database of one's own nothing of the embedded one is loaded.
 */
function toldToClients(error: unknown): never {
  throw error instanceof Error && error.name === 'EmbeddedError' ? new DatabaseError('refused', error) : error
}

function authenticateOf(
  options: Resolved,
  of: { isFromElsewhere(request: Request): boolean; isMerged(guest: Principal): Promise<boolean> },
): Authenticate {
  const { guests } = options
  const asGuest = guestAuthenticate(
    (request) => guests === 'on' || (guests === 'loopback' && !of.isFromElsewhere(request) && isLoopbackName(request)),
    of.isMerged,
  )
  const accounts = options.authenticate
    ? appAuthenticate(options.authenticate)
    : options.tokens && tokenAuthenticate(options.tokens)
  if (accounts === undefined) return asGuest
  return guests === 'on' ? accountsAndGuests(accounts, asGuest) : accounts
}

function listening(server: Server, port: number, host: string): Promise<string> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      const address = server.address()
      const bound = typeof address === 'object' && address ? address.port : port
      resolve(`http://${host.includes(':') ? `[${host}]` : host}:${bound}`)
    })
  })
}
