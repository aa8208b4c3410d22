import { point } from '#points'
import { type Ask, spendSentence, withUncertainAsked } from '../core/asks.ts'
import { afterError } from '../core/backoff.ts'
import type { Part } from '../core/chunk.ts'
import { type Failure, failureOf, ReplyError, type TurnCode } from '../core/errors.ts'
import { hasAllResults, lastStep, withResults } from '../core/open-step.ts'
import { closeCalls, closeParts, previewOf } from '../core/parts.ts'
import type { AppendEnd } from '../log/append.ts'
import { type Waiting, waitIfHeld } from '../store/asks.ts'
import { type Database, DatabaseError } from '../store/database.ts'
import {
  type Ended,
  failIfHeld,
  failingOf,
  finishIfHeld,
  reportUsageOfLost,
  requeueIfHeld,
  type StepReport,
} from '../store/turns.ts'
import { hasNumbers } from '../usage/ledger.ts'
import { askAgain } from './ask-again.ts'
import { type Attempt, type AttemptOptions, asksOfEnd, checkpointOf, pushChunk, type Went } from './attempt.ts'
import { asksBeyondBudget, BudgetUsedUp, leftByClaim, type UsedBudget, withoutProgress } from './budget.ts'
import { metadataOf } from './on-reply.ts'
import { inputHashOf } from './tool-calls.ts'

type RequeueReason = { reason: 'error' | 'handover'; code: string | null; retryMs: number }

/** What is shown in place of tool calls that a failed reply left open. */
const toolErrorText = 'The reply failed before this call was finished.'
/** While it waits to be let go on, and where it is not. */
const cutOffText = 'The reply was cut off before this call was finished.'

/** The same of one that finished: the AI SDK runs no call of a step that reached its length, and takes none without a result. */
const notRunText = 'It was not run, because the reply ended before.'
const unknownText = 'The reply ended before this call had a result.'

export async function endAttempt(options: AttemptOptions, attempt: Attempt, went: Went): Promise<void> {
  for (const chunk of attempt.cleaner.end()) pushChunk(attempt, chunk)
  if (went.how !== 'lost') await attempt.log.flushed()
  const ended = await storeEnd(options, attempt, wentAfterAll(attempt.log.ended, went))
  if (ended.outcome === 'stored') {
    options.onEvent(attempt.claimed, ended.event)
    if (ended.event.type === 'message.ai_response') options.onComplete(attempt, ended.event)
  }
  // From here on what is reported goes to the ledger by itself.
  attempt.over = true
  const isMine = ended.outcome === 'stored'
  const late = isMine ? attempt.usage.slice(attempt.reported).filter(hasNumbers) : attempt.ledger.atLoss()
  await reportLate(options.database, attempt, late)
}

/** Money spent is a fact, however late it is heard of, and whoever has the turn now. */
export async function reportLate(database: Database, { claimed }: Attempt, reports: StepReport[]): Promise<void> {
  await askAgain(() => reportUsageOfLost(database, claimed, claimed.userId, reports))
}

/** The last flush may have told what the pumping could not know. */
function wentAfterAll(ended: AbortSignal, went: Went): Went {
  return ended.aborted ? wentBy(ended.reason) : went
}

export function wentBy(reason: AppendEnd): Went {
  if (reason === 'lost') return { how: 'lost' }
  return { how: 'error', error: new ReplyError('internal', 'the reply holds something that cannot be stored') }
}

async function storeEnd(options: AttemptOptions, attempt: Attempt, went: Went): Promise<Ended> {
  switch (went.how) {
    case 'finished':
      return await finish(options, attempt)
    case 'uncertain':
      return await wait(options, attempt, went.asks)
    case 'handover':
      return await requeue(options, attempt, { reason: 'handover', code: null, retryMs: 0 })
    case 'error':
      return await afterFailure(options, attempt, went.error)
    case 'lost':
      return { outcome: 'lost' }
  }
}

