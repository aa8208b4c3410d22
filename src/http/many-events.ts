/**
 * Following many sessions over HTTP: server-sent events, or a long poll where the client asks for JSON. PROTOCOL, P130 on.
 *
 * The stream's frames have no `id`. One for all sessions would be as long as their cursors, 3 KB of 100 sessions beside a
 * chunk of 200 bytes, and come back as a header that Node bounds at 16 KB with all others. A client has each session's
 * cursor anyway. Browsers' `EventSource` would come back by itself with the cursors that it was opened with: so the stream
 * gives it one id at its beginning, and whoever brings that is answered 204, which ends its coming back.
 */
import * as z from 'zod'
import { limits } from '../core/limits.ts'
import type { PresenceState } from '../store/presence.ts'
import { readQuery } from './body.ts'
import { blindMs, comeBackMs, withinToken } from './events.ts'
import { createFollows, type Out } from './follows.ts'
import { createPassing } from './passing.ts'
import { presenceField } from './people.ts'
import { endAt } from './principal.ts'
import { Problem, problemDocument } from './problem.ts'
import { connect } from './rate.ts'
import { type Call, jsonText, type Route } from './route.ts'
import { createSseStream, type SseStream, sseResponse } from './sse.ts'
import { notUpgraded } from './use-chat.ts'

const querySchema = z.object({
  sessions: z.string().default(''),
  list: z.enum(['0', '1']).default('0'),
  wait: z.coerce.number().min(0).max(limits.longPollMax).default(limits.longPollDefault),
  presence: presenceField.default('here'),
})

type Asked = { sessions: Place[]; list: boolean; state: PresenceState }
type Place = { sessionId: string; cursor: string | undefined; ref: string | undefined }

const keyOf = ({ sessionId, ref }: { sessionId: string; ref?: string | undefined }) => ref ?? sessionId
const refPattern = /^[A-Za-z0-9_-]{1,64}$/

/** `id@cursor,id@cursor@ref`: neither sign is in an id, a cursor or a ref. */
function sessionsOf(text: string): Asked['sessions'] {
  const asked = text
    .split(',')
    .filter((each) => each !== '')
    .map((each) => {
      const [sessionId, cursor, ref] = each.split('@')
      return { sessionId: sessionId!, cursor, ref }
    })
  if (asked.length > limits.followsMax) {
    throw new Problem('invalid_request', `In the query, "sessions" may name at most ${limits.followsMax} sessions.`)
  }
  if (asked.some(({ ref }) => ref !== undefined && !refPattern.test(ref))) {
    throw new Problem('invalid_request', 'In the query, a ref in "sessions" may have 64 letters, digits, "-" and "_".')
  }
  if (new Set(asked.map(keyOf)).size < asked.length) {
    throw new Problem(
      'invalid_request',
      'In the query, "sessions" names a session twice, without a ref of its own for each.',
    )
  }
  return asked
}

async function manyEvents(call: Call): Promise<Response> {
  const { headers } = call.request
  const query = readQuery(call.url, querySchema)
  const asked = { sessions: sessionsOf(query.sessions), list: query.list === '1', state: query.presence }
  if (asked.sessions.length === 0 && !asked.list) {
    throw new Problem('invalid_request', 'In the query, expected "sessions=id@cursor,id@cursor" or "list=1".')
  }
  if (call.parts.isDraining()) throw new Problem('draining', undefined, { retryAfterMs: 1_000 })
  const isPoll = (headers.get('accept') ?? '').includes('application/json')
  if (!isPoll && headers.has('last-event-id'))
    return new Response(null, { status: 204, headers: { 'cache-control': 'no-store' } })
  const leave = await connect(call)
  if (isPoll) return await longPoll(call, asked, withinToken(call, query.wait * 1_000)).finally(leave)
  const idOnce = 'id: open a new one\n'
  return sseResponse(call, (writer) => tellInto(call, asked, createSseStream(writer, idOnce), leave))
}

