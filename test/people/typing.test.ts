/** Who is typing: P144, P145. */
import { expect, onTestFinished, test } from 'vitest'
import { createTyping } from '../../src/people/typing.ts'
import { gate } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { addMember, live, openTwoPeople, passing, post } from './two-people.ts'

test('typing is told to the others in every process, not to who types, and nothing of it is stored (P144, P145)', async () => {
  const { ann, bob, session, query } = await openTwoPeople()
  const [hers, herOther, his] = [await live(ann), await live(ann), await live(bob)]
  const stored = `select (select sum(next_seq) from holdfast.sessions)::int as seqs,
    (select count(*) from holdfast.events)::int as events, (select json_agg(m order by user_id) from holdfast.members m) as members`
  const before = await query(stored)
  expect((await post(bob, 'typing', { isTyping: true })).status).toBe(204)
  const told = { type: 'typing', data: { userId: 'bob', isTyping: true, lastsMs: 6_000 } }
  for (const watcher of [hers, herOther]) {
    await watcher.until(() => passing(watcher).length > 0)
    expect(passing(watcher)).toEqual([told])
  }
  expect(await query(stored)).toEqual(before)
  await ann.send(session, 'hi', 'm1')
  await his.outcome('m1')
  expect(passing(his)).toEqual([])
  for (const watcher of [hers, herOther, his]) {
    await watcher.close()
    expect(watcher.problems).toEqual([])
  }
})

/** What was told, and when. */
function collected() {
  const told: { userId: string; isTyping: boolean; atMs: number }[] = []
  const typing = createTyping(({ passing }) => {
    const { data } = JSON.parse(passing!.json) as { data: { userId: string; isTyping: boolean } }
    told.push({ userId: data.userId, isTyping: data.isTyping, atMs: performance.now() })
  })
  onTestFinished(() => typing.stop())
  return { told, typing }
}
const typer = (userId: string) => ({ tenantId: 'default', sessionId: 's', userId })

test('of many words of one user the first is told at once and then the last, a second apart (P144)', async () => {
  const { told, typing } = collected()
  const words = () => told.map(({ userId, isTyping }) => [userId, isTyping])
  for (const isTyping of [true, false, true, true, false]) typing.say(typer('bob'), isTyping)
  // Another's words are not held up by his, nor are his own in another session.
  typing.say(typer('ann'), true)
  typing.say({ ...typer('bob'), sessionId: 'another' }, true)
  const atOnce = [
    ['bob', true],
    ['ann', true],
    ['bob', true],
  ]
  expect(words()).toEqual(atOnce)
  await eventually(async () => told.length === 4)
  expect(words()).toEqual([...atOnce, ['bob', false]])
  expect(told[3]!.atMs - told[0]!.atMs).toBeGreaterThan(990)
  // That one holds up the next as the first did.
  typing.say(typer('bob'), true)
  expect(told).toHaveLength(4)
  await eventually(async () => told.length === 5)
  expect(told[4]!.atMs - told[3]!.atMs).toBeGreaterThan(990)
})

test('who types is held for a second and no longer, and only so many at a time (P144)', async () => {
  const { told, typing } = collected()
  for (let at = 0; at < 10_050; at++) typing.say(typer(`u${at}`), true)
  expect(told).toHaveLength(10_000)
  typing.say(typer('u0'), false)
  await eventually(async () => told.length === 10_001)
  expect(told[10_000]).toMatchObject({ userId: 'u0', isTyping: false })
  await eventually(async () => {
    typing.say(typer('u10049'), true)
    return told.length > 10_001
  })
})

test('the last word comes, whatever was said before it (P144)', async () => {
  const { ann, bob } = await openTwoPeople()
  const hers = await live(ann)
  await post(bob, 'typing', { isTyping: true })
  await post(bob, 'typing', { isTyping: true })
  await post(bob, 'typing', { isTyping: false })
  await hers.until(({ type, data }) => type === 'typing' && data.isTyping === false)
  expect(passing(hers)[0]!.data).toEqual({ userId: 'bob', isTyping: true, lastsMs: 6_000 })
  expect(passing(hers).at(-1)!.data).toEqual({ userId: 'bob', isTyping: false, lastsMs: 0 })
  await hers.close()
})

test('who types into a private lane is told of to nobody, nor who was removed before it is told (P144, P157, I15)', async () => {
  let lane: 'private' | 'main' = 'private'
  const [asking, goOn] = [gate(), gate()]
  const { chat, url, session, ann } = await openChat({
    async lane({ user }) {
      if (user.id !== 'mal') return lane
      asking.open()
      await goOn.passed
      return 'main'
    },
  })
  for (const userId of ['bob', 'mal']) await chat.members.add(session, { userId })
  const [bob, mal] = [await apiOf(url, 'bob'), await apiOf(url, 'mal')]
  const his = bob.watch(session, 'now')
  await his.until(({ type }) => type === 'caught-up')
  const says = async (api: Api) =>
    (await api.request(`/v1/sessions/${session}/typing`, { method: 'POST', body: '{"isTyping":true}' })).status
  expect(await says(ann)).toBe(204)
  const late = says(mal)
  await asking.passed
  await chat.members.remove(session, { userId: 'mal' })
  goOn.open()
  expect(await late).toBe(404)
  lane = 'main'
  await chat.members.add(session, { userId: 'eve' })
  expect(await says(await apiOf(url, 'eve'))).toBe(204)
  await his.until(({ type, data }) => type === 'typing' && data.userId === 'eve')
  expect(passing(his)).toHaveLength(1)
  await his.close()
})

test('readers may not say that they type, strangers learn nothing, and what is no word is refused (P144, I15)', async () => {
  const people = await openTwoPeople()
  const { ann, bob } = people
  await addMember(people, 'rita', 'reader')
  const url = new URL((await ann.request('/livez')).url).origin
  const [rita, otto] = [await apiOf(url, 'rita'), await apiOf(url, 'otto')]
  const hers = await live(ann)
  expect((await post(rita, 'typing', { isTyping: true })).status).toBe(403)
  expect((await post(otto, 'typing', { isTyping: true })).status).toBe(404)
  for (const body of [{}, { isTyping: 'yes' }, { isTyping: true, userId: 'ann' }]) {
    expect([body, (await post(bob, 'typing', body)).status]).toEqual([body, 400])
  }
  await post(bob, 'typing', { isTyping: true })
  await hers.until(() => passing(hers).length > 0)
  expect(passing(hers).map(({ data }) => data.userId)).toEqual(['bob'])
  // Readers are told.
  const theirs = await live(rita)
  await post(ann, 'typing', { isTyping: true })
  await theirs.until(({ type, data }) => type === 'typing' && data.userId === 'ann')
  await theirs.close()
  await hers.close()
})
