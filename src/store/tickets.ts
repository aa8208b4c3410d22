/** Tickets for a WebSocket: stored as their hash, taken once. */
import { createHash } from 'node:crypto'
import type { Database, Statement } from './database.ts'

/** Who a ticket stands for. `expiresAt`: milliseconds since 1970 until which they are known. */
export type TicketHolder = { tenantId: string; userId: string; plan?: string; expiresAt?: number }

const issueStatement: Statement = {
  name: 'issue-ticket',
  text: 'select holdfast.issue_ticket($1, $2, $3, $4, $5, $6, $7, $8) as "expiresAt"',
}

/** Null: the holder has `max` that are neither used nor expired. */
export async function issueTicket(
  database: Database,
  ask: { ticket: string; holder: TicketHolder; origin: string | null; lastsMs: number; max: number },
): Promise<{ expiresAt: Date } | null> {
  const { tenantId, userId, plan = null, expiresAt = null } = ask.holder
  const values = [hashOf(ask.ticket), tenantId, userId, ask.origin, expiresAt, ask.lastsMs, ask.max, plan]
  const rows = await database.query<{ expiresAt: Date | null }>('accept', issueStatement, values)
  const until = rows[0]!.expiresAt
  return until && { expiresAt: until }
}

const takeStatement: Statement = {
  name: 'take-ticket',
  text: `
    delete from holdfast.tickets where hash = $1
    returning tenant_id as "tenantId", user_id as "userId", plan, principal_expires_ms as "expiresMs",
      expires_at > clock_timestamp() and (origin is null or origin = $2) as "isGood"`,
}

/**
 * Null: there is none, it has expired, or another origin than that of the page that asked brings it. It is gone in any case:
 * who brings it from elsewhere must not have had it. No page asked: then the origin says nothing, because React Native
 * sends none with a request and its server's own with a socket.
 */
export async function takeTicket(
  database: Database,
  ticket: string,
  origin: string | null,
): Promise<TicketHolder | null> {
  type Row = { tenantId: string; userId: string; plan: string | null; expiresMs: number | null; isGood: boolean }
  const [row] = await database.query<Row>('accept', takeStatement, [hashOf(ticket), origin])
  if (!row?.isGood) return null
  const { tenantId, userId, plan, expiresMs } = row
  return {
    tenantId,
    userId,
    ...(plan === null ? {} : { plan }),
    ...(expiresMs === null ? {} : { expiresAt: expiresMs }),
  }
}

const sweepStatement: Statement = {
  name: 'sweep-tickets',
  text: `
    delete from holdfast.tickets where hash in (select hash from holdfast.tickets
      where expires_at <= clock_timestamp() order by expires_at limit $1 for update skip locked)
    returning 1`,
}

/** Answers how many were removed that nobody used in time. */
export async function sweepTickets(database: Database, rowsMax: number): Promise<number> {
  return (await database.query('turns', sweepStatement, [rowsMax])).length
}

function hashOf(ticket: string): Buffer {
  return createHash('sha256').update(ticket).digest()
}
