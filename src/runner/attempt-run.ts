/**
 * One attempt, as a list of small steps over one value: read the prompt, pump the reply's chunks into the log with a
 * checkpoint between steps, then the end that fits how it went. It ends as complete, as failed, queued again, or lost
 * (the turn is not this attempt's any more, which changes nothing but what the ledger hears).
 */
import { point } from '#points'
import type { Chunk } from '../core/chunk.ts'
import { cleanUsage } from '../core/clean.ts'
import { ReplyError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { StepUsage } from '../core/message.ts'
import { withCallsToRun } from '../core/open-step.ts'
import { readReply } from '../reply/chunks.ts'
import { classify } from '../reply/classify.ts'
import type { Asked } from '../reply/finished.ts'
import { replyMessage, type UserOrAssistantMessage } from '../reply/message.ts'
import type { ReplyContext } from '../reply/reply.ts'
import { wrapTools } from '../reply/tools.ts'
import { takeSteeringIfHeld } from '../store/control.ts'
import { type Database, DatabaseError } from '../store/database.ts'
import { promptMessages, promptSession } from '../store/messages.ts'
import { type Checkpoint, type Claimed, checkpointIfHeld } from '../store/turns.ts'
import { bytesOfPrompt, hasNumbers } from '../usage/ledger.ts'
import { askAgain } from './ask-again.ts'
import { type Attempt, type AttemptOptions, asksOfClaim, beginAttempt, pushChunk, type Went } from './attempt.ts'
import { endAttempt, reportLate, wentBy } from './attempt-end.ts'
import { type BudgetUsedUp, beginsWithCalls, reserve, usedUp, usedUpAtClaim, usedUpByResults } from './budget.ts'
import { openPromptFiles, type PromptFiles } from './prompt-files.ts'
import { createToolCalls } from './tool-calls.ts'
import { startWatchdog } from './watchdog.ts'

/** Resolves when the attempt has ended in one way or another; never rejects. `handover` aborted: give the turn back. */
export async function runAttempt(
  options: AttemptOptions,
  claimed: Claimed,
  claimSentAtMs: number,
  handover: AbortSignal,
): Promise<void> {
  const attempt = beginAttempt(options, claimed, claimSentAtMs, handover)
  try {
    const went = await pump(options, attempt)
    // Where the provider failed beside tools that run, what they have done is kept.
    if (went.how === 'error' && !attempt.stop.signal.aborted) await attempt.calls?.ended()
    attempt.stop.abort()
    await attempt.calls?.decided()
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

async function pump(options: AttemptOptions, attempt: Attempt): Promise<Went> {
  const { claimed, log, stop, handover } = attempt
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
    // Nothing runs and no model is asked before they are answered.
    if (asksOfClaim(claimed).length > 0) return { how: 'finished' }
    const used = usedUpAtClaim(options, attempt)
    if (used !== null) return { how: 'error', error: used }
    watchdog.hold()
    const context = await promptOf(options, attempt)
    attempt.calls = createToolCalls({
      database: options.database,
      attempt,
      bytesMax: options.replyBytesMax,
      leaseMs: options.leaseMs,
      onUncertain: options.onUncertain,
      breakOff,
    })
    watchdog.pet()
    if (broken) return broken
    // So late that somebody else may have the turn by now: given back, if it is not.
    if (performance.now() > log.trustedUntilMs()) return { how: 'handover' }
    const { messages } = attempt.asked!
    const over = await reserve(options, attempt, attempt.ledger.nextStep())
    // What it has to run is run first: it is cut off by its results.
    if (over !== null && !beginsWithCalls(attempt)) return broken ?? { how: 'error', error: over }
    watchdog.pet()
    if (broken) return broken
    attempt.ledger.replyAsked(() => bytesOfPrompt(messages), { keepsStep: attempt.stepIsKept, bytes: attempt.bytes })
    await point('attempt.reply')
    await readReply(options.reply, context, (chunks) => {
      if (broken) return null
      watchdog.hold()
      const waits = takeChunks(options, attempt, chunks, breakOff)
      if (waits) return waits.finally(watchdog.pet)
      watchdog.pet()
      return null
    })
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
async function promptOf(options: AttemptOptions, attempt: Attempt): Promise<ReplyContext> {
  const { database } = options
  const { claimed, log, stop } = attempt
  const { tenantId, sessionId, turnId, messageId, replyId, userId, round, lane, checkpoint } = claimed
  const [rows, session] = await Promise.all([
    askAgain(() => promptMessages(database, claimed), log.ended),
    askAgain(() => promptSession(database, tenantId, sessionId), log.ended),
  ])
  const files = openPromptFiles(database, claimed, {
    bytesMax: limits.promptFileBytesMax,
    until: log.ended,
    onLeftOut: (count) => options.log('files left out of a prompt', { turnId, attempt: claimed.attempt, count }),
  })
  const all = await files.give(rows.map(replyMessage))
  const before = all.filter((_, at) => !rows[at]!.steered)
  const message = before.at(-1)
  if (!session || message?.id !== messageId) throw new ReplyError('internal', 'the session was deleted')
  const steered = all.filter((_, at) => rows[at]!.steered)
  const asked = {
    messages: [...before, ...steered],
    message,
    session,
    user: { id: userId, tenantId },
    turn: { id: turnId, round, lane },
    attempt: claimed.attempt,
    replyId,
  }
  attempt.asked = asked
  const told = new Set(checkpoint?.told)
  for (const { id } of steered) attempt.handedAt.set(id, attempt.step - (told.has(id) ? 1 : 0))
  return {
    ...asked,
    messages: [
      ...before,
      ...steered.filter(({ id }) => told.has(id)),
      ...(checkpoint ? [partialReply(replyId, checkpoint)] : []),
      ...steered.filter(({ id }) => !told.has(id)),
    ],
    stepsDone: checkpoint === null ? 0 : checkpoint.step + (checkpoint.isOpen ? 1 : 0),
    signal: stop.signal,
    tools: (set) => wrapTools(set, attempt.calls!),
    steering: () => takeSteering(options, attempt, asked, files),
    usage: (report) => noteUsage(database, attempt, report),
  }
}

function partialReply(id: string, { parts, isOpen, metadata }: Checkpoint): UserOrAssistantMessage {
  return replyMessage({ id, role: 'assistant', parts: isOpen ? withCallsToRun(parts) : parts, metadata })
}

/** Those that the reply has not been given yet. They stand in what it was asked, too: its app is told of the whole. */
async function takeSteering(options: AttemptOptions, attempt: Attempt, asked: Asked, files: PromptFiles) {
  const { claimed, log, handedAt } = attempt
  await point('steer.send')
  const { messages, events } = await askAgain(() => takeSteeringIfHeld(options.database, claimed), log.ended)
  await point('steer.answered')
  for (const event of events) options.onEvent(claimed, event)
  const isFresh = ({ id }: { id: string }) => !handedAt.has(id)
  const given = await files.give(messages.filter(isFresh).map((message) => replyMessage({ role: 'user', ...message })))
  // Asked twice at a time, both were answered with them.
  const fresh = given.filter(isFresh)
  // After the database's answer: the end of a step that came before the question has been taken in meanwhile.
  for (const { id } of fresh) handedAt.set(id, attempt.step)
  asked.messages.push(...fresh)
  return fresh
}

function noteUsage(database: Database, attempt: Attempt, reported: StepUsage): void {
  const usage = cleanUsage(reported)
  const report = attempt.ledger.report(usage)
  attempt.model = usage.model ?? attempt.model
  if (attempt.over && hasNumbers(report)) reportLate(database, attempt, [report]).catch(() => undefined)
}

/**
 * Null where nothing had to be waited for: nearly every token passes without a promise. Else resolves when all are
 * taken: between two steps, and where the log has no room.
 */
function takeChunks(
  options: AttemptOptions,
  attempt: Attempt,
  chunks: Chunk[],
  breakOff: (went: Went) => void,
): Promise<void> | null {
  const rest = async (waits: Promise<void>, first: number) => {
    await waits
    await takeChunks(options, attempt, chunks.slice(first), breakOff)
  }
  /** Nothing more is asked of the reply: what yields its chunks itself is not resumed. */
  const over = (used: BudgetUsedUp | null) => {
    if (used === null) return null
    breakOff({ how: 'error', error: used })
    return new Promise<void>(() => undefined)
  }
  const between = async () => {
    const step = await storeCheckpoint(options.database, attempt)
    const used = await reserve(options, attempt, step)
    // Others have used it up meanwhile.
    attempt.cutLate = used !== null && attempt.calledTool
    await over(used)
  }
  for (const [at, chunk] of chunks.entries()) {
    const endsKept = attempt.stepIsKept && chunk.type === 'start-step'
    if (endsKept) endKeptStep(attempt)
    // Before anything of one step too many is shown.
    const used = chunk.type === 'start-step' ? usedUp(options, attempt) : null
    if (used !== null) {
      // With the results of its tools the AI SDK has asked the model by the time that it says so.
      attempt.cutLate = attempt.calledTool || endsKept
      return over(used)
    }
    if (attempt.betweenSteps && chunk.type !== 'finish') return rest(between(), at)
    takeChunk(options, attempt, chunk)
    const after = over(usedUpByResults(options, attempt, chunk))
    if (after) return after
    if (attempt.betweenSteps && attempt.calledTool) return rest(between(), at + 1)
    const waits = attempt.log.room() ?? point('attempt.chunk')
    if (waits) return rest(waits, at + 1)
  }
  return null
}

/** The step that was kept from an earlier attempt: its calls have their results. The AI SDK says nothing of its end. */
function endKeptStep(attempt: Attempt): void {
  attempt.stepIsKept = false
  attempt.stepIsOpen = false
  attempt.step++
  attempt.betweenSteps = true
}

function takeChunk(options: AttemptOptions, attempt: Attempt, chunk: Chunk): void {
  mustHaveShortIds(chunk)
  attempt.ledger.taken(chunk, { isKept: attempt.stepIsKept, bytes: attempt.bytes })
  for (const clean of attempt.cleaner.clean(chunk)) pushChunk(attempt, clean)
  attempt.calls?.taken(chunk)
  if (chunk.type === 'start-step') {
    attempt.calledTool = false
    attempt.stepIsOpen = true
  }
  if (chunk.type === 'finish') attempt.finishReason = chunk.finishReason
  if (chunk.type === 'tool-input-available') attempt.calledTool = true
  if (chunk.type === 'finish-step') {
    attempt.stepIsKept = false
    attempt.stepIsOpen = false
    attempt.step++
    attempt.betweenSteps = true
  }
  if (attempt.bytes > options.replyBytesMax) {
    throw new ReplyError('budget_exceeded', `more than ${options.replyBytesMax} bytes`)
  }
}

/** Before it is stored anywhere, and before its call begins: that waits for its chunk. */
function mustHaveShortIds(chunk: Chunk): void {
  for (const name of ['toolCallId', 'approvalId']) {
    const id = (chunk as Record<string, unknown>)[name]
    if (typeof id !== 'string' || id.length <= limits.askedIdLengthMax) continue
    const detail = `a ${name} of ${id.length} characters, more than ${limits.askedIdLengthMax}`
    throw new ReplyError('internal', `${detail}. The model's provider, or the reply, has to give shorter ones.`)
  }
}

/**
 * Between two steps, and before anything of the next is shown: a takeover starts from here. Not after the last step,
 * whose outcome follows at once. After one that called a tool another follows, whose first chunk may be long in coming, or
 * never come because the provider fails: its end is stored at once, so that the tool does not run again. Answers which call of
 * the model is the next.
 */
async function storeCheckpoint(database: Database, attempt: Attempt): Promise<number> {
  const { claimed, log } = attempt
  const calls = attempt.calls!
  const { held, nextStep } = await calls.inOrder(async () => {
    const nextIndex = await log.flushed()
    const checkpoint = calls.checkpointNow(true, nextIndex)
    await point('checkpoint.send')
    const nextStep = attempt.ledger.nextStep()
    const usage = attempt.ledger.atCheckpoint()
    const stored = await askAgain(() => checkpointIfHeld(database, claimed, checkpoint, { usage, nextStep }), log.ended)
    await point('checkpoint.answered')
    return { held: stored, nextStep }
  })
  // Not its turn any more, as the log is about to say: nothing more is asked of the model, which nobody would count.
  if (!held) await new Promise<void>((resolve) => whenAborted(log.ended, resolve))
  attempt.betweenSteps = false
  return nextStep
}
