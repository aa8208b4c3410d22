/** What one user may do: what an app may set, and what holds for whom. */
import { type ResolvedBudget, resolveBudgets, type SpendBudget } from './budgets.ts'

export type Limits = {
  /**
   * How many messages a user may send within any minute, over all sessions and processes; more are refused with 429. A
   * repeated send of a stored message does not count. 0–1,000; 0: no limit. Defaults to 30.
   */
  sendsPerMinute?: number
  /**
   * How many of the turns that a user has asked for may be without an outcome at a time (queued, running, waiting), over all
   * sessions and processes. 0–10,000; 0: no limit. Defaults to 0: with a limit the user's messages are accepted one at a time.
   */
  openTurns?: number
  /**
   * How many connections on which sessions are followed (sockets, event streams, long polls) a user may have open at a time,
   * in each process. 1–10,000. Defaults to 256. Of sockets there are 64 at most.
   */
  connections?: number
  /** How many sessions a user may follow at a time on all of these together, in each process. 1–100,000. Defaults to 5,000. */
  follows?: number
  /**
   * How many bytes of logs a user may be sent within a minute to catch up, in each process; what is told live does not count. One
   * that has begun is sent whole. 0, or 1,048,576–1,099,511,627,776; 0: no limit. Defaults to 268,435,456 (256 MB).
   */
  resumeBytesPerMinute?: number
  /** What may be spent; see `SpendBudget`. At most 20. Defaults to none. */
  budgets?: readonly SpendBudget[]
}

/** As an app writes them down: for everybody, and what is otherwise for who has a plan (`plan` of their principal). */
export type LimitsByPlan = Limits & { plans?: { readonly [plan: string]: Limits } }

/** Whose limits are asked for. `plan`: as `authenticate` or the token's claim `plan` has it. */
export type LimitsAsk = { user: { id: string }; tenant: { id: string }; plan: string | undefined }

/**
 * The app's own word on what this user may do. Called with every send, connection, follow and call of the model, which wait
 * for it, so it should not take long. Where it throws, or answers what is no such object, nothing is done: 500, `internal`, and a line in the log
 * says why.
 */
export type LimitsOf = (ask: LimitsAsk) => Limits | Promise<Limits>

/** `tellsPlan`: the plan of who asks for a turn is to be known where it runs, because somebody has budgets. */
export type ResolvedLimits = Readonly<Required<Omit<Limits, 'budgets'>>> & {
  readonly budgets: readonly ResolvedBudget[]
  readonly tellsPlan: boolean
}
export type Whose = { tenantId: string; userId: string; plan?: string | undefined }
export type LimitsFor = (whose: Whose) => Promise<ResolvedLimits>

type Bounds = { min: number; max: number; default: number; mayBeNone?: true }

export const limitBounds = {
  sendsPerMinute: { min: 0, max: 1_000, default: 30 },
  openTurns: { min: 0, max: 10_000, default: 0 },
  connections: { min: 1, max: 10_000, default: 256 },
  follows: { min: 1, max: 100_000, default: 5_000 },
  resumeBytesPerMinute: { min: 2 ** 20, max: 2 ** 40, default: 256 * 2 ** 20, mayBeNone: true },
} as const satisfies { [key in Exclude<keyof Limits, 'budgets'>]-?: Bounds }

/** Says what is wrong by throwing it. */
export type Refuse = (sentence: string) => never

/** What holds for whom, by what the app has set. An object is checked now, what a function answers each time. */
export function limitsFor(option: LimitsByPlan | LimitsOf, refuse: Refuse): LimitsFor {
  if (typeof option === 'function') {
    return async ({ tenantId, userId, plan }) => ({
      ...resolved('limits', await option({ user: { id: userId }, tenant: { id: tenantId }, plan }), refuse),
      tellsPlan: true,
    })
  }
  mustBeObject('limits', option, refuse)
  const { plans = {}, ...all } = option
  mustBeObject('limits.plans', plans, refuse)
  const usual = resolved('limits', all, refuse)
  const byPlan = new Map(
    Object.entries(plans).map(([plan, own]) => {
      const name = `limits.plans["${plan}"]`
      mustBeObject(name, own, refuse)
      return [plan, resolved(name, { ...all, ...own }, refuse)]
    }),
  )
  const tellsPlan = [usual, ...byPlan.values()].some(({ budgets }) => budgets.length > 0)
  return async ({ plan }) => ({ ...((plan !== undefined && byPlan.get(plan)) || usual), tellsPlan })
}

function resolved(name: string, given: Limits, refuse: Refuse): Omit<ResolvedLimits, 'tellsPlan'> {
  mustBeObject(name, given, refuse)
  for (const key of Object.keys(given)) {
    if (key !== 'budgets' && !Object.hasOwn(limitBounds, key))
      refuse(`${name}.${key}: there is no such limit. See docs/limits.md.`)
  }
  const number = (key: keyof typeof limitBounds) => {
    const { min, max, default: usual, mayBeNone }: Bounds = limitBounds[key]
    const value = given[key] ?? usual
    if (mayBeNone && value === 0) return 0
    if (Number.isInteger(value) && value >= min && value <= max) return value
    const none = mayBeNone ? '0, or ' : ''
    return refuse(`${name}.${key}: expected ${none}a whole number from ${min} to ${max}, got ${String(value)}.`)
  }
  return {
    sendsPerMinute: number('sendsPerMinute'),
    openTurns: number('openTurns'),
    connections: number('connections'),
    follows: number('follows'),
    resumeBytesPerMinute: number('resumeBytesPerMinute'),
    budgets: resolveBudgets(`${name}.budgets`, given.budgets ?? [], refuse),
  }
}

function mustBeObject(name: string, given: unknown, refuse: Refuse): void {
  const isObject = typeof given === 'object' && given !== null && !Array.isArray(given)
  if (!isObject) refuse(`${name}: expected an object of limits, got ${given === null ? 'null' : typeof given}.`)
}
