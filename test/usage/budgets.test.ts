/** Budgets of tokens and cost: held back before the model is called, settled with the ledger, and what becomes of who is over (P225–P229). */
import { expect, onTestFinished, test } from 'vitest'
import { createHoldfast, type LimitsByPlan, OptionError, type Reply } from '../../src/index.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { renewBudgets, reserveIfHeld, type Spending } from '../../src/store/budgets.ts'
import { openDatabase } from '../../src/store/database.ts'
import { answer, call, openAsking, waits } from '../control/asking.ts'
import { claimAll, claimOne, endLease, finish } from '../races/held.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf } from '../support/client.ts'
import { queryOnce } from '../support/postgres.ts'
import { jwtSecret, tokenOf } from '../support/server.ts'
import { acceptanceOf, openStored, sessionsOf, tenantId } from '../support/stored.ts'

const budget = (more: Partial<Spending> = {}): Spending => ({
  ...{ id: 'limit-tenant-day-tokens', per: 'tenant', key: tenantId, every: 'day', measure: 'tokens' },
  ...{ mayGoOn: 'server', max: 1, ...more },
})

const nobody: LimitsByPlan = {
  budgets: [{ per: 'user', every: 'month', tokens: 5_000, mayGoOn: 'nobody' }],
}

async function openHeld(turns: number) {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const [one, two] = [stored.open(), stored.open()]
  const sessions = await sessionsOf(one, turns)
  const acceptor = createAcceptor(one)
  await Promise.all(sessions.map((session) => acceptor.accept(acceptanceOf(session))))
  const { claimed: held } = await claimAll(one, 'a')
  expect(held).toHaveLength(turns)
  return { stored, one, two, held }
}

test('of fifty turns that race for the last token at two processes one gets it, of any budget, and what is asked again holds the same (P225)', async () => {
  const { stored, one, two, held } = await openHeld(50)
  const race = async (budgets: Spending[]) => {
    await stored.query('update holdfast.usage set reserved_tokens = null')
    const asked = held.map((each, at) => reserveIfHeld(at % 2 ? one : two, each, { step: 0, tokens: 500, budgets }))
    const answers = await Promise.all(asked)
    return { answers, winners: held.filter((_, at) => answers[at]!.outcome === 'reserved') }
  }
  const last = await race([budget()])
  expect(last.winners).toHaveLength(1)
  expect(last.answers.find(({ outcome }) => outcome === 'over')).toMatchObject({
    budget: { ...budget(), used: 1, renewsAt: expect.stringMatching(/T00:00:00/) },
  })
  expect(await stored.query('select reserved_tokens::int as n from holdfast.usage where reserved_tokens > 0')).toEqual([
    { n: 1 },
  ])
  expect(await reserveIfHeld(one, last.winners[0]!, { step: 0, tokens: 500, budgets: [budget()] })).toMatchObject({
    outcome: 'reserved',
  })

  // What it is thought to use is held back, and no more: of 1,750 tokens four have some, the last of them 250.
  const several = await race([budget({ per: 'user', key: 'ann', every: 'hour', max: 1_750 }), budget({ max: 1e9 })])
  expect(several.winners).toHaveLength(4)
  // A turn's own is nobody else's.
  const own = await Promise.all(
    held.map((each) =>
      reserveIfHeld(one, each, {
        step: 0,
        tokens: 9,
        budgets: [budget({ per: 'turn', key: each.turnId, every: null })],
      }),
    ),
  )
  expect(own.every(({ outcome }) => outcome === 'reserved')).toBe(true)
})

