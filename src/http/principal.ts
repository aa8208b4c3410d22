/** Who asks: the app's own `authenticate`, tokens (JWT), or guests. */
import { createHash, randomBytes } from 'node:crypto'
import { createRemoteJWKSet, errors, type JWTPayload, jwtVerify } from 'jose'
import { Problem } from './problem.ts'

export type Principal = {
  userId: string
  tenantId: string
  /** By which the option `limits` may tell users apart. */
  plan?: string
  /** Milliseconds since 1970 UTC: connections of this principal end then. */
  expiresAt?: number
  /** Known by the guest's cookie, and by nothing else. */
  isGuest?: true
}
/** `setCookie`: a guest who came without one, to be sent back with the answer. */
export type Caller = { principal: Principal; setCookie?: string }

/** A connection ends with the token that opened it. Timers hold 24 days at most; the client comes back long before. */
export function endAt(expiresAt: number | undefined, end: () => void): NodeJS.Timeout | undefined {
  if (expiresAt === undefined) return undefined
  return setTimeout(end, Math.min(Math.max(0, expiresAt - Date.now()), 2 ** 31 - 1)).unref()
}

/** Null: nobody; the route answers 401. `mayBecomeGuest`: the route may make a guest of somebody without a cookie. */
export type Authenticate = (request: Request, mayBecomeGuest: boolean) => Promise<Caller | null>

/** The app's own word on who asks. `tenantId` defaults to `default`; `plan` is for the option `limits`. Null: 401. */
export type AppAuthenticate = (request: Request) => AppPrincipal | null | Promise<AppPrincipal | null>
export type AppPrincipal = { userId: string; tenantId?: string; plan?: string; expiresAt?: Date | number }

export const defaultTenant = 'default'

export function appAuthenticate(authenticate: AppAuthenticate): Authenticate {
  return async (request) => {
    const principal = await authenticate(request)
    if (!principal) return null
    const { userId, tenantId = defaultTenant, plan, expiresAt } = principal
    if (!isName(userId) || !isName(tenantId))
      throw new TypeError(`authenticate must answer a userId and a tenantId ${nameRule}`)
    if (plan !== undefined && !isName(plan)) throw new TypeError(`authenticate must answer a plan ${nameRule}`)
    const until = expiresAt === undefined ? {} : { expiresAt: Number(expiresAt) }
    return { principal: { userId, tenantId, ...(plan === undefined ? {} : { plan }), ...until } }
  }
}

export const nameRule = 'of 1 to 255 characters without control characters, and not . or ..'
/** `.` and `..` would vanish from a URL's path, percent-encoded or not. */
export function isName(text: unknown): text is string {
  if (text === '.' || text === '..') return false
  // biome-ignore lint/suspicious/noControlCharactersInRegex: keys of the log are built with them as separators
  return typeof text === 'string' && text.length > 0 && text.length <= 255 && !/[\u0000-\u001f\u007f]/.test(text)
}

export type TokenSettings =
  | { secret: string; issuer?: string; audience?: string }
  | { jwksUrl: string; issuer: string; audience: string }

/** Bearer tokens: `sub` is the user, the claims `tenant` and `plan` (if there) the tenant and the plan; `exp` ends connections, too. */
export function tokenAuthenticate(settings: TokenSettings): Authenticate {
  const verify = verifierOf(settings)
  return async (request) => {
    const token = /^Bearer ([\w.~+/=-]+)$/i.exec(request.headers.get('authorization') ?? '')?.[1]
    if (token === undefined) return null
    const { sub, exp, tenant = defaultTenant, plan } = (await verify(token).catch(refused)) ?? {}
    if (!isName(sub) || !isName(tenant)) return null
    // A claim of this name may be another's idea: what is no plan is none.
    const own = isName(plan) ? { plan } : {}
    return { principal: { userId: sub, tenantId: tenant, ...own, expiresAt: (exp as number) * 1000 } }
  }
}

