/** Who the caller is: what the server takes them for, so that a page knows which messages are its user's own. */
import { type Call, json, type Route } from './route.ts'

async function me({ principal: { userId } }: Call): Promise<Response> {
  return json(200, { userId })
}

export const meRoutes: Route[] = [
  { name: 'me.read', method: 'GET', path: '/v1/me', right: 'none', judgedBy: 'statement', handle: me },
]
