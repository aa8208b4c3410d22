/** Conversations that come in, and go out as the lines that come in again. */
import * as z from 'zod'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { exportLines } from '../transfer/export.ts'
import { importLines, type Line, linesOf } from '../transfer/import.ts'
import { checked, parseJson, readBytes } from './body.ts'
import { Problem } from './problem.ts'
import { type Call, json, type Route } from './route.ts'

const jsonSchema = z.strictObject({ rows: z.array(z.custom<Json>()) })
const lineTypes = /^application\/(x-ndjson|jsonl|jsonlines)\s*(;|$)/i

async function importRoute({ request, parts, principal }: Call): Promise<Response> {
  const { tenantId, userId } = principal
  const lines = await readLines(request)
  if (lines.length > limits.importRowsMax) {
    throw new Problem('too_large', `One request may bring at most ${limits.importRowsMax} rows. Send the rest in more.`)
  }
  const { againInMs, ...imported } = await importLines(parts, { tenantId, userId }, lines, rowsOfDayMax)
  if (againInMs !== undefined) throw tooManyRows(againInMs)
  return json(200, imported)
}

const rowsOfDayMax = limits.importedRowsOfDayMax

function tooManyRows(againInMs: number): Problem {
  const max = new Intl.NumberFormat('en-US').format(rowsOfDayMax)
  const detail = `At most ${max} new rows of yours are imported in one day (UTC). What was stored stays: send the same again tomorrow, and the rest comes in.`
  return new Problem('rate_limited', detail, {
    retryAfterMs: againInMs,
    headers: {
      'ratelimit-policy': `"imported-rows";q=${rowsOfDayMax};w=86400`,
      ratelimit: `"imported-rows";r=0;t=${Math.ceil(againInMs / 1000)}`,
    },
  })
}

async function readLines(request: Request): Promise<Line[]> {
  const type = request.headers.get('content-type') ?? ''
  const isJson = /^application\/json\s*(;|$)/i.test(type)
  if (!isJson && !lineTypes.test(type)) {
    throw new Problem('invalid_request', 'Expected content-type application/json or application/x-ndjson.')
  }
  const max = limits.importBytesMax
  const bytes = await readBytes(
    request,
    max,
    `An import may have at most ${max} bytes. Send the rest in more requests.`,
  )
  const text = utf8Of(bytes)
  if (!isJson) return linesOf(text)
  return checked(parseJson(text), jsonSchema).rows.map((value, at) => ({ line: at + 1, value }))
}

function utf8Of(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new Problem('invalid_request', 'The body is not valid UTF-8.')
  }
}

/** Of one session, or of all that the user is a member of. */
async function exportRoute({ parts, principal, params }: Call): Promise<Response> {
  const { tenantId, userId } = principal
  const lines = exportLines(parts.database, { tenantId, userId, sessionId: params.sessionId ?? null })
  const encoder = new TextEncoder()
  const body = new ReadableStream<Uint8Array>(
    {
      // One page of rows at a time, when the reader has taken the one before.
      async pull(controller) {
        const { done, value } = await lines.next()
        if (done) controller.close()
        else controller.enqueue(encoder.encode(value))
      },
      async cancel() {
        await lines.return()
      },
    },
    { highWaterMark: 1 },
  )
  return new Response(body, {
    headers: {
      'content-type': 'application/x-ndjson',
      'cache-control': 'no-store',
      'content-disposition': 'attachment; filename="holdfast-export.jsonl"',
    },
  })
}

export const transferRoutes: Route[] = [
  { name: 'import', method: 'POST', path: '/v1/import', right: 'none', judgedBy: 'statement', handle: importRoute },
  { name: 'export', method: 'GET', path: '/v1/export', right: 'none', judgedBy: 'statement', handle: exportRoute },
  {
    name: 'sessions.export',
    method: 'GET',
    path: '/v1/sessions/:sessionId/export',
    right: 'read',
    judgedBy: 'route',
    handle: exportRoute,
  },
]
