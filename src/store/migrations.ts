/**
 * The numbered files in `sql/`, applied in order in one transaction under a lock, so that two processes that start
 * together do not meet, and a process that dies leaves nothing half done. An applied file that was edited since is
 * refused by its checksum.
 */
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Postgrator, { type Migration } from 'postgrator'
import { type Database, DatabaseError } from './database.ts'

// Not as a URL made of two: bundlers, as that of Next.js, take such a one for a module, which a directory is not.
const directory = join(dirname(fileURLToPath(import.meta.url)), '../../sql')
// The library globs: a checkout in a directory with brackets must still find its files.
const files = `${directory.replace(/[?*()[\]{}]/g, '[$&]')}/*.sql`
// An arbitrary number that only Holdfast's migrations take.
const lockKey = 7_203_441

/** Applies what is missing. Resolves to the names of the files applied, `[]` when the schema was up to date. */
export function migrate(database: Database): Promise<string[]> {
  return database.transaction(async (query) => {
    await query("set local statement_timeout = '10min'; set local lock_timeout = '1min'")
    await query('select pg_advisory_xact_lock($1)', [lockKey])
    const runner = postgrator(query)
    await refuseEdited(runner)
    const applied = await runner.migrate()
    return applied.map((migration) => basename(migration.filename))
  })
}

/** Thrown for what a person has to mend. */
export class MigrationError extends Error {
  override readonly name = 'MigrationError'
}

async function refuseEdited(runner: Postgrator): Promise<void> {
  try {
    await runner.validateMigrations(await runner.getDatabaseVersion())
  } catch (error) {
    if (error instanceof DatabaseError) throw error
    throw new MigrationError(
      `A file in sql/ is not the one that this database was migrated with (${(error as Error).message}). Restore it: changes go into a new file.`,
    )
  }
}

export type SchemaState = { state: 'current' | 'behind' | 'ahead'; pending: { name: string; sql: string }[] }

/** How the schema compares with this version of Holdfast. `ahead`: a newer version has migrated it, which is fine. */
export function schemaState(database: Database): Promise<SchemaState> {
  return database.transaction(async (query) => {
    const runner = postgrator(query)
    const version = await runner.getDatabaseVersion()
    const all = (await runner.getMigrations()).filter((each) => each.action === 'do')
    const pending = all.filter((each) => each.version > version).sort((a, b) => a.version - b.version)
    if (pending.length > 0) return { state: 'behind', pending: pending.map(printed) }
    return { state: all.some((each) => each.version === version) ? 'current' : 'ahead', pending: [] }
  })
}

function printed(migration: Migration): { name: string; sql: string } {
  return { name: basename(migration.filename), sql: migration.getSql() }
}

function postgrator(query: (text: string) => Promise<{ rows: unknown[] }>): Postgrator {
  return new Postgrator({
    migrationPattern: files,
    driver: 'pg',
    // Else an edited line ending would be an edited file.
    newline: 'LF',
    schemaTable: 'holdfast.migrations',
    execQuery: query,
  })
}
