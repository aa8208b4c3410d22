/**
 * The wire: every request that the page makes. One session is followed by `followSession`, a loop that never gives up:
 * load the snapshot, follow from its cursor, and come back by the cursor when the connection ends.
 */
import { eventsOf } from './events.ts'
import {
  type Frame,
  type Message,
  type Session,
  type Snapshot,
  type Turn,
  takeEarlier,
  takeFrame,
  type View,
  viewOf,
} from './view.ts'
import { backOffMs, sleeper } from './waits.ts'

/** `unreachable`: no answer came. Else the server's own problem document. */
export type Problem = { code: string; detail: string; retryable: boolean; status?: number; retryAfterMs?: number }
export type Answer<T> = { ok: true; value: T } | { ok: false; problem: Problem }

const unreachable: Problem = { code: 'unreachable', detail: 'The server does not answer.', retryable: true }
const requestMs = 20_000

async function call<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Answer<T>> {
  const control = new AbortController()
  const leave = () => control.abort()
  const timer = setTimeout(leave, requestMs)
  signal?.addEventListener('abort', leave)
  try {
    const response = await fetch(path, {
      method,
      signal: control.signal,
      headers: { accept: 'application/json', ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    if (response.status === 204) return { ok: true, value: undefined as T }
    if (!response.ok) return { ok: false, problem: await problemOf(response) }
    return { ok: true, value: (await response.json()) as T }
  } catch {
    return { ok: false, problem: unreachable }
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', leave)
  }
}

/** Not JSON: something between us and the server answered in its place. */
async function problemOf(response: Response): Promise<Problem> {
  const isJson = /json/.test(response.headers.get('content-type') ?? '')
  return isJson ? ((await response.json()) as Problem) : { ...unreachable, status: response.status }
}

const pathOf = (sessionId: string) => `/v1/sessions/${encodeURIComponent(sessionId)}`

export type SessionPage = { data: Session[]; before: string | null }
export const listSessions = (before?: string) =>
  call<SessionPage>('GET', `/v1/sessions${before === undefined ? '' : `?before=${encodeURIComponent(before)}`}`)
export const createSession = (id: string, title: string) => call<Session>('POST', '/v1/sessions', { id, title })
export const renameSession = (id: string, title: string) => call<Session>('PATCH', pathOf(id), { title })
export const deleteSession = (id: string) => call<void>('DELETE', pathOf(id))
/**
 * `interrupt`: what is being answered is stopped for it, instead of being waited for. `steer`: it is handed to the reply
 * that is being written, at its next step; where that ends first it has a reply of its own.
 */
export type WhenBusy = 'queue' | 'interrupt' | 'steer'
export const sendMessage = (sessionId: string, id: string, text: string, whenBusy: WhenBusy) =>
  call<{ message: Message }>('POST', `${pathOf(sessionId)}/messages`, { id, text, whenBusy })

export type Command = 'stop' | 'retry' | 'edit' | 'regenerate' | 'select'
/** A message, its reply and its turn as they are now, whoever changed them. */
export type Stand = { message: Message; reply: Message; turn: Turn /** A stop's. */; withdrawn?: boolean }

export const command = (sessionId: string, messageId: string, name: Command, body: object) =>
  surely<Stand>(`${pathOf(sessionId)}/messages/${encodeURIComponent(messageId)}/${name}`, body)

/**
 * Whether a call may run, or a reply go on. The same answer may be given again, another one is `not_waiting`. It is to what
 * this attempt asked: given again it is none to a later question of the same id.
 */
export type Approval = { approved: boolean; reason?: string; turnId: string; attempt: number }
export const approve = (sessionId: string, approvalId: string, body: Approval) =>
  surely<Stand>(`${pathOf(sessionId)}/approvals/${encodeURIComponent(approvalId)}`, body)

/** What was asked and not answered is asked again with the same body: it finds what it has done. */
async function surely<T>(path: string, body: object): Promise<Answer<T>> {
  for (let tries = 1; ; tries++) {
    const answer = await call<T>('POST', path, body)
    if (answer.ok || tries === commandTriesMax || !isUnknown(answer.problem)) return answer
    await commandWaits.sleep(backOffMs(backoff, tries))
  }
}
const commandTriesMax = 8
const commandWaits = sleeper()
/** The server answers again: what waits to be given again is given now. */
export const hurryCommands = () => commandWaits.wake()

/** Whether it has happened nobody can tell. */
export const isUnknown = ({ status }: Problem) => status === undefined || status >= 500

export const earlierMessages = (sessionId: string, before: string, limit?: number) =>
  call<{ data: Message[]; before: string | null }>(
    'GET',
    `${pathOf(sessionId)}/messages?before=${encodeURIComponent(before)}${limit === undefined ? '' : `&limit=${limit}`}`,
  )
/** PROTOCOL.md, Limits. */
const pageMost = 200

export type DemoInfo = { supervised: true; model: string; store: string; url: string }
export const demoInfo = () => call<DemoInfo>('GET', '/demo/info')
export const killServer = () => call<void>('POST', '/demo/kill', {})

/** The log from its beginning to what is stored now: for what a snapshot does not tell, the past of the turns. */
export async function readLog(sessionId: string): Promise<Frame[]> {
  const frames: Frame[] = []
  for (let cursor = ''; ; ) {
    const page = await poll(sessionId, cursor)
    if (!page.ok) return frames
    frames.push(...page.value.frames)
    if (page.value.frames.length === 0 || page.value.cursor === cursor) return frames
    cursor = page.value.cursor
  }
}

const poll = (sessionId: string, cursor: string) =>
  call<{ frames: Frame[]; cursor: string }>(
    'GET',
    `${pathOf(sessionId)}/events?wait=0&cursor=${encodeURIComponent(cursor)}`,
  )

/** Read by fetch: an EventSource hides the status that refuses a cursor, and the comments by which a dead stream is told from a quiet one. */
async function openEvents(
  sessionId: string,
  cursor: string,
  signal: AbortSignal,
): Promise<Answer<ReadableStream<Uint8Array<ArrayBuffer>>>> {
  try {
    const response = await fetch(`${pathOf(sessionId)}/events?cursor=${encodeURIComponent(cursor)}`, {
      headers: { accept: 'text/event-stream' },
      signal,
    })
    if (!response.ok) return { ok: false, problem: await problemOf(response) }
    return response.body ? { ok: true, value: response.body } : { ok: false, problem: unreachable }
  } catch {
    return { ok: false, problem: unreachable }
  }
}

export type Connection = 'connecting' | 'live' | 'reconnecting'
export type Follower = {
  /** The view changed, or `null`: there is no such session, or not for this user. */
  onView(view: View | null): void
  /** The view begins anew: it holds no past of the turns. */
  onSnapshot(): void
  onConnection(connection: Connection): void
  /** A frame came just now, not while catching up: its time tells how far this clock is from the server's. */
  onLive(frame: Frame): void
}
export type Following = {
  /** Changes what is shown by something that did not come as a frame. */
  change(change: (view: View) => View): void
  /** Closes the connection and stays away so long; then comes back by the cursor. */
  cut(awayMs: number): void
  /** Leaves, and stays away until it is hurried: nobody looks. */
  rest(): void
  /** Connects again now, whatever it is doing: the network is back, and what was open before it went is not. */
  hurry(): void
  stop(): void
}

type Control = { type: 'caught-up' } | { type: 'reset' } | { type: 'reconnect'; afterMs: number }

const backoff = { first: 250, most: 5_000 }
/** Three of the comments that a quiet stream brings (PROTOCOL.md): after so long without a word it is dead. */
const silentMs = 45_000

export function followSession(sessionId: string, follower: Follower): Following {
  const control = new AbortController()
  const { signal } = control
  let view: View | null = null
  /** What is shown does not lead on: the snapshot does. Until it is here, what is shown stays. */
  let isStale = true
  let awayMs = 0
  let failures = 0
  let isResting = false
  let leave: (() => void) | undefined
  const waits = sleeper()

  const show = (next: View) => {
    view = next
    follower.onView(next)
  }
  const backOff = () => waits.sleep(backOffMs(backoff, failures++))

  /** Resolves when the connection has ended, however it did. `away`: it never came to be live. `stale`: only a snapshot helps. */
  const connect = async (from: View): Promise<'ended' | 'away' | 'stale'> => {
    const call = new AbortController()
    leave = () => call.abort()
    let watch = setTimeout(leave, silentMs)
    const heard = () => {
      clearTimeout(watch)
      watch = setTimeout(() => call.abort(), silentMs)
    }
    try {
      const events = await openEvents(sessionId, from.cursor, call.signal)
      if (!events.ok) return events.problem.retryable ? 'away' : 'stale'
      let isLive = false
      for await (const data of eventsOf(events.value, heard)) {
        const frame = JSON.parse(data) as Frame | Control
        if (frame.type === 'caught-up') {
          isLive = true
          failures = 0
          follower.onConnection('live')
        }
        if (frame.type === 'reset') return 'stale'
        if (frame.type === 'reconnect' && 'afterMs' in frame) awayMs = frame.afterMs
        if (frame.type === 'reconnect') return 'ended'
        if (!('cursor' in frame)) continue
        const next = takeFrame(view ?? from, frame)
        if (next === 'gap') return 'stale'
        if (isLive) follower.onLive(frame)
        show(next)
      }
      return isLive ? 'ended' : 'away'
    } finally {
      clearTimeout(watch)
      call.abort()
      leave = undefined
    }
  }

  /** As far back as was shown before. Loaded again: what has changed there no frame will tell. Null: not now. */
  const withEarlier = async (fresh: View): Promise<View | null> => {
    const known = view?.messages ?? []
    for (let next = fresh; ; ) {
      const missing = known.length - next.messages.length
      const isThere = next.messages.some(({ id }) => id === known[0]?.id)
      if (isThere || missing <= 0 || next.before === null) return next
      const page = await earlierMessages(sessionId, next.before, Math.min(missing, pageMost))
      if (!page.ok) return null
      next = takeEarlier(next, page.value)
    }
  }

  const load = async (): Promise<'loaded' | 'missing' | 'later'> => {
    const leaving = new AbortController()
    leave = () => leaving.abort()
    const loaded = await call<Snapshot>('GET', pathOf(sessionId), undefined, leaving.signal)
    leave = undefined
    if (signal.aborted) return 'later'
    if (loaded.ok) {
      const next = await withEarlier(viewOf(loaded.value, view))
      if (signal.aborted || next === null) return 'later'
      show(next)
      isStale = false
      follower.onSnapshot()
      return 'loaded'
    }
    return loaded.problem.retryable ? 'later' : 'missing'
  }

  const run = async () => {
    while (!signal.aborted) {
      if (isResting) {
        await waits.sleep(Number.POSITIVE_INFINITY)
        continue
      }
      if (view === null || isStale) {
        const outcome = await load()
        if (signal.aborted) return
        if (outcome === 'missing') return follower.onView(null)
        if (outcome === 'later' && !isResting) {
          follower.onConnection('reconnecting')
          await backOff()
        }
        continue
      }
      const outcome = await connect(view)
      if (signal.aborted) return
      if (outcome === 'stale') {
        isStale = true
        continue
      }
      if (isResting) continue
      follower.onConnection('reconnecting')
      await waits.sleep(awayMs)
      awayMs = 0
      if (outcome === 'away') await backOff()
    }
  }

  follower.onConnection('connecting')
  void run()
  return {
    change: (change) => {
      if (view !== null) show(change(view))
    },
    cut: (ms) => {
      awayMs = ms
      leave?.()
    },
    rest: () => {
      isResting = true
      leave?.()
    },
    hurry: () => {
      isResting = false
      failures = 0
      waits.wake()
      leave?.()
    },
    stop: () => {
      control.abort()
      leave?.()
      waits.wake()
    },
  }
}
