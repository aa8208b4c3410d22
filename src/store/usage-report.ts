/** What was used within some days (UTC), grouped. Sessions are only in the ledger itself; all else is in the daily figures. */
import type { Database, Statement } from './database.ts'

export type UsageGroup = 'day' | 'model' | 'user' | 'session'

export type UsageRow = {
  day?: string
  /** Null: nobody knows which. */
  model?: string | null
  userId?: string
  sessionId?: string
  messages: number
  replies: number
  attempts: number
  inputTokens: number
  outputTokens: number
  cachedTokens: number
  reasoningTokens: number
  /** A decimal number in the app's currency; null: of some of it nobody knows the price. */
  cost: string | null
  /** Steps whose tokens are an estimate. */
  estimated: number
}

export type UsageAsk = {
  tenantId: string
  /** Null: everybody's. */
  userId: string | null
  /** Days like 2026-11-30, both included. */
  from: string
  to: string
  by: readonly UsageGroup[]
  rowsMax: number
}

/** Of figures `f` with a session. Which of the four are told apart is an argument, so that each statement is one. */
const report = (figures: string) => `
  select case when $4 then to_char(f.day, 'YYYY-MM-DD') end as day, case when $5 then f.model end as model,
      case when $6 then f.user_id end as "userId", case when $7 then f.session_id end as "sessionId",
      sum(f.messages)::float8 as messages, sum(f.replies)::float8 as replies, sum(f.attempts)::float8 as attempts,
      sum(f.input_tokens)::float8 as "inputTokens", sum(f.output_tokens)::float8 as "outputTokens",
      sum(f.cached_input_tokens)::float8 as "cachedTokens", sum(f.reasoning_tokens)::float8 as "reasoningTokens",
      case when sum(f.unpriced) = 0 then trim_scale(sum(f.cost))::text end as cost, sum(f.estimated)::float8 as estimated
    from (${figures}) f
   group by 1, 2, 3, 4
  having sum(f.messages) <> 0 or sum(f.attempts) <> 0 or sum(f.estimated) <> 0 or sum(f.unpriced) <> 0
      or sum(f.input_tokens) <> 0 or sum(f.output_tokens) <> 0 or sum(f.cost) <> 0
   order by 1, 2, 3, 4 limit $8`

const daily = (user: string) =>
  report(`select p.*, null::text as session_id from holdfast.usage_daily_parts p
    where p.tenant_id = $1 and ${user} and p.day between $2::date and $3::date`)

// A turn may be complete on a later day than that of its last call: it counts on both.
const ledger = (user: string) =>
  report(`select c.*, u.session_id from holdfast.usage u, holdfast.counts_of(u) c
    where u.tenant_id = $1 and ${user} and c.day between $2::date and $3::date
      and (u.ended_at >= $2::date::timestamp at time zone 'utc' and u.ended_at < ($3::date + 1)::timestamp at time zone 'utc'
        or u.succeeded_on between $2::date and $3::date)`)

const statements: { readonly [name in 'daily' | 'ledger']: { readonly own: Statement; readonly all: Statement } } = {
  daily: {
    own: { name: 'usage-of-user', text: daily('p.user_id = $9') },
    all: { name: 'usage-of-all', text: daily('$9::text is null') },
  },
  ledger: {
    own: { name: 'usage-of-user-by-session', text: ledger('u.user_id = $9') },
    all: { name: 'usage-of-all-by-session', text: ledger('$9::text is null') },
  },
}

/** Null: there are more rows than `rowsMax`. */
export async function usageReport(database: Database, ask: UsageAsk): Promise<UsageRow[] | null> {
  const { tenantId, userId, from, to, by, rowsMax } = ask
  const statement = statements[by.includes('session') ? 'ledger' : 'daily'][userId === null ? 'all' : 'own']
  const [day, model, user, session] = (['day', 'model', 'user', 'session'] as const).map((group) => by.includes(group))
  const values = [tenantId, from, to, day, model, user, session, rowsMax + 1, userId]
  const rows = await database.query<Required<UsageRow>>('read', statement, values)
  if (rows.length > rowsMax) return null
  return rows.map(({ day: onDay, model: ofModel, userId: ofUser, sessionId, ...figures }) => ({
    ...(day && { day: onDay }),
    ...(model && { model: ofModel === '' ? null : ofModel }),
    ...(user && { userId: ofUser }),
    ...(session && { sessionId }),
    ...figures,
  }))
}

/** A figure of the daily ones that is not the ledger's. Without user and model: of the whole tenant. */
export type UsageDifference = {
  tenantId: string
  userId: string | null
  day: string
  model: string | null
  figure: string
  ledger: string
  daily: string
}

/** Folds the whole ledger anew, which takes as long as it takes. Both are of one moment. */
export function usageDifferences(database: Database): Promise<{ rows: number; differences: UsageDifference[] }> {
  return database.transaction(async (query) => {
    await query("set transaction isolation level repeatable read, read only; set local statement_timeout = '1h'")
    const counted = await query('select count(*)::float8 as rows from holdfast.usage')
    const { rows: differences } = await query(`
      select tenant_id as "tenantId", user_id as "userId", day::text, model, figure, trim_scale(ledger)::text as ledger,
          trim_scale(daily)::text as daily from holdfast.usage_differences()`)
    return { rows: counted.rows[0].rows, differences }
  })
}
