/**
 * Accepting messages, many in one statement. What a batch leaves is done one at a time by a function that waits for
 * the session's lock: sessions that are locked, ids that exist already, lanes whose state moved while we looked.
 *
 * The batch decides only for sessions in which nothing was committed since its snapshot. It sees that by reading
 * `next_seq` twice: as of the snapshot, and as of the lock. Every transition moves it, so if both agree then what the
 * rest of the statement reads is the present. (`on conflict do nothing` instead left 360 holes in `seq` of 400; a
 * lock beside a `not exists` without this comparison gave 279 false conflicts of 400, and where the turn before ended
 * between snapshot and lock, 107 of 480 new heads of a lane that nobody had made due: test/store/accept.test.ts.)
 *
 * A limit on what a user may send is one row per user, locked with `skip locked` as the sessions are and decided by what
 * the locked row says. Who has no row yet, or is counted elsewhere at this moment, is left over, too.
 */
import { point } from '#points'
import { type Event, privateLane } from '../core/event.ts'
import type { Spending, UsedUp } from './budgets.ts'
import { type Database, DatabaseError, type Statement } from './database.ts'
import { type EventJson, eventOf, eventOfRow, type LogRow } from './event-rows.ts'

export type Acceptance = {
  tenantId: string
  sessionId: string
  userId: string
  messageId: string
  turnId: string
  replyId: string
  /** JSON text of the parts and of the metadata (or null), already checked and bounded. */
  parts: string
  metadata: string | null
  bodyHash: string
  preview: string | null
  lane: string
  expiresMs: number
  whenBusy: WhenBusy
  /** It is the no to what its lane asks about a budget: the reply that asks is stopped. Defaults to false. */
  refusesBudget?: boolean
} & SendRates

/** Of one user, in all sessions and processes. 0: as many as they like. */
export type SendRates = {
  /** How many messages within a minute. */
  sendsMax: number
  /** Where a turn is asked for, and there is more than that. Defaults to none. */
  more?: MoreLimits
}

/** `plan`: with which they ask. `budgets`: those beyond which nobody may let a reply go on. */
export type MoreLimits = { openTurns: number; plan: string | null; budgets: readonly Spending[] }

export const rated = ({ sendsMax, more }: SendRates) => [sendsMax, more === undefined ? null : JSON.stringify(more)]

/** What becomes of a message whose lane is busy: it waits, it ends what runs, it is handed to what runs, or is refused. */
export type WhenBusy = 'queue' | 'interrupt' | 'steer' | 'reject'

/**
 * What is left to a user of `max` sends a minute (0: any number), and of open turns where they are limited. `freeInMs`: when
 * one more send than now is left. `reached`: what refused them.
 */
export type Allowance = {
  max: number
  left: number
  freeInMs: number
  openTurns?: { max: number; left: number }
  reached?: 'sends' | 'openTurns' | 'budget'
  budget?: UsedUp
}

/** A user's message, and the round that was marked. */
export type Interrupted = { messageId: string; round: number }

export type Accepted =
  /** `allowance`: null where there is no limit. `interrupted`: whose turns were marked, to be stopped now. */
  | { outcome: 'created'; event: Event; allowance: Allowance | null; interrupted: Interrupted[] }
  /** Nothing was stored. */
  | { outcome: 'rate_limited'; allowance: Allowance }
  /** The same id with the same body: what is stored now, as JSON text of `{message, reply, turn}`. */
  | { outcome: 'same'; seq: number; json: string; interrupted: Interrupted[] }
  | { outcome: 'conflict' }
  | { outcome: 'busy' }
  | { outcome: 'not_found' }
  | { outcome: 'forbidden' }

const acceptOne: Statement = {
  name: 'accept-one',
  text: 'select holdfast.accept($1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9, $10, $11, $12, $13, $14, $15, $16::jsonb) as answer',
}

