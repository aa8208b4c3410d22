/** `holdfast doctor`: looks at what the server needs, one line each, and says what to do about what is wrong. */
import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { defineCommand } from 'citty'
import { databaseOf } from '../options.ts'
import { type Address, type Database, openDatabase } from '../store/database.ts'
import { schemaState } from '../store/migrations.ts'
import { isPaused } from '../store/operate.ts'
import { exit, lineOf } from './exit.ts'
import { type Probe, providerProbe } from './model.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'
import { restored } from './restored.ts'
import { readSettings, type Settings } from './settings.ts'

export const doctorCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: { name: 'doctor', description: 'Checks Node, database, provider and data directory, and says what to do.' },
  args: {
    restored: { type: 'boolean', description: 'After a backup was put back: no cursor given before counts any more.' },
  },
  run: ({ args }) => (args.restored === true ? restored() : doctor()).catch(exit),
})

/** `advice` is there where something should be done; `bad` where the server would not work. */
type Finding = { what: string; says: string; bad?: boolean; advice?: string }

async function doctor(): Promise<void> {
  const settings = readSettings(process.env)
  const database = databaseOf(settings.options.database)
  const findings = [
    node(process.versions.node),
    ...(database === undefined ? await embedded(settings) : await external(database)),
    await provider(providerProbe(process.env)),
  ]
  for (const { what, says, bad, advice } of findings) {
    process.stdout.write(`${bad ? 'bad ' : advice ? 'note' : 'ok  '}  ${what.padEnd(9)} ${says}\n`)
    if (advice) process.stdout.write(`                ${advice}\n`)
  }
  process.exitCode = findings.some((each) => each.bad) ? 1 : 0
}

export function node(version: string): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major > 20 || (major === 20 && minor >= 19)) return { what: 'node', says: version }
  return { what: 'node', says: version, bad: true, advice: 'Install Node 20.19 or newer.' }
}

async function embedded({ options }: Settings): Promise<Finding[]> {
  const dataDir = resolve(options.dataDir ?? '.holdfast')
  const written = writable(dataDir)
  if (!written.ok) {
    const advice = `Make it writable for this user, or set HOLDFAST_DATA_DIR to a directory that is.`
    return [{ what: 'data', says: `${dataDir} cannot be written`, bad: true, advice }]
  }
  const data: Finding = { what: 'data', says: written.exists ? dataDir : `${dataDir} (made at the first start)` }
  const { addressIfRunning, startEmbedded } = await import('../store/embedded.ts')
  try {
    const used = await addressIfRunning(dataDir)
    if (used) return [{ ...data, says: `${data.says}, in use by a running server` }, ...(await lookAt(used))]
    const own = await startEmbedded({ dataDir, log: () => undefined })
    const findings = await lookAt(own.connection).finally(() => own.stop())
    return [data, ...findings]
  } catch (error) {
    // One that is only starting is how it should be, too.
    const line = lineOf(error)
    if (/is in use by process/.test(line))
      return [data, { what: 'database', says: 'embedded, in use by a running server' }]
    return [data, { what: 'database', says: 'embedded, does not start', bad: true, advice: line }]
  }
}

/** Of a directory that is not there yet, the one that it would be made in is asked. */
function writable(directory: string): { ok: boolean; exists: boolean } {
  const exists = existsSync(directory)
  let place = directory
  while (!existsSync(place) && dirname(place) !== place) place = dirname(place)
  try {
    accessSync(place, constants.W_OK | constants.X_OK)
    return { ok: statSync(place).isDirectory(), exists }
  } catch {
    return { ok: false, exists }
  }
}

async function external(url: string): Promise<Finding[]> {
  try {
    return await lookAt(url)
  } catch (error) {
    return [{ what: 'database', says: 'does not answer', bad: true, advice: lineOf(error) }]
  }
}

async function lookAt(address: Address): Promise<Finding[]> {
  const database = openDatabase(address, { poolMax: 6, onError: () => undefined })
  return await inspect(database).finally(() => database.close())
}

