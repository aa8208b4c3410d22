/**
 * Who runs the child. Postgres refuses to run as root, and root is who many containers and machines run us as. So as
 * root the child is another user:
 *
 *   user       the owner of the data directory, if that is not root (so `sudo npm start` in somebody's checkout leaves
 *              files that this person can use afterwards), else `nobody`
 *   namespace  where that user cannot reach the directory (a 0700 home) or cannot become (a container's user namespace
 *              with one user): a user namespace in which our own user is called `nobody`. Its files stay ours. It comes
 *              second, because what runs there still has root's right to root's files
 *
 * What can be reached is tried, not computed: the account is taken in which `postgres --version` answers.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { lchown, lstat, readdir, stat } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { binariesMissing, EmbeddedError } from './embedded-error.ts'

export type Account =
  | { kind: 'self' }
  | { kind: 'user'; uid: number; gid: number }
  | { kind: 'namespace'; name: number }

type Ended = { code: number | null; output: string }

/** On Linux always this; macOS has its own, which `id` tells. */
const nobodyOfLinux = 65534

/** The account for the files at `path`, and the version of the binaries, as in `18.4`. */
export async function chooseAccount(path: string, binaries: string): Promise<{ account: Account; version: string }> {
  const postgres = join(binaries, 'bin', 'postgres')
  const owner = await stat(path)
  for (const account of await candidates(owner)) {
    const version = await versionAs(account, postgres)
    if (version !== undefined) return { account, version }
  }
  const own = await runAs({ kind: 'self' }, postgres, ['--version'])
  if (own.code !== 0) throw binariesMissing(firstLine(own.output))
  throw new EmbeddedError(
    `Postgres does not run as root, and no other user can reach ${path}: start as an ordinary user, or set ` +
      'HOLDFAST_DATA_DIR to a directory that everybody can enter, or set DATABASE_URL.',
  )
}

/** Who owns what the child writes. */
export function ownerOf(account: Account): { uid: number; gid: number } {
  if (account.kind === 'user') return account
  return { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 }
}

/** Gives a tree to the account, if it has another owner. The top comes last, so that a broken-off run starts over. */
export async function giveTo(account: Account, path: string): Promise<void> {
  const { uid, gid } = ownerOf(account)
  if (!isRoot() || (await lstat(path)).uid === asUnsigned(uid)) return
  await chownTree(path, asUnsigned(uid), asUnsigned(gid))
}

/** Spawns as the account, in a clean environment: no PG… variable of ours may steer the child. */
export function spawnAs(account: Account, file: string, args: string[], options: SpawnOptions): ChildProcess {
  const env = { PATH: process.env.PATH ?? '/usr/bin:/bin', TZ: 'UTC', LC_ALL: 'C' }
  const all: SpawnOptions = { cwd: '/', env, ...options }
  switch (account.kind) {
    case 'self':
      return spawn(file, args, all)
    case 'user':
      return spawn(file, args, { ...all, uid: account.uid | 0, gid: account.gid | 0 })
    case 'namespace':
      return spawn('unshare', ['--user', `--map-user=${account.name}`, '--', file, ...args], all)
  }
}

/** Runs to the end; never rejects: what could not be started has the code null, and the reason as its output. */
export async function runAs(account: Account, file: string, args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    let output = ''
    const child = startOrFail(() => spawnAs(account, file, args, { stdio: ['ignore', 'pipe', 'pipe'] }))
    if (child instanceof Error) return resolve({ code: null, output: child.message })
    child.stdout?.on('data', (part: Buffer) => (output += part.toString()))
    child.stderr?.on('data', (part: Buffer) => (output += part.toString()))
    child.on('error', (error) => resolve({ code: null, output: error.message }))
    child.on('close', (code) => resolve({ code, output }))
  })
}

/** Node throws some errors of `spawn` (EPERM and EACCES on some systems) and emits the others. */
function startOrFail(start: () => ChildProcess): ChildProcess | Error {
  try {
    return start()
  } catch (error) {
    return error as Error
  }
}

async function candidates(owner: { uid: number; gid: number }): Promise<Account[]> {
  if (!isRoot()) return hasName() ? [{ kind: 'self' }] : [{ kind: 'namespace', name: nobodyOfLinux }, { kind: 'self' }]
  const nobody = await readNobody()
  const user = owner.uid !== 0 && (await isKnown(owner.uid)) ? { uid: owner.uid, gid: owner.gid } : nobody
  return [
    { kind: 'user', ...user },
    { kind: 'namespace', name: nobody.uid },
  ]
}

async function versionAs(account: Account, postgres: string): Promise<string | undefined> {
  const { code, output } = await runAs(account, postgres, ['--version'])
  return code === 0 ? /\d+\.\d+/.exec(output)?.[0] : undefined
}

function isRoot(): boolean {
  return process.geteuid?.() === 0
}

/** initdb wants a user with a name, which an arbitrary uid of a container has not. */
function hasName(): boolean {
  try {
    userInfo()
    return true
  } catch {
    return false
  }
}

async function isKnown(uid: number): Promise<boolean> {
  return (await runAs({ kind: 'self' }, 'id', ['-un', String(uid)])).code === 0
}

async function readNobody(): Promise<{ uid: number; gid: number }> {
  const [uid, gid] = await Promise.all(['-u', '-g'].map((flag) => runAs({ kind: 'self' }, 'id', [flag, 'nobody'])))
  if (uid?.code !== 0 || gid?.code !== 0) return { uid: nobodyOfLinux, gid: nobodyOfLinux }
  return { uid: Number(uid.output), gid: Number(gid.output) }
}

async function chownTree(path: string, uid: number, gid: number): Promise<void> {
  const entries = await readdir(path, { withFileTypes: true })
  for (const entry of entries) {
    const inner = join(path, entry.name)
    if (entry.isDirectory()) await chownTree(inner, uid, gid)
    else await lchown(inner, uid, gid)
  }
  await lchown(path, uid, gid)
}

function asUnsigned(id: number): number {
  return id >>> 0
}

function firstLine(text: string): string {
  return text.trim().split('\n')[0] ?? ''
}
