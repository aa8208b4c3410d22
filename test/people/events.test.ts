/** Events of the app's own: who gets them, that each is published once, and what may be published. */
import { expect, test } from 'vitest'
import type { HoldfastError } from '../../src/index.ts'
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
