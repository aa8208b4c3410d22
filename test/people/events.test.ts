/** Events of the app's own: who gets them, that each is published once, and what may be published. */
import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import * as z from 'zod'
import { createHoldfast, type HoldfastError, type HoldfastOptions } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { queryOnce } from '../support/postgres.ts'

const refusalOf = (asked: Promise<unknown>) =>
  asked.then(
    () => null,
    ({ code }: HoldfastError) => code,
  )

const addBob = (database: string, session: string) =>
  queryOnce(
    database,
    `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, 'bob', 'member')`,
    [session],
  )

test('an event reaches its audience live and after being away, in order, and nobody else (R3.1, R3.2, I5)', async () => {
  const { chat, url, database, session, watcher } = await openChat({ pollMs: 10_000 })
  await addBob(database, session)
  await watcher.until(({ type }) => type === 'caught-up')
  await chat.publish(session, 'partner.signed_compact', { stage: 1 })
  await chat.publish(session, 'partner.empathy_shared', { text: 'x' }, { excludeUserId: 'ann' })
  await chat.publish(session, 'agreement.proposed', { n: 1 }, { audience: 'user:ann' })
  const { seq, cursor } = await chat.publish(session, 'session.paused', null)
  const frame = await watcher.until(({ type }) => type === 'session.paused', 5_000)
  expect([frame.seq, frame.cursor, frame.data]).toEqual([seq, cursor, null])
  const got = (frames: readonly { type: string; data?: unknown }[]) =>
    frames.filter(({ type }) => type.includes('.')).map(({ type, data }) => [type, data])
  expect(got(watcher.frames)).toEqual([
    ['partner.signed_compact', { stage: 1 }],
    ['agreement.proposed', { n: 1 }],
    ['session.paused', null],
  ])
  const bob = await apiOf(url, 'bob')
  const { frames } = await bob.poll(session, {})
  expect(got(frames)).toEqual([
    ['partner.signed_compact', { stage: 1 }],
    ['partner.empathy_shared', { text: 'x' }],
    ['session.paused', null],
  ])
})

test('the same id is published once; with another event it is refused (I10)', async () => {
  const { chat, session, ann } = await openChat()
  const publish = () => chat.publish(session, 'agreement.confirmed', { a: 1, b: 2 }, { id: 'e1' })
  const answers = await Promise.all([1, 2, 3, 4].map(publish))
  expect(new Set(answers.map(({ seq }) => seq)).size).toBe(1)
  await chat.publish(session, 'agreement.confirmed', { b: 2, a: 1 }, { id: 'e1' })
  expect(await refusalOf(chat.publish(session, 'agreement.confirmed', { a: 2 }, { id: 'e1' }))).toBe('id_conflict')
  expect(
    await refusalOf(chat.publish(session, 'agreement.confirmed', { a: 1, b: 2 }, { id: 'e1', excludeUserId: 'x' })),
  ).toBe('id_conflict')
  const { frames } = await ann.poll(session, {})
  expect(frames.filter(({ type }) => type === 'agreement.confirmed')).toHaveLength(1)
  expect(await chat.sessions.delete(session)).toBe(true)
  expect(await refusalOf(publish())).toBe('not_found')
})

test('names of Holdfast’s own, audiences that are none and data that is too large are refused', async () => {
  const { chat, session } = await openChat()
  for (const name of ['message.said', 'member.joined', 'session.updated', 'chunk', 'a b.c', '']) {
    expect([name, await refusalOf(chat.publish(session, name, {}))]).toEqual([name, 'invalid_request'])
  }
  for (const ask of [{ audience: 'ann' as 'user:ann' }, { audience: 'user:' as const }, { id: 'a/b' }]) {
    expect(await refusalOf(chat.publish(session, 'a.b', {}, ask))).toBe('invalid_request')
  }
  const both = { audience: 'user:ann', excludeUserId: 'bob' } as const
  expect(await refusalOf(chat.publish(session, 'a.b', {}, both))).toBe('invalid_request')
  expect(await refusalOf(chat.publish(session, 'a.b', 'x'.repeat(65_536)))).toBe('too_large')
  expect(await refusalOf(chat.publish(session, 'a.b', {}, { tenantId: 'other' }))).toBe('not_found')
})

