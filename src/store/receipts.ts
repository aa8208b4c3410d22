/** How far a member's devices have got in a session's log, and how far its user has read. */
import type { Database, Statement } from './database.ts'

const receiveStatement: Statement = {
  name: 'receive',
  text: 'select holdfast.receive($1, $2, $3, $4, $5) as answer',
}

/** `ahead`: the log does not go so far. `moved`: it is more than was stored. */
export type ReceiptAnswer =
  | { outcome: 'stored'; moved: boolean; delivered: number; read: number; unread: number }
  | { outcome: 'ahead' }
  | { outcome: 'not_found' }

/** Seqs; null: nothing is said of it. */
export async function storeReceipt(
  database: Database,
  ask: { tenantId: string; sessionId: string; userId: string; delivered: number | null; read: number | null },
): Promise<ReceiptAnswer> {
  const values = [ask.tenantId, ask.sessionId, ask.userId, ask.delivered, ask.read]
  // Among the reads: whoever reads along waits for readers, and holds up nobody's message.
  return (await database.query<{ answer: ReceiptAnswer }>('read', receiveStatement, values))[0]!.answer
}
