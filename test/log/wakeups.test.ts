/** Listeners that hear nothing, as behind a pooler in transaction mode: noticed, said, and made up for (I8). */
import { expect, onTestFinished, test } from 'vitest'
import { createSeal } from '../../src/log/seal.ts'
import { createWakeups, type Note } from '../../src/log/wakeups.ts'
import { openDatabase } from '../../src/store/database.ts'
import { gate, openScene, pieces, type Scene, textIn } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { type Pooler, startPooler } from '../support/pooler.ts'
import { freshDatabase } from '../support/postgres.ts'

async function poolerTo(database: string): Promise<Pooler> {
  const pooler = await startPooler(database)
  onTestFinished(() => pooler.close())
  return pooler
}

/** The wakeups of one process; `become` resolves when it is told that it is deaf, or not any more. */
async function openWakeups() {
  const { url, drop } = await freshDatabase(18)
  const pooler = await poolerTo(url)
  const database = openDatabase(pooler.url, { poolMax: 6, onError: () => undefined })
  const lines: string[] = []
  const seal = createSeal('secret', 'one')
  const log = (line: string) => void lines.push(line)
  const wakeups = createWakeups({ database, seal, log, enabled: true, proveEveryMs: 100 })
  const told: boolean[] = []
  const become = (deaf: boolean) => new Promise<void>((resolve) => wakeups.onDeaf((each) => each === deaf && resolve()))
  wakeups.onDeaf((deaf) => told.push(deaf))
  onTestFinished(async () => {
    await wakeups.stop()
    await database.close()
    await drop()
  })
  return { pooler, wakeups, lines, told, become }
}

test('a listener that hears nothing is noticed at its start and said once, and so is that it hears again (I8)', async () => {
  const { pooler, wakeups, lines, told, become } = await openWakeups()
  const again = become(false)
  await wakeups.start()
  expect(told).toEqual([true])
  pooler.isDeaf = false
  await again
  expect(told).toEqual([true, false])
  expect(lines.map((line) => line.slice(0, 20))).toEqual(['LISTEN hears nothing', 'LISTEN hears again.'])
})

test('whom a note names is told, however many they are and however large what rides along (P126, P154)', async () => {
  const { url, drop } = await freshDatabase(18)
  const [here, there] = await Promise.all(
    ['here', 'there'].map(async (processId) => {
      const database = openDatabase(url, { poolMax: 2, onError: () => undefined })
      const seal = createSeal('secret', processId)
      const wakeups = createWakeups({ database, seal, log: () => undefined, enabled: true })
      await wakeups.start()
      return { database, wakeups }
    }),
  )
  onTestFinished(async () => {
    for (const { wakeups, database } of [here!, there!]) {
      await wakeups.stop()
      await database.close()
    }
    await drop()
  })
  const names = Array.from({ length: 100 }, (_, at) => `${at} ü ${'x'.repeat(120)}`)
  const note = { ...{ tenantId: 'default', sessionId: 's', events: [], runs: [], due: false } }
  const event = { seq: 1, type: 'a.b', turnId: null, position: null, attempt: null, audience: null, at: '' }
  const heard: Note[] = []
  there!.wakeups.onNote((each) => each !== null && heard.push(each))
  // Each knows of the other a moment after it has begun.
  await eventually(async () => {
    here!.wakeups.tell({ ...note, sessionId: 'before' })
    return heard.length > 0
  })
  here!.wakeups.tell({ ...note, left: names, readBy: 'ann', events: [{ ...event, json: `"${'x'.repeat(9_000)}"` }] })
  here!.wakeups.tell({ ...note, members: names })
  here!.wakeups.tell({ ...note, sessionId: 'after' })
  await eventually(async () => heard.at(-1)?.sessionId === 'after')
  expect(heard.flatMap(({ left = [] }) => left)).toEqual(names)
  expect(heard.flatMap(({ members = [] }) => members)).toEqual(names)
  expect(heard.find(({ left }) => left)).toMatchObject({ readBy: 'ann', audiences: [null] })
})

test('a listener that hears no more is noticed at its next proof (I8)', async () => {
  const { pooler, wakeups, lines, told, become } = await openWakeups()
  pooler.isDeaf = false
  await wakeups.start()
  expect(told).toEqual([])
  const deaf = become(true)
  pooler.isDeaf = true
  await deaf
  expect(lines).toHaveLength(1)
  const again = become(false)
  pooler.isDeaf = false
  await again
  expect(told).toEqual([true, false])
})

/** A poll that comes this seldom can be what makes one of many things go on, not all of them. */
const seldom = { HOLDFAST_POLL_MS: '10000', HOLDFAST_LEASE_MS: '30000' }

test('deaf processes claim and follow by looking often, whatever their poll (I8)', async () => {
  const scene = await openScene()
  const { ann, provider } = scene
  const pooler = await poolerTo(scene.database)
  const texts = pieces(0, 12)
  const gates = texts.map(gate)
  provider.script(() => texts.flatMap((text, at) => [{ wait: gates[at]!.passed }, { text }]))
  const { runner, http } = await startDeaf(scene, pooler)
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  await watcher.until(({ type }) => type === 'caught-up')
  const { reply } = await ann.send(session, 'hi', 'm1')
  const withinMs = 15_000
  // Each piece is told only when the one before has been seen: twelve polls one after the other.
  for (const [at, { open }] of gates.entries()) {
    open()
    const soFar = texts.slice(0, at + 1).join('')
    await watcher.until(() => watcher.text(reply.id) === soFar, withinMs)
  }
  expect(textIn(await watcher.outcome('m1', withinMs))).toBe(texts.join(''))
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(await http.stop()).toBe(0)
  expect(await runner.stop()).toBe(0)
}, 40_000)

async function startDeaf(scene: Scene, pooler: Pooler) {
  const start = (role: string) => scene.start({ database: pooler.url, env: { ...seldom, HOLDFAST_ROLES: role } })
  const runner = await start('runner')
  const http = await start('http')
  await Promise.all([runner, http].map((server) => server.line(/LISTEN hears nothing/)))
  return { runner, http }
}
