/** The environment, read once and checked: each setting becomes an option of `createHoldfast`. */
import { expoPush } from '../adapters/expo.ts'
import { webPush } from '../adapters/web-push.ts'
import { OptionError } from '../option-checks.ts'
import type { HoldfastOptions } from '../options.ts'
import { bounds } from '../options.ts'
import { type Limits, limitBounds } from '../usage/limits.ts'
import { isHttpUrl, modelReply } from './model.ts'

export type Settings = { options: HoldfastOptions; host: string; port: number; model: string }
type Environment = Readonly<Record<string, string | undefined>>

/** By environment variable: the option that it sets. `docs/options.md` lists them. */
export const numbers = {
  HOLDFAST_LEASE_MS: 'leaseMs',
  HOLDFAST_POLL_MS: 'pollMs',
  HOLDFAST_FLUSH_MS: 'flushMs',
  HOLDFAST_ATTEMPTS_MAX: 'attemptsMax',
  HOLDFAST_ROUNDS_MAX: 'roundsMax',
  HOLDFAST_TOKENS_MAX: 'tokensMax',
  HOLDFAST_NO_PROGRESS_MS: 'noProgressMs',
  HOLDFAST_TURN_EXPIRES_MS: 'expiresMs',
  HOLDFAST_DRAIN_MS: 'drainMs',
  HOLDFAST_PUSH_GRACE_MS: 'pushGraceMs',
  HOLDFAST_CONCURRENCY: 'concurrency',
  HOLDFAST_POOL_MAX: 'poolMax',
} as const satisfies Record<string, keyof typeof bounds>

