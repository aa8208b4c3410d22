import type { Database } from './database.ts'

/** Above this a table is left to autovacuum: the planner knows enough of it, and looking at it takes longer. */
const rowsMax = 100_000

/**
 * Looks at tables that have grown much since anybody looked. Plans of prepared statements are made on what is known of
 * the tables, and autovacuum looks once a minute: on the empty tables of a first start accept was 2.8 times slower
 * until then. Not at chunks: they are only ever found by their key, and looking at them while hundreds of replies are
 * written held the flush up for 70 ms. Resolves to the tables looked at; without the right to, Postgres only warns.
 */
export function refreshStatistics(database: Database): Promise<string[]> {
  return database.transaction(async (query) => {
    const { rows } = await query(
      `select s.relname as name from pg_stat_user_tables s join pg_class c on c.oid = s.relid
        where s.schemaname = 'holdfast' and s.relname <> 'chunks' and s.n_live_tup < $1
          and s.n_mod_since_analyze > 50 + greatest(c.reltuples, 0) / 2
        order by 1`,
      [rowsMax],
    )
    const names = rows.map(({ name }) => name as string)
    for (const name of names) await query(`analyze holdfast.${name}`)
    return names
  })
}
