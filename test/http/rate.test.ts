/** The limit of sends as clients meet it, at two processes on one database. */
import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { createHoldfast, OptionError } from '../../src/index.ts'
import { type Api, apiOf } from '../support/client.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startServer } from '../support/server.ts'
import { openTables } from './tables.ts'

async function open(sendsPerMinute: string | undefined) {
  const database = await freshDatabase(18)
  const tables = await openTables(database.url)
  onTestFinished(async () => {
    await tables.close()
    await database.drop()
  })
  const env = { HOLDFAST_ROLES: 'http', HOLDFAST_SENDS_PER_MINUTE: sendsPerMinute ?? '' }
  const servers = await Promise.all([1, 2].map(() => startServer({ database: database.url, env })))
  return { servers, tables }
}

function post(api: Api, session: string, id: string = randomUUID()): Promise<Response> {
  const body = JSON.stringify({ id, text: 'hi' })
  return api.request(`/v1/sessions/${session}/messages`, { method: 'POST', body })
}

const headersOf = ({ headers }: Response) => ({
  policy: headers.get('ratelimit-policy'),
  limit: headers.get('ratelimit')?.replace(/t=(59|60)$/, 't=60'),
  retryAfter: headers.get('retry-after')?.replace(/^59$/, '60'),
})

test('the send after as many as a minute may have is 429 at every process and says when to come back; other users may send, and a stored message may be sent again (P35, P36)', async () => {
  const { servers, tables } = await open('3')
  const [one, other] = await Promise.all(servers.map(({ url }) => apiOf(url)))
  const [first, second] = [await one!.createSession(), await one!.createSession()]
  const sends = [() => post(one!, first, 'm1'), () => post(other!, first, 'm2'), () => post(other!, second, 'm3')]
  for (const [at, send] of sends.entries()) {
    const answer = await send()
    expect(answer.status).toBe(202)
    expect(headersOf(answer)).toEqual({ policy: '"sends";q=3;w=60', limit: `"sends";r=${2 - at};t=60` })
  }
  for (const api of [one!, other!]) {
    const refused = await post(api, second, 'm4')
    expect(refused.status).toBe(429)
    expect(headersOf(refused)).toEqual({ policy: '"sends";q=3;w=60', limit: '"sends";r=0;t=60', retryAfter: '60' })
    const problem = await refused.json()
    expect(problem).toMatchObject({ code: 'rate_limited', retryable: true, userMessageId: 'm4' })
    expect(problem.retryAfterMs).toBeGreaterThan(50_000)
    expect(problem.retryAfterMs).toBeLessThanOrEqual(60_000)
    const again = await post(api, first, 'm1')
    expect(again.status).toBe(202)
    expect(headersOf(again)).toEqual({ policy: null })
  }
  expect(await tables.countsOf(second)).toMatchObject({ messages: 2, turns: 1 })
  const bob = await apiOf(servers[0]!.url, 'bob')
  expect((await post(bob, await bob.createSession())).status).toBe(202)
  // The oldest is now more than a minute old, and one more may be sent.
  await tables.query(
    `update holdfast.limits set sends = array(select at - interval '30 s' * (at = (select min(x) from unnest(sends) x))::int - interval '31 s'
       from unnest(sends) at) where user_id = 'ann'`,
  )
  expect((await post(other!, second, 'm4')).status).toBe(202)
  expect((await post(one!, second, 'm5')).status).toBe(429)
})

test('a burst at two processes is let through up to the limit, exactly, which is 30 unless told otherwise', async () => {
  const { servers } = await open(undefined)
  const apis = await Promise.all(servers.map(({ url }) => apiOf(url)))
  const sessions = await Promise.all([0, 1, 2, 3].map(() => apis[0]!.createSession()))
  const answers = await Promise.all(Array.from({ length: 60 }, (_, at) => post(apis[at % 2]!, sessions[at % 4]!)))
  const statuses = answers.map(({ status }) => status)
  expect(statuses.filter((status) => status === 202)).toHaveLength(30)
  expect(statuses.filter((status) => status === 429)).toHaveLength(30)
})

test('without a limit nobody is counted or told', async () => {
  const { servers, tables } = await open('0')
  const ann = await apiOf(servers[0]!.url)
  const session = await ann.createSession()
  const answers = await Promise.all(Array.from({ length: 40 }, () => post(ann, session)))
  expect(answers.filter(({ status }) => status !== 202)).toEqual([])
  expect(headersOf(answers[0]!)).toEqual({ policy: null })
  expect(await tables.query('select * from holdfast.limits')).toEqual([])
})

test('a limit out of bounds, and one that does not exist, are refused at the start', () => {
  const reply = () => 'x'
  for (const sendsPerMinute of [-1, 1_001, 1.5, Number.NaN]) {
    expect(() => createHoldfast({ reply, limits: { sendsPerMinute } })).toThrow(
      new OptionError(`limits.sendsPerMinute: expected a whole number from 0 to 1000, got ${sendsPerMinute}.`),
    )
  }
  // @ts-expect-error there is no such limit
  expect(() => createHoldfast({ reply, limits: { sendsPerHour: 1 } })).toThrow(/limits.sendsPerHour: there is no such/)
})
