/** What an operator does to many turns at once, and to all runners. */
import type { Database, Statement } from './database.ts'

export type TurnOfMessage = { tenantId: string; sessionId: string; messageId: string; round: number }

/** So many turns are read at a time: an outage leaves any number behind. */
const pageMax = 1_000

const columns = `tenant_id as "tenantId", session_id as "sessionId", message_id as "messageId", round,
  id, position, updated_at::text as at`
type Row = TurnOfMessage & { id: string; position: number; at: string }

const agoStatement: Statement = {
  name: 'moments',
  text: `select now()::text as now, (now() - make_interval(secs => $1))::text as ago`,
}

/** Moments of the database's clock, as it writes them: a `Date` has no microseconds. */
async function moments(database: Database, seconds: number): Promise<{ now: string; ago: string }> {
  return (await database.query<{ now: string; ago: string }>('read', agoStatement, [seconds]))[0]!
}

const failedStatement: Statement = {
  name: 'failed-turns',
  text: `select ${columns} from holdfast.turns t
     where state = 'failed' and (updated_at, id) > ($1::timestamptz, $2::uuid) and updated_at <= $3::timestamptz
       and exists (select from holdfast.messages m where m.tenant_id = t.tenant_id and m.session_id = t.session_id
         and m.id = t.message_id and m.error ->> 'canRetry' = 'true')
       and exists (select from holdfast.messages r where r.tenant_id = t.tenant_id and r.session_id = t.session_id
         and r.id = t.reply_id and r.shown)
     order by updated_at, id limit $4`,
}

const firstId = '00000000-0000-0000-0000-000000000000'

/**
 * Turns that failed within these seconds and may be tried again, of replies that are shown; in pages. None that fails
 * only now: a retry that fails again is not retried for ever.
 */
export async function* failedTurns(database: Database, sinceSeconds: number): AsyncGenerator<TurnOfMessage[]> {
  const { now, ago } = await moments(database, sinceSeconds)
  for (let at = ago, id = firstId; ; ) {
    const page = await database.query<Row>('read', failedStatement, [at, id, now, pageMax])
    yield page
    const last = page.at(-1)
    if (last === undefined || page.length < pageMax) return
    ;({ at, id } = last)
  }
}

const queuedStatement: Statement = {
  name: 'queued-turns',
  text: `select ${columns} from holdfast.turns
     where state = 'queued' and updated_at < $1::timestamptz and (position, id) < ($2, $3::uuid)
     order by position desc, id desc limit $4`,
}

const lastPosition = 2_147_483_647
const lastId = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

/**
 * Turns that have waited for longer than these seconds, in pages; of a session the last first, so that to stop one makes
 * no other begin.
 */
export async function* queuedTurns(database: Database, olderSeconds: number): AsyncGenerator<TurnOfMessage[]> {
  const { ago } = await moments(database, olderSeconds)
  for (let position = lastPosition, id = lastId; ; ) {
    const page = await database.query<Row>('read', queuedStatement, [ago, position, id, pageMax])
    yield page
    const last = page.at(-1)
    if (last === undefined || page.length < pageMax) return
    ;({ position, id } = last)
  }
}

const pauseStatement: Statement = {
  name: 'set-paused',
  text: `update holdfast.meta set paused = $1 where only_row returning
    (select count(*)::int from holdfast.turns where state = 'running') as running`,
}

/**
 * No runner of any process claims anything from now on, or they do again. Resolves to how many turns run now; null where
 * no server has ever run on this database, and nothing was set.
 */
export async function setPaused(database: Database, paused: boolean): Promise<number | null> {
  return (await database.query<{ running: number }>('turns', pauseStatement, [paused]))[0]?.running ?? null
}

const pausedStatement: Statement = { name: 'is-paused', text: 'select paused from holdfast.meta where only_row' }

export async function isPaused(database: Database): Promise<boolean> {
  return (await database.query<{ paused: boolean }>('read', pausedStatement, []))[0]?.paused ?? false
}
