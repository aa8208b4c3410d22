/** Sending, reading, stopping and retrying in the app's own code, with the server's rights. */
import { expect, onTestFinished, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { createHoldfast, HoldfastError, ReplyError } from '../../src/index.ts'
import { gate } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { freshDatabase } from '../support/postgres.ts'

const errorOf = (asked: Promise<unknown>): Promise<HoldfastError> =>
  asked.then(
    () => Promise.reject(new Error('it did not reject')),
    (error: HoldfastError) => error,
  )
const texts = (messages: { role: string; parts: { type: string }[] }[]) =>
  messages.map(({ role, parts }) => `${role}: ${textOf(parts)}`)

/** Answers at once, but a message that says `wait`. */
async function openHeld() {
  const { passed, open } = gate()
  const opened = await openChat({
    async *reply({ message }) {
      const said = textOf(message.parts)
      if (said === 'fail') throw new ReplyError('provider_rejected', 'no')
      yield `half of ${said}`
      if (said === 'wait') await passed
      yield ', whole'
    },
  })
  return { ...opened, goOn: open }
}

test('a message that code sends is a user’s message like any other; the same id again is the same message (I1, I10)', async () => {
  const { chat, session, ann, watcher } = await openChat({ limits: { sendsPerMinute: 1 } })
  const ask = { id: 'm1', userId: 'ann', text: 'hi', metadata: { from: 'code' } }
  const sent = await chat.send(session, ask)
  expect(sent).toMatchObject({
    message: { id: 'm1', author: 'ann', parts: [{ type: 'text', text: 'hi' }], metadata: { from: 'code' } },
    reply: { status: 'pending' },
    turn: { messageId: 'm1', round: 1 },
  })
  expect((await ann.poll(session, { cursor: sent.cursor, wait: 20 })).frames.at(0)?.type).toBe('attempt.started')
  await watcher.outcome('m1')
  const again = await chat.send(session, ask)
  expect(again).toMatchObject({
    message: { id: 'm1' },
    reply: { id: sent.reply.id, status: 'complete' },
    turn: { id: sent.turn.id },
  })
  expect(await errorOf(chat.send(session, { ...ask, text: 'other' }))).toMatchObject({
    code: 'id_conflict',
    status: 422,
  })
  // Nothing of it is counted: the user has their one message of this minute left.
  for (const text of ['two', 'three']) await chat.send(session, { userId: 'ann', text })
  await ann.send(session, 'mine')
  expect((await ann.snapshot(session)).session.messageCount).toBeGreaterThanOrEqual(5)
})

test('a wait answers with the whole reply; without an outcome in time, with what there is (P37)', async () => {
  const { chat, session, goOn } = await openHeld()
  const answered = await chat.send(session, { userId: 'ann', text: 'hi', waitMs: 60_000 })
  expect(answered.turn.state).toBe('complete')
  expect('parts' in answered.reply && textOf(answered.reply.parts)).toBe('half of hi, whole')
  const left = await chat.send(session, { id: 'w', userId: 'ann', text: 'wait', waitMs: 200 })
  expect('parts' in left.reply).toBe(false)
  const control = new AbortController()
  const waiting = chat.send(session, { id: 'w', userId: 'ann', text: 'wait', waitMs: 60_000, signal: control.signal })
  control.abort()
  expect('parts' in (await waiting).reply).toBe(false)
  goOn()
  expect((await chat.send(session, { id: 'w', userId: 'ann', text: 'wait', waitMs: 60_000 })).turn.state).toBe(
    'complete',
  )
})

test('who is no member sends nothing, in no tenant but the session’s own (I15)', async () => {
  const { chat, session } = await openChat()
  for (const ask of [{ userId: 'zoe' }, { userId: 'ann', tenantId: 't2' }]) {
    expect(await errorOf(chat.send(session, { ...ask, text: 'hi' }))).toMatchObject({ code: 'not_found', status: 404 })
  }
  await chat.sessions.create({ id: session, userId: 'ann', tenantId: 't2' })
  await chat.send(session, { userId: 'ann', tenantId: 't2', text: 'there' })
  expect((await chat.messages.list(session)).data).toEqual([])
  expect(texts((await chat.messages.list(session, { tenantId: 't2', limit: 1, after: '0u' })).data)).toEqual([
    'user: there',
  ])
})

test('pages of messages are the route’s; with a user they are as that user may see them (P24, I15)', async () => {
  const { chat, session, ann } = await openChat()
  for (const id of ['m1', 'm2', 'm3']) await chat.send(session, { id, userId: 'ann', text: id, waitMs: 60_000 })
  const last = await chat.messages.list(session, { limit: 2 })
  expect(texts(last.data)).toEqual(['user: m3', 'assistant: the answer'])
  const before = await chat.messages.list(session, { limit: 3, before: last.before! })
  const route = await ann.request(`/v1/sessions/${session}/messages?limit=3&before=${last.before}`)
  expect(before).toEqual(await route.json())
  expect((await chat.messages.list(session, { after: before.after!, userId: 'ann' })).data).toEqual(last.data)
  for (const [id, ask] of [
    [session, { userId: 'zoe' }],
    ['missing', {}],
  ] as const) {
    expect(await errorOf(chat.messages.list(id, ask))).toMatchObject({ code: 'not_found' })
  }
  expect(await errorOf(chat.messages.list(session, { before: 'x', after: 'y' }))).toMatchObject({
    code: 'invalid_request',
  })
  expect(await errorOf(chat.messages.list(session, { before: 'x' }))).toMatchObject({ code: 'bad_cursor' })
})

test('what useChat is given leaves out replies that are not finished or empty, and has nothing where there is no session', async () => {
  const { chat, session, watcher, goOn } = await openHeld()
  await chat.send(session, { id: 'm1', userId: 'ann', text: 'hi', waitMs: 60_000 })
  await chat.send(session, { id: 'm2', userId: 'ann', text: 'fail', waitMs: 60_000 })
  const { reply } = await chat.send(session, { id: 'm3', userId: 'ann', text: 'wait' })
  await watcher.until(({ type, messageId }) => type === 'chunk' && messageId === reply.id)
  await chat.send(session, { id: 'm4', userId: 'ann', text: 'next' })
  const messages = await chat.messages.forUseChat(session, { userId: 'ann' })
  expect(texts(messages)).toEqual([
    'user: hi',
    'assistant: half of hi, whole',
    'user: fail',
    'user: wait',
    'user: next',
  ])
  // Only what a UIMessage has: it goes through a server component's props.
  expect(messages.map((message) => Object.keys(message))).toEqual(messages.map(() => ['id', 'role', 'parts']))
  goOn()
  await watcher.outcome('m4')
  expect((await chat.messages.forUseChat(session, { userId: 'ann', limit: 2 })).map(({ id }) => id)[0]).toBe('m4')
  for (const [id, userId] of [
    ['missing', 'ann'],
    [session, 'zoe'],
  ] as const) {
    expect(await chat.messages.forUseChat(id, { userId })).toEqual([])
  }
})

test('stop ends the running reply and keeps its text; too late, it shows what won (I11)', async () => {
  const { chat, session, watcher } = await openHeld()
  const { reply } = await chat.send(session, { id: 'm1', userId: 'ann', text: 'wait' })
  await watcher.until(({ type, messageId }) => type === 'chunk' && messageId === reply.id)
  expect((await chat.stop(session, 'm1', { round: 2 })).turn.state).toBe('running')
  const stopped = await chat.stop(session, 'm1', { reason: 'over the budget' })
  expect(stopped).toMatchObject({ turn: { state: 'stopped' }, reply: { id: reply.id, status: 'stopped' } })
  expect(textOf(stopped.reply.parts)).toBe('half of wait')
  expect((await watcher.outcome('m1')).data).toMatchObject({ by: 'server', reason: 'over the budget' })
  expect((await chat.stop(session, 'm1')).cursor).toBe(stopped.cursor)
  const done = await chat.send(session, { id: 'm2', userId: 'ann', text: 'hi', waitMs: 60_000 })
  expect((await chat.stop(session, 'm2')).reply).toEqual(done.reply)
  expect(await errorOf(chat.stop(session, 'missing'))).toMatchObject({ code: 'not_found' })
  expect(await errorOf(chat.stop(session, 'm2', { tenantId: 't2' }))).toMatchObject({ code: 'not_found' })
  // By these words clients take the message away.
  expect(await errorOf(chat.stop(session, 'm2', { reason: 'withdrawn' }))).toMatchObject({ code: 'invalid_request' })
})

test('a message that nobody has begun to answer stays where the server stops it, and leaves where its author does (P34)', async () => {
  const { chat, session, watcher, goOn } = await openHeld()
  const { reply } = await chat.send(session, { id: 'm1', userId: 'ann', text: 'wait' })
  await watcher.until(({ type, messageId }) => type === 'chunk' && messageId === reply.id)
  for (const id of ['m2', 'm3']) await chat.send(session, { id, userId: 'ann', text: id })
  expect(await chat.stop(session, 'm2')).toMatchObject({ turn: { state: 'stopped' }, withdrawn: false })
  expect(await errorOf(chat.stop(session, 'm3', { userId: 'zoe' }))).toMatchObject({ code: 'not_found' })
  expect(await chat.stop(session, 'm3', { userId: 'ann' })).toMatchObject({ message: { id: 'm3' }, withdrawn: true })
  expect(texts(await chat.messages.forUseChat(session, { userId: 'ann' })).slice(-2)).toEqual([
    'user: wait',
    'user: m2',
  ])
  expect(await errorOf(chat.retry(session, 'm3'))).toMatchObject({ code: 'gone', status: 410 })
  expect((await chat.retry(session, 'm2')).turn).toMatchObject({ state: 'queued', round: 2 })
  goOn()
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.repliesTo === 'm2')
})

