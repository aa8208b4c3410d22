/** Following one session: server-sent events, or a long poll where the client asks for JSON. */
import * as z from 'zod'
import { type Cursor, decodeCursor } from '../core/cursor.ts'
import type { Frame } from '../core/frames.ts'
import { limits } from '../core/limits.ts'
import type { Follow, Sink } from '../log/hub.ts'
import type { Device } from '../people/presence.ts'
import type { PresenceState } from '../store/presence.ts'
import { readQuery } from './body.ts'
import { presenceField } from './people.ts'
import { endAt } from './principal.ts'
import { Problem } from './problem.ts'
import { connectAndFollow, type Followed } from './rate.ts'
import { type Call, type HttpParts, jsonText, type Route, sessionOf } from './route.ts'
import { createSseSink, createSseStream, type SseStream, sseResponse } from './sse.ts'

const querySchema = z.object({
  cursor: z.string().max(4_000).optional(),
  wait: z.coerce.number().min(0).max(limits.longPollMax).default(limits.longPollDefault),
  presence: presenceField.default('here'),
})

async function events(call: Call): Promise<Response> {
  const { cursor, wait, presence } = readQuery(call.url, querySchema)
  const from = startOf(call.parts, call.request.headers.get('last-event-id') ?? cursor)
  if (call.parts.isDraining()) throw new Problem('draining', undefined, { retryAfterMs: 1_000 })
  const accept = call.request.headers.get('accept') ?? ''
  const followed = await connectAndFollow(call)
  const place = { cursor: from, state: presence, followed }
  if (accept.includes('application/json')) {
    return await longPoll(call, place, withinToken(call, wait * 1_000)).finally(followed.unfollow)
  }
  // Begun before the first read: who follows is known to be a member.
  return sseResponse(call, (writer) => followInto(call, place, createSseStream(writer)))
}

/** `followed`: it is let go of when it is over. */
type Place = { cursor: Cursor | null; state: PresenceState; followed: Followed }

/** From a cursor, from the start of the log (none), or from now on (`now`: null). */
export function startOf({ hub }: Pick<HttpParts, 'hub'>, text: string | undefined): Cursor | null {
  if (text === 'now') return null
  if (text === undefined || text === '') return { epoch: hub.epoch(), seq: 0, open: new Map() }
  const cursor = decodeCursor(text)
  if (cursor === null) throw new Problem('bad_cursor')
  return cursor
}

/** As `retry` of the stream says. */
export const comeBackMs = 1_000

/**
 * Answers what stops it. Where it cannot begin because the log cannot be read, the client comes back: it is not held
 * and begun later, because its right was judged now. Once begun, a read that failed comes again at the next poll.
 */
function followInto(call: Call, { cursor, state, followed }: Place, stream: SseStream): () => void {
  const sink = followed.metered(createSseSink(stream))
  let follow: Follow | null = null
  let device: Device | undefined
  let stopped = false
  const stop = () => {
    stopped = true
    clearTimeout(expiry)
    follow?.stop()
    device?.leave()
    followed.unfollow()
    stream.close()
  }
  const expiry = endAt(call.principal.expiresAt, stop)
  const begin = (begun: Follow | null) => {
    follow = begun
    if (begun === null) sink.control({ type: 'reset', reason: 'gone' })
    if (begun === null || stopped) stop()
    else device = call.parts.presence.enter(sessionOf(call), state)
  }
  const comeBack = () => {
    sink.control({ type: 'reconnect', afterMs: comeBackMs })
    stop()
  }
  // What the hub ends is over for presence, too.
  const ends: Sink = { ...sink, end: stop }
  call.parts.hub.follow({ ...sessionOf(call), cursor }, ends).then(begin, comeBack)
  return stop
}

/** Who waits for an answer waits no longer than their token lasts. */
export function withinToken({ principal: { expiresAt } }: Call, waitMs: number): number {
  return expiresAt === undefined ? waitMs : Math.min(waitMs, Math.max(0, expiresAt - Date.now()))
}

/** While the log cannot be read nothing is known: after so much longer the answer is that nothing came. */
export const blindMs = 5_000

/**
 * Answers `{frames, cursor}` as soon as there is something, else after `waitMs` with nothing; but not before the log
 * was read once, so `wait=0` answers what is there.
 */
async function longPoll(call: Call, { cursor, state, followed }: Place, waitMs: number): Promise<Response> {
  const collected: string[] = []
  let bytes = 0
  let caughtUp = false
  let waited = false
  let finish!: () => void
  const finished = new Promise<void>((resolve) => {
    finish = resolve
  })
  const sink: Sink = {
    send(frames: Frame[]) {
      for (const { json } of frames) {
        collected.push(json)
        bytes += json.length
      }
      // While catching up more may follow at once; live, nothing is waited for.
      if (bytes > limits.longPollBytesMax || caughtUp) finish()
    },
    control(word) {
      if (word.type === 'caught-up') caughtUp = true
      else collected.push(JSON.stringify(word))
      if (collected.length > 0 || waited) finish()
    },
    pass(json) {
      collected.push(json)
      bytes += json.length
      finish()
    },
    // One that is full is never read for again. A promise of its own: a shared one would hold all that ever waited.
    room: () => (bytes > limits.longPollBytesMax ? new Promise(() => undefined) : null),
    end: finish,
  }
  const follow = await call.parts.hub.follow({ ...sessionOf(call), cursor }, followed.metered(sink))
  if (follow === null) throw new Problem('not_found')
  // Who only looks is not there.
  const device = waitMs > 0 ? call.parts.presence.enter(sessionOf(call), state) : undefined
  const timers = [
    setTimeout(() => {
      waited = true
      if (caughtUp) finish()
    }, waitMs),
    setTimeout(finish, waitMs + blindMs),
  ]
  call.request.signal.addEventListener('abort', finish)
  if (call.request.signal.aborted) finish()
  await finished
  for (const timer of timers) clearTimeout(timer)
  follow.stop()
  device?.leave()
  return jsonText(200, `{"frames":[${collected.join(',')}],"cursor":"${follow.cursor()}"}`)
}

export const eventRoutes: Route[] = [
  {
    name: 'events.follow',
    method: 'GET',
    path: '/v1/sessions/:sessionId/events',
    right: 'read',
    judgedBy: 'route',
    endless: true,
    handle: events,
  },
]
