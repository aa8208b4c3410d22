/** Budgets of the option `limits`: what the ledger says of them, and what a step holds back (sql/0014). */
import type { SpendRule } from '../core/asks.ts'
import type { Database, Statement } from './database.ts'
import { type AttemptKey, type BadRow, type ExpiredRow, expiredRows } from './turns.ts'

/** `key`: the id of what it is of. `max`: whole tokens, or cost in the app's currency. */
export type Spending = Omit<SpendRule, 'renewsAt'> & { id: string; key: string; max: number }
/** As it stands with a question about it. */
export type Rule = Spending & { renewsAt: string | null }
/** `freeInMs`: until it is renewed; null: it is not. */
export type UsedUp = Rule & { used: number; freeInMs: number | null }

const reserveStatement: Statement = {
  name: 'reserve',
  text: 'select holdfast.reserve($1, $2, $3, $4, $5, $6, $7::jsonb) as answer',
}

export type Reserved =
  /** `left`: to this step and those after it, when it was asked. */
  | { outcome: 'reserved'; budgets: { left: number; budget: UsedUp }[] }
  | { outcome: 'over'; budget: UsedUp }
  | { outcome: 'lost' }

/** Before the `step`-th call of the model in this attempt, which is thought to use so many tokens. May be asked again. */
export async function reserveIfHeld(
  database: Database,
  { tenantId, sessionId, turnId, attempt }: AttemptKey,
  ask: { step: number; tokens: number; budgets: readonly Spending[] },
): Promise<Reserved> {
  const values = [tenantId, sessionId, turnId, attempt, ask.step, ask.tokens, JSON.stringify(ask.budgets)]
  return (await database.query<{ answer: Reserved }>('turns', reserveStatement, values))[0]!.answer
}

const renewStatement: Statement = { name: 'renew-budgets', text: 'select holdfast.renew_budgets($1) as row' }

/** Lets go on what waits for a budget that has room again. */
export async function renewBudgets(
  database: Database,
  limit: number,
  onBad?: (bad: BadRow) => void,
): Promise<ExpiredRow[]> {
  return expiredRows(await database.query('turns', renewStatement, [limit]), onBad)
}
