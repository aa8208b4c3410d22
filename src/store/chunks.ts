/**
 * Chunks go in for all attempts of a process in one statement. It locks the turns that it writes for and tells which
 * are still held: a plain join is no fence (202 of 400 stops were followed by a chunk stored and answered as held, and
 * `for key share` does not help). Turns that somebody else has locked are skipped, so that nobody waits for a process
 * that was paused in a transition.
 */
import type { Database, Statement } from './database.ts'

export type ChunkRow = {
  tenantId: string
  turnId: string
  attempt: number
  index: number
  n: number
  /** JSON text of an array of chunks. */
  json: string
  /** The attempt's first: the reply's status becomes `streaming`. */
  first: boolean
}

/**
 * Locks, in the order of their ids, those of the turns `x(tenant, turn, attempt, …)` whose attempt still runs.
 *
 * The form keeps one plan, whatever is known of the tables: for each x one look at the primary key, which begins with
 * the id. On the empty tables of a first start the planner otherwise walks over all running turns, by a partial index
 * or by the tenant, once for each x (500 turns: 83 ms instead of 6, until the first analyze). `limit 1` keeps x on the
 * outside; `|| ''` keeps the other indexes out.
 */
const heldOf = (x: string, columns: string) => `
    held as materialized (
      select ${columns} from (select * from ${x} order by tenant, turn) x
       cross join lateral (select * from holdfast.turns t
         where t.id = x.turn and t.attempt = x.attempt and t.tenant_id || '' = x.tenant and t.state || '' = 'running'
           and t.stopping is null
         limit 1 for no key update of t skip locked) t)`
const renewOf = (leaseMs: string) => `
    renew as (
      update holdfast.turns t set lease_until = clock_timestamp() + make_interval(secs => ${leaseMs} / 1000.0)
       where t.state || '' = 'running' and t.id = any(array(select id from held
         where lease_until < clock_timestamp() + make_interval(secs => ${leaseMs} / 1500.0))))`

const attempts = 'unnest($1::text[], $2::uuid[], $3::int[]) x(tenant, turn, attempt)'
const rows = `unnest($1::text[], $2::uuid[], $3::int[], $4::int[], $5::int[], $6::text[], $7::boolean[])
        x(tenant, turn, attempt, index, n, data, first)`
const held = `${heldOf(rows, 't.tenant_id, t.id, t.session_id, t.reply_id, t.lease_until, x.attempt, x.index, x.n, x.data, x.first')},
    ${renewOf('$8')}`
// One row for all of them: each row of an answer costs as much as a token.
const insert = `,
    stored as (
      insert into holdfast.chunks (tenant_id, turn_id, attempt, index, n, data)
        select tenant_id, id, attempt, index, n, data::json from held returning turn_id)
    select string_agg(turn_id::text, ',') as turns from stored`

const append: Statement = { name: 'append', text: `with ${held} ${insert}` }
const appendFirst: Statement = {
  name: 'append-first',
  text: `with ${held},
    shown as (
      update holdfast.messages m set status = 'streaming', updated_at = clock_timestamp()
        from held h where h.first and m.tenant_id = h.tenant_id and m.session_id = h.session_id and m.id = h.reply_id
          and m.status = 'pending')
    ${insert}`,
}

/** Stores what is still held and renews leases with under two thirds left. Resolves to the turns that were held. */
export async function appendIfHeld(database: Database, chunks: ChunkRow[], leaseMs: number): Promise<Set<string>> {
  const statement = chunks.some((row) => row.first) ? appendFirst : append
  const stored = await database.query<{ turns: string | null }>('flush', statement, [
    array(chunks, (row) => quoted(row.tenantId)),
    array(chunks, (row) => row.turnId),
    array(chunks, (row) => row.attempt),
    array(chunks, (row) => row.index),
    array(chunks, (row) => row.n),
    // Its control characters are written as escapes already, so doubling quotes and backslashes is all that is left.
    array(chunks, (row) => JSON.stringify(row.json)),
    array(chunks, (row) => row.first),
    leaseMs,
  ])
  return new Set(stored[0]?.turns?.split(','))
}

/** An array as Postgres reads it: the driver's own way looks at each value twice. */
function array<T>(rows: T[], field: (row: T) => string | number | boolean): string {
  return `{${rows.map(field).join(',')}}`
}

function quoted(text: string): string {
  return `"${text.replace(/["\\]/g, '\\$&')}"`
}

type AttemptRef = { tenantId: string; turnId: string; attempt: number }

const renewLeases: Statement = {
  name: 'renew',
  text: `with ${heldOf(attempts, 't.id, t.lease_until')}, ${renewOf('$4')} select id as turn_id from held`,
}

/** Keeps leases of attempts that have nothing to store. Resolves to the turns that are held. */
export async function renewIfHeld(database: Database, asked: AttemptRef[], leaseMs: number): Promise<Set<string>> {
  const rows = await database.query<{ turn_id: string }>('flush', renewLeases, [...refs(asked), leaseMs])
  return new Set(rows.map((row) => row.turn_id))
}

const readHolders: Statement = {
  name: 'read-holders',
  text: `select t.id as turn_id from ${attempts}
     cross join lateral (select id from holdfast.turns t
       where t.id = x.turn and t.attempt = x.attempt and t.tenant_id || '' = x.tenant and t.state || '' = 'running'
         and t.stopping is null limit 1) t`,
}

/** Of turns that an append or a renewal skipped: which are still ours, so only busy. The others are lost. */
export async function stillHeld(database: Database, asked: AttemptRef[]): Promise<Set<string>> {
  const rows = await database.query<{ turn_id: string }>('flush', readHolders, refs(asked))
  return new Set(rows.map((row) => row.turn_id))
}

const lockTurns: Statement = {
  name: 'lock-turns',
  text: 'select holdfast.stored_chunks($1::text[], $2::uuid[], $3::int[]) as row',
}

/**
 * After an append whose answer was lost: where each attempt's chunks end in the log. It waits for the turns' locks
 * first, so that the lost statement has either committed or gone.
 */
export async function storedNextIndexes(database: Database, asked: AttemptRef[]): Promise<Map<string, number>> {
  type Row = { row: { turnId: string; nextIndex: number } }
  const rows = await database.query<Row>('flush', lockTurns, refs(asked))
  return new Map(rows.map(({ row }) => [row.turnId, row.nextIndex]))
}

function refs(asked: AttemptRef[]): unknown[] {
  return [asked.map((each) => each.tenantId), asked.map((each) => each.turnId), asked.map((each) => each.attempt)]
}
