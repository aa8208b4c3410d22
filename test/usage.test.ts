/** What was used, as its user and the app's server are told it, as reports read it, and as the command line proves it. */
import { tmpdir } from 'node:os'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createHoldfast, type Holdfast } from '../src/index.ts'
import { type Api, apiOf } from './support/client.ts'
import { endCommands, startCommand } from './support/command.ts'
import { freshDatabase, queryOnce } from './support/postgres.ts'
import { jwtSecret, tokenOf } from './support/server.ts'

const serverKey = 'k'.repeat(32)
const today = () => new Date().toISOString().slice(0, 10)

let chat: Holdfast
let url: string
let database: Awaited<ReturnType<typeof freshDatabase>>
let sessions: { ann: string; bob: string }

/** Answers with the model that the message names; `silent` tells nobody what it used. */
async function write(api: Api, session: string, model: string): Promise<void> {
  const body = JSON.stringify({ id: `${session}-${model}`, text: model })
  const sent = await api.request(`/v1/sessions/${session}/messages?wait=20`, { method: 'POST', body })
  expect(sent.status).toBe(200)
}

beforeAll(async () => {
  database = await freshDatabase(18)
  chat = createHoldfast({
    ...{ database: database.url, tokens: { secret: jwtSecret }, serverKey, log: () => undefined },
    prices: { priced: { input: 1, cachedInput: '0.5', output: 10 } },
    async *reply({ message, usage }) {
      const [{ text }] = message.parts as unknown as [{ text: string }]
      yield 'an answer'
      if (text === 'silent') return
      usage({
        provider: 'p',
        model: text,
        inputTokens: 1000,
        cachedInputTokens: 400,
        outputTokens: 30,
        reasoningTokens: 7,
      })
    },
  })
  url = (await chat.listen(0)).url
  const [ann, bob] = [await apiOf(url), await apiOf(url, 'bob')]
  sessions = { ann: await ann.createSession(), bob: await bob.createSession() }
  await write(ann, sessions.ann, 'priced')
  await write(ann, sessions.ann, 'unpriced')
  await write(bob, sessions.bob, 'priced')
})
afterAll(async () => {
  await chat.close()
  await endCommands()
  await database.drop()
})

async function usage(query: string, bearer?: string) {
  const authorization = `Bearer ${bearer ?? (await tokenOf('ann'))}`
  const response = await fetch(`${url}/v1/usage${query}`, { headers: { authorization } })
  return { status: response.status, body: await response.json() }
}

const one = { inputTokens: 1000, outputTokens: 30, cachedTokens: 400, reasoningTokens: 7, estimated: 0 }
const step = { messages: 1, replies: 1, attempts: 1, ...one, cost: '0.0011' }

test('a user is told their own, with exact costs, and null where a price is not known (P210, P211, R4.2)', async () => {
  const both = { messages: 2, replies: 2, attempts: 2, inputTokens: 2000, outputTokens: 60 }
  expect((await usage('')).body).toEqual({
    data: [{ ...both, cachedTokens: 800, reasoningTokens: 14, cost: null, estimated: 0 }],
  })
  const model = await usage('?by=model,day')
  expect(model.body.data).toEqual([
    { day: today(), model: 'priced', ...step },
    { day: today(), model: 'unpriced', ...step, cost: null },
  ])
  const bySession = await usage(`?by=session,user,model&from=${today()}&to=${today()}`)
  expect(bySession.body.data[0]).toEqual({ userId: 'ann', sessionId: sessions.ann, model: 'priced', ...step })
  expect((await usage('?from=2020-01-01&to=2020-01-02&by=session')).body).toEqual({ data: [] })
})

test('the server’s key is told everybody’s, and a tenant’s own (P212)', async () => {
  const { body } = await usage('?by=user', serverKey)
  expect(body.data).toMatchObject([
    { userId: 'ann', messages: 2 },
    { userId: 'bob', ...step },
  ])
  expect((await usage('?by=user&tenantId=other', serverKey)).body).toEqual({ data: [] })
  const sessionsOfAll = await usage('?by=session', serverKey)
  expect(sessionsOfAll.body.data).toHaveLength(2)
})

test.each([
  ['?by=month', 'day,model,user,session'],
  ['?by=day,day', 'each of them once'],
  ['?from=yesterday', 'a day like'],
  ['?from=2020-02-30', 'a day like'],
  ['?from=2021-01-01&to=2020-01-01', '"from" is after "to"'],
  ['?from=2020-01-01&to=2021-01-02', '368 days, more than 366'],
  ['?userId=bob', 'The query: Unrecognized key: "userId"'],
  ['?tenantId=other', 'tenantId'],
])('%s is refused in words (P210)', async (query, words) => {
  const { status, body } = await usage(query)
  expect(status).toBe(400)
  expect(body.detail).toContain(words)
})

