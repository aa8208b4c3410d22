/** Who answers what a reply waits for, when, and what else may become of it (P111–P116). */
import { expect, onTestFinished, test } from 'vitest'
import { createHoldfast, type HoldfastError } from '../../src/index.ts'
import { ofType, outcomesOf, textIn } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { freshDatabase, queryOnce } from '../support/postgres.ts'
import { startProvider } from '../support/provider.mjs'
import { jwtSecret } from '../support/server.ts'
import { answer, call, callsIn, modelOf, openAsking, partsIn, replyOf, resultsIn, waits } from './asking.ts'

const book = () => [[call('k1', 'book')]]
const openWaiting = async (options: Parameters<typeof openAsking>[2] = {}, steps = book()) => {
  const scene = await openAsking(7, steps, options)
  await scene.ann.send(scene.session, 'hi', 'm1')
  const waiting = await waits(scene.watcher)
  const [approval] = waiting.data.turn.approvals
  return { ...scene, waiting, approvalId: approval?.id as string, turnId: waiting.data.turn.id as string }
}
const join = (database: string, session: string, user: string, role: string) =>
  queryOnce(
    database,
    `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, $2, $3)`,
    [session, user, role],
  )

test('the first answer counts: the same again changes nothing, another is refused, and an unknown id is not there (P114)', async () => {
  const { ann, session, approvalId, watcher, runs, database } = await openWaiting()
  const yes = { approved: true }
  expect((await answer(ann, session, 'approvals', approvalId, yes)).status).toBe(200)
  await watcher.outcome('m1')
  const before = await queryOnce(database, 'select seq from holdfast.events order by seq')
  expect(await answer(ann, session, 'approvals', approvalId, yes)).toMatchObject({
    status: 200,
    body: { turn: { state: 'complete' } },
  })
  for (const other of [{ approved: false }, { approved: true, reason: 'so' }]) {
    expect(await answer(ann, session, 'approvals', approvalId, other)).toMatchObject({
      status: 409,
      body: { code: 'not_waiting' },
    })
  }
  expect((await answer(ann, session, 'approvals', 'none', yes)).status).toBe(404)
  expect((await answer(ann, session, 'tool-results', 'k1', { output: 1 })).status).toBe(404)
  for (const bad of [{}, { approved: 'yes' }, { approved: true, input: {} }]) {
    expect((await answer(ann, session, 'approvals', approvalId, bad)).status).toBe(400)
  }
  for (const bad of [{}, { output: 1, errorText: 'no' }, { output: 1, input: 2 }]) {
    expect((await answer(ann, session, 'tool-results', 'k1', bad)).status).toBe(400)
  }
  expect(await queryOnce(database, 'select seq from holdfast.events order by seq')).toEqual(before)
  expect(runs).toHaveLength(1)
})

test('any member may answer from any device, a reader may not, and to strangers there is nothing (I15)', async () => {
  const { url, ann, session, approvalId, watcher, database } = await openWaiting()
  await join(database, session, 'mia', 'member')
  await join(database, session, 'rita', 'reader')
  const yes = { approved: true }
  expect((await answer(await apiOf(url, 'otto'), session, 'approvals', approvalId, yes)).status).toBe(404)
  expect((await answer(await apiOf(url, 'rita'), session, 'approvals', approvalId, yes)).status).toBe(403)
  expect((await ann.snapshot(session)).turns[0]!.state).toBe('waiting')
  expect((await answer(await apiOf(url, 'mia'), session, 'approvals', approvalId, yes)).status).toBe(200)
  await watcher.outcome('m1')
  expect(ofType(watcher, 'approval.answered').map(({ data }) => data.by)).toEqual(['mia'])
})

