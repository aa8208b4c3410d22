/** What the assistant says by itself: where it stands, who is told it, and that it is told once. */
import { expect, onTestFinished, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { createHoldfast, type Holdfast, type HoldfastError, type HoldfastOptions } from '../../src/index.ts'
import { gate } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf } from '../support/client.ts'
import { dropAnswerAfter, startProxy } from '../support/proxy.ts'
import { jwtSecret } from '../support/server.ts'
import { disorder, lostHeads, openStored } from '../support/stored.ts'

const codeOf = (asked: Promise<unknown>) =>
  asked.then(
    () => null,
    ({ code }: HoldfastError) => code,
  )
type Said = { role: string; parts: { type: string }[] }
const texts = (messages: readonly Said[]) => messages.map(({ role, parts }) => `${role}: ${textOf(parts)}`)
const shownIn = async (chat: Holdfast, session: string) => texts((await chat.messages.list(session)).data)

const select = (api: Api, session: string, id: string) =>
  api.request(`/v1/sessions/${session}/messages/${id}/select`, { method: 'POST', body: '{}' })

/** Answers `Re …`, one that says `wait` in two halves, and keeps what each attempt was told. */
async function openTold(options: Partial<HoldfastOptions> = {}) {
  const told: string[][] = []
  const { passed, open } = gate()
  const opened = await openChat({
    async *reply({ messages, message }) {
      told.push(texts(messages))
      const said = textOf(message.parts)
      yield 'Re '
      if (said === 'wait') await passed
      yield said
    },
    ...options,
  })
  return { ...opened, told, goOn: open }
}

test('what the assistant says is one message, complete at once, which a follower sees without a poll (P38)', async () => {
  const { chat, session, watcher, ann } = await openTold({ pollMs: 10_000 })
  await watcher.until(({ type }) => type === 'caught-up')
  const { message, cursor } = await chat.say(session, { id: 'hello', text: 'Hello!', metadata: { kind: 'greeting' } })
  expect(message).toMatchObject({
    ...{ id: 'hello', role: 'assistant', status: 'complete', parts: [{ type: 'text', text: 'Hello!' }] },
    ...{ metadata: { kind: 'greeting' }, author: null, repliesTo: null, round: null, branch: null, lane: 'main' },
    ...{ model: null, inputTokens: null, outputTokens: null },
  })
  const frame = await watcher.until(({ type }) => type === 'message.said', 5_000)
  expect([frame.data, frame.cursor, frame.turnId]).toEqual([{ message }, cursor, undefined])
  const { session: shown, messages, turns } = await ann.snapshot(session)
  expect(shown).toMatchObject({ messageCount: 1, totalTokens: 0, lastPreview: 'Hello!', unread: 1 })
  expect([messages, turns]).toEqual([[message], []])
  const { id } = (await chat.say(session, { parts: [{ type: 'text', text: 'Another' }] })).message
  expect(id).toMatch(/^[0-9a-f-]{36}$/)
})

test('said again with the same id it is said once; the id of anything else is refused (I10)', async () => {
  const { chat, session, ann, watcher } = await openTold()
  const ask = { id: 's1', text: 'A notice', metadata: { a: 1 } }
  const answers = await Promise.all([1, 2, 3, 4].map(() => chat.say(session, ask)))
  expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1)
  await ann.send(session, 'hi', 'm1')
  const { data } = await watcher.outcome('m1')
  for (const other of [
    { ...ask, text: 'Other' },
    { ...ask, metadata: {} },
    { ...ask, lane: 'user:ann' as const },
  ]) {
    expect(await codeOf(chat.say(session, other))).toBe('id_conflict')
  }
  for (const id of ['m1', data.message.id as string])
    expect(await codeOf(chat.say(session, { id, text: 'hi' }))).toBe('id_conflict')
  expect(await codeOf(chat.send(session, { id: 's1', userId: 'ann', text: 'A notice' }))).toBe('id_conflict')
  const { frames } = await ann.poll(session, {})
  expect(frames.filter(({ type }) => type === 'message.said')).toHaveLength(1)
})

