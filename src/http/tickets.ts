/** Tickets: asked for over HTTP, by whatever way a user is known there, and brought along by the socket in its URL. */
import { randomBytes } from 'node:crypto'
import * as z from 'zod'
import { limits } from '../core/limits.ts'
import type { Database } from '../store/database.ts'
import { issueTicket, takeTicket } from '../store/tickets.ts'
import { readBody } from './body.ts'
import type { Principal } from './principal.ts'
import { Problem } from './problem.ts'
import { type Call, json, type Route } from './route.ts'

const nothingSchema = z.strictObject({})

async function issue({ request, parts, principal }: Call): Promise<Response> {
  await readBody(request, nothingSchema)
  const ticket = randomBytes(32).toString('base64url')
  const issued = await issueTicket(parts.database, {
    ticket,
    holder: principal,
    origin: request.headers.get('origin'),
    lastsMs: limits.ticketLastsMs,
    max: limits.ticketsOfUserMax,
  })
  if (issued === null) {
    const detail = `At most ${limits.ticketsOfUserMax} tickets may wait to be used. Ask for one when you open a socket, not before.`
    throw new Problem('rate_limited', detail, { retryAfterMs: limits.ticketLastsMs })
  }
  return json(201, { ticket, expiresAt: issued.expiresAt.toISOString() })
}

/** Who brings this ticket from this origin; null for nobody. It cannot be brought again. */
export async function bringTicket(
  database: Database,
  ticket: string,
  origin: string | null,
): Promise<Principal | null> {
  return /^[\w-]{43}$/.test(ticket) ? await takeTicket(database, ticket, origin) : null
}

export const ticketRoutes: Route[] = [
  {
    name: 'tickets.issue',
    method: 'POST',
    path: '/v1/realtime/tickets',
    right: 'none',
    judgedBy: 'statement',
    handle: issue,
  },
]
