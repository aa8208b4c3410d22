/** Messages that no server has acknowledged: kept, in order, sent once, whatever happens to page, network and server (R2.5, R4.6). */
import { expect, onTestFinished, test } from 'vitest'
import { type Locks, processLocks } from '../../src/client/locks.ts'
import { memoryStorage, type Storage } from '../../src/client/storage.ts'
import { createUnsent, type UnsentList, type UnsentOptions } from '../../src/client/unsent.ts'
import { createWire } from '../../src/client/wire.ts'
import { textOf } from '../../src/core/parts.ts'
import { type Chat, openChat } from '../support/chat.ts'
import { eventually } from '../support/eventually.ts'
import { startProxy } from '../support/proxy.ts'
import { tokenOf } from '../support/server.ts'

type Scene = Awaited<ReturnType<typeof openScene>>

async function openScene(options: Parameters<typeof openChat>[0] = {}) {
  const opened = await openChat({ limits: { sendsPerMinute: 0 }, ...options })
  const { hostname, port } = new URL(opened.url)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  onTestFinished(() => proxy.close())
  return {
    ...opened,
    proxy,
    through: `http://${proxy.host}:${proxy.port}`,
    storage: memoryStorage(),
    locks: processLocks(),
  }
}

/** Without a server. */
const memoryScene = () => ({ through: 'http://localhost', storage: memoryStorage(), locks: processLocks() })

let made = 0

function openTab(
  scene: Pick<Scene, 'through'> & { storage: Storage; locks: Locks },
  options: Partial<UnsentOptions> & { headers?: (isRenewal: boolean) => Promise<Headers>; fetch?: typeof fetch } = {},
): UnsentList {
  const wire = createWire({
    api: scene.through,
    headers: options.headers ?? (async () => new Headers({ authorization: `Bearer ${await tokenOf('ann')}` })),
    headersMayChange: true,
    credentials: undefined,
    fetch: options.fetch ?? fetch,
    silentMs: 40_000,
  })
  const unsent = createUnsent({
    wire,
    storage: scene.storage,
    locks: scene.locks,
    name: 'ann',
    newId: () => `id-${++made}`,
    expiresMs: 86_400_000,
    waitsWhenLimited: true,
    onLoggedOut: () => undefined,
    onStorageFailed(error) {
      throw error
    },
    ...options,
  })
  onTestFinished(() => unsent.close())
  return unsent
}

const textPart = (text: string) => [{ type: 'text', text }]
const say = (unsent: UnsentList, { session }: Pick<Chat, 'session'>, text: string) =>
  unsent.add({ sessionId: session, parts: textPart(text) })
const storedBy = async ({ ann, session }: Chat) =>
  (await ann.snapshot(session)).messages.flatMap(({ id, role, parts }) =>
    role === 'user' ? [`${id}: ${textOf(parts)}`] : [],
  )
const settled = (unsent: UnsentList) => eventually(async () => unsent.list().length === 0)

test('what is written is sent in order, and the promise holds what the server stored', async () => {
  const scene = await openScene()
  const unsent = openTab(scene)
  const added = await Promise.all(['one', 'two', 'three'].map((text) => say(unsent, scene, text)))
  expect(unsent.list().map(({ parts }) => textOf(parts))).toEqual(['one', 'two', 'three'])
  const taken = await Promise.all(added.map((each) => each.taken))
  expect(taken.map(({ message }) => message.id)).toEqual(added.map(({ id }) => id))
  expect(await storedBy(scene)).toEqual(['one', 'two', 'three'].map((text, at) => `${added[at]!.id}: ${text}`))
  expect(unsent.list()).toEqual([])
  expect(await scene.storage.entries('')).toEqual([])
})

test('without a network they wait, without a try being counted, and are sent in order when it is back (R2.5)', async () => {
  const scene = await openScene()
  const unsent = openTab(scene)
  let hasTried = false
  unsent.subscribe(() => {
    hasTried ||= unsent.list().some(({ isSending }) => isSending)
  })
  scene.proxy.refuse()
  for (const text of ['one', 'two']) await say(unsent, scene, text)
  await eventually(async () => hasTried)
  await eventually(async () => unsent.list().every(({ isSending }) => !isSending))
  expect(unsent.list().map(({ state, tries }) => [state, tries])).toEqual([
    ['waiting', 0],
    ['waiting', 0],
  ])
  expect((await scene.storage.entries('')).length).toBe(2)
  scene.proxy.accept()
  unsent.retry()
  await settled(unsent)
  expect((await storedBy(scene)).map((each) => each.split(': ')[1])).toEqual(['one', 'two'])
})

test('an answer that is lost has it sent again with its id, and it is stored once (I1, I10)', async () => {
  const scene = await openScene()
  const unsent = openTab(scene)
  let lost = 0
  scene.proxy.watch({ onDownstream: () => (lost++ < 3 ? 'cut' : 'pass') })
  const { id, taken } = await say(unsent, scene, 'once')
  expect((await taken).message.id).toBe(id)
  expect(lost).toBeGreaterThan(2)
  expect(await storedBy(scene)).toEqual([`${id}: once`])
})

