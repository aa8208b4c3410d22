/**
 * Two people on three devices, in one session, through two processes of which one is killed: what all see and what each sees
 * alone at the same time, events of the app, receipts, presence, notices (R0.2, R3.1–R3.4; I1, I4, I5, I7, I14, I15).
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { expect, inject, onTestFinished, test } from 'vitest'
// Built, because its child is.
import { type TestProcess, testProcess } from '../../dist/testing/index.js'
import { startExpo } from '../push/stubs.ts'
import { type Api, apiOf, type Frame, isOutcomeOf, type Watcher } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { overSocket, watchMany } from '../support/many.ts'
import { queryOnce } from '../support/postgres.ts'
import { jwtSecret } from '../support/server.ts'
import { checkFrames, receive } from './two-people.ts'

type Who = 'ann' | 'bob'
type Present = { userId: string; state: string }
const people = ['ann', 'bob'] as const
const each = 4
const key = randomUUID() + randomUUID()

async function openTogether() {
  const expo = await startExpo()
  onTestFinished(() => expo.close())
  const env = { TOGETHER_SECRET: jwtSecret, TOGETHER_KEY: key, EXPO_URL: expo.url }
  const start = async (name: string, more: Record<string, string> = {}) => {
    const module = new URL('together-app.mjs', import.meta.url)
    const server = await testProcess({
      module,
      database: inject('postgres').url18,
      env: { ...env, TOGETHER_NAME: name, ...more },
    })
    onTestFinished(() => server.close())
    return server
  }
  const first = await start('first')
  return { expo, first, second: await start('second', { TOGETHER_DATABASE: first.database }) }
}

/** As a client sends it: again, under its id, until it is taken. */
async function surely(work: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await work()
      return
    } catch {
      await pause(20)
    }
  }
}

