import { describe, expect, test } from 'vitest'
import type { Event } from '../../src/core/event.ts'
import { type AttemptKey, type Ended, failIfHeld, requeueIfHeld, type StopAnswer, stop } from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { disorder, openStored, type Stored, sessionsOf, userId } from '../support/stored.ts'
import { acceptTurns, claimAll, crashed, finish, partsOf, writeText } from './held.ts'

/**
 * The naive pair reads "running, no outcome yet" and then writes, each in its own statement: both win. And with the
 * rows locked in opposite orders (turn, then session) they deadlocked at the first try.
 */
const pairs = 500
const nextIndex = 3

describe.each(postgresVersions)('finish against stop on PostgreSQL %i', (version) => {
  test('exactly one outcome is stored, and the loser is told which (I2, I11)', async () => {
    const stored = await openStored(version)
    try {
      await provoke(stored)
    } finally {
      await stored.close()
    }
  })
})

async function provoke(stored: Stored): Promise<void> {
  const [runner, stopper] = [stored.open(), stored.open()]
  const sessions = await sessionsOf(runner, pairs)
  await acceptTurns(runner, sessions)
  const won = { finish: 0, stop: 0 }
  for (let done = 0; done < pairs; ) {
    const { claimed } = await claimAll(runner, 'a', { limit: 50 })
    for (const key of claimed) await writeText(runner, key, nextIndex)
    for (const key of claimed) {
      won[await race(stored, runner, stopper, key, done++ % 2 === 0)]++
    }
  }
  expect(won.finish + won.stop).toBe(pairs)
  expect(Math.min(won.finish, won.stop)).toBeGreaterThanOrEqual(50)
  expect(await outcomesPerTurn(stored)).toEqual([{ outcomes: 1, turns: pairs }])
  expect(await disorder(stored)).toEqual([])
}

type Ask = { finish(): Promise<Ended>; stop(): Promise<StopAnswer> }

async function race(
  stored: Stored,
  runner: ReturnType<Stored['open']>,
  stopper: ReturnType<Stored['open']>,
  key: AttemptKey,
  finishFirst: boolean,
): Promise<'finish' | 'stop'> {
  const folded = { isOpen: true, nextIndex, parts: partsOf(key.attempt, nextIndex), metadata: null, preview: null }
  const ask: Ask = {
    finish: () => finish(runner, key, nextIndex),
    stop: () => stop(stopper, key, folded, { by: userId, reason: null, lastTry: false, userId: null, round: 1 }),
  }
  const first = finishFirst ? ask.finish() : ask.stop()
  const second = finishFirst ? ask.stop() : ask.finish()
  const answers = await Promise.all([first, second])
  const [finished, stopped] = (finishFirst ? answers : answers.toReversed()) as [Ended, StopAnswer]
  return await judge(stored, runner, ask, key, finished, stopped)
}

async function judge(
  stored: Stored,
  runner: ReturnType<Stored['open']>,
  ask: Ask,
  key: AttemptKey,
  finished: Ended,
  stopped: StopAnswer,
): Promise<'finish' | 'stop'> {
  if (finished.outcome === 'stored') {
    expect(stopped).toEqual({ outcome: 'late', event: finished.event })
    expect(finished.event.type).toBe('message.ai_response')
    // Both answers may have been lost: asked again, they are the same.
    expect(await ask.finish()).toEqual(finished)
    expect(await ask.stop()).toEqual(stopped)
    return 'finish'
  }
  expect(finished).toEqual({ outcome: 'lost' })
  expect(stopped.outcome).toBe('stopped')
  const { event } = stopped as { event: Event }
  expect(event.type).toBe('message.stopped')
  expect(await ask.finish()).toEqual({ outcome: 'lost' })
  expect(await ask.stop()).toEqual({ outcome: 'late', event })
  // No other end of the attempt may follow either.
  expect(await failIfHeld(runner, key, crashed, { parts: [], metadata: null, model: null }, [])).toEqual({
    outcome: 'lost',
  })
  expect(await requeueIfHeld(runner, key, { reason: 'handover', code: null, retryMs: 0 }, [])).toEqual({
    outcome: 'lost',
  })
  const [row] = await stored.query<{ parts: unknown }>(
    'select m.parts from holdfast.messages m join holdfast.turns t on t.reply_id = m.id where t.id = $1',
    [key.turnId],
  )
  expect(row!.parts).toEqual(JSON.parse(event.json).message.parts)
  return 'stop'
}

function outcomesPerTurn({ query }: Stored): Promise<unknown[]> {
  return query(`
    select outcomes, count(*)::int as turns from (
      select count(*)::int as outcomes from holdfast.events
       where type in ('message.ai_response', 'message.error', 'message.stopped') group by turn_id) o
     group by outcomes`)
}
