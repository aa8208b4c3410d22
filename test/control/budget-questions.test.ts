/** A budget that is used up, where the reply yields chunks itself, and what may become of its question (P34, P71, P114–P117). */
import { describe, expect, test } from 'vitest'
import { type Reply, type ReplyChunk, ReplyError } from '../../src/index.ts'
import { ofType, outcomesOf, textIn } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { queryOnce } from '../support/postgres.ts'
import { answer, callsIn, partsIn, waits } from './asking.ts'
import { shownOf } from './scene.ts'

const some = expect.any(String) as string

type Scene = Awaited<ReturnType<typeof openChat>>
const waitingOf = async ({ ann, session, watcher }: Scene) => {
  await ann.send(session, 'hi', 'm1')
  const waiting = await waits(watcher)
  return { waiting, asked: waiting.data.turn.approvals[0] }
}
const say = ({ ann, session }: Scene, id: string, approved: boolean, more: object = {}) =>
  answer(ann, session, 'approvals', id, { approved, ...more })

/** Steps that call no tool, and each say which attempt wrote them. */
const stepping = (steps: number): Reply =>
  async function* ({ stepsDone, attempt, usage }) {
    for (let step = stepsDone; step < steps; step++) {
      yield { type: 'start-step' }
      yield { type: 'text-start', id: `t${step}` }
      yield { type: 'text-delta', id: `t${step}`, delta: `[${attempt}:${step}]` }
      yield { type: 'text-end', id: `t${step}` }
      usage({ inputTokens: 6, outputTokens: 4 })
      yield { type: 'finish-step' }
    }
    yield { type: 'finish', finishReason: 'stop' }
  }

describe('a reply that yields chunks itself', () => {
  test('goes on from the steps that it has, and says of them none again', async () => {
    const scene = await openChat({ reply: stepping(5), stepsMax: 2 })
    const { asked } = await waitingOf(scene)
    expect(asked).toMatchObject({ budget: 'steps', used: 2, max: 2 })
    await say(scene, asked.id, true)
    const again = await waits(scene.watcher, 2)
    expect(again.data.turn.approvals[0]).toMatchObject({ used: 2, max: 2 })
    await say(scene, again.data.turn.approvals[0].id, true)
    const outcome = await scene.watcher.outcome('m1')
    expect(textIn(outcome).split('\n\n')).toEqual(['[1:0]', '[1:1]', '[2:2]', '[2:3]', '[3:4]'])
    expect(scene.watcher.problems).toEqual([])
  })

  test('with calls of its own is cut where they have their results, and is not resumed there', async () => {
    const resumed: number[] = []
    const scene = await openChat({
      stepsMax: 1,
      async *reply({ stepsDone, tools }) {
        const { look } = tools({ look: { execute: (_: unknown, __: { toolCallId: string }) => 'seen' } })
        for (let step = stepsDone; step < 2; step++) {
          const toolCallId = `k${step}`
          yield { type: 'start-step' }
          yield { type: 'tool-input-available', toolCallId, toolName: 'look', input: {} }
          yield { type: 'tool-output-available', toolCallId, output: await look.execute({}, { toolCallId }) }
          yield { type: 'finish-step' } as ReplyChunk
          resumed.push(step)
        }
        yield { type: 'finish', finishReason: 'stop' }
      },
    })
    const { waiting, asked } = await waitingOf(scene)
    expect(callsIn(partsIn(waiting))).toEqual([['k0', 'output-available', 'seen']])
    expect(resumed).toEqual([])
    await say(scene, asked.id, true)
    const second = await waits(scene.watcher, 2)
    await say(scene, second.data.turn.approvals[0].id, true)
    const outcome = await scene.watcher.outcome('m1')
    expect(callsIn(partsIn(outcome))).toEqual([
      ['k0', 'output-available', 'seen'],
      ['k1', 'output-available', 'seen'],
    ])
  })

  test('the end of a step that was kept counts once, also where the reply says it', async () => {
    const approval = { type: 'tool-approval-request', approvalId: 'p1', toolCallId: 'k1' } as ReplyChunk
    const done: number[] = []
    const scene = await openChat({
      stepsMax: 3,
      async *reply(context) {
        const { attempt, stepsDone, tools } = context
        const { look } = tools({ look: { execute: (_: unknown, __: { toolCallId: string }) => 'seen' } })
        done.push(stepsDone)
        if (attempt === 1) {
          yield { type: 'start-step' }
          yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'look', input: {} }
          yield approval
          yield { type: 'finish-step' }
          yield { type: 'finish', finishReason: 'tool-calls' }
          return
        }
        if (attempt === 2) {
          const output = await look.execute({}, { toolCallId: 'k1' })
          yield { type: 'tool-output-available', toolCallId: 'k1', output }
          yield { type: 'finish-step' }
        }
        yield* stepping(5)(context) as AsyncIterable<ReplyChunk>
      },
    })
    const { asked } = await waitingOf(scene)
    await say(scene, asked.id, true)
    const budget = await waits(scene.watcher, 2)
    expect(budget.data.turn.approvals[0]).toMatchObject({ budget: 'steps', used: 3 })
    await say(scene, budget.data.turn.approvals[0].id, true)
    const outcome = await scene.watcher.outcome('m1')
    expect(textIn(outcome)).toBe('[2:1]\n\n[2:2]\n\n[3:3]\n\n[3:4]')
    expect(done).toEqual([0, 1, 3])
  })

  test('tokens of an attempt that failed count, too', async () => {
    let failed = false
    const scene = await openChat({
      tokensMax: 15,
      async *reply(context) {
        if (failed) return yield* stepping(3)(context) as AsyncIterable<ReplyChunk>
        failed = true
        context.usage({ inputTokens: 9, outputTokens: 7 })
        throw new ReplyError('provider_overloaded', 'for now')
      },
    })
    const { asked } = await waitingOf(scene)
    expect(asked).toMatchObject({ budget: 'tokens', used: 16, max: 15 })
    await say(scene, asked.id, true)
    const second = await waits(scene.watcher, 2)
    expect(second.data.turn.approvals[0]).toMatchObject({ used: 20, max: 15 })
    await say(scene, second.data.turn.approvals[0].id, true)
    expect((await scene.watcher.outcome('m1')).type).toBe('message.ai_response')
  })
})