type Row = { version: number; name: string; fsync: string; commits: string; creates: boolean; standby: boolean }

async function inspect(database: Database): Promise<Finding[]> {
  const row = await database.transaction(async (query) => {
    const { rows } = await query(`select current_setting('server_version_num')::int as version,
      current_setting('server_version') as name, current_setting('fsync') as fsync,
      current_setting('synchronous_commit') as commits, pg_is_in_recovery() as standby,
      has_database_privilege(current_database(), 'create') or exists (select from pg_namespace n
        where n.nspname = 'holdfast' and has_schema_privilege(n.oid, 'create')) as creates`)
    return rows[0] as Row
  })
  return [version(row), durability(row), rights(row), ...(await schema(database))]
}

export function version({ version: number, name }: Pick<Row, 'version' | 'name'>): Finding {
  if (number >= 150_000) return { what: 'database', says: `PostgreSQL ${name}` }
  return {
    what: 'database',
    says: `PostgreSQL ${name}`,
    bad: true,
    advice: 'Holdfast is tested on PostgreSQL 15 and newer: upgrade it.',
  }
}

export function durability({ fsync }: Pick<Row, 'fsync'>): Finding {
  if (fsync === 'on') return { what: 'fsync', says: 'on: what was acknowledged survives a power cut' }
  return {
    what: 'fsync',
    says: 'off',
    bad: true,
    advice: 'Acknowledged messages can be lost in a power cut: set fsync = on in postgresql.conf.',
  }
}

export function rights({ creates, standby }: Pick<Row, 'creates' | 'standby'>): Finding {
  if (standby)
    return {
      what: 'rights',
      says: 'this is a read-only standby',
      bad: true,
      advice: 'Point DATABASE_URL at the primary.',
    }
  if (creates) return { what: 'rights', says: 'may create and change the schema holdfast' }
  const advice = 'Migrations need it: grant create on the database to this user, or run "holdfast migrate" as another.'
  return { what: 'rights', says: 'may not create the schema holdfast', advice }
}

async function schema(database: Database): Promise<Finding[]> {
  const { state, pending } = await schemaState(database)
  if (state === 'behind') {
    const advice = 'It is migrated at start, or in production by "holdfast migrate".'
    return [{ what: 'schema', says: `${pending.length} behind`, advice }]
  }
  const says = state === 'current' ? 'up to date' : 'made by a newer version, which is fine'
  return [{ what: 'schema', says }, turns(await isPaused(database))]
}

function turns(paused: boolean): Finding {
  if (!paused) return { what: 'turns', says: 'begin as they come' }
  const advice = 'Run "holdfast resume" when they may begin again.'
  return { what: 'turns', says: 'paused: messages are accepted, and none is answered', advice }
}

const answerMs = 5_000

async function provider(probe: Probe | null): Promise<Finding> {
  if (probe === null) {
    return {
      what: 'provider',
      says: 'the demo model',
      advice: 'Set OPENAI_API_KEY or ANTHROPIC_API_KEY for a real one.',
    }
  }
  const { name, url, headers } = probe
  try {
    const { status } = await fetch(url, { headers, signal: AbortSignal.timeout(answerMs) })
    return judged(name, status)
  } catch {
    return {
      what: 'provider',
      says: `${name} does not answer at ${new URL(url).origin}`,
      bad: true,
      advice: "Check the network, and the provider's BASE_URL if you set one.",
    }
  }
}

export function judged(name: string, status: number): Finding {
  if (status === 401 || status === 403) {
    return { what: 'provider', says: `${name} refuses the key`, bad: true, advice: 'Set a key that is valid for it.' }
  }
  if (status === 404)
    return { what: 'provider', says: `${name} answers, but not its list of models: the key is not checked` }
  if (status >= 400)
    return { what: 'provider', says: `${name} answered ${status}`, advice: 'It may be better in a moment.' }
  return { what: 'provider', says: `${name} answers and accepts the key` }
}
