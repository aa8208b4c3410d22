/** Who the members of a session are: added, changed and removed by its owners, or invited by them. */
import { createHash, randomBytes } from 'node:crypto'
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import { limits } from '../core/limits.ts'
import { stopTurn } from '../log/stop.ts'
import type { Member } from '../store/log.ts'
import {
  acceptInvite,
  addMember,
  changeMember,
  type Invite,
  listInvites,
  listMembers,
  type MemberAnswer,
  muteSession,
  removeMember,
  revokeInvite,
  storeInvite,
} from '../store/members.ts'
import { nameSchema, readBody } from './body.ts'
import { surely } from './messages.ts'
import { Problem } from './problem.ts'
import { type Call, json, type Route, sessionOf, type Within } from './route.ts'

export const roleSchema = z.enum(['owner', 'member', 'reader'])
const addSchema = z.strictObject({ userId: nameSchema, role: roleSchema.default('member') })
const changeSchema = z.strictObject({ role: roleSchema })
type Change = { userId: string; role: z.infer<typeof roleSchema> }

/** `own`: who asks, by their rights; the server where that is nobody. Each rejects with a Problem. */
type Own = Within<string | null>

/** `isNew`: false where they were a member already, with whatever role. */
export async function add(own: Own, { userId, role }: Change): Promise<{ member: Member; isNew: boolean }> {
  const ask = { ...askedBy(own), userId, role, membersMax: limits.membersMax }
  const { member, isNew } = told(own, await surely(() => addMember(own.parts.database, ask)))
  return { member, isNew }
}

export async function change(own: Own, { userId, role }: Change): Promise<Member> {
  return told(own, await surely(() => changeMember(own.parts.database, { ...askedBy(own), userId, role }))).member
}

/** `same`: they went before. Told again all the same: the answer to who removed them may have been lost, and with it the news. */
export async function remove(own: Own, userId: string): Promise<'removed' | 'same' | 'no_member'> {
  const { tenantId, sessionId } = sessionOf(own)
  const { database, wakeups } = own.parts
  let tries = 0
  const removed = await surely(() => {
    tries++
    return removeMember(database, { ...askedBy(own), userId })
  })
  if (removed.outcome === 'no_member') return 'no_member'
  if (removed.outcome === 'last_owner') throw lastOwner()
  if (removed.outcome !== 'removed' && removed.outcome !== 'same') throw new Problem(removed.outcome)
  wakeups.tell({ tenantId, sessionId, events: [removed.event], runs: [], due: false, left: [userId] })
  for (const { messageId, round } of removed.interrupted) {
    const ask = { tenantId, sessionId, messageId, round, by: 'server', reason: null, userId: null }
    // It is marked: the sweeper completes what is not completed here.
    const stopped = await stopTurn(database, ask).catch(() => null)
    if (stopped?.outcome === 'stopped') {
      wakeups.tell({ tenantId, sessionId, events: [stopped.event], runs: [], due: true })
    }
  }
  return tries > 1 ? 'removed' : removed.outcome
}

export async function membersOf(own: Own): Promise<Member[]> {
  return await listMembers(own.parts.database, sessionOf(own))
}

function askedBy(own: Own) {
  const { tenantId, sessionId, userId: by } = sessionOf(own)
  return { tenantId, sessionId, by }
}

function told(own: Own, answer: MemberAnswer): { member: Member; isNew: boolean } {
  switch (answer.outcome) {
    case 'added':
    case 'changed': {
      const { tenantId, sessionId } = sessionOf(own)
      own.parts.wakeups.tell({ tenantId, sessionId, events: [answer.event], runs: [], due: false })
      return { member: answer.member, isNew: true }
    }
    case 'same':
      return { member: answer.member, isNew: false }
    case 'full':
      throw tooManyMembers()
    case 'last_owner':
      throw lastOwner()
    case 'no_member':
      throw noMember()
    default:
      throw new Problem(answer.outcome)
  }
}

const noMember = () => new Problem('not_found', 'This user is no member of the session.')
const lastOwner = () =>
  new Problem('forbidden', 'This is the only owner of the session. Make another member an owner first.')
const tooManyMembers = () => new Problem('too_large', `A session may have at most ${limits.membersMax} members.`)

async function list(call: Call): Promise<Response> {
  return json(200, { data: await membersOf(call), before: null, after: null })
}

async function addRoute(call: Call): Promise<Response> {
  const { member, isNew } = await add(call, await readBody(call.request, addSchema))
  return json(isNew ? 201 : 200, member)
}

async function changeRoute(call: Call): Promise<Response> {
  const { role } = await readBody(call.request, changeSchema)
  return json(200, await change(call, { userId: call.params.userId!, role }))
}

const membershipSchema = z.strictObject({ muted: z.boolean() })

/** One's own, which is nobody else's business. */
async function membershipRoute(call: Call): Promise<Response> {
  const { muted } = await readBody(call.request, membershipSchema)
  const own = await surely(() => muteSession(call.parts.database, { ...sessionOf(call), muted }))
  if (own === null) throw new Problem('not_found')
  return json(200, own)
}

