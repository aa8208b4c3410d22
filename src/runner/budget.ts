/**
 * What a round may use before a person is asked whether it goes on: steps, tokens, attempts that made no progress. Each counts
 * from where the round began, or from where somebody let it go on (`stepsFrom`, `tokens` and `failures` of the claim).
 *
 * Steps and tokens are looked at where the model would be asked again. What has called tools, and has all of their results, is
 * taken to go on: it is cut there, before the model is asked. Anything else shows by its next `start-step`.
 */
import type { Budget } from '../core/asks.ts'
import type { Chunk } from '../core/chunk.ts'
import { type Failure, ReplyError } from '../core/errors.ts'
import { callsWithoutResult, hasAllResults, lastStep } from '../core/open-step.ts'
import { closeParts } from '../core/parts.ts'
import { type Rule, reserveIfHeld, type UsedUp } from '../store/budgets.ts'
import type { Checkpoint, Claimed, StepReport } from '../store/turns.ts'
import { bytesOfPrompt } from '../usage/ledger.ts'
import { askAgain } from './ask-again.ts'
import { type Attempt, type AttemptOptions, tokensOf } from './attempt.ts'

/** With what is stored of one that is the app's. */
export type UsedBudget = Exclude<Budget, { budget: 'limit' }> | (Extract<Budget, { budget: 'limit' }> & { rule: Rule })

export class BudgetUsedUp extends ReplyError {
  readonly used: UsedBudget
  constructor(used: UsedBudget, retryAfterMs?: number) {
    const what = used.budget === 'limit' ? `${used.measure} of the ${used.per}` : used.budget
    super('budget_exceeded', `${used.used} ${what}, of ${used.max}`, retryAfterMs === undefined ? {} : { retryAfterMs })
    this.used = used
  }
}

/** Whether a person is asked where a budget is used up: a round may be let go on as often as a turn may have rounds. */
export function asksBeyondBudget(
  { onBudget, roundsMax }: Pick<AttemptOptions, 'onBudget' | 'roundsMax'>,
  { claimed }: Attempt,
  used?: UsedBudget,
): boolean {
  if (used?.budget === 'limit' && used.mayGoOn === 'nobody') return false
  return onBudget === 'ask' && claimed.letGoOn < roundsMax
}

type Budgets = Pick<AttemptOptions, 'stepsMax' | 'tokensMax' | 'onBudget' | 'roundsMax'>

/** The budget that is used up after so many finished steps of the round; null: none is. */
export function usedUp({ stepsMax, tokensMax }: Budgets, attempt: Attempt, step = attempt.step): BudgetUsedUp | null {
  const steps = step - attempt.claimed.stepsFrom
  if (steps >= stepsMax) return new BudgetUsedUp({ budget: 'steps', used: steps, max: stepsMax })
  const tokens = tokensOf(attempt)
  if (tokensMax > 0 && tokens >= tokensMax) return new BudgetUsedUp({ budget: 'tokens', used: tokens, max: tokensMax })
  return usedUpSince(attempt)
}

/** The same where the attempt begins, and has no call to run before it asks the model. */
export function usedUpAtClaim(options: Budgets, attempt: Attempt): BudgetUsedUp | null {
  const { checkpoint } = attempt.claimed
  if (beginsWithCalls(attempt)) return null
  return usedUp(options, attempt, checkpoint?.isOpen ? attempt.step + 1 : attempt.step)
}

/** It has calls to run before the model is asked. */
export function beginsWithCalls({ claimed: { checkpoint } }: Attempt): boolean {
  return checkpoint?.isOpen === true && callsWithoutResult(lastStep(checkpoint.parts)).some(isToRun)
}

const isToRun = ({ approval }: { [field: string]: unknown }) => (approval as { approved?: unknown })?.approved !== false

/**
 * The same where this chunk, which was taken, was the last that its step's calls brought. Not where nobody is asked: whether
 * the reply goes on is known from its next step, and one that ends here is complete.
 */
