/** What people tell each other without a message: how far they have read, that they are typing, and that they are there. */
import * as z from 'zod'
import { decodeCursor } from '../core/cursor.ts'
import { privateLane } from '../core/event.ts'
import { passingNote } from '../log/wakeups.ts'
import { listMembers } from '../store/members.ts'
import { type Present, presentIn } from '../store/presence.ts'
import { storeReceipt } from '../store/receipts.ts'
import { readBody } from './body.ts'
import { laneOf } from './lane.ts'
import { Problem } from './problem.ts'
import { mustHave } from './right.ts'
import { type Call, type HttpParts, json, type Route, sessionOf } from './route.ts'

const cursorSchema = z.string().max(4_000)
const receiptSchema = z.strictObject({ delivered: cursorSchema.optional(), read: cursorSchema.optional() })

async function receipts(call: Call): Promise<Response> {
  const asked = await readBody(call.request, receiptSchema)
  const epoch = call.parts.hub.epoch()
  const session = sessionOf(call)
  const stored = await storeReceipt(call.parts.database, {
    ...session,
    delivered: seqOf(asked.delivered, epoch),
    read: seqOf(asked.read, epoch),
  })
  if (stored.outcome === 'ahead') throw new Problem('bad_cursor', otherLog)
  if (stored.outcome === 'not_found') throw new Problem('not_found')
  const { delivered, read, unread } = stored
  if (stored.moved) {
    const data = { userId: session.userId, delivered, read }
    const note = passingNote(session, { type: 'receipt', data }, null)
    call.parts.wakeups.tell(asked.read === undefined ? note : { ...note, readBy: session.userId })
  }
  return json(200, { delivered, read, unread })
}

const otherLog = 'The cursor is of another log than this one. Load the session again and use its cursor.'

function seqOf(text: string | undefined, epoch: string): number | null {
  if (text === undefined) return null
  const cursor = decodeCursor(text)
  if (cursor === null) throw new Problem('bad_cursor')
  if (cursor.epoch !== epoch) throw new Problem('bad_cursor', otherLog)
  return cursor.seq
}

const typingSchema = z.strictObject({ isTyping: z.boolean() })

async function typing(call: Call): Promise<Response> {
  const { isTyping } = await readBody(call.request, typingSchema)
  const lane = await laneOf(call)
  // Asked last: body and app may take their time, and who was removed meanwhile types no more.
  await mustHave('write', call)
  // Of what becomes of it nobody else sees anything.
  if (!lane.startsWith(privateLane)) call.parts.typing.say(sessionOf(call), isTyping)
  return new Response(null, { status: 204 })
}

/** What a device says of itself where it follows. */
export const presenceField = z.enum(['here', 'away'])

/**
 * Members who are there just now: those who follow the session here, and where the app delivers over Ably, those who have entered
 * its presence channel. Where Ably does not answer it is the first alone.
 */
export async function whoIsThere(
  { database, ably }: Pick<HttpParts, 'database' | 'ably'>,
  session: { tenantId: string; sessionId: string },
): Promise<Present[]> {
  const following = presentIn(database, session)
  if (ably === undefined) return await following
  const [here, entered] = await Promise.all([following, ably.present(session).catch(() => [])])
  const among = new Set(entered.map(({ userId }) => userId))
  if (among.size === 0) return here
  // A token outlives a membership.
  const members = await listMembers(database, { ...session, userId: null })
  const states = new Map(here.map(({ userId, state }) => [userId, state]))
  for (const { userId } of members) if (among.has(userId)) states.set(userId, 'here')
  return [...states].map(([userId, state]) => ({ userId, state }))
}

async function presence(call: Call): Promise<Response> {
  const session = sessionOf(call)
  const present = await whoIsThere(call.parts, session)
  return json(200, { presence: present.filter(({ userId }) => userId !== session.userId) })
}

export const peopleRoutes: Route[] = [
  {
    name: 'receipts.store',
    method: 'POST',
    path: '/v1/sessions/:sessionId/receipts',
    right: 'read',
    judgedBy: 'statement',
    overSocket: true,
    handle: receipts,
  },
  {
    name: 'typing.say',
    method: 'POST',
    path: '/v1/sessions/:sessionId/typing',
    right: 'write',
    judgedBy: 'statement',
    overSocket: true,
    handle: typing,
  },
  {
    name: 'presence.list',
    method: 'GET',
    path: '/v1/sessions/:sessionId/presence',
    right: 'read',
    judgedBy: 'route',
    handle: presence,
  },
]
