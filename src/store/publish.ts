/** Events that the app publishes in a session. */
import type { Event } from '../core/event.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'

export type Publishing = {
  tenantId: string
  sessionId: string
  /** One of the app's: `wrongAppEvent` (src/core/app-event.ts). */
  type: string
  /** Null: everyone. `user:ID`: only this user. `not:ID`: all but this user. */
  audience: string | null
  /** JSON text, already checked and bounded. */
  data: string
  /** What makes a second try safe, and the hash of what is published with it. */
  id: string
  hash: string
}

/** `same`: this id with the same event is stored already, and was told. `conflict`: with another. */
export type Published =
  | { outcome: 'published' | 'same'; event: Event }
  | { outcome: 'conflict' }
  | { outcome: 'not_found' }

const publishStatement: Statement = {
  name: 'publish',
  text: 'select holdfast.publish($1, $2, $3, $4, $5::json, $6, $7) as answer',
}

export async function publish(database: Database, publishing: Publishing): Promise<Published> {
  type Answer = { outcome: 'published' | 'same'; event: EventJson } | { outcome: 'conflict' | 'not_found' }
  const { tenantId, sessionId, type, audience, data, id, hash } = publishing
  const values = [tenantId, sessionId, type, audience, data, id, hash]
  const answer = (await database.query<{ answer: Answer }>('turns', publishStatement, values))[0]!.answer
  return 'event' in answer ? { ...answer, event: eventOf(answer.event) } : answer
}

const sweepStatement: Statement = {
  name: 'sweep-published',
  text: `
    delete from holdfast.published where (tenant_id, session_id, id) in (
      select tenant_id, session_id, id from holdfast.published where at < statement_timestamp() - interval '30 days'
        order by at limit $1 for update skip locked)
    returning 1`,
}

/** Ids of 30 days ago: with one of them something is published anew. Answers how many were removed. */
export async function sweepPublished(database: Database, rowsMax: number): Promise<number> {
  return (await database.query('turns', sweepStatement, [rowsMax])).length
}