test('what is reported takes the place of what was held back, in tokens and in cost; of a process that died the estimate does (P225)', async () => {
  const { stored, one, held } = await openHeld(3)
  const ask = (at: number, budgets: Spending[]) => reserveIfHeld(one, held[at]!, { step: 0, tokens: 1_000, budgets })
  const tokens = [budget({ max: 1_000 })]
  expect(await ask(0, tokens)).toMatchObject({ outcome: 'reserved' })
  expect(await ask(1, tokens)).toMatchObject({ outcome: 'over', budget: { used: 1_000 } })
  await finish(one, held[0]!, 0, [{ step: 0, usage: { model: 'm', inputTokens: 30, outputTokens: 10 }, cost: '0.04' }])
  // 960 are left, at a thousandth each; of cost as much as they would be.
  const both = [
    budget({ max: 1_000 }),
    budget({ id: 'limit-user-month-cost', per: 'user', key: 'ann', every: 'month', measure: 'cost', max: 1.5 }),
  ]
  expect(await ask(1, both)).toMatchObject({ outcome: 'reserved' })
  const [row] = await stored.query<{ tokens: number; cost: number }>(
    'select reserved_tokens::int as tokens, reserved_cost::float as cost from holdfast.usage where turn_id = $1',
    [held[1]!.turnId],
  )
  expect(row).toEqual({ tokens: 960, cost: 1 })
  expect(await ask(2, both)).toMatchObject({ outcome: 'over', budget: { id: 'limit-tenant-day-tokens', used: 1_000 } })
  expect(await ask(2, [both[1]!])).toMatchObject({ outcome: 'reserved' })

  await endLease(stored, held[1]!.turnId)
  const taker = await claimOne(one)
  expect(taker).toMatchObject({ turnId: held[1]!.turnId, attempt: 2 })
  expect(await reserveIfHeld(one, held[1]!, { step: 0, tokens: 1, budgets: tokens })).toEqual({ outcome: 'lost' })
  const again = await ask(2, tokens)
  expect(again).toMatchObject({ outcome: 'reserved' })
  const [estimate] = await stored.query<{ n: number }>(
    `select (input_tokens + output_tokens)::int as n from holdfast.usage where state = 'estimated'`,
  )
  expect(estimate!.n).toBeLessThan(50)
})

/** Ten tokens a step. */
const steps: (count: number) => Reply = (count) =>
  async function* ({ stepsDone, usage }) {
    for (let step = stepsDone; step < count; step++) {
      yield { type: 'start-step' }
      yield { type: 'text-start', id: `t${step}` }
      yield { type: 'text-delta', id: `t${step}`, delta: `[${step}]` }
      yield { type: 'text-end', id: `t${step}` }
      usage({ model: 'm', inputTokens: 6, outputTokens: 4 })
      yield { type: 'finish-step' }
    }
    yield { type: 'finish', finishReason: 'stop' }
  }

const post = (api: Api, session: string, id: string) =>
  api.request(`/v1/sessions/${session}/messages`, { method: 'POST', body: JSON.stringify({ id, text: 'hi' }) })

test('over a user’s budget a reply waits, also after a restart, until the server lets it go on or the budget is renewed; another user is unharmed (P226, P227)', async () => {
  const options = {
    limits: { sendsPerMinute: 0, budgets: [{ per: 'user', every: 'day', tokens: 10 }] } satisfies LimitsByPlan,
    reply: steps(1),
    pollMs: 100,
  }
  const first = await openChat(options)
  await first.ann.send(first.session, 'hi', 'm1')
  await first.watcher.outcome('m1')
  await first.watcher.close()
  await first.chat.close()

  const chat = createHoldfast({
    ...options,
    database: first.database,
    tokens: { secret: jwtSecret },
    log: () => undefined,
    drainMs: 0,
  })
  onTestFinished(() => chat.close())
  const { url } = await chat.listen(0)
  const [ann, bob] = await Promise.all([apiOf(url), apiOf(url, 'bob')])
  const { session } = first
  const watcher = ann.watch(session)
  onTestFinished(() => watcher.close())
  await ann.send(session, 'hi', 'm2')
  const waiting = await waits(watcher)
  const [asked] = waiting.data.turn.approvals
  expect(waiting.data.turn).toMatchObject({ waitingFor: 'budget' })
  expect(asked).toMatchObject({
    ...{ kind: 'budget', budget: 'limit', used: 10, max: 10, per: 'user', every: 'day', measure: 'tokens' },
    ...{ mayGoOn: 'server', renewsAt: expect.stringMatching(/T00:00:00/) },
  })
  expect(asked).not.toHaveProperty('key')
  expect(await answer(ann, session, 'approvals', asked.id, { approved: true })).toMatchObject({
    status: 403,
    body: { detail: 'Only who runs this service may let the reply go on beyond this budget. You may end it.' },
  })
  const other = await bob.createSession()
  const heard = bob.watch(other)
  onTestFinished(() => heard.close())
  await bob.send(other, 'hi', 'b1')
  expect(await heard.outcome('b1')).toMatchObject({ type: 'message.ai_response' })

  await chat.approve(session, asked.id, { approved: true })
  expect(await watcher.outcome('m2')).toMatchObject({ type: 'message.ai_response' })

  await ann.send(session, 'hi', 'm3')
  await waits(watcher, 2)
  const database = openDatabase(first.database, { poolMax: 6, onError: () => undefined })
  onTestFinished(() => database.close())
  expect(await renewBudgets(database, 10)).toEqual([])
  // As if it were tomorrow.
  const later = (text: string) => database.query('turns', { name: text.slice(0, 40), text }, [])
  await later(`update holdfast.usage_daily_parts set day = day - 1`)
  await later(`update holdfast.usage set ended_at = ended_at - interval '1 day'`)
  await renewBudgets(database, 10)
  await watcher.until(
    ({ type, data }) => type === 'approval.answered' && data.by === 'server' && data.reason === 'renewed',
  )
  expect(await watcher.outcome('m3')).toMatchObject({ type: 'message.ai_response' })
})