test('retry makes one new round of what was stopped, and changes nothing else (I10)', async () => {
  const { chat, session, watcher, goOn } = await openHeld()
  const { reply } = await chat.send(session, { id: 'm1', userId: 'ann', text: 'wait' })
  await watcher.until(({ type, messageId }) => type === 'chunk' && messageId === reply.id)
  await chat.stop(session, 'm1')
  const stands = await Promise.all([1, 1, 1].map((round) => chat.retry(session, 'm1', { round })))
  expect(new Set(stands.map(({ reply }) => reply.id)).size).toBe(1)
  expect(stands[0]).toMatchObject({ message: { id: 'm1', error: null }, turn: { round: 2 } })
  goOn()
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.repliesTo === 'm1')
  expect((await chat.retry(session, 'm1')).turn).toMatchObject({ state: 'complete', round: 2 })
  expect(await errorOf(chat.retry(session, 'missing'))).toMatchObject({ code: 'not_found' })
  await chat.send(session, { id: 'm2', userId: 'ann', text: 'fail', waitMs: 60_000 })
  for (let round = 1; round < 10; round++) {
    await chat.retry(session, 'm2')
    await chat.send(session, { id: 'm2', userId: 'ann', text: 'fail', waitMs: 60_000 })
  }
  const refused = await errorOf(chat.retry(session, 'm2'))
  expect(refused).toMatchObject({
    code: 'budget_exceeded',
    status: 429,
    retryable: false,
    message: expect.stringContaining('10 times'),
  })
})

