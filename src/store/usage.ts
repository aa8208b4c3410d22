/** The ledger beside the transitions of a turn, which write it themselves (turns.ts). */
import type { StepUsage } from '../core/message.ts'
import type { Database, Statement } from './database.ts'

export type UnpricedStep = { tenantId: string; turnId: string; attempt: number; step: number; usage: StepUsage }

const readUnpriced: Statement = {
  name: 'read-unpriced',
  text: `select tenant_id as "tenantId", turn_id as "turnId", attempt, step, json_strip_nulls(json_build_object('provider', provider,
      'model', model, 'inputTokens', input_tokens, 'outputTokens', output_tokens)) as usage
    from holdfast.usage where needs_price order by ended_at limit $1`,
}

/** Steps that were estimated where the app's prices were not at hand. */
export function unpricedSteps(database: Database, limit: number): Promise<UnpricedStep[]> {
  return database.query('read', readUnpriced, [limit])
}

const priceUsage: Statement = { name: 'price-usage', text: 'select holdfast.price_usage($1::json)' }

/** `cost`: null where the app knows no price. */
export async function priceSteps(
  database: Database,
  steps: (Omit<UnpricedStep, 'usage'> & { cost: string | null })[],
): Promise<void> {
  await database.query('turns', priceUsage, [JSON.stringify(steps)])
}
