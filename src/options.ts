/** What an app may set, and what becomes of it: resolved once, at the edge, into a complete readonly object. */
import type { Ably } from './ably/ably.ts'
import { type EventSchemas, wrongAppEvent } from './core/app-event.ts'
import { type Prices, wrongPrices } from './core/prices.ts'
import type { AppAuthenticate, TokenSettings } from './http/principal.ts'
import type { LaneOf } from './http/route.ts'
import {
  type Bounds,
  functionOrNone,
  OptionError,
  oneOf,
  onlyFields,
  refuse,
  standardSchema,
  whole,
} from './option-checks.ts'
import type { AnyJobs } from './outbox/jobs.ts'
import type { Webhook, WebhookOptions } from './outbox/webhooks.ts'
import { jobsOf, webhooksOf } from './outbox-options.ts'
import type { PushOptions } from './push/options.ts'
import type { OnReply, Title } from './reply/finished.ts'
import type { Reply } from './reply/reply.ts'
import type { OnUncertain } from './reply/uncertain.ts'
import type { Retention } from './transfer/retention.ts'
import { type LimitsByPlan, type LimitsFor, type LimitsOf, limitsFor } from './usage/limits.ts'

export type HoldfastOptions<
  Metadata extends object = object,
  OwnReply extends Reply = Reply,
  Schemas extends EventSchemas = EventSchemas,
  Jobs extends AnyJobs = AnyJobs,
