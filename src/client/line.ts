/** One connection, of whichever kind, as `connection.ts` opens it and hears of it. */
import type { LogFrame } from '../core/view.ts'
import type { PassingFrame } from './feed.ts'
import type { ProblemDocument } from './wire.ts'

/** What a server says on any line. */
export type LineFrame =
  | (LogFrame & { sessionId: string })
  | { type: 'caught-up'; sessionId: string; ref?: string }
  | { type: 'following'; sessionId: string; ref?: string; cursor: string }
  | { type: 'reset'; sessionId: string; reason: string }
  | { type: 'reconnect'; sessionId?: string; afterMs: number }
  | { type: 'problem'; sessionId?: string; problem: ProblemDocument }
  | { type: 'listing' }
  | PassingFrame
/** How a line ended. `never`: it never came to be one. */
export type LineEnd = { how: 'ended' | 'never' | 'signed_out' | 'refused'; afterMs: number }

/** `ref`: another one for each time that it is asked for. It comes back with the `following` that answers it. */
export type Wanted = { sessionId: string; cursor: string; ref: string }

export type LineStart = {
  /** As of now, as is `list`: whether hints are to come, too. */
  follows(): readonly Wanted[]
  list(): boolean
  /** Nobody looks at the page just now: a tab in the background (PROTOCOL.md, P146). */
  isAway(): boolean
  take(frame: LineFrame): void
  /** It stands. */
  opened(): void
  ended(end: LineEnd): void
}
/** Of HTTP: what it follows it names when it is opened. */
export type NamedLine = {
  /** Nothing more of it is taken. */
  close(): void
  /** The page is back, or another network is there: whether it still lives is found out now. */
  check(): void
}
export type Line = NamedLine & {
  /** What is to be followed is another now. */
  changed(): void
}
