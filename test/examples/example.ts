/** The folders of examples/ as a user has them: the package packed, the example beside it, installed by its own lock. */
import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { endPostgres, readPidFile } from '../../src/store/embedded-process.ts'
import { socketDirOf } from '../../src/store/embedded-socket.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const ours = new Set(['node_modules', 'dist', '.next', '.holdfast', 'next-env.d.ts'])

export type Checkout = {
  /** Copies an example, installs what its lock names, and resolves to its folder. */
  install(name: string): Promise<string>
  remove(): Promise<void>
}

/** A folder with nothing but what is published, so that `file:../..` of an example is the package. */
export async function packedCheckout(): Promise<Checkout> {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-examples-'))
  const args = ['pack', '--ignore-scripts', '--json', '--pack-destination', folder]
  const [{ filename }] = JSON.parse(await run('npm', args, root)) as [{ filename: string }]
  await run('tar', ['-xzf', join(folder, filename), '--strip-components=1'], folder)
  await mkdir(join(folder, 'examples'))
  return {
    async install(name) {
      const example = join(folder, 'examples', name)
      await cp(join(root, 'examples', name), example, {
        recursive: true,
        filter: (from) => !ours.has(basename(from)),
      })
      await run('npm', ['ci', '--ignore-scripts', '--prefer-offline'], example)
      return example
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  }
}

/** Resolves to what it printed. Rejects with that, too, where it fails. */
export async function run(
  program: string,
  args: string[],
  cwd: string,
  settings: Record<string, string> = {},
): Promise<string> {
  const { PATH, HOME, TMPDIR } = process.env
  const env = { PATH, HOME, TMPDIR, NEXT_TELEMETRY_DISABLED: '1', ...settings } as unknown as NodeJS.ProcessEnv
  try {
    return (await promisify(execFile)(program, args, { cwd, env })).stdout
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    throw new Error(`${program} ${args.join(' ')}\n${stdout}\n${stderr}`, { cause: error })
  }
}

/** Ends an embedded Postgres that a server which was killed has left running, if there is one. */
export async function endPostgresOf(example: string): Promise<void> {
  const data = join(example, '.holdfast', 'data')
  const left = await readPidFile(data)
  if (left) await endPostgres(left.pid, 10_000)
  // Also where the server was ended in the middle of its own end.
  await rm(socketDirOf(data), { recursive: true, force: true })
}

export async function freePort(): Promise<string> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return String(port)
}
