/**
 * The connections of a process, each with its purpose, so that no work waits behind other work:
 *
 *   flush  1  chunks of all attempts, renewals
 *   turns  2  claims and outcomes, which nobody's command makes wait
 *   accept 2  what clients ask for: messages coming in, and commands on them. They wait for a session's lock, up to 2 s
 *   read   4  followers, snapshots, history (what is left of `poolMax`)
 *   files  2  contents of files, a few MB at a time; closed when they have had nothing to do for a while
 *   outbox 2  what can wait: it may wait for an app's own transaction, and nothing of a conversation for it; closed likewise
 *   listen 1  notifications, held by `listen`
 *   (one)     transactions: migrations at the start, a new epoch, a runner's look at statistics; closed when it has had
 *             nothing to do for a while
 *
 * A server that hangs is noticed by our own clock (`answerMs`): the connection is thrown away, because an answer that
 * comes later would be taken for the next statement's. What such a statement did is unknown, never "failed".
 */
import { Socket } from 'node:net'
import pg from 'pg'

export type Purpose = 'flush' | 'turns' | 'accept' | 'read' | 'files' | 'outbox'

/** A statement is prepared once per connection under its name; values are always parameters. */
export type Statement = { name: string; text: string }

export type Address = string | { host: string; port: number; user: string; database: string }

export type Database = {
  query<Row>(purpose: Purpose, statement: Statement, values: unknown[]): Promise<Row[]>
  /** Runs `work` on one connection between `begin` and `commit`. For migrations and rare reads, never a transition. */
  transaction<T>(work: (query: (text: string, values?: unknown[]) => Promise<pg.QueryResult>) => Promise<T>): Promise<T>
  /** Opens the listening connection. It ends once: `onEnd` says so, and the caller opens another. */
  listen(channel: string, on: { payload(text: string): void; end(): void }): Promise<Listener>
  /** Resolves when all connections are closed, or after `closeMs` if the server does not answer. */
  close(): Promise<void>
  /** Destroys every connection now, as the end of the process would. All that is or will be asked is `abandoned`. */
  abandon(): void
}
export type Listener = { notify(payloads: string[]): Promise<void>; close(): Promise<void> }

/**
 * Why a statement did not answer. `unknown`: it may or may not have been done, so ask again with the same ids. `refused`
 * and `conflict`: it was not done and may be asked again. `abandoned`: it may have been done, and this process never asks
 * again.
 */
export class DatabaseError extends Error {
  override readonly name = 'DatabaseError'
  readonly kind: 'refused' | 'conflict' | 'unknown' | 'bad_data' | 'bug' | 'abandoned'
  readonly code: string | undefined
  constructor(kind: DatabaseError['kind'], cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause })
    this.kind = kind
    this.code = sqlState(cause)
  }
}

const answerMs = 6_000
const connectMs = 5_000
const closeMs = 3_000
const coldIdleMs = 10_000
// Migrations may build indexes on large tables.
const transactionMs = 600_000
const common =
  '-c lock_timeout=2000 -c statement_timeout=10000 -c idle_in_transaction_session_timeout=2000 -c synchronous_commit=on -c default_transaction_isolation=read\\ committed'
// A plan made on the empty tables of a first start would be kept: accept was 2.8 times slower until the first vacuum.
/** Settings of the connections that run transitions, as libpq's `options`. */
export const hotSettings = `${common} -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off`

export function openDatabase(
  address: Address,
  options: { poolMax: number; onError: (error: Error) => void },
): Database {
  const sockets = new Set<Socket>()
  let abandoned = false
  const config: pg.PoolConfig = {
    ...(typeof address === 'string' ? { connectionString: address } : address),
    application_name: 'holdfast',
    connectionTimeoutMillis: connectMs,
    keepAlive: true,
    // As the driver makes it itself, and known to us.
    stream: () => {
      const socket = new Socket()
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
      // For who waited for a connection when all of them were destroyed.
      if (abandoned) process.nextTick(() => socket.destroy())
      return socket
    },
    types: {
      getTypeParser: (oid: number) => (oid === 20 ? Number : pg.types.getTypeParser(oid)),
    } as pg.CustomTypesConfig,
  }
  let closed: Promise<void> | undefined
  // The driver's `end` resolves before its sockets have closed: an embedded server may end them first.
  const onError = (error: Error) => {
    if (!closed && !abandoned) options.onError(error)
  }
  const pool = (max: number, settings: string, idleTimeoutMillis = 0) => {
    const made = new pg.Pool({ ...config, max, options: settings, idleTimeoutMillis })
    made.on('error', onError)
    // From the first moment: what ends a connection may come in the packet that opens it.
    made.on('connect', (client) => client.on('error', ignoreEnd))
    return made
  }
  const pools: Record<Purpose, pg.Pool> = {
    flush: pool(1, hotSettings),
    turns: pool(2, hotSettings),
    accept: pool(2, hotSettings),
    read: pool(Math.max(1, options.poolMax - 5), hotSettings),
    files: pool(2, hotSettings, coldIdleMs),
    outbox: pool(2, hotSettings, coldIdleMs),
  }
  const cold = pool(1, common, coldIdleMs)

  async function run<T>(from: pg.Pool, work: (client: pg.PoolClient) => Promise<T>, withinMs = answerMs): Promise<T> {
    refuseAbandoned()
    const client = await from.connect().catch((error: unknown) => {
      throw new DatabaseError(abandoned ? 'abandoned' : 'refused', error)
    })
    let failed: unknown
    try {
      return await answered(work(client), withinMs)
    } catch (error) {
      failed = error
      throw abandoned ? new DatabaseError('abandoned', error) : error
    } finally {
      client.release(failed instanceof DatabaseError && isSpoilt(failed))
    }
  }

  function refuseAbandoned(): void {
    if (abandoned) throw new DatabaseError('abandoned', new Error('this process has given the database up'))
  }

  return {
    query: (purpose, statement, values) =>
      run(pools[purpose], async (client) => (await asked(client.query({ ...statement, values }))).rows),
    transaction: (work) =>
      run(
        cold,
        async (client) => {
          await asked(client.query('begin'))
          try {
            const result = await work((text, values) => asked(client.query(text, values)))
            await asked(client.query('commit'))
            return result
          } catch (error) {
            // Where the connection broke there is nothing to roll back; the first error is the one that says why.
            await client.query('rollback').catch(() => undefined)
            throw error
          }
        },
        transactionMs,
      ),
    async listen(channel, on) {
      refuseAbandoned()
      return await openListener({ ...config, options: common } as pg.ClientConfig, channel, on)
    },
    close() {
      closed ??= within(closeMs, Promise.all([...Object.values(pools), cold].map((each) => each.end())))
      return closed
    },
    abandon() {
      abandoned = true
      for (const socket of sockets) socket.destroy()
    },
  }
}

