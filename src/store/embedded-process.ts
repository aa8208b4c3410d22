/**
 * What the system knows about processes: who lives, and whether it is a Postgres of a given data directory. A pid by
 * itself proves nothing: after a crash or in a new container it soon belongs to somebody else.
 */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { readdir, readFile, readlink } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'

/** What a postmaster writes into its data directory: lines 1, 4 and 5 of `postmaster.pid`. */
export type PidFile = { pid: number; port: number; socketDir: string }

export async function readPidFile(data: string): Promise<PidFile | undefined> {
  const text = await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '')
  const [pid, , , port, socketDir] = text.split('\n')
  if (!pid) return undefined
  return { pid: Number(pid), port: Number(port ?? 0), socketDir: socketDir ?? '' }
}

/** False for a zombie: nothing of it runs, and its parent may never fetch it (many containers' first process). */
export function isAlive(pid: number): boolean {
  return isTaken(pid) && !(process.platform === 'linux' && isZombie(pid))
}

/** Whether the pid belongs to anybody, a zombie included: this is as far as Postgres itself looks. */
export function isTaken(pid: number): boolean {
  if (!(pid > 0)) return false
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function isZombie(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z')
  } catch {
    // Hidden from us (hidepid) or gone this instant: the signal above was answered, so it counts as alive.
    return false
  }
}

/** Pids of all Postgres processes of a data directory, the postmaster's and its backends', as far as we may see. */
export async function postgresOf(data: string): Promise<number[]> {
  return process.platform === 'linux' ? postgresInProc(data) : postgresInPs(data)
}

async function postgresInProc(data: string): Promise<number[]> {
  const pids = (await readdir('/proc')).map(Number).filter((pid) => pid > 0)
  const belongs = await Promise.all(pids.map((pid) => isPostgresOf(pid, data)))
  return pids.filter((_, at) => belongs[at])
}

/**
 * A backend shows itself by its working directory only; the postmaster by its arguments also, which remain readable
 * where another user's working directory is not.
 */
async function isPostgresOf(pid: number, data: string): Promise<boolean> {
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0')
  const name = words[0] ?? ''
  if (basename(name) !== 'postgres' && !name.startsWith('postgres:')) return false
  return words.includes(data) || (await readlink(`/proc/${pid}/cwd`).catch(() => '')) === data
}

async function postgresInPs(data: string): Promise<number[]> {
  const { stdout } = await promisify(execFile)('ps', ['-axo', 'pid=,command='])
  const lines = stdout.split('\n').filter((line) => line.includes(`postgres -D ${data} `))
  return lines.map((line) => Number.parseInt(line, 10))
}

/** Asks a postmaster to end at once but cleanly; after `patienceMs` it is made to, which costs it a recovery. */
export async function endPostgres(pid: number, patienceMs: number): Promise<void> {
  if (sendSignal(pid, 'SIGINT') && (await isGone(pid, patienceMs))) return
  if (sendSignal(pid, 'SIGQUIT')) await isGone(pid, patienceMs)
}

/** False where there is nobody to hear it. */
function sendSignal(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    throw error
  }
}

async function isGone(pid: number, withinMs: number): Promise<boolean> {
  const until = performance.now() + withinMs
  while (isAlive(pid)) {
    if (performance.now() > until) return false
    await delay(10)
  }
  return true
}