async function finish(options: AttemptOptions, attempt: Attempt): Promise<Ended> {
  const { claimed, fold, model } = attempt
  const asks = asksOfEnd(attempt, fold.parts())
  if (asks.length > 0) return await wait(options, attempt, asks)
  const step = new Set(lastStep(fold.parts()))
  const isNotRun = (part: Part) => step.has(part) && !attempt.calls!.hasBegun(String(part.toolCallId))
  const parts = closeCalls(fold.parts(), (part) => (isNotRun(part) ? notRunText : unknownText))
  const nextIndex = await attempt.log.flushed()
  const messageMetadata = await metadataOf(options, attempt)
  // As if the reply had said it last, but no chunk of the log: its outcome follows at once.
  if (messageMetadata !== null) fold.push({ type: 'message-metadata', messageMetadata })
  const reply = { nextIndex, parts, metadata: fold.metadata(), model, preview: previewOf(parts) }
  await point('finish.send')
  const ended = await answered(options, attempt, () =>
    finishIfHeld(options.database, claimed, reply, attempt.ledger.atEnd({ mayHaveGoneOn: attempt.cutLate })),
  )
  await point('finish.answered')
  return ended.outcome === 'mismatch' ? await failMismatched(options, attempt) : ended
}

/** The reply stands as it is until people have answered; the step that asked is the one that goes on then. */
async function wait(options: AttemptOptions, attempt: Attempt, asks: Ask[]): Promise<Ended> {
  const { fold } = attempt
  const nextIndex = await attempt.log.flushed()
  // Its end was counted as that of a finished one.
  const step = attempt.stepIsOpen ? attempt.step : Math.max(0, attempt.step - 1)
  const uncertain = asks.filter(({ kind }) => kind === 'uncertain')
  const ids = new Map(uncertain.map(({ callId, id }) => [callId, id]))
  const kept = withResults(fold.parts(), new Map(), () => true)
  const parts = withUncertainAsked(kept, ids)
  return await storeWait(options, attempt, {
    nextIndex,
    checkpoint: checkpointOf(attempt, { step, nextIndex, parts, isOpen: true }),
    asks: asks.map(({ input, ...ask }) => ({ ...ask, inputHash: inputHashOf(input) })),
  })
}

/**
 * The reply stands as it is until somebody says whether it may use more. Where it made no progress the next attempt starts
 * from what was stored last, and what it said beyond that is shown meanwhile.
 */
async function waitForBudget(options: AttemptOptions, attempt: Attempt, used: UsedBudget): Promise<Ended> {
  const { claimed, fold } = attempt
  const nextIndex = await attempt.log.flushed()
  const parts = fold.parts()
  const hasBegun = attempt.calls !== null
  // The calls of a step that was kept have their results, and nothing says its end.
  const step = attempt.stepIsKept ? attempt.step + 1 : attempt.step
  const stored = hasBegun ? checkpointOf(attempt, { step, nextIndex, parts, isOpen: false }) : leftByClaim(claimed)
  return await storeWait(options, attempt, {
    nextIndex,
    checkpoint: used.budget === 'progress' ? null : stored,
    shown: closeParts(parts, { toolErrorText: cutOffText }),
    asks: [
      {
        kind: 'budget',
        id: `budget-${claimed.turnId}-${claimed.attempt}`,
        callId: '',
        inputHash: '',
        used: used.used,
        max: used.max,
        ...(used.budget === 'limit' ? { name: used.rule.id, rule: used.rule } : { name: used.budget }),
      },
    ],
  })
}

async function storeWait(
  options: AttemptOptions,
  attempt: Attempt,
  asks: Omit<Waiting, 'model' | 'expiresMs' | 'holdsLane'>,
): Promise<Ended> {
  const { claimed, model } = attempt
  const asked = { ...asks, model, expiresMs: options.approvalExpiresMs, holdsLane: options.waitHoldsLane }
  await point('wait.send')
  const ended = await answered(options, attempt, () =>
    waitIfHeld(options.database, claimed, asked, attempt.ledger.atEnd({ mayHaveGoneOn: attempt.cutLate })),
  )
  await point('wait.answered')
  return ended.outcome === 'mismatch' ? await failMismatched(options, attempt) : ended
}

async function failMismatched(options: AttemptOptions, attempt: Attempt): Promise<Ended> {
  const { turnId, attempt: number } = attempt.claimed
  options.log('the log does not hold what was sent', { turnId, attempt: number })
  return await fail(options, attempt, failureOf('internal'))
}

