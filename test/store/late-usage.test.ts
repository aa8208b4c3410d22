/** What a provider says of an attempt after its turn has gone on: written beside that attempt, and its reply, alone (I12). */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { failureOf } from '../../src/core/errors.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { retry } from '../../src/store/control.ts'
import type { Database } from '../../src/store/database.ts'
import { type Claimed, failIfHeld, reportUsageOfLost, requeueIfHeld } from '../../src/store/turns.ts'
import { claimOne, finish, partsOf, stopAsk, writeText } from '../races/held.ts'
import { acceptanceOf, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'

let stored: Stored
let database: Database
let made = 0
beforeAll(async () => {
  stored = await openStored(18)
  database = stored.open()
})
afterAll(() => stored.close())

/** A message whose attempt 1 runs and has written two chunks; its reply is `r1`. */
async function begin() {
  const [session] = (await sessionsOf(database, 1, `s${++made}-`)) as [string]
  await createAcceptor(database).accept({ ...acceptanceOf(session, 'm1'), replyId: 'r1' })
  const first = await claimOne(database)
  await writeText(database, first, 2)
  const key = { tenantId, sessionId: session, userId, messageId: 'm1' }
  return {
    session,
    first,
    stop: () => stopTurn(database, stopAsk(session, 'm1')),
    again: () => retry(database, key, { round: null, replyId: 'r2', roundsMax: 9, expiresMs: 1e8, sendsMax: 0 }),
  }
}

const late = (attempt: Claimed, outputTokens: number) =>
  reportUsageOfLost(database, attempt, userId, [{ step: 0, usage: { inputTokens: 3, outputTokens } }])

async function standing({ session, first }: { session: string; first: Claimed }) {
  const replies = await stored.query<{ id: string; tokens: string | null }>(
    `select id, output_tokens as tokens from holdfast.messages where session_id = $1 and role = 'assistant' order by id`,
    [session],
  )
  const rows = await stored.query<{ attempt: number; outcome: string }>(
    'select attempt, outcome from holdfast.usage where turn_id = $1 order by attempt',
    [first.turnId],
  )
  return {
    replies: Object.fromEntries(replies.map(({ id, tokens }) => [id, tokens])),
    ledger: rows.map(({ attempt, outcome }) => `${attempt} ${outcome}`),
  }
}

test('tokens that are told late stand at the reply that they made, though a retry has begun another (I12)', async () => {
  const talk = await begin()
  await talk.stop()
  await talk.again()
  await late(talk.first, 7)
  expect(await standing(talk)).toEqual({ replies: { r1: '7', r2: null }, ledger: ['1 stopped'] })
  // The next test claims what is its own.
  await talk.stop()
})

test('nor do they stand at the empty reply of a round that was stopped before it began (I12)', async () => {
  const talk = await begin()
  await talk.stop()
  await talk.again()
  await talk.stop()
  await late(talk.first, 7)
  expect(await standing(talk)).toEqual({ replies: { r1: '7', r2: null }, ledger: ['1 stopped'] })
})

test('what an attempt before the last one used is in the ledger, and not counted as the reply’s (I12)', async () => {
  const talk = await begin()
  await requeueIfHeld(database, talk.first, { reason: 'error', code: null, retryMs: 0 }, [])
  const second = await claimOne(database)
  await finish(database, second, 0, [{ step: 0, usage: { outputTokens: 5 } }])
  await late(talk.first, 7)
  expect(await standing(talk)).toEqual({ replies: { r1: '5' }, ledger: ['1 failed', '2 complete'] })
})

test('an attempt that failed is written as failed, though the round after it was stopped, or is to be (I12)', async () => {
  for (const isOnlyMarked of [false, true]) {
    const talk = await begin()
    const reply = { parts: partsOf(1, 2), metadata: null, model: null }
    await failIfHeld(database, talk.first, failureOf('internal'), reply, [])
    await talk.again()
    if (!isOnlyMarked) await talk.stop()
    else await stored.query(`update holdfast.turns set stopping = 'ann' where id = $1`, [talk.first.turnId])
    await late(talk.first, 7)
    expect(await standing(talk)).toEqual({ replies: { r1: '7', r2: null }, ledger: ['1 failed'] })
    await talk.stop()
  }
})

test('an attempt whose stop is only marked yet is written as stopped (I12)', async () => {
  const talk = await begin()
  await stored.query(`update holdfast.turns set stopping = 'ann' where id = $1`, [talk.first.turnId])
  await late(talk.first, 7)
  await talk.stop()
  expect(await standing(talk)).toEqual({ replies: { r1: '7' }, ledger: ['1 stopped'] })
})
