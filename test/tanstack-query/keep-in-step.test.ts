/** `holdfast/tanstack-query`: the cache of an app is in step with its sessions, whatever happens to the network (R0.5). */
import { randomUUID } from 'node:crypto'
import { QueryObserver } from '@tanstack/react-query'
import { expect, onTestFinished, test } from 'vitest'
import type { Message, ShownMessage } from '../../src/client/client.ts'
import { HoldfastError } from '../../src/client/wire.ts'
import { textOf } from '../../src/core/parts.ts'
import { sessionQuery, sessionsQuery } from '../../src/tanstack-query/keep-in-step.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { type App, inStep, messagesKey, mountList, mountPages, openApp, said } from './cached.ts'

const isLive = ({ client, session }: App) => eventually(async () => client.session(session).getSnapshot().isLive)
const ids = (messages: readonly { id: string }[]) => messages.map(({ id }) => id)
const until = <T>(look: () => T, expected: unknown) =>
  eventually(async () => {
    expect(look()).toEqual(expected)
    return true
  })

test('messages and replies that come live are in the list under the app’s own key, once and in order', async () => {
  const app = await openApp()
  await app.ann.send(app.session, 'before', 'm0')
  await app.watcher.outcome('m0')
  const { list, asked, vanished } = await mountList(app)
  inStep(app, { sessions: app.session, messages: messagesKey })
  await isLive(app)
  await app.client.session(app.session).send({ text: 'mine' })
  await app.ann.send(app.session, 'from elsewhere', 'm2')
  await until(
    () => said(list()),
    [
      'user: before',
      'assistant: Re before',
      'user: mine',
      'assistant: Re mine',
      'user: from elsewhere',
      'assistant: Re from elsewhere',
    ],
  )
  await eventually(async () => list().every(({ status }) => status === 'complete'))
  const { data } = await app.page(app.session)
  expect(vanished).toEqual([])
  expect(list().map(({ delivery: _own, ...message }: Partial<ShownMessage>) => message)).toEqual(data)
  expect(asked.count).toBe(1)
})

test('handlers run once the message is in the cache, with its metadata; what they and the options name is fetched again', async () => {
  const app = await openApp()
  const { list } = await mountList(app)
  const asked = { stage: 0, session: 0, other: 0 }
  const count = (name: keyof typeof asked, key: unknown[]) =>
    app.queries.fetchQuery({ queryKey: key, queryFn: () => ++asked[name] })
  await Promise.all([count('stage', ['stage', 1]), count('session', ['session', app.session]), count('other', ['x'])])
  const told: string[] = []
  const all: string[] = []
  inStep(app, {
    sessions: app.session,
    messages: messagesKey,
    on: {
      'message.ai_response': ({ message, mood }, { sessionId }) => {
        told.push(`${sessionId === app.session} ${mood} ${list().find(({ id }) => id === message.id)?.status}`)
        return [['stage']]
      },
      'message.error': ({ userMessageId, canRetry, error }) => void told.push(`${userMessageId} ${canRetry} ${error}`),
      '*': (_data, { frame }) => void all.push(frame?.type ?? ''),
    },
    invalidates: { 'message.error': (sessionId) => [['session', sessionId]] },
  })
  const isInvalid = (key: unknown[]) => app.queries.getQueryState(key)?.isInvalidated
  await isLive(app)
  await app.ann.send(app.session, 'hello', 'm1')
  await until(() => told, ['true 8 complete'])
  expect([isInvalid(['stage', 1]), isInvalid(['session', app.session]), isInvalid(['x'])]).toEqual([true, false, false])
  await app.ann.send(app.session, 'fail', 'm2')
  await eventually(async () => told.length === 2)
  expect(told[1]).toMatch(/^m2 (true|false) .+\.$/)
  expect([isInvalid(['session', app.session]), isInvalid(['x'])]).toEqual([true, false])
  expect(all).toEqual(expect.arrayContaining(['message.created', 'message.ai_response', 'message.error']))
  expect(all).not.toContain('chunk')
})