/**
 * The pool listens only while a connection is idle, and an error event without a listener ends the process. The
 * statement that was under way is told by itself.
 */
function ignoreEnd(): void {
  // Nothing, on purpose.
}

/** The connection is not used again: nobody knows what would come from it, or it cannot do what is asked of it. */
function isSpoilt({ kind, code }: DatabaseError): boolean {
  return kind === 'unknown' || kind === 'refused' || (code !== undefined && stalePlan.has(code))
}

/** Resolves when `work` has, or after `ms` in any case: a server that hangs must not keep a process from ending. */
function within(ms: number, work: Promise<unknown>): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    work
      .catch(() => undefined)
      .finally(() => {
        clearTimeout(timer)
        resolve()
      })
  })
}

async function openListener(
  config: pg.ClientConfig,
  channel: string,
  on: { payload(text: string): void; end(): void },
): Promise<Listener> {
  const client = new pg.Client(config)
  // Until it listens the caller hears of a failure by the rejection, and by that alone.
  let state: 'opening' | 'open' | 'ended' = 'opening'
  const end = () => {
    const wasOpen = state === 'open'
    state = 'ended'
    // Also where it hangs: what was asked is under way, so this does not wait for the server.
    client.end().catch(() => undefined)
    if (wasOpen) on.end()
  }
  client.on('error', end)
  client.on('end', end)
  client.on('notification', (message) => on.payload(message.payload ?? ''))
  try {
    await client.connect()
    await answered(client.query(`listen ${channel}`))
  } catch (error) {
    end()
    throw new DatabaseError('refused', error)
  }
  state = 'open'
  const send = (payloads: string[]) =>
    answered(
      client.query({
        name: 'notify',
        text: `select pg_notify('${channel}', p) from unnest($1::text[]) p`,
        values: [payloads],
      }),
    )
  // The driver takes one query at a time on a connection: one that is still under way is waited for.
  let before: Promise<unknown> = Promise.resolve()
  return {
    async notify(payloads) {
      const sent = before.then(() => send(payloads))
      before = sent.catch(() => undefined)
      await sent.catch((error: unknown) => {
        end()
        throw error
      })
    },
    async close() {
      state = 'ended'
      await within(closeMs, client.end())
    },
  }
}

/** Says what kind of failure it was. */
function asked<T>(work: Promise<T>): Promise<T> {
  return work.catch((error: unknown) => {
    throw new DatabaseError(kindOf(error), error)
  })
}

function answered<T>(work: Promise<T>, withinMs = answerMs): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new DatabaseError('unknown', new Error(`no answer from the database within ${withinMs} ms`))),
      withinMs,
    )
    work.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}

function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined
}

/**
 * A prepared statement whose plan does not fit any more (a migration ran beside us: 0A000) or that the server does not
 * know (behind a pooler: 26000). It was not run; a new connection prepares it again.
 */
const stalePlan = new Set(['0A000', '26000'])

/** By SQLSTATE (appendix A of the PostgreSQL manual). No SQLSTATE: the connection broke, so nobody knows. */
function kindOf(error: unknown): DatabaseError['kind'] {
  const code = sqlState(error)
  if (code === undefined) return 'unknown'
  if (code === '57014' || code === '55P03' || stalePlan.has(code) || code.startsWith('40')) return 'conflict'
  if (code.startsWith('53') || code === '57P03' || code.startsWith('28') || code === '25006') return 'refused'
  if (code.startsWith('22') || code.startsWith('23')) return 'bad_data'
  if (code.startsWith('57') || code.startsWith('08') || code.startsWith('58') || code.startsWith('XX')) return 'unknown'
  return 'bug'
}
