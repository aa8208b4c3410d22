/** One running Holdfast: the layers wired together, started in order and stopped in the reverse order. */
import { randomUUID } from 'node:crypto'
import { retryPolicy } from './core/backoff.ts'
import { limits } from './core/limits.ts'
import type { HttpParts } from './http/route.ts'
import { createSockets } from './http/socket.ts'
import { createWaiting } from './http/wait.ts'
import { createAppender } from './log/append.ts'
import { createHub } from './log/hub.ts'
import { createLists } from './log/lists.ts'
import { createPublishing } from './log/publishing.ts'
import { createSeal, type Seal } from './log/seal.ts'
import { createWakeups } from './log/wakeups.ts'
import { OptionError } from './option-checks.ts'
import type { AppFunctions, Resolved } from './options.ts'
import { createOutbox } from './outbox/outbox.ts'
import { createPresence } from './people/presence.ts'
import { createTyping } from './people/typing.ts'
import { createPusher, type Pusher } from './push/pusher.ts'
import { createRunner } from './runner/runner.ts'
import { createSweeper } from './runner/sweeper.ts'
import { createAcceptor } from './store/accept.ts'
import { type Address, type Database, openDatabase } from './store/database.ts'
import { readEpoch } from './store/epoch.ts'
import { migrate, schemaState } from './store/migrations.ts'
import { webhookSeen } from './store/outbox.ts'
import { publisherSeen } from './store/publishers.ts'
import { sayPushing } from './store/pushes.ts'
import { readWakeupKey } from './store/wakeup-key.ts'
import { createKeeper } from './transfer/keeper.ts'
import { spendingsOf } from './usage/budgets.ts'
import { createPriceOf } from './usage/ledger-prices.ts'
import { createLimitsHere } from './usage/limits-here.ts'

export type Engine = {
  parts: HttpParts
  /** The database answers. */
  isReady(): Promise<boolean>
  /** Tells followers to come back elsewhere and takes no more messages. */
  drain(): void
  stop(): Promise<void>
  /** Ends as if the process had been killed; see abandon.ts. */
  abandon(): Promise<void>
}

const crashesMax = 3
const sweepEveryMs = 5_000
/** What a process that died has begun is over within 5 s. */
const keepEveryMs = 2_000
const reconnectAfterMs = 250

/**
 * The functions of `app` are looked up each time, so that a reloaded module's are used. `onDatabaseLost`: the embedded
 * database is given up, and nothing of this engine works any more; it still has to be stopped.
 */
export async function startEngine(
  options: Resolved,
  app: () => AppFunctions,
  onDatabaseLost: (error: Error) => void,
): Promise<Engine> {
  const { log } = options
  const stops: (() => Promise<void> | void)[] = []
  const stop = async () => {
    for (const each of stops.splice(0).reverse()) await each()
  }
  try {
    const address = await databaseAddress(options, stops, onDatabaseLost)
    const database = openDatabase(address, {
      poolMax: options.poolMax,
      onError: (error) => log('database connection lost', { error: error.message }),
    })
    stops.push(() => database.close())
    await bringSchema(options, database)
    const epoch = await epochOf(database)
    const { push, pushGraceMs } = options
    if (push) await sayPushing(database, { graceMs: pushGraceMs, asksApp: push.devices !== undefined })
    // Before anything is written that is to be published.
    if (options.ably && options.roles.includes('runner')) await publisherSeen(database, options.ably.name)
    if (options.roles.includes('runner')) {
      for (const { name, events } of options.webhooks) await webhookSeen(database, name, events)
    }
    const seal = createSeal(await readWakeupKey(database), randomUUID())
    return wire(options, app, database, epoch, seal, stops, stop)
  } catch (error) {
    await stop()
    throw error
  }
}

function epochOf(database: Database): Promise<string> {
  return readEpoch(database, randomUUID().replaceAll('-', '').slice(0, 8))
}

async function databaseAddress(
  options: Resolved,
  stops: (() => Promise<void> | void)[],
  onLost: (error: Error) => void,
): Promise<Address> {
  if (options.database !== undefined) return options.database
  // Loaded only where it is used: with a database of one's own, nothing of it is.
  const { startEmbedded } = await import('./store/embedded.ts')
  const embedded = await startEmbedded({ dataDir: options.dataDir, log: (line) => options.log(line), onLost })
  stops.push(() => embedded.stop())
  return embedded.connection
}

async function bringSchema({ migrate: rule, log }: Resolved, database: Database): Promise<void> {
  if (rule === 'auto') {
    const applied = await migrate(database)
    if (applied.length > 0) log('schema migrated', { applied })
    return
  }
  const { state, pending } = await schemaState(database)
  if (state !== 'behind') return
  throw new OptionError(
    `The database's schema is ${pending.length} migration${pending.length === 1 ? '' : 's'} behind this version. Run "holdfast migrate" (or see them first with "holdfast migrate --print").`,
  )
}

