/** What a member of a session may do, by their role. */
import { type Role, roleOf } from '../store/sessions.ts'
import { Problem } from './problem.ts'
import { type Route, sessionOf, type Within } from './route.ts'

const rolesFor: Record<Route['right'], readonly Role[]> = {
  none: ['owner', 'member', 'reader'],
  read: ['owner', 'member', 'reader'],
  write: ['owner', 'member'],
  own: ['owner'],
}

/** Rejects with `not_found` or `forbidden`, as of this moment. Strangers cannot tell a foreign session from a missing one. */
export async function mustHave(right: Route['right'], within: Within): Promise<void> {
  const { tenantId, sessionId, userId } = sessionOf(within)
  const role = await roleOf(within.parts.database, tenantId, sessionId, userId)
  if (role === null) throw new Problem('not_found')
  if (!rolesFor[right].includes(role)) throw new Problem('forbidden')
}
