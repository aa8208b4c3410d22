import type { JsonObject } from '../core/json.ts'
import type { Message, Turn } from '../core/message.ts'
import type { Database, Statement } from './database.ts'

const pageStatement = (name: string, condition: string, direction: 'asc' | 'desc'): Statement => ({
  name,
  text: `
    select holdfast.message_json(m) as message, m.position, m.role, m.status = 'streaming' and exists (
        select from holdfast.turns t where t.tenant_id = m.tenant_id and t.id = m.turn_id and t.reply_id = m.id
          and t.state = 'waiting') as waits
      from holdfast.messages m
     where m.tenant_id = $1 and m.session_id = $2 and m.shown and holdfast.may_see(m.audience, $3) and ${condition}
     order by m.position ${direction}, m.role ${direction === 'asc' ? 'desc' : 'asc'} limit $6`,
})
// Within a position the user's message comes first: 'user' > 'assistant'.
const latest = pageStatement('messages-latest', '($4::int is null and $5::text is null)', 'desc')
const before = pageStatement(
  'messages-before',
  "(m.position < $4 or m.position = $4 and $5 = 'assistant' and m.role = 'user')",
  'desc',
)
const after = pageStatement(
  'messages-after',
  "(m.position > $4 or m.position = $4 and $5 = 'user' and m.role = 'assistant')",
  'asc',
)

/** A message's place in a session. */
export type MessagePlace = { position: number; role: 'user' | 'assistant' }
/** `waiting`: ids of those of its replies that wait for people. */
export type MessagePage = {
  messages: Message[]
  waiting: string[]
  before: MessagePlace | null
  after: MessagePlace | null
}

/** A page of a session's messages, oldest first: the last ones, those before a place, or those after it. */
export async function messagePage(
  database: Database,
  ask: {
    tenantId: string
    sessionId: string
    /** Null: the server itself, which sees all. */
    userId: string | null
    limit: number
    from: { side: 'before' | 'after'; place: MessagePlace } | null
  },
): Promise<MessagePage> {
  type Row = { message: Message; position: number; role: 'user' | 'assistant'; waits: boolean }
  const forward = ask.from?.side === 'after'
  const statement = ask.from === null ? latest : forward ? after : before
  const rows = await database.query<Row>('read', statement, [
    ask.tenantId,
    ask.sessionId,
    ask.userId,
    ask.from?.place.position ?? null,
    ask.from?.place.role ?? null,
    ask.limit + 1,
  ])
  const page = rows.slice(0, ask.limit)
  if (!forward) page.reverse()
  const place = (row: Row | undefined): MessagePlace | null => (row ? { position: row.position, role: row.role } : null)
  const more = rows.length > ask.limit
  return {
    messages: page.map((row) => row.message),
    waiting: page.flatMap(({ message, waits }) => (waits ? [message.id] : [])),
    before: forward || more ? place(page[0]) : null,
    after: forward ? (more ? place(page.at(-1)) : null) : ask.from ? place(page.at(-1)) : null,
  }
}

const promptStatement: Statement = {
  name: 'prompt',
  text: `
    with recursive mine as (
      select m.* from holdfast.messages m where m.tenant_id = $1 and m.session_id = $2 and m.id = $4
      union all
      select p.* from mine c join holdfast.messages p on p.tenant_id = $1 and p.session_id = $2 and p.id = c.parent),
    told as (
      select * from mine
      union all
      select o.* from holdfast.messages o where o.tenant_id = $1 and o.session_id = $2 and o.position < $3 and o.shown
        and o.lane <> (select lane from mine where id = $4)),
    seen as (
      select m.id, m.role, m.parts, m.metadata, m.position, coalesce(r.position, m.position) as place, false as steered
        from told m
        left join holdfast.turns s on s.tenant_id = $1 and s.id = m.turn_id and s.message_id = m.id and s.steered
        left join holdfast.messages r on r.tenant_id = $1 and r.session_id = $2 and r.id = s.reply_id
       where (m.audience is null or m.audience = (select audience from mine where id = $4)) and (m.role = 'user' or m.parts <> '[]' and m.status in ('complete', 'stopped'))
      union all
      select m.id, m.role, m.parts, m.metadata, m.position, m.position, true
        from holdfast.turns t
        join holdfast.turns s on s.tenant_id = $1 and s.session_id = $2 and s.steered and s.reply_id = t.reply_id
        join holdfast.messages m on m.tenant_id = $1 and m.session_id = $2 and m.id = s.message_id
       where t.tenant_id = $1 and t.session_id = $2 and t.message_id = $4)
    select id, role, parts, metadata, steered from seen order by steered, place, role desc, position`,
}

