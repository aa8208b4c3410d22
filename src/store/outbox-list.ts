/** The outbox as people look at it: what waits, what is dead, which webhooks there are. */
import type { Json } from '../core/json.ts'
import type { Database, Statement } from './database.ts'

export type OutboxState = 'due' | 'running' | 'done' | 'dead'

/** Without its payload, which may hold anything. */
export type OutboxEntry = {
  n: number
  tenantId: string
  topic: string
  id: string
  key: string | null
  state: OutboxState
  /** How often it was tried, since it was added or sent again. */
  tries: number
  /** What went wrong at the last try. */
  error: string | null
  at: string
  /** When it is tried (again). Null: it has ended, or waits for another one of its key. */
  dueAt: string | null
  endedAt: string | null
}

const utc = (column: string) => `to_char(${column} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
const columns = `n, tenant_id as "tenantId", topic, id, key, state, tries, error, ${utc('at')} as at,
  case when state = 'due' then ${utc('due_at')} end as "dueAt", ${utc('ended_at')} as "endedAt"`

const listStatement: Statement = {
  name: 'list-outbox',
  text: `select ${columns} from holdfast.outbox
     where ($1::text is null or state = $1) and ($2::text is null or topic = $2) and n < $3
     order by n desc limit $4`,
}
/** The dead are few among many. */
const deadStatement: Statement = {
  name: 'list-dead',
  text: `select ${columns} from holdfast.outbox
     where state = 'dead' and ($1::text is null or topic = $1) and n < $2 order by n desc limit $3`,
}

/** The last added first. */
export function listOutbox(
  database: Database,
  ask: { state: OutboxState | null; topic: string | null; before: number | null; limit: number },
): Promise<OutboxEntry[]> {
  const { state, topic, before, limit } = ask
  const page = [topic, before ?? Number.MAX_SAFE_INTEGER, limit]
  return state === 'dead'
    ? database.query('read', deadStatement, page)
    : database.query('read', listStatement, [state, ...page])
}

const readStatement: Statement = {
  name: 'read-outbox',
  text: `select ${columns}, payload, session_id as "sessionId" from holdfast.outbox where n = $1`,
}

/** `payload` of a webhook's event is its seq in the session. */
export async function readOutbox(
  database: Database,
  n: number,
): Promise<(OutboxEntry & { payload: Json; sessionId: string | null }) | null> {
  type Row = OutboxEntry & { payload: Json; sessionId: string | null }
  return (await database.query<Row>('read', readStatement, [n]))[0] ?? null
}

const retryStatement: Statement = { name: 'retry-outbox', text: 'select holdfast.retry_outbox($1) as was_dead' }

/** Sends a dead letter again, now. False: it is none. */
export async function retryOutbox(database: Database, n: number): Promise<boolean> {
  return (await database.query<{ was_dead: boolean }>('read', retryStatement, [n]))[0]!.was_dead
}

export type WebhookState = {
  name: string
  /** Null: all. */
  events: string[] | null
  state: 'on' | 'disabled' | 'gone'
  disabledAt: string | null
  disabledWhy: string | null
}

const webhooksStatement: Statement = {
  name: 'list-webhooks',
  text: `select name, events, ${utc('disabled_at')} as "disabledAt", disabled_why as "disabledWhy",
       case when disabled_at is not null then 'disabled' when seen_at > now() - interval '1 day' then 'on' else 'gone' end as state
     from holdfast.webhooks order by name`,
}

/** `gone`: no process has had it for a day, and nothing is written for it. */
export function listWebhooks(database: Database): Promise<WebhookState[]> {
  return database.query('read', webhooksStatement, [])
}

const enableStatement: Statement = {
  name: 'enable-webhook',
  text: `update holdfast.webhooks set disabled_at = null, disabled_why = null where name = $1 returning name`,
}

/** From now on events are written for it again. False: there is none of this name. */
export async function enableWebhook(database: Database, name: string): Promise<boolean> {
  return (await database.query('read', enableStatement, [name])).length === 1
}

const forgetStatement: Statement = {
  name: 'forget-webhook',
  text: 'delete from holdfast.webhooks where name = $1 returning name',
}
const forgetRowsStatement: Statement = {
  name: 'forget-webhook-rows',
  text: `
    with page as materialized (select n, topic, state from holdfast.outbox where n > $2 order by n limit $3),
    removed as (delete from holdfast.outbox o using page
      where o.n = page.n and page.topic = 'webhook:' || $1 and page.state <> 'running' returning 1)
    select coalesce(max(n), 0) as "lastN", (select count(*)::int from removed) as removed from page`,
}
const pageRows = 5_000

/** Nothing is written for it any more, unless a process has it still, and what waited for it is gone. False: there is none. */
export async function forgetWebhook(database: Database, name: string): Promise<boolean> {
  const wasThere = (await database.query('read', forgetStatement, [name])).length === 1
  let count = 0
  for (let after = 0, isMore = true; isMore; ) {
    type Row = { lastN: number; removed: number }
    const [row] = await database.query<Row>('read', forgetRowsStatement, [name, after, pageRows])
    count += row!.removed
    after = row!.lastN
    isMore = after > 0
  }
  return wasThere || count > 0
}

const waitingStatement: Statement = {
  name: 'topics-of-outbox',
  text: `select topic, count(*) filter (where state in ('due', 'running'))::int as waiting,
       count(*) filter (where state = 'dead')::int as dead
     from holdfast.outbox where state <> 'done' group by topic order by topic`,
}

/** By topic. */
export function topicsOfOutbox(database: Database): Promise<{ topic: string; waiting: number; dead: number }[]> {
  return database.query('read', waitingStatement, [])
}
