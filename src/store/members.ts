/** Who the members of a session are, and who may become one. `by`: who asks, or (null) the server. */
import type { Event } from '../core/event.ts'
import type { Interrupted } from './accept.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'
import type { Member } from './log.ts'
import type { Role } from './sessions.ts'

type OfSession = { tenantId: string; sessionId: string }
type Asked = OfSession & { by: string | null }

const listStatement: Statement = {
  name: 'list-members',
  text: `
    select holdfast.member_json(m) as member, case when m.user_id = $3 then m.muted end as muted from holdfast.members m
     where m.tenant_id = $1 and m.session_id = $2 order by m.joined_at, m.user_id`,
}

/** Of themselves each is told whether they have muted the session; nobody else is. */
type OwnMember = Member & { muted: boolean }

const muteStatement: Statement = {
  name: 'mute-session',
  text: `
    update holdfast.members m set muted = $4 where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $3
    returning holdfast.member_json(m) as member, m.muted`,
}

/** Null: they are no member. */
export async function muteSession(
  database: Database,
  { tenantId, sessionId, userId, muted }: OfSession & { userId: string; muted: boolean },
): Promise<OwnMember | null> {
  type Own = { member: Member; muted: boolean }
  const [own] = await database.query<Own>('turns', muteStatement, [tenantId, sessionId, userId, muted])
  return own === undefined ? null : { ...own.member, muted: own.muted }
}

/** `userId`: who asks; null: the server. */
export async function listMembers(
  database: Database,
  { tenantId, sessionId, userId }: OfSession & { userId: string | null },
): Promise<(Member | OwnMember)[]> {
  type Row = { member: Member; muted: boolean | null }
  const rows = await database.query<Row>('read', listStatement, [tenantId, sessionId, userId])
  return rows.map(({ member, muted }) => (muted === null ? member : { ...member, muted }))
}

type Refused = 'not_found' | 'forbidden'
/** `added`, `changed`: there is something to tell. `same`: they are so already. `last_owner`: a session has one. */
export type MemberAnswer =
  | { outcome: 'added' | 'changed'; member: Member; event: Event }
  | { outcome: 'same'; member: Member }
  | { outcome: 'full' | 'last_owner' | 'no_member' | Refused }
type Row<T extends { outcome: string }> = { answer: T & { event?: EventJson } }

async function ask<T extends { outcome: string }>(
  database: Database,
  statement: Statement,
  values: unknown[],
): Promise<T> {
  const { event, ...answer } = (await database.query<Row<T>>('turns', statement, values))[0]!.answer
  return (event ? { ...answer, event: eventOf(event) } : answer) as unknown as T
}

const addStatement: Statement = {
  name: 'add-member',
  text: 'select holdfast.add_member($1, $2, $3, $4, $5, $6) as answer',
}

export function addMember(
  database: Database,
  { tenantId, sessionId, by, userId, role, membersMax }: Asked & { userId: string; role: Role; membersMax: number },
): Promise<MemberAnswer> {
  return ask(database, addStatement, [tenantId, sessionId, by, userId, role, membersMax])
}

const changeStatement: Statement = {
  name: 'change-member',
  text: 'select holdfast.change_member($1, $2, $3, $4, $5) as answer',
}

export function changeMember(
  database: Database,
  { tenantId, sessionId, by, userId, role }: Asked & { userId: string; role: Role },
): Promise<MemberAnswer> {
  return ask(database, changeStatement, [tenantId, sessionId, by, userId, role])
}

const removeStatement: Statement = {
  name: 'remove-member',
  text: 'select holdfast.remove_member($1, $2, $3, $4) as answer',
}

/**
 * `same`: they went before, and what is answered is told and stopped already, or that answer was lost. `interrupted`: whose
 * turns are marked, to be stopped now; the last first, so that to stop one makes no other begin.
 */
type RemoveAnswer =
  | { outcome: 'removed' | 'same'; event: Event; interrupted: Interrupted[] }
  | { outcome: 'last_owner' | 'no_member' | Refused }

