/** A WebSocket as anybody might open one: what it received, and how it ended. */
import { onTestFinished } from 'vitest'
import { WebSocket } from 'ws'

// biome-ignore lint/suspicious/noExplicitAny: frames are what the server sent, the tests check them
export type SocketFrame = { type: string; [field: string]: any }
export type End = { code: number; reason: string }

export type RawSocket = {
  ws: WebSocket
  frames: SocketFrame[]
  say(frame: object | string | Buffer): void
  /** Resolves with the first frame that matches, also one that came before; rejects when the socket ends before. */
  until(matches: (frame: SocketFrame) => boolean): Promise<SocketFrame>
  /** Resolves when it is closed, from either side. */
  ended: Promise<End>
  /** Of the handshake's answer. */
  setCookie: string[]
}

export type SocketSettings = { headers?: Record<string, string>; origin?: string; protocols?: string[] }

/** Rejects with `Unexpected server response: <status>` where the handshake is refused. Cut after the test. */
export async function openRaw(
  url: string,
  { headers = {}, origin, protocols = [] }: SocketSettings = {},
): Promise<RawSocket> {
  const ws = new WebSocket(url.replace(/^http/, 'ws'), protocols, {
    headers,
    ...(origin === undefined ? {} : { origin }),
  })
  onTestFinished(() => ws.terminate())
  const frames: SocketFrame[] = []
  const lookers = new Set<() => void>()
  const look = () => {
    for (const each of [...lookers]) each()
  }
  let setCookie: string[] = []
  let end: End | undefined
  ws.on('upgrade', ({ headers: answered }) => {
    setCookie = answered['set-cookie'] ?? []
  })
  ws.on('message', (data) => {
    frames.push(JSON.parse(String(data)) as SocketFrame)
    look()
  })
  const ended = new Promise<End>((resolve) => {
    ws.on('close', (code, reason) => {
      end = { code, reason: reason.toString() }
      resolve(end)
      look()
    })
  })
  await new Promise<void>((resolve, reject) => {
    ws.once('open', resolve)
    ws.once('error', reject)
  })
  // A cut is seen as its end.
  ws.on('error', () => undefined)
  return {
    ws,
    frames,
    ended,
    setCookie,
    say: (frame) => ws.send(typeof frame === 'string' || frame instanceof Buffer ? frame : JSON.stringify(frame)),
    until: (matches) =>
      new Promise((resolve, reject) => {
        const find = () => {
          const found = frames.find(matches)
          if (found === undefined && end === undefined) return
          lookers.delete(find)
          if (found === undefined)
            reject(new Error(`closed with ${end!.code} ${end!.reason}: ${JSON.stringify(frames)}`))
          else resolve(found)
        }
        lookers.add(find)
        find()
      }),
  }
}

/** The frames of one request, without its id. */
export function framesOf({ frames }: RawSocket, requestId: string): object[] {
  return frames.flatMap(({ requestId: of, ...frame }) => (of === requestId ? [frame] : []))
}
