/** Two people who each talk with the assistant alone, in a session that they share: each sees what they may (P156 to P158). */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf, type Frame } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { checkFrames } from './two-people.ts'

type Who = 'ann' | 'bob'
const people = ['ann', 'bob'] as const
const other = (who: Who): Who => (who === 'ann' ? 'bob' : 'ann')
type Session = {
  id: string
  messageCount: number
  totalTokens: number
  lastPreview: string
  unread: number
  updatedAt: string
}

/** Whose lanes are private at the moment is up to each. Replies say what they were told, and use one token for each message. */
async function openPrivate() {
  const isPrivate: Record<Who, boolean> = { ann: true, bob: true }
  const opened = await openChat({
    limits: { sendsPerMinute: 0 },
    lane: ({ user }) => (isPrivate[user.id as Who] ? 'private' : 'main'),
    title: ({ messages }) => `About ${textOf(messages[0]!.parts)}`,
    async *reply({ messages, usage }) {
      usage({ model: 'm', inputTokens: messages.length, outputTokens: 1 })
      yield 'told '
      yield messages
        .filter(({ role }) => role === 'user')
        .map(({ parts }) => textOf(parts))
        .join()
    },
  })
  await opened.chat.members.add(opened.session, { userId: 'bob' })
  const bob = await apiOf(opened.url, 'bob')
  return { ...opened, bob, api: { ann: opened.ann, bob } as Record<Who, Api>, isPrivate }
}

const listed = async (api: Api) => ((await (await api.request('/v1/sessions')).json()) as { data: Session[] }).data[0]!
test('private and shared turns interleaved: each follower has all that they may see, in order, and nothing else (I5, I13, I15)', async () => {
  const { chat, api, session, isPrivate } = await openPrivate()
  const watchers = { ann: api.ann.watch(session), bob: api.bob.watch(session) }
  const step = fc.record({ by: fc.constantFrom(...people), what: fc.constantFrom('private', 'main', 'event', 'said') })
  const steps = fc.sample(fc.array(step, { minLength: 24, maxLength: 24 }), { seed: 7, numRuns: 1 })[0]!
  const sees: Record<Who, Set<string>> = { ann: new Set(), bob: new Set() }
  const shown: { id: string; by: Who; isPrivate: boolean }[] = []
  for (const [at, { by, what }] of steps.entries()) {
    const id = `${what}-${by}-${at}`
    const isAlone = what === 'private' || what === 'said'
    for (const who of isAlone ? [by] : people) sees[who].add(id)
    if (what === 'event') {
      await chat.publish(session, 'partner.advanced', { id })
      await chat.publish(session, 'partner.advanced', { id: `${id}!` }, { audience: `user:${by}` })
      await chat.publish(session, 'partner.advanced', { id: `${id}?` }, { excludeUserId: by })
      sees[by].add(`${id}!`)
      sees[other(by)].add(`${id}?`)
    } else if (what === 'said') {
      await chat.say(session, { id, text: id, lane: `private:${by}` })
    } else {
      isPrivate[by] = isAlone
      await api[by].send(session, id, id)
      shown.push({ id, by, isPrivate: isAlone })
    }
    // Now and then all at once, now and then one after the other.
    if (at % 5 === 0) watchers[by].cut()
  }
  await chat.publish(session, 'the.end', null)
  for (const who of people) {
    const watcher = watchers[who]
    await watcher.until(({ type }) => type === 'the.end')
    for (const { id } of shown.filter(({ by, isPrivate }) => !isPrivate || by === who)) await watcher.outcome(id)
    checkFrames(watcher)
    const ids = watcher.frames.flatMap(({ type, data }: Frame) => {
      if (type === 'partner.advanced') return [data.id as string]
      return type === 'message.created' || type === 'message.said' ? [data.message.id as string] : []
    })
    expect(new Set(ids)).toEqual(sees[who])
    expect(ids).toHaveLength(sees[who].size)
    const hidden = [...sees[other(who)]].filter((id) => !sees[who].has(id))
    const everything = JSON.stringify([
      ...[watcher.frames, await api[who].snapshot(session), await listed(api[who])],
      await (await api[who].request(`/v1/sessions/${session}/messages?limit=200`)).json(),
      (await api[who].poll(session, {})).frames,
    ])
    expect(hidden.filter((id) => everything.includes(`"${id}"`))).toEqual([])
    // What the model was told is in what it said: its own lane and what all see, or only the latter.
    for (const { data } of watcher.frames.filter(({ type }) => type === 'message.ai_response')) {
      const asked = shown.find(({ id }) => id === data.message.repliesTo)!
      const told = textOf(data.message.parts).replace('told ', '').split(',')
      const may = shown
        .filter((each) => !each.isPrivate || (asked.isPrivate && each.by === asked.by))
        .map(({ id }) => id)
      expect(told.filter((id) => !may.includes(id))).toEqual([])
      const before = may.slice(0, may.indexOf(asked.id))
      expect(before.filter((id) => !told.includes(id))).toEqual([])
    }
    await watcher.close()
  }
})

