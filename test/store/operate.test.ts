/** What an operator's commands find: of the right age, page by page, in an order that makes nothing begin. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { failedTurns, queuedTurns, type TurnOfMessage } from '../../src/store/operate.ts'
import { openStored, type Stored } from '../support/stored.ts'

let stored: Stored
beforeAll(async () => {
  stored = await openStored(18)
})
afterAll(() => stored.close())

const count = 2_300

/** Turns of one session, whose messages are `m1`, `m2`…, in this state for as many seconds as their number says. */
async function fill(session: string, state: 'queued' | 'failed'): Promise<void> {
  await stored.query(
    `insert into holdfast.turns (tenant_id, id, session_id, message_id, reply_id, user_id, position, state, updated_at)
     select 'default', gen_random_uuid(), $1, 'm' || n, 'r' || n, 'ann', n, $2, now() - make_interval(secs => n)
     from generate_series(1, ${count}) n`,
    [session, state],
  )
  await stored.query(
    `insert into holdfast.messages (tenant_id, session_id, id, seq, position, role, author, parts, status, turn_id, parent,
       error)
     select tenant_id, session_id, message_id, position, position, 'user', user_id, '[]'::jsonb, 'complete', id, '',
       '{"canRetry": true}'::jsonb from holdfast.turns where session_id = $1
     union all
     select tenant_id, session_id, reply_id, position, position, 'assistant', null, '[]', 'failed', id, message_id, null
       from holdfast.turns where session_id = $1`,
    [session],
  )
}

async function all(pages: AsyncIterable<TurnOfMessage[]>): Promise<{ numbers: number[]; pages: number }> {
  const numbers: number[] = []
  let read = 0
  for await (const page of pages) {
    read++
    numbers.push(...page.map(({ messageId }) => Number(messageId.slice(1))))
  }
  return { numbers, pages: read }
}

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, at) => from + at)

test('queued turns come last first, each once, and only those that have waited for so long', async () => {
  await fill('queued', 'queued')
  const found = await all(queuedTurns(stored.open(), 100))
  expect(found.numbers).toEqual(range(100, count).reverse().slice(0, found.numbers.length))
  // Those of about 100 s are of either side by now.
  expect(found.numbers.length).toBeGreaterThanOrEqual(count - 100)
  expect(found.pages).toBe(3)
})

test('failed turns come oldest first, each once, and only those that failed since; none that fails meanwhile', async () => {
  await fill('failed', 'failed')
  const numbers: number[] = []
  for await (const page of failedTurns(stored.open(), 2_000)) {
    numbers.push(...page.map(({ messageId }) => Number(messageId.slice(1))))
    // As if they were tried again, and had failed again.
    await stored.query(
      `update holdfast.turns set updated_at = clock_timestamp() where session_id = 'failed'
      and message_id = any($1)`,
      [page.map(({ messageId }) => messageId)],
    )
  }
  expect(numbers.slice(-1_900)).toEqual(range(1, 1_900).reverse())
  expect(numbers.length).toBeLessThan(2_000)
})