const acceptMany: Statement = {
  name: 'accept-many',
  text: `
    with i as materialized (
      select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::int[]) with ordinality
        x(tenant, sid, author, mid, turn, reply, parts, metadata, hash, preview, lane, expires_ms, sends_max, ord)),
    l as materialized (
      select s.tenant_id, s.id, s.next_seq, (select b.next_seq from holdfast.sessions b
          where b.tenant_id = s.tenant_id and b.id = s.id) as seen_seq
        from holdfast.sessions s
       where (s.tenant_id, s.id) in (select tenant, sid from i)
       order by s.tenant_id, s.id for no key update of s skip locked),
    u as materialized (
      select r.tenant_id, r.user_id,
          array(select at from unnest(r.sends) at where at > now() - interval '60 s' order by at) as sends
        from holdfast.limits r
       where (r.tenant_id, r.user_id) in (select tenant, author from i where sends_max > 0)
       order by r.tenant_id, r.user_id for no key update of r skip locked),
    c as materialized (
      select i.*, l.next_seq, cardinality(u.sends) as sent,
          case when i.sends_max > 0 then u.sends || array_fill(now(), array[row_number() over by_user::int]) end as sends,
          i.sends_max = 0 or cardinality(u.sends) + row_number() over by_user <= i.sends_max as allowed
        from i
        join l on l.tenant_id = i.tenant and l.id = i.sid and l.next_seq = l.seen_seq
        join holdfast.members m on m.tenant_id = i.tenant and m.session_id = i.sid and m.user_id = i.author
          and m.role <> 'reader'
        left join u on u.tenant_id = i.tenant and u.user_id = i.author
       where (i.sends_max = 0 or u.user_id is not null) and not exists (select from holdfast.messages d
         where d.tenant_id = i.tenant and d.session_id = i.sid and d.id = i.mid)
      window by_user as (partition by i.tenant, i.author order by i.ord)),
    f as materialized (
      select c.*, (c.next_seq + row_number() over w - 1)::int as seq,
          row_number() over (partition by c.tenant, c.sid, c.lane order by c.ord) = 1
            and not exists (select from holdfast.turns e where e.tenant_id = c.tenant and e.session_id = c.sid
              and e.lane = c.lane and holdfast.is_in_line(e)) as head,
          coalesce(lag(c.reply) over (partition by c.tenant, c.sid, c.lane order by c.ord),
            holdfast.tip_of(c.tenant, c.sid, c.lane)) as parent
        from c where c.allowed
      window w as (partition by c.tenant, c.sid order by c.ord)),
    counted as (
      update holdfast.limits r set sends = k.sends
        from (select distinct on (tenant, author) tenant, author, sends from f where sends_max > 0
          order by tenant, author, ord desc) k
       where r.tenant_id = k.tenant and r.user_id = k.author),
    up as (
      update holdfast.sessions s set next_seq = s.next_seq + c.n, message_count = s.message_count + c.n,
          last_preview = c.preview, preview_seq = s.next_seq + c.n - 1, updated_at = clock_timestamp()
        from (select tenant, sid, count(*)::int n, (array_agg(preview order by ord desc))[1] preview
          from f group by tenant, sid) c
       where s.tenant_id = c.tenant and s.id = c.sid),
    um as (
      insert into holdfast.messages (tenant_id, session_id, id, seq, told_seq, position, role, author, parts, metadata,
          status, lane, parent, turn_id, body_hash)
        select tenant, sid, mid, seq, seq, seq, 'user', author, parts::jsonb, metadata::jsonb, 'complete', lane, parent, turn,
          hash
        from f returning *),
    am as (
      insert into holdfast.messages (tenant_id, session_id, id, seq, position, role, parts, status, lane, replies_to,
          parent, round, turn_id)
        select tenant, sid, reply, seq, seq, 'assistant', '[]', 'pending', lane, mid, mid, 1, turn from f),
    tn as (
      insert into holdfast.turns (tenant_id, id, session_id, message_id, reply_id, user_id, position, lane, state,
          due_at, expires_at)
        select tenant, turn, sid, mid, reply, author, seq, lane, 'queued', case when head then clock_timestamp() end,
          clock_timestamp() + make_interval(secs => expires_ms / 1000.0)
        from f returning *),
    ev as (
      insert into holdfast.events (tenant_id, session_id, seq, type, turn_id, position, attempt, data)
        select f.tenant, f.sid, f.seq, 'message.created', f.turn, f.seq, 0, json_build_object(
          'message', holdfast.message_json(um), 'reply', json_build_object('id', f.reply, 'status', 'pending'),
          'turn', holdfast.turn_json(tn))
        from f join um on um.turn_id = f.turn join tn on tn.id = f.turn
        returning turn_id, seq, type, position, attempt, audience, holdfast.iso(at) as at, data::text)
    select ev.*, case when f.sends_max > 0 then holdfast.allowance(f.sends, f.sends_max, now()) end as allowance
      from ev join f on f.turn = ev.turn_id
    union all
    select c.turn, null, 'rate_limited', null, null, null, null, null,
        holdfast.allowance(c.sends[:greatest(c.sent, c.sends_max)], c.sends_max, now())
      from c where not c.allowed`,
}

