/**
 * Stopping a turn, from any process and whoever runs it. The stopper folds what the *log* holds of the latest attempt
 * and offers that as the stopped message; it is taken only if nothing has moved since. After three tries the turn is
 * marked as stopping: then nothing can be appended any more, and this or any other process completes it.
 */
import type { Chunk } from '../core/chunk.ts'
import type { Event } from '../core/event.ts'
import { createFold } from '../core/fold.ts'
import { closeParts, previewOf } from '../core/parts.ts'
import type { Database } from '../store/database.ts'
import { stop, stoppable } from '../store/turns.ts'

export type Stopping = {
  tenantId: string
  sessionId: string
  /** The user's message whose reply is to be stopped. */
  messageId: string
  by: string
  reason: string | null
  /** Only this round; a later one is left alone. */
  round: number | null
  /**
   * Who asks now: they must have the right to, and a message of their own that nobody has begun to answer leaves the
   * conversation (reason `withdrawn`). Null: the server itself or its operator, who complete what is marked and take
   * nothing out.
   */
  userId: string | null
  /** False: nor does that user. Defaults to true. */
  takesBack?: boolean
  /** One that has begun is left alone. Defaults to false. */
  onlyQueued?: boolean
}
/**
 * `late`: there was an outcome already, it is left as it is. `begun`: as was asked by `onlyQueued`. `stopping`: marked, to
 * be completed in a moment.
 */
export type Stopped =
  | { outcome: 'stopped'; event: Event }
  | { outcome: 'late' | 'begun' | 'stopping' | 'not_found' | 'forbidden' | 'other_round' }

const triesMax = 3
/** What is shown in place of tool calls that were cut off, so that the history stays valid. */
const toolErrorText = 'stopped'

export async function stopTurn(database: Database, ask: Stopping): Promise<Stopped> {
  const { by, reason, userId, takesBack, onlyQueued = false } = ask
  for (let tries = 1; ; tries++) {
    const turn = await stoppable(database, ask.tenantId, ask.sessionId, ask.messageId, userId)
    if (turn === null) return { outcome: 'not_found' }
    if (ask.round !== null && ask.round !== turn.round) return { outcome: 'other_round' }
    // A claim between this and the stop has another attempt, which is answered `again`.
    if (onlyQueued && turn.state !== 'queued') return { outcome: 'begun' }
    const fold = createFold({ parts: turn.base, metadata: turn.metadata })
    for (const json of turn.chunks) for (const chunk of JSON.parse(json) as Chunk[]) fold.push(chunk)
    const parts = closeParts(fold.parts(), { toolErrorText })
    const key = { tenantId: ask.tenantId, sessionId: ask.sessionId, turnId: turn.turnId, attempt: turn.attempt }
    const { round, isOpen, nextIndex } = turn
    const folded = { isOpen, nextIndex, parts, metadata: fold.metadata(), preview: previewOf(parts) }
    // What moves is not only queued: it is never marked.
    if (onlyQueued && tries > triesMax) return { outcome: 'begun' }
    const lastTry = tries >= triesMax && !onlyQueued
    const answer = await stop(database, key, folded, { by, reason, userId, lastTry, round, takesBack })
    if (answer.outcome === 'stopped') return { outcome: 'stopped', event: answer.event }
    if (answer.outcome === 'late') return { outcome: 'late' }
    if (answer.outcome === 'not_found' || answer.outcome === 'forbidden') return { outcome: answer.outcome }
    // Marked: nothing moves any more, so the next try is the last. (Unless it was another round: of those there are few.)
    if (answer.outcome === 'stopping' && tries > triesMax) return { outcome: 'stopping' }
  }
}