> = {
  /** Writes the reply of one attempt. See `Reply`. */
  reply: OwnReply
  /** Answers the app's own metadata of a finished reply. See `OnReply`. Defaults to none. */
  onReply?: OnReply<Metadata>
  /** How long the user waits for `onReply`; then the reply is stored without its metadata. 1–60,000. Defaults to 5,000. */
  onReplyMs?: number
  /**
   * Decides about a tool call of which nobody knows whether it ran. See `OnUncertain`. Defaults to none: a person is asked.
   */
  onUncertain?: OnUncertain
  /**
   * The app's own events: what may be published, by name, and what their data may be. See `EventSchema`. Defaults to any
   * event with any data.
   */
  events?: Schemas
  /**
   * What the app's own servers bring to `POST /v1/sessions/:id/events`, `GET /v1/outbox` and `GET /v1/webhooks`: at least 32
   * characters that nobody guesses. Defaults to none: there are no such routes.
   */
  serverKey?: string
  /** Gives a session its title after its first complete reply. See `Title`. Defaults to none: titles are given by people. */
  title?: Title
  /** How long an answer of `title` is waited for; nothing else waits. 1–60,000. Defaults to 10,000. */
  titleMs?: number
  /** A Postgres connection URL. Defaults to an embedded Postgres in `dataDir`. */
  database?: string
  /** Where the embedded Postgres keeps its files. Unused with `database`. Defaults to `./.holdfast`. */
  dataDir?: string
  /**
   * Called when the embedded Postgres is given up: it died six times within a minute, or does not start any more. Until
   * the next request, which starts it again, no reply is written; a process that somebody starts again may rather end.
   * Defaults to nothing. Unused with `database`.
   */
  onDatabaseLost?: (error: Error) => void
  /** Lies before every route. Defaults to none. */
  basePath?: string
  /**
   * Who asks: a user, or null for nobody (401). Called for each request, so it should not take long. Defaults to
   * guests (see `guests`), or to tokens where `tokens` is set.
   */
  authenticate?: AppAuthenticate
  /** Checks bearer tokens (JWT): a shared secret (HS256), or a JWKS with issuer and audience. */
  tokens?: TokenSettings
  /**
   * Pages that may open a WebSocket here, by their origin: `https://app.example.com`. Where they are given, no others may.
   * Defaults to those of the host that the request names. What is no page names no origin, and may.
   */
  origins?: readonly string[]
  /**
   * Whether somebody without an account may chat, known by a cookie. `loopback`: only where the server is reached on
   * this machine, as far as its address (not known to `fetch`) and the name in the request tell. Defaults to
   * `loopback`. With `authenticate` or `tokens` there are guests only where this is `on`: whoever is nobody to those is one,
   * until they sign in and `POST /v1/guest/merge` makes what they have the account's.
   */
  guests?: 'on' | 'off' | 'loopback'
  /**
   * What to do when the schema is behind: `auto` migrates, `check` refuses to start and names `holdfast migrate`.
   * Defaults to `auto`, and to `check` with `database` in production (NODE_ENV).
   */
  migrate?: 'auto' | 'check'
  /**
   * What this process does. Defaults to both; on a platform that freezes a process when it has answered (`VERCEL` or
   * `AWS_LAMBDA_FUNCTION_NAME` is set), and without `waitUntil`, to `http` alone: then what asks for a reply is refused
   * (`no_runner`), because nobody would write it. Give `http` where a runner works on the same database elsewhere.
   */
  roles?: readonly Role[]
  /**
   * Keeps a process that would be frozen when it has answered: called with a promise that lasts until nothing is to be
   * written here, with each request that asks for a reply. On Vercel `waitUntil` of `@vercel/functions`. What the
   * platform ends all the same is taken over by the next process that looks. Defaults to none.
   */
  waitUntil?: (promise: Promise<unknown>) => void
  /** How long an attempt's right to run lasts without renewal: a dead process is taken over after it. 1,000–60,000. Defaults to 5,000. */
  leaseMs?: number
  /** How often runners and followers look without having been woken. 100–10,000. Defaults to 1,000. */
  pollMs?: number
  /** The least time between two flushes of chunks. 0–250. Defaults to 15. */
  flushMs?: number
  /** How many attempts of a round may end by an error of the provider. 1–10. Defaults to 3. */
  attemptsMax?: number
  /** Which lane a message joins; a client has no say in it. See `LaneOf`. Defaults to `main`, one turn at a time. */
  lane?: LaneOf
  /** How many rounds a turn may have: its first run, retries and regenerations. 1–1,000. Defaults to 10. */
  roundsMax?: number
  /**
   * How many steps a round may have before somebody is asked whether it goes on (see `onBudget`). 1–1,000. Defaults to 20.
   */
  stepsMax?: number
  /**
   * How many tokens, of input and output together, the steps of a round may report before somebody is asked whether it goes
   * on (see `onBudget`). 0–1,000,000,000; 0: as many as it likes. Defaults to 0.
   */
  tokensMax?: number
  /** An attempt that brought no chunk for so long has failed. 1,000–3,600,000. Defaults to 60,000. */
  noProgressMs?: number
  /**
   * What happens when a round has used up its steps or tokens and would go on, or its last attempt made no progress: `ask`
   * a person, who may let it go on from there, or `fail`. Defaults to `ask`.
   */
  onBudget?: 'ask' | 'fail'
  /**
   * What becomes of a reply whose process has died: it goes on from its last finished step (`continue`), is written anew
   * where no tool of it has begun and nobody has answered a question of it (`restart`), or has failed (`fail`). Defaults
   * to `continue`.
   */
  takeover?: 'continue' | 'restart' | 'fail'
  /** A turn that was not begun for so long has failed. 1,000 to 30 days. Defaults to 24 hours. */
  expiresMs?: number
  /**
   * A call that nobody has approved, or run on a device, for so long is refused: the model is told, and the reply goes on.
   * 1,000 to 365 days. Defaults to 24 hours, as `expiresMs`: messages behind it wait no longer either.
   */
  approvalExpiresMs?: number
  /**
   * Whether messages behind a reply that waits for people wait with it. False: they are answered meanwhile, and are not
   * told what waits. Defaults to true.
   */
  waitHoldsLane?: boolean
  /**
   * Publishes each session's log over Ably as well, and gives clients tokens for it: what `ably` of `holdfast/ably` answers.
   * Published by processes that have the role `runner`. Defaults to none.
   */
  ably?: Ably
  /**
   * What tokens cost, by model, in the app's currency: see `Prices`. Each step's cost is written beside its tokens when it is
   * settled, and later prices change nothing of it. Defaults to none: no cost is known.
   */
  prices?: Prices
  /** What one user may do: the same for all, or by their plans, or what a function answers; see `Limits`, `LimitsOf`. */
  limits?: LimitsByPlan | LimitsOf
  /**
   * Notices on the devices of who has not read a reply, a question or what `chat.notify` says; see `PushOptions`. Give all
   * processes of a database the same. Defaults to none.
   */
  push?: PushOptions
  /** How long somebody has to read it before a notice is sent. 0–600,000. Defaults to 5,000. */
  pushGraceMs?: number
  /** Deletes sessions in which nothing has happened for so long; see `Retention`. Defaults to none: they are kept for good. */
  retention?: Retention
  /**
   * The app's own jobs, by topic: what is done with what `chat.outbox.add` adds, by processes that have the role `runner`; see
   * `Job`. What is added for a topic that no process has waits. Defaults to none.
   */
  jobs?: Jobs
  /**
   * Where events of the log are sent to, by processes that have the role `runner`; see `WebhookOptions`. Give all processes of a
   * database the same. Defaults to none.
   */
  webhooks?: readonly WebhookOptions[]
  /** How long running attempts may go on when the process is told to end; then others take them over. 0–600,000. Defaults to 10,000. */
  drainMs?: number
  /** Attempts at a time in this process. 1–10,000. Defaults to 200. */
  concurrency?: number
  /**
   * Database connections of this process for its statements. Beside them there are one that listens (with `wakeups`),
   * one for rare transactions, up to two while files are stored or read, up to two with `jobs` or `webhooks`, and one that
   * holds the lock of an embedded database. 6–100. Defaults to 9.
   */
  poolMax?: number
  /** `off`: nothing wakes anybody and everything happens by polling. For tests, and where NOTIFY is not allowed; receipts and typing are not told live then. Defaults to `on`. */
  wakeups?: 'on' | 'off'
  /** Where lines for operators go; never holds content. Defaults to JSON lines on standard output. */
  log?: Log
}

