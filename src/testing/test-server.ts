/**
 * A real Holdfast in the test's own process, so that `reply` is the test's own function and `chat` is at hand. To be killed
 * it is given up (abandon.ts): to clients and the database that is as `kill -9`.
 */
import { randomBytes } from 'node:crypto'
import { SignJWT } from 'jose'
import { type Abandonable, abandon } from '../abandon.ts'
import type { JsonObject } from '../core/json.ts'
import { createHoldfast, type Holdfast } from '../index.ts'
import { OptionError } from '../option-checks.ts'
import type { HoldfastOptions } from '../options.ts'
import { type Kind, type Surrounded, surround } from './surroundings.ts'

/**
 * The options of `createHoldfast`, with other defaults where a test wants to be quick: `leaseMs` 1,000 (the least: so long
 * after `kill` another attempt begins), `pollMs` 200, `drainMs` 0, no limit of sends, bearer tokens with a secret of its own
 * (see `token`), and a log that is kept in `lines` and printed nowhere.
 *
 * `database`: a Postgres URL whose role may make databases; the test server makes one of its own there and drops it.
 * Defaults to DATABASE_URL, and without it to an embedded Postgres that all test servers of the process share.
 */
export type TestServerOptions<Metadata extends object = JsonObject> = Omit<
  HoldfastOptions<Metadata>,
  'dataDir' | 'onDatabaseLost'
>

/**
 * `kill` ends the server as `kill -9` would, as far as clients and database can tell: its connections are destroyed at once,
 * and nothing is handed over. The code of `reply` and of tools is in your own process, so it is not ended: its signal is
 * aborted, and nothing that it says is heard.
 */
export type TestServer<Metadata extends object = JsonObject> = Surrounded & {
  /** The Holdfast that runs now, or ran last: another one after each `restart`. */
  readonly chat: Holdfast<Metadata>
  /** A bearer token of a user. Rejects with an `authenticate` or JWKS of your own, which make their own. */
  token(userId: string, ask?: { tenantId?: string }): Promise<string>
}

/** Starts one. Resolves when it listens. It holds the process open until it is closed. */
export async function testServer<Metadata extends object = JsonObject>(
  options: TestServerOptions<Metadata>,
): Promise<TestServer<Metadata>> {
  const tokens = options.tokens ?? { secret: randomBytes(32).toString('hex') }
  let chat: Holdfast<Metadata> | undefined
  /** The dead say nothing. */
  let speaks: Holdfast<Metadata> | undefined

  const kindOf = (say: (line: string) => void): Kind => ({
    async start(database) {
      const begun = createHoldfast<Metadata>({
        leaseMs: 1_000,
        pollMs: 200,
        drainMs: 0,
        poolMax: 6,
        // Whatever NODE_ENV says, and wherever it is tested.
        migrate: 'auto',
        roles: ['http', 'runner'],
        ...options,
        ...(options.authenticate ? {} : { tokens }),
        limits: typeof options.limits === 'function' ? options.limits : { sendsPerMinute: 0, ...options.limits },
        database,
        log(line, detail = {}) {
          if (begun !== speaks) return
          say(`${line} ${JSON.stringify(detail)}`)
          options.log?.(line, detail)
        },
      })
      chat = begun
      speaks = begun
      const { url } = await begun.listen(0)
      return Number(new URL(url).port)
    },
    async kill() {
      speaks = undefined
      // None where it could not be made.
      await (chat as (Holdfast<Metadata> & Abandonable) | undefined)?.[abandon]()
    },
    stop: async () => await chat?.close(),
  })

  return {
    ...(await surround(options.database, kindOf)),
    get chat() {
      return chat!
    },
    token: tokenMaker(options, tokens),
  }
}

function tokenMaker<Metadata extends object>(
  { authenticate }: TestServerOptions<Metadata>,
  tokens: NonNullable<HoldfastOptions['tokens']>,
): TestServer['token'] {
  return async (userId, { tenantId } = {}) => {
    if (authenticate || !('secret' in tokens)) {
      throw new OptionError(
        'token: this server has an "authenticate" or "jwksUrl" of its own. Make a token as it wants it.',
      )
    }
    return await new SignJWT(tenantId === undefined ? {} : { tenant: tenantId })
      .setProtectedHeader({ alg: 'HS256' })
      .setSubject(userId)
      .setIssuer(tokens.issuer ?? 'holdfast-testing')
      .setAudience(tokens.audience ?? 'holdfast-testing')
      .setExpirationTime('1h')
      .sign(new TextEncoder().encode(tokens.secret))
  }
}