test('a handler of the app that throws is reported, and takes nothing from the others', async () => {
  const app = await openApp()
  const { list } = await mountList(app)
  const told: unknown[] = []
  const reported: unknown[] = []
  const own = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', (error) => reported.push(error.message))
  inStep(app, {
    sessions: app.session,
    messages: messagesKey,
    on: {
      'message.ai_response': () => {
        throw new Error('of the app')
      },
      '*': (_data, { frame }) => void told.push(frame?.type),
    },
  })
  await isLive(app)
  await app.ann.send(app.session, 'hello', 'm1')
  await eventually(async () => told.includes('message.ai_response') && list().length === 2 && reported.length > 0)
  process.removeAllListeners('uncaughtException')
  for (const listener of own) process.on('uncaughtException', listener)
  expect(reported).toEqual(['of the app'])
})

test('a fetch that is answered late, or restored from a store, takes nothing away that has come since (I5)', async () => {
  const app = await openApp()
  await app.ann.send(app.session, 'old', 'm0')
  await app.watcher.outcome('m0')
  inStep(app, { sessions: app.session, messages: messagesKey })
  await isLive(app)
  const old = (await app.page(app.session)).data
  let answer: (messages: Message[]) => void = () => undefined
  const fetched = app.queries.fetchQuery({
    queryKey: messagesKey(app.session),
    queryFn: () => new Promise<Message[]>((resolve) => (answer = resolve)),
  })
  await app.ann.send(app.session, 'meanwhile', 'm1')
  await app.watcher.outcome('m1')
  await eventually(async () => app.client.session(app.session).getSnapshot().messages[3]?.status === 'complete')
  answer(old)
  await fetched
  const now = () => said(app.queries.getQueryData<Message[]>(messagesKey(app.session)) ?? [])
  const all = ['user: old', 'assistant: Re old', 'user: meanwhile', 'assistant: Re meanwhile']
  expect(now()).toEqual(all)
  app.queries.setQueryData(messagesKey(app.session), old)
  expect(now()).toEqual(all)
})

test('cut, with messages, replies and failures missed: in the cache once, and each told to the handlers once', async () => {
  const app = await openApp()
  const { list, asked } = await mountList(app)
  const told: string[] = []
  inStep(app, {
    sessions: app.session,
    messages: messagesKey,
    on: {
      'message.ai_response': ({ message }) => void told.push(textOf(message.parts)),
      'message.error': ({ userMessageId }) => void told.push(`failed ${userMessageId}`),
    },
  })
  await isLive(app)
  for (let round = 0; round < 3; round++) {
    app.proxy.refuse()
    app.proxy.cutAll()
    for (const text of [`a${round}`, 'fail', `b${round}`]) {
      const id = `${text}-${round}`
      await app.ann.send(app.session, text, id)
      await app.watcher.outcome(id)
    }
    app.proxy.accept()
    await eventually(async () => list().length === (round + 1) * 6)
  }
  const { data } = await app.page(app.session)
  await until(() => ids(list()), ids(data))
  expect(told).toEqual([0, 1, 2].flatMap((round) => [`Re a${round}`, `failed fail-${round}`, `Re b${round}`]))
  expect(asked.count).toBe(1)
})

