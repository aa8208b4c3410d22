import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { OptionError } from '../index.ts'
import type { Change } from './init-diff.ts'

/** Makes all changes. Where one cannot be made, those before it are taken back, and an `OptionError` says why. */
export function writeChanges(folder: string, changes: readonly Change[]): void {
  const undo: (() => void)[] = []
  try {
    for (const change of changes) write(folder, change, undo)
  } catch (error) {
    for (const each of undo.reverse()) each()
    const { code = 'unknown', path = folder } = error as NodeJS.ErrnoException
    throw new OptionError(
      `${path} cannot be written (${code}): nothing was changed. Make room or rights there, and run holdfast init again.`,
    )
  }
}

function write(folder: string, { from, before, to, after }: Change, undo: (() => void)[]): void {
  const place = join(folder, to)
  const made = mkdirSync(dirname(place), { recursive: true })
  if (made !== undefined) undo.push(() => rmSync(made, { recursive: true }))
  if (from === to) {
    undo.push(() => writeFileSync(place, before))
    writeFileSync(place, after)
    return
  }
  // Never over a file that came meanwhile.
  writeFileSync(place, after, { flag: 'wx' })
  undo.push(() => rmSync(place))
  if (from === null) return
  rmSync(join(folder, from))
  undo.push(() => writeFileSync(join(folder, from), before))
}
