/** What must hold of a session's tree of messages and of its turns at any moment, whatever was done to it: asked in SQL. */
import { disorder, lostHeads, type Stored } from '../support/stored.ts'
import { textUpTo } from './held.ts'

/** Sentences about what is wrong in the whole database; empty when all is well. */
export async function wrongs(stored: Stored): Promise<string[]> {
  return [...(await wrongsBesideTexts(stored)), ...(await wrongTexts(stored))]
}

/** For replies that were not written chunk by chunk. */
export async function wrongsBesideTexts(stored: Stored): Promise<string[]> {
  const rows = await stored.query<{ session: string; what: string }>(statement)
  const heads = await lostHeads(stored)
  return [
    ...[...rows, ...(await disorder(stored))].map(({ session, what }) => `${session}: ${what}`),
    ...(heads > 0 ? [`${heads} heads of lanes that nobody made due`] : []),
  ]
}

const statement = `
  with recursive
  live as materialized (select * from holdfast.messages where not withdrawn),
  told as materialized (
    select e.*, sum((e.type in ('message.created', 'turn.queued'))::int) over (partition by e.turn_id order by e.seq) as round,
        e.type in ('message.ai_response', 'message.error', 'message.stopped') as is_outcome
      from holdfast.events e where e.turn_id is not null),
  rounds as materialized (
    select session_id, turn_id, round, count(*) filter (where is_outcome) as outcomes from told group by 1, 2, 3),
  ranked as (
    select *, (count(*) over g)::int as n, (row_number() over (g order by seq, id) - 1)::int as at from live
    window g as (partition by session_id, lane, role, parent)),
  grouped as (
    select session_id, parent, n, count(*) filter (where chosen) as chosen,
        bool_and(branch_count = n and branch_index = at) as numbered
      from ranked group by session_id, lane, role, parent, n),
  way as (
    select session_id, id from live where parent = '' and chosen
    union all
    select c.session_id, c.id from way w join live c on c.session_id = w.session_id and c.parent = w.id and c.chosen),
  up as (
    select session_id, id, parent, 0 as depth from live
    union all
    select u.session_id, u.id, p.parent, u.depth + 1 from up u join live p on p.session_id = u.session_id and p.id = u.parent
     where u.depth < 500)
  select session_id as session, 'a lane is held by ' || count(*) as what from holdfast.turns
   where state = 'running' group by session_id, lane having count(*) > 1
  union all
  select r.session_id, 'round ' || r.round || ' of ' || t.message_id || ' has ' || r.outcomes || ' outcomes and is ' || t.state
    from rounds r join holdfast.turns t on t.id = r.turn_id
   where r.outcomes <> case when r.round < t.round or t.state in ('complete', 'failed', 'stopped') then 1 else 0 end
  union all
  select t.session_id, t.message_id || ' is in round ' || t.round || ' and ' || r.n || ' were told' from holdfast.turns t
    cross join lateral (select max(round) as n from rounds where turn_id = t.id) r where r.n <> t.round
  union all
  select session_id, chosen || ' of ' || n || ' are chosen after ' || parent from grouped where chosen <> 1
  union all
  select session_id, 'wrong numbers among ' || n || ' after ' || parent from grouped where not numbered
  union all
  select m.session_id, m.id || ' is ' || case when m.shown then '' else 'not ' end || 'shown' from holdfast.messages m
   where m.shown <> exists (select from way w where w.session_id = m.session_id and w.id = m.id)
  union all
  select r.session_id, 'the shown reply ' || r.id || ' is not of the shown message before it' from live r
   where r.role = 'assistant' and r.shown and not exists (select from live u where u.session_id = r.session_id
     and u.id = r.parent and u.id = r.replies_to and u.turn_id = r.turn_id and u.shown and u.role = 'user')
  union all
  select m.session_id, m.id || ' does not come from the first message' from live m
   where not exists (select from up u where u.session_id = m.session_id and u.id = m.id and u.parent = '')
  union all
  select m.session_id, m.id || ' was withdrawn, and its turn is ' || t.state from holdfast.messages m
    join holdfast.turns t on t.id = m.turn_id
   where m.withdrawn and m.role = 'user' and (t.state <> 'stopped' or t.attempt > 0 or t.round > 1)
  union all
  select m.session_id, m.id || ' was withdrawn and not told so' from holdfast.messages m
   where m.withdrawn and m.role = 'user' and 1 <> (select count(*) from holdfast.events e where e.turn_id = m.turn_id
     and e.type = 'message.stopped' and e.data ->> 'reason' = 'withdrawn')
  union all
  select t.session_id, 'the reply ' || r.id || ' is ' || r.status || ' and its turn ' || t.state from holdfast.turns t
    join holdfast.messages r on r.session_id = t.session_id and r.id = t.reply_id
   where not t.steered and (t.state in ('complete', 'failed', 'stopped')) <> (r.status in ('complete', 'failed', 'stopped'))
  union all
  select t.session_id, t.message_id || ' was handed to ' || t.reply_id || ', which is not before it' from holdfast.turns t
   where t.steered and not exists (select from holdfast.messages r where r.session_id = t.session_id and r.id = t.reply_id
     and r.position < t.position and not r.withdrawn)`

/** What a stop or an outcome kept is what the log holds of the attempt, to the chunk (I7, I11). */
async function wrongTexts({ query }: Stored): Promise<string[]> {
  const rows = await query<{ session: string; reply: string; attempt: number; n: number; text: string }>(`
    select t.session_id as session, t.reply_id as reply, t.attempt, coalesce(r.parts -> 0 ->> 'text', '') as text,
        (select coalesce(sum(n), 0)::int from holdfast.chunks c where c.turn_id = t.id and c.attempt = t.attempt) as n
      from holdfast.turns t join holdfast.messages r on r.session_id = t.session_id and r.id = t.reply_id
     where t.state in ('complete', 'stopped') and not t.steered and exists (select from holdfast.events e
       where e.turn_id = t.id and e.type = 'attempt.started' and e.attempt = t.attempt and e.data ->> 'replyId' = t.reply_id)`)
  return rows
    .filter(({ attempt, n, text }) => text !== textUpTo(attempt, n))
    .map(({ session, reply, text }) => `${session}: ${reply} says ${JSON.stringify(text)}`)
}
