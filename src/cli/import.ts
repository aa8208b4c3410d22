/** `holdfast import`: an app's own table of messages, or the lines of an export, into this database; as often as one likes. */
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { defineCommand } from 'citty'
import { OptionError } from '../index.ts'
import { type SourceField, sourceColumns, sourceRows } from '../store/source-table.ts'
import { type Imported, importLines, jsonOf, type Line } from '../transfer/import.ts'
import { readRow } from '../transfer/rows.ts'
import { sessionsIn } from '../transfer/table.ts'
import { patient } from './batch.ts'
import { withDatabase } from './database.ts'
import { exit } from './exit.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'

const rowsMax = 500
/** A line on standard error each time that so many rows were read. */
const progressEvery = 10_000
const badToldMax = 20
const defaultTenant = 'default'

type Args = {
  from?: string
  file?: string
  map?: string
  user?: string
  tenant: string
  source?: string
  after?: string
  'dry-run': boolean
}
/** Rows of one user, to be imported together. `done`: the session that is whole with them. */
type Batch = { userId: string | null; lines: Line[]; done: string | null }

export const importCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: {
    name: 'import',
    description:
      'Brings conversations in: holdfast import --from chat_messages, or --file export.jsonl --user ann. What is there already is left as it is, so it may be given again.',
  },
  args: {
    from: { type: 'string', description: 'A table of messages, like chat_messages or app.messages.' },
    file: { type: 'string', description: 'A file of JSON lines, as holdfast export writes them.' },
    map: {
      type: 'string',
      description: `Which column is what, like id=uuid,text=body. Of ${Object.values(sourceColumns).join(', ')}.`,
    },
    user: { type: 'string', description: 'Whose the lines of --file are.' },
    tenant: { type: 'string', default: defaultTenant, description: 'In which tenant.' },
    source: { type: 'string', description: 'The URL of the database that has the table, where it is another one.' },
    after: {
      type: 'string',
      description: 'Goes on after this session, as the last line of an interrupted import said.',
    },
    'dry-run': { type: 'boolean', default: false, description: 'Only says what is wrong, and stores nothing.' },
  },
  run: ({ args }) => run(args as unknown as Args).catch(exit),
})

async function run(args: Args): Promise<void> {
  if ((args.from === undefined) === (args.file === undefined)) {
    throw new OptionError('Give --from TABLE, or --file FILE and --user ID.')
  }
  if (args.file !== undefined && args.user === undefined) throw new OptionError('--user: whose are these lines?')
  const columns = columnsOf(args.map)
  await withDatabase(true, async (given, address) => {
    const database = patient(given)
    const batches =
      args.file === undefined
        ? tableBatches(
            sourceRows(args.source ?? address, { table: args.from!, columns, after: args.after ?? null }, rowsMax),
          )
        : fileBatches(args.file, args.user!)
    const parts = { database, wakeups: { tell: () => undefined } }
    const counts = createCounts(args['dry-run'])
    for await (const { userId, lines, done } of batches) {
      counts.take(
        userId === null || args['dry-run']
          ? checked(lines, userId)
          : await importLines(parts, { tenantId: args.tenant, userId }, lines),
        lines.length,
        done,
      )
    }
    counts.end()
  })
}

async function* tableBatches(pages: Parameters<typeof sessionsIn>[0]): AsyncGenerator<Batch> {
  for await (const { sessionId, userId, lines, isEnd } of sessionsIn(pages, rowsMax)) {
    yield { userId, lines, done: isEnd ? sessionId : null }
  }
}

async function* fileBatches(file: string, userId: string): AsyncGenerator<Batch> {
  let lines: Line[] = []
  let line = 0
  for await (const text of createInterface({ input: createReadStream(file), crlfDelay: Number.POSITIVE_INFINITY })) {
    line++
    if (text.trim() !== '') lines.push({ line, value: jsonOf(text) })
    if (lines.length < rowsMax) continue
    yield { userId, lines, done: null }
    lines = []
  }
  if (lines.length > 0) yield { userId, lines, done: null }
}

/** What would be wrong with them, as far as the rows tell. */
function checked(lines: readonly Line[], userId: string | null): Imported {
  const bad = lines.flatMap(({ line, value }) => {
    if (userId === null) return [{ line, error: 'No row of its session says whose it is.' }]
    const row = value === undefined ? { line, error: 'The line is not valid JSON.' } : readRow(value, line)
    return 'kind' in row ? [] : [row]
  })
  const good = lines.length - bad.length
  return { new: good, known: 0, waiting: 0, passedOver: 0, badCount: bad.length, bad }
}

function createCounts(isDry: boolean) {
  const total = { new: 0, known: 0, waiting: 0, passedOver: 0, bad: 0 }
  let rows = 0
  let last: string | null = null
  return {
    take(imported: Imported, count: number, done: string | null): void {
      for (const name of ['new', 'known', 'waiting', 'passedOver'] as const) total[name] += imported[name]
      for (const { line, id, error } of imported.bad.slice(0, Math.max(0, badToldMax - total.bad))) {
        process.stderr.write(`row ${line}${id === undefined ? '' : ` (${id})`}: ${error}\n`)
      }
      total.bad += imported.badCount
      last = done ?? last
      const before = rows
      rows += count
      if (Math.floor(before / progressEvery) === Math.floor(rows / progressEvery)) return
      const goOn = last === null ? '' : `; to go on from here: --after ${last}`
      process.stderr.write(`${rows} rows so far${goOn}\n`)
    },
    end(): void {
      const { new: isNew, known, waiting, passedOver, bad } = total
      const found = isDry ? [`${isNew} good`] : [`${isNew} new`, `${known} known`]
      if (waiting > 0) found.push(`${waiting} of the new ones are replies whose message is not there`)
      if (passedOver > 0) found.push(`${passedOver} passed over, because they were not shown`)
      found.push(`${bad} not taken`)
      process.stdout.write(`${rows} rows: ${found.join(', ')}.\n`)
      if (bad > 0) process.exitCode = 1
    },
  }
}

function columnsOf(map = ''): { [field in SourceField]?: string } {
  const fields = Object.keys(sourceColumns).map((key) => key.replace('?', ''))
  const pairs = map
    .split(',')
    .filter(Boolean)
    .map((pair) => pair.split('=', 2).map((text) => text.trim()) as [string, string | undefined])
  const wrong = pairs.find(([field, column]) => !fields.includes(field) || !column)
  if (wrong !== undefined) {
    throw new OptionError(`--map: expected ${fields.join(', ')}, each like id=COLUMN, got "${wrong[0]}".`)
  }
  return Object.fromEntries(pairs)
}
