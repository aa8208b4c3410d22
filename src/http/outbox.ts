/** The outbox: adding to it in code, and what the app's servers see of it and send again, with the server's key. */
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { checkedPayload, wrongTopic } from '../outbox/jobs.ts'
import { DatabaseError } from '../store/database.ts'
import { addStatement, addToOutbox, addValues, idUsedCode } from '../store/outbox.ts'
import { enableWebhook, listOutbox, listWebhooks, readOutbox, retryOutbox } from '../store/outbox-list.ts'
import { nameSchema, readQuery } from './body.ts'
import { surely } from './messages.ts'
import { defaultTenant } from './principal.ts'
import { Problem } from './problem.ts'
import { type HttpParts, json } from './route.ts'
import type { ServerCall, ServerRoute } from './server-key.ts'

/** The app's own connection: what it asks is done in its own transaction. A `pg.Client` or `pg.PoolClient` is one. */
export type SqlClient = { query(text: string, values: unknown[]): Promise<unknown> }

export const addSchema = z.strictObject({
  topic: z.string().superRefine((topic, context) => {
    const message = wrongTopic(topic)
    if (message !== null) context.addIssue({ code: 'custom', message })
  }),
  payload: z.custom<Json>((payload) => payload !== undefined, 'expected JSON'),
  key: nameSchema.nullable().default(null),
  id: nameSchema.default(() => uuidv7()),
  delayMs: z.number().int().min(0).max(limits.outboxDelayMsMax).default(0),
  tenantId: nameSchema.default(defaultTenant),
})

/** Once for its id. With a client it is added where that one's transaction commits. Rejects with a Problem, or as the client does. */
export async function addJob(
  { database, jobs }: HttpParts,
  { payload, ...ask }: z.infer<typeof addSchema>,
  client: SqlClient | undefined,
): Promise<void> {
  const text = JSON.stringify(payload)
  if (Buffer.byteLength(text) > limits.outboxPayloadBytesMax) {
    throw new Problem(
      'too_large',
      `A payload may have at most ${limits.outboxPayloadBytesMax} bytes: store the rest, and add its id.`,
    )
  }
  const known = jobs()
  const job = Object.hasOwn(known, ask.topic) ? known[ask.topic] : undefined
  const checked = await checkedPayload(job?.schema, payload)
  if ('wrong' in checked) throw new Problem('invalid_request', checked.wrong)
  const adding = { ...ask, payload: text }
  try {
    if (client === undefined) await surely(() => addToOutbox(database, adding))
    else await client.query(addStatement.text, addValues(adding))
  } catch (error) {
    const code = error instanceof DatabaseError ? error.code : (error as { code?: unknown }).code
    if (code !== idUsedCode) throw error
    throw new Problem(
      'id_conflict',
      'This id was used in its topic for another payload or key. Give every job a new id.',
    )
  }
}

const listSchema = z.object({
  state: z.enum(['due', 'running', 'done', 'dead']).optional(),
  topic: z.string().max(200).optional(),
  before: z.coerce.number().int().min(0).optional(),
  limit: z.coerce.number().int().min(1).max(limits.outboxPageMax).default(limits.outboxPageDefault),
})

async function list({ request, parts }: ServerCall): Promise<Response> {
  const { state = null, topic = null, before = null, limit } = readQuery(new URL(request.url), listSchema)
  const data = await listOutbox(parts.database, { state, topic, before, limit })
  return json(200, { data, before: data.length === limit ? data.at(-1)!.n : null })
}

async function entryOf({ parts, params }: ServerCall): Promise<Response> {
  const entry = await readOutbox(parts.database, numberOf(params.n!))
  if (entry === null) throw new Problem('not_found')
  return json(200, entry)
}

/** What is no dead letter is left as it is, so it may be asked twice. */
async function retry(call: ServerCall): Promise<Response> {
  const { parts, params } = call
  await retryOutbox(parts.database, numberOf(params.n!))
  return await entryOf(call)
}

function numberOf(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new Problem('not_found')
  return Number(text)
}

async function webhooks({ parts }: ServerCall): Promise<Response> {
  return json(200, { data: await listWebhooks(parts.database) })
}

async function enable({ parts, params }: ServerCall): Promise<Response> {
  if (!(await enableWebhook(parts.database, params.name!))) throw new Problem('not_found')
  return json(200, { data: await listWebhooks(parts.database) })
}

export const outboxRoutes: ServerRoute[] = [
  { name: 'outbox.list', method: 'GET', path: '/v1/outbox', right: 'server', handle: list },
  { name: 'outbox.entry', method: 'GET', path: '/v1/outbox/:n', right: 'server', handle: entryOf },
  { name: 'outbox.retry', method: 'POST', path: '/v1/outbox/:n/retry', right: 'server', handle: retry },
  { name: 'webhooks.list', method: 'GET', path: '/v1/webhooks', right: 'server', handle: webhooks },
  { name: 'webhooks.enable', method: 'POST', path: '/v1/webhooks/:name/enable', right: 'server', handle: enable },
]
