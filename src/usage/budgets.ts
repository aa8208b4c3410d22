/** What tokens and money may be spent in a turn, a session, by a user or a tenant: as an app sets it, and for whom it holds. */
import type { SpendRule } from '../core/asks.ts'
import type { Spending } from '../store/budgets.ts'

export type SpendBudget = {
  /** Of which all that is spent is added up. The turn: over all its rounds. */
  per: SpendRule['per']
  /**
   * In each hour, day or month, in UTC. Needed for a user and a tenant, not for a turn; a session's without it is of its whole
   * life.
   */
  every?: 'hour' | 'day' | 'month'
  /** Input and output together. 1–1,000,000,000,000. */
  tokens?: number
  /** By the option `prices`, in its currency; what has no price is not counted. More than 0, up to 1,000,000,000. */
  cost?: number
  /**
   * Who may let a reply go on when it is used up: `member` (whoever may write in the session), `owner` (of the session), `server`
   * (`chat.approve` without a `userId`), or `nobody`: then it fails, and further messages are refused until it is renewed.
   * Defaults to `member` for a turn, `owner` for a session, and `server` for a user and a tenant.
   */
  mayGoOn?: SpendRule['mayGoOn']
}

/** Without the id of what it is of. */
export type ResolvedBudget = Omit<Spending, 'key'>

const mayGoOnBy = { turn: 'member', session: 'owner', user: 'server', tenant: 'server' } as const
const pers = Object.keys(mayGoOnBy)
const periods = ['hour', 'day', 'month']
const answerers = ['member', 'owner', 'server', 'nobody']
const fields = ['per', 'every', 'tokens', 'cost', 'mayGoOn']
const budgetsMax = 20
const bounds = { tokens: 1e12, cost: 1e9 }

/** `refuse` throws what is wrong. */
export function resolveBudgets(name: string, given: unknown, refuse: (sentence: string) => never): ResolvedBudget[] {
  if (!Array.isArray(given) || given.length > budgetsMax) {
    return refuse(`${name}: expected an array of at most ${budgetsMax} budgets.`)
  }
  const resolved = given.flatMap((budget, at) => resolveBudget(`${name}[${at}]`, budget, refuse))
  const ids = resolved.map(({ id }) => id)
  const twice = ids.find((id, at) => ids.indexOf(id) !== at)
  return twice === undefined ? resolved : refuse(`${name}: there are two of ${twice}.`)
}

function resolveBudget(name: string, given: SpendBudget, refuse: (sentence: string) => never): ResolvedBudget[] {
  if (typeof given !== 'object' || given === null)
    return refuse(`${name}: expected { per, every?, tokens?, cost?, mayGoOn? }.`)
  const unknown = Object.keys(given).find((field) => !fields.includes(field))
  if (unknown !== undefined) return refuse(`${name}.${unknown}: a budget has no such field. See docs/limits.md.`)
  const oneOf = (field: keyof SpendBudget, allowed: readonly string[]) => {
    if (!allowed.includes(given[field] as string)) {
      refuse(`${name}.${field}: expected one of ${allowed.join(', ')}, got ${String(given[field])}.`)
    }
  }
  oneOf('per', pers)
  const { per, every = null, tokens, cost, mayGoOn = mayGoOnBy[per] } = given
  if (per === 'user' || per === 'tenant' || every !== null) oneOf('every', periods)
  if (per === 'turn' && every !== null) return refuse(`${name}.every: a turn's budget has no period.`)
  if (given.mayGoOn !== undefined) oneOf('mayGoOn', answerers)
  if (tokens === undefined && cost === undefined) return refuse(`${name}: expected "tokens", "cost" or both.`)
  const of = (measure: 'tokens' | 'cost', max: number | undefined): ResolvedBudget[] => {
    if (max === undefined) return []
    const isRight = measure === 'tokens' ? Number.isInteger(max) : Number.isFinite(max)
    if (!isRight || max <= 0 || max > bounds[measure]) {
      const number = measure === 'tokens' ? 'a whole number' : 'a number'
      return refuse(`${name}.${measure}: expected ${number} above 0, up to ${bounds[measure]}, got ${String(max)}.`)
    }
    return [
      { id: ['limit', per, ...(every === null ? [] : [every]), measure].join('-'), per, every, measure, mayGoOn, max },
    ]
  }
  return [...of('tokens', tokens), ...of('cost', cost)]
}

/** For whom and what a turn is. Before there is one, its own budget cannot be used up. */
export function spendingsOf(
  budgets: readonly ResolvedBudget[],
  keys: { tenantId: string; userId: string; sessionId: string; turnId?: string },
): Spending[] {
  const keyOf = { turn: keys.turnId, session: keys.sessionId, user: keys.userId, tenant: keys.tenantId }
  return budgets.flatMap((budget) => {
    const key = keyOf[budget.per]
    return key === undefined ? [] : [{ ...budget, key }]
  })
}
