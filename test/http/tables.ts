/** What is stored, for tests that ask whether anything has changed. */
import { Client } from 'pg'

export type Tables = {
  query<Row>(text: string, values?: unknown[]): Promise<Row[]>
  /** Every row of every table that a request may change. */
  everything(): Promise<Record<string, unknown[]>>
  /** By table: how many rows of this session it has. Tables of content only; the ledger is kept. */
  countsOf(sessionId: string): Promise<Record<string, number>>
  close(): Promise<void>
}

const bySession = ['members', 'messages', 'turns', 'events', 'files']

export async function openTables(url: string): Promise<Tables> {
  const client = new Client({ connectionString: url })
  await client.connect()
  const query = async <Row>(text: string, values: unknown[] = []) => (await client.query(text, values)).rows as Row[]
  return {
    query,
    async everything() {
      const found: Record<string, unknown[]> = {}
      for (const table of ['sessions', ...bySession, 'chunks', 'usage']) {
        found[table] = await query(`select to_json(x) from holdfast.${table} x order by to_json(x)::text`)
      }
      return found
    },
    async countsOf(sessionId) {
      const counts: Record<string, number> = {}
      const count = async (table: string, condition: string) => {
        const rows = await query<{ n: number }>(`select count(*)::int as n from holdfast.${table} where ${condition}`, [
          sessionId,
        ])
        counts[table] = rows[0]!.n
      }
      await count('sessions', 'id = $1')
      for (const table of bySession) await count(table, 'session_id = $1')
      return counts
    },
    close: () => client.end(),
  }
}
