import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import { limits } from '../core/limits.ts'
import { readSnapshot } from '../log/snapshot.ts'
import type { Database } from '../store/database.ts'
import { createSession, deleteSession, listSessions, renameSession, type SessionPlace } from '../store/sessions.ts'
import { idSchema, metadataSchema, readBody, readQuery } from './body.ts'
import { placeText } from './messages.ts'
import { Problem } from './problem.ts'
import { type Call, type HttpParts, json, locationOf, type Route, sessionOf } from './route.ts'

export const titleSchema = z.string().min(1).max(limits.titleCharactersMax)
const createSchema = z.strictObject({
  id: idSchema.optional(),
  title: titleSchema.optional(),
  metadata: metadataSchema.optional(),
})

async function create(call: Call): Promise<Response> {
  const { request, parts, principal } = call
  const { id = uuidv7(), title = null, metadata = {} } = await readBody(request, createSchema)
  const created = await createSession(parts.database, { ...principal, id, title, metadata })
  if (created.outcome === 'conflict') throw new Problem('id_conflict', 'A session has or had this id. Choose a new id.')
  if (created.outcome === 'created') tellCreated(parts, principal.tenantId, id)
  return json(created.outcome === 'created' ? 201 : 200, created.session, locationOf(call, id))
}

/** Nobody follows it yet, but lists of sessions are open. */
export function tellCreated({ wakeups }: Pick<HttpParts, 'wakeups'>, tenantId: string, sessionId: string): void {
  wakeups.tell({ tenantId, sessionId, events: [], runs: [], due: false })
}

/** Years 1 to 9999, as one instant: offsets that PostgreSQL does not read (it stops at 15:59) are gone then. */
const timeSchema = z.iso
  .datetime({ offset: true, message: 'expected an ISO 8601 time' })
  .transform((text) => new Date(text))
  .refine((at) => at.getTime() >= Date.parse('0001-01-01') && at.getTime() < Date.parse('9999-12-31'), {
    message: 'expected a time in the years 1 to 9999',
  })
  .transform((at) => at.toISOString())

export const listSchema = z.object({
  changedSince: timeSchema.optional(),
  before: z.string().max(400).optional(),
  limit: z.coerce.number().int().min(1).max(limits.sessionPageMax).default(limits.sessionPageDefault),
})

async function list({ url, parts, principal }: Call): Promise<Response> {
  return json(200, await sessionPage(parts.database, principal, readQuery(url, listSchema)))
}

export async function sessionPage(
  database: Database,
  { tenantId, userId }: { tenantId: string; userId: string },
  { changedSince, before, limit }: z.infer<typeof listSchema>,
) {
  const place = before === undefined ? null : decodePlace(before)
  const since = changedSince ?? null
  const page = await listSessions(database, { tenantId, userId, changedSince: since, before: place, limit })
  return { data: page.sessions, before: page.before && encodePlace(page.before), after: null }
}

/** As PostgreSQL writes a time, to the microsecond: a page ends between two sessions of one millisecond. */
const placeSchema = z.tuple([
  z
    .string()
    .regex(/^[1-9]\d{3}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?[+-](0\d|1[0-5])(:[0-5]\d)?$/)
    .refine((text) => z.iso.datetime().safeParse(`${text.slice(0, 10)}T${text.slice(11, 19)}Z`).success),
  idSchema,
])

function encodePlace(place: SessionPlace): string {
  return Buffer.from(JSON.stringify([place.updatedAt, place.id])).toString('base64url')
}

function decodePlace(text: string): SessionPlace {
  try {
    const [updatedAt, id] = placeSchema.parse(JSON.parse(Buffer.from(text, 'base64url').toString()))
    return { updatedAt, id }
  } catch {
    throw new Problem('bad_cursor', '"before" is not one that a page of sessions gave.')
  }
}

const snapshotSchema = z.object({
  limit: z.coerce.number().int().min(1).max(limits.messagePageMax).default(limits.messagePageDefault),
})

async function snapshot(call: Call): Promise<Response> {
  const { limit } = readQuery(call.url, snapshotSchema)
  const { database, hub } = call.parts
  const found = await readSnapshot(database, hub.epoch(), { ...sessionOf(call), limit })
  if (found === null) throw new Problem('not_found')
  return json(200, { ...found, before: found.before && placeText(found.before) })
}

const renameSchema = z.strictObject({ title: titleSchema.nullable() })

async function rename(call: Call): Promise<Response> {
  const { title } = await readBody(call.request, renameSchema)
  const { tenantId, sessionId, userId } = sessionOf(call)
  const renamed = await renameSession(call.parts.database, { tenantId, id: sessionId, userId, title })
  if (renamed.outcome !== 'updated') throw new Problem(renamed.outcome)
  call.parts.wakeups.tell({ tenantId, sessionId, events: [renamed.event], runs: [], due: false })
  return json(200, renamed.session)
}

async function remove(call: Call): Promise<Response> {
  const { tenantId, sessionId, userId } = sessionOf(call)
  const { outcome, members } = await deleteSession(call.parts.database, tenantId, sessionId, userId)
  if (outcome !== 'deleted') throw new Problem(outcome)
  // Followers look, and find nothing.
  call.parts.wakeups.tell({ tenantId, sessionId, events: [], runs: [], due: false, members })
  return new Response(null, { status: 204 })
}

export const sessionRoutes: Route[] = [
  {
    name: 'sessions.create',
    method: 'POST',
    path: '/v1/sessions',
    right: 'none',
    judgedBy: 'statement',
    makesGuests: true,
    handle: create,
  },
  { name: 'sessions.list', method: 'GET', path: '/v1/sessions', right: 'none', judgedBy: 'statement', handle: list },
  {
    name: 'sessions.snapshot',
    method: 'GET',
    path: '/v1/sessions/:sessionId',
    right: 'read',
    judgedBy: 'statement',
    handle: snapshot,
  },
  {
    name: 'sessions.rename',
    method: 'PATCH',
    path: '/v1/sessions/:sessionId',
    right: 'write',
    judgedBy: 'statement',
    handle: rename,
  },
  {
    name: 'sessions.delete',
    method: 'DELETE',
    path: '/v1/sessions/:sessionId',
    right: 'own',
    judgedBy: 'statement',
    handle: remove,
  },
]
