/** An app's own table of messages, read once and in order: by a cursor, so that a page is held at a time, whatever its size. */
import pg from 'pg'
import type { Address } from './database.ts'

/** What is read of each row, and which column usually has it. Those that end in `?` need not be there. */
export const sourceColumns = {
  id: 'id',
  sessionId: 'session_id',
  userId: 'user_id',
  role: 'role',
  text: 'content',
  createdAt: 'created_at',
  'repliesTo?': 'user_message_id',
  'model?': 'model',
  'title?': 'title',
} as const
export type SourceField =
  | 'id'
  | 'sessionId'
  | 'userId'
  | 'role'
  | 'text'
  | 'createdAt'
  | 'repliesTo'
  | 'model'
  | 'title'
export type SourceRow = Record<SourceField, string | null>

/** The table, or a column of it, is not there. */
export class SourceError extends Error {
  override readonly name = 'SourceError'
}

const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`

/** Rows in the order of sessions and times. `after`: of sessions whose id comes after this one. */
export async function* sourceRows(
  address: Address,
  { table, columns, after }: { table: string; columns: { [field in SourceField]?: string }; after: string | null },
  pageMax: number,
): AsyncGenerator<SourceRow[]> {
  const client = new pg.Client({
    ...(typeof address === 'string' ? { connectionString: address } : address),
    application_name: 'holdfast import',
    // A time without a zone is one of UTC.
    options: '-c default_transaction_read_only=on -c timezone=UTC',
  })
  client.on('error', () => undefined)
  await client.connect()
  const ask = (text: string, values?: unknown[]) =>
    client.query<SourceRow>(text, values).catch((error: unknown) => {
      throw unreadable(table, error)
    })
  try {
    const from = table.split('.').map(quoted).join('.')
    const expressions = await expressionsOf(client, from, table, columns)
    const { sessionId, createdAt, id } = expressions
    await client.query('begin')
    await ask(
      `declare rows no scroll cursor for
         select ${Object.entries(expressions).map(([field, expression]) => `${expression} as ${quoted(field)}`)}
           from ${from} where $1::text is null or ${sessionId} collate "C" > $1
          order by ${sessionId} collate "C", ${createdAt}, ${id} collate "C"`,
      [after],
    )
    for (;;) {
      const { rows } = await ask(`fetch ${pageMax} from rows`)
      if (rows.length === 0) return
      yield rows
    }
  } finally {
    await client.end()
  }
}

/** Also of one value that is not what its column is for, as a time that is none. */
const unreadable = (table: string, error: unknown) =>
  error instanceof pg.DatabaseError
    ? new SourceError(
        `The table ${table} cannot be read: ${error.message}. Mend the table, or say with --map what each column is, and import again: what came in already is known.`,
      )
    : error

async function expressionsOf(
  client: pg.Client,
  from: string,
  table: string,
  columns: { [field in SourceField]?: string },
): Promise<Record<SourceField, string>> {
  const there = await client
    .query(`select * from ${from} limit 0`)
    .then(({ fields }) => new Set(fields.map(({ name }) => name)))
    .catch((error: unknown) => {
      throw new SourceError(
        `The table ${table} cannot be read: ${(error as Error).message}. Give its name as the database has it, with its schema where that is not public, like app.messages.`,
      )
    })
  const expressions: Partial<Record<SourceField, string>> = {}
  for (const [key, usual] of Object.entries(sourceColumns)) {
    const field = key.replace('?', '') as SourceField
    const column = columns[field] ?? usual
    if (there.has(column)) expressions[field] = expressionOf(field, quoted(column))
    else if (key === field || columns[field] !== undefined) {
      const names = [...there].join(', ')
      throw new SourceError(
        `The table ${table} has no column ${column}: say which one is its ${field} with --map ${field}=COLUMN. It has ${names}.`,
      )
    } else expressions[field] = 'null::text'
  }
  return expressions as Record<SourceField, string>
}

function expressionOf(field: SourceField, column: string): string {
  if (field !== 'createdAt') return `${column}::text`
  return `to_char(${column}::timestamptz, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
}
