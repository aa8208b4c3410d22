/**
 * What is said on the socket of `/v1/realtime`: one for all sessions of a client. PROTOCOL, P120 on, has the frames.
 *
 * What is told of a session are the frames of the log, as the streams tell them (follows.ts). What is asked of one is a POST
 * of the table of routes, performed as over HTTP (`perform` in app.ts): rights, bounds and answers are those of the route.
 */
import * as z from 'zod'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { perform, routeOverSocket } from './app.ts'
import { checked, checkValue, parseJson } from './body.ts'
import { createFollows } from './follows.ts'
import { realtimeAt } from './many-events.ts'
import { createPassing } from './passing.ts'
import { presenceField } from './people.ts'
import { Problem, problemDocument } from './problem.ts'
import type { SocketRoute } from './route.ts'

const ref = z.string().min(1).max(limits.requestIdCharactersMax)
const sessionId = z.string().min(1).max(limits.idCharactersMax)
const anySchema = z.looseObject({ type: z.string(), ref: ref.optional() })
const commandSchemas = {
  follow: z.strictObject({
    type: z.literal('follow'),
    sessionId,
    cursor: z.string().max(4_000).optional(),
    ref: ref.optional(),
  }),
  unfollow: z.strictObject({ type: z.literal('unfollow'), sessionId, ref: ref.optional() }),
  presence: z.strictObject({ type: z.literal('presence'), state: presenceField, ref: ref.optional() }),
  list: z.strictObject({ type: z.literal('list'), ref: ref.optional() }),
  ping: z.strictObject({ type: z.literal('ping'), ref: ref.optional() }),
  post: z.strictObject({
    type: z.literal('post'),
    ref,
    path: z.string(),
    body: z.custom<Json>().optional(),
  }),
}
type Command = z.infer<(typeof commandSchemas)[keyof typeof commandSchemas]>
type Post = z.infer<typeof commandSchemas.post>
/** What cannot be asked, and what it was. */
type Unknown = { type: 'unknown'; ref: string | undefined }

export const realtimeSocket: SocketRoute = {
  ...realtimeAt,
  subprotocol: 'holdfast.v1',
  frameBytesMax: limits.realtimeFrameBytesMax,
  makesGuests: false,
  lastWord: (afterMs) => JSON.stringify({ type: 'reconnect', afterMs }),
  speak({ call, socket, mustBeKnown }) {
    const { parts, principal } = call
    const room = () => (socket.isFull() ? socket.whenDrained() : null)
    /** An answer to what was asked: who goes on asking and does not read is closed for it. */
    const answer = (said: object) => socket.send([JSON.stringify(said)])
    const word = (said: object) => socket.sendWaited([JSON.stringify(said)])
    const refused = (named: object, error: unknown) => {
      const problem = call.refusalOf(error)
      if (problem.code === 'unauthorized') socket.close(4401)
      else answer({ ...named, type: 'problem', problem: problemDocument(problem) })
    }
    const out = { say: socket.sendWaited, word, refused, room, hold: socket.hold }
    const follows = createFollows(parts, principal, out, { admit: askedTogether(mustBeKnown) })
    const { pass } = createPassing(out)
    const inOrder = createOrder()
    let unlook: (() => void) | undefined
    let posts = 0
    socket.ended.addEventListener('abort', () => {
      follows.stop()
      unlook?.()
    })

    async function list(named: object): Promise<void> {
      const release = socket.hold()
      try {
        await mustBeKnown()
        if (socket.ended.aborted) return
        // Held to the end of the socket: whoever looks at a list has something open.
        unlook ??= lookUntilEnd()
        answer({ ...named, type: 'listing' })
      } catch (error) {
        refused(named, error)
      } finally {
        release()
      }
    }
    const lookUntilEnd = () => {
      socket.hold()
      return parts.lists.look(principal, {
        changed: (data) => pass(data.sessionId, { type: 'session.changed', data }),
        // The socket is told of it itself.
        drain: () => undefined,
      })
    }

    async function post(asked: Post): Promise<void> {
      const release = socket.hold()
      posts++
      try {
        const response = await answerTo(asked)
        socket.send([responseFrame(asked.ref, response.status, await response.text())])
      } catch (error) {
        const problem = call.refusalOf(error)
        if (problem.code === 'unauthorized') return socket.close(4401)
        const document = problemDocument(problem)
        socket.send([responseFrame(asked.ref, document.status, JSON.stringify(document))])
      } finally {
        posts--
        release()
      }
    }

    async function answerTo({ path, body = {} }: Post): Promise<Response> {
      if (posts > limits.socketRequestsMax) {
        const most = `At most ${limits.socketRequestsMax} requests may be open on one socket.`
        throw new Problem('rate_limited', `${most} Wait until one has ended.`)
      }
      const found = routeOverSocket(path)
      if (found === null) throw new Problem('not_found', 'Nothing is asked for at this path over a socket.')
      checkValue(body)
      const { route, params } = found
      const url = new URL(`${call.basePath}${path}`, call.url)
      const request = new Request(url, {
        method: route.method,
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: socket.ended,
      })
      return await inOrder(params.sessionId!, async () => {
        await mustBeKnown()
        return await perform(route, { ...call, request, url, params })
      })
    }

    return (text) => {
      const command = readCommand(text)
      const named = command.ref === undefined ? {} : { ref: command.ref }
      switch (command.type) {
        case 'follow':
          return follows.follow(command)
        case 'unfollow':
          return follows.unfollow(command.sessionId)
        case 'presence':
          return follows.present(command.state)
        case 'list':
          return list(named)
        case 'post':
          return post(command)
        case 'ping':
          return answer({ ...named, type: 'pong' })
        case 'unknown':
          return refused(named, new Problem('invalid_request', 'This server knows no frame of this type.'))
      }
    }
  },
}

/** Throws the `Problem` of a frame that cannot be read. One of a type that is not known is no such frame: the client is newer. */
function readCommand(text: string): Command | Unknown {
  const value = parseJson(text)
  const { type, ref } = checked(value, anySchema)
  if (!Object.hasOwn(commandSchemas, type)) return { type: 'unknown', ref }
  return checked(value, commandSchemas[type as keyof typeof commandSchemas] as z.ZodType<Command>)
}

/** `body` is JSON text already, as the route wrote it, or empty where it wrote none. */
function responseFrame(ref: string, status: number, body: string): string {
  return `{"type":"response","ref":${JSON.stringify(ref)},"status":${status},"body":${body || 'null'}}`
}

/** Once for all that is asked in one breath: a client that comes back follows a hundred sessions. Never before it is asked. */
function askedTogether(ask: () => Promise<void>): () => Promise<void> {
  let next: Promise<void> | undefined
  return () => {
    next ??= new Promise(setImmediate).then(() => {
      next = undefined
      return ask()
    })
    return next
  }
}

/**
 * One after the other for each key, in the order in which they came: two messages of one session are stored as they were
 * sent, and a session that is busy holds up no other.
 */
function createOrder(): <T>(key: string, work: () => Promise<T>) => Promise<T> {
  const last = new Map<string, Promise<unknown>>()
  return (key, work) => {
    const done = (last.get(key) ?? Promise.resolve()).then(work)
    const over = done.then(
      () => undefined,
      () => undefined,
    )
    last.set(key, over)
    void over.then(() => {
      if (last.get(key) === over) last.delete(key)
    })
    return done
  }
}
