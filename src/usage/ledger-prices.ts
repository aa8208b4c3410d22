/** What steps cost by the app's prices: at once for those whose usage is heard, afterwards for those that were estimated. */
import type { StepUsage } from '../core/message.ts'
import { costOf, type Prices } from '../core/prices.ts'
import type { Database } from '../store/database.ts'
import { priceSteps, unpricedSteps } from '../store/usage.ts'
import type { PriceOf } from './ledger.ts'

/** Prices that throw, or are none, keep no reply from being stored: its cost is not known then, and the log says so. */
export function createPriceOf(prices: () => Prices | undefined, log: (line: string, detail: object) => void): PriceOf {
  return (usage: StepUsage) => {
    try {
      return costOf(prices() ?? {}, usage)
    } catch (error) {
      log('prices: the cost of a step is not known', { model: usage.model, error: String(error) })
      return null
    }
  }
}

/** Gives estimated steps their cost. Resolves to how many there were. */
export async function priceEstimated(database: Database, priceOf: PriceOf, limit: number): Promise<number> {
  const steps = await unpricedSteps(database, limit)
  if (steps.length === 0) return 0
  await priceSteps(
    database,
    steps.map(({ usage, ...place }) => ({ ...place, cost: priceOf(usage) })),
  )
  return steps.length
}