test('a reply that reports nothing is one estimated step; said late, it is what was said (P211, I12)', async () => {
  const cleo = await apiOf(url, 'cleo')
  const session = await cleo.createSession()
  await write(cleo, session, 'silent')
  const { body } = await usage('?by=model', await tokenOf('cleo'))
  expect(body.data).toEqual([
    {
      model: null,
      messages: 1,
      replies: 1,
      attempts: 1,
      ...noTokens,
      inputTokens: some,
      outputTokens: 3,
      cost: null,
      estimated: 1,
    },
  ])
})
const some: unknown = expect.any(Number)
const noTokens = { cachedTokens: 0, reasoningTokens: 0 }

async function holdfast(...args: string[]): Promise<{ code: number | null; text: string }> {
  const command = startCommand(args, { cwd: tmpdir(), env: { DATABASE_URL: database.url } })
  const code = await command.ended
  return { code, text: command.printed() }
}

test('views under the reports’ names read what was said and used; a pair that comes from elsewhere was not used here (R4.7, I12)', async () => {
  expect(await holdfast('migrate', '--views', 'Reports')).toMatchObject({
    code: 1,
    text: expect.stringContaining('--views'),
  })
  expect((await holdfast('migrate', '--views', 'reports', '--print')).text).toContain('view reports.chat_messages')
  expect(await holdfast('migrate', '--views', 'reports')).toMatchObject({ code: 0 })
  const query = (text: string) => queryOnce<{ [name: string]: unknown }>(database.url, text)
  const pair = `select reports.insert_chat_message('imported', 'dan', 'hello', 'dear', 'old', 5, 7, 'd1', 'd2')`
  await query(pair)
  await query(pair)
  expect(await query(`select * from reports.chat_messages where user_id = 'dan' order by role desc`)).toEqual([
    {
      ...{ id: 'd1', session_id: 'imported', user_id: 'dan', role: 'user', content: 'hello', status: 'complete' },
      ...{
        error: null,
        input_tokens: 5,
        output_tokens: null,
        user_message_id: null,
        model: null,
        created_at: expect.any(Date),
      },
    },
    {
      ...{ id: 'd2', session_id: 'imported', user_id: 'dan', role: 'assistant', content: 'dear', status: 'complete' },
      ...{
        error: null,
        input_tokens: null,
        output_tokens: '7',
        user_message_id: 'd1',
        model: 'old',
        created_at: expect.any(Date),
      },
    },
  ])
  expect(await query(`select * from reports.chat_sessions where id = 'imported'`)).toEqual([
    {
      ...{ id: 'imported', user_id: 'dan', title: null, message_count: 2, total_tokens: '12', last_preview: 'dear' },
      ...{ last_model: 'old', created_at: expect.any(Date), updated_at: expect.any(Date) },
    },
  ])
  const daily = `select user_id, messages::int, input_tokens::int, output_tokens::int from reports.user_usage_daily order by 1`
  expect((await query(daily))[0]).toEqual({ user_id: 'ann', messages: 2, input_tokens: 2000, output_tokens: 60 })
  expect((await query(daily)).some(({ user_id }) => user_id === 'dan')).toBe(false)
  await expect(query(pair.replace(`'dan'`, `'eve'`))).rejects.toThrow('another user')
  // It can be answered anew, and goes on, as what was said here.
  const dan = await apiOf(url, 'dan')
  await write(dan, 'imported', 'priced')
  const { messages } = await dan.snapshot('imported')
  expect(messages.map(({ id }) => id).slice(0, 2)).toEqual(['d1', 'd2'])
})

test('usage --verify folds the ledger anew, and names each figure that is another (I12)', async () => {
  expect(await holdfast('usage', '--verify')).toEqual({
    code: 0,
    text: expect.stringMatching(/^The daily figures are what the \d+ steps/),
  })
  await queryOnce(
    database.url,
    `update holdfast.usage_daily_parts set cost = cost + 1, messages = 0 where user_id = 'bob'`,
  )
  await queryOnce(database.url, 'update holdfast.usage_of_tenants set tokens = 3')
  const { code, text } = await holdfast('usage', '--verify')
  expect(code).toBe(1)
  expect(text).toContain(`user bob, ${today()}, model priced: cost is 1.0011, and by the ledger 0.0011`)
  expect(text).toContain('messages is 0, and by the ledger 1')
  expect(text).toMatch(new RegExp(`tenant default, ${today()}: tokens is 3, and by the ledger \\d{4}\n`))
  expect(await holdfast('usage')).toMatchObject({ code: 1, text: expect.stringContaining('--verify') })
})
