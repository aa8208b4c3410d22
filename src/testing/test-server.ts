/**
 * A real Holdfast for an app's own tests: a real database, a real port, and what befalls servers on demand.
 *
 *   client ── front (the port that stays) ── the server's own port ── engine ── database of its own
 *               cut, refuse                    kill, restart
 */
import { randomBytes } from 'node:crypto'
import { SignJWT } from 'jose'
import { type Abandonable, abandon } from '../abandon.ts'
import type { JsonObject } from '../core/json.ts'
import { createHoldfast, type Holdfast } from '../index.ts'
import { type HoldfastOptions, OptionError } from '../options.ts'
import { makeScratch, type Scratch } from '../store/scratch.ts'
import { type Front, openFront } from './front.ts'
import { type Observer, observe } from './observed.ts'
import { sharePostgres } from './postgres.ts'

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

export type TestServer<Metadata extends object = JsonObject> = Observer & {
  /** The same while it is killed and restarted. */
  readonly url: string
  /** A connection URL of its database. */
  readonly database: string
  /** The Holdfast that runs now, or ran last: another one after each `restart`. */
  readonly chat: Holdfast<Metadata>
  /** The server's last 1,000 lines for operators, with their details as JSON. */
  readonly lines: readonly string[]
  /** A bearer token of a user. Rejects with an `authenticate` or JWKS of your own, which make their own. */
  token(userId: string, ask?: { tenantId?: string }): Promise<string>
  /**
   * Ends the server as `kill -9` would, as far as clients and database can tell: its connections are destroyed at once, and
   * nothing is handed over. Your `reply` is in your own process, so its code is not ended: its signal is aborted, and nothing
   * that it says is heard. Resolves when nothing of the server is left. Does nothing where none runs.
   */
  kill(): Promise<void>
  /** Starts a server on the same port and database. One that runs is closed before, as a deploy does: it drains. */
  restart(): Promise<void>
  /** Cuts every connection of clients; with `afterBytes`, when so many more have been sent to them. The server goes on. */
  cut(ask?: { afterBytes?: number }): void
  /** Cuts every connection and lets none in until `allow`: clients are offline. The server goes on. */
  refuse(): void
  allow(): void
  /** Ends the server, drops its database, and frees the port. Idempotent. */
  close(): Promise<void>
}

const linesMax = 1_000
/** Of them in the error of who waits in vain. */
const linesShown = 10

/** Starts one. Resolves when it listens. It holds the process open until it is closed. */
export async function testServer<Metadata extends object = JsonObject>(
  options: TestServerOptions<Metadata>,
): Promise<TestServer<Metadata>> {
  const ends: End[] = []
  try {
    const scratch = await openScratch(options.database ?? process.env.DATABASE_URL, ends)
    const front = await openFront()
    ends.push(() => front.close())
    const server = makeServer(options, scratch, front, ends)
    await server.restart()
    return server
  } catch (error) {
    await endAll(ends)
    throw error
  }
}

/** What was opened, to be ended in the reverse order. */
type End = () => Promise<void> | void

async function endAll(ends: End[]): Promise<void> {
  for (const each of ends.splice(0).reverse()) await each()
}

async function openScratch(url: string | undefined, ends: End[]): Promise<Scratch> {
  const server = url === undefined ? await sharePostgres() : { url, release: () => undefined }
  ends.push(server.release)
  const scratch = await makeScratch(server.url)
  ends.push(scratch.drop)
  return scratch
}

function makeServer<Metadata extends object>(
  options: TestServerOptions<Metadata>,
  scratch: Scratch,
  front: Front,
  ends: End[],
): TestServer<Metadata> {
  const tokens = options.tokens ?? { secret: randomBytes(32).toString('hex') }
  const lines: string[] = []
  const closing = new AbortController()
  let chat: Holdfast<Metadata>
  let runs = false
  let closed: Promise<void> | undefined

  async function start(): Promise<void> {
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
      limits: { sendsPerMinute: 0, ...options.limits },
      database: scratch.url,
      log(line, detail = {}) {
        // The dead say nothing.
        if (begun !== chat || !runs) return
        lines.push(`${line} ${JSON.stringify(detail)}`)
        if (lines.length > linesMax) lines.shift()
        options.log?.(line, detail)
      },
    })
    chat = begun
    runs = true
    const { url } = await begun.listen(0)
    front.target(Number(new URL(url).port))
  }

  async function kill(): Promise<void> {
    if (!runs) return
    runs = false
    front.target(null)
    front.cut()
    await (chat as Holdfast<Metadata> & Abandonable)[abandon]()
  }

  async function stop(): Promise<void> {
    if (!runs) return
    await chat.close()
    runs = false
    front.target(null)
    front.cut()
  }

  ends.push(kill)
  return {
    ...observe(scratch.database, closing.signal, () => asideOf(runs, lines)),
    url: `http://127.0.0.1:${front.port}`,
    database: scratch.url,
    get chat() {
      return chat
    },
    lines,
    async token(userId, { tenantId } = {}) {
      if (options.authenticate || !('secret' in tokens)) {
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
    },
    kill,
    async restart() {
      if (closing.signal.aborted) throw new OptionError('restart: this test server was closed. Make another one.')
      await stop()
      await start()
    },
    cut({ afterBytes } = {}) {
      if (afterBytes === undefined) front.cut()
      else front.cutAfter(afterBytes)
    },
    refuse() {
      front.refuse(true)
      front.cut()
    },
    allow: () => front.refuse(false),
    close() {
      closing.abort()
      closed ??= endAll(ends)
      return closed
    },
  }
}

function asideOf(runs: boolean, lines: readonly string[]): string {
  const state = runs ? '' : '\nThe server is killed: restart() starts it again.'
  const last = lines.slice(-linesShown)
  return last.length === 0 ? state : `${state}\nThe server's last lines:\n  ${last.join('\n  ')}`
}
