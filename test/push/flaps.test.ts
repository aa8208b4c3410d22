/**
 * Somebody is there when it is looked whether they are, and gone when it is delivered (R3.3): `chat.notify`, devices that
 * come and go over real connections, receipts by their route, and Expo at the wire.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { expoPush } from '../../src/adapters/expo.ts'
import { createHoldfast } from '../../src/index.ts'
import { apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase, queryOnce } from '../support/postgres.ts'
import { seeded } from '../support/random.ts'
import { jwtSecret } from '../support/server.ts'
import { startExpo } from './stubs.ts'

const users = 10
const flaps = 20
const graceMs = 100

test('of 200 notices to people who are there at the check and may be gone at the delivery each is read or pushed, and none comes twice (R3.3, I5, I14)', async () => {
  const [database, expo] = [await freshDatabase(18), await startExpo()]
  const chat = createHoldfast({
    database: database.url,
    tokens: { secret: jwtSecret },
    pollMs: 100,
    pushGraceMs: graceMs,
    push: { expo: expoPush({ baseUrl: expo.url }) },
    reply: () => 'never asked',
    log: () => undefined,
  })
  onTestFinished(async () => {
    await chat.close()
    await expo.close()
    await database.drop()
  })
  const { url } = await chat.listen(0)

  async function person(at: number) {
    const random = seeded(at)
    const [user, session] = [`user${at}`, `session${at}`]
    let isThere = true
    const api = await apiOf(url, user)
    await api.createSession(session)
    const body = JSON.stringify({ kind: 'expo', token: `ExponentPushToken[${user}]` })
    expect((await api.request('/v1/devices', { method: 'POST', body })).status).toBe(201)
    // Nobody listens at the other one: as a device that is offline.
    const watcher = (await apiOf(() => (isThere ? url : 'http://127.0.0.1:1'), user)).watch(session)
    onTestFinished(() => watcher.close())
    await watcher.until(({ type }) => type === 'caught-up')
    const seqs: number[] = []
    let read = 0
    const come = (there: boolean) => {
      isThere = there
      if (!there) watcher.cut()
    }
    const reads = async (cursor: string) => {
      const response = await api.request(`/v1/sessions/${session}/receipts`, {
        method: 'POST',
        body: JSON.stringify({ read: cursor }),
      })
      read = Math.max(read, ((await response.json()) as { read: number }).read)
    }
    let wasPresent = 0
    for (let flap = 0; flap < flaps; flap++) {
      const kind = random(4)
      come(kind !== 3)
      if (kind === 2 && (await chat.presence(session)).some(({ userId }) => userId === user)) wasPresent++
      const telling = chat.notify(session, user, 'app.moved', { at: flap })
      if (kind === 2) {
        // Before, while or after it is delivered.
        await pause(random(4))
        come(false)
      }
      const { seq } = await telling
      seqs.push(seq)
      if (kind < 2) await reads((await watcher.until((frame) => frame.seq === seq)).cursor!)
      else await pause(random(2 * graceMs))
    }
    come(true)
    await watcher.until(({ seq }) => seq === seqs.at(-1))
    expect(watcher.problems).toEqual([])
    expect(watcher.frames.flatMap(({ seq }) => seq ?? [])).toEqual(seqs)
    return { token: `ExponentPushToken[${user}]`, seqs, read, wasPresent }
  }

  const all = await Promise.all(Array.from({ length: users }, (_, at) => person(at)))
  const counts = async () => {
    const rows = await queryOnce<{ state: string; n: number }>(
      database.url,
      'select state, count(*)::int as n from holdfast.pushes group by 1',
    )
    return Object.fromEntries(rows.map(({ state, n }) => [state, n]))
  }
  await eventually(async () => Object.keys(await counts()).every((state) => state === 'sent' || state === 'withheld'))
  const { sent = 0, withheld = 0 } = await counts()
  expect(sent + withheld).toBe(users * flaps)
  expect(expo.messages).toHaveLength(sent)
  for (const { token, seqs, read } of all) {
    const pushed = expo.messages.filter(({ to }) => to === token).map(({ data }) => data.seq as number)
    expect(pushed).toHaveLength(new Set(pushed).size)
    expect(seqs.filter((seq) => seq > read && !pushed.includes(seq))).toEqual([])
  }
  // It went both ways, and there were flaps.
  expect(Math.min(sent, withheld)).toBeGreaterThan(20)
  expect(all.reduce((sum, { wasPresent }) => sum + wasPresent, 0)).toBeGreaterThan(20)
})
