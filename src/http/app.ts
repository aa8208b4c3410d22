/** The registry of routes, and what holds for each of them: who asks, may they, and how errors are answered. */
import type { ServerResponse } from 'node:http'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Hono } from 'hono'
import { idPattern } from '../core/ids.ts'
import { askedIdPattern } from '../core/limits.ts'
import { DatabaseError } from '../store/database.ts'
import { ablyTokenRoutes } from './ably-token.ts'
import { appEventRoutes } from './app-events.ts'
import { approvalRoutes } from './approvals.ts'
import { controlRoutes } from './control.ts'
import { deviceRoutes } from './devices.ts'
import { eraseRoutes, eraseServerRoutes } from './erase.ts'
import { eventRoutes } from './events.ts'
import { fileRoutes } from './files.ts'
import { transferRoutes } from './import.ts'
import { manyEventsRoutes } from './many-events.ts'
import { meRoutes } from './me.ts'
import { memberRoutes } from './members.ts'
import { mergeRoutes } from './merge.ts'
import { messageRoutes } from './messages.ts'
import { outboxRoutes } from './outbox.ts'
import { peopleRoutes } from './people.ts'
import { type Authenticate, isName } from './principal.ts'
import { inWords, Problem, problemOf, problemResponse } from './problem.ts'
import { mustHave } from './right.ts'
import type { Call, HttpParts, Route } from './route.ts'
import { bringsKey, mustBringKey, type ServerRoute } from './server-key.ts'
import { sessionRoutes } from './sessions.ts'
import { ticketRoutes } from './tickets.ts'
import { usageRoutes, usageServerRoutes } from './usage.ts'
import { useChatRoutes } from './use-chat.ts'

export const routes: readonly Route[] = [
  ...sessionRoutes,
  ...messageRoutes,
  ...controlRoutes,
  ...eventRoutes,
  ...manyEventsRoutes,
  ...useChatRoutes,
  ...fileRoutes,
  ...ticketRoutes,
  ...ablyTokenRoutes,
  ...approvalRoutes,
  ...peopleRoutes,
  ...memberRoutes,
  ...meRoutes,
  ...deviceRoutes,
  ...usageRoutes,
  ...mergeRoutes,
  ...transferRoutes,
  ...eraseRoutes,
]
/** For the app's own servers. */
export const serverRoutes: readonly ServerRoute[] = [
  ...appEventRoutes,
  ...usageServerRoutes,
  ...eraseServerRoutes,
  ...outboxRoutes,
]

export type HttpEnv = { Bindings: { outgoing?: ServerResponse } }

export type AppOptions = {
  basePath: string
  authenticate: Authenticate
  /** Undefined: there are no routes for servers. */
  serverKey: string | undefined
  /** Parts are there once the engine has started. */
  parts(): Promise<HttpParts>
  isReady(): Promise<boolean>
  log: (line: string, detail: object) => void
}

export function createApp(options: AppOptions): Hono<HttpEnv> {
  const root = new Hono<HttpEnv>()
  const app = options.basePath === '' ? root : root.basePath(options.basePath)
  const allowed = methodsByPath()
  for (const route of serverRoutes) {
    app.on(route.method, route.path, async ({ req }, next) => {
      if (route.orUser && !bringsKey(req.raw, options.serverKey)) return await next()
      return await answerServer(options, route, req.raw, req.param())
    })
  }
  for (const route of routes) {
    app.on(route.method, route.path, async (context) => {
      if (route.endless && context.req.method === 'HEAD') return otherMethod('HEAD', allowed.get(route.path)!)
      const call = { request: context.req.raw, params: context.req.param(), outgoing: context.env?.outgoing }
      return await answer(options, route, call)
    })
  }
  app.get('/livez', () => new Response('ok\n'))
  app.get('/readyz', async () => {
    const ready = await options.isReady()
    return new Response(ready ? 'ready\n' : 'not ready\n', { status: ready ? 200 : 503 })
  })
  for (const [path, allow] of allowed) app.all(path, ({ req }) => otherMethod(req.method, allow))
  root.notFound(() => problemResponse(new Problem('not_found', 'There is no such route.')))
  root.onError((error) => failed(options, 'app', error))
  return root
}

function methodsByPath(): Map<string, string> {
  const methods = new Map([
    ['/livez', ['GET', 'HEAD']],
    ['/readyz', ['GET', 'HEAD']],
  ])
  for (const { path, method, endless } of [...routes, ...serverRoutes]) {
    const known = methods.get(path) ?? []
    methods.set(path, [...known, method, ...(method === 'GET' && !endless ? ['HEAD'] : [])])
  }
  return new Map([...methods].map(([path, names]) => [path, [...names, 'OPTIONS'].join(', ')]))
}

