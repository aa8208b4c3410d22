import { defineCommand } from 'citty'
import { OptionError } from '../option-checks.ts'
import { databaseOf } from '../options.ts'
import { openDatabase } from '../store/database.ts'
import { migrate, schemaState } from '../store/migrations.ts'
import { createViews, isSchemaName, type ViewsOf, viewsSql } from '../store/views.ts'
import { exit } from './exit.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'

export const migrateCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: { name: 'migrate', description: 'Brings the schema in DATABASE_URL up to this version.' },
  args: {
    print: { type: 'boolean', description: 'Print the SQL that is missing instead of running it.' },
    views: {
      type: 'string',
      description: 'A schema of yours, in which views for reports are made, too. See docs/usage.md.',
    },
    tenant: { type: 'string', description: 'The tenant that the views are of. Defaults to default.' },
  },
  run: ({ args }) => run(args).catch(exit),
})

function viewsOf({ views, tenant }: { views?: string; tenant?: string }): ViewsOf | null {
  if (views === undefined) {
    if (tenant === undefined) return null
    throw new OptionError('--tenant says whose the views are: give --views with it.')
  }
  if (isSchemaName(views)) return { schema: views, tenantId: tenant ?? 'default' }
  throw new OptionError(
    '--views: expected the name of a schema of yours, of a-z, 0-9 and _, as in holdfast migrate --views reports.',
  )
}

async function run(args: { print?: boolean; views?: string; tenant?: string }): Promise<void> {
  const { print = false } = args
  const views = viewsOf(args)
  const url = databaseOf(process.env.DATABASE_URL || undefined)
  if (!url) {
    const why = views === null ? 'is migrated by itself at start' : 'has no views, for no report reaches it'
    throw new OptionError(`DATABASE_URL is not set. The embedded database ${why}.`)
  }
  const database = openDatabase(url, { poolMax: 6, onError: exit })
  try {
    if (print) {
      const { pending } = await schemaState(database)
      for (const { name, sql } of pending) process.stdout.write(`-- ${name}\n${sql}\n`)
      if (views !== null) process.stdout.write(`-- views\n${viewsSql(views)}\n`)
      return
    }
    const applied = await migrate(database)
    process.stdout.write(applied.length > 0 ? `Applied ${applied.join(', ')}.\n` : 'The schema is up to date.\n')
    if (views === null) return
    if ((await createViews(database, views)) === 'taken') {
      throw new OptionError(
        `The schema ${views.schema} has a table or another view of the name chat_messages, chat_sessions or user_usage_daily. Choose another schema, or rename it: nothing was changed there.`,
      )
    }
    process.stdout.write(`The views for reports are in the schema ${views.schema}.\n`)
  } finally {
    await database.close()
  }
}