export type Role = 'http' | 'runner'
export type Log = (line: string, detail?: object) => void

/** Every option, resolved. A new option that is forgotten here does not compile. */
export type Resolved = Readonly<Required<Omit<HoldfastOptions, Optional | 'limits' | 'webhooks'>>> &
  Readonly<
    Pick<HoldfastOptions, Optional> & {
      limits: LimitsFor
      webhooks: readonly Webhook[]
      /** Nobody would write a reply: this process is frozen when it has answered, and no other was named. */
      hasNoRunner: boolean
    }
  >
type Optional =
  | ('ably' | 'database' | 'authenticate' | 'tokens' | 'serverKey' | 'origins' | 'waitUntil')
  | ('onReply' | 'onUncertain' | 'title' | 'events' | 'push' | 'prices' | 'retention')

/** What is looked up each time it is called: a reloaded module's is used from then on. */
export type AppFunctions = Pick<
  Resolved,
  'reply' | 'onReply' | 'onUncertain' | 'title' | 'lane' | 'events' | 'jobs' | 'push' | 'prices' | 'limits'
>

export const bounds = {
  onReplyMs: { min: 1, max: 60_000, default: 5_000 },
  titleMs: { min: 1, max: 60_000, default: 10_000 },
  leaseMs: { min: 1_000, max: 60_000, default: 5_000 },
  pollMs: { min: 100, max: 10_000, default: 1_000 },
  flushMs: { min: 0, max: 250, default: 15 },
  attemptsMax: { min: 1, max: 10, default: 3 },
  roundsMax: { min: 1, max: 1_000, default: 10 },
  stepsMax: { min: 1, max: 1_000, default: 20 },
  tokensMax: { min: 0, max: 1_000_000_000, default: 0 },
  noProgressMs: { min: 1_000, max: 3_600_000, default: 60_000 },
  expiresMs: { min: 1_000, max: 30 * 86_400_000, default: 86_400_000 },
  approvalExpiresMs: { min: 1_000, max: 365 * 86_400_000, default: 86_400_000 },
  pushGraceMs: { min: 0, max: 600_000, default: 5_000 },
  drainMs: { min: 0, max: 600_000, default: 10_000 },
  concurrency: { min: 1, max: 10_000, default: 200 },
  poolMax: { min: 6, max: 100, default: 9 },
} as const satisfies { [key in keyof HoldfastOptions]?: Bounds }

