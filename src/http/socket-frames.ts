/**
 * What comes on a socket, from the first byte of a frame until what is asked in it was accepted: it has its time, is bounded
 * for each user, and counts with all bodies that are being read (body.ts). Who holds is refused, and never who comes.
 */
import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import { limits } from '../core/limits.ts'
import { holdBytes, mayBeRefused, releaseBytes, tooMuchAtOnce } from './body.ts'

export type FrameBounds = {
  /** From the first byte of a frame to its last. */
  frameMs: number
  /** Held for the user of this socket, on all of theirs. */
  user: { readonly bytes: number; add(bytes: number): void }
  /** Closes the socket, 4429. */
  close(sentence: string): void
}

/** What it answers is waited for: so long is the frame held. Never rejects. */
export type HearFrame = (data: Buffer, isBinary: boolean) => Promise<void>

/** Not counted: a small frame is taken whatever others hold. Who has a socket has cost that much anyway. */
const freeBytes = 16 * 1024
/** Of a control frame: it is masked, and has no more than 125 bytes. */
const controlHeadBytes = 6
/** For who is closed because of what they send: time to read why. */
const readWhyMs = 1_000

export const tooMuchOfYours = 'You are uploading too much at once. Connect again, and send one after the other.'
export const tooSlowly = (ms: number) => `A frame must arrive within ${ms / 1_000} s. Connect again, and send it again.`

/** Sees each byte before ws does, so that the last piece of a frame is not left counted. */
export function boundFrames(ws: WebSocket, raw: Duplex, { frameMs, user, close }: FrameBounds, hear: HearFrame): void {
  /** Of the frame that is not whole; control frames may stand between its pieces. */
  let part = 0
  let slow: NodeJS.Timeout | undefined
  const holder = { held: 0, refuse: () => refuse(tooMuchAtOnce) }

  const setPart = (bytes: number) => {
    const more = (bytes > freeBytes ? bytes : 0) - holder.held
    if (more > 0 && user.bytes + more > limits.framesOfUserBytesMax) return refuse(tooMuchOfYours)
    part = bytes
    if (part === 0) endSlow()
    holder.held += more
    user.add(more)
    if (more > 0) holdBytes(more)
    else releaseBytes(-more)
  }
  const endSlow = () => {
    clearTimeout(slow)
    slow = undefined
  }
  const refuse = (sentence: string) => {
    close(sentence)
    raw.off('data', count)
    setPart(0)
    // Not a byte more of it.
    ws.pause()
    setTimeout(() => ws.terminate(), readWhyMs)
  }
  const count = ({ length }: Buffer) => {
    slow ??= setTimeout(() => refuse(tooSlowly(frameMs)), frameMs).unref()
    setPart(part + length)
  }
  const control = ({ length }: Buffer) => setPart(Math.max(0, part - controlHeadBytes - length))
  const letGo = mayBeRefused(holder)
  raw.prependListener('data', count)
  ws.on('ping', control)
  ws.on('pong', control)
  ws.on('message', (data: Buffer, isBinary) => {
    const whole = holder.held
    holder.held = 0
    setPart(0)
    void hear(data, isBinary).then(() => {
      user.add(-whole)
      releaseBytes(whole)
    })
  })
  ws.on('close', () => {
    raw.off('data', count)
    setPart(0)
    letGo()
  })
}
