/** Positions of publishers in the logs of sessions: who holds one, and how far it has come. */
import type { Database, Statement } from './database.ts'

type Key = { tenantId: string; sessionId: string }
/** `fence`: names this claim; what was claimed again since is not ours any more. `cursor` null: after `seq`. */
export type HeldPosition = Key & { fence: number; seq: number; cursor: string | null }
type Holder = { publisher: string; holder: string }

const seenStatement: Statement = {
  name: 'publisher-seen',
  text: `
    insert into holdfast.publishers (name) values ($1)
    on conflict (name) do update set seen_at = clock_timestamp()`,
}

/** From now on, and for a day, the publisher is told of sessions that change. */
export async function publisherSeen(database: Database, publisher: string): Promise<void> {
  await database.query('read', seenStatement, [publisher])
}

const claimStatement: Statement = {
  name: 'claim-publishing',
  text: `
    update holdfast.publishing p
       set holder = $2, fence = p.fence + 1, due_at = clock_timestamp() + make_interval(secs => $3 / 1000.0)
      from (select publisher, tenant_id, session_id from holdfast.publishing
             where publisher = $1 and due_at <= now() and (last_seq > published_seq or is_open)
             order by due_at limit $4 for update skip locked) d
     where p.publisher = d.publisher and p.tenant_id = d.tenant_id and p.session_id = d.session_id
    returning p.tenant_id as "tenantId", p.session_id as "sessionId", p.fence, p.published_seq as seq, p.cursor`,
}

/** Sessions in which something is to be published and nobody does. */
export function claimPublishing(
  database: Database,
  { publisher, holder }: Holder,
  ask: { leaseMs: number; limit: number },
): Promise<HeldPosition[]> {
  return database.query('read', claimStatement, [publisher, holder, ask.leaseMs, ask.limit])
}

const dueStatement: Statement = {
  name: 'due-publishing',
  text: `
    select count(*)::int as n from (
      select from holdfast.publishing
       where publisher = $1 and due_at <= now() and (last_seq > published_seq or is_open) limit $2) d`,
}

/** How many sessions could be claimed now, up to `most`. */
export async function duePublishing(database: Database, publisher: string, most: number): Promise<number> {
  return (await database.query<{ n: number }>('read', dueStatement, [publisher, most]))[0]!.n
}

const moveStatement: Statement = {
  name: 'move-publishing',
  text: `
    update holdfast.publishing
       set published_seq = $6, cursor = $7, is_open = $8, last_seq = greatest(last_seq, $6), failures = 0,
         due_at = clock_timestamp() + make_interval(secs => $9 / 1000.0)
     where publisher = $1 and tenant_id = $2 and session_id = $3 and holder = $4 and fence = $5
    returning 1`,
}

/** False: it is not held any more. */
export async function movePublishing(
  database: Database,
  { publisher, holder }: Holder,
  { tenantId, sessionId, fence }: Key & { fence: number },
  to: { seq: number; cursor: string; isOpen: boolean; leaseMs: number },
): Promise<boolean> {
  const values = [publisher, tenantId, sessionId, holder, fence, to.seq, to.cursor, to.isOpen, to.leaseMs]
  return (await database.query('read', moveStatement, values)).length === 1
}

const renewStatement: Statement = {
  name: 'renew-publishing',
  text: `
    with held as (
      select p.publisher, p.tenant_id, p.session_id, p.holder, p.fence, x.ord
        from unnest($3::text[], $4::text[], $5::int[]) with ordinality x(tenant, sid, fence, ord)
        join holdfast.publishing p on p.publisher = $1 and p.tenant_id = x.tenant and p.session_id = x.sid
       where p.holder = $2 and p.fence = x.fence),
    free as (
      select p.publisher, p.tenant_id, p.session_id, h.ord
        from held h join holdfast.publishing p using (publisher, tenant_id, session_id)
       where p.holder = h.holder and p.fence = h.fence
       order by p.publisher, p.tenant_id, p.session_id for no key update of p skip locked),
    renewed as (
      update holdfast.publishing p set due_at = clock_timestamp() + make_interval(secs => $6 / 1000.0) from free f
       where p.publisher = f.publisher and p.tenant_id = f.tenant_id and p.session_id = f.session_id
      returning f.ord)
    select h.ord::int - 1 as at, r.ord is not null as "isRenewed" from held h left join renewed r using (ord)`,
}

/**
 * Which of these are held still, and which of them for longer by now. It waits for none: whoever writes events locks the
 * same rows, those of several sessions in an order of their own, and two that wait for each other stop both.
 */
