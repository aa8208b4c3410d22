/**
 * Ends the server some seconds after its owner has died, unless another process has adopted it by then. An app that is ended
 * by Ctrl-C says nothing to its libraries: without this a Postgres of each app that was ever tried would run for ever.
 *
 * A shell waits for the end of a pipe of which we are the other end, so it needs nobody to tell it, whatever kills us. While
 * we stand still, as in a debugger, the pipe stands.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'

/** How soon it goes when another owner is there. */
const lookEveryMs = 500

/** Long enough for whoever starts an app again at once, or has a supervisor do it. */
export const orphanedMs = 10_000

// A new owner leaves its name; a server that was started again has another pid; a pid may be another process's by now.
const script = `cat >/dev/null
left=$1
while :; do
  [ "$(cat "$2")" = "$3" ] || exit
  [ "$(head -n 1 "$4")" = "$5" ] || exit
  [ ! -e "/proc/$5" ] || grep -q '^postgres' "/proc/$5/comm" || exit
  [ "$left" -gt 0 ] || break
  sleep ${lookEveryMs / 1_000}
  left=$((left - ${lookEveryMs}))
done
kill -INT "$5"`

/** What it answers ends the waiting: the owner has ended the server itself, or another one stands for it. */
export function endWhenOrphaned(dataDir: string, owner: string, serverPid: number, afterMs = orphanedMs): () => void {
  const files = [join(dataDir, 'owner'), owner, join(dataDir, 'data', 'postmaster.pid')]
  const child = spawn('sh', ['-c', script, 'sh', String(afterMs), ...files, String(serverPid)], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  // Where there is no shell the server stays, as it would without this.
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
