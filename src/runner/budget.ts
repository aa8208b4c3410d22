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
import type { Checkpoint, Claimed } from '../store/turns.ts'
import { type Attempt, type AttemptOptions, tokensOf } from './attempt.ts'

export class BudgetUsedUp extends ReplyError {
  readonly used: Budget
  constructor(used: Budget) {
    super('budget_exceeded', `${used.used} ${used.budget}, of ${used.max}`)
    this.used = used
  }
}

/** Whether a person is asked where a budget is used up: a round may be let go on as often as a turn may have rounds. */
export function asksBeyondBudget(
  { onBudget, roundsMax }: Pick<AttemptOptions, 'onBudget' | 'roundsMax'>,
  { claimed }: Attempt,
): boolean {
  return onBudget === 'ask' && claimed.letGoOn < roundsMax
}

type Budgets = Pick<AttemptOptions, 'stepsMax' | 'tokensMax' | 'onBudget' | 'roundsMax'>

/** The budget that is used up after so many finished steps of the round; null: none is. */
export function usedUp({ stepsMax, tokensMax }: Budgets, attempt: Attempt, step = attempt.step): BudgetUsedUp | null {
  const steps = step - attempt.claimed.stepsFrom
  if (steps >= stepsMax) return new BudgetUsedUp({ budget: 'steps', used: steps, max: stepsMax })
  const tokens = tokensOf(attempt)
  if (tokensMax > 0 && tokens >= tokensMax) return new BudgetUsedUp({ budget: 'tokens', used: tokens, max: tokensMax })
  return null
}

/** The same where the attempt begins, and has no call to run before it asks the model. */
export function usedUpAtClaim(options: Budgets, attempt: Attempt): BudgetUsedUp | null {
  const { checkpoint } = attempt.claimed
  if (checkpoint?.isOpen && callsWithoutResult(lastStep(checkpoint.parts)).some(isToRun)) return null
  return usedUp(options, attempt, checkpoint?.isOpen ? attempt.step + 1 : attempt.step)
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
  return used !== null && hasAllResults(attempt.fold.parts()) ? used : null
}

/** The last attempt that an error may end made no progress. */
export function withoutProgress(
  { retry }: Pick<AttemptOptions, 'retry'>,
  { claimed }: Attempt,
  { code }: Failure,
): Budget | null {
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