async function afterFailure(options: AttemptOptions, attempt: Attempt, error: ReplyError): Promise<Ended> {
  const { claimed } = attempt
  if (error instanceof BudgetUsedUp && asksBeyondBudget(options, attempt, error.used))
    return await waitForBudget(options, attempt, error.used)
  const { code, cause } = error
  // Not of what was classified: providers repeat the prompt in their errors, also in what ought to be a code.
  const detail = cause === undefined ? { detail: error.message } : {}
  options.log('attempt failed', { turnId: claimed.turnId, attempt: claimed.attempt, code, ...detail })
  const next = afterError(error, claimed.failures, options.retry, options.random())
  if ('failure' in next) {
    const used = asksBeyondBudget(options, attempt) ? withoutProgress(options, attempt, next.failure) : null
    if (used !== null) return await waitForBudget(options, attempt, used)
    return await fail(options, attempt, inWordsOf(error, next.failure))
  }
  return await requeue(options, attempt, { reason: 'error', code: error.code, retryMs: next.retryMs })
}

/** Of a budget of the app's: what was reached, and when it is renewed. */
function inWordsOf(error: ReplyError, failure: Failure): Failure {
  if (!(error instanceof BudgetUsedUp) || error.used.budget !== 'limit') return failure
  return { ...failure, error: spendSentence({ ...error.used, mayGoOn: 'nobody' }) }
}

async function requeue(options: AttemptOptions, attempt: Attempt, why: RequeueReason): Promise<Ended> {
  await point('requeue.send')
  const ended = await answered(options, attempt, () =>
    requeueIfHeld(options.database, attempt.claimed, why, usageOfBroken(attempt, why.code)),
  )
  await point('requeue.answered')
  return ended
}

async function fail(options: AttemptOptions, attempt: Attempt, failure: Failure): Promise<Ended> {
  const { claimed, fold, model } = attempt
  const parts = closeParts(fold.parts(), { toolErrorText })
  const reply = { parts, metadata: fold.metadata(), model }
  const failing = failingOf(failure, options.roundsMax)
  await point('fail.send')
  const ended = await answered(options, attempt, () =>
    failIfHeld(options.database, claimed, failing, reply, usageOfBroken(attempt, failure.code)),
  )
  await point('fail.answered')
  return ended
}

/**
 * Asks until there is an answer. An outcome with this attempt's number is this attempt's, so asking again with the
 * same arguments is safe when it is unknown what became of the last time. A provider that was told to stop may report a
 * moment later: each time as much goes along as is known then. Reported is only what went along the first time: that may
 * have been carried out, and then the next ones change nothing. (A row that is there already stays as it is.)
 */
async function answered(options: AttemptOptions, attempt: Attempt, ask: () => Promise<Ended>): Promise<Ended> {
  attempt.reported = attempt.usage.length
  const ended = await askAgain(ask).catch((error: unknown) => {
    if (error instanceof DatabaseError && error.kind === 'bad_data') return failUnstorable(options, attempt)
    throw error
  })
  if (ended.outcome === 'lost') options.onRefused(attempt.claimed, 'end')
  return ended
}

/** The folded message cannot be stored: the turn fails without it, alone. */
function failUnstorable({ database, log, roundsMax }: AttemptOptions, attempt: Attempt): Promise<Ended> {
  const { claimed } = attempt
  log('the reply cannot be stored', { turnId: claimed.turnId, attempt: claimed.attempt })
  const empty = { parts: [], metadata: null, model: null }
  const failing = failingOf(failureOf('internal'), roundsMax)
  return askAgain(() => failIfHeld(database, claimed, failing, empty, usageOfBroken(attempt, null)))
}

/**
 * Of an attempt that did not come to its end the model may have been called once more than is known. Not while calls of a step
 * that was kept were running, and not where a budget has cut it off in time.
 */
function usageOfBroken({ ledger, stepIsKept, fold, cutLate }: Attempt, code: string | null): StepReport[] {
  const mayHaveGoneOn = (code !== 'budget_exceeded' || cutLate) && !(stepIsKept && !hasAllResults(fold.parts()))
  return ledger.atEnd({ mayHaveGoneOn, isRefused: refusals.has(code) })
}

/** A provider takes no money for what it did not begin to write, and of these nothing has come. */
const refusals: ReadonlySet<string | null> = new Set<TurnCode | null>([
  'provider_rate_limited',
  'provider_overloaded',
  'provider_unreachable',
  'provider_rejected',
  'provider_auth',
  'context_too_long',
])
