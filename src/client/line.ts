/** One connection, of whichever kind, as `connection.ts` opens it and hears of it. */
import type { LogFrame } from '../core/view.ts'
import type { PassingFrame } from './feed.ts'
import type { HoldfastError } from './wire.ts'

/** What a server says on any line. */
export type LineFrame =
  | (LogFrame & { sessionId: string })
  | { type: 'caught-up'; sessionId: string }
  | { type: 'following'; sessionId: string; ref?: string; cursor: string }
  | { type: 'reset'; sessionId: string; reason: string }
  | { type: 'reconnect'; sessionId?: string; afterMs: number }
  | { type: 'problem'; sessionId?: string; problem: ProblemDocument }
  | { type: 'listing' }
  | PassingFrame
export type ProblemDocument = {
  code: string
  status: number
  detail: string
  retryable: boolean
  retryAfterMs?: number
}

/** How a line ended. `never`: it never came to be one. */
export type LineEnd = { how: 'ended' | 'never' | 'signed_out' | 'refused'; afterMs: number; error?: HoldfastError }

export type LineStart = {
  /** As of now: read when the line is ready for them. */
  follows(): readonly { sessionId: string; cursor: string }[]
  list: boolean
  take(frame: LineFrame): void
  /** It stands. */
  opened(): void
  ended(end: LineEnd): void
}
export type Line = {
  /** False: this kind of line has to be opened anew for it. `ref` comes back with the `following` that answers it. */
  follow(sessionId: string, cursor: string, ref: string): boolean
  unfollow(sessionId: string): boolean
  /** Nothing more of it is taken. */
  close(): void
  /** The page is back, or another network is there: whether it still lives is found out now. */
  check(): void
}
