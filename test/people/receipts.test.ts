/** Receipts, and what of a session is unread: P140 to P143, P145. */
import { expect, test } from 'vitest'
import { gate } from '../faults/scene.ts'
import { type Api, apiOf, type Snapshot } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { addMember, live, type Numbers, openTwoPeople, passing, post, receive } from './two-people.ts'

type Session = Snapshot['session'] & { unread: number }
type Member = { userId: string; role: string; delivered: number; read: number }

const membersOf = async (api: Api) => ((await api.snapshot('s')) as Snapshot & { members: Member[] }).members
const unreadOf = async (api: Api) => ((await api.snapshot('s')).session as Session).unread
/** As the list says it, and as the answer to a repeated create does. */
async function unreadElsewhere(api: Api): Promise<[listed: number, again: number]> {
  const list = (await (await api.request('/v1/sessions')).json()) as { data: Session[] }
  const again = await api.request('/v1/sessions', { method: 'POST', body: JSON.stringify({ id: 's' }) })
  return [list.data[0]!.unread, ((await again.json()) as Session).unread]
}

test('a receipt answers what is stored; it only grows, and what was read was delivered (P141)', async () => {
  const { ann, bob } = await openTwoPeople()
  const watcher = await live(ann)
  const first = await ann.send('s', 'one', 'm1')
  await watcher.outcome('m1')
  const second = await ann.send('s', 'two', 'm2')
  await watcher.outcome('m2')
  const end = await ann.snapshot('s')
  const [one, two, last] = [first.cursor, second.cursor, end.cursor].map((cursor) => Number(cursor.split('.')[1]))

  expect(await receive(bob, {})).toEqual({ delivered: 0, read: 0, unread: 4 })
  expect(await receive(bob, { delivered: second.cursor })).toEqual({ delivered: two, read: 0, unread: 4 })
  expect(await receive(bob, { delivered: first.cursor, read: first.cursor })).toEqual({
    ...{ delivered: two, read: one, unread: 3 },
  })
  const whole = { delivered: last, read: last, unread: 0 }
  expect(await receive(bob, { read: end.cursor })).toEqual(whole)
  expect(await receive(bob, { read: end.cursor })).toEqual(whole)
  expect(await receive(bob, { delivered: first.cursor, read: second.cursor })).toEqual(whole)
  // Each is of one user.
  expect(await receive(ann, {})).toEqual({ delivered: 0, read: 0, unread: 2 })
  expect(await membersOf(ann)).toEqual([
    { userId: 'ann', role: 'owner', delivered: 0, read: 0 },
    { userId: 'bob', role: 'member', delivered: last, read: last },
  ])
  await watcher.close()
})

test('a cursor that cannot be read, of another log or beyond the end is bad_cursor, and nothing is changed (P141)', async () => {
  const { ann, bob, session } = await openTwoPeople()
  const { cursor } = await ann.send(session, 'one', 'm1')
  const [epoch, seq] = cursor.split('.')
  for (const bad of ['x', `${epoch}`, `other.${seq}`, `${epoch}.${Number(seq) + 1_000}`, 'now', '']) {
    for (const body of [{ read: bad }, { delivered: bad }, { delivered: bad, read: cursor }]) {
      const response = await post(bob, 'receipts', body)
      expect([body, response.status, ((await response.json()) as { code: string }).code]).toEqual([
        ...[body, 400, 'bad_cursor'],
      ])
    }
  }
  for (const body of [{ read: 1 }, { read: null }, { seen: cursor }, []]) {
    expect([body, (await post(bob, 'receipts', body)).status]).toEqual([body, 400])
  }
  expect(await receive(bob, {})).toMatchObject({ delivered: 0, read: 0 })
})

test('unread are others’ messages, and replies that are complete or have failed, by when they were there (P140)', async () => {
  const people = await openTwoPeople({ HOLDFAST_ATTEMPTS_MAX: '1' })
  const { ann, bob, provider } = people
  const held = gate()
  const scripts: Parameters<typeof provider.script>[0][] = [
    [{ text: 'a ' }, { wait: held.passed }, { text: 'reply' }],
    [{ status: 400 }],
    [{ text: 'now it works' }],
    [{ text: 'half' }, { hang: true }],
  ]
  provider.script((request) => {
    const script = scripts[request.index]!
    return typeof script === 'function' ? script(request) : script
  })
  const watcher = await live(ann)
  const counts = async () => [await unreadOf(ann), await unreadOf(bob)]

  const one = await ann.send('s', 'one', 'm1')
  await watcher.until(() => watcher.text(one.reply.id) === 'a ')
  expect(await counts()).toEqual([0, 1])
  // Read up to where the reply is still being written: it counts when it is there.
  for (const api of [ann, bob]) await receive(api, { read: (await api.snapshot('s')).cursor })
  expect(await counts()).toEqual([0, 0])
  held.open()
  await watcher.outcome('m1')
  expect(await counts()).toEqual([1, 1])
  expect(await unreadElsewhere(bob)).toEqual([1, 1])

  await bob.send('s', 'two', 'm2')
  expect((await watcher.outcome('m2')).type).toBe('message.error')
  expect(await counts()).toEqual([3, 2])
  // Its reply is taken away until there is a new one, which counts in its place.
  const retried = await bob.command('s', 'm2', 'retry')
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.id === retried.reply.id)
  expect(await counts()).toEqual([3, 2])

  await receive(ann, { read: (await ann.snapshot('s')).cursor })
  const three = await bob.send('s', 'three', 'm3')
  await watcher.until(() => watcher.text(three.reply.id) === 'half')
  await bob.command('s', 'm3', 'stop')
  await watcher.outcome('m3')
  expect(await counts()).toEqual([1, 2])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a receipt is told to all who follow, in every process, without a cursor, once when it has grown (P142, P145, I5)', async () => {
  const { ann, bob, session, query } = await openTwoPeople()
  const [hers, his, hisOther] = [await live(ann), await live(bob), await live(bob)]
  const sent = await ann.send(session, 'hi', 'm1')
  await Promise.all([hers, his, hisOther].map((watcher) => watcher.outcome('m1')))
  const before = await query('select next_seq as n from holdfast.sessions')
  const delivered = await receive(bob, { delivered: sent.cursor })
  await receive(bob, { delivered: sent.cursor })
  const { cursor } = await bob.snapshot(session)
  const read = await receive(bob, { read: cursor })
  const told = [delivered, read].map((each) => ({
    ...{ type: 'receipt', data: { userId: 'bob', delivered: each.delivered, read: each.read } },
  }))
  for (const watcher of [hers, his, hisOther]) {
    await watcher.until(({ type, data }) => type === 'receipt' && data.read === read.read)
    expect(passing(watcher)).toEqual(told)
    // What comes after them fits where it would without them.
  }
  expect(await query('select next_seq as n from holdfast.sessions')).toEqual(before)
  await ann.send(session, 'again', 'm2')
  for (const watcher of [hers, his, hisOther]) {
    await watcher.outcome('m2')
    await watcher.close()
    expect(watcher.problems).toEqual([])
  }
})

