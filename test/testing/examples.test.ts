/** The examples of docs/testing.md, run as they stand there: in a folder of their own, by the runner that they name. */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, inject, onTestFinished, test } from 'vitest'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))

/** The page's blocks that say in their first line which file they are. */
async function exampleFiles(): Promise<Map<string, string>> {
  const page = await readFile(join(root, 'docs/testing.md'), 'utf8')
  const blocks = [...page.matchAll(/^```[jt]s\n\/\/ ([\w.]+).*\n([\s\S]*?)^```/gm)]
  return new Map(blocks.map(([, name, code]) => [name!, code!]))
}

/** Removed after the test. */
async function folder(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'holdfast-examples-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  await mkdir(join(dir, 'node_modules'))
  await symlink(root, join(dir, 'node_modules', 'holdfast'))
  await symlink(join(root, 'node_modules', 'vitest'), join(dir, 'node_modules', 'vitest'))
  for (const [name, code] of await exampleFiles()) await writeFile(join(dir, name), code)
  return dir
}

/** Nothing of this run's own runner reaches it. */
function environment(more: Record<string, string> = {}): Record<string, string | undefined> {
  const { PATH, HOME, TMPDIR } = process.env
  return { PATH, HOME, TMPDIR, ...more }
}

test('every example of docs/testing.md that is a file is one that is run here', async () => {
  expect([...(await exampleFiles()).keys()]).toEqual([
    'chat.test.mjs',
    'offline.test.ts',
    'chat.mjs',
    'process.test.mjs',
  ])
})

test.each(['chat.test.mjs', 'process.test.mjs'])('%s passes with node:test, on the embedded Postgres', async (file) => {
  const cwd = await folder()
  const { stdout } = await run(process.execPath, ['--test', '--test-reporter=tap', file], { cwd, env: environment() })
  expect(stdout).toContain('# pass 1')
  expect(stdout).toContain('# fail 0')
})

test('offline.test.ts passes with Vitest, on the server of DATABASE_URL', async () => {
  const cwd = await folder()
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  const env = environment({ DATABASE_URL: inject('postgres').url18, NO_COLOR: '1' })
  const { stdout } = await run(process.execPath, [vitest, 'run', 'offline.test.ts'], { cwd, env })
  expect(stdout).toMatch(/Tests +1 passed/)
})