export function resolveOptions(
  options: HoldfastOptions,
  defaults: { production: boolean; isFrozen: boolean; log: Log },
): Resolved {
  if (typeof options.reply !== 'function') throw new OptionError('reply: expected a function that answers a reply.')
  const { ably, database, authenticate, tokens, waitUntil } = options
  const hasNoRunner = defaults.isFrozen && options.roles === undefined && waitUntil === undefined
  const resolved: Resolved = {
    reply: options.reply,
    onReply: functionOrNone('onReply', options.onReply),
    onReplyMs: within(options, 'onReplyMs'),
    onUncertain: functionOrNone('onUncertain', options.onUncertain),
    events: eventsOf(options.events),
    serverKey: serverKeyOf(options.serverKey),
    title: functionOrNone('title', options.title),
    titleMs: within(options, 'titleMs'),
    ably: ablyOf(ably),
    database: databaseOf(database),
    authenticate,
    tokens: tokensOf(tokens, authenticate),
    dataDir: options.dataDir ?? '.holdfast',
    onDatabaseLost: options.onDatabaseLost ?? (() => undefined),
    basePath: basePathOf(options.basePath ?? ''),
    origins: originsOf(options.origins),
    guests: oneOf('guests', options.guests ?? 'loopback', ['on', 'off', 'loopback']),
    migrate: oneOf('migrate', options.migrate ?? (database && defaults.production ? 'check' : 'auto'), [
      'auto',
      'check',
    ]),
    roles: rolesOf(options.roles ?? (hasNoRunner ? ['http'] : ['http', 'runner'])),
    waitUntil: functionOrNone('waitUntil', waitUntil),
    hasNoRunner,
    wakeups: oneOf('wakeups', options.wakeups ?? 'on', ['on', 'off']),
    log: options.log ?? defaults.log,
    prices: pricesOf(options.prices),
    limits: limitsFor(options.limits ?? {}, refuse),
    leaseMs: within(options, 'leaseMs'),
    pollMs: within(options, 'pollMs'),
    flushMs: within(options, 'flushMs'),
    attemptsMax: within(options, 'attemptsMax'),
    lane: laneOf(options.lane ?? (() => 'main')),
    roundsMax: within(options, 'roundsMax'),
    stepsMax: within(options, 'stepsMax'),
    tokensMax: within(options, 'tokensMax'),
    onBudget: oneOf('onBudget', options.onBudget ?? 'ask', ['ask', 'fail']),
    takeover: oneOf('takeover', options.takeover ?? 'continue', ['continue', 'restart', 'fail']),
    noProgressMs: within(options, 'noProgressMs'),
    expiresMs: within(options, 'expiresMs'),
    approvalExpiresMs: within(options, 'approvalExpiresMs'),
    waitHoldsLane: oneOf('waitHoldsLane', options.waitHoldsLane ?? true, [true, false]),
    push: pushOf(options.push),
    pushGraceMs: within(options, 'pushGraceMs'),
    retention: retentionOf(options.retention),
    jobs: jobsOf(options.jobs ?? {}),
    webhooks: webhooksOf(options.webhooks ?? []),
    drainMs: within(options, 'drainMs'),
    concurrency: within(options, 'concurrency'),
    poolMax: within(options, 'poolMax'),
  }
  for (const name of Object.keys(options)) {
    if (!(name in resolved) || name === 'hasNoRunner')
      throw new OptionError(`${name}: there is no such option. See docs/options.md.`)
  }
  return resolved
}

/** The key alone, or its options, would publish nothing. */
function ablyOf(ably: Ably | undefined): Ably | undefined {
  if (ably === undefined || typeof ably.publish === 'function') return ably
  throw new OptionError('ably: expected what ably({ key }) of holdfast/ably answers.')
}

