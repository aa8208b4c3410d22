/** How much of a server one may ask for by commands: what counts as a send, and what has an end. */
import { expect, test } from 'vitest'
import { limits } from '../../src/core/limits.ts'
import { acceptTurns, claimOne, finish } from '../races/held.ts'
import { sessionsOf } from '../support/stored.ts'
import { openTalk } from './scene.ts'
import { openStoredTalk, waiting } from './stored-talk.ts'

const headersOf = ({ status, headers }: Response) => [
  status,
  headers.get('ratelimit-policy'),
  headers.get('ratelimit')?.replace(/t=\d+$/, 't'),
]
const counted = (left: number) => [200, '"sends";q=5;w=60', `"sends";r=${left};t`]

test('a retry, another reply and an edit count as sends and say what is left; what is repeated or harmless does not (P35, P36, P71, P73)', async () => {
  const talk = await openTalk({ HOLDFAST_SENDS_PER_MINUTE: '5' })
  const { ann, session, watcher } = talk
  const ask = (name: string, body: object) =>
    ann.request(`/v1/sessions/${session}/messages/m1/${name}`, { method: 'POST', body: JSON.stringify(body) })
  await ann.send(session, 'please fail', 'm1')
  await watcher.outcome('m1')
  talk.mend()
  const answered = (id: string) =>
    watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.id === id)
  const retried = await ask('retry', { round: 1 })
  expect(headersOf(retried)).toEqual(counted(3))
  await answered((await retried.json()).reply.id)
  const harmless = [200, null, undefined]
  expect(headersOf(await ask('retry', { round: 1 }))).toEqual(harmless)
  expect(headersOf(await ask('regenerate', { id: 'r3' }))).toEqual(counted(2))
  await answered('r3')
  expect(headersOf(await ask('regenerate', { id: 'r3' }))).toEqual(harmless)
  expect(headersOf(await ask('edit', { id: 'm1b', text: 'other' }))).toEqual(counted(1))
  await watcher.outcome('m1b')
  expect(headersOf(await ask('edit', { id: 'm1b', text: 'other' }))).toEqual(harmless)
  expect(headersOf(await ask('select', {}))).toEqual(harmless)
  expect(headersOf(await ask('stop', {}))).toEqual(harmless)
  expect(headersOf(await ask('regenerate', { id: 'r4' }))).toEqual(counted(0))
  await answered('r4')
  const before = await ann.snapshot(session)
  const refused = await ask('regenerate', { id: 'r5' })
  expect(headersOf(refused)).toEqual([429, '"sends";q=5;w=60', '"sends";r=0;t'])
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
  expect(await refused.json()).toMatchObject({ code: 'rate_limited', retryable: true, userMessageId: 'm1' })
  expect(await ann.snapshot(session)).toEqual(before)
  expect(headersOf(await ask('regenerate', { id: 'r4' }))).toEqual(harmless)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a round is counted for who asks for it; one too many begins none, and the operator’s counts for nobody (P35)', async () => {
  const talk = await openStoredTalk()
  await talk.send('m1')
  await talk.fail()
  expect(await talk.again('m1', 'r2', { by: 'bob', sendsMax: 1 })).toMatchObject({ outcome: 'done' })
  await talk.fail()
  const before = await talk.rows()
  for (const refused of [
    await talk.again('m1', 'r3', { by: 'bob', sendsMax: 1 }),
    await talk.another('m1', 'r3', { by: 'bob', sendsMax: 1 }),
  ]) {
    expect(refused).toMatchObject({ outcome: 'rate_limited', allowance: { max: 1, left: 0 } })
  }
  expect(await talk.rows()).toEqual(before)
  expect(await talk.again('m1', 'r3', { sendsMax: 1 })).toMatchObject({ outcome: 'done', allowance: { left: 0 } })
  await talk.fail()
  expect(await talk.again('m1', 'r4', { sendsMax: 0 })).toMatchObject({ outcome: 'done', allowance: null })
  const sends = await talk.stored.query('select user_id, cardinality(sends) as n from holdfast.limits order by 1')
  expect(sends).toEqual([
    { user_id: 'ann', n: 1 },
    { user_id: 'bob', n: 1 },
  ])
})

test('a message that waits is changed at most so many times, and each repeated change finds itself (P72)', async () => {
  const talk = await openStoredTalk()
  await talk.send('m1')
  for (let at = 0; at < limits.editsMax; at++) expect((await talk.change('m1', `e${at}`)).outcome).toBe('done')
  const before = await talk.rows()
  expect((await talk.change('m1', 'one more', { sendsMax: 5 })).outcome).toBe('edits')
  expect((await talk.change('m1', 'e0')).outcome).toBe('same')
  expect(await talk.rows()).toEqual(before)
  expect(await talk.stored.query('select from holdfast.limits')).toEqual([])
})

test('what no time renews says that to ask again is of no use (P61, P71, P72)', async () => {
  const talk = await openTalk({ HOLDFAST_ROUNDS_MAX: '1' })
  const { ann, session, watcher } = talk
  await ann.send(session, 'please fail', 'm1')
  await watcher.outcome('m1')
  const refusalOf = async (id: string, name: string, body: object) => {
    const path = `/v1/sessions/${session}/messages/${id}/${name}`
    const answer = await ann.request(path, { method: 'POST', body: JSON.stringify(body) })
    return await answer.json()
  }
  const forGood = { status: 429, code: 'budget_exceeded', retryable: false }
  expect(await refusalOf('m1', 'retry', {})).toMatchObject(forGood)
  expect(await refusalOf('m1', 'regenerate', { id: 'r2' })).toMatchObject(forGood)
  await ann.send(session, 'wait', 'm2')
  await watcher.until(({ type }) => type === 'chunk')
  await ann.send(session, 'often', 'm3')
  for (let at = 0; at < limits.editsMax; at++) await talk.command('m3', 'edit', { id: `e${at}`, text: `${at}` })
  expect(await refusalOf('m3', 'edit', { id: 'e', text: 'e' })).toMatchObject(forGood)
  talk.goOn()
  await watcher.outcome('m3')
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('commands that wait for one session keep no outcome of another one waiting', async () => {
  const talk = await openStoredTalk()
  const { database, stored } = talk
  await talk.send('m1')
  await talk.fail()
  const [other] = await sessionsOf(database, 1, 'other')
  await acceptTurns(database, [other!])
  const running = await claimOne(database)
  let answered = 0
  const ask = () => Promise.all(['r1', 'r2', 'r3', 'r4'].map((id) => talk.again('m1', id).finally(() => answered++)))
  const answers = await talk.holding(ask, async () => {
    // Two have the connections, the others come after them.
    await waiting(stored, 2)
    expect((await finish(database, running, 0)).outcome).toBe('stored')
    expect(answered).toBe(0)
  })
  expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual(['done', 'same', 'same', 'same'])
})
