/** Who follows which session just now, through which process: rows that live as long as their process says that it does. */
import type { Database, Statement } from './database.ts'

/** `here`: in front of a device. `away`: every device of theirs that follows the session is in the background. */
export type PresenceState = 'here' | 'away'
export type Present = { userId: string; state: PresenceState }
export type SessionOf = { tenantId: string; sessionId: string }
/** Null: not any more. */
export type PresenceChange = SessionOf & { userId: string; state: PresenceState | null }

const keep: Statement = {
  name: 'keep-presence',
  text: 'select holdfast.keep_presence($1, $2, $3, $4, $5, $6) as "isNew"',
}

/** `processId` lives for `aliveMs` more, and so do these changes. True: nothing was known of it, or nothing any more. */
export async function keepPresence(
  database: Database,
  { processId, aliveMs, changes }: { processId: string; aliveMs: number; changes: readonly PresenceChange[] },
): Promise<boolean> {
  const values = (['tenantId', 'sessionId', 'userId', 'state'] as const).map((key) => changes.map((each) => each[key]))
  return (await database.query<{ isNew: boolean }>('read', keep, [processId, aliveMs, ...values]))[0]!.isNew
}

/** What another process that lives has of a user. */
export type Elsewhere = PresenceChange & { processId: string }

const columns = `p.tenant_id as "tenantId", p.session_id as "sessionId", p.user_id as "userId", p.process_id as "processId",
  p.state`

const elsewhereIn: Statement = {
  name: 'presences-elsewhere-in',
  text: `
    select ${columns}
    from unnest($2::text[], $3::text[]) as s (tenant_id, session_id)
    join holdfast.presences p on p.tenant_id = s.tenant_id and p.session_id = s.session_id and p.process_id <> $1
      and p.state is not null
    join holdfast.processes o on o.id = p.process_id and o.alive_until > clock_timestamp()`,
}

/** In these sessions. */
export function elsewhereInSessions(
  database: Database,
  processId: string,
  sessions: readonly SessionOf[],
): Promise<Elsewhere[]> {
  const values = [processId, sessions.map(({ tenantId }) => tenantId), sessions.map(({ sessionId }) => sessionId)]
  return database.query('read', elsewhereIn, values)
}

const elsewhereOfMine: Statement = {
  name: 'presences-elsewhere',
  text: `
    select distinct ${columns}
    from holdfast.presences mine
    join holdfast.presences p on p.tenant_id = mine.tenant_id and p.session_id = mine.session_id and p.process_id <> $1
      and p.state is not null
    join holdfast.processes o on o.id = p.process_id and o.alive_until > clock_timestamp()
    where mine.process_id = $1 and mine.state is not null`,
}

/** In all sessions where this process has somebody. */
export function elsewhereInMine(database: Database, processId: string): Promise<Elsewhere[]> {
  return database.query('read', elsewhereOfMine, [processId])
}

/** It goes over what has changed, whatever there is. */
const changesElsewhere: Statement = {
  name: 'presences-changed',
  text: `
    select (select coalesce(array_agg(id), '{}') from holdfast.processes
      where id <> $1 and alive_until > clock_timestamp()) as alive,
      (select coalesce(json_agg(json_build_object('tenantId', p.tenant_id, 'sessionId', p.session_id, 'userId', p.user_id,
          'processId', p.process_id, 'state', p.state)), '[]')
        from holdfast.presences p
        where p.changed_at > statement_timestamp() - make_interval(secs => $2::int / 1000.0) and p.process_id <> $1
          and (select true from holdfast.presences mine where mine.tenant_id = p.tenant_id
            and mine.session_id = p.session_id and mine.process_id = $1 limit 1)) as changes`,
}

/** The other processes that live, and what they have changed within `sinceMs` where this one has somebody. */
export async function changedElsewhere(
  database: Database,
  processId: string,
  sinceMs: number,
): Promise<{ alive: string[]; changes: Elsewhere[] }> {
  type Row = { alive: string[]; changes: Elsewhere[] }
  return (await database.query<Row>('read', changesElsewhere, [processId, sinceMs]))[0]!
}

const presentStatement: Statement = {
  name: 'present-in',
  text: 'select user_id as "userId", state from holdfast.present_in($1, $2) order by user_id',
}

/** Members only, whichever process they are there through. */
export function presentIn(database: Database, { tenantId, sessionId }: SessionOf): Promise<Present[]> {
  return database.query('read', presentStatement, [tenantId, sessionId])
}
