/**
 * The connection over which all sessions of a client are followed: one WebSocket, else one stream of server-sent events, else
 * long polls (PROTOCOL.md, P120 on). Whatever ends it, it is made again, and each session goes on by its cursor.
 *
 *   idle ──the first follows──▶ connecting ──▶ live ──ended──▶ waiting ──▶ connecting …
 *     ▲────── nobody follows any more ──────────┘                └── signed_out: until `wake`
 *
 * A socket that never opens, twice in a row, is taken for one that something between does not let through: then it is
 * a stream, and where bodies are handed over whole, as by React Native's own `fetch`, long polls.
 */
import type { LogFrame } from '../core/view.ts'
import type { Feed, FeedReader, PassingFrame } from './feed.ts'
import type { Line, LineEnd, LineFrame, LineStart } from './line.ts'
import type { Locks } from './locks.ts'
import type { OverHttp } from './over-http.ts'
import { openSocket } from './socket-line.ts'
import { createStore, type Readable } from './store.ts'
import { backoffMs, errorIn, type ProblemDocument, type Wire } from './wire.ts'

export type Transport = 'websocket' | 'sse' | 'poll'
/** A connection that is made elsewhere: `holdfast/ably-client`. */
export type OwnTransport = { readonly name: 'ably'; open(wire: Wire, start: LineStart): Line }
export type ConnectionState = {
  /** `waiting`: it failed, and is made again at `retryAt`. `signed_out`: the server does not know who this is. */
  phase: 'idle' | 'connecting' | 'live' | 'waiting' | 'signed_out'
  transport: Transport | 'ably' | null
  retryAt: string | null
}

export type ConnectionOptions = {
  wire: Wire
  transport: Transport | OwnTransport | 'auto'
  /** Null where there is none. */
  WebSocket: typeof WebSocket | null
  locks: Locks
  newId(): string
  /** Of the tabs that share a stream or long polls. Null: each has its own. */
  sharedAs: string | null
}

export type Connection = Feed & {
  state: Readable<ConnectionState>
  /** Calls `hear` with hints that some session changed, and once after each time that hints may have been missed. */
  list(hear: (hint: SessionHint | null) => void): () => void
  /** Connect now: the app is in front again, or the user signed in. */
  wake(): void
  /** Nobody looks: the connection is left, until `wake`. */
  rest(): void
  close(): void
}

/** `updatedAt` null: it was deleted. */
export type SessionHint = { sessionId: string; updatedAt: string | null }

/** `ref`: what comes on a line before it is answered belongs to an earlier follow. */
type Entry = { cursor: string; reader: FeedReader; ref: string; isAnswered: boolean }

/** So long a socket that does not get through is not tried again. */
const socketAgainMs = 300_000
/** A line that stood for so long was one: its end is the first failure of a new row. */
const stoodMs = 5_000