test('only the session’s tenant has it, and what it says is checked', async () => {
  const { chat, session } = await openTold()
  expect(await codeOf(chat.say('missing', { text: 'hi' }))).toBe('not_found')
  expect(await codeOf(chat.say(session, { text: 'hi', tenantId: 't2' }))).toBe('not_found')
  expect(await codeOf(chat.say(session, { text: '' }))).toBe('invalid_request')
  expect(await codeOf(chat.say(session, { text: 'hi', lane: 'ann' as 'main' }))).toBe('invalid_request')
})

test('a greeting comes before the first message in the prompt, and the session gets its title all the same (I13)', async () => {
  const { chat, session, told, watcher } = await openTold({ title: () => 'A title' })
  await chat.say(session, { text: 'Hello!' })
  await chat.send(session, { id: 'm1', userId: 'ann', text: 'hi' })
  await watcher.outcome('m1')
  expect(told).toEqual([['assistant: Hello!', 'user: hi']])
  expect((await watcher.until(({ type }) => type === 'session.updated')).data.session.title).toBe('A title')
})

test('said while a reply runs and another waits, it stands after both, and only what is sent after it is told it (I13)', async () => {
  const { chat, session, told, watcher, goOn, ann } = await openTold()
  const { reply } = await chat.send(session, { id: 'm1', userId: 'ann', text: 'wait' })
  await watcher.until(({ type, messageId }) => type === 'chunk' && messageId === reply.id)
  await chat.send(session, { id: 'm2', userId: 'ann', text: 'two' })
  await chat.say(session, { text: 'A notice' })
  await chat.send(session, { id: 'm3', userId: 'ann', text: 'three' })
  // A new round of the first is not told it either, although it begins later.
  await chat.stop(session, 'm1')
  await watcher.outcome('m3')
  await chat.retry(session, 'm1')
  goOn()
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.repliesTo === 'm1')
  const before = ['user: wait', 'assistant: Re ', 'user: two']
  expect(told).toEqual([
    ['user: wait'],
    before,
    [...before, 'assistant: Re two', 'assistant: A notice', 'user: three'],
    ['user: wait'],
  ])
  const shown = ['user: wait', 'assistant: Re wait', 'user: two', 'assistant: Re two', 'assistant: A notice']
  expect(await shownIn(chat, session)).toEqual([...shown, 'user: three', 'assistant: Re three'])
  expect(texts((await ann.snapshot(session)).messages)).toEqual(await shownIn(chat, session))
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('another reply to a message leaves what was said after the old one in its branch (P73)', async () => {
  const { chat, session, ann, watcher } = await openTold()
  await chat.send(session, { id: 'm1', userId: 'ann', text: 'hi', waitMs: 60_000 })
  const { message } = await chat.say(session, { id: 's1', text: 'A notice' })
  await ann.command(session, 'm1', 'regenerate', { id: 'r2' })
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.id === 'r2')
  expect(await shownIn(chat, session)).toEqual(['user: hi', 'assistant: Re hi'])
  await chat.send(session, { id: 'm2', userId: 'ann', text: 'on', waitMs: 60_000 })
  expect(await shownIn(chat, session)).toEqual(['user: hi', 'assistant: Re hi', 'user: on', 'assistant: Re on'])
  expect(message.branch).toBeNull()
  const selected = await select(ann, session, 's1')
  const { data } = await watcher.until(({ type }) => type === 'branch.selected')
  expect([selected.status, await selected.json(), data.messageId]).toEqual([
    200,
    { message, reply: null, turn: null, cursor: expect.any(String) },
    's1',
  ])
  expect(await shownIn(chat, session)).toEqual(['user: hi', 'assistant: Re hi', 'assistant: A notice'])
})

