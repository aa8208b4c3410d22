import type { Event } from '../core/event.ts'
import type { JsonObject } from '../core/json.ts'
import type { Session } from '../core/message.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'

export type { Session }
export type Role = 'owner' | 'member' | 'reader'

const createStatement: Statement = {
  name: 'create-session',
  text: 'select holdfast.create_session($1, $2, $3, $4, $5::jsonb) as answer',
}

/** `same`: the caller is a member of a session with this id already. `conflict`: somebody else's. */
export async function createSession(
  database: Database,
  ask: { tenantId: string; id: string; userId: string; title: string | null; metadata: JsonObject },
): Promise<{ outcome: 'created' | 'same'; session: Session } | { outcome: 'conflict' }> {
  type Row = { answer: { outcome: 'created' | 'same'; session: Session } | { outcome: 'conflict' } }
  const values = [ask.tenantId, ask.id, ask.userId, ask.title, JSON.stringify(ask.metadata)]
  return (await database.query<Row>('accept', createStatement, values))[0]!.answer
}

const renameStatement: Statement = {
  name: 'rename-session',
  text: 'select holdfast.rename_session($1, $2, $3, $4) as answer',
}

export async function renameSession(
  database: Database,
  ask: { tenantId: string; id: string; userId: string; title: string | null },
): Promise<{ outcome: 'updated'; session: Session; event: Event } | { outcome: 'not_found' | 'forbidden' }> {
  type Answer = { outcome: 'updated'; session: Session; event: EventJson } | { outcome: 'not_found' | 'forbidden' }
  const values = [ask.tenantId, ask.id, ask.userId, ask.title]
  const answer = (await database.query<{ answer: Answer }>('turns', renameStatement, values))[0]!.answer
  return answer.outcome === 'updated' ? { ...answer, event: eventOf(answer.event) } : answer
}

/** As the server itself sees it: `unread` is some user's, and null where none is asked about. */
export type ServerSession = Omit<Session, 'unread'> & { unread: number | null }

const readStatement: Statement = {
  name: 'read-session',
  text: `
    select holdfast.session_json(s, case when $3::text is not null then holdfast.unread_of(m) end,
        case when $3::text is null then holdfast.all_asides_of(s) else holdfast.aside_of(m) end) as session
      from holdfast.sessions s
      left join holdfast.members m on m.tenant_id = s.tenant_id and m.session_id = s.id and m.user_id = $3
     where s.tenant_id = $1 and s.id = $2 and ($3::text is null or m.user_id is not null)`,
}

/** Null: there is no such session, or the user is no member of it. With the server's right where no user is named. */
export async function readSession(
  database: Database,
  tenantId: string,
  id: string,
  userId: string | null,
): Promise<ServerSession | null> {
  const rows = await database.query<{ session: ServerSession }>('read', readStatement, [tenantId, id, userId])
  return rows[0]?.session ?? null
}

const updateStatement: Statement = {
  name: 'update-session',
  text: 'select holdfast.update_session($1, $2, $3::jsonb) as answer',
}

/** What the server itself changes of a session. `metadata` replaces what was there. */
export async function updateSession(
  database: Database,
  tenantId: string,
  id: string,
  changes: { title?: string | null; metadata?: JsonObject },
): Promise<{ outcome: 'updated'; session: ServerSession; event: Event } | { outcome: 'not_found' }> {
  type Answer = { outcome: 'updated'; session: ServerSession; event: EventJson } | { outcome: 'not_found' }
  const values = [tenantId, id, JSON.stringify(changes)]
  const answer = (await database.query<{ answer: Answer }>('turns', updateStatement, values))[0]!.answer
  return answer.outcome === 'updated' ? { ...answer, event: eventOf(answer.event) } : answer
}

const giveTitleStatement: Statement = {
  name: 'give-title',
  text: 'select holdfast.give_title($1, $2, $3) as event',
}

/** Gives a title to a session that has none. Null: it has one, given by a person or just now, or is gone. */
export async function giveTitleIfNone(
  database: Database,
  ask: { tenantId: string; sessionId: string; title: string },
): Promise<Event | null> {
  const values = [ask.tenantId, ask.sessionId, ask.title]
  const rows = await database.query<{ event: EventJson | null }>('turns', giveTitleStatement, values)
  const { event } = rows[0]!
  return event && eventOf(event)
}

const firstReplyStatement: Statement = {
  name: 'first-reply',
  text: `
    select from holdfast.sessions s
     where s.tenant_id = $1 and s.id = $2 and s.title is null
       and not exists (select from holdfast.events e where e.tenant_id = s.tenant_id and e.session_id = s.id
         and e.seq < $3 and e.type = 'message.ai_response' and e.audience is null)`,
}

/** Whether the session has no title, and no complete reply before the one whose event has this seq. */
export async function isFirstUntitledReply(
  database: Database,
  ask: { tenantId: string; sessionId: string; seq: number },
): Promise<boolean> {
  const rows = await database.query('read', firstReplyStatement, [ask.tenantId, ask.sessionId, ask.seq])
  return rows.length > 0
}

/** A statement reads as of its beginning: it does not see what the function that it calls deletes. */
const membersBefore =
  'array(select user_id from holdfast.members where tenant_id = $1 and session_id = $2 order by user_id) as members'

const deleteStatement: Statement = {
  name: 'delete-session',
  text: `select holdfast.delete_session($1, $2, $3) as outcome, ${membersBefore}`,
}