/** Throws an `OptionError` that names the variable that is wrong. */
export function readSettings(environment: Environment): Settings {
  choice(environment, 'LOG_LEVEL', ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
  const { reply, model } = modelReply(environment)
  const options: HoldfastOptions = {
    reply,
    database: environment.DATABASE_URL || undefined,
    dataDir: environment.HOLDFAST_DATA_DIR || undefined,
    tokens: tokensOf(environment),
    origins: environment.HOLDFAST_ORIGINS ? listOf(environment.HOLDFAST_ORIGINS) : undefined,
    guests: choice(environment, 'HOLDFAST_GUESTS', ['on', 'off', 'loopback']),
    migrate: choice(environment, 'HOLDFAST_MIGRATE', ['auto', 'check']),
    onBudget: choice(environment, 'HOLDFAST_ON_BUDGET', ['ask', 'fail']),
    takeover: choice(environment, 'HOLDFAST_TAKEOVER', ['continue', 'restart', 'fail']),
    wakeups: choice(environment, 'HOLDFAST_WAKEUPS', ['on', 'off']),
    limits: limitsOf(environment),
    serverKey: environment.HOLDFAST_SERVER_KEY || undefined,
    push: pushOf(environment),
    webhooks: webhooksOf(environment),
    roles: environment.HOLDFAST_ROLES ? rolesOf(environment.HOLDFAST_ROLES) : undefined,
  }
  for (const [variable, option] of Object.entries(numbers)) {
    const text = environment[variable]
    if (text !== undefined && text !== '')
      options[option] = number(variable, text, bounds[option].min, bounds[option].max)
  }
  return {
    options,
    model,
    host: environment.HOST || '127.0.0.1',
    port: number('PORT', environment.PORT || '3000', 0, 65_535),
  }
}

function number(variable: string, text: string, min: number, max: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (value >= min && value <= max) return value
  throw new OptionError(`${variable}: expected a whole number from ${min} to ${max}, got "${text}".`)
}

/** By environment variable: the limit that it sets. */
const limitNumbers = {
  HOLDFAST_SENDS_PER_MINUTE: 'sendsPerMinute',
  HOLDFAST_OPEN_TURNS: 'openTurns',
  HOLDFAST_CONNECTIONS: 'connections',
} as const satisfies Record<string, keyof typeof limitBounds>

function limitsOf(environment: Environment): NonNullable<HoldfastOptions['limits']> {
  const limits: Limits = {}
  for (const [variable, limit] of Object.entries(limitNumbers)) {
    const text = environment[variable]
    const { min, max } = limitBounds[limit]
    if (text !== undefined && text !== '') limits[limit] = number(variable, text, min, max)
  }
  return limits
}

function choice<const T extends string>(
  environment: Environment,
  variable: string,
  allowed: readonly T[],
): T | undefined {
  if (!environment[variable]) return undefined
  const found = allowed.find((each) => each === environment[variable])
  if (found) return found
  throw new OptionError(`${variable}: expected ${allowed.join(' or ')}, got "${environment[variable]}".`)
}

function rolesOf(text: string): HoldfastOptions['roles'] {
  return text.split(',').map((role) => {
    const name = role.trim()
    if (name === 'http' || name === 'runner') return name
    throw new OptionError(`HOLDFAST_ROLES: expected http, runner or both with a comma, got "${text}".`)
  })
}

/** Expo where it is named by its token or address, Web Push where there are keys. */
function pushOf(environment: Environment): HoldfastOptions['push'] {
  const { EXPO_ACCESS_TOKEN: accessToken, EXPO_BASE_URL: baseUrl } = environment
  const { HOLDFAST_VAPID_SUBJECT: subject, HOLDFAST_VAPID_PUBLIC_KEY: publicKey } = environment
  const { HOLDFAST_VAPID_PRIVATE_KEY: privateKey } = environment
  if (baseUrl && !isHttpUrl(baseUrl)) throw new OptionError('EXPO_BASE_URL: expected an http or https URL.')
  const expo =
    accessToken || baseUrl
      ? expoPush({ ...(accessToken ? { accessToken } : {}), ...(baseUrl ? { baseUrl } : {}) })
      : undefined
  const web = webOf({ subject, publicKey, privateKey })
  return expo || web ? { expo, web } : undefined
}

/** One: whoever has several gives them in code. */
function webhooksOf(environment: Environment): HoldfastOptions['webhooks'] {
  const { HOLDFAST_WEBHOOK_URL: url, HOLDFAST_WEBHOOK_SECRETS: secrets = '' } = environment
  if (!url) {
    if (secrets === '') return undefined
    throw new OptionError('HOLDFAST_WEBHOOK_SECRETS is set, but nothing to send to: set HOLDFAST_WEBHOOK_URL.')
  }
  if (secrets === '') {
    throw new OptionError(
      'HOLDFAST_WEBHOOK_URL needs HOLDFAST_WEBHOOK_SECRETS, which events are signed with: docs/outbox.md.',
    )
  }
  const events = listOf(environment.HOLDFAST_WEBHOOK_EVENTS || '*')
  const isOn = (variable: string) => choice(environment, variable, ['on', 'off']) === 'on'
  return [
    {
      url,
      secrets: listOf(secrets),
      events: events.includes('*') ? '*' : events,
      content: isOn('HOLDFAST_WEBHOOK_CONTENT'),
      privateAddresses: isOn('HOLDFAST_WEBHOOK_PRIVATE'),
    },
  ]
}

/** With commas between. */
function listOf(text: string): string[] {
  return text
    .split(',')
    .map((each) => each.trim())
    .filter(Boolean)
}

function webOf({ subject, publicKey, privateKey }: Record<string, string | undefined>) {
  if (!subject && !publicKey && !privateKey) return undefined
  if (!subject || !publicKey || !privateKey) {
    throw new OptionError(
      'Web Push needs HOLDFAST_VAPID_SUBJECT, HOLDFAST_VAPID_PUBLIC_KEY and HOLDFAST_VAPID_PRIVATE_KEY: "npx web-push generate-vapid-keys" makes the keys.',
    )
  }
  try {
    return webPush({ vapid: { subject, publicKey, privateKey } })
  } catch (error) {
    throw new OptionError(`Web Push is not set up: ${(error as Error).message}`)
  }
}

function tokensOf(environment: Environment): HoldfastOptions['tokens'] {
  const { HOLDFAST_JWT_SECRET: secret, HOLDFAST_JWKS_URL: jwksUrl } = environment
  const { HOLDFAST_JWT_ISSUER: issuer, HOLDFAST_JWT_AUDIENCE: audience } = environment
  if (secret && jwksUrl) throw new OptionError('Set HOLDFAST_JWT_SECRET or HOLDFAST_JWKS_URL, not both.')
  if (secret) {
    if (secret.length < 32) throw new OptionError('HOLDFAST_JWT_SECRET: expected at least 32 characters.')
    return { secret, ...(issuer ? { issuer } : {}), ...(audience ? { audience } : {}) }
  }
  if (!jwksUrl) {
    if (!issuer && !audience) return undefined
    throw new OptionError(
      `${issuer ? 'HOLDFAST_JWT_ISSUER' : 'HOLDFAST_JWT_AUDIENCE'} is set, but no key to check tokens with: set HOLDFAST_JWT_SECRET or HOLDFAST_JWKS_URL.`,
    )
  }
  if (!isHttpUrl(jwksUrl)) throw new OptionError('HOLDFAST_JWKS_URL: expected an http or https URL.')
  if (!issuer || !audience) {
    throw new OptionError(
      'HOLDFAST_JWKS_URL needs HOLDFAST_JWT_ISSUER and HOLDFAST_JWT_AUDIENCE: keys alone say nothing about whom a token is for.',
    )
  }
  return { jwksUrl, issuer, audience }
}

/** The database, in words for people; never its password. */
export function storeName({ database, dataDir = '.holdfast' }: HoldfastOptions): string {
  if (database === undefined) return `embedded Postgres in ${dataDir}`
  if (!URL.canParse(database)) return 'Postgres at DATABASE_URL'
  const { host, pathname } = new URL(database)
  return `Postgres at ${host}${pathname}`
}
