/**
 * WebSockets, whatever is said on them: each is bounded in what it sends, receives and holds, and gone when nobody is at
 * its other end. What a path says on its sockets is in a file of its own (use-chat-socket.ts).
 *
 * A reader that is slow is waited for: `isFull` says so, and nothing is read for it until `whenDrained`. Only one that goes
 * on asking while more than 1 MB waits for it is closed (4429). Closing a socket stops nothing but the telling.
 */
import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import { type CloseCode, closes, requestErrors } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { endAt, type Principal } from './principal.ts'
import type { Problem } from './problem.ts'
import { boundFrames, type FrameBounds, type HearFrame } from './socket-frames.ts'

/**
 * `pingEveryMs`: who has not answered two pings by the third is gone. `idleMs`: of a socket that nobody holds. `frameMs`: in
 * which a frame has to come.
 */
export type SocketTimes = { pingEveryMs: number; idleMs: number; frameMs: number }

/**
 * `WebSocketChatTransport` of AI SDK 7 leaves a socket open that it no longer uses: in Chromium 147 its `close(1011)` is
 * refused, and the next request opens another one. So one that is not used is dropped here.
 */
export const socketTimes: SocketTimes = {
  pingEveryMs: 25_000,
  idleMs: 5 * 60_000,
  // As long as a body may take.
  frameMs: 120_000,
}

export type Socket = {
  /** Frames that belong together go out as one write. After the end they are dropped. */
  send(frames: readonly string[]): void
  /** The same for what has waited until it was not full, and ends with it: however much waits, nobody is closed for it. */
  sendWaited(frames: readonly string[]): void
  /** So much waits for its reader that nothing more should be read for it. */
  isFull(): boolean
  /** Resolves when all that waited was taken, or it has ended. */
  whenDrained(): Promise<void>
  close(code: CloseCode, reason?: string): void
  /** Something is being answered: the socket is not idle until what this answers is called. */
  hold(): () => void
  /** Aborted when it ends, from either side. */
  readonly ended: AbortSignal
}

/**
 * Hears each frame that comes. What it answers is waited for before the frame counts as accepted. Throws the `Problem` of one
 * that cannot be read, which closes the socket.
 */
export type Hear = (text: string) => unknown

/**
 * What is said on a socket: `speak` is called once, and what it answers hears the frames. `refusalOf`: what the client is
 * told of an error that hearing one threw.
 */
export type Speech = {
  principal: Principal
  /** Said before the socket is closed because this server goes away. */
  lastWord?: (afterMs: number) => string
  speak(socket: Socket): Hear
  refusalOf(error: unknown): Problem
}

export type Sockets = {
  /** Takes over a socket that has just been opened. */
  open(ws: WebSocket, raw: Duplex, speech: Speech): void
  /** Every socket is told to come back elsewhere, after so long, and so is whoever comes now. */
  drain(afterMs: number): void
  /** Those that have not gone by themselves are cut. */
  stop(): void
}

export function createSockets(times: SocketTimes = socketTimes): Sockets {
  const open = new Map<WebSocket, { socket: Socket; lastWord: Speech['lastWord'] }>()
  const users = new Map<string, User>()
  let draining = false

  return {
    open(ws, raw, speech) {
      const { principal } = speech
      const user = userOf(users, principal)
      let hear: HearFrame = async () => undefined
      const socket = openSocket(ws, raw, times, user, (data, isBinary) => hear(data, isBinary))
      user.open(1)
      open.set(ws, { socket, lastWord: speech.lastWord })
      // Those that are closing count, too: what they hold is held until they are gone.
      ws.on('close', () => {
        open.delete(ws)
        user.open(-1)
      })
      if (draining) return socket.close(1012)
      if (user.sockets > limits.socketsOfUserMax) {
        return socket.close(4429, `At most ${limits.socketsOfUserMax} sockets may be open at a time. Close some.`)
      }
      const expiry = endAt(principal.expiresAt, () => socket.close(4401))
      socket.ended.addEventListener('abort', () => clearTimeout(expiry))
      hear = hearerOf(socket, speech)
    },
    drain(afterMs) {
      draining = true
      for (const { socket, lastWord } of open.values()) {
        if (lastWord) socket.sendWaited([lastWord(afterMs)])
        socket.close(1012)
      }
    },
    stop() {
      for (const ws of open.keys()) ws.terminate()
    },
  }
}

type User = FrameBounds['user'] & { readonly sockets: number; open(more: 1 | -1): void }

