import { accessSync, constants, mkdirSync } from 'node:fs'
import { OptionError } from '../index.ts'

/** Makes the data directory, or says in one line why it cannot be used. */
export function openDataDir(dataDir: string): void {
  try {
    mkdirSync(dataDir, { recursive: true })
    accessSync(dataDir, constants.W_OK | constants.X_OK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new OptionError(
      `The data directory ${dataDir} cannot be used (${code}): make room or rights there, or set HOLDFAST_DATA_DIR to another.`,
    )
  }
}
