/** What a session needs of the connection, whichever it is: frames in order, each once, and how it stands. */
import type { LogFrame } from '../core/view.ts'
import type { HoldfastError } from './wire.ts'

/** Never stored, and may be lost (PROTOCOL.md): who types, what was read, that a session changed. */
export type PassingFrame = { type: string; data: { [key: string]: unknown } }

export type FeedReader = {
  frame(frame: LogFrame): void
  passing(frame: PassingFrame): void
  /** True: what was missed has come, and what comes is new. False: the connection is lost, and will be made again. */
  live(isLive: boolean): void
  /** From where it was nothing leads on: load the snapshot, and follow anew. Nothing more comes. */
  stale(): void
  /** The server refuses it: it is gone, or not for this user. Nothing more comes. */
  refused(error: HoldfastError): void
}

export type Feed = {
  /** From the cursor on. Answers what ends it. */
  follow(sessionId: string, cursor: string, reader: FeedReader): () => void
}