test('what a page left that has crashed, before or after the server had it, the next one sends; each is stored once', async () => {
  const scene = await openScene()
  const crashed = openTab(scene)
  const heal = scene.proxy.watch({ onDownstream: () => 'cut' })
  await say(crashed, scene, 'arrived')
  await eventually(async () => (await storedBy(scene)).length === 1)
  await say(crashed, scene, 'never sent')
  crashed.close()
  heal()
  const next = openTab(scene)
  expect(next.list()).toEqual([])
  const seen: string[] = []
  onTestFinished(
    next.subscribe(() =>
      seen.push(
        next
          .list()
          .map(({ parts }) => textOf(parts))
          .join(),
      ),
    ),
  )
  await eventually(async () => seen.includes('arrived,never sent'))
  await settled(next)
  expect((await storedBy(scene)).map((each) => each.split(': ')[1])).toEqual(['arrived', 'never sent'])
})

test('of two tabs one sends, the other sees what becomes of it, and both their messages are stored once, in order', async () => {
  const scene = await openScene()
  const [left, right] = [openTab(scene), openTab(scene)]
  scene.proxy.refuse()
  const written = [await say(left, scene, 'one'), await say(right, scene, 'two'), await say(left, scene, 'three')]
  for (const tab of [left, right]) await eventually(async () => tab.list().length === 3)
  scene.proxy.accept()
  left.retry()
  right.retry()
  await Promise.all([settled(left), settled(right)])
  // Whichever of them has sent it.
  for (const { id, taken } of written) expect((await taken).message.id).toBe(id)
  expect((await storedBy(scene)).map((each) => each.split(': ')[1])).toEqual(['one', 'two', 'three'])
})

test('what is refused stays, with the reason, and lets the others pass; edited it is sent with its id', async () => {
  const scene = await openScene()
  const unsent = openTab(scene)
  const bad = await say(unsent, scene, 'what no text may hold: \0')
  const good = await say(unsent, scene, 'good')
  await expect(bad.taken).rejects.toMatchObject({ kind: 'validation' })
  await good.taken
  expect(unsent.list()).toMatchObject([{ id: bad.id, state: 'failed', failure: { kind: 'validation' } }])
  expect(await unsent.edit(bad.id, textPart('better'))).toBe(true)
  await settled(unsent)
  expect(await storedBy(scene)).toEqual([`${good.id}: good`, `${bad.id}: better`])
})

test('what cannot be sent is not sent: nothing is refused, and what is too long is kept, with the reason (R2.3)', async () => {
  const scene = await openScene()
  const unsent = openTab(scene)
  for (const parts of [textPart('  '), []]) {
    await expect(unsent.add({ sessionId: scene.session, parts })).rejects.toMatchObject({ kind: 'validation' })
  }
  expect(unsent.list()).toEqual([])
  const { id, taken: tooLong } = await unsent.add({ sessionId: scene.session, parts: textPart('x'.repeat(300_000)) })
  await expect(tooLong).rejects.toMatchObject({ kind: 'validation', code: 'too_large' })
  expect(unsent.list()).toMatchObject([{ id, state: 'failed', mayBeStored: false, failure: { code: 'too_large' } }])
  await unsent.withdraw(id)
  const twice = await Promise.all(
    [1, 2].map(() => unsent.add({ sessionId: scene.session, id: 'm', parts: textPart('hi') })),
  )
  for (const { taken } of twice) expect((await taken).message.id).toBe('m')
  expect(await storedBy(scene)).toEqual(['m: hi'])
})

test('one too many in a minute waits for its time, shows until when, and costs no try; or fails, if the app wants it so (R2.3)', async () => {
  const scene = await openScene({ limits: { sendsPerMinute: 1 } })
  const unsent = openTab(scene)
  const impatient = openTab({ ...scene, storage: memoryStorage() }, { waitsWhenLimited: false })
  await (await say(unsent, scene, 'first')).taken
  await say(unsent, scene, 'second')
  await eventually(async () => unsent.list()[0]?.retryAt != null)
  const [waiting] = unsent.list()
  expect(waiting).toMatchObject({ state: 'waiting', tries: 0, isSending: false })
  expect(Date.parse(waiting!.retryAt!)).toBeGreaterThan(Date.now())
  const third = await say(impatient, scene, 'third')
  await expect(third.taken).rejects.toMatchObject({ kind: 'rate_limit' })
  expect(impatient.list()).toMatchObject([{ state: 'failed', failure: { kind: 'rate_limit', code: 'rate_limited' } }])
})

test('a budget that is renewed after a message is too old fails it at once, with the server’s reason (P229)', async () => {
  const detail = 'The budget of yours is used up.'
  const problem = { code: 'budget_exceeded', detail, retryable: true, retryAfterMs: 2 * 86_400_000 }
  const scene = { ...memoryScene(), session: 's' }
  const unsent = openTab(scene, { fetch: async () => Response.json(problem, { status: 429 }) })
  const { taken } = await say(unsent, scene, 'more')
  await expect(taken).rejects.toMatchObject({ code: 'budget_exceeded', message: detail })
  expect(unsent.list()).toMatchObject([{ state: 'failed', failure: { message: detail } }])
})

