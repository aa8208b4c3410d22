/** Who is there: P146 to P149. Two real processes, of which one is killed; what takes time, on the part with short times. */
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { createPresence, type Presence } from '../../src/people/presence.ts'
import type { Database } from '../../src/store/database.ts'
import { presentIn } from '../../src/store/presence.ts'
import { gate, openScene } from '../faults/scene.ts'
import { type Api, apiOf, type Frame, type Snapshot, type Watcher } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { tokenOf } from '../support/server.ts'
import { openRaw } from '../support/socket.ts'
import { openStored, type Stored } from '../support/stored.ts'
import { addMember, live } from './two-people.ts'

type Present = { userId: string; state: string }
/** What passes by may come twice (P145): a beat may find what a wakeup is just telling. */
const once = (told: readonly string[]) =>
  told.filter((each, at) => {
    const ofUser = told.slice(0, at).filter((before) => before.split(' ')[0] === each.split(' ')[0])
    return ofUser.at(-1) !== each
  })
const toldOf = ({ frames }: { frames: Frame[] }) =>
  once(frames.flatMap(({ type, data }) => (type === 'presence' ? [`${data.userId} ${data.state}`] : [])))
const untilTold = (watcher: Watcher, ...told: string[]) =>
  eventually(async () => toldOf(watcher).join() === told.join())
const asked = async (api: Api) => {
  const { presence } = (await (await api.request('/v1/sessions/s/presence')).json()) as { presence: Present[] }
  expect(((await api.snapshot('s')) as Snapshot & { presence: Present[] }).presence).toEqual(presence)
  return presence
}

test('members are told who comes, is away and back, and is gone: left, removed, or by kill -9 of their process, within 10 s of the database (P146–P149, I15)', async () => {
  const scene = await openScene()
  const [first, second] = [await scene.start(), await scene.start()]
  const [ann, otto] = [await apiOf(first.url, 'ann'), await apiOf(first.url, 'otto')]
  const [bob, carl] = [await apiOf(second.url, 'bob'), await apiOf(first.url, 'carl')]
  await ann.createSession('s')
  for (const [userId, role] of [
    ['bob', 'member'],
    ['carl', 'member'],
    ['rita', 'reader'],
  ] as const) {
    await addMember(scene, userId, role)
  }
  const [hers, his] = [await live(ann), await live(carl)]
  await untilTold(hers, 'carl here')
  expect(await asked(ann)).toEqual([{ userId: 'carl', state: 'here' }])

  const headers = { authorization: `Bearer ${await tokenOf('bob')}` }
  const socket = await openRaw(`${second.url}/v1/realtime`, { headers, protocols: ['holdfast.v1'] })
  socket.say({ type: 'presence', state: 'away' })
  socket.say({ type: 'follow', sessionId: 's', cursor: 'now' })
  await untilTold(hers, 'carl here', 'bob away')
  socket.say({ type: 'presence', state: 'here' })
  await untilTold(hers, 'carl here', 'bob away', 'bob here')
  // Nothing is told to who asked for nothing yet, or of themselves.
  expect(toldOf(socket)).toEqual([])
  expect(await asked(bob)).toEqual([
    { userId: 'ann', state: 'here' },
    { userId: 'carl', state: 'here' },
  ])
  const rita = await apiOf(second.url, 'rita')
  expect(await asked(rita)).toHaveLength(3)
  expect((await otto.request('/v1/sessions/s/presence')).status).toBe(404)
  expect((await ann.request('/v1/sessions/s/events?presence=near')).status).toBe(400)

  // A poll is a device, too, for as long as the next one takes; one that waits for nothing is a look.
  const poll = (wait: number) =>
    rita.request(`/v1/sessions/s/events?cursor=now&wait=${wait}`, { headers: { accept: 'application/json' } })
  await poll(0)
  expect(await asked(ann)).toHaveLength(2)
  await poll(1)
  await untilTold(hers, 'carl here', 'bob away', 'bob here', 'rita here', 'rita gone')

  await queryOnce(scene.database, `delete from holdfast.members where user_id = 'carl'`)
  expect((await carl.request('/v1/sessions/s/presence')).status).toBe(404)
  expect(await asked(ann)).toEqual([{ userId: 'bob', state: 'here' }])
  const clock = async () => Number((await queryOnce<{ ms: string }>(scene.database, nowMs))[0]!.ms)
  await second.kill()
  const killedAtMs = await clock()
  await hers.until(({ type, data }) => type === 'presence' && data.userId === 'bob' && data.state === 'gone')
  expect((await clock()) - killedAtMs).toBeLessThan(10_000)
  await hers.until(({ type, data }) => type === 'presence' && data.userId === 'carl' && data.state === 'gone')
  expect(await asked(ann)).toEqual([])
  // Nothing else; and nothing to who was not a member any more.
  expect(toldOf(hers)).toHaveLength(7)
  expect(toldOf(his).filter((told) => told.endsWith('gone') && !told.startsWith('rita'))).toEqual([])
  expect(await queryOnce(scene.database, 'select type from holdfast.events')).toEqual([])
  for (const watcher of [hers, his]) await watcher.close()
})
const nowMs = 'select extract(epoch from clock_timestamp()) * 1000 as ms'