test('of two turns that ask with one id it is the one that a user may see whose question they answer (I15)', async () => {
  const { url, ann, session, watcher, database } = await openWaiting({ waitHoldsLane: false }, [[call('k1', 'where')]])
  await ann.send(session, 'and?', 'm2')
  const second = await waits(watcher, 2)
  await join(database, session, 'mia', 'member')
  await join(database, session, 'rita', 'reader')
  await queryOnce(database, `update holdfast.turns set audience = 'user:ann' where message_id = 'm2'`)
  expect((await answer(await apiOf(url, 'rita'), session, 'tool-results', 'k1', { output: 1 })).status).toBe(403)
  const mia = await apiOf(url, 'mia')
  const named = { output: 'hers', turnId: second.data.turn.id }
  expect((await answer(mia, session, 'tool-results', 'k1', named)).status).toBe(404)
  expect((await answer(mia, session, 'tool-results', 'k1', { output: 'hers' })).status).toBe(200)
  await watcher.outcome('m1')
  expect((await answer(ann, session, 'tool-results', 'k1', { output: 'mine' })).status).toBe(200)
  const said = ofType(watcher, 'approval.answered').map(({ data }) => [data.turn.messageId, data.part.output])
  expect(said.slice(0, 2)).toEqual([
    ['m1', 'hers'],
    ['m2', 'mine'],
  ])
})

test('an answer that is sent again with its attempt is never one to a later question of the same id (P114)', async () => {
  // A provider that numbers the calls of each step.
  const { chat, ann, session, watcher } = await openChat({
    reply: async function* ({ stepsDone }) {
      if (stepsDone < 2) {
        yield { type: 'start-step' }
        yield { type: 'tool-input-available', toolCallId: 'call_0', toolName: 'where', input: { step: stepsDone } }
        yield { type: 'finish-step' }
      }
      yield { type: 'finish', finishReason: stepsDone < 2 ? 'tool-calls' : 'stop' }
    },
  })
  await ann.send(session, 'hi', 'm1')
  const first = (await waits(watcher)).data.turn
  const body = { output: 'home', turnId: first.id, attempt: first.attempt }
  expect((await answer(ann, session, 'tool-results', 'call_0', body)).status).toBe(200)
  const second = (await waits(watcher, 2)).data.turn
  expect([first.attempt, second.attempt]).toEqual([1, 2])
  expect((await ann.snapshot(session)).turns[0]).toMatchObject({ state: 'waiting', attempt: 2 })
  // Its answer was lost, and it is sent again.
  expect(await answer(ann, session, 'tool-results', 'call_0', body)).toMatchObject({
    status: 200,
    body: { turn: { state: 'waiting', toolCalls: [{ toolCallId: 'call_0' }] } },
  })
  expect((await chat.answerTool(session, 'call_0', body)).turn.state).toBe('waiting')
  expect((await answer(ann, session, 'tool-results', 'call_0', { ...body, output: 'work' })).status).toBe(409)
  expect((await answer(ann, session, 'tool-results', 'call_0', { ...body, attempt: 3 })).status).toBe(404)
  expect((await answer(ann, session, 'tool-results', 'call_0', { ...body, attempt: 0 })).status).toBe(400)
  expect(ofType(watcher, 'approval.answered')).toHaveLength(1)
  // Without it the one that waits is meant.
  expect((await answer(ann, session, 'tool-results', 'call_0', { output: 'work' })).status).toBe(200)
  expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([
    ['call_0', 'output-available', 'home'],
    ['call_0', 'output-available', 'work'],
  ])
})

test('an approval that is sent again with its attempt is never one to a later question of the same id (P114)', async () => {
  const { chat, ann, session, watcher } = await openChat({
    reply: async function* ({ stepsDone }) {
      if (stepsDone < 2) {
        yield { type: 'start-step' }
        yield { type: 'tool-input-available', toolCallId: 'call_0', toolName: 'book', input: { step: stepsDone } }
        yield { type: 'tool-approval-request', toolCallId: 'call_0', approvalId: 'approve_0' }
        yield { type: 'finish-step' }
      }
      yield { type: 'finish', finishReason: stepsDone < 2 ? 'tool-calls' : 'stop' }
    },
  })
  await ann.send(session, 'hi', 'm1')
  const { id: turnId, attempt } = (await waits(watcher)).data.turn
  const yes = { approved: true, turnId, attempt }
  expect((await answer(ann, session, 'approvals', 'approve_0', yes)).status).toBe(200)
  await waits(watcher, 2)
  expect(await answer(ann, session, 'approvals', 'approve_0', yes)).toMatchObject({
    status: 200,
    body: { turn: { state: 'waiting', attempt: 2 } },
  })
  expect((await chat.approve(session, 'approve_0', yes)).turn.state).toBe('waiting')
  expect(ofType(watcher, 'approval.answered')).toHaveLength(1)
  await chat.approve(session, 'approve_0', { ...yes, attempt: 2, approved: false })
  expect((await watcher.outcome('m1')).type).toBe('message.ai_response')
  expect(ofType(watcher, 'approval.answered').map(({ data }) => data.approved)).toEqual([true, false])
})