function wire(
  options: Resolved,
  app: () => AppFunctions,
  database: Database,
  epoch: string,
  seal: Seal,
  stops: (() => Promise<void> | void)[],
  stop: () => Promise<void>,
): Engine {
  const { log, pollMs, leaseMs } = options
  let { drainMs } = options
  let draining = false
  let abandoned = false
  let loseAttempts: (() => void) | undefined
  const wakeups = createWakeups({
    database,
    seal,
    log,
    enabled: options.wakeups === 'on',
  })
  stops.push(() => wakeups.stop())

  const hub = createHub({ database, epoch, readEpoch: () => epochOf(database), pollMs, log })
  wakeups.onNote(hub.hear)
  wakeups.onDeaf(hub.deaf)
  hub.start()
  stops.push(() => hub.stop())

  const lists = createLists(database)
  wakeups.onNote(lists.hear)
  stops.push(() => lists.stop())

  const sockets = createSockets()
  stops.push(() => sockets.stop())

  const typing = createTyping(wakeups.tell)
  stops.push(() => typing.stop())

  const presence = createPresence({ database, processId: seal.processId, tell: wakeups.tell, tellHere: hub.hear, log })
  wakeups.onNote(presence.hear)
  stops.push(() => presence.stop())
  const { ably } = options
  if (ably && options.roles.includes('runner')) {
    const publishing = createPublishing({
      database,
      hub,
      publisher: ably,
      holder: seal.processId,
      leaseMs,
      pollMs,
      log,
    })
    wakeups.onNote(publishing.hear)
    publishing.start()
    // After the runner: what it ends last is published, too.
    stops.push(() => publishing.stop(abandoned ? 0 : undefined))
  }

  let keepAlive: (() => void) | undefined
  if (options.roles.includes('runner')) {
    const onRefused = ({ turnId, attempt }: { turnId: string; attempt: number }, write: string) =>
      log('stale write refused', { turnId, attempt, write })
    const appender = createAppender({
      database,
      leaseMs,
      flushMs: options.flushMs,
      onStored: (stored) => {
        for (const { target, run } of stored) {
          wakeups.tell({ tenantId: target.tenantId, sessionId: target.sessionId, events: [], runs: [run], due: false })
        }
      },
      onRefused,
      onDatabaseError: (error) => {
        log('flush failed, it is sent again', { error: String(error) })
        runner.databaseFailed()
      },
    })
    const priceOf = createPriceOf(() => app().prices, log)
    const runner = createRunner({
      ...options,
      priceOf,
      database,
      appender,
      wakeups,
      reply: (context) => app().reply(context),
      onReply: () => app().onReply,
      onUncertain: () => app().onUncertain,
      title: () => app().title,
      budgetsOf: async ({ tenantId, userId, sessionId, turnId, plan }) => {
        const { budgets } = await app().limits({ tenantId, userId, plan: plan ?? undefined })
        return spendingsOf(budgets, { tenantId, userId, sessionId, turnId })
      },
      replyBytesMax: limits.replyBytesMax,
      crashesMax,
      onRefused,
      retry: { ...retryPolicy, attemptsMax: options.attemptsMax },
      random: Math.random,
    })
    const sweeper = createSweeper({
      ...{ database, wakeups, everyMs: sweepEveryMs },
      ...{ roundsMax: options.roundsMax, priceOf, log },
    })
    const outbox = createOutbox({
      ...{ database, webhooks: options.webhooks, leaseMs, pollMs, log },
      jobs: () => app().jobs,
      random: Math.random,
    })
    wakeups.onOutbox(outbox.look)
    wakeups.onNote((note) => {
      // Of those that were too large to ride along nobody knows the types.
      outbox.hear(note === null || note.audiences ? null : note.events.map(({ type }) => type))
    })
    outbox.start()
    const pusher = options.push && createPusherOf(options, app, database)
    pusher?.start()
    // After the runner: no reply waits for a slow receiver or service when this process ends.
    stops.push(async () => {
      const withinMs = abandoned ? 0 : undefined
      await Promise.all([outbox.stop(withinMs), pusher?.stop(withinMs)])
    })
    stops.push(() => appender.stop())
    stops.push(() => sweeper.stop())
    stops.push(() => runner.stop(drainMs))
    loseAttempts = () => appender.stop()
    wakeups.onNote(runner.hear)
    wakeups.onDeaf(runner.deaf)
    runner.start()
    sweeper.start()
    const keeper = createKeeper({ database, wakeups, everyMs: keepEveryMs, retention: options.retention, log })
    stops.push(() => keeper.stop())
    keeper.start()
    const { waitUntil } = options
    if (waitUntil) keepAlive = () => waitUntil(runner.whenIdle())
  }
  // Not waited for: without wakeups everything still happens, by polling.
  wakeups.start().catch((error: unknown) => log('wakeups do not work', { error: String(error) }))

  return {
    parts: {
      database,
      basePath: options.basePath,
      acceptor: createAcceptor(database),
      hub,
      lists,
      waiting: createWaiting(hub, database),
      wakeups,
      sockets,
      presence,
      typing,
      push: () => app().push ?? {},
      ably,
      expiresMs: options.expiresMs,
      limitsOf: (whose) => app().limits(whose),
      limitsHere: createLimitsHere(),
      lane: (ask) => app().lane(ask),
      events: () => app().events,
      jobs: () => app().jobs,
      roundsMax: options.roundsMax,
      isDraining: () => draining,
      hasNoRunner: options.hasNoRunner,
      keepAlive,
    },
    isReady: () =>
      draining
        ? Promise.resolve(false)
        : database.query('read', { name: 'ready', text: 'select 1' }, []).then(
            () => true,
            () => false,
          ),
    drain() {
      draining = true
      // First: what is told on a socket ends with it, and is not said to have broken off.
      sockets.drain(reconnectAfterMs)
      hub.drain(reconnectAfterMs)
      lists.drain(reconnectAfterMs)
    },
    stop,
    abandon() {
      abandoned = true
      database.abandon()
      // Attempts that have lost their turn end without a word to the database.
      loseAttempts?.()
      drainMs = 0
      return stop()
    },
  }
}

function createPusherOf({ push, pollMs, log }: Resolved, app: () => AppFunctions, database: Database): Pusher {
  return createPusher({
    database,
    pollMs,
    receiptsAfterMs: push?.receiptsAfterMs ?? 0,
    push: () => app().push ?? {},
    log,
    random: Math.random,
  })
}