/** No route answers to other origins: OPTIONS says which methods there are, and nothing that lets a browser across. */
function otherMethod(method: string, allow: string): Response {
  if (method === 'OPTIONS') return new Response(null, { status: 204, headers: { allow } })
  const response = problemResponse(new Problem('method_not_allowed'))
  response.headers.set('allow', allow)
  return response
}

async function answer(
  options: AppOptions,
  route: Route,
  {
    request,
    params,
    outgoing,
  }: { request: Request; params: Record<string, string>; outgoing: ServerResponse | undefined },
): Promise<Response> {
  try {
    const caller = await options.authenticate(request, route.makesGuests !== undefined)
    if (caller === null) throw new Problem('unauthorized')
    const { principal } = caller
    const setCookie = route.makesGuests === 'passing' ? undefined : caller.setCookie
    const { basePath } = options
    const parts = await options.parts()
    const refusalOf = (error: unknown) => toldToOperator(options.log, route.name, error)
    const url = new URL(request.url)
    const call: Call = { parts, basePath, request, url, params, principal, setCookie, outgoing, refusalOf }
    const response = await perform(route, call)
    if (setCookie !== undefined && response !== RESPONSE_ALREADY_SENT) response.headers.append('set-cookie', setCookie)
    return response
  } catch (error) {
    const refusal = failed(options, route.name, error)
    return route.refusesInWords ? await inWords(refusal, request) : refusal
  }
}

async function answerServer(
  options: AppOptions,
  route: ServerRoute,
  request: Request,
  params: Record<string, string>,
): Promise<Response> {
  try {
    mustBringKey(request, options.serverKey)
    if (!areWellFormed(params)) throw new Problem('not_found')
    return await route.handle({ parts: await options.parts(), request, params })
  } catch (error) {
    return failed(options, route.name, error)
  }
}

/** What holds for a request in whatever way it came, once it is known who asks. Rejects with a Problem. */
export async function perform(route: Route, call: Call): Promise<Response> {
  // An id that cannot exist is answered like one that does not.
  if (!areWellFormed(call.params)) throw new Problem('not_found')
  if (route.judgedBy === 'route') await mustHave(route.right, call)
  const handle = () => route.handle(call)
  return route.asksForReply ? await askingForReply(call.parts, handle) : await handle()
}

/** The route that may also be asked for on a socket at this path, which has no base path. Null: there is none. */
export function routeOverSocket(path: string): { route: Route; params: Record<string, string> } | null {
  for (const route of routes) {
    const params = route.overSocket ? paramsOf(route.path, path) : null
    if (params !== null) return { route, params }
  }
  return null
}

/** Null: the path is none of this pattern. */
function paramsOf(pattern: string, path: string): Record<string, string> | null {
  const [names, values] = [pattern.split('/'), path.split('/')]
  if (names.length !== values.length) return null
  const params: Record<string, string> = {}
  for (const [at, name] of names.entries()) {
    const value = values[at]!
    if (!name.startsWith(':')) {
      if (name !== value) return null
      continue
    }
    try {
      params[name.slice(1)] = decodeURIComponent(value)
    } catch {
      return null
    }
  }
  return params
}

function areWellFormed(params: Record<string, string>): boolean {
  return Object.entries(params).every(([name, id]) => (name === 'userId' ? isName(id) : patternOf(name).test(id)))
}

const patternOf = (name: string) => (name === 'approvalId' || name === 'toolCallId' ? askedIdPattern : idPattern)

/** Around all that asks for a reply: nothing is asked where nobody would write it. */
export async function askingForReply<T>({ hasNoRunner, keepAlive }: HttpParts, work: () => Promise<T>): Promise<T> {
  if (hasNoRunner) throw new Problem('no_runner', noRunner)
  try {
    return await work()
  } finally {
    // Also where it failed: the message may be stored.
    keepAlive?.()
  }
}

const noRunner =
  'This process is frozen when it has answered, so it writes no replies. Give the option waitUntil, or run one elsewhere and give roles: docs/serverless.md.'

function failed({ log }: AppOptions, route: string, error: unknown): Response {
  return problemResponse(toldToOperator(log, route, error))
}

/** What a client is told of an error; what is not its own fault is a line in the log. */
export function toldToOperator(log: AppOptions['log'], route: string, error: unknown): Problem {
  const problem = problemOf(error)
  if (problem.code === 'internal' || problem.code === 'unavailable') log(problem.code, { route, error: lineOf(error) })
  return problem
}

/** The database's sentence about data that it does not take may repeat the data: then its code is enough. */
function lineOf(error: unknown): string {
  if (error instanceof DatabaseError && error.kind === 'bad_data') return `DatabaseError: bad_data ${error.code}`
  return String(error)
}
