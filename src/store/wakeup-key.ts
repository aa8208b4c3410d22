import type { Database, Statement } from './database.ts'

const readKey: Statement = { name: 'wakeup-key', text: 'select wakeup_key as key from holdfast.meta' }

/** The secret that the processes of this database share: whoever can read the schema has it, and nobody else. */
export async function readWakeupKey(database: Database): Promise<string> {
  const rows = await database.query<{ key: string }>('read', readKey, [])
  return rows[0]!.key
}
