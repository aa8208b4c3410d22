/** Who asks: the app's own `authenticate`, tokens (JWT), or guests. */
import { createHash, randomBytes } from 'node:crypto'
import { createRemoteJWKSet, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from 'jose'

export type Principal = {
  userId: string
  tenantId: string
  /** Milliseconds since 1970 UTC: connections of this principal end then. */
  expiresAt?: number
}
/** `setCookie`: a guest who came without one, to be sent back with the answer. */
export type Caller = { principal: Principal; setCookie?: string }

/** Null: nobody; the route answers 401. `mayBecomeGuest`: the route may make a guest of somebody without a cookie. */
export type Authenticate = (request: Request, mayBecomeGuest: boolean) => Promise<Caller | null>

/** The app's own word on who asks. `tenantId` defaults to `default`. Null: 401. */
export type AppAuthenticate = (request: Request) => AppPrincipal | null | Promise<AppPrincipal | null>
export type AppPrincipal = { userId: string; tenantId?: string; expiresAt?: Date | number }

export const defaultTenant = 'default'

export function appAuthenticate(authenticate: AppAuthenticate): Authenticate {
  return async (request) => {
    const principal = await authenticate(request)
    if (!principal) return null
    const { userId, tenantId = defaultTenant, expiresAt } = principal
    if (!isName(userId) || !isName(tenantId))
      throw new TypeError(`authenticate must answer a userId and a tenantId ${nameRule}`)
    return { principal: { userId, tenantId, ...(expiresAt === undefined ? {} : { expiresAt: Number(expiresAt) }) } }
  }
}

const nameRule = 'of 1 to 255 characters without control characters'
function isName(text: unknown): text is string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: keys of the log are built with them as separators
  return typeof text === 'string' && text.length > 0 && text.length <= 255 && !/[\u0000-\u001f\u007f]/.test(text)
}

export type TokenSettings =
  | { secret: string; issuer?: string; audience?: string }
  | { jwksUrl: string; issuer: string; audience: string }

/** Bearer tokens: `sub` is the user, the claim `tenant` (if there) the tenant; `exp` ends connections, too. */
export function tokenAuthenticate(settings: TokenSettings): Authenticate {
  const checks = { issuer: settings.issuer, audience: settings.audience, requiredClaims: ['sub', 'exp'] }
  const verify: (token: string) => Promise<{ payload: JWTPayload }> =
    'secret' in settings
      ? (
          (key) => (token: string) =>
            jwtVerify(token, key, { ...checks, algorithms: ['HS256'] })
        )(new TextEncoder().encode(settings.secret))
      : (
          (keys: JWTVerifyGetKey) => (token: string) =>
            jwtVerify(token, keys, { ...checks, algorithms: ['RS256', 'ES256', 'EdDSA', 'PS256'] })
        )(createRemoteJWKSet(new URL(settings.jwksUrl)))
  return async (request) => {
    const token = /^Bearer ([\w.~+/=-]+)$/i.exec(request.headers.get('authorization') ?? '')?.[1]
    if (token === undefined) return null
    // Why a token is refused is nobody's business but the issuer's.
    const verified = await verify(token).catch(() => null)
    const { sub, exp, tenant = defaultTenant } = verified?.payload ?? {}
    if (!isName(sub) || !isName(tenant)) return null
    return { principal: { userId: sub, tenantId: tenant, expiresAt: (exp as number) * 1000 } }
  }
}

const guestCookie = 'holdfast_guest'
const guestAgeSeconds = 400 * 24 * 3600

/**
 * Guests have a random secret in a cookie that no script can read. Their user id is its hash, so that who sees the
 * id (it is shown as the author of messages) cannot become the guest. `isAllowed` judges the request: by default
 * guests exist on loopback only, and the name that the browser used is looked at, too, so that a page that had its
 * own name point at loopback is refused.
 */
export function guestAuthenticate(isAllowed: (request: Request) => boolean): Authenticate {
  return async (request, mayBecomeGuest) => {
    if (!isAllowed(request)) return null
    const known = /(?:^|;\s*)holdfast_guest=([\w-]{32,64})(?:;|$)/.exec(request.headers.get('cookie') ?? '')?.[1]
    if (known !== undefined) return { principal: guest(known) }
    if (!mayBecomeGuest) return null
    const secret = randomBytes(24).toString('base64url')
    const secure = new URL(request.url).protocol === 'https:' ? '; Secure' : ''
    const setCookie = `${guestCookie}=${secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age=${guestAgeSeconds}${secure}`
    return { principal: guest(secret), setCookie }
  }
}

function guest(secret: string): Principal {
  const hash = createHash('sha256').update(secret).digest('base64url')
  return { userId: `guest-${hash.slice(0, 22)}`, tenantId: defaultTenant }
}

export function isLoopbackName(request: Request): boolean {
  const { hostname } = new URL(request.url)
  return hostname === 'localhost' || hostname.endsWith('.localhost') || hostname === '[::1]' || /^127\./.test(hostname)
}
