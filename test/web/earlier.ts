/** What was used today, as if it had been on another day: pages of usage look back for weeks, and tests do not last so long. */
import { queryOnce } from '../support/postgres.ts'

/** `isEstimated`: its provider reported nothing. */
export type Earlier = { daysAgo: number; model?: string; cost?: number; isEstimated?: boolean }

/** Of the chat with this title. The ledger and its daily figures both say so afterwards. */
export async function usedEarlier(database: string, title: string, earlier: Earlier): Promise<void> {
  const { daysAgo, model = null, cost = null, isEstimated = false } = earlier
  await queryOnce(
    database,
    `with before as materialized (select array_agg(u) as rows from holdfast.usage u join holdfast.sessions s
        on s.tenant_id = u.tenant_id and s.id = u.session_id where s.title = $1),
      moved as materialized (select array_agg(jsonb_populate_record(u, jsonb_strip_nulls(jsonb_build_object(
          'model', $3::text, 'cost', $4::numeric, 'state', case when $5 then 'estimated' end, 'ended_at', u.ended_at - make_interval(days => $2),
          'succeeded_on', u.succeeded_on - $2::int)))) as rows from before, unnest(before.rows) u),
      written as (update holdfast.usage u set state = m.state, model = m.model, cost = m.cost, ended_at = m.ended_at,
          succeeded_on = m.succeeded_on from moved, unnest(moved.rows) m
        where (u.tenant_id, u.turn_id, u.attempt, u.step) = (m.tenant_id, m.turn_id, m.attempt, m.step) returning u.step)
    select holdfast.fold_usage(before.rows, moved.rows) from before, moved where (select count(*) from written) > 0`,
    [title, daysAgo, model, cost, isEstimated],
  )
}