const batchMax = 64
const inFlightMax = 2
/** More is refused than may wait here, so that a database that hangs does not fill the memory. */
const waitingMax = 10_000
const waitingBytesMax = 16 * 1024 * 1024
/** Who has waited longer than this for others is refused: their sender is told, and asks again. */
const waitMaxMs = 4_000

const askedStatement: Statement = {
  name: 'lane-asks-about-budget',
  text: `
    select exists (select from holdfast.turns t where t.tenant_id = $1 and t.session_id = $2 and t.lane = $3
          and t.state = 'waiting' and holdfast.asks_about_budget(t))
        and not exists (select from holdfast.messages where tenant_id = $1 and session_id = $2 and id = $4) as asked`,
}

/**
 * Whether a message that is new here finds its lane asking about a budget. Nobody's rights are looked at. Asked first, so
 * that all other messages are accepted together.
 */
export async function findsBudgetAsked(
  database: Database,
  { tenantId, sessionId, lane, messageId }: Pick<Acceptance, 'tenantId' | 'sessionId' | 'lane' | 'messageId'>,
): Promise<boolean> {
  const values = [tenantId, sessionId, lane, messageId]
  return (await database.query<{ asked: boolean }>('read', askedStatement, values))[0]!.asked
}

export type Acceptor = { accept(acceptance: Acceptance): Promise<Accepted> }

/** Rejects with a DatabaseError: `unknown` is asked again by the caller's client, with the same id. */
export function createAcceptor(database: Database): Acceptor {
  type Waiting = {
    acceptance: Acceptance
    sinceMs: number
    resolve(accepted: Accepted): void
    reject(error: unknown): void
  }
  let waiting: Waiting[] = []
  let waitingBytes = 0
  let inFlight = 0
  /** Sessions of the batches under way. */
  const busy = new Set<string>()

  function pump(): void {
    refuseLate()
    while (inFlight < inFlightMax) {
      const batch = nextBatch()
      if (batch.length === 0) return
      inFlight++
      take(batch)
        .catch((error: unknown) => {
          for (const each of batch) each.reject(error)
        })
        .finally(() => {
          inFlight--
          for (const each of batch) busy.delete(sessionKey(each.acceptance))
          pump()
        })
    }
  }

  /** The first that wait, but for sessions that a batch under way has locked: that would leave them, to go singly. */
  function nextBatch(): Waiting[] {
    const batch: Waiting[] = []
    for (const each of waiting) {
      if (batch.length < batchMax && !busy.has(sessionKey(each.acceptance))) batch.push(each)
    }
    for (const each of batch) busy.add(sessionKey(each.acceptance))
    leave(batch)
    return batch
  }

  function refuseLate(): void {
    const before = performance.now() - waitMaxMs
    const late = waiting.filter((each) => each.sinceMs < before)
    leave(late)
    for (const each of late) each.reject(refusal(`${waitMaxMs} ms were not enough for those before it`))
  }

  function leave(some: Waiting[]): void {
    if (some.length === 0) return
    const gone = new Set(some)
    waiting = waiting.filter((each) => !gone.has(each))
    for (const { acceptance } of some) waitingBytes -= bytesOf(acceptance)
  }

  async function take(batch: Waiting[]): Promise<void> {
    // What depends on the lane's state after the lock goes singly.
    const plain = batch.filter(({ acceptance }) => isPlain(acceptance))
    const rest = plain.length > 1 ? await takeTogether(batch, plain) : batch
    await Promise.all(rest.map((each) => one(each.acceptance).then(each.resolve, each.reject)))
  }

  /** Takes some of a batch in one statement. Resolves to the rest of it. */
  async function takeTogether(batch: Waiting[], plain: Waiting[]): Promise<Waiting[]> {
    const together = withoutDoubles(plain)
    await point('accept.together')
    const rows = await database
      .query<Row>('accept', acceptMany, columns(together.map((each) => each.acceptance)))
      .catch((error: unknown) => {
        // A batch that fails on somebody's data is taken apart; anything else concerns all of it.
        if (error instanceof DatabaseError && (error.kind === 'bad_data' || error.kind === 'conflict')) return []
        throw error
      })
    const answers = new Map(rows.map((row) => [row.turn_id, acceptedOf(row)]))
    return batch.filter((each) => {
      const accepted = answers.get(each.acceptance.turnId)
      if (accepted) each.resolve(accepted)
      return !accepted
    })
  }

  async function one(acceptance: Acceptance): Promise<Accepted> {
    await point('accept.one')
    const rows = await database.query<{ answer: Answer }>('accept', acceptOne, fields(acceptance))
    const answer = rows[0]!.answer
    if (answer.outcome === 'created') {
      const { allowance, interrupted, event } = answer
      return { outcome: 'created', event: eventOf(event), allowance, interrupted }
    }
    if (answer.outcome === 'same') {
      const { data, ...same } = answer
      return { ...same, json: JSON.stringify(data) }
    }
    return answer
  }

  return {
    accept(acceptance) {
      if (waiting.length >= waitingMax || waitingBytes >= waitingBytesMax) {
        return Promise.reject(refusal(`${waiting.length} messages of ${waitingBytes} bytes wait for the database`))
      }
      return new Promise((resolve, reject) => {
        waiting.push({ acceptance, sinceMs: performance.now(), resolve, reject })
        waitingBytes += bytesOf(acceptance)
        // Those that arrive in the same turn of the event loop go together.
        if (waiting.length === 1) setImmediate(pump)
      })
    },
  }
}