export async function renewPublishing<T extends Key & { fence: number }>(
  database: Database,
  { publisher, holder }: Holder,
  held: T[],
  leaseMs: number,
): Promise<{ still: Set<T>; renewed: Set<T> }> {
  const rows = await database.query<{ at: number; isRenewed: boolean }>('read', renewStatement, [
    publisher,
    holder,
    held.map(({ tenantId }) => tenantId),
    held.map(({ sessionId }) => sessionId),
    held.map(({ fence }) => fence),
    leaseMs,
  ])
  const of = (some: typeof rows) => new Set(some.map(({ at }) => held[at]!))
  return { still: of(rows), renewed: of(rows.filter(({ isRenewed }) => isRenewed)) }
}

const leaveStatement: Statement = {
  name: 'leave-publishing',
  text: `
    update holdfast.publishing set holder = null, due_at = clock_timestamp()
     where publisher = $1 and tenant_id = $2 and session_id = $3 and holder = $4 and fence = $5
       and published_seq >= last_seq and not is_open
    returning 1`,
}

/** Where there is nothing to publish. False: there is, or somebody else holds it. */
export async function leavePublishing(
  database: Database,
  { publisher, holder }: Holder,
  { tenantId, sessionId, fence }: Key & { fence: number },
): Promise<boolean> {
  const values = [publisher, tenantId, sessionId, holder, fence]
  return (await database.query('read', leaveStatement, values)).length === 1
}

const forgetStatement: Statement = {
  name: 'forget-publishing',
  text: `
    delete from holdfast.publishing
     where publisher = $1 and tenant_id = $2 and session_id = $3 and holder = $4 and fence = $5`,
}

/** The session is gone, and that was told. */
export async function forgetPublishing(
  database: Database,
  { publisher, holder }: Holder,
  { tenantId, sessionId, fence }: Key & { fence: number },
): Promise<void> {
  await database.query('read', forgetStatement, [publisher, tenantId, sessionId, holder, fence])
}

const giveBackStatement: Statement = {
  name: 'give-back-publishing',
  text: `
    update holdfast.publishing
       set holder = null, failures = failures + $6, due_at = clock_timestamp() + make_interval(secs =>
         greatest($7, $6 * least($8, 500 * 2 ^ least(failures, 20))) / 1000.0)
     where publisher = $1 and tenant_id = $2 and session_id = $3 and holder = $4 and fence = $5`,
}

/**
 * For whoever comes next, this process or another. After a failure not before `afterMs`, nor before half a second, doubled by
 * each failure since something was published, up to `mostMs`.
 */
export async function giveBackPublishing(
  database: Database,
  { publisher, holder }: Holder,
  { tenantId, sessionId, fence }: Key & { fence: number },
  failure: { afterMs: number; mostMs: number } | null,
): Promise<void> {
  const { afterMs = 0, mostMs = 0 } = failure ?? {}
  const values = [publisher, tenantId, sessionId, holder, fence, failure ? 1 : 0, afterMs, mostMs]
  await database.query('read', giveBackStatement, values)
}

const membersStatement: Statement = {
  name: 'members-of-session',
  text: `
    select m.user_id as "userId" from holdfast.members m
     where m.tenant_id = $1 and m.session_id = $2 and holdfast.may_see($3, m.user_id) order by 1`,
}

/** The members at this moment who may see what has this audience. */
export async function membersWhoSee(
  database: Database,
  { tenantId, sessionId }: Key,
  audience: string,
): Promise<string[]> {
  const rows = await database.query<{ userId: string }>('read', membersStatement, [tenantId, sessionId, audience])
  return rows.map(({ userId }) => userId)
}

const sessionsStatement: Statement = {
  name: 'sessions-of-member',
  text: `
    select s.id from holdfast.members m join holdfast.sessions s on s.tenant_id = m.tenant_id and s.id = m.session_id
     where m.tenant_id = $1 and m.user_id = $2 and ($3::text[] is null or s.id = any($3))
     order by s.updated_at desc limit $4`,
}

/** Of the sessions that a user is a member of those that changed last; of these only, where some are named. */
export async function sessionsOfMember(
  database: Database,
  who: { tenantId: string; userId: string },
  ask: { named: readonly string[] | null; limit: number },
): Promise<string[]> {
  const values = [who.tenantId, who.userId, ask.named, ask.limit]
  return (await database.query<{ id: string }>('read', sessionsStatement, values)).map(({ id }) => id)
}
