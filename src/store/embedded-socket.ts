/**
 * Where the socket lies: a short directory under the system's temporary one, named after the data directory, because
 * the path of a Unix socket holds 107 bytes (103 on macOS) and a checkout may lie deeper. Everybody may write there,
 * so a directory is used only if it is ours alone: otherwise another user could wait for us with a server of his own.
 */
import { createHash } from 'node:crypto'
import { lchown, lstat, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Account, ownerOf } from './embedded-account.ts'

/** Every embedded server has this port: it is only a part of the socket's name. */
export const socketPort = 5432

const socketPathMax = 103

/** The same for every process that asks, as long as they share the temporary directory. */
export function socketDirOf(data: string): string {
  const name = `holdfast-${createHash('sha256').update(data).digest('hex').slice(0, 16)}`
  const usual = join(tmpdir(), name)
  return join(usual, `.s.PGSQL.${socketPort}`).length <= socketPathMax ? usual : join('/tmp', name)
}

/**
 * Makes the directory ready for a server that is about to start, and returns its path: the one of the server before,
 * if it still is ours, because connection pools know its address.
 */
export async function makeSocketDir(data: string, account: Account, before: string | undefined): Promise<string> {
  const dir = before !== undefined && (await isOurs(before, data)) ? before : await makeUsual(data)
  // A lock file of a dead server blocks the next one as soon as its pid is somebody else's.
  const left = (await readdir(dir)).filter((name) => name.startsWith('.s.PGSQL.'))
  await Promise.all(left.map((name) => rm(join(dir, name), { force: true })))
  const { uid, gid } = ownerOf(account)
  if ((await lstat(dir)).uid !== uid >>> 0) await lchown(dir, uid >>> 0, gid >>> 0)
  return dir
}

/** Another user who was there first only costs us the usual name: where a server listens is read from its data. */
async function makeUsual(data: string): Promise<string> {
  const usual = socketDirOf(data)
  await mkdir(usual, { mode: 0o700 }).catch(ignoreExisting)
  return (await isOurs(usual, data)) ? usual : mkdtemp(`${usual}-`)
}

/** Whether nobody but us and the owner of the data can have put a socket there. */
export async function isOurs(dir: string, data: string): Promise<boolean> {
  const [found, owned] = await Promise.all([lstat(dir).catch(() => undefined), lstat(data)])
  if (found === undefined || !found.isDirectory() || (found.mode & 0o077) !== 0) return false
  return found.uid === process.geteuid?.() || found.uid === owned.uid
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error
}
