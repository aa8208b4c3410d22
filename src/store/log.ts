/** Reading a session's log. Each read is one statement, so that what it returns belongs together. */

import type { Chunk } from '../core/chunk.ts'
import type { Cursor } from '../core/cursor.ts'
import type { ChunkRun } from '../core/event.ts'
import type { Page } from '../core/following.ts'
import { joinDeltas } from '../core/join.ts'
import type { Database, Statement } from './database.ts'
import { eventOfRow, type LogRow, runOfRow } from './event-rows.ts'
import type { Present } from './presence.ts'

/** Bounds of one page. A run is one flush of one attempt. */
const pageEvents = 200
const pageRuns = 1_000
/** Of events in one page: the one that passes it is the last. 200 outcomes of 1 MB each would wait in one socket. */
const pageBytes = 512 * 1024

/**
 * Events after `seq` and, only if they are all, the chunks after the cursor of each open turn's latest attempt, as far as the
 * user (null: the process itself) may see it. Nothing where the user is no member: one picture says what and to whom. (Two
 * statements showed attempt 2's chunks before its `attempt.started`.) The first row is the session's: its last seq, and
 * in `n` whether bytes cut the page. Bytes are counted as stored first, which costs nothing, then as they are.
 */
const readAfter: Statement = {
  name: 'read-after',
  text: `
    with sized as materialized (
      select seq, data, sum(pg_column_size(data)) over (order by seq) - pg_column_size(data) as before
        from (select seq, data from holdfast.events where tenant_id = $1 and session_id = $2 and seq > $3
          order by seq limit $7) x),
    cut as materialized (
      select max(seq) as seq from (
        select seq, sum(octet_length(data::text)) over (order by seq) - octet_length(data::text) as before
          from sized where before < $9) y where before < $9),
    whole as materialized (select (select max(seq) from sized) is not distinct from (select seq from cut) as page),
    e as materialized (
      select * from holdfast.events where tenant_id = $1 and session_id = $2 and seq > $3
        and seq <= (select seq from cut) order by seq)
    select 0 as kind, s.next_seq - 1 as seq, null as type, null::uuid as turn_id, null::int as position,
        null::int as attempt, null as audience, null as at, null as message_id, null::int as index,
        (select 1 - page::int from whole) as n, null as data
      from holdfast.sessions s where s.tenant_id = $1 and s.id = $2
        and ($10::text is null or exists (select from holdfast.members m
          where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $10))
    union all
    select 1, e.seq, e.type, e.turn_id, e.position, e.attempt, e.audience, holdfast.iso(e.at), null, null, null, e.data::text
      from e
    union all
    select 2, null, null, t.id, t.position, t.attempt, t.audience, null, t.reply_id, c.index, c.n, c.data::text
      from holdfast.turns t
      left join unnest($4::int[], $5::int[], $6::int[]) o(position, attempt, index) on o.position = t.position
      cross join lateral (select index, n, data from holdfast.chunks
         where tenant_id = t.tenant_id and turn_id = t.id and attempt = t.attempt
           and index >= case when o.attempt = t.attempt then o.index else 0 end
         order by index limit $8) c
     where t.tenant_id = $1 and t.session_id = $2 and t.open and holdfast.may_see(t.audience, $10) and (select count(*) from e) < $7 and (select page from whole)
    order by 1, 2, 5, 10`,
}

type KindRow = LogRow & { kind: 0 | 1 | 2 }

/** Null: there is no such session, or the user is no member of it. Without a user nobody's rights are asked. */
export async function readPage(
  database: Database,
  tenantId: string,
  sessionId: string,
  cursor: Pick<Cursor, 'seq' | 'open'>,
  userId: string | null,
): Promise<Page | null> {
  const open = [...cursor.open]
  const rows = await database.query<KindRow>('read', readAfter, [
    tenantId,
    sessionId,
    cursor.seq,
    open.map(([position]) => position),
    open.map(([, { attempt }]) => attempt),
    open.map(([, { index }]) => index),
    pageEvents,
    pageRuns,
    pageBytes,
    userId,
  ])
  const session = rows[0]
  if (session?.kind !== 0) return null
  const events = rows.filter((row) => row.kind === 1).map(eventOfRow)
  const runs = rows.filter((row) => row.kind === 2).map(runOfRow)
  const more = events.length === pageEvents || session.n === 1 || runs.length >= pageRuns
  return { events, runs: joinRuns(runs), more, lastSeq: session.seq as number }
}

/** Runs of one attempt that follow each other become one: whoever is far behind gets one frame with joined deltas. */
function joinRuns(runs: ChunkRun[]): ChunkRun[] {
  const groups: ChunkRun[][] = []
  for (const run of runs) {
    const group = groups.at(-1)
    if (group?.[0]?.turnId === run.turnId) group.push(run)
    else groups.push([run])
  }
  return groups.map((group) => {
    const first = group[0]!
    if (group.length === 1) return first
    const chunks = group.flatMap((run) => JSON.parse(run.json) as Chunk[])
    return { ...first, n: group.reduce((sum, run) => sum + run.n, 0), json: JSON.stringify(joinDeltas(chunks)) }
  })
}

const readHead: Statement = {
  name: 'read-head',
  text: `
    select s.next_seq - 1 as seq, coalesce((
        select json_agg(json_build_array(t.position, t.attempt, (select coalesce(sum(n), 0) from holdfast.chunks c
            where c.tenant_id = t.tenant_id and c.turn_id = t.id and c.attempt = t.attempt), t.audience))
          from holdfast.turns t where t.tenant_id = s.tenant_id and t.session_id = s.id and t.open), '[]') as open
      from holdfast.sessions s where s.tenant_id = $1 and s.id = $2`,
}

