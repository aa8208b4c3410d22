/**
 * An app's own module as a process of its own, which a real `kill -9` ends: the code of `reply` and of tools with it, and all
 * that the module holds in memory. The module is loaded as Node loads it, with the flags of the test's own process.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { type Kind, type Surrounded, surround } from './surroundings.ts'

export type TestProcessOptions = {
  /**
   * A file that exports a Holdfast (by any name) whose `database` is `process.env.DATABASE_URL`: a path, or a URL as
   * `new URL('./chat.ts', import.meta.url)`.
   */
  module: string | URL
  /** More environment for it, beside the test's own. */
  env?: Readonly<Record<string, string>>
  /** As in `TestServerOptions`. */
  database?: string
}

/** `lines`: what it prints. A `kill` is SIGKILL, a `restart` of one that runs is SIGTERM first. */
export type TestProcess = Surrounded

const program = fileURLToPath(new URL('./child.js', import.meta.url))

/** Starts one. Resolves when it listens; rejects with what it printed where it ends before. It ends with the test's process. */
export function testProcess({ module, env, database }: TestProcessOptions): Promise<TestProcess> {
  const file = (module instanceof URL ? module : pathToFileURL(module)).href
  return surround(database, (say) => {
    let child: ChildProcess
    let ended: Promise<unknown>
    return {
      async start(databaseUrl) {
        child = fork(program, [file], {
          env: { ...process.env, ...env, DATABASE_URL: databaseUrl },
          stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
        })
        ended = once(child, 'exit')
        return await portOf(child, ended, say)
      },
      async kill() {
        child.kill('SIGKILL')
        await ended
      },
      async stop() {
        child.kill('SIGTERM')
        await ended
      },
    } satisfies Kind
  })
}

async function portOf(child: ChildProcess, ended: Promise<unknown>, say: (line: string) => void): Promise<number> {
  const printed: string[] = []
  for (const stream of [child.stdout!, child.stderr!]) {
    createInterface({ input: stream }).on('line', (line) => {
      say(line)
      if (printed.length < printedMax) printed.push(line)
    })
  }
  const port = new Promise<number>((resolve) => child.once('message', (message) => resolve(message as number)))
  const over = ended.then(() => {
    throw new Error(`The module ended before it listened:\n${printed.join('\n')}`)
  })
  return await Promise.race([port, over])
}

const printedMax = 100
