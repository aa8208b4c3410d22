/** An event of the app's for one user, who is told on their devices where they do not read it. */
import { createHash } from 'node:crypto'
import * as z from 'zod'
import { canonicalJson } from '../core/canonical.ts'
import type { Event } from '../core/event.ts'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { notify } from '../store/pushes.ts'
import { dataText, publishSchema } from './app-events.ts'
import { nameSchema } from './body.ts'
import { surely } from './messages.ts'
import { Problem } from './problem.ts'
import type { HttpParts } from './route.ts'

export const notifySchema = z.strictObject({
  event: publishSchema.shape.event,
  id: publishSchema.shape.id,
  userId: nameSchema,
  data: publishSchema.shape.data,
})

/** Once for its id. Rejects with a Problem. */
export async function notifyUser(
  { database, wakeups, events }: HttpParts,
  { tenantId, sessionId }: { tenantId: string; sessionId: string },
  { event: type, userId, data, id }: { event: string; userId: string; data: Json; id: string },
): Promise<Event> {
  const json = await dataText(events(), type, data)
  if (!json.startsWith('{'))
    throw new Problem('invalid_request', '"data": expected an object, as push services take it.')
  if (Buffer.byteLength(json) > limits.notifyBytesMax) {
    const detail = `The data of a notice may have at most ${limits.notifyBytesMax} bytes: push services take 4 KB with all that is around it. Publish the rest as an event of its own, or let the app load it.`
    throw new Problem('too_large', detail)
  }
  const hash = createHash('sha256')
    .update(canonicalJson({ notify: type, userId, data }))
    .digest('base64url')
  const answer = await surely(() => notify(database, { tenantId, sessionId, userId, type, data: json, id, hash }))
  switch (answer.outcome) {
    case 'not_found':
      throw new Problem('not_found')
    case 'not_member':
      throw new Problem('not_found', 'This user is no member of the session. Make them one first.')
    case 'conflict':
      throw new Problem('id_conflict', 'This id was used for another event. Give every event a new id.')
    case 'published':
      wakeups.tell({ tenantId, sessionId, events: [answer.event], runs: [], due: false })
      return answer.event
    case 'same':
      return answer.event
  }
}