/** The cursor after everything that is stored now. Null: there is no such session. */
export async function readNow(
  database: Database,
  tenantId: string,
  sessionId: string,
): Promise<Pick<Cursor, 'seq' | 'open'> | null> {
  type Row = { seq: number; open: [position: number, attempt: number, index: number, audience: string | null][] }
  const row = (await database.query<Row>('read', readHead, [tenantId, sessionId]))[0]
  if (!row) return null
  const open = row.open.map(([position, attempt, index, audience]) => {
    return [position, { attempt, index, ...(audience === null ? {} : { audience }) }] as const
  })
  return { seq: row.seq, open: new Map(open) }
}

/** What a process follows of one session: the poll compares it with the log. */
export type Followed = {
  tenantId: string
  sessionId: string
  seq: number
  position: number
  attempt: number
  index: number
}

const pollLog: Statement = {
  name: 'poll-log',
  text: `
    select distinct x.tenant as "tenantId", x.sid as "sessionId", s.id is null as gone
      from unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::int[], $6::int[])
        x(tenant, sid, seq, position, attempt, index)
      left join holdfast.sessions s on s.tenant_id = x.tenant and s.id = x.sid
     where s.id is null or s.next_seq - 1 > x.seq
       or x.position > 0 and exists (select from holdfast.turns t
            join holdfast.chunks c on c.tenant_id = t.tenant_id and c.turn_id = t.id and c.attempt = t.attempt
           where t.tenant_id = x.tenant and t.session_id = x.sid and t.position = x.position and t.open
             and (t.attempt > x.attempt or c.index >= x.index))`,
}

/** One query for all sessions that a process follows: which have more than was seen, or are gone. */
export function pollFollowed(
  database: Database,
  followed: Followed[],
): Promise<{ tenantId: string; sessionId: string; gone: boolean }[]> {
  return database.query('read', pollLog, [
    followed.map((each) => each.tenantId),
    followed.map((each) => each.sessionId),
    followed.map((each) => each.seq),
    followed.map((each) => each.position),
    followed.map((each) => each.attempt),
    followed.map((each) => each.index),
  ])
}

const readSnapshot: Statement = {
  name: 'read-snapshot',
  text: `
    with m as materialized (
      select messages as row, position, role from holdfast.messages where tenant_id = $1 and session_id = $2
        and shown and holdfast.may_see(audience, $3)
       order by position desc, role limit $4 + 1)
    select
      holdfast.session_json(s, holdfast.unread_of(me), holdfast.aside_of(me)) as session,
      (select json_agg(json_build_object('message', holdfast.message_json(x.row), 'position', x.position) order by x.position, x.role desc)
         from (select * from m order by position desc, role limit $4) x) as messages,
      (select count(*) > $4 from m) as more,
      (select json_agg(json_build_object('userId', o.user_id, 'role', o.role, 'delivered', o.delivered_seq,
          'read', o.read_seq) order by o.user_id)
         from holdfast.members o where o.tenant_id = $1 and o.session_id = $2) as members,
      (select json_agg(json_build_object('userId', p.user_id, 'state', p.state) order by p.user_id)
         from holdfast.present_in($1, $2) p where p.user_id <> $3) as presence,
      (select json_agg(holdfast.turn_json(t) order by t.position) from holdfast.turns t
        where t.tenant_id = $1 and t.session_id = $2 and t.state in ('queued', 'running', 'waiting')
          and holdfast.may_see(t.audience, $3)) as turns,
      (select json_agg(json_build_object('turnId', t.id, 'replyId', t.reply_id, 'attempt', t.attempt,
            'position', t.position, 'audience', t.audience, 'base', holdfast.base_of(t),
            'index', (select coalesce(sum(c.n), 0) from holdfast.chunks c where c.tenant_id = t.tenant_id
              and c.turn_id = t.id and c.attempt = t.attempt),
            'runs', (select json_agg(c.data order by c.index) from holdfast.chunks c where c.tenant_id = t.tenant_id
              and c.turn_id = t.id and c.attempt = t.attempt)) order by t.position)
         from holdfast.turns t where t.tenant_id = $1 and t.session_id = $2 and t.open) as open,
      s.next_seq - 1 as seq
    from holdfast.sessions s
    join holdfast.members me on me.tenant_id = $1 and me.session_id = $2 and me.user_id = $3
    where s.tenant_id = $1 and s.id = $2`,
}

/** `delivered`, `read`: the seqs of the member's receipts. */
export type Member = { userId: string; role: string; delivered: number; read: number }

export type SnapshotRow = {
  session: unknown
  messages: { message: { id: string; role: 'user' | 'assistant'; parts: unknown[] }; position: number }[] | null
  more: boolean
  members: Member[]
  presence: Present[] | null
  turns: { id: string }[] | null
  open:
    | {
        turnId: string
        replyId: string
        attempt: number
        position: number
        audience: string | null
        base: unknown[]
        index: number
        runs: unknown[][] | null
      }[]
    | null
  seq: number
}

/** Null: no such session, or the user is no member of it. One statement, hence one picture of the log. */
export async function snapshotRow(
  database: Database,
  tenantId: string,
  sessionId: string,
  userId: string,
  limit: number,
): Promise<SnapshotRow | null> {
  const rows = await database.query<SnapshotRow>('read', readSnapshot, [tenantId, sessionId, userId, limit])
  return rows[0] ?? null
}