test('what one says alone changes nothing that another sees of the session: counts, preview, unread, time, title, files (P157)', async () => {
  const { chat, api, bob, ann, session, isPrivate } = await openPrivate()
  isPrivate.bob = false
  await bob.send(session, 'hello', 'b1')
  await eventually(async () => (await listed(bob)).messageCount === 2)
  await eventually(async () => ((await listed(bob)) as Session & { title: string | null }).title === 'About hello')
  const before = { listed: await listed(bob), session: (await bob.snapshot(session)).session }
  const watcher = bob.watch(session, 'now')
  await watcher.until(({ type }) => type === 'caught-up')

  const { message } = await ann.send(session, 'a secret', 'a1', {
    text: undefined,
    parts: [
      { type: 'text', text: 'a secret' },
      { type: 'file', mediaType: 'text/plain', url: 'data:text/plain,secret' },
    ],
  })
  await eventually(async () => (await listed(ann)).messageCount === 4)
  expect(await listed(bob)).toEqual(before.listed)
  expect((await bob.snapshot(session)).session).toEqual(before.session)
  const own = await listed(ann)
  expect(own).toMatchObject({ messageCount: 4, lastPreview: 'told hello,a secret', unread: 3 })
  expect(own.totalTokens).toBeGreaterThan(before.listed.totalTokens)
  expect(own.updatedAt > before.listed.updatedAt).toBe(true)
  expect(await chat.sessions.get(session)).toMatchObject({ messageCount: 4, lastPreview: 'told hello,a secret' })
  const since = `?changedSince=${encodeURIComponent(new Date(Date.parse(before.listed.updatedAt) + 1).toISOString())}`
  expect(await (await bob.request(`/v1/sessions${since}`)).json()).toMatchObject({ data: [] })

  // Its file neither, by whichever way.
  const { url: path } = message.parts.find(({ type }) => type === 'file') as unknown as { url: string }
  expect([(await ann.request(path)).status, (await bob.request(path)).status]).toEqual([200, 404])
  const files = async (api: Api) =>
    ((await (await api.request(`/v1/sessions/${session}/files`)).json()) as { data: [] }).data
  expect([(await files(ann)).length, (await files(bob)).length]).toEqual([1, 0])
  const withFile = { parts: [{ type: 'file', mediaType: 'text/plain', url: path }], text: undefined }
  isPrivate.ann = false
  for (const each of people) {
    await expect(api[each].send(session, '', undefined, withFile)).rejects.toMatchObject({ problem: { status: 400 } })
  }
  // Nor is anything done with it by another.
  for (const [method, path] of [
    ['POST', 'messages/a1/stop'],
    ['POST', 'messages/a1/retry'],
    ['POST', 'messages/a1/regenerate'],
    ['POST', 'messages/a1/select'],
  ] as const) {
    const body = JSON.stringify(path.endsWith('regenerate') ? { id: 'r1' } : {})
    expect((await bob.request(`/v1/sessions/${session}/${path}`, { method, body })).status).toBe(404)
  }
  // All see what is renamed, and nothing private with it.
  await bob.request(`/v1/sessions/${session}`, { method: 'PATCH', body: JSON.stringify({ title: 'Ours' }) })
  const { data } = await watcher.until(({ type }) => type === 'session.updated')
  expect(data.session).toMatchObject({ messageCount: 2, lastPreview: before.listed.lastPreview })
  expect(watcher.frames.filter(({ type }) => type !== 'caught-up')).toHaveLength(1)
  await watcher.close()
})

test('a file that was said alone stays so when its message is sent again or edited after the lane has changed (P157, I10)', async () => {
  const { ann, bob, session, isPrivate } = await openPrivate()
  const post = async (path: string, body: object) => {
    const response = await ann.request(path, { method: 'POST', body: JSON.stringify(body) })
    // To the end of what is written: while something is, its branch is not edited.
    await response.text()
    return response.status
  }
  const filesOf = async (api: Api) =>
    ((await (await api.request(`/v1/sessions/${session}/files`)).json()) as { data: [] }).data.length
  const said = (text: string) => [
    { type: 'text', text },
    { type: 'file', mediaType: 'text/plain', url: `data:text/plain,${text}` },
  ]
  const messages = `/v1/sessions/${session}/messages`
  const chat = (text: string, more: object = {}) =>
    post('/api/chat', { id: session, messages: [{ id: 'u1', role: 'user', parts: said(text) }], ...more })
  expect(await post(messages, { id: 'm1', parts: said('one') })).toBe(202)
  expect(await chat('two')).toBe(200)
  await eventually(async () => (await listed(ann)).messageCount === 4)
  isPrivate.ann = false
  expect(await post(messages, { id: 'm1', parts: said('one') })).toBe(202)
  expect(await chat('two')).toBe(200)
  expect([await filesOf(ann), await filesOf(bob)]).toEqual([2, 0])
  expect(await chat('three', { messageId: 'u1' })).toBe(200)
  expect(await post(`${messages}/m1/edit`, { id: 'm2', parts: said('four') })).toBeLessThan(300)
  // Of a message that has not come yet nobody knows the lane.
  expect(await post(`${messages}/m9/edit`, { id: 'm10', parts: said('five') })).toBe(404)
  expect([await filesOf(ann), await filesOf(bob)]).toEqual([4, 0])
})

test('where all that one said alone is withdrawn, the preview is of what all see again (P34, P157)', async () => {
  const { chat, ann, bob, session, database, isPrivate } = await openPrivate()
  isPrivate.bob = false
  await bob.send(session, 'hello', 'b1')
  await eventually(async () => (await listed(ann)).lastPreview === 'told hello')
  // Nobody begins to answer it.
  await queryOnce(database, 'update holdfast.meta set paused = true')
  await ann.send(session, 'a secret', 'a1')
  expect(await listed(ann)).toMatchObject({ messageCount: 3, lastPreview: 'a secret' })
  const stop = await ann.request(`/v1/sessions/${session}/messages/a1/stop`, { method: 'POST', body: '{}' })
  expect(await stop.json()).toMatchObject({ withdrawn: true })
  const shown = { messageCount: 2, lastPreview: 'told hello' }
  for (const seen of [await listed(ann), await chat.sessions.get(session)]) expect(seen).toMatchObject(shown)
})