test('it has no turn: no command but select knows it (P38)', async () => {
  const { chat, session, ann } = await openTold()
  await chat.say(session, { id: 's1', text: 'A notice' })
  expect(await codeOf(chat.stop(session, 's1'))).toBe('not_found')
  expect(await codeOf(chat.retry(session, 's1'))).toBe('not_found')
  for (const [name, body] of [
    ['edit', { id: 'e1', text: 'Other' }],
    ['regenerate', { id: 'r1' }],
  ] as const) {
    await expect(ann.command(session, 's1', name, body)).rejects.toMatchObject({ problem: { code: 'not_found' } })
  }
})

test('where the message before it is withdrawn, it takes that one’s place beside the others there, and one of them is shown (I13)', async () => {
  const { chat, session, database, told, watcher } = await openTold()
  for (const id of ['m1', 'm2']) await chat.send(session, { id, userId: 'ann', text: id, waitMs: 60_000 })
  await watcher.close()
  await chat.close()
  const options = { database, tokens: { secret: jwtSecret }, log: () => undefined, drainMs: 0 }
  const idle = createHoldfast({ ...options, roles: ['http'], reply: () => '' })
  onTestFinished(() => idle.close())
  const there = await apiOf((await idle.listen(0)).url)
  // An edit that nobody answers, what is said after it, and the edit is taken back.
  await there.command(session, 'm2', 'edit', { id: 'm2b', text: 'edited' })
  await idle.say(session, { id: 's1', text: 'A notice' })
  expect(await shownIn(idle, session)).toEqual([
    'user: m1',
    'assistant: Re m1',
    'user: edited',
    'assistant: ',
    'assistant: A notice',
  ])
  expect((await idle.stop(session, 'm2b', { userId: 'ann' })).withdrawn).toBe(true)
  const withNotice = ['user: m1', 'assistant: Re m1', 'assistant: A notice']
  expect(await shownIn(idle, session)).toEqual(withNotice)
  const [, , notice] = (await idle.messages.list(session)).data
  expect(notice?.branch).toEqual({ index: 1, count: 2, previous: 'm2', next: null })
  await there.command(session, 'm2', 'select')
  expect(await shownIn(idle, session)).toEqual(['user: m1', 'assistant: Re m1', 'user: m2', 'assistant: Re m2'])
  await select(there, session, 's1')
  expect(await shownIn(idle, session)).toEqual(withNotice)
  await idle.close()
  const again = createHoldfast({
    ...options,
    reply({ messages }) {
      told.push(texts(messages))
      return 'done'
    },
  })
  onTestFinished(() => again.close())
  await again.send(session, { userId: 'ann', text: 'on', waitMs: 60_000 })
  expect(told.at(-1)).toEqual([...withNotice, 'user: on'])
})

test('what is said before a message that is handed to the running reply comes after it, once it is (I13)', async () => {
  const { passed, open } = gate()
  const told: string[][] = []
  const { chat, session, watcher } = await openChat({
    async *reply({ messages, message, steering }) {
      told.push(texts(messages))
      yield { type: 'start-step' }
      yield { type: 'text-start', id: 't' }
      yield { type: 'text-delta', id: 't', delta: `Re ${textOf(message.parts)}` }
      yield { type: 'text-end', id: 't' }
      yield { type: 'finish-step' }
      if (textOf(message.parts) === 'wait') await passed
      await steering()
      yield { type: 'finish', finishReason: 'stop' }
    },
  })
  await chat.send(session, { id: 'm1', userId: 'ann', text: 'wait' })
  await watcher.until(({ type }) => type === 'chunk')
  await chat.send(session, { id: 'm2', userId: 'ann', text: 'and this', whenBusy: 'steer' })
  await chat.say(session, { text: 'A notice' })
  open()
  expect((await watcher.outcome('m2')).data.reason).toBe('steered')
  await watcher.outcome('m1')
  const shown = ['user: wait', 'assistant: Re wait', 'user: and this', 'assistant: A notice']
  expect(await shownIn(chat, session)).toEqual(shown)
  await chat.send(session, { id: 'm3', userId: 'ann', text: 'on', waitMs: 60_000 })
  // What was handed over is told before what answers it; what was said is told after both.
  const last = ['user: wait', 'user: and this', 'assistant: Re wait', 'assistant: A notice', 'user: on']
  expect(told.at(-1)).toEqual(last)
  // The pair of a steered message is the reply that it was handed to, not what was said after it.
  expect((await chat.stop(session, 'm2')).reply.repliesTo).toBe('m1')
})

