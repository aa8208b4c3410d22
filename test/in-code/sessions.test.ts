/** Sessions in the app's own code, with the server's rights. */
import { expect, test } from 'vitest'
import { HoldfastError } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'

const codeOf = (asked: Promise<unknown>) =>
  asked.then(
    () => null,
    (error: unknown) => (error instanceof HoldfastError ? error.code : error),
  )

test('a session that code makes is its user’s, as one that the user makes; the same id again changes nothing (P20)', async () => {
  const { chat, ann } = await openChat()
  const made = await chat.sessions.create({ id: 's', userId: 'ann', title: 'First', metadata: { topic: 1 } })
  expect(made).toMatchObject({ id: 's', title: 'First', metadata: { topic: 1 }, messageCount: 0, unread: 0 })
  expect((await ann.snapshot('s')).session).toEqual(made)
  expect(await chat.sessions.create({ id: 's', userId: 'ann', title: 'Second' })).toEqual(made)
  expect(await codeOf(chat.sessions.create({ id: 's', userId: 'zoe' }))).toBe('id_conflict')
  const { id } = await chat.sessions.create({ userId: 'zoe' })
  expect(id).toMatch(/^[0-9a-f-]{36}$/)
})

test('code reads and lists sessions whoever’s they are, each in its tenant', async () => {
  const { chat } = await openChat()
  for (const id of ['a', 'b', 'c']) await chat.sessions.create({ id, userId: 'zoe' })
  await chat.sessions.create({ id: 'd', userId: 'zoe', tenantId: 't2' })
  const first = await chat.sessions.list({ userId: 'zoe', limit: 2 })
  expect(first.data.map(({ id }) => id)).toEqual(['c', 'b'])
  const second = await chat.sessions.list({ userId: 'zoe', before: first.before! })
  expect([second.data.map(({ id }) => id), second.before]).toEqual([['a'], null])
  expect((await chat.sessions.list({ userId: 'zoe', tenantId: 't2' })).data.map(({ id }) => id)).toEqual(['d'])
  expect((await chat.sessions.list({ userId: 'zoe', changedSince: new Date(Date.now() + 60_000) })).data).toEqual([])
  expect(await chat.sessions.get('a')).toMatchObject({ id: 'a', unread: null })
  expect(await chat.sessions.get('a', { userId: 'zoe' })).toMatchObject({ id: 'a', unread: 0 })
  // To a user who is no member it looks like one that is not there (I15).
  expect(await chat.sessions.get('a', { userId: 'ann' })).toBeNull()
  expect(await chat.sessions.get('d')).toBeNull()
  expect(await chat.sessions.get('d', { tenantId: 't2' })).toMatchObject({ id: 'd' })
})

test('an update changes what it names and nothing else, and followers see it at once', async () => {
  const { chat, session, watcher } = await openChat({ pollMs: 10_000 })
  await chat.sessions.update(session, { title: 'Named', metadata: { a: 1 } })
  expect((await watcher.until(({ type }) => type === 'session.updated', 5_000)).data.session.title).toBe('Named')
  expect(await chat.sessions.update(session, { metadata: { b: 2 } })).toMatchObject({
    title: 'Named',
    metadata: { b: 2 },
  })
  expect(await chat.sessions.update(session, { title: null })).toMatchObject({ title: null, metadata: { b: 2 } })
  expect(await codeOf(chat.sessions.update(session, {}))).toBe('invalid_request')
  expect(await codeOf(chat.sessions.update('missing', { title: 'x' }))).toBe('not_found')
})

test('a session is deleted with the server’s right, once; followers are told, and its id is not used again (P23)', async () => {
  const { chat, url, session, watcher } = await openChat({ pollMs: 10_000 })
  const zoe = await apiOf(url, 'zoe')
  expect((await zoe.request(`/v1/sessions/${session}`, { method: 'DELETE' })).status).toBe(404)
  await watcher.until(({ type }) => type === 'caught-up')
  expect(await chat.sessions.delete(session)).toBe(true)
  expect(await watcher.until(({ type }) => type === 'reset', 5_000)).toMatchObject({ reason: 'gone' })
  expect(await chat.sessions.delete(session)).toBe(false)
  expect(await chat.sessions.get(session)).toBeNull()
  expect(await codeOf(chat.sessions.create({ id: session, userId: 'ann' }))).toBe('id_conflict')
})
