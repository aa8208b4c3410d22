/**
 * `holdfast doctor --restored`: to be run after a backup was put back, before servers start on it. What was written
 * after the backup is gone, and what is written in its place gets the same numbers: a client whose cursor is of the log
 * that was replaced would take the one for the other, and miss it.
 */
import { databaseOf, OptionError } from '../options.ts'
import { DatabaseError, openDatabase } from '../store/database.ts'
import { changeEpoch } from '../store/epoch.ts'
import { readSettings } from './settings.ts'

export async function restored(): Promise<void> {
  const { options } = readSettings(process.env)
  const url = databaseOf(options.database)
  const embedded = url === undefined ? await startOwn(options.dataDir) : undefined
  const database = openDatabase(url ?? embedded!.connection, { poolMax: 6, onError: () => undefined })
  try {
    const { before, epoch } = await changeEpoch(database)
    process.stdout.write(
      `The log has a new epoch, ${epoch}${before === null ? '' : ` instead of ${before}`}: clients that come back with an older cursor load their sessions anew. Servers that run on it notice within 5 seconds.\n`,
    )
  } catch (error) {
    throw error instanceof DatabaseError && error.code === undefinedTable ? new OptionError(nothingThere) : error
  } finally {
    await database.close()
    await embedded?.stop()
  }
}

const undefinedTable = '42P01'
const nothingThere = 'There is no Holdfast in this database: set DATABASE_URL or HOLDFAST_DATA_DIR to the one restored.'

/** Refused with the holder's name where a server runs on it: it has to be stopped, or nothing could have been restored. */
async function startOwn(dataDir = '.holdfast') {
  const { startEmbedded } = await import('../store/embedded.ts')
  return await startEmbedded({ dataDir, log: () => undefined })
}
