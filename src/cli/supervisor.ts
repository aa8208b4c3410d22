/**
 * Keeps one child process running: whatever ends it by a signal or a crash, it is started again at once. A child that
 * ends before it was ever ready is not: what it printed is shown, because it will not get better by itself.
 */
import { type ChildProcess, spawn } from 'node:child_process'

export type Supervised = { stop(): void; ended: Promise<number> }

/** A child that dies again so soon is started only after a moment. */
const steadyMs = 1_000
const waitMs = 500

export function supervise(options: {
  command: string[]
  environment: Readonly<Record<string, string | undefined>>
  /** Called with what each child says by `process.send`; its first word is that it is ready. */
  onMessage: (message: unknown, restarts: number) => void
  onRestart: (how: string) => void
  /** It was killed before it was ever ready, and so could not say why it ends. */
  onNeverReady: (signal: NodeJS.Signals) => void
}): Supervised {
  let child: ChildProcess
  let stopping = false
  let everReady = false
  let restarts = 0
  let startedMs = 0
  let finish: (code: number) => void = () => undefined
  const ended = new Promise<number>((resolve) => {
    finish = resolve
  })

  function start(): void {
    startedMs = performance.now()
    const [program, ...args] = options.command
    // In a group of its own: Ctrl-C reaches only us, and we end it in order.
    child = spawn(program!, args, {
      env: options.environment,
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      detached: true,
    })
    child.on('message', (message) => {
      everReady = true
      options.onMessage(message, restarts)
    })
    child.on('error', () => finish(1))
    child.on('exit', (code, signal) => {
      if (stopping) finish(code ?? 1)
      else if (!everReady) {
        if (signal) options.onNeverReady(signal)
        finish(code ?? 1)
      } else again(signal ?? `exit code ${code}`)
    })
  }

  function again(how: string): void {
    restarts++
    options.onRestart(how)
    const soon = performance.now() - startedMs < steadyMs
    setTimeout(() => (stopping ? finish(0) : start()), soon ? waitMs : 0)
  }

  start()
  return {
    ended,
    stop() {
      // Asked twice: at once.
      child.kill(stopping ? 'SIGKILL' : 'SIGTERM')
      stopping = true
    },
  }
}
