/**
 * One attempt, as a list of small steps over one value: read the prompt, pump the reply's chunks into the log with a
 * checkpoint between steps, then the end that fits how it went. It ends as complete, as failed, queued again, or lost
 * (the turn is not this attempt's any more, which changes nothing but what the ledger hears).
 */
import { point } from '#points'
import type { RetryPolicy } from '../core/backoff.ts'
import type { Chunk } from '../core/chunk.ts'
import { type Cleaner, createCleaner } from '../core/clean.ts'
import { ReplyError } from '../core/errors.ts'
import type { Event } from '../core/event.ts'
import { createFold, type Fold } from '../core/fold.ts'
import type { StepUsage } from '../core/message.ts'
import type { Appender, AttemptLog } from '../log/append.ts'
import { replyChunks } from '../reply/chunks.ts'
import { classify } from '../reply/classify.ts'
import { replyMessage } from '../reply/message.ts'
import type { Reply, ReplyContext } from '../reply/reply.ts'
import { type Database, DatabaseError } from '../store/database.ts'
import { promptMessages, promptSession } from '../store/messages.ts'
import { type Claimed, checkpointIfHeld, reportUsageOfLost, type StepReport } from '../store/turns.ts'
import { askAgain } from './ask-again.ts'
import { endAttempt, wentBy } from './attempt-end.ts'
import { startWatchdog } from './watchdog.ts'

export type AttemptOptions = {
  database: Database
  appender: Appender
  reply: Reply
  noProgressMs: number
  stepsMax: number
  replyBytesMax: number
  retry: RetryPolicy
  random: () => number
  log: (line: string, detail: object) => void
  /** Called when a write of an attempt that has lost its turn touched no row (I3). */
  onRefused: (attempt: { turnId: string; attempt: number }, write: 'end') => void
  /** What an end wrote, to be told to followers; and that the lane may have a new head. */
  onEvent: (session: { tenantId: string; sessionId: string }, event: Event) => void
}

/** How the pumping of a reply's chunks went. */
export type Went = { how: 'finished' | 'lost' | 'handover' } | { how: 'error'; error: ReplyError }

export type Attempt = {
  readonly claimed: Claimed
  readonly log: AttemptLog
  readonly fold: Fold
  readonly cleaner: Cleaner
  /** Tells the reply that the attempt is over. */
  readonly stop: AbortController
  readonly usage: StepReport[]
  /** The model that the provider named last. */
  model: string | null
  /** Steps finished over all attempts of the round. */
  step: number
  /** A step has ended, and it is not known yet whether another follows. */
  betweenSteps: boolean
  /** Chunks given to the log. */
  pushed: number
  bytes: number
  over: boolean
}

/** Resolves when the attempt has ended in one way or another; never rejects. `handover` aborted: give the turn back. */
export async function runAttempt(
  options: AttemptOptions,
  claimed: Claimed,
  claimSentAtMs: number,
  handover: AbortSignal,
): Promise<void> {
  const attempt = beginAttempt(options, claimed, claimSentAtMs)
  try {
    const went = await pump(options, attempt, handover)
    attempt.stop.abort()
    await endAttempt(options, attempt, went)
  } catch (error) {
    // Nothing more can be said to the database now: the lease runs out, and somebody takes over.
    options.log('attempt abandoned', { turnId: claimed.turnId, attempt: claimed.attempt, error: String(error) })
  } finally {
    attempt.over = true
    attempt.stop.abort()
    attempt.log.close()
  }
}

function beginAttempt({ appender }: AttemptOptions, claimed: Claimed, claimSentAtMs: number): Attempt {
  return {
    claimed,
    log: appender.open({ ...claimed, audience: null }, claimSentAtMs),
    fold: createFold(claimed.checkpoint ?? undefined),
    cleaner: createCleaner(),
    stop: new AbortController(),
    usage: [],
    model: null,
    step: claimed.checkpoint?.step ?? 0,
    betweenSteps: false,
    pushed: 0,
    bytes: 0,
    over: false,
  }
}