export function createConnection(options: ConnectionOptions): Connection {
  const { wire, transport, WebSocket: Socket, locks, newId, sharedAs } = options
  const state = createStore<ConnectionState>({ phase: 'idle', transport: null, retryAt: null })
  const show = (
    phase: ConnectionState['phase'],
    as: Transport | OwnTransport | null = null,
    retryAt: string | null = null,
  ) => state.set({ phase, transport: (as as OwnTransport | null)?.name ?? (as as Transport | null), retryAt })
  const entries = new Map<string, Entry>()
  const listHearers = new Set<(hint: SessionHint | null) => void>()
  let line: Line | null = null
  let isClosed = false
  let isResting = false
  let isRunning = false
  let failures = 0
  /** Something of a log has come over the line. */
  let gotOn = false
  let neverOpened = 0
  let socketAgainAtMs = 0
  let rest: AbortController | null = null
  let overHttp: Promise<OverHttp> | null = null

  const wants = () => !isClosed && !isResting && (entries.size > 0 || listHearers.size > 0)
  const kind = (): Transport | OwnTransport => {
    if (transport !== 'auto') return transport
    if (Socket !== null && Date.now() >= socketAgainAtMs) return 'websocket'
    return wire.streams() ? 'sse' : 'poll'
  }
  const loadHttp = () => {
    overHttp ??= import('./over-http.ts').then(({ createOverHttp }) =>
      createOverHttp({ wire, locks, newId, name: sharedAs }),
    )
    return overHttp
  }
  /** The line is there when what opens it is. */
  const openHttp = (as: 'sse' | 'poll', start: LineStart): Line => {
    let opened: Line | null = null
    let isOver = false
    const close = () => {
      isOver = true
      if (opened === null) start.ended({ how: 'ended', afterMs: 0 })
      else opened.close()
    }
    loadHttp().then(
      (http) => {
        if (!isOver && !isClosed) opened = http.open(as, start)
      },
      () => {
        // It is asked for again, and the socket tried meanwhile.
        overHttp = null
        socketAgainAtMs = 0
        close()
      },
    )
    return { changed: () => opened?.changed(), check: () => opened?.check(), close }
  }
  const isOfLog = (frame: LineFrame): frame is LogFrame & { sessionId: string } => 'cursor' in frame && 'after' in frame

  const take = (frame: LineFrame) => {
    if ('sessionId' in frame && typeof frame.sessionId === 'string') return takeOf(frame.sessionId, frame)
    if (frame.type === 'listing') tellLists(null)
    if (frame.type === 'session.changed') tellLists((frame as PassingFrame).data as SessionHint)
  }
  const takeOf = (sessionId: string, frame: LineFrame) => {
    const entry = entries.get(sessionId)
    if (entry === undefined) return
    const { reader } = entry
    entry.isAnswered ||= 'ref' in frame && frame.ref === entry.ref
    // Where its cursor leads nowhere that alone is said.
    if (!entry.isAnswered && frame.type !== 'reset') return
    if (frame.type === 'following') return
    if (isOfLog(frame)) {
      entry.cursor = frame.cursor
      gotOn = true
      reader.frame(frame)
    } else if (frame.type === 'caught-up') reader.live(true)
    else if (frame.type === 'reset') {
      entries.delete(sessionId)
      reader.stale()
    } else if (frame.type === 'problem') {
      const error = errorIn((frame as { problem: ProblemDocument }).problem)
      if (error.retryable) return later(sessionId, entry, error.retryAfterMs ?? againMs)
      entries.delete(sessionId)
      if (error.code === 'bad_cursor') reader.stale()
      else reader.refused(error)
    } else if (frame.type === 'reconnect') later(sessionId, entry, (frame as { afterMs: number }).afterMs)
    else if ('data' in frame) reader.passing(frame as PassingFrame)
  }
  /** This session alone is followed again after a while. */
  const later = (sessionId: string, entry: Entry, ms: number) => {
    entry.reader.live(false)
    setTimeout(() => {
      if (entries.get(sessionId) === entry) joined(sessionId, entry)
    }, ms)
  }
  const tellLists = (hint: SessionHint | null) => {
    for (const hear of [...listHearers]) hear(hint)
  }

  /** Resolves when the line has ended. */
  const connect = (as: Transport | OwnTransport): Promise<LineEnd & { stoodMs: number }> =>
    new Promise((resolve) => {
      let openedAtMs: number | null = null
      for (const entry of entries.values()) entry.isAnswered = false
      let isOver = false
      const ended = (end: LineEnd) => {
        if (isOver) return
        isOver = true
        line?.close()
        line = null
        resolve({ ...end, stoodMs: openedAtMs === null ? 0 : Date.now() - openedAtMs })
      }
      const start: LineStart = {
        follows: () => [...entries].map(([sessionId, { cursor, ref }]) => ({ sessionId, cursor, ref })),
        list: () => listHearers.size > 0,
        isAway,
        take: (frame) => {
          if (isOver) return
          if (frame.type === 'reconnect' && !('sessionId' in frame)) {
            ended({ how: 'ended', afterMs: (frame as { afterMs: number }).afterMs })
          } else take(frame)
        },
        opened() {
          if (isOver) return
          openedAtMs = Date.now()
          neverOpened = 0
          // While the network lets it through: later no socket may, and the app may have been deployed anew.
          loadHttp().catch(() => undefined)
          show('live', as)
        },
        ended,
      }
      if (typeof as === 'object') line = as.open(wire, start)
      else line = as === 'websocket' ? openSocket(wire, Socket!, start) : openHttp(as, start)
    })

  const run = async () => {
    if (isRunning) return
    isRunning = true
    while (wants()) {
      const as = kind()
      show('connecting', as)
      const end = await connect(as)
      for (const { reader } of entries.values()) reader.live(false)
      if (!wants()) break
      if (end.how === 'signed_out') {
        show('signed_out')
        await sleep(signedOutMs)
        continue
      }
      if (as === 'websocket' && end.how === 'never' && ++neverOpened >= 2 && transport === 'auto') {
        socketAgainAtMs = Date.now() + socketAgainMs
        failures = 0
        continue
      }
      if (end.stoodMs > stoodMs || gotOn) failures = 0
      gotOn = false
      const waitMs = Math.max(end.afterMs, backoffMs(failures++))
      if (waitMs > 0) {
        show('waiting', null, new Date(Date.now() + waitMs).toISOString())
        await sleep(waitMs)
      }
    }
    show('idle')
    isRunning = false
  }
  const sleep = async (ms: number) => {
    rest = new AbortController()
    await wire.pause(ms, rest.signal).catch(() => undefined)
    rest = null
  }
  let refs = 0
  const joined = (sessionId: string, { cursor, reader }: Pick<Entry, 'cursor' | 'reader'>) => {
    entries.set(sessionId, { cursor, reader, ref: String(++refs), isAnswered: false })
    changed()
  }
  const changed = () => {
    if (line === null) void run()
    else line.changed()
  }
  const leave = () => {
    if (wants()) return
    line?.close()
    rest?.abort()
  }
  const unlisten = wire.onWake(() => {
    line?.check()
    line?.changed()
  })

  return {
    state,
    follow(sessionId, cursor, reader) {
      joined(sessionId, { cursor, reader })
      return () => {
        if (entries.get(sessionId)?.reader !== reader) return
        entries.delete(sessionId)
        line?.changed()
        leave()
      }
    },
    list(hear) {
      listHearers.add(hear)
      changed()
      return () => {
        listHearers.delete(hear)
        leave()
      }
    },
    wake() {
      isResting = false
      rest?.abort()
      line?.check()
      void run()
    },
    rest() {
      isResting = true
      leave()
    },
    close() {
      isClosed = true
      unlisten()
      leave()
      overHttp?.then(
        (http) => http.close(),
        () => undefined,
      )
    },
  }
}

/** Where there is no page, nobody is told that it is in the background: `rest` leaves the connection. */
const isAway = () => (globalThis as { document?: Document }).document?.visibilityState === 'hidden'

/** A session that cannot be followed at the moment. */
const againMs = 2_000
/** Whether somebody has signed in meanwhile is asked now and then. */
const signedOutMs = 60_000
