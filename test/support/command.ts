/** The command line as a child process: what it prints, and its end. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

export const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export type Command = {
  pid: number
  /** What it printed so far, both streams. */
  printed(): string
  /** Resolves with the match of what it printed, also before. Rejects if it ends without. */
  said(pattern: RegExp): Promise<RegExpExecArray>
  signal(signal: NodeJS.Signals): void
  ended: Promise<number | null>
}

const running = new Set<ChildProcess>()

/** For `afterEach`, before what they work on is removed. */
export async function endCommands(): Promise<void> {
  for (const child of running) {
    child.kill('SIGTERM')
    await once(child, 'close')
  }
}

export function startCommand(
  args: string[],
  options: { cwd: string; env?: Record<string, string>; program?: [string, ...string[]] },
): Command {
  const { PATH, HOME, TMPDIR } = process.env
  const [program, ...before] = options.program ?? [process.execPath, main]
  const child = spawn(program, [...before, ...args], {
    cwd: options.cwd,
    env: { PATH, HOME, TMPDIR, PORT: '0', ...options.env } as NodeJS.ProcessEnv,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  let text = ''
  const hearers = new Set<() => void>()
  const hear = (data: Buffer) => {
    text += data
    for (const each of [...hearers]) each()
  }
  child.stdout.on('data', hear)
  child.stderr.on('data', hear)
  const ended = once(child, 'close').then(([code]) => {
    running.delete(child)
    return code as number | null
  })
  return {
    pid: child.pid!,
    printed: () => text,
    said: (pattern) =>
      new Promise((resolve, reject) => {
        const look = () => {
          const found = pattern.exec(text)
          if (!found) return
          hearers.delete(look)
          resolve(found)
        }
        hearers.add(look)
        look()
        ended.then((code) => reject(new Error(`ended (${code}) before ${pattern}:\n${text}`)), reject)
      }),
    signal: (signal) => void child.kill(signal),
    ended,
  }
}