test('sent to the snapshot (P49), what no frame told is in the cache, told to the handlers, and invalidated once', async () => {
  const app = await openApp()
  const { list } = await mountList(app)
  const told: string[] = []
  let invalidated = 0
  inStep(app, {
    sessions: app.session,
    messages: messagesKey,
    on: {
      'message.ai_response': ({ message, mood }, { frame }) =>
        void told.push(`${textOf(message.parts)} ${mood} ${frame === null}`),
      'message.error': ({ userMessageId, canRetry }) => void told.push(`${userMessageId} ${typeof canRetry}`),
    },
    invalidates: {
      'of.the.app': () => {
        invalidated++
        return []
      },
    },
  })
  await isLive(app)
  await app.ann.send(app.session, 'live', 'm0')
  await eventually(async () => told.length === 1)
  app.proxy.refuse()
  app.proxy.cutAll()
  await eventually(async () => !app.client.session(app.session).getSnapshot().isLive)
  for (const text of ['missed', 'fail']) {
    await app.ann.send(app.session, text, text)
    await app.watcher.outcome(text)
  }
  // As after a failover: no cursor of before leads on.
  await queryOnce(app.database, 'update holdfast.meta set timeline = timeline - 1')
  await app.watcher.until(({ type }) => type === 'reset')
  app.proxy.accept()
  await until(() => told, ['Re live 7 false', 'Re missed 9 true', 'fail boolean'])
  expect(ids(list())).toEqual(ids((await app.page(app.session)).data))
  expect(invalidated).toBe(1)
})

test('an infinite query gets what comes live in its newest page, pages of older ones stay whole, nothing is there twice', async () => {
  const app = await openApp()
  for (const id of ['m0', 'm1', 'm2']) {
    await app.ann.send(app.session, id, id)
    await app.watcher.outcome(id)
  }
  const { observer, pages } = await mountPages(app, messagesKey(app.session), (page) => page)
  inStep(app, { sessions: app.session, messages: messagesKey })
  await isLive(app)
  expect(pages().map(({ data }) => said(data))).toEqual([['user: m2', 'assistant: Re m2']])
  await app.ann.send(app.session, 'm3', 'm3')
  const newest = ['user: m2', 'assistant: Re m2', 'user: m3', 'assistant: Re m3']
  await until(() => pages().map(({ data }) => said(data)), [newest])
  await observer.fetchNextPage()
  await observer.fetchNextPage()
  const older = [
    ['user: m1', 'assistant: Re m1'],
    ['user: m0', 'assistant: Re m0'],
  ]
  expect(pages().map(({ data }) => said(data))).toEqual([newest, ...older])
  await app.ann.command(app.session, 'm0', 'retry').catch(() => undefined)
  await app.ann.send(app.session, 'm4', 'm4')
  await until(() => pages().map(({ data }) => said(data)), [[...newest, 'user: m4', 'assistant: Re m4'], ...older])
  expect(pages().map(({ before }) => before === null)).toEqual([false, false, true])
})

test('lists in the app’s own form: newest first, under a field of its own, with fields and items of its own, only what is complete', async () => {
  const app = await openApp()
  await app.ann.send(app.session, 'm0', 'm0')
  await app.watcher.outcome('m0')
  type Row = { key: string; text: string; isStarred?: boolean }
  const rowOf = ({ id, parts }: Pick<Message, 'id' | 'parts'>): Row => ({ key: id, text: textOf(parts) })
  const { pages } = await mountPages(app, ['rows'], ({ data, before }) => ({
    rows: [...data].reverse().map((message): Row => ({ ...rowOf(message), isStarred: true })),
    before,
  }))
  const rowsOf = () => pages().map(({ rows }) => rows.map(({ text, isStarred }) => `${text}${isStarred ? '*' : ''}`))
  inStep<Row>(app, {
    sessions: app.session,
    messages: () => ['rows'],
    field: 'rows',
    newestFirst: true,
    idOf: ({ key }) => key,
    toItem: (message, cached) => (message.status === 'complete' ? { ...cached, ...rowOf(message) } : null),
  })
  await isLive(app)
  app.queries.setQueryData<{ pages: { rows: Row[] }[] }>(['rows'], (data) => ({
    ...data!,
    pages: data!.pages.map(({ rows, ...page }) => ({ ...page, rows: [{ key: 'own', text: 'the app’s' }, ...rows] })),
  }))
  await app.ann.send(app.session, 'm1', 'm1')
  await until(rowsOf, [['the app’s', 'Re m1', 'm1', 'Re m0*', 'm0*']])
})

