/** The real server as a child process, with the real kill points (test/support/points.mjs). */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { SignJWT } from 'jose'
import { afterEach } from 'vitest'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
export const jwtSecret = 'a secret of the tests, known to all of them'

export type TestServer = {
  url: string
  pid: number
  /** Standard output and error so far, by line. */
  lines: string[]
  /** Resolves with the first line that matches, also one that came before. */
  line(pattern: RegExp): Promise<string>
  signal(signal: NodeJS.Signals): void
  /** SIGKILL, and waits until it is gone. */
  kill(): Promise<void>
  /** SIGTERM, and waits. Resolves to the exit code. */
  stop(): Promise<number | null>
  exited: Promise<number | null>
}

export type ServerSettings = {
  /** A connection URL, or the directory of an embedded database. */
  database: string | { dataDir: string }
  /** The address of a provider stub; absent: the demo model. */
  provider?: string
  /** `name:nth:action`, see points.mjs. */
  points?: string[]
  port?: number
  /** Instead of the CLI's `serve`: a program that prints the same first line. */
  program?: string
  env?: Record<string, string>
}

const running = new Set<ChildProcess>()
afterEach(async () => {
  for (const child of running) {
    child.kill('SIGCONT')
    child.kill('SIGKILL')
    await exitOf(child)
  }
})

/** Resolves when the server listens; rejects with what it printed if it ends before. It is killed after the test. */
export async function startServer(settings: ServerSettings): Promise<TestServer> {
  const program = settings.program === undefined ? [main, 'serve'] : [settings.program]
  const child = spawn(process.execPath, ['--conditions=holdfast-test', ...program], {
    env: { ...cleanEnvironment(), ...environmentOf(settings) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  const exited = exitOf(child)
  const lines: string[] = []
  const hearers = new Set<() => void>()
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream! }).on('line', (line) => {
      lines.push(line)
      for (const hear of hearers) hear()
    })
  }
  const line = (pattern: RegExp) =>
    new Promise<string>((resolve, reject) => {
      const look = () => {
        const found = lines.find((each) => pattern.test(each))
        if (found === undefined) return
        hearers.delete(look)
        resolve(found)
      }
      hearers.add(look)
      look()
      exited.then(
        (code) => reject(new Error(`the server ended (${code}) before ${pattern}:\n${lines.join('\n')}`)),
        reject,
      )
    })
  const announced = await line(/^Holdfast {2}http/)
  return {
    url: announced.replace(/^Holdfast\s+/, ''),
    pid: child.pid!,
    lines,
    line,
    exited,
    signal: (signal) => void child.kill(signal),
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
    async stop() {
      child.kill('SIGTERM')
      return await exited
    },
  }
}

async function exitOf(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  running.delete(child)
  return child.exitCode
}

function environmentOf({
  database,
  provider,
  points = [],
  port = 0,
  env = {},
}: ServerSettings): Record<string, string> {
  return {
    ...(typeof database === 'string' ? { DATABASE_URL: database } : { HOLDFAST_DATA_DIR: database.dataDir }),
    ...(provider === undefined ? {} : { OPENAI_API_KEY: 'a-key-of-the-tests', OPENAI_BASE_URL: provider }),
    HOLDFAST_JWT_SECRET: jwtSecret,
    HOLDFAST_POINT: points.join(','),
    // Tests send faster than people; those about the limit set one.
    HOLDFAST_SENDS_PER_MINUTE: '0',
    PORT: String(port),
    HOST: '127.0.0.1',
    ...env,
  }
}

/** Nothing of the machine's own settings reaches the server. */
function cleanEnvironment(): Record<string, string | undefined> {
  const { PATH, HOME, TMPDIR } = process.env
  return { PATH, HOME, TMPDIR }
}

/** A bearer token of a user, as the app's own sign-in would make it. */
export function tokenOf(
  userId: string,
  claims: { tenant?: string; plan?: string; expiresIn?: string | number } = {},
): Promise<string> {
  const { expiresIn = '1h', ...rest } = claims
  return new SignJWT(rest)
    .setProtectedHeader({ alg: 'HS256' })
    .setSubject(userId)
    .setExpirationTime(expiresIn)
    .sign(new TextEncoder().encode(jwtSecret))
}