test('where nobody may let it go on it fails between two steps, and further messages are 429 with when it is renewed; what is stored is answered (P228, P229)', async () => {
  const { ann, session, watcher } = await openChat({
    limits: { sendsPerMinute: 0, budgets: [{ per: 'session', every: 'month', tokens: 10, mayGoOn: 'nobody' }] },
    reply: steps(2),
  })
  await ann.send(session, 'hi', 'm1')
  const failed = await watcher.outcome('m1')
  const sentence =
    /^The budget of this conversation, 10 tokens a month, is used up: 10 are\. It is renewed at 20\d\d-\d\d-01T00:00:00(\.\d+)?Z\.$/
  expect(failed).toMatchObject({
    type: 'message.error',
    data: { code: 'budget_exceeded', error: expect.stringMatching(sentence) },
  })
  expect(failed.data.retryAfterMs).toBeGreaterThan(0)
  const refused = await post(ann, session, 'm2')
  const problem = await refused.json()
  expect(problem).toMatchObject({ status: 429, code: 'budget_exceeded', retryable: true, userMessageId: 'm2' })
  expect(problem.detail).toMatch(sentence)
  const seconds = String(Math.ceil(problem.retryAfterMs / 1_000))
  expect(refused.headers.get('retry-after')).toBe(seconds)
  expect(refused.headers.get('ratelimit')).toBe(`"limit-session-month-tokens";r=0;t=${seconds}`)
  expect(refused.headers.get('ratelimit-policy')).toBe('"limit-session-month-tokens";q=10')
  expect((await post(ann, session, 'm1')).status).toBe(202)
  const retry = await ann.request(`/v1/sessions/${session}/messages/m1/retry`, { method: 'POST', body: '{}' })
  expect(retry.status).toBe(429)
  expect((await post(ann, await ann.createSession(), 'm1')).status).toBe(202)
})

test('a plan that changes between two requests holds from the next one on, there and back; nobody is told what another uses (P210, P225, P229)', async () => {
  const budgets = (tokens: number) => [{ per: 'user', every: 'day', tokens, mayGoOn: 'nobody' } as const]
  const { ann, url, session, watcher } = await openChat({
    limits: {
      ...{ sendsPerMinute: 0, budgets: budgets(10) },
      plans: { pro: { sendsPerMinute: 9, budgets: budgets(1_000) } },
    },
    reply: steps(1),
  })
  await ann.send(session, 'hi', 'm1')
  await watcher.outcome('m1')
  const refused = await post(ann, session, 'm2')
  expect(refused.status).toBe(429)
  expect(refused.headers.get('ratelimit-policy')).toBe('"limit-user-day-tokens";q=10')
  const bearer = async (claims: object) => ({ authorization: `Bearer ${await tokenOf('ann', claims)}` })
  const headers = { ...(await bearer({ plan: 'pro' })), 'content-type': 'application/json' }
  const body = JSON.stringify({ id: 'm2', text: 'hi' })
  const sent = await fetch(`${url}/v1/sessions/${session}/messages`, { method: 'POST', headers, body })
  expect([sent.status, sent.headers.get('ratelimit-policy')]).toEqual([202, '"sends";q=9;w=60'])
  expect(await watcher.outcome('m2')).toMatchObject({ type: 'message.ai_response' })
  expect((await post(ann, session, 'm3')).status).toBe(429)

  const used = async (init: RequestInit) => (await fetch(`${url}/v1/usage`, init)).json()
  expect(await used({ headers })).toMatchObject({ data: [{ replies: 2, inputTokens: 12, outputTokens: 8 }] })
  expect(await used({ headers: await bearer({ tenant: 'other' }) })).toEqual({ data: [] })
  expect(await used({})).toMatchObject({ status: 401 })
})