test('what leaves the session leaves the list: taken back, edited, another reply, wherever it was done', async () => {
  let finish: () => void = () => undefined
  const held = new Promise<void>((resolve) => (finish = resolve))
  const app = await openApp({
    reply: async ({ message, turn }) => {
      const text = textOf(message.parts as never)
      if (text === 'long') await held
      return `Re ${text} ${turn.round}`
    },
  })
  const { list, asked } = await mountList(app)
  inStep(app, { sessions: app.session, messages: messagesKey })
  await isLive(app)
  await app.ann.send(app.session, 'm0', 'm0')
  await app.watcher.outcome('m0')
  await app.ann.send(app.session, 'long', 'm1')
  await app.ann.send(app.session, 'regretted', 'm2')
  await eventually(async () => ids(list()).includes('m2'))
  await app.ann.command(app.session, 'm2', 'stop')
  await eventually(async () => !ids(list()).includes('m2'))
  finish()
  await app.watcher.outcome('m1')
  await app.ann.command(app.session, 'm1', 'edit', { id: 'm3', text: 'better' })
  await app.watcher.outcome('m3')
  await app.ann.command(app.session, 'm3', 'regenerate', { id: 'r4' })
  await until(() => said(list()), ['user: m0', 'assistant: Re m0 1', 'user: better', 'assistant: Re better 2'])
  expect(ids(list())).toEqual(ids((await app.page(app.session)).data))
  expect(asked.count).toBe(1)
})

test('a list that does not lead on to what is shown is fetched again, and not for ever', async () => {
  const app = await openApp()
  for (let at = 0; at < 26; at++) await app.ann.send(app.session, `m${at}`, `m${at}`)
  await app.watcher.outcome('m25')
  let asked = 0
  const observer = new QueryObserver<Message[]>(app.queries, {
    queryKey: messagesKey(app.session),
    // That it is asked again does not help; the third time it does.
    queryFn: async () =>
      ++asked < 3 ? [{ id: `strange ${asked}`, role: 'user', parts: [] } as never] : (await app.page(app.session)).data,
  })
  onTestFinished(observer.subscribe(() => undefined))
  await observer.refetch({ cancelRefetch: false })
  inStep(app, { sessions: app.session, messages: messagesKey })
  const handle = app.client.session(app.session)
  const list = () => ids(observer.getCurrentResult().data ?? [])
  await until(list, ['strange 2'])
  expect(handle.getSnapshot().hasEarlier).toBe(true)
  await app.ann.send(app.session, 'more', 'more')
  await eventually(async () => handle.getSnapshot().messages.at(-1)?.status === 'complete')
  expect([asked, list()]).toEqual([2, ['strange 2']])
  await observer.refetch()
  await app.ann.send(app.session, 'last', 'last')
  await eventually(async () => list().includes('last'))
  expect(list().length).toBeGreaterThan(50)
  expect(asked).toBe(3)
})

test('written without a network it is in the list, waiting, and once when it is sent (R2.2)', async () => {
  const app = await openApp()
  await app.ann.send(app.session, 'm0', 'm0')
  await app.watcher.outcome('m0')
  const { list, vanished } = await mountList(app)
  inStep(app, { sessions: app.session, messages: messagesKey })
  await isLive(app)
  app.proxy.refuse()
  app.proxy.cutAll()
  const sent = app.client.session(app.session).send({ text: 'in the tunnel' })
  const delivery = () => (list()[2] as ShownMessage | undefined)?.delivery?.state
  await eventually(async () => ['waiting', 'sending'].includes(delivery() ?? ''))
  app.proxy.accept()
  const { message } = await sent
  await until(() => ids(list()).filter((id) => id === message.id), [message.id])
  await until(() => said(list()).slice(2), ['user: in the tunnel', 'assistant: Re in the tunnel'])
  await until(delivery, 'read')
  expect(vanished).toEqual([])
})

