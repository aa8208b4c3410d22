/** What the assistant says by itself: a message without a turn. */
import type { Event } from '../core/event.ts'
import type { Message } from '../core/message.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'

export type Saying = {
  tenantId: string
  sessionId: string
  messageId: string
  /** JSON text of the parts and of the metadata (or null), already checked and bounded. */
  parts: string
  metadata: string | null
  bodyHash: string
  preview: string | null
  lane: string
}

/** `same`: this id with the same body is stored already. */
export type Said =
  | { outcome: 'said'; seq: number; message: Message; event: Event }
  | { outcome: 'same'; seq: number; message: Message }
  | { outcome: 'conflict' }
  | { outcome: 'not_found' }

const sayStatement: Statement = {
  name: 'say',
  text: 'select holdfast.say($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7, $8) as answer',
}

export async function say(database: Database, saying: Saying): Promise<Said> {
  type Answer =
    | Exclude<Said, { outcome: 'said' }>
    | { outcome: 'said'; seq: number; message: Message; event: EventJson }
  const { tenantId, sessionId, messageId, parts, metadata, bodyHash, preview, lane } = saying
  const values = [tenantId, sessionId, messageId, parts, metadata, bodyHash, preview, lane]
  const answer = (await database.query<{ answer: Answer }>('turns', sayStatement, values))[0]!.answer
  return answer.outcome === 'said' ? { ...answer, event: eventOf(answer.event) } : answer
}

const saidStatement: Statement = {
  name: 'said-message',
  text: `
    select holdfast.message_json(m) as message, s.next_seq - 1 as seq
      from holdfast.messages m join holdfast.sessions s on s.tenant_id = m.tenant_id and s.id = m.session_id
     where m.tenant_id = $1 and m.session_id = $2 and m.id = $3 and m.turn_id is null`,
}

/** Null: there is no such message, or it belongs to a turn. `seq` is the log's last. */
export async function saidMessage(
  database: Database,
  { tenantId, sessionId, messageId }: Pick<Saying, 'tenantId' | 'sessionId' | 'messageId'>,
): Promise<{ message: Message; seq: number } | null> {
  type Row = { message: Message; seq: number }
  return (await database.query<Row>('read', saidStatement, [tenantId, sessionId, messageId]))[0] ?? null
}