let stored: Stored
beforeAll(async () => {
  stored = await openStored(18)
})
afterAll(() => stored.close())

/** A machine that is busy beats late. */
const times = { beatMs: 100, aliveMs: 2_500, graceMs: 150 }
const log = () => undefined
type Part = { presence: Presence; told: string[]; database: Database; looks: string[] }

/** `asked`: the statements that it has answered, by name. */
function watched(database: Database, asked: string[]): Database {
  return {
    ...database,
    async query(purpose, statement, values) {
      const rows = await database.query<never>(purpose, statement, values)
      asked.push(statement.name)
      return rows
    },
  }
}

/** Processes that follow the session `s`. What one tells the others hear, unless wakeups are lost. */
async function open(count: number, { isLost = false } = {}): Promise<Part[]> {
  await stored.query('truncate holdfast.members, holdfast.processes, holdfast.presences')
  await stored.query(
    `insert into holdfast.members (tenant_id, session_id, user_id, role)
       select 'default', 's', id, 'member' from unnest('{ann,bob,carl}'::text[]) as id`,
  )
  const parts: Part[] = []
  for (let at = 0; at < count; at++) {
    const database = stored.open()
    const told: string[] = []
    const collect = ({ passing }: { passing?: { json: string } | undefined }) => {
      const { data } = JSON.parse(passing!.json) as { data: Present }
      told.push(`${data.userId} ${data.state}`)
    }
    const looks: string[] = []
    const presence = createPresence({
      ...{
        database: watched(database, looks),
        processId: `${performance.now()} ${at}`,
        ...times,
        log,
        tellHere: collect,
      },
      tell(note) {
        if (isLost) return
        for (const each of parts) {
          each.presence.hear(note)
          each.told.push(`${note.presence!.userId} ${note.presence!.state}`)
        }
      },
    })
    parts.push({ presence, told, database, looks })
    onTestFinished(() => presence.stop())
  }
  return parts
}
const who = (userId: string) => ({ tenantId: 'default', sessionId: 's', userId })
const until = (told: () => readonly string[], ...expected: string[]) =>
  eventually(async () => {
    const now = once(told())
    if (now.length >= expected.length) expect(now).toEqual(expected)
    return now.length === expected.length
  })
/** Through how many processes they are there. */
const rowsOf = async (userId: string) =>
  (await stored.query(`select from holdfast.presences where user_id = $1 and state is not null`, [userId])).length
const present = async ({ database }: Part) =>
  (await presentIn(database, who(''))).map(({ userId, state }) => `${userId} ${state}`)

