/** `?wait=`: a message's reply in the answer to the message, for clients that know no events (R0.8). */
import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { createWaiting } from '../../src/http/wait.ts'
import { ReplyError } from '../../src/index.ts'
import { createHub } from '../../src/log/hub.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { answer, call, callsIn, openAsking } from '../control/asking.ts'
import { gate } from '../faults/scene.ts'
import { stopAsk } from '../races/held.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf } from '../support/client.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProvider } from '../support/provider.mjs'
import { startServer } from '../support/server.ts'
import { acceptanceOf, createAcceptor, openStored, sessionsOf, tenantId, userId } from '../support/stored.ts'

async function send(api: Api, session: string, wait: number | string, id: string = randomUUID(), signal?: AbortSignal) {
  const body = JSON.stringify({ id, text: 'hi' })
  const init = { method: 'POST', body, ...(signal ? { signal } : {}) }
  const response = await api.request(`/v1/sessions/${session}/messages?wait=${wait}`, init)
  return { status: response.status, location: response.headers.get('location'), body: await response.json() }
}

const longWait = 50

test('the answer is 200 with message, reply and turn when the turn has its outcome in time, and its cursor goes on from there (R0.8, P37)', async () => {
  const { ann, session } = await openChat()
  const { status, location, body } = await send(ann, session, longWait, 'm1')
  expect({ status, location }).toEqual({ status: 200, location: `/v1/sessions/${session}` })
  expect(Object.keys(body)).toEqual(['message', 'reply', 'turn', 'cursor'])
  expect(body.message).toMatchObject({ id: 'm1', role: 'user', error: null })
  expect(body.reply).toMatchObject({ role: 'assistant', repliesTo: 'm1', status: 'complete' })
  expect(textOf(body.reply.parts)).toBe('the answer')
  expect(body.turn).toMatchObject({ messageId: 'm1', replyId: body.reply.id, state: 'complete' })
  expect((await ann.snapshot(session)).messages).toEqual([body.message, body.reply])
  expect((await ann.poll(session, { cursor: body.cursor })).frames).toEqual([])
})

test('the answer is 202, as without waiting, when there is no outcome in time; the reply is written all the same (R0.8, P37)', async () => {
  const { passed, open: finish } = gate()
  const { ann, session } = await openChat({
    async *reply() {
      yield 'the '
      await passed
      yield 'answer'
    },
  })
  const { status, location, body } = await send(ann, session, 0.3, 'm1')
  expect({ status, location }).toEqual({ status: 202, location: `/v1/sessions/${session}` })
  expect(Object.keys(body)).toEqual(['message', 'reply', 'turn', 'cursor'])
  expect(body.reply).toEqual({ id: body.turn.replyId, status: 'pending' })
  const watcher = ann.watch(session, body.cursor)
  finish()
  expect(textOf((await watcher.outcome('m1')).data.message.parts)).toBe('the answer')
  await watcher.close()
})

test('without wakeups the outcome is found by the poll (I8)', async () => {
  const { ann, session } = await openChat({ wakeups: 'off', pollMs: 100 })
  expect(await send(ann, session, longWait)).toMatchObject({ status: 200, body: { reply: { status: 'complete' } } })
})

test('the outcome is waited for where another process writes the reply (I8)', async () => {
  const database = await freshDatabase(18)
  const provider = await startProvider()
  onTestFinished(async () => {
    await provider.stop()
    await database.drop()
  })
  const settings = { database: database.url, provider: provider.url }
  const env = { HOLDFAST_POLL_MS: '10000' }
  const [http] = await Promise.all([
    startServer({ ...settings, env: { ...env, HOLDFAST_ROLES: 'http' } }),
    startServer({ ...settings, env: { ...env, HOLDFAST_ROLES: 'runner' } }),
  ])
  const ann = await apiOf(http.url)
  const { status, body } = await send(ann, await ann.createSession(), longWait)
  expect(status).toBe(200)
  expect(textOf(body.reply.parts)).toBe('Hello from the stub.')
})