test('said, and the database’s answer is lost: it is asked again by itself, and is said once (FD2, I10)', async () => {
  const { chat, session, database, watcher } = await openTold()
  await chat.close()
  const target = new URL(database)
  const proxy = await startProxy({ target: { host: target.hostname, port: Number(target.port) } })
  target.hostname = proxy.host
  target.port = String(proxy.port)
  const lossy = createHoldfast({ database: target.href, log: () => undefined, drainMs: 0, reply: () => '' })
  onTestFinished(async () => {
    await watcher.close()
    await lossy.close()
    await proxy.close()
  })
  await lossy.start()
  const lost = dropAnswerAfter(proxy, (bytes) => bytes.includes('\0say\0'))
  const { message } = await lossy.say(session, { text: 'A notice' })
  await lost
  const { data } = await lossy.messages.list(session)
  expect(data).toEqual([message])
})

test('what is said in an author’s own line stands in it; others are told it in the order of turns (I13)', async () => {
  const { chat, session, told } = await openTold({ lane: () => 'author' })
  await chat.send(session, { id: 'm1', userId: 'ann', text: 'mine', waitMs: 60_000 })
  const { message } = await chat.say(session, { text: 'To Ann', lane: 'user:ann' })
  expect(message.lane).toBe('user:ann')
  await chat.say(session, { text: 'To all' })
  await chat.send(session, { id: 'm2', userId: 'ann', text: 'on', waitMs: 60_000 })
  expect(told.at(-1)).toEqual([
    'user: mine',
    'assistant: Re mine',
    'assistant: To Ann',
    'assistant: To all',
    'user: on',
  ])
})

test('many sends and sayings at once, of two processes, make one line without a hole (I4, I13)', async () => {
  const stored = await openStored(18)
  const options = { database: stored.url, log: () => undefined, limits: { sendsPerMinute: 0 }, reply: () => 'ok' }
  const chats = [0, 1].map((process) => {
    // As another process would have it: the same database by another name.
    const url = new URL(stored.url)
    url.searchParams.set('application_name', `process-${process}`)
    return createHoldfast({ ...options, database: url.href })
  })
  onTestFinished(async () => {
    await Promise.all(chats.map((chat) => chat.close()))
    await stored.close()
  })
  const ids = Array.from({ length: 30 }, (_, at) => at)
  await chats[0]!.sessions.create({ id: 's', userId: 'ann' })
  await Promise.all(
    ids.flatMap((at) => {
      const chat = chats[at % 2]!
      return [
        chat.send('s', { id: `m${at}`, userId: 'ann', text: `m${at}`, waitMs: 60_000 }),
        chat.say('s', { id: `s${at}`, text: `s${at}` }),
        chats[(at + 1) % 2]!.say('s', { id: `s${at}`, text: `s${at}` }),
      ]
    }),
  )
  expect(await disorder(stored)).toEqual([])
  expect(await lostHeads(stored)).toBe(0)
  const rows = await stored.query<{ id: string; parent: string; shown: boolean }>(
    'select id, parent, shown from holdfast.messages order by position, role desc',
  )
  expect(rows).toHaveLength(90)
  expect(rows.every(({ shown }) => shown)).toBe(true)
  expect(rows.map(({ parent }) => parent)).toEqual(['', ...rows.slice(0, -1).map(({ id }) => id)])
}, 120_000)