test('a session’s budget is its owner’s to let go on, and of a plan that has none nobody is asked (P226)', async () => {
  const { ann, chat, url, session, watcher } = await openChat({
    limits: ({ plan }) => ({
      sendsPerMinute: 0,
      ...(plan === undefined
        ? {
            budgets: [
              { per: 'session', cost: 0.001 },
              { per: 'turn', tokens: 1_000 },
            ],
          }
        : {}),
    }),
    prices: { m: { input: 100, output: 100 } },
    reply: steps(2),
  })
  await chat.members.add(session, { userId: 'bob' })
  const bob = await apiOf(url, 'bob')
  await bob.send(session, 'hi', 'm1')
  const [asked] = (await waits(watcher)).data.turn.approvals
  expect(asked).toMatchObject({
    budget: 'limit',
    per: 'session',
    measure: 'cost',
    every: null,
    renewsAt: null,
    used: 0.001,
    max: 0.001,
  })
  expect(await answer(bob, session, 'approvals', asked.id, { approved: true })).toMatchObject({
    status: 403,
    body: { detail: 'Only an owner of the session may let the reply go on beyond this budget. You may end it.' },
  })
  await answer(ann, session, 'approvals', asked.id, { approved: true })
  expect(await watcher.outcome('m1')).toMatchObject({ type: 'message.ai_response' })
  const token = await tokenOf('bob', { plan: 'pro' })
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const body = JSON.stringify({ id: 'pro', text: 'hi' })
  await fetch(`${url}/v1/sessions/${session}/messages`, { method: 'POST', headers, body })
  expect(await watcher.outcome('pro')).toMatchObject({ type: 'message.ai_response' })
  // Who may not let it go on may end it.
  await bob.send(session, 'hi', 'm2')
  await answer(bob, session, 'approvals', (await waits(watcher, 2)).data.turn.approvals[0].id, { approved: false })
  expect(await watcher.outcome('m2')).toMatchObject({ type: 'message.stopped', data: { reason: 'budget' } })
})

test('a budget that is none is refused at the start, with what was expected', () => {
  const wrong: [object, string][] = [
    [{ per: 'user', tokens: 1 }, 'every: expected one of hour, day, month, got undefined.'],
    [{ per: 'week', tokens: 1 }, 'per: expected one of turn, session, user, tenant, got week.'],
    [{ per: 'turn', every: 'day', tokens: 1 }, "every: a turn's budget has no period."],
    [{ per: 'session', tokens: 0 }, 'tokens: expected a whole number above 0, up to 1000000000000, got 0.'],
    [{ per: 'session', cost: -1 }, 'cost: expected a number above 0, up to 1000000000, got -1.'],
    [{ per: 'session', cost: 1, mayGoOn: 'me' }, 'mayGoOn: expected one of member, owner, server, nobody, got me.'],
    [{ per: 'session', cost: 1, dollars: 1 }, 'dollars: a budget has no such field. See docs/limits.md.'],
  ]
  for (const [each, sentence] of wrong) {
    expect(() => createHoldfast({ reply: () => 'x', limits: { budgets: [each as never] } })).toThrow(
      new OptionError(`limits.budgets[0].${sentence}`),
    )
  }
  const twice = { per: 'session', tokens: 1 } as const
  expect(() => createHoldfast({ reply: () => 'x', limits: { budgets: [twice, twice] } })).toThrow(
    /two of limit-session-tokens/,
  )
  expect(() => createHoldfast({ reply: () => 'x', limits: { budgets: [{ per: 'session' }] } })).toThrow(
    /"tokens", "cost" or both/,
  )
})