test('a failed and a stopped turn are outcomes, too', async () => {
  const { ann, session } = await openChat({
    reply: ({ message: { id } }) => {
      if (id === 'fails') throw new ReplyError('content_filtered', 'no')
      return new Promise(() => undefined)
    },
  })
  const failed = await send(ann, session, longWait, 'fails')
  expect(failed).toMatchObject({
    status: 200,
    body: { message: { error: { code: 'content_filtered' } }, reply: { status: 'failed' }, turn: { state: 'failed' } },
  })
  const watcher = ann.watch(session, failed.body.cursor)
  const waits = send(ann, session, longWait, 'hangs')
  await watcher.until(({ type }) => type === 'attempt.started')
  await ann.command(session, 'hangs', 'stop')
  expect(await waits).toMatchObject({ status: 200, body: { reply: { status: 'stopped' }, turn: { state: 'stopped' } } })
  await watcher.close()
})

test('a turn that waits for people is answered 202 at once, with what it asks: answered, the same send waits for the outcome (P37, P110)', async () => {
  const { ann, session } = await openAsking(6, [[call('k1', 'book'), call('k2', 'where')]])
  const first = await send(ann, session, longWait, 'm1')
  expect({ status: first.status, location: first.location }).toEqual({
    status: 202,
    location: `/v1/sessions/${session}`,
  })
  expect(first.body.turn).toMatchObject({ state: 'waiting', toolCalls: [{ toolCallId: 'k2' }] })
  expect(first.body.reply).toMatchObject({ status: 'streaming' })
  expect(callsIn(first.body.reply.parts)).toEqual([
    ['k1', 'approval-requested'],
    ['k2', 'input-available'],
  ])
  const [{ id }] = first.body.turn.approvals
  expect((await answer(ann, session, 'approvals', id, { approved: true })).status).toBe(200)
  const second = await send(ann, session, longWait, 'm1')
  expect(second).toMatchObject({ status: 202, body: { turn: { state: 'waiting', approvals: [] } } })
  await answer(ann, session, 'tool-results', 'k2', { output: 'home' })
  const third = await send(ann, session, longWait, 'm1')
  expect(third).toMatchObject({ status: 200, body: { reply: { status: 'complete' }, turn: { state: 'complete' } } })
})

test('a message that was handed to a reply which then waits for people is answered 202 at once, too (P37, P110)', async () => {
  const { passed, open: goOn } = gate()
  const { ann, session } = await openChat({
    async *reply({ steering }) {
      yield { type: 'start-step' }
      yield { type: 'text-start', id: 't' }
      await passed
      yield { type: 'finish-step' }
      await steering()
      yield { type: 'start-step' }
      yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'book', input: 1 }
      yield { type: 'tool-approval-request', approvalId: 'a1', toolCallId: 'k1' }
      yield { type: 'finish-step' }
      yield { type: 'finish', finishReason: 'tool-calls' }
    },
  })
  const watcher = ann.watch(session)
  await send(ann, session, 0, 'm1')
  await watcher.until(({ type }) => type === 'attempt.started')
  const body = JSON.stringify({ id: 'm2', text: 'and this', whenBusy: 'steer' })
  const waits = ann.request(`/v1/sessions/${session}/messages?wait=${longWait}`, { method: 'POST', body })
  await watcher.until(({ type, data }) => type === 'message.created' && data.message.id === 'm2')
  goOn()
  const response = await waits
  expect(response.status).toBe(202)
  expect((await response.json()).reply).toMatchObject({ status: 'streaming' })
  // Sent again, it finds that reply waiting already.
  const sinceMs = performance.now()
  const again = await ann.request(`/v1/sessions/${session}/messages?wait=${longWait}`, { method: 'POST', body })
  expect(again.status).toBe(202)
  expect((await again.json()).reply).toMatchObject({ status: 'streaming' })
  expect(performance.now() - sinceMs).toBeLessThan((longWait * 1_000) / 2)
  await watcher.close()
})

test('a turn behind another is waited for past the outcome of that one', async () => {
  const { passed, open: finish } = gate()
  const { ann, session } = await openChat({
    reply: async ({ message: { id } }) => {
      if (id === 'm1') await passed
      return `to ${id}`
    },
  })
  await send(ann, session, 0, 'm1')
  const waits = send(ann, session, longWait, 'm2')
  const watcher = ann.watch(session)
  await watcher.until(({ type, data }) => type === 'message.created' && data.message.id === 'm2')
  finish()
  const { status, body } = await waits
  expect({ status, text: textOf(body.reply.parts) }).toEqual({ status: 200, text: 'to m2' })
  await watcher.close()
})

