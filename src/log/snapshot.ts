import type { Chunk } from '../core/chunk.ts'
import { encodeCursor } from '../core/cursor.ts'
import { maySee } from '../core/event.ts'
import { joinDeltas } from '../core/join.ts'
import type { Database } from '../store/database.ts'
import { type Member, snapshotRow } from '../store/log.ts'
import type { MessagePlace } from '../store/messages.ts'
import type { Present } from '../store/presence.ts'

export type Snapshot = {
  session: unknown
  messages: unknown[]
  before: MessagePlace | null
  members: Member[]
  /** Of the others. */
  presence: Present[]
  turns: unknown[]
  open: { turnId: string; replyId: string; attempt: number; index: number; chunks: Chunk[] }[]
  cursor: string
}

/**
 * A session as of one moment, and the cursor from which to follow on. A message never comes half folded: an open
 * reply's `parts` are its base (the finished steps that an earlier attempt left), and `open` holds the chunks of its
 * latest attempt, adjacent deltas joined. Null: no such session, or not the user's.
 */
export async function readSnapshot(
  database: Database,
  epoch: string,
  ask: { tenantId: string; sessionId: string; userId: string; limit: number },
): Promise<Snapshot | null> {
  const row = await snapshotRow(database, ask.tenantId, ask.sessionId, ask.userId, ask.limit)
  if (row === null) return null
  const seen = (row.open ?? []).filter((each) => maySee(each.audience, ask.userId))
  const open = seen.map((each) => ({ ...each, chunks: joinDeltas((each.runs ?? []).flat() as Chunk[]) }))
  const bases = new Map(open.map((each) => [each.replyId, each.base]))
  const messages = (row.messages ?? []).map(({ message }) => {
    const base = bases.get(message.id)
    return base === undefined ? message : { ...message, parts: base }
  })
  const first = row.messages?.[0]
  return {
    session: row.session,
    messages,
    before: row.more && first ? { position: first.position, role: first.message.role } : null,
    members: row.members,
    presence: row.presence ?? [],
    turns: row.turns ?? [],
    open: open.map(({ turnId, replyId, attempt, index, chunks }) => ({ turnId, replyId, attempt, index, chunks })),
    cursor: encodeCursor({
      epoch,
      seq: row.seq,
      open: new Map(open.map(({ position, attempt, index }) => [position, { attempt, index }])),
    }),
  }
}
