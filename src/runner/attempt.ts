/** An attempt as the value that its steps work on (attempt-run.ts, attempt-end.ts), and what they may use. */
import { type Ask, asksOf, toolNameOf } from '../core/asks.ts'
import type { RetryPolicy } from '../core/backoff.ts'
import type { Chunk, Part } from '../core/chunk.ts'
import { type Cleaner, createCleaner } from '../core/clean.ts'
import type { ReplyError } from '../core/errors.ts'
import type { Event } from '../core/event.ts'
import { createFold, type Fold } from '../core/fold.ts'
import { isCall, lastStep } from '../core/open-step.ts'
import type { Appender, AttemptLog } from '../log/append.ts'
import type { Asked, OnReply } from '../reply/finished.ts'
import type { Reply } from '../reply/reply.ts'
import type { CallStore } from '../reply/tools.ts'
import type { OnUncertain } from '../reply/uncertain.ts'
import type { Spending, UsedUp } from '../store/budgets.ts'
import type { Database } from '../store/database.ts'
import type { Checkpoint, Claimed, StepReport } from '../store/turns.ts'
import { type AttemptLedger, createAttemptLedger, type PriceOf } from '../usage/ledger.ts'

export type AttemptOptions = {
  database: Database
  appender: Appender
  reply: Reply
  priceOf: PriceOf
  /** Looked up for each reply, because a reloaded module's is used. */
  onReply: () => OnReply | undefined
  onUncertain: () => OnUncertain | undefined
  onReplyMs: number
  noProgressMs: number
  stepsMax: number
  /** 0: there is none. */
  tokensMax: number
  onBudget: 'ask' | 'fail'
  /** Those of the option `limits` that hold for this turn. */
  budgetsOf: (claimed: Claimed) => Promise<Spending[]>
  replyBytesMax: number
  leaseMs: number
  /** Questions that nobody has answered for so long are answered by the server. */
  approvalExpiresMs: number
  /** Whether those behind a turn that waits for people wait with it. */
  waitHoldsLane: boolean
  retry: RetryPolicy
  roundsMax: number
  random: () => number
  log: (line: string, detail: object) => void
  /** Called when a write of an attempt that has lost its turn touched no row (I3). */
  onRefused: (attempt: { turnId: string; attempt: number }, write: 'end') => void
  /** What an end wrote, to be told to followers; and that the lane may have a new head. */
  onEvent: (session: { tenantId: string; sessionId: string }, event: Event) => void
  /** The attempt has stored its reply as complete, by this event. */
  onComplete: (attempt: Attempt, event: Event) => void
}

/** The attempt's tool calls (tool-calls.ts). */
export type ToolCalls = CallStore & {
  /** To be told of each chunk, in order, once it was taken. */
  taken(chunk: Chunk): void
  /** Whether the app runs this call. Null: the reply was given no such tool. */
  isOurs(toolName: string): boolean | null
  /** Of the step that was written last: whether it is begun, here or in an earlier attempt. */
  hasBegun(callId: string): boolean
  /** Writes of a checkpoint are one after the other, so that no older one is stored over a newer one. */
  inOrder<Answer>(write: () => Promise<Answer>): Promise<Answer>
  /** As the reply stands, with the results that are stored. `stepHasEnded`: it has said the end of the step. */
  checkpointNow(stepHasEnded: boolean, nextIndex: number): Checkpoint
  /** Resolves when it is stored of each call that was about to run whether it does; after a few seconds in any case. */
  decided(): Promise<void>
  /** Resolves when the results of all calls that run are stored; after a few seconds in any case. */
  ended(): Promise<void>
}

export type Attempt = {
  readonly claimed: Claimed
  readonly log: AttemptLog
  readonly fold: Fold
  readonly cleaner: Cleaner
  /** Null before the reply was asked for. */
  asked: Asked | null
  /** Aborted when the process is told to end and has waited: give the turn back, or end it at once. */
  readonly handover: AbortSignal
  /** Tells the reply that the attempt is over. */
  readonly stop: AbortController
  readonly ledger: AttemptLedger
  /** What its provider has reported. */
  readonly usage: readonly StepReport[]
  /** What was left of the app's budgets when it asked last, after so many reports. */
  left: { reports: number; budgets: { left: number; budget: UsedUp }[] } | null
  /** A budget has cut it off when its model may have been called once more. */
  cutLate: boolean
  /** How many of them the attempt's end has surely taken along. */
  reported: number
  /** The model that the provider named last. */
  model: string | null
  /** Steps finished over all attempts of the round. */
  step: number
  /** After how many finished steps, at the latest, each message was handed to this reply, by its id. */
  readonly handedAt: Map<string, number>
  /** A step has ended, and it is not known yet whether another follows. */
  betweenSteps: boolean
  /** The step that is written, or was last, has called a tool. */
  calledTool: boolean
  bytes: number
  over: boolean
  /** The step that the attempt started in is one that it was not the first to write. */
  stepIsKept: boolean
  /** A step has begun, here or in the attempt before, whose end has not come. */
  stepIsOpen: boolean
  /** What the reply said of why it has ended. */
  finishReason: string | undefined
  /** Null before the reply was asked for. */
  calls: ToolCalls | null
}

