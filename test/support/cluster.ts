/**
 * A PostgreSQL server for tests, of either version that we support: 18 from npm, 15 from Debian. It listens on loopback
 * TCP, so that a proxy can sit in between. A watcher removes it when its maker ends in any way, `kill -9` included:
 * the watcher reads from a pipe that closes then.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Account, chooseAccount, giveTo, runAs } from '../../src/store/embedded-account.ts'
import { isAlive, postgresOf, readPidFile } from '../../src/store/embedded-process.ts'

export type PostgresVersion = 15 | 18

export type Cluster = {
  version: PostgresVersion
  host: string
  port: number
  /** Of the database `postgres`, as a superuser, without a password. */
  url: string
  data: string
  /** Of the postmaster. */
  pid(): Promise<number>
  start(): Promise<void>
  /** `immediate` is a crash as the clients see it, and costs a recovery; `fast` (the default) ends cleanly. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>
  restart(mode?: 'fast' | 'immediate'): Promise<void>
  /** Sends SIGKILL to the postmaster, and resolves when no process of the cluster is left. */
  kill(): Promise<void>
  /** SIGSTOP to every process of the cluster: it accepts connections (the kernel does) and says nothing. */
  freeze(): Promise<void>
  thaw(): Promise<void>
  /** Ends it and deletes its files. Happens by itself when this process ends. */
  remove(): Promise<void>
}

const shutdownMs = 10_000

/** Makes and starts a cluster. `binaries` holds `bin/`; `settings` are `name=value`. */
export async function makeCluster(
  version: PostgresVersion,
  binaries: string,
  settings: string[] = [],
): Promise<Cluster> {
  const dir = await mkdtemp(join(tmpdir(), `holdfast-test-pg${version}-`))
  await chmod(dir, 0o711)
  const watcher = watchOver(dir)
  const data = join(dir, 'data')
  const { account } = await chooseAccount(dir, binaries)
  await mkdir(data, { mode: 0o700 })
  await giveTo(account, data)
  const initdb = ['-D', data, '-U', 'postgres', '--auth=trust', '--encoding=UTF8', '--locale=C', '--no-sync']
  await must(account, join(binaries, 'bin', 'initdb'), initdb)
  const cluster = describe({ version, binaries, data, account, watcher, settings, port: await freePort() })
  await cluster.start()
  return cluster
}

type Parts = {
  version: PostgresVersion
  binaries: string
  data: string
  account: Account
  watcher: ChildProcess
  settings: string[]
  port: number
}

function describe({ version, binaries, data, account, watcher, settings, port }: Parts): Cluster {
  const host = '127.0.0.1'
  const all = [...usual, `port=${port}`, ...settings].map((setting) => `-c '${setting}'`).join(' ')
  const control = (...args: string[]) =>
    must(account, join(binaries, 'bin', 'pg_ctl'), ['-D', data, '-w', '-l', join(data, 'log'), '-o', all, ...args])
  const cluster: Cluster = {
    version,
    host,
    port,
    url: `postgresql://postgres@${host}:${port}/postgres`,
    data,
    pid: async () => (await readPidFile(data))!.pid,
    start: () => control('start'),
    stop: (mode = 'fast') => control('-m', mode, 'stop'),
    // Not by `pg_ctl restart`: it drops the directory from the arguments, by which the server is recognised.
    restart: async (mode) => {
      await cluster.stop(mode)
      await cluster.start()
    },
    kill: async () => {
      process.kill(await cluster.pid(), 'SIGKILL')
      await untilGone(data)
      // Where nobody fetches the zombie, Postgres would take its pid for a running server.
      await rm(join(data, 'postmaster.pid'), { force: true })
    },
    freeze: () => signalAll(data, 'SIGSTOP'),
    thaw: () => signalAll(data, 'SIGCONT'),
    remove: () => endWatcher(watcher),
  }
  return cluster
}

const usual = [
  'listen_addresses=127.0.0.1',
  'unix_socket_directories=',
  'max_connections=200',
  'shared_buffers=64MB',
  'fsync=on',
  'jit=off',
  'log_checkpoints=off',
]

async function signalAll(data: string, signal: 'SIGSTOP' | 'SIGCONT'): Promise<void> {
  for (const pid of await postgresOf(data)) if (isAlive(pid)) process.kill(pid, signal)
}

async function untilGone(data: string): Promise<void> {
  const until = performance.now() + shutdownMs
  while ((await postgresOf(data)).length > 0) {
    if (performance.now() > until) throw new Error(`Postgres processes of ${data} did not end within ${shutdownMs} ms`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Waits for its standard input to end, then ends the server of the directory (frozen or not) and deletes it all. */
const watch = `
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
is_ours() { { tr '\\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null || ps -o command= -p "$pid"; } | grep -Fq -- "$1"; }
if [ -n "$pid" ] && is_ours "$1"; then
  kill -QUIT "$pid"
  pkill -CONT -P "$pid" 2>/dev/null
  kill -CONT "$pid"
  tries=0
  while is_ours "$1" && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
fi
rm -rf "$1"
`

function watchOver(dir: string): ChildProcess {
  const watcher = spawn('sh', ['-c', watch, 'sh', dir], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] })
  watcher.unref()
  return watcher
}

async function endWatcher(watcher: ChildProcess): Promise<void> {
  if (watcher.exitCode !== null) return
  const ended = once(watcher, 'exit')
  watcher.ref()
  watcher.stdin?.end()
  await ended
}

async function must(account: Account, file: string, args: string[]): Promise<void> {
  const { code, output } = await runAs(account, file, args)
  if (code === 0) return
  const log = await readFile(join(args[1]!, 'log'), 'utf8').catch(() => '')
  throw new Error(`${file} ${args.join(' ')} ended with ${code}: ${output}\n${log.slice(-2_000)}`)
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
