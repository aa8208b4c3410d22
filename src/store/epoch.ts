import type { Database, Statement } from './database.ts'

/**
 * The timeline that is written now. The control file names that of the last checkpoint: after a promotion it named the
 * old one until the next checkpoint had ended, which may take minutes (PostgreSQL 15, 2026-11-21).
 */
const here = `
  (select system_identifier::text, case when pg_is_in_recovery() then timeline_id
      else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int end as timeline
    from pg_control_system(), pg_control_checkpoint()) here`

const knownEpoch: Statement = {
  name: 'known-epoch',
  text: `select m.epoch from holdfast.meta m
     join ${here} on m.system_identifier = here.system_identifier and m.timeline = here.timeline`,
}

/**
 * The log's epoch, 8 characters. Cursors carry it. It changes when this database turns out to be a restored one: its
 * system identifier (dumped and loaded elsewhere) or timeline (recovered from a backup, or a standby promoted) is not
 * the one that the epoch was made for. A follower whose cursor may name events that never happened here is then told
 * to start over, instead of missing what was written in their place. Asked again every few seconds: a failover happens
 * under a running process.
 */
export async function readEpoch(database: Database, fresh: string): Promise<string> {
  const known = await database.query<{ epoch: string }>('read', knownEpoch, [])
  if (known[0]) return known[0].epoch
  return await database.transaction(async (query) => {
    const rows = await query(
      `insert into holdfast.meta (epoch, system_identifier, timeline)
         select $1, here.system_identifier, here.timeline from ${here}
       on conflict (only_row) do update set
         epoch = case when (meta.system_identifier, meta.timeline) = (excluded.system_identifier, excluded.timeline)
           then meta.epoch else excluded.epoch end,
         system_identifier = excluded.system_identifier, timeline = excluded.timeline
       returning epoch`,
      [fresh],
    )
    return rows.rows[0].epoch as string
  })
}

/**
 * Gives the log a new epoch whatever it looks like. A backup that was put back into the server that it came from has
 * the system identifier and the timeline of the log that it replaces, so only who put it back knows. Resolves to the
 * new epoch, and to the one before where there was one.
 */
export async function changeEpoch(database: Database): Promise<{ before: string | null; epoch: string }> {
  return await database.transaction(async (query) => {
    const old = await query('select epoch from holdfast.meta for update')
    const { rows } = await query(
      `insert into holdfast.meta (epoch, system_identifier, timeline)
         select left(replace(gen_random_uuid()::text, '-', ''), 8), here.system_identifier, here.timeline from ${here}
       on conflict (only_row) do update set epoch = excluded.epoch,
         system_identifier = excluded.system_identifier, timeline = excluded.timeline
       returning epoch`,
    )
    return { before: old.rows[0]?.epoch ?? null, epoch: rows[0].epoch as string }
  })
}
