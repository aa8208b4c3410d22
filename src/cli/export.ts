/** `holdfast export`: what a user has, as lines that `holdfast import --file` takes. */
import { once } from 'node:events'
import { defineCommand } from 'citty'
import { OptionError } from '../index.ts'
import { exportLines } from '../transfer/export.ts'
import { patient } from './batch.ts'
import { withDatabase } from './database.ts'
import { exit } from './exit.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'

type Args = { user?: string; session?: string; tenant: string }

export const exportCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: {
    name: 'export',
    description: 'Writes what a user may see to standard output: holdfast export --user ann > ann.jsonl',
  },
  args: {
    user: { type: 'string', description: 'Whose.' },
    session: { type: 'string', description: 'Only this session.' },
    tenant: { type: 'string', default: 'default', description: 'In which tenant.' },
  },
  run: ({ args }) => run(args as unknown as Args).catch(exit),
})

async function run({ user, session, tenant }: Args): Promise<void> {
  if (user === undefined) throw new OptionError('--user: whose sessions?')
  await withDatabase(true, async (database) => {
    const ask = { tenantId: tenant, userId: user, sessionId: session ?? null }
    for await (const lines of exportLines(patient(database), ask)) {
      if (!process.stdout.write(lines)) await once(process.stdout, 'drain')
    }
  })
}