test('the app’s own code answers as the server, or as a user', async () => {
  const steps = [[call('k1', 'book')], [call('k2', 'where')]]
  const { chat, session, approvalId, watcher } = await openWaiting({}, steps)
  const none = await chat.approve(session, 'none', { approved: true }).catch((error: HoldfastError) => error)
  expect(none).toMatchObject({ code: 'not_found' })
  const { turn } = await chat.approve(session, approvalId, { approved: true, reason: 'by rule' })
  expect(['queued', 'running', 'waiting']).toContain(turn.state)
  await waits(watcher, 2)
  await chat.answerTool(session, 'k2', { output: { at: 'home' }, userId: 'ann' })
  const late = await chat.answerTool(session, 'k2', { errorText: 'no' }).catch((error: HoldfastError) => error)
  expect(late).toMatchObject({ code: 'not_waiting', status: 409 })
  expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([
    ['k1', 'output-available', { of: 'book' }],
    ['k2', 'output-available', { at: 'home' }],
  ])
  expect(ofType(watcher, 'approval.answered').map(({ data }) => [data.kind, data.by, data.reason])).toEqual([
    ['approval', 'server', 'by rule'],
    ['tool', 'ann', undefined],
  ])
})

test('what nobody has answered in time is refused by the server, the model is told, and the reply goes on (P115)', async () => {
  const step = [[call('k1', 'book'), call('k2', 'where')]]
  const { ann, session, approvalId, watcher, database, provider, runs } = await openWaiting({}, step)
  const [row] = await queryOnce<{ hours: number }>(
    database,
    `select extract(epoch from min(expires_at) - min(asked_at))::float / 3600 as hours from holdfast.asks`,
  )
  expect(row!.hours).toBeCloseTo(24, 2)
  await queryOnce(
    database,
    `update holdfast.asks set expires_at = now() - interval '1 s', asked_at = now() - interval '3 days'`,
  )
  const outcome = await watcher.outcome('m1')
  expect(callsIn(partsIn(outcome))).toEqual([
    ['k1', 'output-denied'],
    ['k2', 'output-error', 'No result came in time.'],
  ])
  expect(JSON.stringify(resultsIn(provider.requests[1]!))).toContain('expired')
  expect(ofType(watcher, 'approval.answered').map(({ data }) => [data.approved, data.by, data.reason])).toEqual([
    [false, 'server', 'expired'],
    [false, 'server', undefined],
  ])
  expect((await answer(ann, session, 'approvals', approvalId, { approved: true })).status).toBe(409)
  expect(runs).toEqual([])
})

test('a waiting turn is stopped: its history is valid, nothing is asked any more, and the next turn works (I11, P116)', async () => {
  const { ann, session, approvalId, watcher, runs, provider } = await openWaiting()
  const busy = await ann.command(session, 'm1', 'regenerate', { id: 'r2' }).catch((error) => error.problem.code)
  expect(busy).toBe('busy')
  const stopped = await ann.command(session, 'm1', 'stop')
  expect(stopped.turn).toMatchObject({ state: 'stopped' })
  expect(callsIn(stopped.reply.parts)).toEqual([['k1', 'output-error', 'stopped']])
  expect((await answer(ann, session, 'approvals', approvalId, { approved: true })).status).toBe(409)
  // The model is told what was stopped, and asks again in the next turn's own name.
  provider.script(() => [{ text: 'Fine.' }])
  await ann.send(session, 'then not', 'm2')
  expect(textIn(await watcher.outcome('m2'))).toBe('Fine.')
  expect(resultsIn(provider.requests.at(-1)!)).toEqual([['k1', 'stopped']])
  expect(runs).toEqual([])
  expect(watcher.problems).toEqual([])
})