test('a long poll is answered at once with what is told in passing, and its cursor stays (P43, P145)', async () => {
  const { ann, bob, session } = await openTwoPeople()
  const { cursor } = await ann.snapshot(session)
  let answered = false
  const polling = ann.poll(session, { cursor, wait: 50 }).finally(() => {
    answered = true
  })
  // Nothing says when the poll is waiting: he types until it was.
  await eventually(async () => {
    await post(bob, 'typing', { isTyping: true })
    return answered
  })
  const { frames, cursor: after } = await polling
  expect(frames).toEqual([{ type: 'typing', data: { userId: 'bob', isTyping: true, lastsMs: 6_000 } }])
  expect(after).toBe(cursor)
})

test('where wakeups are lost so is the frame; the next snapshot has it (P142, P145, I8)', async () => {
  const { ann, bob, session } = await openTwoPeople({ HOLDFAST_WAKEUPS: 'off' })
  const hers = await live(ann)
  const { cursor } = await ann.send(session, 'hi', 'm1')
  const { read } = await receive(bob, { read: cursor })
  await hers.outcome('m1')
  expect(passing(hers)).toEqual([])
  expect((await membersOf(ann)).find(({ userId }) => userId === 'bob')).toMatchObject({ read, delivered: read })
  await hers.close()
})

test('who waits for a reply, and who reads it by useChat’s wire, is told nothing in passing (P37, P82, P145)', async () => {
  const { ann, bob, provider, session } = await openTwoPeople()
  const held = [gate(), gate()]
  provider.script(({ index }) => [{ text: 'a ' }, { wait: held[index]!.passed }, { text: 'reply' }])
  const watcher = await live(ann)
  const waiting = ann.request(`/v1/sessions/${session}/messages?wait=30`, {
    method: 'POST',
    body: JSON.stringify({ id: 'm1', text: 'hi' }),
  })
  await watcher.until(({ type }) => type === 'chunk')
  const saySome = async () => {
    const { read } = await receive(bob, { read: (await bob.snapshot(session)).cursor })
    expect((await post(bob, 'typing', { isTyping: true })).status).toBe(204)
    await watcher.until(({ type, data }) => type === 'receipt' && data.read === read)
  }
  await saySome()
  held[0]!.open()
  const answered = await waiting
  expect([answered.status, ((await answered.json()) as { reply: { status: string } }).reply.status]).toEqual([
    ...[200, 'complete'],
  ])

  const parts = [{ type: 'text', text: 'more' }]
  const reading = await ann.request('/api/chat', {
    method: 'POST',
    body: JSON.stringify({ id: session, trigger: 'submit-message', messages: [{ id: 'm2', role: 'user', parts }] }),
  })
  await watcher.until(({ type, turnId }) => type === 'chunk' && turnId !== watcher.frames.find((f) => f.turnId)?.turnId)
  await saySome()
  held[1]!.open()
  const text = await reading.text()
  expect(text).toContain('"delta":"reply"')
  expect(text).toContain('"type":"finish"')
  expect(text).not.toMatch(/receipt|typing/)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('readers say receipts, too; who has left says none, and who is none is told nothing (P141, I15)', async () => {
  const people = await openTwoPeople()
  const { ann, session, query } = people
  await addMember(people, 'rita', 'reader')
  const url = new URL((await ann.request('/livez')).url).origin
  const [rita, otto] = [await apiOf(url, 'rita'), await apiOf(url, 'otto')]
  const { cursor } = await ann.send(session, 'hi', 'm1')
  expect(await receive(rita, { read: cursor })).toMatchObject({ read: Number(cursor.split('.')[1]) })
  expect((await post(otto, 'receipts', { read: cursor })).status).toBe(404)
  await query(`delete from holdfast.members where user_id = 'rita'`)
  expect((await post(rita, 'receipts', { read: cursor })).status).toBe(404)
  expect(((await receive(ann, {})) as Numbers).read).toBe(0)
})