test('a wait of more days than a timer takes, for the budget of a month, does not end at once (P229)', async () => {
  const end = new AbortController()
  onTestFinished(() => end.abort())
  const { pause } = createWire({
    ...{ api: 'http://localhost', headers: async () => new Headers(), headersMayChange: false, credentials: undefined },
    ...{ fetch, silentMs: 1_000 },
  })
  const month = pause(31 * 86_400_000, end.signal).catch(() => undefined)
  expect(await Promise.race([month.then(() => 'month'), pause(20, undefined).then(() => 'moment')])).toBe('moment')
})

test('what could not be sent for too long fails, and is sent when its writer says so', async () => {
  const scene = await openScene()
  const unsent = openTab(scene, { expiresMs: -1 })
  const { taken } = await say(unsent, scene, 'old')
  await expect(taken).rejects.toMatchObject({ code: 'expired' })
  expect(unsent.list()).toMatchObject([{ state: 'failed', failure: { kind: 'expired' } }])
  const later = openTab(scene)
  later.start()
  await eventually(async () => later.list().length === 1)
  later.retry(later.list()[0]!.id)
  await settled(later)
  expect(await storedBy(scene)).toHaveLength(1)
})

test('taken back before it arrived it is gone; after an answer that was lost the server is told to stop it', async () => {
  const scene = await openScene({ reply: () => new Promise(() => undefined) })
  const unsent = openTab(scene)
  const first = await say(unsent, scene, 'first')
  await first.taken
  const heal = scene.proxy.watch({ onDownstream: () => 'cut' })
  const lost = await say(unsent, scene, 'lost')
  await eventually(async () => (await storedBy(scene)).length === 2)
  const unsentOne = await say(unsent, scene, 'never')
  await eventually(async () => unsent.list().every(({ isSending }) => !isSending))
  scene.proxy.refuse()
  await eventually(async () => (await unsent.withdraw(unsentOne.id)) !== null)
  await expect(unsentOne.taken).rejects.toMatchObject({ code: 'withdrawn' })
  await eventually(async () => (await unsent.withdraw(lost.id)) !== null)
  expect(unsent.list()).toEqual([])
  heal()
  scene.proxy.accept()
  unsent.retry()
  await eventually(async () => (await storedBy(scene)).length === 1)
  await eventually(async () => (await scene.storage.entries('')).length === 0)
})

test('one that may have arrived is edited as another message, and the first is taken back', async () => {
  const scene = await openScene({ reply: () => new Promise(() => undefined) })
  const unsent = openTab(scene)
  await (await say(unsent, scene, 'first')).taken
  const heal = scene.proxy.watch({ onDownstream: () => 'cut' })
  const lost = await say(unsent, scene, 'lost')
  await eventually(async () => (await storedBy(scene)).length === 2)
  scene.proxy.refuse()
  await eventually(() => unsent.edit(lost.id, textPart('found')))
  heal()
  scene.proxy.accept()
  unsent.retry()
  await settled(unsent)
  await eventually(async () => (await storedBy(scene)).map((each) => each.split(': ')[1]).join() === 'first,found')
})

test('its session is made before it, once, and a user who logs out leaves nothing', async () => {
  const scene = await openScene()
  const unsent = openTab(scene)
  const sessionId = `new-${made}`
  const { taken } = await unsent.add({ sessionId, parts: textPart('hello'), makes: { title: 'Mine' } })
  await taken
  expect((await scene.ann.snapshot(sessionId)).session.title).toBe('Mine')
  scene.proxy.refuse()
  const left = await say(unsent, scene, 'left')
  await unsent.wipe()
  await expect(left.taken).rejects.toMatchObject({ code: 'withdrawn' })
  expect([unsent.list(), await scene.storage.entries('')]).toEqual([[], []])
})

test('what the device cannot keep is sent all the same, and the app is told', async () => {
  const scene = await openScene()
  const failed: unknown[] = []
  const full = { ...memoryStorage(), set: () => Promise.reject(new Error('full')) }
  const unsent = openTab({ ...scene, storage: full }, { onStorageFailed: (error) => failed.push(error) })
  const added = await Promise.all(['one', 'two'].map((text) => say(unsent, scene, text)))
  await Promise.all(added.map(({ taken }) => taken))
  expect((await storedBy(scene)).map((each) => each.split(': ')[1])).toEqual(['one', 'two'])
  expect(failed.length).toBeGreaterThan(0)
})

test('a token that the server does not take is asked for once more', async () => {
  const scene = await openScene()
  const asked: boolean[] = []
  const unsent = openTab(scene, {
    async headers(isRenewal) {
      asked.push(isRenewal)
      return new Headers({ authorization: `Bearer ${isRenewal ? await tokenOf('ann') : 'old'}` })
    },
  })
  await (await say(unsent, scene, 'hello')).taken
  expect(asked).toEqual([false, true])
})
