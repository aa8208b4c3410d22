/** A guest who has signed in: what they have becomes the account's. They prove both, the account as always, the guest by its cookie. */
import * as z from 'zod'
import { mergeGuest } from '../transfer/hand-over.ts'
import { readBody } from './body.ts'
import { defaultTenant, guest, guestSecretOf, noGuestCookie } from './principal.ts'
import { Problem } from './problem.ts'
import { type Call, json, type Route } from './route.ts'

const bodySchema = z.strictObject({})

/** Asked again it answers the same: so the cookie is taken away only when all is done. */
async function merge({ request, parts, principal }: Call): Promise<Response> {
  await readBody(request, bodySchema)
  if (principal.isGuest) {
    throw new Problem('forbidden', 'You are a guest still. Sign in first, and ask with the account’s own credentials.')
  }
  const secret = guestSecretOf(request.headers.get('cookie') ?? '')
  if (secret === undefined)
    throw new Problem('not_found', 'This request has no guest’s cookie: there is nobody to merge.')
  if (principal.tenantId !== defaultTenant) {
    throw new Problem('forbidden', `Guests are of the tenant "${defaultTenant}", and become accounts of it alone.`)
  }
  const { tenantId, userId } = principal
  const merged = await mergeGuest(parts, { tenantId, guestId: guest(secret).userId, userId })
  if (merged === null) throw new Problem('forbidden', 'This guest is another account by now.')
  const { isDone, ...answer } = merged
  const isSecure = new URL(request.url).protocol === 'https:'
  return json(isDone ? 200 : 202, answer, isDone ? { 'set-cookie': noGuestCookie(isSecure) } : {})
}

export const mergeRoutes: Route[] = [
  { name: 'guest.merge', method: 'POST', path: '/v1/guest/merge', right: 'none', judgedBy: 'statement', handle: merge },
]