test('between two steps of the AI SDK no call is made beyond a budget, and let go on it calls no tool again (P225, P226)', async () => {
  const look = (id: string) => [call(id, 'look')]
  const limits: LimitsByPlan = { sendsPerMinute: 0, budgets: [{ per: 'turn', tokens: 30 }] }
  const { watcher, provider, runs, ann, session } = await openAsking(7, [look('k1'), look('k2'), look('k3')], {
    limits,
  })
  await ann.send(session, 'hi', 'm1')
  const [asked] = (await waits(watcher)).data.turn.approvals
  expect(asked).toMatchObject({ budget: 'limit', per: 'turn', used: 36, max: 30, mayGoOn: 'member' })
  expect(provider.requests).toHaveLength(2)
  await answer(ann, session, 'approvals', asked.id, { approved: true })
  expect(await watcher.outcome('m1')).toMatchObject({ type: 'message.ai_response' })
  expect(provider.requests).toHaveLength(4)
  expect(runs.map(({ toolCallId }) => toolCallId)).toEqual(['k1', 'k2', 'k3'])
})

test('what others use up while a tool runs ends the reply between its steps, and a call that may have begun is in the ledger (P225)', async () => {
  const limits: LimitsByPlan = { sendsPerMinute: 0, budgets: [{ per: 'user', every: 'month', tokens: 5_000 }] }
  const { watcher, database, ann, session } = await openAsking(7, [[call('k1', 'look')]], {
    limits,
    execute: () =>
      queryOnce(
        database,
        `insert into holdfast.usage_daily_parts (tenant_id, user_id, day, model, input_tokens)
           values ('default', 'ann', (now() at time zone 'utc')::date, 'm', 4999)`,
      ).then(() => 'seen'),
  })
  await ann.send(session, 'hi', 'm1')
  const [asked] = (await waits(watcher)).data.turn.approvals
  expect(asked).toMatchObject({ budget: 'limit', per: 'user', used: 5_017, mayGoOn: 'server' })
  expect(await queryOnce(database, 'select step, state from holdfast.usage order by step')).toEqual([
    { step: 0, state: 'reported' },
    { step: 1, state: 'estimated' },
  ])
})

test('what others have used up while a tool waited for a person is known before the model is asked, and the tool has run (P225, P226)', async () => {
  const limits: LimitsByPlan = { sendsPerMinute: 0, budgets: [{ per: 'user', every: 'month', tokens: 5_000 }] }
  const { chat, watcher, database, ann, session, provider, runs } = await openAsking(7, [[call('k1', 'book')]], {
    limits,
  })
  await ann.send(session, 'hi', 'm1')
  const [tool] = (await waits(watcher)).data.turn.approvals
  await queryOnce(
    database,
    `insert into holdfast.usage_daily_parts (tenant_id, user_id, day, model, input_tokens)
       values ('default', 'ann', (now() at time zone 'utc')::date, 'm', 4999)`,
  )
  await answer(ann, session, 'approvals', tool.id, { approved: true })
  const [asked] = (await waits(watcher, 2)).data.turn.approvals
  expect(asked).toMatchObject({ budget: 'limit', per: 'user', used: 5_017 })
  expect([runs.length, provider.requests.length]).toEqual([1, 1])
  expect(await queryOnce(database, 'select attempt, state from holdfast.usage')).toEqual([
    { attempt: 1, state: 'reported' },
  ])
  await chat.approve(session, asked.id, { approved: true })
  expect(await watcher.outcome('m1')).toMatchObject({ type: 'message.ai_response' })
  expect([runs.length, provider.requests.length]).toEqual([1, 2])
})

test.each([
  ['after a tool that waited', 'book', { limits: nobody }],
  ['beyond the steps of a reply that nobody is asked about', 'look', { stepsMax: 1, onBudget: 'fail' }],
] as const)(
  'a call that the AI SDK has begun %s is in the ledger though it is cut off (P228, I12)',
  async (_, tool, options) => {
    const { watcher, database, ann, session, provider } = await openAsking(7, [[call('k1', tool)]], options)
    await ann.send(session, 'hi', 'm1')
    if (tool === 'book') {
      const [asked] = (await waits(watcher)).data.turn.approvals
      await queryOnce(
        database,
        `insert into holdfast.usage_daily_parts (tenant_id, user_id, day, model, input_tokens)
         values ('default', 'ann', (now() at time zone 'utc')::date, 'm', 4999)`,
      )
      await answer(ann, session, 'approvals', asked.id, { approved: true })
    }
    expect(await watcher.outcome('m1')).toMatchObject({ type: 'message.error', data: { code: 'budget_exceeded' } })
    expect(provider.requests).toHaveLength(2)
    const rows = await queryOnce(database, 'select state from holdfast.usage order by attempt, step')
    expect(rows).toEqual([{ state: 'reported' }, { state: 'estimated' }])
  },
)
