/** The database that a command works on: the one of the settings, whether a server runs on it or not. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { OptionError } from '../option-checks.ts'
import { databaseOf } from '../options.ts'
import { type Address, type Database, DatabaseError, openDatabase } from '../store/database.ts'
import { readSettings } from './settings.ts'

const undefinedTable = '42P01'

/**
 * `running`: a command may join the embedded Postgres of a server that runs (true), or must have it for itself.
 * Rejects with one sentence where there is no database of Holdfast.
 */
export async function withDatabase(
  running: boolean,
  work: (database: Database, address: Address) => Promise<void>,
): Promise<void> {
  const { options } = readSettings(process.env)
  const url = databaseOf(options.database)
  const { address, stop } =
    url === undefined ? await embedded(options.dataDir, running) : { address: url, stop: async () => undefined }
  const database = openDatabase(address, { poolMax: 6, onError: () => undefined })
  try {
    await work(database, address)
  } catch (error) {
    throw error instanceof DatabaseError && error.code === undefinedTable ? new OptionError(nothingThere) : error
  } finally {
    await database.close()
    await stop()
  }
}

const nothingThere =
  'There is no Holdfast in this database: set DATABASE_URL or HOLDFAST_DATA_DIR to the one that you mean.'

const nothingIn = (dataDir: string) =>
  `There is no Holdfast in ${dataDir}: go to the folder of the one that you mean, or set HOLDFAST_DATA_DIR or DATABASE_URL.`

/** Loaded only where it is used, as in the server. */
async function embedded(dataDir = '.holdfast', running: boolean): Promise<{ address: Address; stop(): Promise<void> }> {
  const { addressIfRunning, startEmbedded } = await import('../store/embedded.ts')
  // To start one would make it, in whatever folder this is.
  if (!existsSync(join(dataDir, 'data'))) throw new OptionError(nothingIn(resolve(dataDir)))
  const there = running ? await addressIfRunning(dataDir) : undefined
  if (there) return { address: there, stop: async () => undefined }
  const own = await startEmbedded({ dataDir, log: () => undefined })
  return { address: own.connection, stop: () => own.stop() }
}
