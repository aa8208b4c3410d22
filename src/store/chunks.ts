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

const held = `
    held as materialized (
      select t.tenant_id, t.id, t.session_id, t.reply_id, x.attempt, x.index, x.n, x.data, x.first, t.lease_until
        from unnest($1::text[], $2::uuid[], $3::int[], $4::int[], $5::int[], $6::text[], $7::boolean[])
          x(tenant, turn, attempt, index, n, data, first)
        join holdfast.turns t on t.tenant_id = x.tenant and t.id = x.turn and t.attempt = x.attempt
          and t.state = 'running' and t.stopping is null
       order by t.tenant_id, t.id for no key update of t skip locked),
    renew as (
      update holdfast.turns t set lease_until = clock_timestamp() + make_interval(secs => $8 / 1000.0)
       where (t.tenant_id, t.id) in (select tenant_id, id from held
         where lease_until < clock_timestamp() + make_interval(secs => $8 / 1500.0)))`
const insert = `
    insert into holdfast.chunks (tenant_id, turn_id, attempt, index, n, data)
      select tenant_id, id, attempt, index, n, data::json from held returning turn_id`

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
export async function appendIfHeld(database: Database, rows: ChunkRow[], leaseMs: number): Promise<Set<string>> {
  const statement = rows.some((row) => row.first) ? appendFirst : append
  const stored = await database.query<{ turn_id: string }>('flush', statement, [
    rows.map((row) => row.tenantId),
    rows.map((row) => row.turnId),
    rows.map((row) => row.attempt),
    rows.map((row) => row.index),
    rows.map((row) => row.n),
    rows.map((row) => row.json),
    rows.map((row) => row.first),
    leaseMs,
  ])
  return new Set(stored.map((row) => row.turn_id))
}

type AttemptRef = { tenantId: string; turnId: string; attempt: number }

const renewLeases: Statement = {
  name: 'renew',
  text: `
    with held as materialized (
      select t.tenant_id, t.id, t.lease_until from unnest($1::text[], $2::uuid[], $3::int[]) x(tenant, turn, attempt)
        join holdfast.turns t on t.tenant_id = x.tenant and t.id = x.turn and t.attempt = x.attempt
          and t.state = 'running' and t.stopping is null
       order by t.tenant_id, t.id for no key update of t skip locked),
    renew as (
      update holdfast.turns t set lease_until = clock_timestamp() + make_interval(secs => $4 / 1000.0)
       where (t.tenant_id, t.id) in (select tenant_id, id from held
         where lease_until < clock_timestamp() + make_interval(secs => $4 / 1500.0)))
    select id as turn_id from held`,
}

/** Keeps leases of attempts that have nothing to store. Resolves to the turns that are held. */
export async function renewIfHeld(database: Database, attempts: AttemptRef[], leaseMs: number): Promise<Set<string>> {
  const rows = await database.query<{ turn_id: string }>('flush', renewLeases, [...refs(attempts), leaseMs])
  return new Set(rows.map((row) => row.turn_id))
}

const readHolders: Statement = {
  name: 'read-holders',
  text: `select t.id as turn_id from unnest($1::text[], $2::uuid[], $3::int[]) x(tenant, turn, attempt)
     join holdfast.turns t on t.tenant_id = x.tenant and t.id = x.turn and t.attempt = x.attempt
       and t.state = 'running' and t.stopping is null`,
}

/** Of turns that an append or a renewal skipped: which are still ours, so only busy. The others are lost. */
export async function stillHeld(database: Database, attempts: AttemptRef[]): Promise<Set<string>> {
  const rows = await database.query<{ turn_id: string }>('flush', readHolders, refs(attempts))
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
export async function storedNextIndexes(database: Database, attempts: AttemptRef[]): Promise<Map<string, number>> {
  type Row = { row: { turnId: string; nextIndex: number } }
  const rows = await database.query<Row>('flush', lockTurns, refs(attempts))
  return new Map(rows.map(({ row }) => [row.turnId, row.nextIndex]))
}

function refs(attempts: AttemptRef[]): unknown[] {
  return [
    attempts.map((each) => each.tenantId),
    attempts.map((each) => each.turnId),
    attempts.map((each) => each.attempt),
  ]
}