export function usedUpByResults(options: Budgets, attempt: Attempt, chunk: Chunk): BudgetUsedUp | null {
  const { stepIsKept } = attempt
  // Of a step that an earlier attempt began nothing says the end.
  const mayEnd = stepIsKept ? chunk.type.startsWith('tool-output-') : chunk.type === 'finish-step'
  if (!mayEnd || !asksBeyondBudget(options, attempt)) return null
  const used = usedUp(options, attempt, stepIsKept ? attempt.step + 1 : attempt.step)
  return used !== null && asksBeyondBudget(options, attempt, used.used) && hasAllResults(attempt.fold.parts())
    ? used
    : null
}

/** The last attempt that an error may end made no progress. */
export function withoutProgress(
  { retry }: Pick<AttemptOptions, 'retry'>,
  { claimed }: Attempt,
  { code }: Failure,
): UsedBudget | null {
  const used = claimed.failures + 1
  return code === 'no_progress' && used >= retry.attemptsMax
    ? { budget: 'progress', used, max: retry.attemptsMax }
    : null
}

/** What a claim that asked nothing of the model leaves: a step that has nothing to run any more is finished. */
export function leftByClaim({ checkpoint }: Claimed): Checkpoint | null {
  if (!checkpoint?.isOpen) return checkpoint
  const parts = closeParts(checkpoint.parts, { toolErrorText: '' })
  return { ...checkpoint, step: checkpoint.step + 1, isOpen: false, parts, forClients: [] }
}

/** What a model writes in one step, where nothing else is known. */
const writtenTokens = 1_000

/**
 * Holds back from the app's budgets what the `step`-th call of the model is thought to use: four bytes of its prompt are taken for
 * a token. Null: it may be called. Where the attempt has lost its turn its log finds out.
 */
export async function reserve(options: AttemptOptions, attempt: Attempt, step: number): Promise<BudgetUsedUp | null> {
  const { claimed, log, asked, bytes, usage } = attempt
  const budgets = await options.budgetsOf(claimed)
  if (budgets.length === 0) return null
  const tokens = Math.ceil((bytesOfPrompt(asked?.messages ?? []) + bytes) / 4) + writtenTokens
  const ask = { step, tokens, budgets }
  const answer = await askAgain(() => reserveIfHeld(options.database, claimed, ask), log.ended)
  if (answer.outcome === 'reserved') attempt.left = { reports: usage.length, budgets: answer.budgets }
  if (answer.outcome !== 'over') return null
  attempt.left = { reports: usage.length, budgets: [{ left: 0, budget: answer.budget }] }
  return usedUpOf(answer.budget)
}

/**
 * Of what was left when it asked last the steps since then have used all. Known at once, where the AI SDK goes on by itself: to
 * ask the database it does not wait.
 */
function usedUpSince({ left, usage }: Attempt): BudgetUsedUp | null {
  if (left === null) return null
  const reports = usage.slice(left.reports)
  for (const each of left.budgets) {
    const { measure, used } = each.budget
    const spent = reports.reduce((sum, report) => sum + (measure === 'tokens' ? tokensIn(report) : costIn(report)), 0)
    if (spent >= each.left) return usedUpOf({ ...each.budget, used: used + spent })
  }
  return null
}

const tokensIn = ({ usage }: StepReport) => (usage?.inputTokens ?? 0) + (usage?.outputTokens ?? 0)
const costIn = (report: StepReport) => Number(('cost' in report && report.cost) || 0)

function usedUpOf({ used, freeInMs, ...rule }: UsedUp): BudgetUsedUp {
  const { per, every, measure, mayGoOn, renewsAt, max } = rule
  return new BudgetUsedUp(
    { budget: 'limit', used, max, per, every, measure, mayGoOn, renewsAt, rule },
    freeInMs ?? undefined,
  )
}