/** How the pumping of a reply's chunks went. */
export type Went =
  | { how: 'finished' | 'lost' | 'handover' }
  | { how: 'error'; error: ReplyError }
  /** Nobody knows whether these calls of the step that was kept ran, and a person is to say whether they may run again. */
  | { how: 'uncertain'; asks: Ask[] }

export function beginAttempt(
  { appender, priceOf }: AttemptOptions,
  claimed: Claimed,
  claimSentAtMs: number,
  handover: AbortSignal,
): Attempt {
  const ledger = createAttemptLedger(priceOf)
  return {
    claimed,
    log: appender.open(claimed, claimSentAtMs),
    fold: createFold(claimed.checkpoint ?? undefined),
    cleaner: createCleaner(),
    asked: null,
    handover,
    stop: new AbortController(),
    ledger,
    usage: ledger.reports,
    left: null,
    cutLate: false,
    reported: 0,
    model: null,
    step: claimed.checkpoint?.step ?? 0,
    handedAt: new Map(),
    betweenSteps: false,
    calledTool: false,
    bytes: claimed.checkpoint ? JSON.stringify(claimed.checkpoint.parts).length : 0,
    over: false,
    stepIsKept: claimed.checkpoint?.isOpen === true,
    stepIsOpen: claimed.checkpoint?.isOpen === true,
    finishReason: undefined,
    calls: null,
  }
}

/** What a takeover would start from: at the border of two steps, or (`isOpen`) in the middle of one. */
export function checkpointOf(
  attempt: Attempt,
  { step = attempt.step, ...at }: { step?: number; nextIndex: number; parts: Part[]; isOpen: boolean },
): Checkpoint {
  const { claimed, handedAt, fold } = attempt
  const stepsBegun = at.isOpen ? step + 1 : step
  const told = [...handedAt].flatMap(([id, handedAfter]) => (handedAfter < stepsBegun ? [id] : []))
  const forClients = callsForClients(attempt, at.parts, { stepHasEnded: !attempt.stepIsOpen })
  const tokens = tokensOf(attempt)
  return { attempt: claimed.attempt, step, ...at, metadata: fold.metadata(), told, forClients, tokens }
}

/** That the round has reported, since it began or somebody let it use more. */
export function tokensOf({ claimed, usage }: Pick<Attempt, 'claimed' | 'usage'>): number {
  return usage.reduce(
    (sum, { usage: step }) => sum + (step?.inputTokens ?? 0) + (step?.outputTokens ?? 0),
    claimed.tokens,
  )
}

/** What its reply cannot go on without, as it ends. */
export function asksOfEnd(attempt: Attempt, parts: readonly Part[]): Ask[] {
  // It has not begun to write.
  if (attempt.calls === null) return asksOfClaim(attempt.claimed)
  const runsTools = mayHaveRunTools.has(attempt.finishReason)
  const forClients = new Set(runsTools ? callsForClients(attempt, parts, { stepHasEnded: true }) : [])
  return asksOf(parts, (callId) => forClients.has(callId))
}

/** The AI SDK runs no tool of a step that ended for another reason: then nobody knows whose a call without result is. */
const mayHaveRunTools: ReadonlySet<string | undefined> = new Set([undefined, 'stop', 'tool-calls'])

/** What an earlier attempt left unasked, because it did not come to its end: to be asked before the model goes on. */
export function asksOfClaim({ checkpoint }: Claimed): Ask[] {
  if (checkpoint === null) return []
  const forClients = new Set(checkpoint.forClients)
  return asksOf(checkpoint.parts, (callId) => forClients.has(callId))
}

/**
 * Calls of the last step that have no result and are a client's to run: their tools have no `execute`, or (when the step has
 * ended, and what the app runs has its result) are not among those that the reply gave to `tools`. Of those that were not
 * given, what a person is asked about is the reply's own: it asked, and reads the answer.
 */
function callsForClients(
  attempt: Attempt,
  parts: readonly Part[],
  { stepHasEnded }: { stepHasEnded: boolean },
): string[] {
  const kept = new Set(attempt.claimed.checkpoint?.forClients)
  return lastStep(parts).flatMap((part) => {
    if (!isCall(part) || part.providerExecuted === true) return []
    const callId = String(part.toolCallId)
    const isOurs = attempt.calls?.isOurs(toolNameOf(part)) ?? null
    if (isAskedAbout(part)) return isOurs === false || (isOurs === null && kept.has(callId)) ? [callId] : []
    const isForClient = isOurs === null ? stepHasEnded || kept.has(callId) : !isOurs
    return part.state === 'input-available' && isForClient ? [callId] : []
  })
}

const isAskedAbout = ({ state }: Part) => state === 'approval-requested' || state === 'approval-responded'

export function pushChunk(attempt: Attempt, chunk: Chunk): void {
  attempt.fold.push(chunk)
  attempt.log.push(chunk)
  attempt.bytes += bytesOf(chunk)
}

/** The text that a chunk adds; whole chunks where that is not known. */
function bytesOf(chunk: Chunk): number {
  if ('delta' in chunk && typeof chunk.delta === 'string') return Buffer.byteLength(chunk.delta)
  return JSON.stringify(chunk).length
}
