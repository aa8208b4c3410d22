/** A user is deleted, by themselves or by the app's own server. */
import * as z from 'zod'
import { eraseUser } from '../transfer/hand-over.ts'
import { nameSchema, readQuery } from './body.ts'
import { defaultTenant, noGuestCookie } from './principal.ts'
import type { Call, Route } from './route.ts'
import type { ServerCall, ServerRoute } from './server-key.ts'

async function eraseMe({ parts, principal, request }: Call): Promise<Response> {
  const { tenantId, userId, isGuest } = principal
  await eraseUser(parts, { tenantId, userId })
  const isSecure = new URL(request.url).protocol === 'https:'
  return new Response(null, { status: 204, headers: isGuest ? { 'set-cookie': noGuestCookie(isSecure) } : {} })
}

const querySchema = z.object({ tenantId: nameSchema.default(defaultTenant) })

async function eraseOne({ parts, request, params }: ServerCall): Promise<Response> {
  const { tenantId } = readQuery(new URL(request.url), querySchema)
  await eraseUser(parts, { tenantId, userId: params.userId! })
  return new Response(null, { status: 204 })
}

export const eraseRoutes: Route[] = [
  { name: 'me.erase', method: 'DELETE', path: '/v1/me', right: 'none', judgedBy: 'statement', handle: eraseMe },
]
export const eraseServerRoutes: ServerRoute[] = [
  { name: 'users.erase', method: 'DELETE', path: '/v1/users/:userId', right: 'server', handle: eraseOne },
]
