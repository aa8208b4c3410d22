/**
 * The replies that this page is being told: each a stream of chunks for `useChat` that goes on through cuts, because
 * what is shown and where the log was left are both kept here.
 */

import { abortError, backoffMs, HoldfastError, type Wire } from '../client/wire.ts'
import type { Chunk, Part } from '../core/chunk.ts'
import { createFold } from '../core/fold.ts'
import type { Message, Turn } from '../core/message.ts'
import type { SdkMajor } from '../core/ui-chunks.ts'
import { createUiFollower, hasEnded, type UiFollower } from '../core/ui-follower.ts'
import { followLog, isChunks } from './log.ts'

/** A message and its reply as they are now. From the cursor the log tells the reply from its beginning. */
export type Told = {
  message: Message
  reply: Message
  /** Not that of the message where another reply took it in. */
  replyTurnId: string
  cursor: string
  /** The page has been told it up to the `turn.waiting` that follows the cursor, and has answered that. */
  goesOn?: true
  /** The ids of the calls that it shows so answered. */
  gave?: string[]
}
export type Snapshot = {
  messages: Message[]
  turns: Pick<Turn, 'messageId' | 'replyId' | 'state' | 'approvals'>[]
  open: { replyId: string; attempt: number; chunks: Chunk[] }[]
  cursor: string
}

export type TellingOptions = {
  wire: Wire
  sdk: SdkMajor
  /** A connection was lost, or one stands again or is not needed any more. */
  onReconnecting: (is: boolean) => void
  /** The page has seen this reply whole. */
  onComplete: (told: Told) => void
}

export type Telling = {
  stream: ReadableStream<Chunk>
  replies: readonly Told[]
  /** The reply that is told now; null: nothing more. */
  current(): Told | null
  /** Of that reply, as it was told so far. */
  parts(): Part[]
  /** Resolves when nothing follows. */
  ended: Promise<Ended>
}
/**
 * `broken`: with an error, `at` this reply; it may go on, and be told anew. `isCutOff`: only when somebody says so, because it
 * has used up a budget. `left`: nobody reads on.
 */
export type Ended = { how: 'whole' | 'left' } | { how: 'broken'; at: Told; isCutOff: boolean }

/** One after the other, from each one's beginning. Ends when the last one has, by `abort` or cancel, or with an error. */
export function tell(
  { wire, sdk, onReconnecting, onComplete }: TellingOptions,
  sessionId: string,
  replies: readonly Told[],
  signal: AbortSignal | undefined,
): Telling {
  const control = new AbortController()
  const abort = () => control.abort()
  signal?.addEventListener('abort', abort)
  if (signal?.aborted) abort()
  let controller!: ReadableStreamDefaultController<Chunk>
  let isCancelled = false
  const stream = new ReadableStream<Chunk>({
    start: (given) => {
      controller = given
    },
    cancel: () => {
      isCancelled = true
      abort()
    },
  })
  let last: Chunk | undefined
  let shown = createFold()
  const say = (chunks: readonly Chunk[]) => {
    if (isCancelled) return
    for (const chunk of chunks) {
      controller.enqueue(chunk)
      shown.push(chunk)
    }
    last = chunks.at(-1) ?? last
  }

  let current: Told | null = replies[0] ?? null
  const tellAll = async (): Promise<Ended> => {
    for (const told of replies) {
      current = told
      const goesOn = told.goesOn === true
      shown = createFold(goesOn ? { parts: told.reply.parts } : undefined)
      const follower = createUiFollower(told.reply.id, sdk, { goesOn, gave: told.gave })
      try {
        await tellOne({ wire, sessionId, onReconnecting, signal: control.signal }, told, follower, say)
      } catch (error) {
        if (!(error instanceof HoldfastError)) throw error
        // An error of the stream's own would hide the sentence from the app.
        say([{ type: 'error', errorText: error.message }])
        return { how: 'broken', at: told, isCutOff: false }
      }
      if (last?.type === 'finish') onComplete(told)
      // The client reads no further, and the reply may go on.
      if (last?.type === 'error') return { how: 'broken', at: told, isCutOff: follower.isCutOff }
    }
    return { how: 'whole' }
  }
  const close = (ended: Ended): Ended => {
    if (!isCancelled) controller.close()
    return ended
  }
  const fail = (error: unknown): Ended => {
    if (!isCancelled) controller.error(control.signal.aborted ? abortError() : error)
    return { how: 'left' }
  }
  const ended = tellAll()
    .then(close, fail)
    .finally(() => {
      current = null
      onReconnecting(false)
      signal?.removeEventListener('abort', abort)
    })
  return { stream, replies, current: () => current, parts: () => shown.parts(), ended }
}

type Following = { wire: Wire; sessionId: string; onReconnecting: (is: boolean) => void; signal: AbortSignal }

/** Rejects where the server refuses, or where it has no such reply any more. */
async function tellOne(
  { wire, sessionId, onReconnecting, signal }: Following,
  { message, reply, replyTurnId, cursor: begin, goesOn }: Told,
  follower: UiFollower,
  say: (chunks: readonly Chunk[]) => void,
): Promise<void> {
  if (hasEnded(reply) && !goesOn) say(follower.stands(message, reply))
  for (let cursor = begin, failures = 0; !follower.isOver; ) {
    const outcome = await followLog(
      wire,
      sessionId,
      cursor,
      {
        take(frame) {
          if (isChunks(frame)) {
            if (frame.messageId === reply.id) say(follower.chunks(frame.chunks))
          } else if ('data' in frame) {
            if (frame.turnId === replyTurnId) say(follower.event(frame.type, frame.data))
          } else say(follower.caughtUp())
          return follower.isOver
        },
        onCut: () => onReconnecting(true),
        onLive: () => onReconnecting(false),
      },
      signal,
    )
    if (outcome === 'done') return
    await wire.pause(backoffMs(failures++), signal)
    const snapshot = await readSnapshot(wire, sessionId, shownMax, signal)
    const now = snapshot.messages.find(({ id }) => id === reply.id)
    if (now === undefined) throw lost()
    const asked = snapshot.messages.find(({ id }) => id === now.repliesTo)
    const open = snapshot.open.find(({ replyId }) => replyId === reply.id)
    const waits = snapshot.turns.find(({ replyId, state }) => replyId === reply.id && state === 'waiting')
    say(follower.stands(asked ?? { error: null }, now, waits ?? open))
    cursor = snapshot.cursor
  }
}

/** As many as the server shows at once. */
const shownMax = 200

export async function readSnapshot(
  wire: Wire,
  sessionId: string,
  limit: number,
  signal: AbortSignal | undefined,
): Promise<Snapshot> {
  const path = `/v1/sessions/${encodeURIComponent(sessionId)}?limit=${limit}`
  return (await wire.askSurely(path, {}, signal)) as Snapshot
}

/** After the database was restored to an earlier state, or where another branch is shown by now. */
function lost(): HoldfastError {
  return new HoldfastError('This reply is not in the conversation any more. Load it again.', 'not_found', 404, false)
}