test('all sessions of the user are followed, also one that is made meanwhile elsewhere, until it is deleted', async () => {
  const app = await openApp()
  const told: string[] = []
  inStep(app, {
    messages: messagesKey,
    on: { 'message.ai_response': (_data, { sessionId }) => void told.push(sessionId) },
  })
  const sessions = await app.queries.fetchQuery(sessionsQuery(app.client))
  expect(sessions.sessions.map(({ id }) => id)).toEqual([app.session])
  await isLive(app)
  const other = await app.ann.createSession()
  const { list } = await mountList(app, other)
  await eventually(async () => app.client.session(other).getSnapshot().isLive)
  await app.ann.send(app.session, 'here', 'm0')
  await app.ann.send(other, 'there', 'm1')
  await until(() => [...told].sort(), [app.session, other].sort())
  await until(() => said(list()), ['user: there', 'assistant: Re there'])
  await until(
    () =>
      app.queries
        .getQueryData<typeof sessions>(['holdfast', 'sessions'])
        ?.sessions.map(({ id }) => id)
        .sort(),
    [app.session, other].sort(),
  )
  await app.ann.request(`/v1/sessions/${other}`, { method: 'DELETE' })
  await until(
    () => app.queries.getQueryData<typeof sessions>(['holdfast', 'sessions'])?.sessions.map(({ id }) => id),
    [app.session],
  )
})

test('sessionQuery loads what is stored up to now, is kept in step, and rejects where there is nothing', async () => {
  const app = await openApp()
  await app.ann.send(app.session, 'm0', 'm0')
  await app.watcher.outcome('m0')
  const query = sessionQuery(app.client, app.session)
  const first = await app.queries.fetchQuery(query)
  expect(said(first.messages)).toEqual(['user: m0', 'assistant: Re m0'])
  const cached = () => app.queries.getQueryData<typeof first>(query.queryKey)!
  const [m0] = cached().messages
  // Nobody follows it now.
  await app.ann.send(app.session, 'm1', 'm1')
  await app.watcher.outcome('m1')
  const second = await app.queries.fetchQuery(query)
  expect(said(second.messages)).toHaveLength(4)
  expect(cached().messages[0]).toBe(m0)
  inStep(app, { sessions: [app.session] })
  await app.ann.send(app.session, 'm2', 'm2')
  await until(() => said(cached().messages).slice(4), ['user: m2', 'assistant: Re m2'])
  const missing = app.queries.fetchQuery(sessionQuery(app.client, randomUUID()))
  await expect(missing).rejects.toThrow(HoldfastError)
  await expect(missing).rejects.toMatchObject({ code: 'not_found' })
})

test('stopped, it leaves the cache alone, and how old a fetch is and whether it is invalid stay the app’s', async () => {
  const app = await openApp()
  const { list } = await mountList(app)
  const stop = inStep(app, { sessions: app.session, messages: messagesKey })
  await isLive(app)
  const state = () => app.queries.getQueryState(messagesKey(app.session))!
  const { dataUpdatedAt } = state()
  await app.queries.invalidateQueries({ queryKey: messagesKey(app.session), refetchType: 'none' })
  await app.ann.send(app.session, 'm0', 'm0')
  await until(() => said(list()), ['user: m0', 'assistant: Re m0'])
  expect(state()).toMatchObject({ dataUpdatedAt, isInvalidated: true })
  stop()
  const handle = app.client.session(app.session)
  const leave = handle.subscribe(() => undefined)
  await app.ann.send(app.session, 'm1', 'm1')
  await eventually(async () => handle.getSnapshot().messages[3]?.status === 'complete')
  leave()
  expect(said(list())).toEqual(['user: m0', 'assistant: Re m0'])
})