const declared = {
  'partner.signed_compact': z.object({ stage: z.number(), by: z.string().default('nobody') }),
  'agreement.proposed': z
    .object({ terms: z.array(z.string()) })
    .refine(async ({ terms }) => terms.length > 0, 'none given'),
}

test('declared events alone are published, with what their schema makes of the data; bad data says where it is bad', async () => {
  const { chat, session, ann } = await openChat({ events: declared })
  await chat.publish(session, 'partner.signed_compact', { stage: 1 })
  await chat.publish(session, 'agreement.proposed', { terms: ['x'] })
  const sentenceOf = (event: string, data: never) => chat.publish(session, event, data).catch(({ message }) => message)
  expect(await sentenceOf('agreement.proposed', { terms: [] } as never)).toBe('"data": none given.')
  expect(await sentenceOf('agreement.proposed', { terms: ['x', 1] } as never)).toMatch(/^"data\.terms\.1": .+\.$/)
  expect(await sentenceOf('session.paused', null as never)).toMatch(/declares no "session.paused"/)
  const { frames } = await ann.poll(session, {})
  expect(frames.filter(({ cursor }) => cursor !== undefined).map(({ type, data }) => [type, data])).toEqual([
    ['partner.signed_compact', { stage: 1, by: 'nobody' }],
    ['agreement.proposed', { terms: ['x'] }],
  ])
})

test('a name of Holdfast’s own, what is no schema, and a short key are refused at once', () => {
  const refused = (options: Partial<HoldfastOptions>) => () => createHoldfast({ reply: () => '', ...options })
  expect(refused({ events: { 'member.joined': z.null() } })).toThrow(/events\["member.joined"\]: .+ of your own/)
  expect(refused({ events: { 'a.b': {} as never } })).toThrow(/events\["a.b"\]: expected a Standard Schema/)
  expect(refused({ serverKey: 'short' })).toThrow(/serverKey \(HOLDFAST_SERVER_KEY\): expected at least 32/)
})

test('a server with the key publishes over HTTP, once for an id; without a key there is no such route', async () => {
  const serverKey = randomUUID() + randomUUID()
  const { session, ann, url } = await openChat({ serverKey, events: declared })
  const ask = async (body: object, key = serverKey, to = session, from = url) => {
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${key}` }
    const response = await fetch(`${from}/v1/sessions/${to}/events`, {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
    })
    return { status: response.status, body: (await response.json()) as { code?: string; seq?: number } }
  }
  const event = { event: 'agreement.proposed', data: { terms: ['x'] }, excludeUserId: 'bob', id: 'e1' }
  const first = await ask(event)
  expect(first).toMatchObject({ status: 200, body: { id: 'e1', seq: 1 } })
  expect(await ask(event)).toEqual(first)
  expect((await ann.poll(session, {})).frames.filter(({ type }) => type === 'agreement.proposed')).toHaveLength(1)
  expect(await ask({ ...event, data: { terms: ['y'] } })).toMatchObject({ status: 422, body: { code: 'id_conflict' } })
  expect(await ask({ ...event, data: {}, id: 'e2' })).toMatchObject({ status: 400, body: { code: 'invalid_request' } })
  expect(await ask({ ...event, to: 'x' })).toMatchObject({ status: 400 })
  expect(await ask({ event: 'agreement.proposed' })).toMatchObject({ status: 400 })
  expect(await ask(event, serverKey, 'missing')).toMatchObject({ status: 404 })
  for (const key of ['', 'x', `${serverKey}x`]) expect((await ask(event, key)).status).toBe(401)
  const { url: keyless, session: other } = await openChat()
  expect(await ask(event, serverKey, other, keyless)).toMatchObject({ status: 404 })
})