function verifierOf(settings: TokenSettings): (token: string) => Promise<JWTPayload> {
  const checks = { issuer: settings.issuer, audience: settings.audience, requiredClaims: ['sub', 'exp'] }
  if ('secret' in settings) {
    const key = new TextEncoder().encode(settings.secret)
    return async (token) => (await jwtVerify(token, key, { ...checks, algorithms: ['HS256'] })).payload
  }
  const keys = createRemoteJWKSet(new URL(settings.jwksUrl))
  const algorithms = ['RS256', 'ES256', 'EdDSA', 'PS256']
  return async (token) => (await jwtVerify(token, keys, { ...checks, algorithms })).payload
}

/** What jose throws where it got no keys, rather than a bad token. Its errors about tokens have codes of their own. */
const withoutKeys = new Set(['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID'])

/** Why a token is refused is nobody's business but the issuer's; but without keys nobody knows, and 401 would sign users out. */
function refused(error: unknown): null {
  if (error instanceof errors.JOSEError && !withoutKeys.has(error.code)) return null
  throw new Problem('unavailable', 'The keys that tokens are checked with cannot be fetched.', { retryAfterMs: 1_000 })
}

const guestCookieName = 'holdfast_guest'
const guestAgeSeconds = 400 * 24 * 3600

/**
 * Guests have a random secret in a cookie that no script can read. Their user id is its hash, so that who sees the
 * id (it is shown as the author of messages) cannot become the guest. `isAllowed` judges the request: by default
 * guests exist on loopback only, and the name that the browser used is looked at, too, so that a page that had its
 * own name point at loopback is refused. `isMerged`: whether they have become an account since.
 */
export function guestAuthenticate(
  isAllowed: (request: Request) => boolean,
  isMerged: (guest: Principal) => Promise<boolean>,
): Authenticate {
  return async (request, mayBecomeGuest) => {
    if (!isAllowed(request)) return null
    const known = guestSecretOf(request.headers.get('cookie') ?? '')
    // Of one who has become an account the cookie is worth nothing, as if it were not there.
    if (known !== undefined && !(await isMerged(guest(known)))) return { principal: guest(known) }
    if (!mayBecomeGuest) return null
    const secret = newGuestSecret()
    const setCookie = guestCookie(secret, new URL(request.url).protocol === 'https:')
    return { principal: guest(secret), setCookie }
  }
}

/** What is sent to a browser to make it the guest with this secret. */
export function guestCookie(secret: string, secure: boolean): string {
  return `${guestCookieName}=${secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age=${guestAgeSeconds}${secure ? '; Secure' : ''}`
}

/** What takes it away again. */
export function noGuestCookie(secure: boolean): string {
  return `${guestCookieName}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0${secure ? '; Secure' : ''}`
}

export function newGuestSecret(): string {
  return randomBytes(24).toString('base64url')
}

export function guestSecretOf(cookies: string): string | undefined {
  return /(?:^|;\s*)holdfast_guest=([\w-]{32,64})(?:;|$)/.exec(cookies)?.[1]
}

export function guest(secret: string): Principal {
  const hash = createHash('sha256').update(secret).digest('base64url')
  return { userId: `guest-${hash.slice(0, 22)}`, tenantId: defaultTenant, isGuest: true }
}

const guestPattern = /^guest-[\w-]{22}$/
const likeGuest =
  'The id of this account looks like a guest’s, who could be anybody else: give the account another one.'

/**
 * Accounts, and guests beside them: whoever is nobody is a guest. But one who brings credentials that are not good (any more)
 * hears it, and is no guest by that.
 */
export function accountsAndGuests(accounts: Authenticate, guests: Authenticate): Authenticate {
  return async (request, mayBecomeGuest) => {
    const caller = await accounts(request, false)
    if (caller !== null && guestPattern.test(caller.principal.userId)) throw new Problem('unauthorized', likeGuest)
    if (caller !== null || request.headers.has('authorization')) return caller
    return await guests(request, mayBecomeGuest)
  }
}

export function isLoopbackName(request: Request): boolean {
  const { hostname } = new URL(request.url)
  return hostname === '[::1]' || hostname.endsWith('.localhost') || isLoopbackHost(hostname)
}

/** Of a socket: IPv4 may come written as IPv6. */
export function isLoopbackAddress(address = ''): boolean {
  return isLoopbackHost(address.replace(/^::ffff:/, ''))
}

/** A name like `127.0.0.1.example.org` is anybody's: only the four numbers are this machine. */
export function isLoopbackHost(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host)
}
