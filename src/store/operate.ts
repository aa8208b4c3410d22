/** What an operator does to many turns at once, and to all runners. */
import type { Database, Statement } from './database.ts'

export type TurnOfMessage = { tenantId: string; sessionId: string; userId: string; messageId: string; round: number }

const columns = `tenant_id as "tenantId", session_id as "sessionId", user_id as "userId", message_id as "messageId", round`

const failedStatement: Statement = {
  name: 'failed-turns',
  text: `select ${columns} from holdfast.turns t
     where state = 'failed' and updated_at > now() - make_interval(secs => $1)
       and exists (select from holdfast.messages m where m.tenant_id = t.tenant_id and m.session_id = t.session_id
         and m.id = t.message_id and m.error ->> 'canRetry' = 'true')
       and exists (select from holdfast.messages r where r.tenant_id = t.tenant_id and r.session_id = t.session_id
         and r.id = t.reply_id and r.shown)
     order by updated_at`,
}

/** Turns that failed within these seconds and may be tried again, of replies that are shown. */
export function failedTurns(database: Database, sinceSeconds: number): Promise<TurnOfMessage[]> {
  return database.query('read', failedStatement, [sinceSeconds])
}

const queuedStatement: Statement = {
  name: 'queued-turns',
  text: `select ${columns} from holdfast.turns
     where state = 'queued' and updated_at < now() - make_interval(secs => $1) order by position`,
}

/** Turns that have waited for longer than these seconds. */
export function queuedTurns(database: Database, olderSeconds: number): Promise<TurnOfMessage[]> {
  return database.query('read', queuedStatement, [olderSeconds])
}

const pauseStatement: Statement = {
  name: 'set-paused',
  text: `update holdfast.meta set paused = $1 where only_row returning
    (select count(*)::int from holdfast.turns where state = 'running') as running`,
}

/** No runner of any process claims anything from now on, or they do again. Resolves to how many turns run now. */
export async function setPaused(database: Database, paused: boolean): Promise<number> {
  return (await database.query<{ running: number }>('turns', pauseStatement, [paused]))[0]?.running ?? 0
}