/** What it is instead is not said: it may hold a password. */
export function databaseOf(url: string | undefined): string | undefined {
  if (url === undefined || /^postgres(ql)?:\/\//.test(url)) return url
  throw new OptionError('database (DATABASE_URL): expected a URL like postgres://user:password@host:5432/database.')
}

function eventsOf(events: EventSchemas | undefined): EventSchemas | undefined {
  for (const [name, schema] of Object.entries(events ?? {})) {
    const wrong = wrongAppEvent(name)
    if (wrong !== null) throw new OptionError(`events["${name}"]: ${wrong}.`)
    standardSchema(`events["${name}"]`, schema)
  }
  return events
}

function pricesOf(prices: Prices | undefined): Prices | undefined {
  const wrong = prices === undefined ? null : wrongPrices(prices)
  if (wrong === null) return prices
  throw new OptionError(`prices${wrong}.`)
}

function serverKeyOf(key: string | undefined): string | undefined {
  if (key === undefined || key.length >= secretCharactersMin) return key
  throw new OptionError(`serverKey (HOLDFAST_SERVER_KEY): expected at least ${secretCharactersMin} characters.`)
}

/** HS256 is as strong as its secret: RFC 7518, section 3.2 asks for 256 bits. */
const secretCharactersMin = 32

function tokensOf(
  tokens: HoldfastOptions['tokens'],
  authenticate: HoldfastOptions['authenticate'],
): HoldfastOptions['tokens'] {
  if (tokens === undefined) return undefined
  if (authenticate) throw new OptionError('tokens: not together with authenticate, which would never see them.')
  if ('secret' in tokens) {
    if (tokens.secret.length >= secretCharactersMin) return tokens
    throw new OptionError(`tokens.secret: expected at least ${secretCharactersMin} characters.`)
  }
  if (!URL.canParse(tokens.jwksUrl)) throw new OptionError('tokens.jwksUrl: expected a URL.')
  if (tokens.issuer && tokens.audience) return tokens
  throw new OptionError(
    'tokens: jwksUrl needs issuer and audience, because keys alone say nothing about whom a token is for.',
  )
}

const receiptsAfter = { min: 0, max: 86_400_000, default: 900_000 } as const satisfies Bounds

function pushOf(push: PushOptions | undefined): PushOptions | undefined {
  if (push === undefined) return undefined
  const { expo, web, texts, resend = false, receiptsAfterMs, devices, forget } = push
  onlyFields('push', push, ['expo', 'web', 'texts', 'resend', 'receiptsAfterMs', 'devices', 'forget'], 'push')
  if (expo === undefined && web === undefined)
    throw new OptionError(
      'push: expected expo (expoPush of holdfast/expo), web (webPush of holdfast/web-push) or both.',
    )
  if (expo !== undefined && expo.kind !== 'expo') throw new OptionError('push.expo: expected what expoPush answers.')
  if (web !== undefined && web.kind !== 'web') throw new OptionError('push.web: expected what webPush answers.')
  functionOrNone('push.devices', devices)
  functionOrNone('push.forget', forget)
  if (texts !== undefined && typeof texts !== 'function' && typeof texts !== 'object')
    throw new OptionError('push.texts: expected a function, or an object by event.')
  return {
    expo,
    web,
    texts,
    resend: oneOf('push.resend', resend, [true, false]),
    receiptsAfterMs: whole('push.receiptsAfterMs', receiptsAfterMs, receiptsAfter),
    devices,
    forget,
  }
}

const kept = { min: 60_000, max: 100 * 365 * 86_400_000 }

function retentionOf(retention: Retention | undefined): Retention | undefined {
  if (retention === undefined) return undefined
  const { sessionsMs, guestSessionsMs } = retention
  onlyFields('retention', retention, ['sessionsMs', 'guestSessionsMs'], 'accounts')
  whole('retention.sessionsMs', sessionsMs, { ...kept, default: Number.NaN })
  whole('retention.guestSessionsMs', guestSessionsMs, { ...kept, default: sessionsMs })
  return retention
}

function within(options: HoldfastOptions, name: keyof typeof bounds): number {
  return whole(name, options[name], bounds[name])
}

function laneOf(lane: LaneOf): LaneOf {
  if (typeof lane === 'function') return lane
  throw new OptionError("lane: expected a function that answers 'main', 'author' or 'private'.")
}

/** As a browser writes it, or it would never be found equal. An app's own shell has a scheme of its own. */
function originsOf(origins: readonly string[] | undefined): readonly string[] | undefined {
  for (const origin of origins ?? []) {
    const isWeb = /^https?:/i.test(origin)
    const isOrigin = isWeb
      ? URL.canParse(origin) && new URL(origin).origin === origin
      : /^[a-z][a-z0-9+.-]*:\/\/[^/?#\s]+$/.test(origin)
    if (!isOrigin)
      throw new OptionError(`origins (HOLDFAST_ORIGINS): expected origins like https://app.example.com, got ${origin}.`)
  }
  return origins
}

function rolesOf(roles: readonly Role[]): readonly Role[] {
  if (roles.length === 0) throw new OptionError('roles: expected http, runner or both, got none.')
  return roles.map((role) => oneOf('roles', role, ['http', 'runner']))
}

function basePathOf(path: string): string {
  if (path === '' || /^(\/[\w.~-]+)+$/.test(path)) return path
  throw new OptionError(`basePath: expected a path like /chat, without a slash at its end, got ${path}.`)
}