/** Answers what stops it. It ends when nothing more can come, and then lets go of its connection (`leave`). */
function tellInto(call: Call, { sessions, list, state }: Asked, stream: SseStream, leave: () => void): () => void {
  const { parts, principal } = call
  const say = (frames: string[]) => stream.say(frames.map((data) => ({ data })))
  let unlook: (() => void) | undefined
  const stop = () => {
    clearTimeout(expiry)
    unlook?.()
    follows.stop()
    leave()
    stream.close()
  }
  const expiry = endAt(principal.expiresAt, stop)
  /** All at once: the client names its sessions anew. */
  const reconnect = (afterMs: number) => {
    say([JSON.stringify({ type: 'reconnect', afterMs })])
    stop()
  }
  const stopIfOver = () => {
    if (follows.count() === 0 && !list) stop()
  }
  const out: Out = {
    say,
    word(word) {
      if (word.type === 'reconnect') return reconnect(word.afterMs)
      say([JSON.stringify(word)])
      if (word.type === 'reset') stopIfOver()
    },
    refused(named, error) {
      const problem = call.refusalOf(error)
      // It may be followed later, for which this stream has no word.
      if (problem.retryable) return reconnect(problem.retryAfterMs ?? comeBackMs)
      say([JSON.stringify({ ...named, type: 'problem', problem: problemDocument(problem) })])
      stopIfOver()
    },
    room: stream.room,
    hold: () => () => undefined,
  }
  const follows = createFollows(parts, principal, out, { byRef: true, state })
  if (list) {
    const { pass } = createPassing({ say, room: stream.room })
    unlook = parts.lists.look(principal, {
      changed: (data) => pass(data.sessionId, { type: 'session.changed', data }),
      drain: reconnect,
    })
    say([JSON.stringify({ type: 'listing' })])
  }
  for (const each of sessions) follows.follow(each)
  return stop
}

/**
 * Answers `{frames, cursors}` as soon as there is something, else after `waitMs` with nothing; but not before each log was
 * read once, so `wait=0` answers what is there.
 */
async function longPoll(call: Call, { sessions, list, state }: Asked, waitMs: number): Promise<Response> {
  const { parts, principal, request } = call
  const frames: string[] = []
  const behind = new Set(sessions.map(keyOf))
  let bytes = 0
  let waited = false
  let finish!: () => void
  /** With where each stood: from then on nothing is taken any more. */
  const finished = new Promise<Record<string, string>>((resolve) => {
    finish = () => {
      resolve(follows.cursors())
      follows.stop()
      unlook()
    }
  })
  const reconnect = (afterMs: number) => {
    frames.push(JSON.stringify({ type: 'reconnect', afterMs }))
    finish()
  }
  const finishIfDue = () => {
    if (bytes > limits.longPollBytesMax || (behind.size === 0 && (waited || frames.length > 0))) finish()
  }
  const say = (more: string[]) => {
    for (const frame of more) bytes += frame.length
    frames.push(...more)
    finishIfDue()
  }
  const out: Out = {
    say,
    word(word) {
      if (word.type === 'following') return
      if (word.type === 'reconnect') return reconnect(word.afterMs)
      behind.delete(keyOf(word))
      if (word.type === 'caught-up') finishIfDue()
      else say([JSON.stringify(word)])
    },
    refused(named, error) {
      behind.delete(keyOf(named))
      say([JSON.stringify({ ...named, type: 'problem', problem: problemDocument(call.refusalOf(error)) })])
    },
    // One that is full is never read for again. A promise of its own: a shared one would hold all that ever waited.
    room: () => (bytes > limits.longPollBytesMax ? new Promise(() => undefined) : null),
    hold: () => () => undefined,
  }
  const follows = createFollows(parts, principal, out, { byRef: true, state })
  const unlook = list
    ? parts.lists.look(principal, {
        changed: (data) => say([JSON.stringify({ type: 'session.changed', data })]),
        drain: reconnect,
      })
    : () => undefined
  for (const each of sessions) follows.follow(each)
  const timers = [
    setTimeout(() => {
      waited = true
      finishIfDue()
    }, waitMs),
    setTimeout(finish, waitMs + blindMs),
  ]
  request.signal.addEventListener('abort', finish)
  if (request.signal.aborted) finish()
  const cursors = await finished
  for (const timer of timers) clearTimeout(timer)
  return jsonText(200, `{"frames":[${frames.join(',')}],"cursors":${JSON.stringify(cursors)}}`)
}

/** Upgraded before a request comes here (realtime.ts), where the app's server lets it be. */
export const realtimeAt = { name: 'realtime.socket', path: '/v1/realtime' } as const

export const manyEventsRoutes: Route[] = [
  {
    name: 'events.followMany',
    method: 'GET',
    path: '/v1/events',
    right: 'none',
    judgedBy: 'statement',
    endless: true,
    handle: manyEvents,
  },
  { ...realtimeAt, method: 'GET', right: 'none', judgedBy: 'statement', handle: notUpgraded },
]
