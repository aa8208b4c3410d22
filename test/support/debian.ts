import { execFile } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const isThere = (program: string) =>
  run('which', [program]).then(
    () => true,
    () => false,
  )

/** A program (a name, or a path) that tests need: its package is installed where it is missing. Never skipped silently. */
export async function needProgram(program: string, debianPackage: string): Promise<void> {
  if (await isThere(program)) return
  if (process.geteuid?.() !== 0)
    throw new Error(`The tests need ${program}: install Debian's package ${debianPackage}.`)
  // Test files run beside each other, and apt-get waits for nobody.
  const install = 'which "$1" || { apt-get update && apt-get install -y --no-install-recommends "$2"; }'
  await run('flock', [join(tmpdir(), 'holdfast-apt.lock'), 'sh', '-c', install, 'sh', program, debianPackage], {
    maxBuffer: 64 * 1024 * 1024,
  })
}
