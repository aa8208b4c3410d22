/** A Retry is offered only where there is a round left for it. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { failureOf, type TurnCode } from '../../src/core/errors.ts'
import type { Event } from '../../src/core/event.ts'
import { claim, expire, failIfHeld, failingOf } from '../../src/store/turns.ts'
import { outcomesOf } from '../faults/scene.ts'
import { acceptTurns, claimOne, endLease } from '../races/held.ts'
import { openStored, type Stored, sessionsOf } from '../support/stored.ts'
import { openTalk } from './scene.ts'

let stored: Stored
beforeAll(async () => {
  stored = await openStored(18)
})
afterAll(() => stored.close())

const dataOf = (event: Event) => JSON.parse(event.json)
const inLast = (code: TurnCode) => failingOf(failureOf(code), 1)

async function errorIn(session: string): Promise<unknown> {
  const rows = await stored.query<{ error: unknown }>(
    `select error from holdfast.messages where session_id = $1 and role = 'user'`,
    [session],
  )
  return rows[0]!.error
}

/** What is advised is possible: "try again" would not be. */
const gaveUp = (code: TurnCode, happened: string) => ({
  code,
  error: `${happened} It was tried as often as a message may be: send it as a new one.`,
  canRetry: false,
})

test('what fails in its last round cannot be retried, as its event and its message say', async () => {
  const { ann, session, watcher, command } = await openTalk({ HOLDFAST_ATTEMPTS_MAX: '1', HOLDFAST_ROUNDS_MAX: '2' })
  await ann.send(session, 'overloaded', 'm1')
  expect((await watcher.outcome('m1')).data).toMatchObject({ code: 'provider_overloaded', canRetry: true })
  await command('m1', 'retry')
  await watcher.until(() => outcomesOf(watcher, 'm1').length === 2)
  const [, second] = outcomesOf(watcher, 'm1')
  expect(second!.data).toMatchObject({ code: 'provider_overloaded', canRetry: false })
  expect(Object.keys(second!.data as object).sort()).toEqual(['canRetry', 'code', 'error', 'message', 'userMessageId'])
  const { messages } = await ann.snapshot(session)
  expect(messages[0]!.error).toEqual(gaveUp('provider_overloaded', 'The model is overloaded.'))
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('nor can what expires in it', async () => {
  const database = stored.open()
  const [session] = await sessionsOf(database, 1, 'expires')
  await acceptTurns(database, [session!])
  await stored.query(`update holdfast.turns set expires_at = now() - interval '1 s' where session_id = $1`, [session])
  const [expired] = await expire(database, 9, inLast('expired'))
  expect(dataOf(expired!.event)).toMatchObject({ code: 'expired', canRetry: false })
  expect(await errorIn(session!)).toEqual(gaveUp('expired', 'This message waited too long for its reply.'))
})

test('nor can what brought its processes down in it', async () => {
  const database = stored.open()
  const [session] = await sessionsOf(database, 1, 'crashes')
  await acceptTurns(database, [session!])
  await endLease(stored, (await claimOne(database)).turnId)
  const crashed = inLast('crashed')
  const ask = { runner: 'b', claim: 1, lost: [], leaseMs: 60_000, limit: 9, takeExpired: true, crashesMax: 1, crashed }
  const { failed } = await claim(database, ask)
  expect(dataOf(failed[0]!.events.at(-1)!)).toMatchObject({ code: 'crashed', canRetry: false })
  expect(await errorIn(session!)).toEqual(gaveUp('crashed', 'The server stopped while writing this reply.'))
})

test('with a round left it can', async () => {
  const database = stored.open()
  const [session] = await sessionsOf(database, 1, 'again')
  await acceptTurns(database, [session!])
  const held = await claimOne(database)
  const nothing = { parts: [], metadata: null, model: null }
  await failIfHeld(database, held, failingOf(failureOf('internal'), 2), nothing, [])
  expect(await errorIn(session!)).toEqual(failureOf('internal'))
})
