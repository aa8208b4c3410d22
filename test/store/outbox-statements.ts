/** The statements of the outbox, each sent once, and rows for them as many as there may be. */
import type { Database } from '../../src/store/database.ts'
import {
  addToOutbox,
  disabledWhy,
  disableWebhook,
  endOutbox,
  eventOfWebhook,
  firstKey,
  renewOutbox,
  repairOutbox,
  sweepOutbox,
  takeOutbox,
  webhookSeen,
} from '../../src/store/outbox.ts'
import { listOutbox, readOutbox } from '../../src/store/outbox-list.ts'
import type { Stored } from '../support/stored.ts'

/** In sessions that are there: an event that was sent, or waits, or waits behind another. */
export async function fillOutbox({ query }: Stored): Promise<void> {
  await query(`insert into holdfast.outbox (tenant_id, topic, id, key, payload, session_id, state, due_at, gone_at)
    select tenant_id, 'webhook:w', id, id, '1', id, case when id like '%0' then 'due' else 'done' end,
      case when id like '%10' then now() + interval '1 day' end, case when id not like '%0' then now() + interval '1 day' end
    from holdfast.sessions`)
}

export async function sendOutboxStatements(
  database: Database,
  session: { tenantId: string; sessionId: string },
): Promise<void> {
  await webhookSeen(database, 'another', ['none'])
  await disabledWhy(database, 'another')
  await disableWebhook(database, 'another', 'of this test')
  await addToOutbox(database, { tenantId: 'default', topic: 't', payload: '1', key: 'k', id: 'i', delayMs: 0 })
  const ask = { topics: ['t', 'webhook:w'], limits: [10, 10], leaseMs: 60_000 }
  const [taken] = (await takeOutbox(database, ask)).taken
  if (taken === undefined) throw new Error('nothing was taken')
  await renewOutbox(database, [taken], 60_000)
  await eventOfWebhook(database, { ...session, seq: 1 })
  await endOutbox(database, taken, { state: 'done' })
  await sweepOutbox(database, 100)
  await repairOutbox(database, firstKey, 100)
  await readOutbox(database, taken.n)
  for (const state of ['dead', null] as const) {
    await listOutbox(database, { state, topic: null, before: null, limit: 50 })
  }
}

/** One that runs, one behind it, one that is dead: for the functions. Answers their numbers. */
export async function outboxRows({ query }: Stored): Promise<number[]> {
  const rows = await query<{
    n: number
  }>(`insert into holdfast.outbox (topic, id, key, payload, state, attempt, due_at) values
    ('q', 'runs', 'k', '1', 'running', 1, now()), ('q', 'behind', 'k', '1', 'due', 0, null), ('q', 'dead', 'k', '1', 'dead', 1, null)
    returning n`)
  return rows.map(({ n }) => n)
}