test('a repeated send waits for the same outcome, and is answered at once where there is one (P31, P37)', async () => {
  const { passed, open: finish } = gate()
  let asked = 0
  const { ann, session } = await openChat({
    reply: async () => {
      asked++
      await passed
      return 'the answer'
    },
  })
  const first = await send(ann, session, 0, 'm1')
  expect(first.status).toBe(202)
  const both = [send(ann, session, longWait, 'm1'), send(ann, session, longWait, 'm1')]
  // Both were answered what is stored, and wait: a third, which does not, came after them.
  expect((await send(ann, session, 0, 'm1')).status).toBe(202)
  finish()
  const answers = [...(await Promise.all(both)), await send(ann, session, longWait, 'm1')]
  for (const { status, body } of answers) {
    expect(status).toBe(200)
    expect(body).toEqual(answers[0]!.body)
    expect(body.turn).toMatchObject({ id: first.body.turn.id, state: 'complete' })
  }
  expect(asked).toBe(1)
})

test('a client that goes away while it waits stops nothing (P37)', async () => {
  const { passed, open: finish } = gate()
  const { ann, session } = await openChat({
    reply: async () => {
      await passed
      return 'the answer'
    },
  })
  const watcher = ann.watch(session)
  const leaving = new AbortController()
  const left = send(ann, session, longWait, 'm1', leaving.signal).catch((error: Error) => error.name)
  await watcher.until(({ type }) => type === 'attempt.started')
  leaving.abort()
  expect(await left).toBe('AbortError')
  finish()
  const { type, data } = await watcher.outcome('m1')
  expect({ type, text: textOf(data.message.parts) }).toEqual({ type: 'message.ai_response', text: 'the answer' })
  await watcher.close()
})

test('a process that drains answers 202 to who waits', async () => {
  const { chat, ann, session } = await openChat({ reply: () => new Promise(() => undefined) })
  const watcher = ann.watch(session)
  const waits = send(ann, session, longWait, 'm1')
  await watcher.until(({ type }) => type === 'attempt.started')
  await Promise.all([chat.close(), watcher.close()])
  expect((await waits).status).toBe(202)
})

test.each(['-1', '56', 'soon', 'NaN', '1e9'])('a wait of %s is 400, and nothing is stored (P37)', async (wait) => {
  const { ann, session } = await openChat()
  const { status, body } = await send(ann, session, wait)
  expect(status).toBe(400)
  expect(body.code).toBe('invalid_request')
  expect((await ann.snapshot(session)).messages).toEqual([])
})

test('so many wait at a time, the next is answered at once; who goes makes room', async () => {
  const stored = await openStored(18)
  const database = stored.open()
  const hub = createHub({ database, epoch: 'e', readEpoch: async () => 'e', pollMs: 100, log: () => undefined })
  hub.start()
  onTestFinished(async () => {
    hub.stop()
    await stored.close()
  })
  await sessionsOf(database, 1)
  const acceptance = acceptanceOf('s0', 'm1')
  await createAcceptor(database).accept(acceptance)
  const what = { tenantId, sessionId: 's0', userId, messageId: 'm1', created: { turnId: acceptance.turnId, seq: 1 } }
  const waiting = createWaiting(hub, database, 2)
  const leave = new AbortController()
  const stay = new AbortController()
  const [one, two] = [waiting.outcome(what, 50_000, leave.signal), waiting.outcome(what, 50_000, stay.signal)]
  expect(await waiting.outcome(what, 50_000, stay.signal)).toBe(null)
  leave.abort()
  expect(await one).toBe(null)
  const three = waiting.outcome({ ...what, created: null }, 50_000, stay.signal)
  await stopTurn(database, stopAsk('s0', 'm1', userId))
  expect((await two)?.turn.state).toBe('stopped')
  expect((await three)?.turn.state).toBe('stopped')
})