export type PromptMessage = {
  id: string
  role: 'user' | 'assistant'
  parts: { type: string }[]
  metadata: JsonObject | null
  /** It was handed to this turn while it ran. */
  steered: boolean
}

/**
 * What the model sees (I13): the branch that the turn's message is in, up to that message, whichever is shown by now; each
 * user's message with its reply where that is complete or stopped with text. What was handed to a reply stands before it:
 * after it, models take it for unanswered, and answer it once more. Of other lanes what is shown, in the order of turns.
 * All as far as everybody may see it who sees the reply: in a private lane what is said there and what all see, elsewhere what
 * all see, and nobody's own. Last what was handed to this turn so far.
 */
export function promptMessages(
  database: Database,
  turn: { tenantId: string; sessionId: string; position: number; messageId: string },
): Promise<PromptMessage[]> {
  return database.query('read', promptStatement, [turn.tenantId, turn.sessionId, turn.position, turn.messageId])
}

const pairStatement: Statement = {
  name: 'message-pair',
  text: `
    select holdfast.message_json(u) as message, holdfast.message_json(r) as reply, holdfast.turn_json(t) as turn,
        s.next_seq - 1 as seq, u.withdrawn, r.turn_id as "replyTurnId",
        case when w.open and w.reply_id = r.id then holdfast.base_of(w) end as base
      from holdfast.messages x
      join holdfast.turns t on t.tenant_id = x.tenant_id and t.id = x.turn_id
      join holdfast.sessions s on s.tenant_id = t.tenant_id and s.id = t.session_id
      join holdfast.messages u on u.tenant_id = t.tenant_id and u.session_id = t.session_id and u.id = t.message_id
      join lateral (select r.* from holdfast.messages r where r.tenant_id = t.tenant_id and r.session_id = t.session_id
          and (r.id = t.reply_id or r.parent = t.message_id and r.replies_to = t.message_id)
        order by r.chosen desc, r.id = t.reply_id desc limit 1) r on true
      join holdfast.turns w on w.tenant_id = t.tenant_id and w.id = r.turn_id
     where x.tenant_id = $1 and x.session_id = $2 and x.id = $3 and holdfast.may_see(t.audience, $4)
       and ($4::text is null or exists (select from holdfast.members e
         where e.tenant_id = $1 and e.session_id = $2 and e.user_id = $4))`,
}

export type Pair = {
  message: Message
  reply: Message
  turn: Turn
  /** Whose reply it is: another turn's, where the message was handed to that one. */
  replyTurnId: string
  seq: number
  /** The message has left the conversation before anybody began to answer it. */
  withdrawn: boolean
}

/**
 * By either of them: a user's message, the reply to it that is chosen, and their turn. A reply that is being written has
 * as parts the base of its attempt, as in a snapshot: who follows from `seq` gets all chunks after it. Null: none that the
 * user may see; without a user it is the server that asks.
 */
export async function messagePair(
  database: Database,
  tenantId: string,
  sessionId: string,
  messageId: string,
  userId: string | null,
): Promise<Pair | null> {
  type Row = Pair & { base: Message['parts'] | null }
  const row = (await database.query<Row>('read', pairStatement, [tenantId, sessionId, messageId, userId]))[0]
  if (!row) return null
  const { base, ...pair } = row
  return base === null ? pair : { ...pair, reply: { ...pair.reply, parts: base } }
}

const sessionStatement: Statement = {
  name: 'prompt-session',
  text: 'select id, title, metadata from holdfast.sessions where tenant_id = $1 and id = $2',
}

export async function promptSession(
  database: Database,
  tenantId: string,
  sessionId: string,
): Promise<{ id: string; title: string | null; metadata: JsonObject } | null> {
  type Row = { id: string; title: string | null; metadata: JsonObject }
  return (await database.query<Row>('read', sessionStatement, [tenantId, sessionId]))[0] ?? null
}
