/**
 * The one embedded Postgres of a test process: started by the first test server, shared by all, and ended a moment after
 * the last was closed, so that the next test finds it there. Where the process dies before that, two shells notice: one
 * ends the server (store/embedded-orphan.ts), the other removes its directory.
 */
import { spawn } from 'node:child_process'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export type SharedPostgres = {
  /** A connection URL. */
  url: string
  /** To be called once, by who does not need it any more. */
  release(): void
}

type Running = { url: string; end(): Promise<void> }

const lingerMs = 500

let running: Promise<Running> | undefined
let users = 0
let lingering: NodeJS.Timeout | undefined

export async function sharePostgres(): Promise<SharedPostgres> {
  users++
  clearTimeout(lingering)
  running ??= start()
  const mine = running
  try {
    const { url } = await mine
    return { url, release: () => leave(mine) }
  } catch (error) {
    users--
    if (running === mine) running = undefined
    throw error
  }
}

function leave(mine: Promise<Running>): void {
  users--
  if (users > 0) return
  lingering = setTimeout(() => {
    running = undefined
    void mine.then(({ end }) => end())
  }, lingerMs)
}

async function start(): Promise<Running> {
  // Loaded only where it is used, as in the engine.
  const { startEmbedded } = await import('../store/embedded.ts')
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-testing-'))
  // Its server may be another user, who has to pass through.
  await chmod(dataDir, 0o711)
  const embedded = await startEmbedded({ dataDir, log: () => undefined, orphanedMs: 0 }).catch(async (error) => {
    await rm(dataDir, { recursive: true, force: true })
    throw error
  })
  const { host, port, user, database } = embedded.connection
  const keepNoMore = removeWhenOrphaned(dataDir, host)
  return {
    url: `postgres://${user}@localhost:${port}/${database}?host=${encodeURIComponent(host)}`,
    async end() {
      await embedded.stop()
      keepNoMore()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}

/** Waits for the end of a pipe of which we are the other end, then for the server's, for ten seconds at most. */
const script = `cat >/dev/null
tries=0
while [ -e "$1/data/postmaster.pid" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
rm -rf "$1" "$2"`

function removeWhenOrphaned(dataDir: string, socketDir: string): () => void {
  const child = spawn('sh', ['-c', script, 'sh', dataDir, socketDir], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  // Where there is no shell the directory stays, for whoever empties the system's temporary ones.
  child.on('error', () => undefined)
  child.stdin.on('error', () => undefined)
  child.unref()
  ;(child.stdin as unknown as { unref(): void }).unref()
  return () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    // With its group: the shell waits by a program of its own.
    process.kill(-child.pid, 'SIGKILL')
  }
}