describe('without progress', () => {
  /** Its first step is finished; in the second one it says a word and nothing more, as often as `silent`. */
  const hanging = (silent: number, asked: number[] = []): Reply =>
    async function* (context) {
      asked.push(context.stepsDone)
      context.usage({ inputTokens: 1 })
      if (asked.length > silent) return yield* stepping(3)(context) as AsyncIterable<ReplyChunk>
      if (context.stepsDone === 0) {
        yield { type: 'start-step' }
        yield { type: 'text-start', id: 't' }
        yield { type: 'text-delta', id: 't', delta: 'first' }
        yield { type: 'text-end', id: 't' }
        yield { type: 'finish-step' }
      }
      yield { type: 'start-step' }
      yield { type: 'text-start', id: 'u' }
      yield { type: 'text-delta', id: 'u', delta: 'half' }
      await new Promise((resolve) => context.signal.addEventListener('abort', resolve))
    }

  test('after the last attempt of the round it waits; let go on it has as many again, from its last finished step', async () => {
    const asked: number[] = []
    const scene = await openChat({ reply: hanging(4, asked), noProgressMs: 1_000, attemptsMax: 2 })
    const { waiting, asked: first } = await waitingOf(scene)
    expect(first).toEqual({ kind: 'budget', id: some, budget: 'progress', used: 2, max: 2, expiresAt: some })
    expect(textIn(waiting)).toBe('first\n\nhalf')
    expect(await queryOnce(scene.database, 'select attempt, outcome from holdfast.usage order by attempt')).toEqual([
      // Its second step was begun, too.
      { attempt: 1, outcome: 'failed' },
      { attempt: 1, outcome: 'failed' },
      { attempt: 2, outcome: 'failed' },
    ])
    expect(ofType(scene.watcher, 'attempt.ended').map(({ data }) => data.code)).toEqual(['no_progress'])
    await say(scene, first.id, true)
    const second = await waits(scene.watcher, 2)
    expect(second.data.turn.approvals[0]).toMatchObject({ budget: 'progress', used: 2 })
    const base = ofType(scene.watcher, 'attempt.started').at(-1)!.data.base as { text?: string }[]
    expect(base.map(({ text }) => text)).toEqual([undefined, 'first'])
    await say(scene, second.data.turn.approvals[0].id, true)
    const outcome = await scene.watcher.outcome('m1')
    expect(textIn(outcome).split('\n\n')).toEqual(['first', '[5:1]', '[5:2]'])
    expect(asked).toEqual([0, 1, 1, 1, 1])
    expect(scene.watcher.problems).toEqual([])
  })

  test('what the silent attempt took counts as tokens of the round', async () => {
    const scene = await openChat({
      ...{ noProgressMs: 1_000, attemptsMax: 1, tokensMax: 15 },
      async *reply(context) {
        if (context.attempt > 1) return yield* stepping(1)(context) as AsyncIterable<ReplyChunk>
        context.usage({ inputTokens: 9, outputTokens: 7 })
        await new Promise((resolve) => context.signal.addEventListener('abort', resolve))
      },
    })
    const { asked } = await waitingOf(scene)
    expect(asked).toMatchObject({ budget: 'progress', used: 1 })
    await say(scene, asked.id, true)
    const second = await waits(scene.watcher, 2)
    expect(second.data.turn.approvals[0]).toMatchObject({ budget: 'tokens', used: 16, max: 15 })
    await say(scene, second.data.turn.approvals[0].id, true)
    expect(textIn(await scene.watcher.outcome('m1'))).toBe('[3:0]')
  })

  test('nobody answers in time: it has failed as no_progress, and what was shown is kept', async () => {
    const scene = await openChat({ reply: hanging(9), noProgressMs: 1_000, attemptsMax: 1, approvalExpiresMs: 1_000 })
    await waitingOf(scene)
    const outcome = await scene.watcher.outcome('m1')
    expect(outcome.data).toMatchObject({ code: 'no_progress', canRetry: true, message: { status: 'failed' } })
    expect(textIn(outcome)).toBe('first\n\nhalf')
  })

  test('onBudget: fail ends the turn as no_progress', async () => {
    const scene = await openChat({ reply: hanging(9), noProgressMs: 1_000, attemptsMax: 1, onBudget: 'fail' })
    await scene.ann.send(scene.session, 'hi', 'm1')
    expect((await scene.watcher.outcome('m1')).data).toMatchObject({ code: 'no_progress' })
    expect(ofType(scene.watcher, 'turn.waiting')).toEqual([])
  })
})