async function pump(options: AttemptOptions, attempt: Attempt, handover: AbortSignal): Promise<Went> {
  const { log, stop } = attempt
  let broken: Went | undefined
  const breakOff = (went: Went) => {
    broken ??= went
    stop.abort()
  }
  const watchdog = startWatchdog(options.noProgressMs, () =>
    breakOff({ how: 'error', error: new ReplyError('no_progress', `no chunk for ${options.noProgressMs} ms`) }),
  )
  const unlisten = [
    whenAborted(log.ended, () => breakOff(wentBy(log.ended.reason))),
    whenAborted(handover, () => breakOff({ how: 'handover' })),
  ]
  try {
    const context = await promptOf(options.database, attempt)
    if (broken) return broken
    // So late that somebody else may have the turn by now: given back, if it is not.
    if (performance.now() > log.trustedUntilMs()) return { how: 'handover' }
    await point('attempt.reply')
    for await (const chunk of replyChunks(options.reply, context)) {
      if (broken) break
      watchdog.pet()
      await takeChunk(options, attempt, chunk)
      await point('attempt.chunk')
    }
    return broken ?? { how: 'finished' }
  } catch (error) {
    if (broken) return broken
    if (error instanceof DatabaseError) throw error
    return { how: 'error', error: classify(error) }
  } finally {
    watchdog.stop()
    for (const each of unlisten) each()
  }
}

function whenAborted(signal: AbortSignal, act: () => void): () => void {
  if (signal.aborted) act()
  signal.addEventListener('abort', act)
  return () => signal.removeEventListener('abort', act)
}

/** Read at claim: what came before this turn in its lane has its outcome by now (I13). */
async function promptOf(database: Database, attempt: Attempt): Promise<ReplyContext> {
  const { claimed, log, stop } = attempt
  const { tenantId, sessionId, turnId, messageId, replyId, userId, round, checkpoint } = claimed
  const [rows, session] = await Promise.all([
    askAgain(() => promptMessages(database, claimed), log.ended),
    askAgain(() => promptSession(database, tenantId, sessionId), log.ended),
  ])
  const messages = rows.map(replyMessage)
  const message = messages.at(-1)
  if (!session || message?.id !== messageId) throw new ReplyError('internal', 'the session was deleted')
  if (checkpoint) {
    const { parts, metadata } = checkpoint
    messages.push(replyMessage({ id: replyId, role: 'assistant', parts, metadata }))
  }
  return {
    messages,
    message,
    session,
    user: { id: userId, tenantId },
    turn: { id: turnId, round },
    attempt: claimed.attempt,
    stepsDone: checkpoint?.step ?? 0,
    replyId,
    signal: stop.signal,
    usage: (report) => noteUsage(database, attempt, report),
  }
}

function noteUsage(database: Database, attempt: Attempt, usage: StepUsage): void {
  const report = { step: attempt.usage.length, usage }
  attempt.usage.push(report)
  attempt.model = usage.model ?? attempt.model
  // Money spent is a fact, however late it is heard of; if it cannot be stored now it stays unknown.
  if (attempt.over)
    reportUsageOfLost(database, attempt.claimed, attempt.claimed.userId, [report]).catch(() => undefined)
}

async function takeChunk(options: AttemptOptions, attempt: Attempt, chunk: Chunk): Promise<void> {
  if (attempt.betweenSteps && chunk.type !== 'finish') await storeCheckpoint(options.database, attempt)
  attempt.betweenSteps = false
  for (const clean of attempt.cleaner.clean(chunk)) pushChunk(attempt, clean)
  if (chunk.type === 'finish-step') {
    attempt.step++
    attempt.betweenSteps = true
  }
  if (attempt.step > options.stepsMax) throw new ReplyError('budget_exceeded', `more than ${options.stepsMax} steps`)
  if (attempt.bytes > options.replyBytesMax) {
    throw new ReplyError('budget_exceeded', `more than ${options.replyBytesMax} bytes`)
  }
  await attempt.log.room()
}

export function pushChunk(attempt: Attempt, chunk: Chunk): void {
  attempt.fold.push(chunk)
  attempt.log.push(chunk)
  attempt.pushed++
  attempt.bytes += bytesOf(chunk)
}

/** The text that a chunk adds; whole chunks where that is not known. */
function bytesOf(chunk: Chunk): number {
  if ('delta' in chunk && typeof chunk.delta === 'string') return Buffer.byteLength(chunk.delta)
  return JSON.stringify(chunk).length
}

/**
 * Between two steps, and before anything of the next is shown: a takeover starts from here. Not after the last step,
 * whose outcome follows at once.
 */
async function storeCheckpoint(database: Database, attempt: Attempt): Promise<void> {
  const { claimed, fold, log, step } = attempt
  const nextIndex = await log.flushed()
  const { attempt: number } = claimed
  const checkpoint = { attempt: number, step, nextIndex, parts: fold.parts(), metadata: fold.metadata() }
  await point('checkpoint.send')
  await askAgain(() => checkpointIfHeld(database, claimed, checkpoint), log.ended)
  await point('checkpoint.answered')
}
