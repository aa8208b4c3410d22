/** Events of the app's own: published by its code, or over HTTP with the server's key. They are in the log, as all others. */
import { createHash } from 'node:crypto'
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import { wrongAppEvent } from '../core/app-event.ts'
import { canonicalJson } from '../core/canonical.ts'
import type { Event } from '../core/event.ts'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { publish } from '../store/publish.ts'
import { idSchema } from './body.ts'
import { surely } from './messages.ts'
import { isName, nameRule } from './principal.ts'
import { Problem } from './problem.ts'
import type { HttpParts } from './route.ts'

const userSchema = z.string().refine(isName, `expected a text ${nameRule}`)
const audienceSchema = z
  .string()
  .refine((audience) => isName(/^(user|not):(.*)$/s.exec(audience)?.[2] ?? ''), 'expected user:ID or not:ID')

export const publishSchema = z
  .strictObject({
    event: z.string().superRefine((name, context) => {
      const message = wrongAppEvent(name)
      if (message !== null) context.addIssue({ code: 'custom', message })
    }),
    data: z.custom<Json>((data) => data !== undefined, 'expected JSON'),
    audience: audienceSchema.nullable().default(null),
    excludeUserId: userSchema.nullable().default(null),
    id: idSchema.default(() => uuidv7()),
  })
  .refine(({ audience, excludeUserId }) => audience === null || excludeUserId === null, {
    message: 'expected "audience" or "excludeUserId", and not both',
  })

export type PublishAsk = z.infer<typeof publishSchema>

/** Publishes it once for its id, and tells who follows. Rejects with a Problem. */
export async function publishEvent(
  { database, wakeups }: HttpParts,
  { tenantId, sessionId }: { tenantId: string; sessionId: string },
  { event: type, data, audience: to, excludeUserId, id }: PublishAsk,
): Promise<Event> {
  const audience = excludeUserId === null ? to : `not:${excludeUserId}`
  const json = JSON.stringify(data)
  if (Buffer.byteLength(json) > limits.eventBytesMax) {
    throw new Problem('too_large', `The data of an event may have at most ${limits.eventBytesMax} bytes.`)
  }
  // Of what was given: a schema may make something else of it each time.
  const hash = createHash('sha256').update(canonicalJson({ type, audience, data })).digest('base64url')
  const publishing = { tenantId, sessionId, type, audience, data: json, id, hash }
  const published = await surely(() => publish(database, publishing))
  if (published.outcome === 'not_found') throw new Problem('not_found')
  if (published.outcome === 'conflict') {
    throw new Problem('id_conflict', 'This id was used for another event. Give every event a new id.')
  }
  if (published.outcome === 'published') {
    wakeups.tell({ tenantId, sessionId, events: [published.event], runs: [], due: false })
  }
  return published.event
}