describe('what becomes of the question', () => {
  const openWaiting = async (options: Parameters<typeof openChat>[0] = {}) => {
    const scene = await openChat({ reply: stepping(4), stepsMax: 2, ...options })
    return { ...scene, ...(await waitingOf(scene)) }
  }

  test('refused it is stopped by who refused, its text is kept, and it can be tried again (P34, P71)', async () => {
    const scene = await openWaiting()
    const refused = await say(scene, scene.asked.id, false, { reason: 'too dear' })
    expect(refused).toMatchObject({ status: 200, body: { turn: { state: 'stopped' }, reply: { status: 'stopped' } } })
    const outcome = await scene.watcher.outcome('m1')
    expect(outcome).toMatchObject({ type: 'message.stopped', data: { by: 'ann', reason: 'budget', said: 'too dear' } })
    expect(textIn(outcome)).toBe('[1:0]\n\n[1:1]')
    expect(await shownOf(scene.ann, scene.session)).toEqual(['user: hi', 'assistant stopped: [1:0]\n\n[1:1]'])
    const listed = (await (await scene.ann.request('/v1/sessions')).json()) as { data: object[] }
    expect(listed.data[0]).toMatchObject({ lastPreview: '[1:0] [1:1]', messageCount: 2 })
    // The same again changes nothing, and another answer is refused.
    expect((await say(scene, scene.asked.id, false, { reason: 'too dear' })).status).toBe(200)
    expect(await say(scene, scene.asked.id, true)).toMatchObject({ status: 409, body: { code: 'not_waiting' } })
    expect(outcomesOf(scene.watcher, 'm1')).toHaveLength(1)
    await scene.ann.command(scene.session, 'm1', 'retry', { round: 1 })
    // The new round has its whole budget.
    const again = await waits(scene.watcher, 2)
    expect(again.data.turn).toMatchObject({ round: 2, approvals: [{ used: 2, max: 2 }] })
  })

  test.each(['withdrawn', 'steered', 'interrupted'])(
    'refused with the word %s it is kept as with any other: what a person says is no reason of the server’s (P117)',
    async (word) => {
      const scene = await openWaiting()
      await say(scene, scene.asked.id, false, { reason: word })
      expect((await scene.watcher.outcome('m1')).data).toMatchObject({ by: 'ann', reason: 'budget', said: word })
      expect(await shownOf(scene.ann, scene.session)).toEqual(['user: hi', 'assistant stopped: [1:0]\n\n[1:1]'])
    },
  )

  test('refused without a word there is none (P117)', async () => {
    const scene = await openWaiting()
    await say(scene, scene.asked.id, false)
    const { data } = await scene.watcher.outcome('m1')
    expect(data.reason).toBe('budget')
    expect(data).not.toHaveProperty('said')
  })

  test('nobody answers in time: it has failed as budget_exceeded, and its text is kept (P115)', async () => {
    const scene = await openWaiting({ approvalExpiresMs: 1_000 })
    const outcome = await scene.watcher.outcome('m1')
    expect(outcome.data).toMatchObject({ code: 'budget_exceeded', canRetry: true, message: { status: 'failed' } })
    expect(textIn(outcome)).toBe('[1:0]\n\n[1:1]')
    expect(await say(scene, scene.asked.id, true)).toMatchObject({ status: 409 })
  })

  test('a yes counts as a message of who says it, and the server may say as many as it likes (P35, P36, P117)', async () => {
    const scene = await openWaiting({ reply: stepping(5), limits: { sendsPerMinute: 2 } })
    const { ann, session, chat, watcher } = scene
    const yes = (id: string) =>
      ann.request(`/v1/sessions/${session}/approvals/${id}`, { method: 'POST', body: '{"approved":true}' })
    const counted = await yes(scene.asked.id)
    expect([counted.status, counted.headers.get('ratelimit-policy')]).toEqual([200, '"sends";q=2;w=60'])
    expect(counted.headers.get('ratelimit')).toMatch(/r=0/)
    const { id } = (await waits(watcher, 2)).data.turn.approvals[0]
    const same = await yes(scene.asked.id)
    expect([same.status, same.headers.get('ratelimit')]).toEqual([200, null])
    const refused = await yes(id)
    expect([refused.status, refused.headers.get('ratelimit-policy')]).toEqual([429, '"sends";q=2;w=60'])
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(await refused.json()).toMatchObject({ code: 'rate_limited', retryable: true, userMessageId: 'm1' })
    await expect(chat.approve(session, id, { approved: true, userId: 'ann' })).rejects.toMatchObject({
      code: 'rate_limited',
      retryAfterMs: expect.any(Number),
    })
    expect((await ann.snapshot(session)).turns).toMatchObject([{ state: 'waiting' }])
    await chat.approve(session, id, { approved: true })
    expect(textIn(await watcher.outcome('m1'))).toBe('[1:0]\n\n[1:1]\n\n[2:2]\n\n[2:3]\n\n[3:4]')
  })

  test('a no is not counted, also where no more may be sent', async () => {
    const scene = await openWaiting({ limits: { sendsPerMinute: 1 } })
    expect(await say(scene, scene.asked.id, false)).toMatchObject({ status: 200, body: { turn: { state: 'stopped' } } })
  })

  test('a round is let go on as often as a turn may have rounds, and then it fails (P117)', async () => {
    const scene = await openWaiting({ reply: stepping(9), roundsMax: 2 })
    await say(scene, scene.asked.id, true)
    const second = await waits(scene.watcher, 2)
    await say(scene, second.data.turn.approvals[0].id, true)
    const outcome = await scene.watcher.outcome('m1')
    expect(outcome.data).toMatchObject({ code: 'budget_exceeded', message: { status: 'failed' } })
    expect(textIn(outcome).split('\n\n')).toHaveLength(6)
    expect(ofType(scene.watcher, 'turn.waiting')).toHaveLength(2)
    // Another round may be let go on as often.
    await scene.ann.command(scene.session, 'm1', 'retry', { round: 1 })
    expect((await waits(scene.watcher, 3)).data.turn).toMatchObject({ round: 2, approvals: [{ used: 2 }] })
  })

  test('a stop, an edit and another reply are as where anything else waits (P116)', async () => {
    const scene = await openWaiting()
    for (const [command, body] of [
      ['edit', { id: 'm2', text: 'ho' }],
      ['regenerate', { id: 'r2' }],
    ] as const) {
      await expect(scene.ann.command(scene.session, 'm1', command, body)).rejects.toMatchObject({
        problem: { code: 'busy' },
      })
    }
    expect((await scene.ann.command(scene.session, 'm1', 'retry', { round: 1 })).turn.state).toBe('waiting')
    expect((await scene.ann.command(scene.session, 'm1', 'stop')).turn.state).toBe('stopped')
    expect(await say(scene, scene.asked.id, true)).toMatchObject({ status: 409 })
    expect(textIn(await scene.watcher.outcome('m1'))).toBe('[1:0]\n\n[1:1]')
  })

  test('who may not write may not answer, another member and the app may, and each answers once (P114, I15)', async () => {
    const scene = await openWaiting()
    const { url, session, asked, chat, database } = scene
    const join = (user: string, role: string) =>
      queryOnce(
        database,
        `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, $2, $3)`,
        [session, user, role],
      )
    await join('rita', 'reader')
    await join('mia', 'member')
    const yes = { approved: true }
    expect((await answer(await apiOf(url, 'rita'), session, 'approvals', asked.id, yes)).status).toBe(403)
    expect((await answer(await apiOf(url, 'otto'), session, 'approvals', asked.id, yes)).status).toBe(404)
    expect((await answer(await apiOf(url, 'mia'), session, 'approvals', asked.id, yes)).status).toBe(200)
    expect(await chat.approve(session, asked.id, yes)).toMatchObject({ reply: { repliesTo: 'm1' } })
    await expect(chat.approve(session, asked.id, { approved: false })).rejects.toMatchObject({ code: 'not_waiting' })
    await scene.watcher.outcome('m1')
    expect(ofType(scene.watcher, 'approval.answered').map(({ data }) => data.by)).toEqual(['mia'])
  })

  test('what comes behind waits with it, or where the option says so is answered meanwhile', async () => {
    const held = await openWaiting()
    await held.ann.send(held.session, 'and?', 'm2')
    expect((await held.ann.snapshot(held.session)).turns.map(({ state }) => state)).toEqual(['waiting', 'queued'])
    await say(held, held.asked.id, false)
    expect((await waits(held.watcher, 2)).data.turn.messageId).toBe('m2')

    const free = await openWaiting({
      waitHoldsLane: false,
      reply: (context) => (context.message.id === 'm2' ? 'the second' : stepping(4)(context)),
    })
    await free.ann.send(free.session, 'and?', 'm2')
    expect(textIn(await free.watcher.outcome('m2'))).toBe('the second')
    await say(free, free.asked.id, true)
    expect(textIn(await free.watcher.outcome('m1'))).toBe('[1:0]\n\n[1:1]\n\n[2:2]\n\n[2:3]')
  })

  test('a message that interrupts ends it, also in the moment when it may go on (P33)', async () => {
    const scene = await openWaiting({ roles: ['http', 'runner'] })
    await scene.ann.request(`/v1/sessions/${scene.session}/messages`, {
      method: 'POST',
      body: JSON.stringify({ id: 'm2', text: 'no', whenBusy: 'interrupt' }),
    })
    expect(await scene.watcher.outcome('m1')).toMatchObject({
      type: 'message.stopped',
      data: { reason: 'interrupted' },
    })
    expect(await say(scene, scene.asked.id, true)).toMatchObject({ status: 409 })
  })
})
