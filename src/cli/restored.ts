/**
 * `holdfast doctor --restored`: to be run after a backup was put back, before servers start on it. What was written
 * after the backup is gone, and what is written in its place gets the same numbers: a client whose cursor is of the log
 * that was replaced would take the one for the other, and miss it.
 */
import { changeEpoch } from '../store/epoch.ts'
import { withDatabase } from './database.ts'

export function restored(): Promise<void> {
  // Where a server runs on the embedded one it has to be stopped first, or nothing could have been restored.
  return withDatabase(false, async (database) => {
    const { before, epoch } = await changeEpoch(database)
    process.stdout.write(
      `The log has a new epoch, ${epoch}${before === null ? '' : ` instead of ${before}`}: clients that come back with an older cursor load their sessions anew. Servers that run on it notice within 5 seconds.\n`,
    )
  })
}