test('the last of a user’s devices counts, and neither a reload nor a glance elsewhere is told (P146, P147)', async () => {
  const [part] = await open(1)
  const { presence, told } = part!
  const phone = presence.enter(who('bob'), 'here')
  await until(() => told, 'bob here')
  const laptop = presence.enter(who('bob'), 'away')
  phone.say('away')
  phone.say('here')
  phone.leave()
  const reloaded = presence.enter(who('bob'), 'here')
  // The same is said of another, after which it would have been told.
  const hers = presence.enter(who('ann'), 'here')
  await until(() => told, 'bob here', 'ann here')
  hers.leave()
  await until(() => told, 'bob here', 'ann here', 'ann gone')
  expect(await present(part!)).toEqual(['bob here'])
  reloaded.leave()
  reloaded.leave()
  await until(() => told, 'bob here', 'ann here', 'ann gone', 'bob away')
  expect(await present(part!)).toEqual(['bob away'])
  laptop.say('here')
  laptop.leave()
  laptop.say('here')
  await until(() => told, 'bob here', 'ann here', 'ann gone', 'bob away', 'bob here', 'bob gone')
  expect(await present(part!)).toEqual([])
})

test.each([
  ['heard', false],
  ['lost', true],
])(
  'over two processes, with every wakeup %s: who goes from one to the other is told of once, and who leaves both is gone (P147, I8)',
  async (_name, isLost) => {
    const [here, there] = await open(2, { isLost })
    const hers = [here!, there!].map(({ presence }) => presence.enter(who('ann'), 'here'))
    // Each knows by then who was there before.
    await eventually(async () => [here!, there!].every(({ looks }) => looks.includes('presences-changed')))
    const others = [here!, there!].map(
      ({ told }) =>
        () =>
          told.filter((each) => !each.startsWith('ann')),
    )
    const untilBoth = async (...expected: string[]) => {
      for (const told of others) await until(told, ...expected)
    }
    const before = here!.presence.enter(who('bob'), 'here')
    await untilBoth('bob here')
    const after = there!.presence.enter(who('bob'), 'here')
    // By then it is stored: on a busy machine that takes longer than leaving has to last.
    await eventually(async () => (await rowsOf('bob')) === 2)
    before.leave()
    // Carl leaves later than that leaving would have been told. Whoever hears nothing sees only who is there for a beat.
    const carl = here!.presence.enter(who('carl'), 'here')
    await untilBoth('bob here', 'carl here')
    carl.leave()
    await untilBoth('bob here', 'carl here', 'carl gone')
    expect(await present(here!)).toEqual(['ann here', 'bob here'])
    after.leave()
    await untilBoth('bob here', 'carl here', 'carl gone', 'bob gone')
    for (const device of hers) device.leave()
    await eventually(async () => (await present(here!)).length === 0)
  },
)

test('who was there through a process that ends is gone when its time is over, and not before (P148)', async () => {
  const [here, there] = await open(2)
  here!.presence.enter(who('ann'), 'here')
  await until(() => here!.told, 'ann here')
  there!.presence.enter(who('bob'), 'here')
  await until(() => here!.told, 'ann here', 'bob here')
  there!.database.abandon()
  const [{ ms } = { ms: 0 }] = await stored.query<{ ms: number }>(
    `select extract(epoch from max(alive_until))::float8 * 1000 as ms from holdfast.processes`,
  )
  await until(() => here!.told, 'ann here', 'bob here', 'bob gone')
  const [now] = await stored.query<{ ms: number }>(`select extract(epoch from clock_timestamp())::float8 * 1000 as ms`)
  expect(now!.ms).toBeGreaterThan(ms - times.aliveMs)
  expect(await present(here!)).toEqual(['ann here'])
})

test('after a crash of the database, which empties both tables, all is there again (P146)', async () => {
  const [here, there] = await open(2)
  here!.presence.enter(who('ann'), 'here')
  there!.presence.enter(who('bob'), 'away')
  await eventually(async () => (await present(here!)).join() === 'ann here,bob away')
  await stored.query('truncate holdfast.processes, holdfast.presences')
  await eventually(async () => (await present(here!)).join() === 'ann here,bob away')
})

