/** What was used: by the caller, or with the server's key by everybody. */
import * as z from 'zod'
import { type UsageAsk, usageReport } from '../store/usage-report.ts'
import { nameSchema, readQuery } from './body.ts'
import { defaultTenant } from './principal.ts'
import { Problem } from './problem.ts'
import { type Call, json, type Route } from './route.ts'
import type { ServerCall, ServerRoute } from './server-key.ts'

/** Of one answer. */
export const usageLimits = { daysMax: 366, rowsMax: 10_000 } as const

const groups = ['day', 'model', 'user', 'session'] as const
const dayMs = 86_400_000

const daySchema = z.iso.date('expected a day like 2026-11-30')
const bySchema = z
  .string()
  .transform((text) => (text === '' ? [] : text.split(',')))
  .pipe(
    z
      .array(z.enum(groups, `expected some of ${groups.join(',')}`))
      .refine((by) => new Set(by).size === by.length, 'expected each of them once'),
  )

const querySchema = z.strictObject({ from: daySchema.optional(), to: daySchema.optional(), by: bySchema.optional() })
const serverQuerySchema = querySchema.extend({ tenantId: nameSchema.default(defaultTenant) })

type Days = { from?: string | undefined; to?: string | undefined; by?: UsageAsk['by'] | undefined }

async function report(
  { database }: Call['parts'],
  who: { tenantId: string; userId: string | null },
  asked: Days,
): Promise<Response> {
  const { from, to } = daysOf(asked)
  const rowsMax = usageLimits.rowsMax
  const data = await usageReport(database, { ...who, from, to, by: asked.by ?? [], rowsMax })
  if (data !== null) return json(200, { data })
  throw new Problem('invalid_request', `There are more than ${rowsMax} rows. Ask for fewer days, or for less in "by".`)
}

/** Without a last day it is today, without a first one 30 days are told; UTC. */
function daysOf({ from, to }: Days): { from: string; to: string } {
  const last = to === undefined ? Date.now() : Date.parse(to)
  const first = from === undefined ? last - 29 * dayMs : Date.parse(from)
  const [firstDay, lastDay] = [dayOf(first), dayOf(last)]
  if (firstDay > lastDay) throw new Problem('invalid_request', 'In the query, "from" is after "to".')
  const days = (Date.parse(lastDay) - Date.parse(firstDay)) / dayMs + 1
  if (days <= usageLimits.daysMax) return { from: firstDay, to: lastDay }
  throw new Problem('invalid_request', `From "from" to "to" are ${days} days, more than ${usageLimits.daysMax}.`)
}

const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10)

function readUsage({ parts, url, principal }: Call): Promise<Response> {
  const { tenantId, userId } = principal
  return report(parts, { tenantId, userId }, readQuery(url, querySchema))
}

function readAllUsage({ parts, request }: ServerCall): Promise<Response> {
  const { tenantId, ...asked } = readQuery(new URL(request.url), serverQuerySchema)
  return report(parts, { tenantId, userId: null }, asked)
}

export const usageRoutes: Route[] = [
  { name: 'usage.read', method: 'GET', path: '/v1/usage', right: 'none', judgedBy: 'statement', handle: readUsage },
]

/** The same path: who brings the server's key asks this. */
export const usageServerRoutes: ServerRoute[] = [
  {
    name: 'usage.readAll',
    method: 'GET',
    path: '/v1/usage',
    right: 'server',
    orUser: true,
    handle: async (call) => readAllUsage(call),
  },
]
