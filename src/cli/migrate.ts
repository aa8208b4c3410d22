import { defineCommand } from 'citty'
import { databaseOf, OptionError } from '../options.ts'
import { openDatabase } from '../store/database.ts'
import { migrate, schemaState } from '../store/migrations.ts'
import { exit } from './exit.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'

export const migrateCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: { name: 'migrate', description: 'Brings the schema in DATABASE_URL up to this version.' },
  args: { print: { type: 'boolean', description: 'Print the SQL that is missing instead of running it.' } },
  run: ({ args }) => run(args.print === true).catch(exit),
})

async function run(print: boolean): Promise<void> {
  const url = databaseOf(process.env.DATABASE_URL || undefined)
  if (!url) throw new OptionError('DATABASE_URL is not set. The embedded database is migrated by itself at start.')
  const database = openDatabase(url, { poolMax: 6, onError: exit })
  try {
    if (print) {
      const { pending } = await schemaState(database)
      for (const { name, sql } of pending) process.stdout.write(`-- ${name}\n${sql}\n`)
      return
    }
    const applied = await migrate(database)
    process.stdout.write(applied.length > 0 ? `Applied ${applied.join(', ')}.\n` : 'The schema is up to date.\n')
  } finally {
    await database.close()
  }
}