async function publish({ url }: TestProcess, id: string, excludeUserId: Who): Promise<void> {
  const response = await fetch(`${url}/v1/sessions/s/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
    body: JSON.stringify({ event: 'partner.moved', data: { id }, excludeUserId, id }),
  })
  expect(response.status).toBe(200)
}

const saysSecond = (chunks: unknown) => JSON.stringify(chunks).includes('second')
const hasCursor = ({ cursor, type }: Frame) => cursor !== undefined && type !== 'caught-up'

test('two people on three devices, one of two processes killed: each device ends with what its person may see, in order, once, and who is away is noticed once (I4, I5, I7, I14, I15)', async () => {
  const { expo, first, second } = await openTogether()
  const query = <Row extends object>(text: string, values: unknown[] = []) =>
    queryOnce<Row>(first.database, text, values)
  /** Where the second process was, the first is after its end. */
  let isKilled = false
  const near = () => (isKilled ? first.url : second.url)
  const api: Record<Who, Api> = { ann: await apiOf(first.url, 'ann'), bob: await apiOf(near, 'bob') }
  await api.ann.createSession('s')
  const member = JSON.stringify({ userId: 'bob' })
  expect((await api.ann.request('/v1/sessions/s/members', { method: 'POST', body: member })).status).toBe(201)
  for (const who of people) {
    const body = JSON.stringify({ kind: 'expo', token: `ExponentPushToken[${who}]` })
    expect((await api[who].request('/v1/devices', { method: 'POST', body })).status).toBe(201)
  }
  const laptop = (await apiOf(near, 'ann')).watch('s')
  onTestFinished(() => laptop.close())
  const devices: [Who, Watcher][] = [
    [
      'ann',
      watchMany(
        ['s'],
        overSocket(() => first.url),
      ).of('s'),
    ],
    ['ann', laptop],
    ['bob', watchMany(['s'], overSocket(near, 'bob')).of('s')],
  ]
  const [phone, , bobs] = devices.map(([, watcher]) => watcher)
  const presentTo = async (who: Who) =>
    ((await (await api[who].request('/v1/sessions/s/presence')).json()) as { presence: Present[] }).presence
  const bothHere = () =>
    eventually(async () => {
      const seen = [await presentTo('ann'), await presentTo('bob')].flat()
      return seen.map(({ userId, state }) => `${userId} ${state}`).join() === 'bob here,ann here'
    })
  await bothHere()

  const sending = people.map(async (who) => {
    for (let at = 0; at < each; at++) await surely(() => api[who].send('s', `${who} ${at}`, `${who}-${at}`))
  })
  const publishing = (async () => {
    for (let at = 0; at < each; at++) {
      for (const who of people) await publish(first, `not-${who}-${at}`, who)
    }
  })()
  // In the middle of a reply of its own.
  await eventually(async () =>
    devices.some(([, { frames }]) => frames.some(({ type, chunks }) => type === 'chunk' && saysSecond(chunks))),
  )
  await second.kill()
  isKilled = true
  await Promise.all([...sending, publishing])
  const ids = people.flatMap((who) => Array.from({ length: each }, (_, at) => `${who}-${at}`))
  const rows = await query<{ message_id: string; lane: string }>('select message_id, lane from holdfast.turns')
  expect(rows.map(({ message_id }) => message_id).sort()).toEqual(ids.sort())
  const isSeen = (who: Who, id: string) => {
    const { lane } = rows.find(({ message_id }) => message_id === id)!
    return lane === 'main' || lane === `private:${who}`
  }
  await Promise.all(
    devices.flatMap(([who, watcher]) => ids.filter((id) => isSeen(who, id)).map((id) => watcher.outcome(id))),
  )
  // The last word, for all.
  await publish(first, 'last-of-bob', 'ann')
  await publish(first, 'last-of-ann', 'bob')
  for (const [who, watcher] of devices) {
    await watcher.until(({ type, data }) => type === 'partner.moved' && data.id === `last-of-${who}`)
  }

  const taken = await query('select from holdfast.turns where attempt > 1')
  expect(taken.length).toBeGreaterThan(0)
  const alone = rows.filter(({ lane }) => lane.startsWith('private:'))
  expect(new Set(alone.map(({ lane }) => lane)).size).toBe(2)
  for (const [who, watcher] of devices) {
    checkFrames(watcher)
    const events = await query<{ seq: number }>(
      `select seq from holdfast.events where session_id = 's' and holdfast.may_see(audience, $1) order by seq`,
      [who],
    )
    const numbered = watcher.frames.filter(hasCursor)
    expect(numbered.flatMap(({ seq }) => seq ?? [])).toEqual(events.map(({ seq }) => seq))
    const turns = await query<{ id: string }>(
      `select id::text from holdfast.turns where holdfast.may_see(audience, $1)`,
      [who],
    )
    const seen = new Set(turns.map(({ id }) => id))
    expect(watcher.frames.filter(({ turnId }) => turnId !== undefined && !seen.has(turnId))).toEqual([])
    for (const id of ids) {
      const outcomes = watcher.frames.filter((frame) => isOutcomeOf(frame, id))
      expect([id, outcomes.map(({ type }) => type)]).toEqual([id, isSeen(who, id) ? ['message.ai_response'] : []])
    }
  }

  // Presence and receipts, through the process that lives.
  await bothHere()
  const { read } = await receive(api.ann, { read: phone!.cursor! })
  await bobs!.until(({ type, data }) => type === 'receipt' && data.userId === 'ann' && data.read === read)

  // Bob has read nothing. The time has come, and nobody is left but the first process.
  expect(expo.messages).toEqual([])
  const due = await query<{ about: string; user_id: string }>('select about, user_id from holdfast.pushes')
  const wanted = due.filter(({ user_id }) => user_id === 'bob').map(({ about }) => about)
  expect(wanted).toHaveLength(ids.filter((id) => isSeen('bob', id)).length)
  await query(`update holdfast.pushes set due_at = now()`)
  await eventually(
    async () => (await query(`select from holdfast.pushes where state in ('due', 'sending')`)).length === 0,
  )
  expect(new Set(expo.messages.map(({ to }) => to))).toEqual(new Set(['ExponentPushToken[bob]']))
  expect(expo.messages.map(({ data }) => data.turnId).sort()).toEqual(wanted.sort())

  // Nobody is left behind through the process that died.
  await bobs!.close()
  first.cut()
  await eventually(async () => (await presentTo('ann')).length === 0)
})