test('a retry of a stopped one asks anew: the old approval is of no use to it', async () => {
  const { ann, session, approvalId, watcher, runs } = await openWaiting()
  await ann.command(session, 'm1', 'stop')
  await ann.command(session, 'm1', 'retry')
  const { data } = await waits(watcher, 2)
  const [approval] = data.turn.approvals
  expect(approval.id).not.toBe(approvalId)
  expect((await answer(ann, session, 'approvals', approvalId, { approved: true })).status).toBe(409)
  expect(runs).toEqual([])
  await answer(ann, session, 'approvals', approval.id, { approved: true })
  await watcher.until(({ type }) => type === 'message.ai_response')
  expect(runs).toHaveLength(1)
})

test('a message behind a waiting reply waits with it, and is told its end (P33, I13)', async () => {
  const { ann, session, approvalId, watcher, provider } = await openWaiting()
  await ann.send(session, 'and now?', 'm2')
  expect((await ann.snapshot(session)).turns.map(({ state }) => state)).toEqual(['waiting', 'queued'])
  await answer(ann, session, 'approvals', approvalId, { approved: true })
  await watcher.outcome('m2')
  const types = watcher.frames.filter(({ type }) =>
    /^(message\.(created|ai_response)|turn|approval|attempt)/.test(type),
  )
  expect(types.map(({ type }) => type)).toEqual([
    'message.created',
    'attempt.started',
    'turn.waiting',
    'message.created',
    'approval.answered',
    'attempt.started',
    'message.ai_response',
    'attempt.started',
    'message.ai_response',
  ])
  expect(resultsIn(provider.requests.at(-1)!)).toHaveLength(1)
})

test('an interrupting message ends a waiting reply, and is answered', async () => {
  const { ann, session, watcher, provider } = await openWaiting()
  provider.script(() => [{ text: 'Fine.' }])
  await ann.send(session, 'forget it', 'm2', { whenBusy: 'interrupt' })
  expect(textIn(await watcher.outcome('m2'))).toBe('Fine.')
  expect((await watcher.outcome('m1')).data).toMatchObject({ reason: 'interrupted' })
})

test('where the app lets the lane go on, later messages are answered first and are not told what waits (I13)', async () => {
  const { ann, session, approvalId, watcher, provider, runs } = await openWaiting({ waitHoldsLane: false })
  provider.script(({ body }) => {
    const last = body.messages.at(-1)
    return [{ text: last.role === 'tool' ? 'Booked.' : 'Meanwhile.' }]
  })
  await ann.send(session, 'and now?', 'm2')
  expect(textIn(await watcher.outcome('m2'))).toBe('Meanwhile.')
  expect(
    provider.requests
      .at(-1)!
      .body.messages.map(({ role, content }: { role: string; content: string }) => [role, content]),
  ).toEqual([
    ['user', 'hi'],
    ['user', 'and now?'],
  ])
  await answer(ann, session, 'approvals', approvalId, { approved: true })
  expect(textIn(await watcher.outcome('m1'))).toContain('Booked.')
  expect(provider.requests.at(-1)!.body.messages.map(({ role }: { role: string }) => role)).toEqual([
    'user',
    'assistant',
    'tool',
  ])
  expect(runs).toHaveLength(1)
  expect(watcher.problems).toEqual([])
})