type Answer =
  | { outcome: 'created'; event: EventJson; allowance: Allowance | null; interrupted: Interrupted[] }
  | { outcome: 'rate_limited'; allowance: Allowance }
  | { outcome: 'same'; seq: number; data: unknown; interrupted: Interrupted[] }
  | { outcome: 'conflict' }
  | { outcome: 'busy' }
  | { outcome: 'not_found' }
  | { outcome: 'forbidden' }

type Row = LogRow & { allowance: Allowance | null }

function acceptedOf(row: Row): Accepted {
  const { allowance } = row
  if (row.seq === null) return { outcome: 'rate_limited', allowance: allowance! }
  return { outcome: 'created', event: eventOfRow(row), allowance, interrupted: [] }
}

/** What depends on nothing but its session and what its user's row says, and is counted where all see it. */
function isPlain({ whenBusy, refusesBudget, lane, more }: Acceptance): boolean {
  return whenBusy === 'queue' && !refusesBudget && more === undefined && !lane.startsWith(privateLane)
}

function refusal(why: string): DatabaseError {
  return new DatabaseError('refused', new Error(why))
}

function sessionKey({ tenantId, sessionId }: Acceptance): string {
  return `${tenantId}\n${sessionId}`
}

function bytesOf({ parts, metadata }: Acceptance): number {
  return parts.length + (metadata?.length ?? 0)
}

function withoutDoubles<T extends { acceptance: Acceptance }>(batch: T[]): T[] {
  const seen = new Set<string>()
  return batch.filter(({ acceptance: { tenantId, sessionId, messageId } }) => {
    const key = JSON.stringify([tenantId, sessionId, messageId])
    return !seen.has(key) && seen.add(key)
  })
}

function fields(a: Acceptance): unknown[] {
  const [sendsMax, more] = rated(a)
  return [
    a.tenantId,
    a.sessionId,
    a.userId,
    a.messageId,
    a.turnId,
    a.replyId,
    a.parts,
    a.metadata,
    a.bodyHash,
    a.preview,
    a.lane,
    a.expiresMs,
    sendsMax,
    a.whenBusy,
    a.refusesBudget ?? false,
    more,
  ]
}

function columns(batch: Acceptance[]): unknown[][] {
  // All but the last three, which are `queue`, false and null for each of them.
  const rows = batch.map((each) => fields(each).slice(0, -3))
  return rows[0]!.map((_, column) => rows.map((row) => row[column]))
}
