/** The outbox: jobs of the app and events for its webhooks. Each transition is one function of sql/0016. */
import type { Event } from '../core/event.ts'
import type { Json } from '../core/json.ts'
import type { Ending } from '../core/outbox.ts'
import type { Database, Statement } from './database.ts'

/** Topics of webhooks begin so; the rest of it is the webhook's name. */
export const webhookTopic = 'webhook:'

export type Adding = {
  tenantId: string
  topic: string
  /** JSON text, already checked and bounded. */
  payload: string
  key: string | null
  id: string
  delayMs: number
}

export const addStatement: Statement = {
  name: 'outbox-add',
  text: 'select holdfast.outbox_add($1, $2::json, $3, $4, $5, $6) as id',
}

export const addValues = ({ topic, payload, key, id, delayMs, tenantId }: Adding): unknown[] => {
  return [topic, payload, key, id, delayMs, tenantId]
}

/** In a transaction of its own. Rejects with `bad_data` and this code where the id was used for something else. */
export async function addToOutbox(database: Database, adding: Adding): Promise<void> {
  await database.query('outbox', addStatement, addValues(adding))
}
export const idUsedCode = '23505'

/** `tries`: this one counted. `attempt`: names this claim; what is said of an earlier one changes nothing. */
export type Taken = {
  n: number
  tenantId: string
  topic: string
  id: string
  key: string | null
  payload: Json
  /** Of a webhook's event, whose seq is `payload`. */
  sessionId: string | null
  attempt: number
  tries: number
}

const takeStatement: Statement = {
  name: 'take-outbox',
  text: `
    select holdfast.take_outbox($1, $2, $3) as answer,
      (select ceil(extract(epoch from min(d.due_at) - clock_timestamp()) * 1000)::float8
        from unnest($1::text[]) t(topic) cross join lateral (
          select o.due_at from holdfast.outbox o where o.topic = t.topic and o.due_at > now() order by o.due_at limit 1) d)
        as "dueInMs"`,
}

/** Of each topic as many as its limit says. `more`: ask again at once. `dueInMs`: when the next one of these topics may be taken. Null: none waits for its time. */
export async function takeOutbox(
  database: Database,
  ask: { topics: readonly string[]; limits: readonly number[]; leaseMs: number },
): Promise<{ taken: Taken[]; more: boolean; dueInMs: number | null }> {
  type Row = { answer: { taken: Taken[]; more: boolean }; dueInMs: number | null }
  const { answer, dueInMs } = (
    await database.query<Row>('outbox', takeStatement, [ask.topics, ask.limits, ask.leaseMs])
  )[0]!
  return { ...answer, dueInMs }
}

const renewStatement: Statement = {
  name: 'renew-outbox',
  text: `
    update holdfast.outbox set due_at = clock_timestamp() + make_interval(secs => $3 / 1000.0)
     where n in (
      select o.n from unnest($1::bigint[], $2::int[]) x(n, attempt)
        join holdfast.outbox o on o.n = x.n and o.attempt = x.attempt and o.state = 'running'
       order by o.n for no key update of o skip locked)
    returning n`,
}

/**
 * Those whose lease lasts longer by now. The others are held by somebody else, or a moment from being so. It waits for nobody,
 * and not on the connections on which adding one may wait for an app's transaction.
 */
export async function renewOutbox(
  database: Database,
  held: readonly { n: number; attempt: number }[],
  leaseMs: number,
): Promise<Set<number>> {
  const values = [held.map(({ n }) => n), held.map(({ attempt }) => attempt), leaseMs]
  return new Set((await database.query<{ n: number }>('read', renewStatement, values)).map(({ n }) => n))
}

const endStatement: Statement = {
  name: 'end-outbox',
  text: 'select holdfast.end_outbox($1, $2, $3, $4, $5, $6) as is_held',
}

/** Does nothing where it is not held any more. May be asked again. */
export async function endOutbox(
  database: Database,
  { n, attempt }: { n: number; attempt: number },
  ending: Ending,
): Promise<void> {
  const afterMs = ending.state === 'due' ? Math.ceil(ending.afterMs) : 0
  const error = ending.state === 'done' ? null : ending.error
  const untried = ending.state === 'due' && ending.untried === true
  await database.query('outbox', endStatement, [n, attempt, ending.state, afterMs, error, untried])
}

const sweepStatement: Statement = {
  name: 'sweep-outbox',
  text: `
    with gone as materialized (
      select n from holdfast.outbox where gone_at < now() order by gone_at limit $1 for update skip locked),
    removed as (delete from holdfast.outbox o using gone where o.n = gone.n returning 1)
    select count(*)::int as n from removed`,
}

/** What ended some time ago. */
export async function sweepOutbox(database: Database, limit: number): Promise<number> {
  return (await database.query<{ n: number }>('turns', sweepStatement, [limit]))[0]!.n
}

const repairStatement: Statement = { name: 'repair-outbox', text: 'select holdfast.repair_outbox($1, $2) as answer' }
/** The first of all keys. */
export const firstKey: readonly string[] = ['', '', '']

/** Keys whose head somebody has removed by hand go on. `next`: from where to look on. */
export async function repairOutbox(
  database: Database,
  after: readonly string[],
  keys: number,
): Promise<{ repaired: number; next: readonly string[] }> {
  type Row = { answer: { repaired: number; next: string[] | null } }
  const [row] = await database.query<Row>('turns', repairStatement, [after, keys])
  const { repaired, next } = row!.answer
  return { repaired, next: next ?? firstKey }
}

const webhookStatement: Statement = {
  name: 'webhook-seen',
  text: `
    insert into holdfast.webhooks (name, events) values ($1, $2)
    on conflict (name) do update set events = excluded.events, seen_at = clock_timestamp()`,
}

/** From now on, and for a day, these events are written for it. Null: all. */
export async function webhookSeen(database: Database, name: string, events: readonly string[] | null): Promise<void> {
  await database.query('outbox', webhookStatement, [name, events])
}

const disableStatement: Statement = {
  name: 'disable-webhook',
  text: `
    with off as (
      update holdfast.webhooks set disabled_at = clock_timestamp(), disabled_why = $2
       where name = $1 and disabled_at is null)
    update holdfast.outbox set due_at = clock_timestamp()
     where n in (select n from holdfast.outbox where topic = 'webhook:' || $1 and due_at > clock_timestamp()
       and state = 'due' for no key update skip locked)`,
}

/** Nothing more is written for it until it is enabled. What waits is looked at now, to end as dead letters. */
export async function disableWebhook(database: Database, name: string, why: string): Promise<void> {
  await database.query('outbox', disableStatement, [name, why])
}

const isDisabledStatement: Statement = {
  name: 'is-webhook-disabled',
  text: 'select disabled_why as why from holdfast.webhooks where name = $1 and disabled_at is not null',
}

/** Null: it is not. Else why it is. */
export async function disabledWhy(database: Database, name: string): Promise<string | null> {
  return (await database.query<{ why: string }>('outbox', isDisabledStatement, [name]))[0]?.why ?? null
}

const eventStatement: Statement = {
  name: 'event-of-webhook',
  text: `
    select seq, type, turn_id as "turnId", position, attempt, audience, data::text as json,
        to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as at
      from holdfast.events where tenant_id = $1 and session_id = $2 and seq = $3`,
}

/** Null: its session was deleted. */
export async function eventOfWebhook(
  database: Database,
  ask: { tenantId: string; sessionId: string; seq: number },
): Promise<Event | null> {
  return (await database.query<Event>('outbox', eventStatement, [ask.tenantId, ask.sessionId, ask.seq]))[0] ?? null
}
