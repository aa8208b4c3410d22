/** Conversations that come in from elsewhere, and go out as lines. */
import type { Event } from '../core/event.ts'
import type { Json, JsonObject } from '../core/json.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'

/** Checked and bounded. `line`: where it stood. `hash`: of its content, so that the same one again is known. */
export type ImportedMessage = {
  line: number
  id: string
  role: 'user' | 'assistant'
  parts: Json[]
  metadata: JsonObject
  createdAt: string
  repliesTo: string | null
  model: string | null
  hash: string
}
export type ImportedSession = { title: string | null; metadata: JsonObject | null; createdAt: string | null }

/**
 * `at`: when it was asked, for those of the same request that come after. `spent`: no more is taken of them for so long.
 * `erased`: they were deleted since then. `reply`: it replies to what was not imported. `conflict`: its id is another message's. `waiting`: of the new ones, replies
 * whose message has still to come.
 */
export type ImportAnswer =
  | {
      outcome: 'imported'
      at: string
      made: boolean
      new: number
      known: number
      waiting: number
      bad: { line: number; why: 'reply' | 'conflict' }[]
      events: Event[]
    }
  | { outcome: 'foreign' }
  | { outcome: 'full' }
  | { outcome: 'erased' }
  | { outcome: 'spent'; freeInMs: number }

const importStatement: Statement = {
  name: 'import-rows',
  text: 'select holdfast.import_rows($1, $2, $3, $4::json, $5::json, $6, $7, $8) as answer',
}

/**
 * Of one session, in one transaction. `dayMax`: so many new rows of one user a day; null: any number. `since`: `at` of the
 * first answer of this request.
 */
export async function importRows(
  database: Database,
  ask: {
    tenantId: string
    userId: string
    sessionId: string
    session: ImportedSession | null
    messages: ImportedMessage[]
    messagesMax: number
    dayMax: number | null
    since: string | null
  },
): Promise<ImportAnswer> {
  type Imported = Extract<ImportAnswer, { outcome: 'imported' }>
  type Answer = (Omit<Imported, 'events'> & { events: EventJson[] }) | Exclude<ImportAnswer, Imported>
  const rows = await database.query<{ answer: Answer }>('accept', importStatement, [
    ask.tenantId,
    ask.userId,
    ask.sessionId,
    ask.session && JSON.stringify(ask.session),
    JSON.stringify(ask.messages),
    ask.messagesMax,
    ask.dayMax,
    ask.since,
  ])
  const { answer } = rows[0]!
  return answer.outcome === 'imported' ? { ...answer, events: answer.events.map(eventOf) } : answer
}

const sessionsStatement: Statement = {
  name: 'export-sessions',
  text: `
    select json_build_object('id', s.id, 'title', s.title, 'metadata', s.metadata, 'createdAt', holdfast.iso(s.created_at),
        'role', m.role) as session
      from holdfast.members m join holdfast.sessions s on s.tenant_id = m.tenant_id and s.id = m.session_id
     where m.tenant_id = $1 and m.user_id = $2 and m.session_id > $3 and ($4::text is null or m.session_id = $4)
     order by m.session_id limit $5`,
}

export type ExportedSession = {
  id: string
  title: string | null
  metadata: JsonObject
  createdAt: string
  role: string
}

/** Those that the user is a member of, in the order of their ids. */
export async function exportedSessions(
  database: Database,
  ask: { tenantId: string; userId: string; after: string; only: string | null; limit: number },
): Promise<ExportedSession[]> {
  const values = [ask.tenantId, ask.userId, ask.after, ask.only, ask.limit]
  const rows = await database.query<{ session: ExportedSession }>('read', sessionsStatement, values)
  return rows.map(({ session }) => session)
}

const messagesStatement: Statement = {
  name: 'export-messages',
  // A membership that has ended ends what is read.
  text: `
    select json_build_object('id', m.id, 'role', m.role, 'author', m.author, 'parts', m.parts, 'metadata', m.metadata,
        'status', m.status, 'error', m.error, 'lane', m.lane, 'repliesTo', m.replies_to, 'isShown', m.shown, 'model', m.model,
        'inputTokens', m.input_tokens, 'outputTokens', m.output_tokens, 'createdAt', holdfast.iso(m.created_at)) as message,
        m.position
      from holdfast.messages m
     where m.tenant_id = $1 and m.session_id = $2 and holdfast.may_see(m.audience, $3)
       and exists (select from holdfast.members o where o.tenant_id = $1 and o.session_id = $2 and o.user_id = $3)
       and (m.position > $4 or m.position = $4 and (m.role < $5 or m.role = $5 and m.id > $6))
     order by m.position, m.role desc, m.id limit $7`,
}

export type ExportedMessage = {
  id: string
  role: 'user' | 'assistant'
  author: string | null
  parts: JsonObject[]
  metadata: JsonObject | null
  status: string
  error: JsonObject | null
  lane: string
  repliesTo: string | null
  isShown: boolean
  model: string | null
  inputTokens: number | null
  outputTokens: number | null
  createdAt: string
}
export type ExportPlace = { position: number; role: string; id: string }

/** All that the user may see of a session, shown or not, from its beginning; after a place. */
export async function exportedMessages(
  database: Database,
  ask: { tenantId: string; sessionId: string; userId: string; after: ExportPlace; limit: number },
): Promise<{ message: ExportedMessage; position: number }[]> {
  const { position, role, id } = ask.after
  return await database.query('read', messagesStatement, [
    ask.tenantId,
    ask.sessionId,
    ask.userId,
    position,
    role,
    id,
    ask.limit,
  ])
}
