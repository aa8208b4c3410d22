/** What becomes of a call's row in the ledger, whoever ends its attempt; and the daily figures, which are its fold (I12). */
import pg from 'pg'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { failureOf } from '../../src/core/errors.ts'
import { costOf } from '../../src/core/prices.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { retry } from '../../src/store/control.ts'
import type { Database } from '../../src/store/database.ts'
import { deleteSession } from '../../src/store/sessions.ts'
import { endCallIfHeld } from '../../src/store/tool-calls.ts'
import {
  type Claimed,
  checkpointIfHeld,
  failIfHeld,
  reportUsageOfLost,
  requeueIfHeld,
  type StepReport,
} from '../../src/store/turns.ts'
import { priceEstimated } from '../../src/usage/ledger-prices.ts'
import { claimAll, claimOne, endLease, finish, stopAsk, writeText } from '../races/held.ts'
import { eventually } from '../support/eventually.ts'
import { acceptanceOf, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'

let stored: Stored
let database: Database
let made = 0
beforeAll(async () => {
  stored = await openStored(18)
  database = stored.open()
})
afterAll(() => stored.close())
afterEach(async () => {
  expect(await stored.query('select * from holdfast.usage_differences()')).toEqual([])
})

async function begin(n = 0) {
  const [session] = (await sessionsOf(database, 1, `l${++made}-`)) as [string]
  await createAcceptor(database).accept({ ...acceptanceOf(session, 'm1'), replyId: 'r1' })
  const first = await claimOne(database)
  if (n > 0) await writeText(database, first, n)
  return { session, first, ledger: () => ledgerOf(first) }
}

async function ledgerOf({ turnId }: Claimed) {
  const rows = await stored.query<{ row: string }>(
    `select concat_ws(' ', attempt, step, state, input_tokens, output_tokens, trim_scale(cost), outcome) as row
      from holdfast.usage where turn_id = $1 order by attempt, step`,
    [turnId],
  )
  return rows.map(({ row }) => row)
}

/** Of the user's whole day, by model. */
async function today(model: string) {
  const [row] = await stored.query(
    `select messages::int, replies::int, attempts::int, estimated::int, input_tokens::int, output_tokens::int,
        output_tokens_succeeded::int as succeeded, trim_scale(cost)::text as cost
      from holdfast.usage_daily where model = $1 and day = (now() at time zone 'utc')::date`,
    [model],
  )
  return row
}

const report = (step: number, inputTokens: number, outputTokens: number, model = 'm'): StepReport => ({
  step,
  usage: { provider: 'p', model, inputTokens, outputTokens },
  cost: `0.${outputTokens}`,
})

test('a call’s row is open from the claim on and settled once, whatever is said of it later (I12)', async () => {
  const { first, ledger } = await begin()
  expect(await ledger()).toEqual(['1 0 open'])
  await finish(database, first, 0, [report(0, 10, 2)])
  await reportUsageOfLost(database, first, userId, [report(0, 99, 99)])
  expect(await ledger()).toEqual(['1 0 reported 10 2 0.2 complete'])
})

test('a reported step is settled by the checkpoint after it, and the next one opened: a process that dies keeps it (I12)', async () => {
  const { first, ledger } = await begin(2)
  const checkpoint = { attempt: 1, step: 1, isOpen: false, nextIndex: 2, parts: [] }
  const rest = { metadata: null, told: [], forClients: [], tokens: 12 }
  await checkpointIfHeld(database, first, { ...checkpoint, ...rest }, { usage: [report(0, 10, 2)], nextStep: 1 })
  expect(await ledger()).toEqual(['1 0 reported 10 2 0.2', '1 1 open'])
  await endLease(stored, first.turnId)
  const second = await claimOne(database, 'b')
  // What the dead one was heard to write stands for itself; of its second call only the prompt is known.
  expect(await ledger()).toEqual([
    '1 0 reported 10 2 0.2 lost',
    expect.stringMatching(/^1 1 estimated [1-9]\d* 0 lost$/),
    '2 0 open',
  ])
  await finish(database, second, 0, [report(0, 20, 3)])
  expect(await ledger()).toContain('2 0 reported 20 3 0.3 complete')
})

test('a takeover estimates what its dead process used, from the prompt and the stored chunks; its late word replaces that (I12)', async () => {
  const { first, ledger } = await begin(9)
  await endLease(stored, first.turnId)
  const second = await claimOne(database, 'b')
  const [estimate] = await ledger()
  expect(estimate).toMatch(/^1 0 estimated [1-9]\d* [1-9]\d* lost$/)
  await reportUsageOfLost(database, first, userId, [report(0, 7, 5)])
  await reportUsageOfLost(database, first, userId, [report(0, 8, 8)])
  expect(await ledger()).toEqual(['1 0 reported 7 5 0.5 lost', '2 0 open'])
  await finish(database, second, 0, [report(0, 1, 1)])
})

test.each([
  ['stopped', (session: string) => stopTurn(database, stopAsk(session, 'm1'))],
  ['lost', (session: string) => deleteSession(database, tenantId, session, userId)],
] as const)('who ends an attempt for another as %s estimates its open row with it (I12)', async (outcome, end) => {
  const { first, session, ledger } = await begin(9)
  await end(session)
  expect(await ledger()).toEqual([expect.stringMatching(new RegExp(`^1 0 estimated [0-9]+ [0-9]+ ${outcome}$`))])
  await reportUsageOfLost(database, first, userId, [report(0, 7, 5)])
  expect(await ledger()).toEqual([`1 0 reported 7 5 0.5 ${outcome}`])
})

test('where processes crash too often the claim that ends it estimates the last, and opens nothing (I12)', async () => {
  const { first, ledger } = await begin()
  await endLease(stored, first.turnId)
  expect((await claimAll(database, 'b', { crashesMax: 1 })).failed).toHaveLength(1)
  expect(await ledger()).toEqual([expect.stringMatching(/^1 0 estimated \d+ \d+ lost$/)])
})

test('a call that was surely not made leaves no row, and one that is guessed is flagged (I12)', async () => {
  const { first, ledger } = await begin()
  const why = { reason: 'error', code: null, retryMs: 0 } as const
  await requeueIfHeld(database, first, why, [{ step: 0, usage: null }])
  expect(await ledger()).toEqual([])
  const second = await claimOne(database)
  const guess: StepReport = { step: 0, usage: { inputTokens: 3, outputTokens: 0 }, estimated: true }
  await requeueIfHeld(database, second, why, [guess])
  const third = await claimOne(database)
  await failIfHeld(database, third, failureOf('internal'), { parts: [], metadata: null, model: null }, [])
  expect(await ledger()).toEqual(['2 0 estimated 3 0 failed', expect.stringMatching(/^3 0 estimated \d+ 0 failed$/)])
})

test('the call after a tool is opened with the tool’s result, and what it was not called for goes with the end (I12)', async () => {
  const { first, ledger } = await begin()
  const checkpoint = { attempt: 1, step: 0, isOpen: true, nextIndex: 0, parts: [], metadata: null }
  const place = { ...first, step: 0, callId: 'c' }
  const result = { state: 'done', output: 1 } as const
  await endCallIfHeld(database, place, result, { ...checkpoint, told: [], forClients: [], tokens: 0 }, 1)
  expect(await ledger()).toEqual(['1 0 open', '1 1 open'])
  await finish(database, first, 0, [report(0, 1, 1), { step: 1, usage: null }])
  expect(await ledger()).toEqual(['1 0 reported 1 1 0.1 complete'])
})

test('a turn counts as one message and one reply, in the model that answered, however often it is retried (R4.2)', async () => {
  const model = 'daily'
  const { first, session } = await begin()
  await failIfHeld(database, first, failureOf('internal'), { parts: [], metadata: null, model: null }, [
    report(0, 10, 1, model),
  ])
  expect(await today(model)).toMatchObject({ messages: 0, replies: 0, attempts: 1, output_tokens: 1, succeeded: 0 })
  const key = { tenantId, sessionId: session, userId, messageId: 'm1' }
  await retry(database, key, { round: null, replyId: 'r2', roundsMax: 9, expiresMs: 1e8, sendsMax: 0 })
  await finish(database, await claimOne(database), 0, [report(0, 10, 2, model)])
  const once = { messages: 1, replies: 1, attempts: 2, estimated: 0, input_tokens: 20, output_tokens: 3, succeeded: 2 }
  expect(await today(model)).toEqual({ ...once, cost: '0.3' })
})

test('an estimate gets its model from the turn and its cost from a sweeper; its cost is none, not 0, before (I12)', async () => {
  const { first, ledger } = await begin()
  await requeueIfHeld(database, first, { reason: 'error', code: null, retryMs: 0 }, [report(0, 10, 1, 'priced')])
  const second = await claimOne(database)
  await writeText(database, second, 9)
  await endLease(stored, second.turnId)
  await finish(database, await claimOne(database), 0, [report(0, 10, 2, 'unknown')])
  expect((await ledger())[1]).toMatch(/^2 0 estimated 10 \d+ lost$/)
  const priceOf = (usage: Parameters<typeof costOf>[1]) => costOf({ priced: { input: 1, output: 0 } }, usage)
  await priceEstimated(database, priceOf, 100)
  expect((await ledger())[1]).toMatch(/^2 0 estimated 10 \d+ 0.00001 lost$/)
  expect(await priceEstimated(database, priceOf, 100)).toBe(0)
})

test('fifty replies of one user that end at once, with what is told late of them, are each counted once in the days, and none waits for who is counting (I12, R4.2)', async () => {
  const model = 'at once'
  const sessions = await sessionsOf(database, 50, 'fifty-')
  const acceptor = createAcceptor(database)
  await Promise.all(sessions.map((session) => acceptor.accept(acceptanceOf(session))))
  const { claimed: lost } = await claimAll(database, 'a')
  await stored.query(`update holdfast.turns set lease_until = now() - interval '1 s' where runner = 'a'`)
  const { claimed: held } = await claimAll(database, 'b')
  expect([lost.length, held.length]).toEqual([50, 50])
  // All that there is of the user's days is locked, until all have ended.
  const counting = new pg.Client(stored.url)
  await counting.connect()
  await counting.query('begin; select from holdfast.usage_daily_parts for no key update')
  await counting.query('select from holdfast.usage_of_tenants for no key update')

  const processes = [database, ...Array.from({ length: 9 }, () => stored.open())]
  const of = (at: number) => processes[at % processes.length]!
  const ended = await Promise.all([
    ...held.map((each, at) => finish(of(at), each, 0, [report(0, 10, 2, model)])),
    // Two processes say the same of one attempt, and a third adds what estimates cost.
    ...[...lost, ...lost].map((each, at) => reportUsageOfLost(of(at + 3), each, userId, [report(0, 7, 1, model)])),
    ...processes.map((each) => priceEstimated(each, () => '0.5', 100)),
  ])
  expect(ended.slice(0, 50)).toEqual(held.map(() => expect.objectContaining({ outcome: 'stored' })))
  await counting.query('commit')
  await counting.end()
  const all = { messages: 50, replies: 50, attempts: 100, estimated: 0, input_tokens: 850, output_tokens: 150 }
  expect(await today(model)).toEqual({ ...all, succeeded: 100, cost: '15' })
})

test('what two processes say at once of a reply whose session was deleted is counted once (I12)', async () => {
  const { first, session, ledger } = await begin()
  await deleteSession(database, tenantId, session, userId)
  const saying = new pg.Client(stored.url)
  await saying.connect()
  const said = [report(0, 7, 5), report(1, 8, 6)].map(({ usage, ...more }) => ({ ...usage, ...more }))
  await saying.query('begin')
  const values = [tenantId, session, userId, first.turnId, JSON.stringify(said)]
  await saying.query('select holdfast.report($1, $2, $3, $4, 1, $5)', values)
  const other = reportUsageOfLost(database, first, userId, [report(0, 7, 5), report(1, 8, 6)])
  await eventually(async () => {
    const [row] = await stored.query<{ n: number }>(
      `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
    return row!.n === 1
  })
  await saying.query('commit')
  await saying.end()
  await other
  expect(await ledger()).toEqual(['1 0 reported 7 5 0.5 lost', '1 1 reported 8 6 0.6 lost'])
})
