import type { Client } from 'pg'

/** In which tables of the schema this text stands, whatever they are called. */
export async function tracesIn(sql: Client, text: string): Promise<string[]> {
  const tables = await sql.query<{ name: string }>(`select table_name as name from information_schema.tables
    where table_schema = 'holdfast' and table_type = 'BASE TABLE' order by 1`)
  const found: string[] = []
  for (const { name } of tables.rows) {
    const { rows } = await sql.query<{ n: number }>(
      `select count(*)::int as n from holdfast.${name} x where strpos(x::text, $1) > 0`,
      [text],
    )
    if (rows[0]!.n !== 0) found.push(name)
  }
  return found
}