async function removeRoute(call: Call): Promise<Response> {
  if ((await remove(call, call.params.userId!)) === 'no_member') throw noMember()
  return new Response(null, { status: 204 })
}

export const inviteFields = {
  role: z.enum(['member', 'reader']).default('member'),
  expiresMs: z.number().int().min(60_000).max(limits.inviteLastsMsMax).default(limits.inviteLastsMs),
  uses: z.number().int().min(1).max(limits.membersMax).default(1),
}
const inviteSchema = z.strictObject(inviteFields)
type InviteAsk = z.infer<typeof inviteSchema>

/** `token`: told this once. */
export async function invite(own: Own, asked: InviteAsk): Promise<Invite & { token: string }> {
  const token = randomBytes(24).toString('base64url')
  const ask = { ...askedBy(own), ...asked, id: uuidv7(), hash: hashOf(token), invitesMax: limits.invitesMax }
  const stored = await surely(() => storeInvite(own.parts.database, ask))
  if (stored.outcome === 'full') {
    throw new Problem('too_large', `A session may have at most ${limits.invitesMax} invitations. Revoke one first.`)
  }
  if (stored.outcome !== 'invited') throw new Problem(stored.outcome)
  return { ...stored.invite, token }
}

async function inviteRoute(call: Call): Promise<Response> {
  return json(201, await invite(call, await readBody(call.request, inviteSchema)))
}

/** Those that are good. */
export async function invitesOf(own: Own): Promise<Invite[]> {
  return await listInvites(own.parts.database, sessionOf(own))
}

async function invitesRoute(call: Call): Promise<Response> {
  return json(200, { data: await invitesOf(call), before: null, after: null })
}

const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** False: there is none, nor has been. */
export async function revoke(own: Own, id: string): Promise<boolean> {
  if (!uuidPattern.test(id)) return false
  const { outcome } = await revokeInvite(own.parts.database, { ...askedBy(own), id })
  if (outcome === 'forbidden') throw new Problem(outcome)
  return outcome === 'revoked'
}

async function revokeRoute(call: Call): Promise<Response> {
  if (!(await revoke(call, call.params.inviteId!))) throw new Problem('not_found')
  return new Response(null, { status: 204 })
}

const acceptSchema = z.strictObject({ token: z.string().min(1).max(200) })

async function acceptRoute(call: Call): Promise<Response> {
  const { token } = await readBody(call.request, acceptSchema)
  const { tenantId, userId } = call.principal
  const { database, wakeups } = call.parts
  const ask = { tenantId, userId, hash: hashOf(token), membersMax: limits.membersMax }
  const accepted = await surely(() => acceptInvite(database, ask))
  if (accepted.outcome === 'gone') {
    throw new Problem('gone', 'This invitation was used up, revoked, or is too old. Ask for a new one.')
  }
  if (accepted.outcome === 'not_found')
    throw new Problem('not_found', 'There is no such invitation. Ask for a new one.')
  if (accepted.outcome === 'full') throw tooManyMembers()
  const { sessionId, member } = accepted
  if (accepted.outcome === 'added') {
    wakeups.tell({ tenantId, sessionId, events: [accepted.event], runs: [], due: false })
  }
  return json(200, { sessionId, member })
}

function hashOf(token: string): Buffer {
  return createHash('sha256').update(token).digest()
}

const members = '/v1/sessions/:sessionId/members'
const invites = '/v1/sessions/:sessionId/invites'

export const memberRoutes: Route[] = [
  { name: 'members.list', method: 'GET', path: members, right: 'read', judgedBy: 'route', handle: list },
  { name: 'members.add', method: 'POST', path: members, right: 'own', judgedBy: 'statement', handle: addRoute },
  {
    name: 'members.change',
    method: 'PATCH',
    path: `${members}/:userId`,
    right: 'own',
    judgedBy: 'statement',
    handle: changeRoute,
  },
  {
    name: 'members.membership',
    method: 'PATCH',
    path: '/v1/sessions/:sessionId/membership',
    right: 'read',
    judgedBy: 'statement',
    handle: membershipRoute,
  },
  // Everybody may leave.
  {
    name: 'members.remove',
    method: 'DELETE',
    path: `${members}/:userId`,
    right: 'own',
    judgedBy: 'statement',
    handle: removeRoute,
  },
  { name: 'invites.list', method: 'GET', path: invites, right: 'own', judgedBy: 'route', handle: invitesRoute },
  { name: 'invites.create', method: 'POST', path: invites, right: 'own', judgedBy: 'statement', handle: inviteRoute },
  {
    name: 'invites.revoke',
    method: 'DELETE',
    path: `${invites}/:inviteId`,
    right: 'own',
    judgedBy: 'statement',
    handle: revokeRoute,
  },
  {
    name: 'invites.accept',
    method: 'POST',
    path: '/v1/invites/accept',
    right: 'none',
    judgedBy: 'statement',
    makesGuests: true,
    handle: acceptRoute,
  },
]