test('another process goes on, days later, after the one that asked has ended', async () => {
  const provider = await startProvider()
  const fresh = await freshDatabase(18)
  onTestFinished(async () => {
    await provider.stop()
    await fresh.drop()
  })
  provider.script(modelOf(book()))
  const runs: unknown[] = []
  const start = async () => {
    const chat = createHoldfast({
      database: fresh.url,
      tokens: { secret: jwtSecret },
      log: () => undefined,
      drainMs: 0,
      approvalExpiresMs: 30 * 86_400_000,
      reply: replyOf(7, provider.url, (run) => runs.push(run)),
    })
    const { url } = await chat.listen(0)
    return { chat, ann: await apiOf(url) }
  }
  const first = await start()
  const session = await first.ann.createSession()
  await first.ann.send(session, 'hi', 'm1')
  const watcher = first.ann.watch(session)
  const { data } = await waits(watcher)
  await watcher.close()
  await first.chat.close()
  await queryOnce(
    fresh.url,
    `update holdfast.asks set asked_at = asked_at - interval '3 days', expires_at = expires_at - interval '3 days'`,
  )
  const second = await start()
  onTestFinished(() => second.chat.close())
  const later = second.ann.watch(session)
  onTestFinished(() => later.close())
  const snapshot = await second.ann.snapshot(session)
  expect(snapshot.turns[0]).toMatchObject({ state: 'waiting', approvals: [{ toolCallId: 'k1' }] })
  expect(callsIn(snapshot.messages[1]!.parts)).toEqual([['k1', 'approval-requested']])
  await answer(second.ann, session, 'approvals', data.turn.approvals[0].id, { approved: true })
  expect(textIn(await later.outcome('m1'))).toBe('Let me see.\n\nTold: 1.')
  expect(runs).toHaveLength(1)
  expect(outcomesOf(later, 'm1')).toHaveLength(1)
  expect(later.problems).toEqual([])
})

test('a call runs with the input that was shown, and with no other', async () => {
  const { ann, session, approvalId, watcher, runs, database, turnId } = await openWaiting()
  await queryOnce(
    database,
    `update holdfast.turns set checkpoint = replace(checkpoint::text, '"here"', '"elsewhere"')::json where id = $1`,
    [turnId],
  )
  await answer(ann, session, 'approvals', approvalId, { approved: true })
  const outcome = await watcher.outcome('m1')
  expect(callsIn(partsIn(outcome))).toEqual([['k1', 'output-error', 'An error occurred.']])
  expect(runs).toEqual([])
})

test('a reply’s output tokens are those of all its attempts, and each is counted once (I12)', async () => {
  const { ann, session, approvalId, watcher, database } = await openWaiting()
  await answer(ann, session, 'approvals', approvalId, { approved: true })
  const { message } = (await watcher.outcome('m1')).data
  const rows = await queryOnce<{ attempt: number; step: number; output_tokens: number; outcome: string }>(
    database,
    'select attempt, step, output_tokens, outcome from holdfast.usage order by attempt, step',
  )
  expect(rows.map(({ attempt, step, outcome }) => [attempt, step, outcome])).toEqual([
    [1, 0, 'complete'],
    [2, 0, 'complete'],
  ])
  expect(message.outputTokens).toBe(rows.reduce((sum, row) => sum + row.output_tokens, 0))
})

test('a reply that makes its own chunks asks in the same way, whatever its ids look like', async () => {
  const { ann, session, watcher } = await openChat({
    reply: async function* ({ messages, stepsDone }) {
      if (stepsDone > 0) {
        const last = messages.at(-1)!.parts.at(-1) as { state: string; approval: { approved: boolean } }
        yield { type: 'start-step' }
        yield { type: 'text-start', id: 't' }
        yield { type: 'text-delta', id: 't', delta: `${last.state} ${last.approval.approved}` }
        yield { type: 'text-end', id: 't' }
        yield { type: 'finish-step' }
        yield { type: 'finish', finishReason: 'stop' }
        return
      }
      yield { type: 'start-step' }
      yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'book', input: { place: 'here' } }
      yield { type: 'tool-approval-request', toolCallId: 'k1', approvalId: 'p/1 é=' }
      yield { type: 'finish-step' }
      yield { type: 'finish', finishReason: 'tool-calls' }
    },
  })
  await ann.send(session, 'hi', 'm1')
  await waits(watcher)
  await answer(ann, session, 'approvals', encodeURIComponent('p/1 é='), { approved: false })
  expect(textIn(await watcher.outcome('m1'))).toBe('approval-responded false')
})
