/** Makes a database cluster, and starts a server on it. Nothing here waits for the server or knows who owns it. */
import type { ChildProcess } from 'node:child_process'
import { closeSync, fchownSync, openSync } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { type Account, giveTo, ownerOf, runAs, spawnAs } from './embedded-account.ts'
import { draftName, exists, isAbandoned, removeTree, renameUnlessThere } from './embedded-draft.ts'
import { EmbeddedError } from './embedded-error.ts'
import { socketPort } from './embedded-socket.ts'

export const embeddedUser = 'holdfast'

const logBytesMax = 4 * 1024 * 1024

/** A server that we have spawned. `ended` is undefined while it runs, else says how it ended. */
export type Child = { pid: number | undefined; ended: string | undefined }

/** The database cluster at `data` is made, unless it is there. True: it is new. */
export async function ensureCluster(data: string, binaries: string, account: Account): Promise<boolean> {
  await removeDrafts(data)
  if (await exists(data)) return false
  const draft = draftName(data)
  await mkdir(draft, { mode: 0o700 })
  await giveTo(account, draft)
  await initdb(draft, binaries, account)
  const isNew = await renameUnlessThere(draft, data)
  // Without this a power cut may undo the rename, and with it all that was acknowledged since.
  await syncDirectory(dirname(data))
  return isNew
}

/** Refuses data that the binaries cannot read. `version` is theirs, as in `18.4`. */
export async function checkMajor(data: string, version: string): Promise<void> {
  if (!(await exists(data))) return
  const found = (await readPgVersion(data)).trim()
  const wanted = version.split('.')[0]
  if (found === wanted) return
  throw new EmbeddedError(
    `The data in ${data} is of PostgreSQL ${found}, but this version of Holdfast brings PostgreSQL ${wanted}: carry it ` +
      `over with pg_dump and pg_restore of PostgreSQL ${found}, or move the directory away to begin with an empty one.`,
  )
}

async function readPgVersion(data: string): Promise<string> {
  try {
    return await readFile(join(data, 'PG_VERSION'), 'utf8')
  } catch (error) {
    const denied = (error as NodeJS.ErrnoException).code === 'EACCES'
    throw new EmbeddedError(
      denied
        ? `The data in ${data} belongs to another user: start as that user, or give the directory to yourself (chown -R).`
        : `${data} is not a database of PostgreSQL (it has no PG_VERSION): move it away, or set HOLDFAST_DATA_DIR.`,
    )
  }
}

/** What an initdb that was killed has left behind. */
async function removeDrafts(data: string): Promise<void> {
  const own = basename(draftName(data)).replace(/\d+$/, '')
  const names = (await readdir(dirname(data))).filter((name) => name.startsWith(own) && isAbandoned(name))
  await Promise.all(names.map((name) => removeTree(join(dirname(data), name))))
}

async function initdb(data: string, binaries: string, account: Account): Promise<void> {
  // The log of 500 replies at once fills 16 MB in 4 s, and each new file of it is zeroed and synced: a pause of 20 to
  // 60 ms for all. Files of 1 MB cost the same in small pieces.
  const wal = '--wal-segsize=1'
  const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']
  // Who may connect is decided by the 0700 directory of the socket; there is no other way in.
  const args = ['-D', data, '-U', embeddedUser, '--auth=trust', '--no-instructions', wal, ...locale]
  const { code, output } = await runAs(account, join(binaries, 'bin', 'initdb'), args)
  if (code === 0) return
  await rm(data, { recursive: true, force: true })
  throw new EmbeddedError(
    `The embedded Postgres could not make its database in ${dirname(data)} (${lastLine(output)}): see whether the ` +
      'disk is full or the directory read-only, set HOLDFAST_DATA_DIR to another, or set DATABASE_URL.',
  )
}

/** How `flock` ends where the data are locked. */
export const lockedElsewhere = 'code 99'

/** `stalePidFile`: that `postmaster.pid` is a dead server's, but its pid belongs to somebody else now. */
export type Launch = { data: string; binaries: string; socketDir: string; account: Account; stalePidFile: boolean }

/**
 * Spawns the server in a session of its own, so that neither Ctrl-C nor our end reaches it, and with no pipe to us.
 *
 * Where `flock` exists, the server inherits a lock on its data directory. Postgres' own interlocks, a pid and a segment
 * of shared memory, are blind to a second container on the same volume; this one holds for all of one kernel. A stale
 * pid file is removed under it: a living server that misses its pid file ends itself.
 */
export async function spawnServer({ data, binaries, socketDir, account, stalePidFile }: Launch): Promise<Child> {
  const log = openSync(await rotateLog(data), 'a', 0o600)
  try {
    const { uid, gid } = ownerOf(account)
    fchownSync(log, uid >>> 0, gid >>> 0)
    const settled = settings(socketDir).flatMap((setting) => ['-c', setting])
    const postgres = [join(binaries, 'bin', 'postgres'), '-D', data, ...settled]
    const cleared = ['sh', '-c', 'rm -f "$1" && shift && exec "$@"', 'sh', join(data, 'postmaster.pid'), ...postgres]
    const lock = ['flock', '--nonblock', '--conflict-exit-code', '99', '--no-fork', data]
    const [file, ...args] = [...((await hasFlock()) ? lock : []), ...(stalePidFile ? cleared : postgres)]
    return watch(spawnAs(account, file!, args, { detached: true, stdio: ['ignore', log, log] }))
  } finally {
    closeSync(log)
  }
}

/** It comes with util-linux; macOS and busybox have none, or one without `--no-fork`. */
async function hasFlock(): Promise<boolean> {
  const { code, output } = await runAs({ kind: 'self' }, 'flock', ['--help'])
  return code === 0 && output.includes('--no-fork')
}

function watch(spawned: ChildProcess): Child {
  const child: Child = { pid: spawned.pid, ended: undefined }
  spawned.on('error', (error) => (child.ended = error.message))
  spawned.on('exit', (code, signal) => (child.ended = signal ?? `code ${code}`))
  spawned.unref()
  return child
}

/**
 * The log gets no statement and no row: errors go to the client that made them, and what reaches the log (from level
 * LOG up) is terse, because a DETAIL would quote what users wrote.
 */
function settings(socketDir: string): string[] {
  return [
    'listen_addresses=',
    `unix_socket_directories=${socketDir}`,
    'unix_socket_permissions=0700',
    `port=${socketPort}`,
    'max_connections=100',
    'shared_buffers=128MB',
    'fsync=on',
    'full_page_writes=on',
    'synchronous_commit=on',
    'jit=off',
    'logging_collector=off',
    'log_min_messages=log',
    'log_min_error_statement=panic',
    'log_error_verbosity=terse',
    'log_checkpoints=off',
  ]
}

export function logOf(data: string): string {
  return join(dirname(data), 'postgres.log')
}

/** Bounded by what one run writes: a log that has grown becomes the one old log. */
async function rotateLog(data: string): Promise<string> {
  const path = logOf(data)
  const size = await stat(path).then(
    (found) => found.size,
    () => 0,
  )
  if (size > logBytesMax) await rename(path, `${path}.1`)
  return path
}

/** Why the server ended, in its own words, for a message. */
export async function lastComplaint(data: string): Promise<string> {
  const text = await readFile(logOf(data), 'utf8').catch(() => '')
  return text.split('\n').findLast((line) => /FATAL: |PANIC: /.test(line)) ?? lastLine(text)
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? ''
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r')
  await handle.sync().finally(() => handle.close())
}