/** Forgotten when there is neither a socket nor a byte of theirs. */
function userOf(users: Map<string, User>, { tenantId, userId }: Principal): User {
  const key = JSON.stringify([tenantId, userId])
  const known = users.get(key)
  if (known !== undefined) return known
  let [sockets, bytes] = [0, 0]
  const changed = () => {
    if (sockets === 0 && bytes === 0) users.delete(key)
  }
  const user: User = {
    get sockets() {
      return sockets
    },
    get bytes() {
      return bytes
    },
    open(more) {
      sockets += more
      changed()
    },
    add(more) {
      bytes += more
      changed()
    },
  }
  users.set(key, user)
  return user
}

function hearerOf(socket: Socket, { speak, refusalOf }: Speech): HearFrame {
  const hear = speak(socket)
  return async (data, isBinary) => {
    if (socket.ended.aborted) return
    if (isBinary) return socket.close(4400, 'Expected a frame of text, got a binary one.')
    try {
      await hear(data.toString())
    } catch (error) {
      const { code, message } = refusalOf(error)
      socket.close(requestErrors[code].close ?? 1011, message)
    }
  }
}

function openSocket(
  ws: WebSocket,
  raw: Duplex,
  times: SocketTimes,
  user: FrameBounds['user'],
  hear: HearFrame,
): Socket {
  const control = new AbortController()
  const { signal: ended } = control
  let isOver = false
  const over = () => {
    if (isOver) return
    isOver = true
    clearInterval(pinging)
    clearTimeout(idle)
    control.abort()
  }
  const close = (code: CloseCode, reason: string = closes[code].sentence) => {
    if (isOver) return
    // Not of interest where the other end has begun to close it.
    ws.close(code, reasonOf(reason))
    over()
  }
  const pinging = pingEach(ws, times.pingEveryMs)
  let holds = 0
  let draining: Promise<void> | undefined
  let idle: NodeJS.Timeout | undefined
  const rest = () => {
    idle = setTimeout(() => close(4408), times.idleMs).unref()
  }
  rest()
  ws.on('close', over)
  // What breaks the protocol is closed by ws itself (1002, 1007, 1009) right after this, and a cut is an end like any other.
  ws.on('error', over)
  // Answered here and not by ws, which would collect answers for who does not read them.
  ws.on('ping', (data) => {
    if (ws.bufferedAmount > limits.socketBufferBytesMax) close(4429)
    else if (!isOver) ws.pong(data)
  })
  const write = (frames: readonly string[]) => {
    raw.cork()
    for (const frame of frames) ws.send(frame)
    raw.uncork()
  }
  boundFrames(ws, raw, { frameMs: times.frameMs, user, close: (sentence) => close(4429, sentence) }, hear)

  return {
    ended,
    send(frames) {
      if (isOver) return
      if (ws.bufferedAmount > limits.socketBufferBytesMax) return close(4429)
      write(frames)
    },
    sendWaited(frames) {
      if (!isOver) write(frames)
    },
    isFull: () => !isOver && ws.bufferedAmount > limits.sendBufferBytesMax,
    whenDrained() {
      // One for all who wait.
      draining ??= new Promise<void>((resolve) => {
        const done = () => {
          raw.off('drain', done)
          ended.removeEventListener('abort', done)
          draining = undefined
          resolve()
        }
        raw.on('drain', done)
        ended.addEventListener('abort', done)
        if (isOver) done()
      })
      return draining
    },
    close,
    hold() {
      holds++
      clearTimeout(idle)
      let isHeld = true
      return () => {
        if (!isHeld) return
        isHeld = false
        holds--
        if (holds === 0 && !isOver) rest()
      }
    },
  }
}

/** A closed laptop and a lost network say nothing: who answers no ping is not there. */
function pingEach(ws: WebSocket, everyMs: number): NodeJS.Timeout {
  let unanswered = 0
  ws.on('pong', () => {
    unanswered = 0
  })
  return setInterval(() => {
    if (unanswered === 2) return ws.terminate()
    unanswered++
    ws.ping()
  }, everyMs).unref()
}

/** RFC 6455, 5.5: a control frame has 125 bytes at most, of which the code takes two. */
const reasonBytesMax = 123

/** The reason of a close: cut at a character, because it has to be valid UTF-8. */
export function reasonOf(sentence: string): string {
  let reason = sentence
  while (Buffer.byteLength(reason) > reasonBytesMax) reason = reason.slice(0, -1)
  return reason.toWellFormed()
}