const wrong: [string, object, RegExp][] = [
  ['no content', {}, /expected either "text" or "parts"/],
  ['both', { text: 'a', parts: [{ type: 'text', text: 'a' }] }, /expected either/],
  ['an unknown key', { text: 'a', role: 'assistant' }, /role/],
  ['no id', { text: 'a', id: 'a b' }, /"id": expected 1 to 128/],
  ['half a character', { text: '\ud83d' }, /valid Unicode/],
  ['a part that is none', { parts: [{ type: 'tool-x' }] }, /"parts.0.type": expected a part of type/],
  ['a user that is none', { text: 'a', userId: '' }, /"userId": expected a text of 1 to 255/],
  ['no JSON', { text: 'a', metadata: { n: 1n } }, /must be JSON/],
  ['too long a wait', { text: 'a', waitMs: 1e9 }, /"waitMs"/],
]
test('what is asked in code is checked as a request’s body, and says what was expected (P3–P5)', async () => {
  const { chat, session } = await openChat()
  for (const [what, ask, sentence] of wrong) {
    const asked = chat.send(session, { userId: 'ann', ...ask } as Parameters<typeof chat.send>[1])
    const { code, status, retryable, message } = await errorOf(asked)
    expect([what, code, status, retryable]).toEqual([what, 'invalid_request', 400, false])
    expect(message).toMatch(sentence)
  }
  expect((await chat.messages.list(session)).data).toEqual([])
})

test('a body may be as large as a request’s, and no larger', async () => {
  const { chat, session } = await openChat()
  const error = await errorOf(chat.send(session, { userId: 'ann', text: 'x'.repeat(262_144) }))
  expect(error).toMatchObject({ code: 'too_large', status: 413 })
})

test('where the engine cannot start, the error has the reason as its cause', async () => {
  const database = await freshDatabase(18)
  const chat = createHoldfast({ database: database.url, migrate: 'check', log: () => undefined, reply: () => '' })
  onTestFinished(async () => {
    await chat.close()
    await database.drop()
  })
  const error = await errorOf(chat.sessions.create({ userId: 'ann' }))
  expect([error.code, String(error.cause)]).toEqual(['internal', expect.stringContaining('holdfast migrate')])
})

test('an error of code is known by its class in every bundle, and after close a sentence says what happened', async () => {
  const { chat, session, url } = await openChat()
  const ann = await apiOf(url)
  await ann.send(session, 'hi')
  await chat.close()
  const error = await errorOf(chat.send(session, { userId: 'ann', text: 'hi' }))
  expect(error).toBeInstanceOf(HoldfastError)
  expect(error).toMatchObject({ code: 'draining', status: 503, retryable: true })
  expect(error.message).toBe('This Holdfast was closed. Make another one with createHoldfast.')
  const other = Object.assign(new Error('of another bundle'), { name: 'HoldfastError' })
  expect([other instanceof HoldfastError, new Error('x') instanceof HoldfastError]).toEqual([true, false])
})
