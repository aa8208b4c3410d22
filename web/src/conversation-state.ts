/** One open session as React reads it: the view, the connection, and the absences of this page. */
import { type Connection, type Following, followSession, killServer, readLog } from './session.ts'
import type { Absence } from './timeline.ts'
import { takePast, type View } from './view.ts'

export type Phase = 'loading' | 'fresh' | 'open' | 'missing'
export type ConversationState = {
  phase: Phase
  view: View | null
  connection: Connection
  /** How often it came to be live: a cut that is over within one picture is none to see, and is one all the same. */
  timesLive: number
  absences: readonly Absence[]
  /** Add it to a time of the server's to have it by this clock. */
  clockAheadMs: number
}
export type Conversation = {
  state(): ConversationState
  subscribe(hear: () => void): () => void
  /** Starts following; idempotent. `fresh`: no server knows the session before its first message is stored. */
  start(options: { fresh: boolean }): void
  /** From now on the turns have their past, too. */
  showPast(): void
  /** Leaves its connection to others until it is hurried. */
  rest(): void
  hurry(): void
  cut(awayMs: number): void
  /** Kills the server, which the demo's lets be done. */
  killServer(): Promise<void>
  change(change: (view: View) => View): void
  end(): void
}

export function openConversation(sessionId: string): Conversation {
  let state: ConversationState = {
    phase: 'loading',
    view: null,
    connection: 'connecting',
    timesLive: 0,
    absences: [],
    clockAheadMs: 0,
  }
  let following: Following | undefined
  let wasLive = false
  /** Why the connection will be lost, if it is this page's doing. */
  let reason: Absence['reason'] = 'lost'
  let least = Number.POSITIVE_INFINITY
  const hearers = new Set<() => void>()
  let drawing = false

  const draw = () => {
    drawing = false
    for (const hear of hearers) hear()
  }
  /** Frames come faster than screens: what comes within one picture is drawn once. A hidden page has no pictures. */
  const set = (change: Partial<ConversationState>) => {
    state = { ...state, ...change }
    if (drawing) return
    drawing = true
    if (document.hidden) queueMicrotask(draw)
    else requestAnimationFrame(draw)
  }

  const onConnection = (connection: Connection) => {
    const now = Date.now() - state.clockAheadMs
    const last = state.absences.at(-1)
    if (connection === 'live') {
      wasLive = true
      set({ timesLive: state.timesLive + 1 })
      reason = 'lost'
      if (last?.to === null) {
        set({ connection, absences: [...state.absences.slice(0, -1), { ...last, to: now }] })
        return
      }
    }
    if (connection === 'reconnecting' && wasLive && last?.to !== null) {
      set({ connection, absences: [...state.absences, { from: now, to: null, reason }] })
      return
    }
    set({ connection })
  }

  let wantsPast = false
  const loadPast = async () => {
    const frames = await readLog(sessionId)
    following?.change((view) => takePast(view, frames))
  }

  const begin = () => {
    following = followSession(sessionId, {
      onConnection,
      onSnapshot: () => {
        if (wantsPast) void loadPast()
      },
      onView: (view) => {
        // It may come to be, with a message that is still unsent: then this is started again.
        if (view === null) following = undefined
        set(view === null ? { phase: 'missing', view } : { phase: 'open', view })
      },
      onLive: (frame) => {
        if (!('at' in frame)) return
        least = Math.min(least, Date.now() - Date.parse(frame.at))
        if (least !== state.clockAheadMs) set({ clockAheadMs: least })
      },
    })
  }

  return {
    state: () => state,
    subscribe(hear) {
      hearers.add(hear)
      return () => hearers.delete(hear)
    },
    start({ fresh }) {
      if (following) return
      if (fresh) set({ phase: 'fresh' })
      else begin()
    },
    showPast() {
      if (wantsPast) return
      wantsPast = true
      if (state.view) void loadPast()
    },
    rest: () => following?.rest(),
    hurry: () => following?.hurry(),
    cut(awayMs) {
      reason = 'cut'
      following?.cut(awayMs)
    },
    async killServer() {
      reason = 'killed'
      const answer = await killServer()
      // Where no answer came it may be dead all the same.
      if (!answer.ok && !answer.problem.retryable) reason = 'lost'
    },
    change: (change) => following?.change(change),
    end() {
      following?.stop()
      following = undefined
    },
  }
}
