/**
 * The wire: every request that the page makes. One session is followed by `followSession`, a loop that never gives up:
 * load the snapshot, follow from its cursor, and come back by the cursor when the connection ends.
 */
import { type Frame, type Message, type Session, type Snapshot, takeFrame, type View, viewOf } from './view.ts'

/** `unreachable`: no answer came. Else the server's own problem document. */
export type Problem = { code: string; detail: string; retryable: boolean; status?: number; retryAfterMs?: number }
export type Answer<T> = { ok: true; value: T } | { ok: false; problem: Problem }

const unreachable: Problem = { code: 'unreachable', detail: 'The server does not answer.', retryable: true }
const requestMs = 20_000

async function call<T>(method: string, path: string, body?: unknown): Promise<Answer<T>> {
  try {
    const response = await fetch(path, {
      method,
      signal: AbortSignal.timeout(requestMs),
      headers: { accept: 'application/json', ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    if (response.status === 204) return { ok: true, value: undefined as T }
    const isJson = /json/.test(response.headers.get('content-type') ?? '')
    // Something between us and the server answered in its place.
    if (!isJson) return { ok: false, problem: { ...unreachable, status: response.status } }
    const answer: unknown = await response.json()
    return response.ok ? { ok: true, value: answer as T } : { ok: false, problem: answer as Problem }
  } catch {
    return { ok: false, problem: unreachable }
  }
}

const pathOf = (sessionId: string) => `/v1/sessions/${encodeURIComponent(sessionId)}`

export const listSessions = () => call<{ data: Session[] }>('GET', '/v1/sessions')
export const createSession = (id: string, title: string) => call<Session>('POST', '/v1/sessions', { id, title })
export const renameSession = (id: string, title: string) => call<Session>('PATCH', pathOf(id), { title })
export const deleteSession = (id: string) => call<void>('DELETE', pathOf(id))
export const sendMessage = (sessionId: string, id: string, text: string) =>
  call<{ message: Message }>('POST', `${pathOf(sessionId)}/messages`, { id, text })
export const stopReply = (sessionId: string, messageId: string) =>
  call<{ reply: Message }>('POST', `${pathOf(sessionId)}/messages/${encodeURIComponent(messageId)}/stop`, {})
export const earlierMessages = (sessionId: string, before: string) =>
  call<{ data: Message[]; before: string | null }>(
    'GET',
    `${pathOf(sessionId)}/messages?before=${encodeURIComponent(before)}`,
  )

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
  /** Tries again now, instead of when the backoff says: the network is back. */
  hurry(): void
  stop(): void
}

const backoffMs = { first: 250, most: 5_000 }

export function followSession(sessionId: string, follower: Follower): Following {
  const control = new AbortController()
  const { signal } = control
  let view: View | null = null
  let awayMs = 0
  let failures = 0
  let leave: (() => void) | undefined
  let wake: (() => void) | undefined

  const show = (next: View) => {
    view = next
    follower.onView(next)
  }
  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  const backOff = () => pause(Math.min(backoffMs.most, backoffMs.first * 2 ** failures++) * (0.5 + Math.random() / 2))

  /** Resolves when the connection has ended, however it did. */
  const connect = (from: View) =>
    new Promise<{ opened: boolean; reload: boolean }>((resolve) => {
      const source = new EventSource(`${pathOf(sessionId)}/events?cursor=${encodeURIComponent(from.cursor)}`)
      let opened = false
      let isLive = false
      const end = (reload: boolean) => {
        source.close()
        leave = undefined
        resolve({ opened, reload })
      }
      leave = () => end(false)
      source.onopen = () => {
        opened = true
        failures = 0
      }
      source.onerror = () => end(false)
      source.onmessage = ({ data }: MessageEvent<string>) => {
        const frame = JSON.parse(data) as Frame | { type: 'caught-up' | 'reset' | 'reconnect' }
        if (frame.type === 'caught-up') {
          isLive = true
          follower.onConnection('live')
        }
        if (frame.type === 'reset') end(true)
        if (frame.type === 'reconnect') end(false)
        if (!('cursor' in frame)) return
        const next = takeFrame(view ?? from, frame)
        if (next === 'gap') return end(true)
        if (isLive) follower.onLive(frame)
        show(next)
      }
    })

  /** What an EventSource does not tell: whether the server is away, or refuses this cursor. */
  const isRefused = async (cursor: string) => {
    const asked = await poll(sessionId, cursor)
    return !asked.ok && !asked.problem.retryable
  }

  const load = async (): Promise<'loaded' | 'missing' | 'later'> => {
    const loaded = await call<Snapshot>('GET', pathOf(sessionId))
    if (signal.aborted) return 'later'
    if (loaded.ok) {
      show(viewOf(loaded.value))
      follower.onSnapshot()
      return 'loaded'
    }
    return loaded.problem.retryable ? 'later' : 'missing'
  }

  const run = async () => {
    while (!signal.aborted) {
      if (view === null) {
        const outcome = await load()
        if (signal.aborted) return
        if (outcome === 'missing') return follower.onView(null)
        if (outcome === 'later') {
          follower.onConnection('reconnecting')
          await backOff()
        }
        continue
      }
      const { opened, reload } = await connect(view)
      if (signal.aborted) return
      follower.onConnection('reconnecting')
      await pause(awayMs)
      awayMs = 0
      if (reload) view = null
      else if (!opened) {
        if (await isRefused(view.cursor)) view = null
        else await backOff()
      }
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
    hurry: () => {
      failures = 0
      wake?.()
    },
    stop: () => {
      control.abort()
      leave?.()
      wake?.()
    },
  }
}
