/** Without a DATABASE_URL: the embedded Postgres that the test servers of a process share, and what is left when it ends. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { isAlive, readPidFile } from '../../src/store/embedded-process.ts'
import { eventually } from '../support/eventually.ts'

const program = fileURLToPath(new URL('embedded-child.mjs', import.meta.url))

type Line = {
  firstMs?: number
  secondMs?: number
  up?: { text: string; databases: [string, string] }
  closed?: boolean
}

/** With a directory for temporary files of its own: what is in there is the child's. */
async function start(end: 'close' | 'stay') {
  const tmp = await mkdtemp(join(tmpdir(), 'ht-'))
  await chmod(tmp, 0o711)
  const { PATH, HOME } = process.env
  const child = spawn(process.execPath, [program, end], {
    env: { PATH, HOME, TMPDIR: tmp },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await eventually(async () => (await readdir(tmp)).length === 0)
    await rm(tmp, { recursive: true, force: true })
  })
  const lines: Line[] = []
  createInterface({ input: child.stdout! }).on('line', (line) => lines.push(JSON.parse(line)))
  const up = await eventually(async () => lines.find((line) => line.up)?.up, 50_000)
  return { tmp, child, lines, up }
}

async function postmasterIn(tmp: string): Promise<number> {
  const home = (await readdir(tmp)).filter((name) => name.startsWith('holdfast-testing-'))
  expect(home).toHaveLength(1)
  return (await readPidFile(join(tmp, home[0]!, 'data')))!.pid
}

async function exitOf(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  return child.exitCode
}

test('test servers of one process share an embedded Postgres, and closed they leave no process, no file and no timer', async () => {
  const { tmp, child, lines, up } = await start('close')
  expect(up.text).toBe('Hello.')
  const [one, other] = up.databases.map((url) => new URL(url))
  expect(one!.search).toBe(other!.search)
  expect(one!.pathname).not.toBe(other!.pathname)
  expect(await exitOf(child)).toBe(0)
  expect(lines.at(-1)).toEqual({ closed: true })
  expect(await readdir(tmp)).toEqual([])
})

test('when the test’s process is killed, its Postgres ends and its files go', async () => {
  const { tmp, child } = await start('stay')
  const pid = await postmasterIn(tmp)
  child.kill('SIGKILL')
  await exitOf(child)
  await eventually(async () => !isAlive(pid) && (await readdir(tmp)).length === 0)
})