/** `members`: who they were before. */
export async function deleteSession(
  database: Database,
  tenantId: string,
  id: string,
  userId: string,
): Promise<{ outcome: 'deleted' | 'not_found' | 'forbidden'; members: string[] }> {
  type Row = { outcome: 'deleted' | 'not_found' | 'forbidden'; members: string[] }
  return (await database.query<Row>('turns', deleteStatement, [tenantId, id, userId]))[0]!
}

const deleteAsServerStatement: Statement = {
  name: 'delete-session-as-server',
  text: `select holdfast.delete_session($1, $2) as outcome, ${membersBefore}`,
}

/** With the server's right. */
export async function deleteSessionAsServer(
  database: Database,
  tenantId: string,
  id: string,
): Promise<{ outcome: 'deleted' | 'not_found'; members: string[] }> {
  type Row = { outcome: 'deleted' | 'not_found'; members: string[] }
  return (await database.query<Row>('turns', deleteAsServerStatement, [tenantId, id]))[0]!
}

const roleStatement: Statement = {
  name: 'member-role',
  text: 'select role from holdfast.members where tenant_id = $1 and session_id = $2 and user_id = $3',
}

/** Null: no such session, or no member of it; nobody can tell which. */
export async function roleOf(database: Database, tenantId: string, id: string, userId: string): Promise<Role | null> {
  const rows = await database.query<{ role: Role }>('read', roleStatement, [tenantId, id, userId])
  return rows[0]?.role ?? null
}

const membershipsStatement: Statement = {
  name: 'memberships',
  text: `select x.ord::int - 1 as at from unnest($1::text[], $2::text[], $3::text[]) with ordinality x(tenant, sid, uid, ord)
     where exists (select from holdfast.members m
       where m.tenant_id = x.tenant and m.session_id = x.sid and m.user_id = x.uid)`,
}

/** Of many (tenant, session, user): which may still read. Followers are asked for in this way every few seconds. */
export async function stillMembers<T extends { tenantId: string; sessionId: string; userId: string }>(
  database: Database,
  asked: T[],
): Promise<Set<T>> {
  const rows = await database.query<{ at: number }>('read', membershipsStatement, [
    asked.map((each) => each.tenantId),
    asked.map((each) => each.sessionId),
    asked.map((each) => each.userId),
  ])
  return new Set(rows.map((row) => asked[row.at]!))
}

const changedStatement: Statement = {
  name: 'changed-sessions',
  text: `
    select x.ord::int - 1 as at, s.next_seq as "nextSeq", (
        select json_object_agg(m.user_id, holdfast.iso(greatest(s.updated_at, a.updated_at)))
          from holdfast.members m
          left join holdfast.asides a on a.tenant_id = m.tenant_id and a.session_id = m.session_id and a.user_id = m.user_id
         where m.tenant_id = x.tenant and m.session_id = x.sid) as members
      from unnest($1::text[], $2::text[]) with ordinality x(tenant, sid, ord)
      join holdfast.sessions s on s.tenant_id = x.tenant and s.id = x.sid
     order by s.updated_at`,
}

/** `members`: by user, when it changed last as far as they may see. */
export type Changed<T> = { session: T; nextSeq: number; members: Record<string, string> | null }

/**
 * Of these sessions those that are there, with their members of this moment; those that changed first come first. Who asks
 * looks for its users in them: with 5,000 users as a value of the statement PostgreSQL took 200 ms for 1,000 sessions, and 5 s
 * where it looked for each of them in each session.
 */
export async function changedSessions<T extends { tenantId: string; sessionId: string }>(
  database: Database,
  sessions: T[],
): Promise<Changed<T>[]> {
  const rows = await database.query<Omit<Changed<T>, 'session'> & { at: number }>('read', changedStatement, [
    sessions.map((each) => each.tenantId),
    sessions.map((each) => each.sessionId),
  ])
  return rows.map(({ at, ...row }) => ({ session: sessions[at]!, ...row }))
}

/** Where a page of sessions ends: the last one's `updatedAt` (in full precision) and id. */
export type SessionPlace = { updatedAt: string; id: string }

const listStatement: Statement = {
  name: 'list-sessions',
  text: `
    select holdfast.session_json(s, holdfast.unread_of(m), holdfast.aside_of(m)) as session, x.at::text as "updatedAt"
      from holdfast.members m join holdfast.sessions s on s.tenant_id = m.tenant_id and s.id = m.session_id
      left join holdfast.asides a on a.tenant_id = m.tenant_id and a.session_id = m.session_id and a.user_id = m.user_id
     cross join lateral (select greatest(s.updated_at, a.updated_at) as at) x
     where m.tenant_id = $1 and m.user_id = $2
       and ($3::timestamptz is null or x.at > $3)
       and ($4::timestamptz is null or (x.at, s.id) < ($4, $5))
     order by x.at desc, s.id desc limit $6`,
}

/** The user's sessions, last changed first. */
export async function listSessions(
  database: Database,
  ask: { tenantId: string; userId: string; changedSince: string | null; before: SessionPlace | null; limit: number },
): Promise<{ sessions: Session[]; before: SessionPlace | null }> {
  const rows = await database.query<{ session: Session; updatedAt: string }>('read', listStatement, [
    ask.tenantId,
    ask.userId,
    ask.changedSince,
    ask.before?.updatedAt ?? null,
    ask.before?.id ?? null,
    ask.limit + 1,
  ])
  const page = rows.slice(0, ask.limit)
  const last = page.at(-1)
  return {
    sessions: page.map((row) => row.session),
    before: rows.length > ask.limit && last ? { updatedAt: last.updatedAt, id: last.session.id } : null,
  }
}