export function removeMember(
  database: Database,
  { tenantId, sessionId, by, userId }: Asked & { userId: string },
): Promise<RemoveAnswer> {
  return ask(database, removeStatement, [tenantId, sessionId, by, userId])
}

const leftStatement: Statement = {
  name: 'left-of-late',
  text: `
    select e.tenant_id as "tenantId", e.session_id as "sessionId", e.data ->> 'userId' as "userId", e.seq
      from holdfast.events e
     where e.type = 'member.left' and e.at > statement_timestamp() - make_interval(secs => $1::int / 1000.0)
       and not exists (select from holdfast.members m where m.tenant_id = e.tenant_id and m.session_id = e.session_id
         and m.user_id = e.data ->> 'userId')`,
}

/** `seq`: of the event that says so. */
export type Left = OfSession & { userId: string; seq: number }

/** Whoever has left, or was removed from, any session within `sinceMs`, and has not come back. */
export function leftOfLate(database: Database, sinceMs: number): Promise<Left[]> {
  return database.query('read', leftStatement, [sinceMs])
}

/** `uses`: how often it may be accepted. */
export type Invite = {
  id: string
  role: 'member' | 'reader'
  uses: number
  used: number
  createdBy: string
  createdAt: string
  expiresAt: string
}

const inviteStatement: Statement = {
  name: 'invite',
  text: 'select holdfast.invite($1, $2, $3, $4, $5, $6, $7, $8, $9) as answer',
}

/** `hash`: of its token, which is stored nowhere. Asked again with the same id it is the one that is there. */
export function storeInvite(
  database: Database,
  {
    tenantId,
    sessionId,
    by,
    id,
    hash,
    role,
    uses,
    expiresMs,
    invitesMax,
  }: Asked & {
    id: string
    hash: Buffer
    role: Invite['role']
    uses: number
    expiresMs: number
    invitesMax: number
  },
): Promise<{ outcome: 'invited'; invite: Invite } | { outcome: 'full' | Refused }> {
  return ask(database, inviteStatement, [tenantId, sessionId, by, id, hash, role, uses, expiresMs, invitesMax])
}

const invitesStatement: Statement = {
  name: 'list-invites',
  text: `
    select holdfast.invite_json(i) as invite from holdfast.invites i
     where i.tenant_id = $1 and i.session_id = $2 and holdfast.is_good(i) order by i.created_at, i.id`,
}

/** Those that are good. */
export async function listInvites(database: Database, { tenantId, sessionId }: OfSession): Promise<Invite[]> {
  const rows = await database.query<{ invite: Invite }>('read', invitesStatement, [tenantId, sessionId])
  return rows.map(({ invite }) => invite)
}

const revokeStatement: Statement = {
  name: 'revoke-invite',
  text: 'select holdfast.revoke_invite($1, $2, $3, $4) as answer',
}

export function revokeInvite(
  database: Database,
  { tenantId, sessionId, by, id }: Asked & { id: string },
): Promise<{ outcome: 'revoked' | Refused }> {
  return ask(database, revokeStatement, [tenantId, sessionId, by, id])
}

const acceptStatement: Statement = {
  name: 'accept-invite',
  text: 'select holdfast.accept_invite($1, $2, $3, $4) as answer',
}

/** `gone`: it was good once, or still is, but not for who was removed after it was made. */
export function acceptInvite(
  database: Database,
  { tenantId, userId, hash, membersMax }: { tenantId: string; userId: string; hash: Buffer; membersMax: number },
): Promise<
  | { outcome: 'added'; sessionId: string; member: Member; event: Event }
  | { outcome: 'same'; sessionId: string; member: Member }
  | { outcome: 'full' }
  | { outcome: 'gone' }
  | { outcome: 'not_found' }
> {
  return ask(database, acceptStatement, [tenantId, userId, hash, membersMax])
}
