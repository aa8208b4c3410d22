import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** A program that a test needs: its package is installed where it is missing. Never skipped silently. */
export async function needProgram(program: string, debianPackage: string): Promise<void> {
  const there = await run('which', [program]).then(
    () => true,
    () => false,
  )
  if (there) return
  if (process.geteuid?.() !== 0)
    throw new Error(`This test needs ${program}: install Debian's package ${debianPackage}.`)
  await run('apt-get', ['update'])
  await run('apt-get', ['install', '-y', '--no-install-recommends', debianPackage])
}