test('3,000 who come at once are a few writes, and a beat is one of a process, whoever is there (P149)', async () => {
  const [part] = await open(1)
  const { database } = part!
  const asked: string[] = []
  const presence = createPresence({
    ...{ ...times, log, processId: 'counted', tell: () => undefined, tellHere: () => undefined },
    database: watched(database, asked),
  })
  onTestFinished(() => presence.stop())
  await stored.query(`insert into holdfast.members (tenant_id, session_id, user_id, role)
    select '${who('ann').tenantId}', 's' || at, 'u' || at % 2, 'owner' from generate_series(0, 2999) at`)
  for (let at = 0; at < 3_000; at++) presence.enter({ ...who(`u${at % 2}`), sessionId: `s${at}` }, 'here')
  const rows = async () =>
    (await stored.query<{ n: number }>(`select count(*)::int as n from holdfast.presences`))[0]!.n
  await eventually(async () => (await rows()) === 3_000)
  expect(asked.length).toBeLessThan(8)
  asked.length = 0
  await eventually(async () => asked.filter((name) => name === 'keep-presence').length >= 3)
  expect(asked.length).toBeLessThan(10)
})

test.each([
  ['another process tells that they are gone', true],
  ['they come and go once more', false],
])(
  'while it is written that somebody left, %s: all others are told of as ever, and the process lives (P147, P148)',
  async (_name, isHeard) => {
    await stored.query('truncate holdfast.members, holdfast.processes, holdfast.presences')
    const database = stored.open()
    const [writing, written] = [gate(), gate()]
    const slow: Database = {
      ...database,
      async query(purpose, statement, values) {
        const rows = await database.query<never>(purpose, statement, values)
        if (statement.name === 'keep-presence' && (values[5] as unknown[]).includes(null)) {
          writing.open()
          await written.passed
        }
        return rows
      },
    }
    const told: string[] = []
    const bugs: string[] = []
    const presence = createPresence({
      ...{ database: slow, processId: 'slow', ...times, graceMs: 0, tellHere: () => undefined },
      log: (_line, { error }) => bugs.push(String(error)),
      tell: ({ sessionId, presence: now }) => told.push(`${now!.userId} ${now!.state} ${sessionId}`),
    })
    onTestFinished(() => presence.stop())
    const device = presence.enter(who('bob'), 'here')
    await eventually(async () => told.includes('bob here s'))
    device.leave()
    await writing.passed
    if (isHeard) {
      const note = { ...who(''), events: [], runs: [], due: false, passing: { json: '{}', notTo: null } }
      presence.hear({ ...note, presence: { userId: 'bob', state: 'gone' } })
    } else presence.enter(who('bob'), 'here').leave()
    written.open()
    presence.enter({ ...who('ann'), sessionId: 'another' }, 'here')
    await eventually(async () => told.includes('ann here another'))
    presence.enter(who('bob'), 'here')
    await eventually(async () => told.at(-1) === 'bob here s')
    expect(bugs).toEqual([])
  },
)

test('a process lives on while what it has to say cannot be written, and a bug in that is said (P148)', async () => {
  await stored.query('truncate holdfast.members, holdfast.processes, holdfast.presences')
  const database = stored.open()
  const lines: string[] = []
  const presence = createPresence({
    ...{ processId: 'stuck', ...times, tell: () => undefined, tellHere: () => undefined },
    log: (line, { error }) => lines.push(`${line} ${error}`),
    database: {
      ...database,
      async query(purpose, statement, values) {
        if (statement.name === 'presences-elsewhere-in') throw new TypeError('a bug')
        return database.query<never>(purpose, statement, values)
      },
    },
  })
  onTestFinished(() => presence.stop())
  presence.enter(who('bob'), 'here')
  const aliveUntil = async () =>
    (await stored.query<{ at: string }>(`select alive_until::text as at from holdfast.processes`))[0]?.at
  await eventually(async () => lines.length > 1 && (await aliveUntil()) !== undefined)
  await stored.query(`update holdfast.processes set alive_until = alive_until - interval '1 hour'`)
  const before = await aliveUntil()
  await eventually(async () => (await aliveUntil())! > before!)
  expect(lines[0]).toBe('presence: a step failed TypeError: a bug')
})
