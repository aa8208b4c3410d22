import { setTimeout as pause } from 'node:timers/promises'
import { point } from '#points'
import { afterError } from '../core/backoff.ts'
import { type Failure, failureOf, type ReplyError } from '../core/errors.ts'
import { closeParts, previewOf } from '../core/parts.ts'
import { DatabaseError } from '../store/database.ts'
import { type Ended, failIfHeld, finishIfHeld, reportUsageOfLost, requeueIfHeld } from '../store/turns.ts'
import { type Attempt, type AttemptOptions, pushChunk, type Went } from './attempt.ts'

/** What is shown in place of tool calls that a failed reply left open. */
const toolErrorText = 'The reply failed before this call was finished.'

export async function endAttempt(options: AttemptOptions, attempt: Attempt, went: Went): Promise<void> {
  for (const chunk of attempt.cleaner.end()) pushChunk(attempt, chunk)
  if (went.how !== 'lost') await attempt.log.flushed()
  const lost = attempt.log.ended.aborted && attempt.log.ended.reason === 'lost'
  const ended = lost || went.how === 'lost' ? ({ outcome: 'lost' } as const) : await storeEnd(options, attempt, went)
  if (ended.outcome === 'stored') options.onEvent(attempt.claimed, ended.event)
  if (ended.outcome === 'lost') await reportLost(options, attempt)
}

async function storeEnd(options: AttemptOptions, attempt: Attempt, went: Went): Promise<Ended> {
  switch (went.how) {
    case 'finished':
      return await finish(options, attempt)
    case 'handover':
      return await answered(options, attempt, () =>
        requeueIfHeld(options.database, attempt.claimed, { reason: 'handover', code: null, retryMs: 0 }, attempt.usage),
      )
    case 'error':
      return await afterFailure(options, attempt, went.error)
    case 'lost':
      return { outcome: 'lost' }
  }
}

async function finish(options: AttemptOptions, attempt: Attempt): Promise<Ended> {
  const { claimed, fold, model, usage } = attempt
  const parts = fold.parts()
  const nextIndex = await attempt.log.flushed()
  const reply = { nextIndex, parts, metadata: fold.metadata(), model, preview: previewOf(parts) }
  await point('finish.send')
  const ended = await answered(options, attempt, () => finishIfHeld(options.database, claimed, reply, usage))
  await point('finish.answered')
  if (ended.outcome !== 'mismatch') return ended
  options.log('the log does not hold what was sent', { turnId: claimed.turnId, attempt: claimed.attempt })
  return await fail(options, attempt, failureOf('internal'))
}

async function afterFailure(options: AttemptOptions, attempt: Attempt, error: ReplyError): Promise<Ended> {
  const { claimed } = attempt
  options.log('attempt failed', { turnId: claimed.turnId, attempt: claimed.attempt, code: error.code })
  const next = afterError(error, claimed.failures, options.retry, options.random())
  if ('failure' in next) return await fail(options, attempt, next.failure)
  const why = { reason: 'error', code: error.code, retryMs: next.retryMs } as const
  return await answered(options, attempt, () => requeueIfHeld(options.database, claimed, why, attempt.usage))
}

async function fail(options: AttemptOptions, attempt: Attempt, failure: Failure): Promise<Ended> {
  const { claimed, fold, model, usage } = attempt
  const parts = closeParts(fold.parts(), { toolErrorText })
  const reply = { parts, metadata: fold.metadata(), model }
  return await answered(options, attempt, () => failIfHeld(options.database, claimed, failure, reply, usage))
}

async function reportLost({ database }: AttemptOptions, { claimed, usage }: Attempt): Promise<void> {
  await reportUsageOfLost(database, claimed, claimed.userId, usage)
}

const askAgainMs = 250
/** Half a minute at least: by then somebody else has taken the turn over, and the answer is `lost`. */
const askAgainMax = 120

/**
 * Asks until there is an answer. An outcome with this attempt's number is this attempt's, so asking again with the
 * same arguments is safe when it is unknown what became of the last time.
 */
async function answered(options: AttemptOptions, attempt: Attempt, ask: () => Promise<Ended>): Promise<Ended> {
  for (let tries = 1; ; tries++) {
    try {
      return await ask()
    } catch (error) {
      const kind = error instanceof DatabaseError ? error.kind : 'bug'
      if (kind === 'bad_data') return await failUnstorable(options, attempt)
      if (kind === 'bug' || tries >= askAgainMax) throw error
      await pause(askAgainMs)
    }
  }
}

/** The folded message cannot be stored: the turn fails without it, alone. */
function failUnstorable({ database, log }: AttemptOptions, { claimed, usage }: Attempt): Promise<Ended> {
  log('the reply cannot be stored', { turnId: claimed.turnId, attempt: claimed.attempt })
  return failIfHeld(database, claimed, failureOf('internal'), { parts: [], metadata: null, model: null }, usage)
}
