/**
 * What surrounds a server under test, whatever kind of server it is: a database of its own, a port that stays, and what
 * befalls both.
 *
 *   client ── front (the port that stays) ── the server's own port ── engine ── database of its own
 *               cut, refuse                    kill, restart                      until, outcome
 */
import { OptionError } from '../option-checks.ts'
import { makeScratch, type Scratch } from '../store/scratch.ts'
import { type Front, openFront } from './front.ts'
import { type Observer, observe } from './observed.ts'
import { sharePostgres } from './postgres.ts'

export type Surrounded = Observer & {
  /** The same while the server is killed and restarted. */
  readonly url: string
  /** A connection URL of its database. */
  readonly database: string
  /** The server's last 1,000 lines for operators. */
  readonly lines: readonly string[]
  /**
   * Ends the server by `kill -9`, or as near to it as its kind comes. Resolves when nothing of it is left. Does nothing where
   * none runs.
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

/** One kind of server. Nothing of it runs before `start`, after `kill`, and after `stop`. */
export type Kind = {
  /** Resolves to the port of 127.0.0.1 where it listens. */
  start(databaseUrl: string): Promise<number>
  kill(): Promise<void>
  stop(): Promise<void>
}

/** What was opened, to be ended in the reverse order. */
type End = () => Promise<void> | void

const linesMax = 1_000
/** Of them in the error of who waits in vain. */
const linesShown = 10

/** Resolves when the server listens. It holds the process open until it is closed. */
export async function surround(
  database: string | undefined,
  kindOf: (say: (line: string) => void) => Kind,
): Promise<Surrounded> {
  const ends: End[] = []
  try {
    const scratch = await openScratch(database ?? process.env.DATABASE_URL, ends)
    const front = await openFront()
    ends.push(() => front.close())
    const surrounded = between(scratch, front, kindOf, ends)
    await surrounded.restart()
    return surrounded
  } catch (error) {
    // The first error is the one that says why.
    await endAll(ends).catch(() => undefined)
    throw error
  }
}

/** All of them, also behind one that fails. */
async function endAll(ends: End[]): Promise<void> {
  const next = ends.pop()
  if (next === undefined) return
  try {
    await next()
  } finally {
    await endAll(ends)
  }
}

async function openScratch(url: string | undefined, ends: End[]): Promise<Scratch> {
  const server = url === undefined ? await sharePostgres() : { url, release: () => undefined }
  ends.push(server.release)
  const scratch = await makeScratch(server.url)
  ends.push(scratch.drop)
  return scratch
}

function between(scratch: Scratch, front: Front, kindOf: (say: (line: string) => void) => Kind, ends: End[]) {
  const lines: string[] = []
  const kind = kindOf((line) => {
    lines.push(line)
    if (lines.length > linesMax) lines.shift()
  })
  const closing = new AbortController()
  let runs = false
  let closed: Promise<void> | undefined

  async function kill(): Promise<void> {
    if (!runs) return
    runs = false
    front.target(null)
    front.cut()
    await kind.kill()
  }

  async function stop(): Promise<void> {
    if (!runs) return
    await kind.stop()
    runs = false
    front.target(null)
    front.cut()
  }

  ends.push(kill)
  const surrounded: Surrounded = {
    ...observe(scratch.database, closing.signal, () => asideOf(runs, lines)),
    url: `http://127.0.0.1:${front.port}`,
    database: scratch.url,
    lines,
    kill,
    async restart() {
      await stop()
      if (closing.signal.aborted) throw new OptionError('restart: this test server was closed. Make another one.')
      runs = true
      front.target(await kind.start(scratch.url))
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
  return surrounded
}

function asideOf(runs: boolean, lines: readonly string[]): string {
  const state = runs ? '' : '\nThe server is killed: restart() starts it again.'
  const last = lines.slice(-linesShown)
  return last.length === 0 ? state : `${state}\nThe server's last lines:\n  ${last.join('\n  ')}`
}
