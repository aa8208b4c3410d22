/** What a session shows while its connection, its server or its page is away: nothing that was shown is lost from sight. */
import { describe, expect, onTestFinished, test } from 'vitest'
import { memoryStorage } from '../../src/client/client.ts'
import { textOf } from '../../src/core/parts.ts'
import { ReplyError } from '../../src/index.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { clientOf, isLive, openScene, shownBy, stored, transports, watch } from './scene.ts'

describe.each(transports)('over %s', (transport) => {
  test('a message that was acknowledged while the connection is away stays where it is, and is there once when it is back', async () => {
    const scene = await openScene()
    const client = clientOf(scene, {
      transport,
      // Requests get through, the connection does not.
      fetch: (input, init) =>
        fetch(init?.method === 'POST' ? String(input).replace(scene.through, scene.url) : input, init),
    })
    const handle = client.session(scene.session)
    watch(handle)
    await isLive(handle)
    scene.proxy.refuse()
    scene.proxy.cutAll()
    await eventually(async () => !handle.getSnapshot().isLive)
    const seen: string[] = []
    onTestFinished(handle.subscribe(() => seen.push(shownBy(handle).join())))
    await handle.send({ text: 'hello' })
    await eventually(async () => handle.getSnapshot().messages[0]?.delivery?.state === 'sent')
    await handle.send({ text: 'again' })
    await eventually(async () => handle.getSnapshot().messages[1]?.delivery?.state === 'sent')
    scene.proxy.accept()
    client.wake()
    await eventually(async () => shownBy(handle)[3] === 'assistant: Re again')
    // The words of a reply are shown while it is written, and are its message's when that is over.
    await eventually(async () => handle.getSnapshot().turns.length === 0)
    expect(shownBy(handle)).toEqual(await stored(scene))
    const first = seen.findIndex((each) => each.includes('hello'))
    expect(seen.slice(first).filter((each) => !each.includes('hello'))).toEqual([])
  })
})

test('what waits for the network is sent as soon as the connection is back, not when its own wait is over', async () => {
  const scene = await openScene()
  const client = clientOf(scene)
  const handle = client.session(scene.session)
  watch(handle)
  await isLive(handle)
  let tries = 0
  scene.proxy.watch({
    onUpstream(data) {
      if (!data.includes('POST') || !data.includes('/messages')) return 'pass'
      tries++
      return 'cut'
    },
  })
  const sent = handle.send({ text: 'hello' })
  // By then it waits for seconds.
  await eventually(async () => {
    client.wake()
    return tries > 8
  })
  await eventually(async () => handle.getSnapshot().messages[0]?.delivery?.state === 'waiting')
  const again = tries
  scene.proxy.cutAll()
  await eventually(async () => tries > again, 1_500)
  await client.logout()
  await expect(sent).rejects.toThrow('logged out')
})

test('a session that the server could not load for long is loaded when it can again, and says so meanwhile', async () => {
  const scene = await openScene()
  let isAway = true
  const client = clientOf(scene, {
    fetch: async (input, init) =>
      isAway ? new Response('<h1>Bad gateway</h1>', { status: 502 }) : await fetch(input, init),
  })
  const handle = client.session(scene.session)
  watch(handle)
  await eventually(async () => {
    client.wake()
    return handle.getSnapshot().error?.kind === 'network'
  })
  isAway = false
  client.wake()
  await isLive(handle)
  expect(handle.getSnapshot().error).toBeNull()
})

test('a session that was not there is shown when it is, also where another device has made it', async () => {
  const scene = await openScene()
  const client = clientOf(scene)
  const handle = client.session('made-later')
  watch(handle)
  await eventually(async () => handle.getSnapshot().phase === 'missing')
  await clientOf(scene).createSession({ id: 'made-later' })
  client.wake()
  await isLive(handle)
  expect(handle.getSnapshot()).toMatchObject({ phase: 'ready', error: null })
})

test('a session that is made, and said to be, before the answer came that it is not there, is asked for again at once', async () => {
  const scene = await openScene()
  let isHeldBack = false
  let letGo: (() => void) | undefined
  const client = clientOf(scene, {
    async fetch(input, init) {
      const response = await fetch(input, init)
      if (String(input).endsWith('/v1/sessions/made-meanwhile') && !isHeldBack) {
        isHeldBack = true
        await new Promise<void>((resolve) => {
          letGo = resolve
        })
      }
      return response
    },
  })
  const handle = client.session('made-meanwhile')
  watch(handle)
  await eventually(async () => letGo !== undefined)
  await client.createSession({ id: 'made-meanwhile' })
  client.wake()
  letGo!()
  await isLive(handle)
  expect(handle.getSnapshot()).toMatchObject({ phase: 'ready', error: null })
})

test('what is left is not live, and is not said to be when somebody comes back, before it is', async () => {
  const scene = await openScene()
  const handle = clientOf(scene).session(scene.session)
  const { leave } = watch(handle)
  await isLive(handle)
  leave()
  await eventually(async () => !handle.getSnapshot().isLive)
})

test('who logs out while a session is being loaded leaves nothing of it on the device', async () => {
  const scene = await openScene()
  const storage = memoryStorage()
  const parts = [{ type: 'text', text: 'of an earlier page' }]
  const old = { id: 'old', sessionId: scene.session, parts, state: 'failed', writtenAt: new Date().toISOString() }
  await storage.set(`unsent:${encodeURIComponent(scene.through)}:ann:000-old`, JSON.stringify(old))
  let answered: (() => void) | undefined
  const client = clientOf(scene, {
    storage,
    async fetch(input, init) {
      if (init?.method === 'POST') throw new TypeError('The network is away.')
      const response = await fetch(input, init)
      if (String(input).endsWith(`/v1/sessions/${scene.session}`)) {
        await new Promise<void>((resolve) => {
          answered = resolve
        })
      }
      return response
    },
  })
  const handle = client.session(scene.session)
  watch(handle)
  const written = handle.send({ text: 'not sent yet' })
  const refused = expect(written).rejects.toThrow('logged out')
  await eventually(async () => answered !== undefined)
  await client.logout()
  answered!()
  await refused
  await expect(handle.send({ text: 'afterwards' })).rejects.toThrow('logged out')
  await new Promise(setImmediate)
  await new Promise(setImmediate)
  expect(await storage.entries('')).toEqual([])
})

test('what was read stays so when the reply is written anew, in another attempt and in another round (P143)', async () => {
  const begun: (() => void)[] = []
  const scene = await openScene({
    async *reply({ attempt, turn }) {
      if (attempt > 1) await new Promise<void>((resolve) => begun.push(resolve))
      yield 'begun'
      if (attempt === 1) throw new ReplyError('provider_overloaded', 'once')
      if (turn.round === 1) throw new ReplyError('provider_rejected', 'for this round')
      yield ' and ended'
    },
  })
  const handle = clientOf(scene).session(scene.session)
  watch(handle)
  await isLive(handle)
  const seen: (string | undefined)[] = []
  onTestFinished(handle.subscribe(() => seen.push(handle.getSnapshot().messages[0]?.delivery?.state)))
  const { message } = await handle.send({ text: 'hello' })
  /** Shown while nothing of it is written yet. */
  const letGo = async (attempt: number) => {
    const isEmpty = () => handle.getSnapshot().messages[1]?.parts.length === 0
    await eventually(async () => handle.getSnapshot().turns[0]?.attempt === attempt && isEmpty() && begun.length > 0)
    begun.pop()!()
  }
  await letGo(2)
  await eventually(async () => handle.getSnapshot().messages[1]?.status === 'failed')
  await handle.retry(message.id)
  await letGo(3)
  await eventually(async () => handle.getSnapshot().messages[1]?.status === 'complete')
  const first = seen.indexOf('read')
  expect(first).toBeGreaterThan(0)
  expect(seen.slice(first).filter((state) => state !== 'read')).toEqual([])
})

test('a message that is acknowledged while nobody looks is there at once when somebody does, before anything was loaded', async () => {
  const scene = await openScene()
  const client = clientOf(scene, {
    // Nothing can be loaded, and what is written gets through when it may.
    async fetch(input, init) {
      if (init?.method !== 'POST' || !mayPass) throw new TypeError('The network is away.')
      return await fetch(input, init)
    },
  })
  let mayPass = false
  const handle = client.session(scene.session)
  const { leave } = watch(handle)
  const sent = handle.send({ text: 'hello' })
  await eventually(async () => shownBy(handle)[0] === 'user: hello')
  leave()
  mayPass = true
  client.wake()
  await sent
  const seen: string[] = []
  onTestFinished(handle.subscribe(() => seen.push(shownBy(handle).join())))
  await eventually(async () => handle.getSnapshot().messages[0]?.delivery?.state === 'sent')
  expect(seen.filter((each) => each !== 'user: hello')).toEqual([])
})

test('who comes back to a session finds it, also where what was written before it was loaded still waits', async () => {
  const scene = await openScene()
  const client = clientOf(scene, {
    async fetch(input, init) {
      if (init?.method === 'POST' && /sessions(\/[^/]+\/messages)?$/.test(String(input))) throw new TypeError('Away.')
      return await fetch(input, init)
    },
  })
  const handle = client.session(scene.session)
  const { leave } = watch(handle)
  const sent = handle.send({ text: 'hello' })
  const refused = expect(sent).rejects.toThrow('logged out')
  await isLive(handle)
  leave()
  watch(handle)
  await isLive(handle)
  expect(shownBy(handle)).toEqual(['user: hello'])
  await client.logout()
  await refused
})

test('who logs out in one tab has logged out in all: nothing is kept or sent from another one any more', async () => {
  const scene = await openScene()
  const storage = memoryStorage()
  const here = clientOf(scene, { storage })
  const there = clientOf(scene, {
    storage,
    async fetch(input, init) {
      if (String(input).endsWith('/messages')) throw new TypeError('The network is away.')
      return await fetch(input, init)
    },
  })
  const handle = there.session(scene.session)
  watch(handle)
  await isLive(handle)
  const refused = expect(handle.send({ text: 'not sent yet' })).rejects.toThrow('logged out')
  await eventually(async () => (await storage.entries('unsent:')).length === 1)
  await here.logout()
  await refused
  await expect(handle.send({ text: 'afterwards' })).rejects.toThrow('logged out')
  expect(await storage.entries('')).toEqual([])
})

test('a reply is stopped, and its message not taken back, where the answer to the message was lost', async () => {
  const scene = await openScene()
  let isLost = true
  const client = clientOf(scene, {
    async fetch(input, init) {
      const response = await fetch(input, init)
      if (isLost && String(input).endsWith('/messages')) throw new TypeError('The answer is lost.')
      return response
    },
  })
  const handle = client.session(scene.session)
  watch(handle)
  await isLive(handle)
  const sent = handle.send({ text: 'slow' })
  scene.say(2)
  await eventually(async () => shownBy(handle)[1] === 'assistant: 0 1 ')
  // Between two of its tries.
  await eventually(async () => client.unsent.list()[0]?.isSending === false)
  await handle.stop()
  await eventually(async () => handle.getSnapshot().messages[1]?.status === 'stopped')
  isLost = false
  client.wake()
  expect((await sent).reply.status).toBe('stopped')
  expect(shownBy(handle)).toEqual(await stored(scene))
})

test('messages of several tabs that are acknowledged while the connection is away stand in their order', async () => {
  const scene = await openScene()
  let answer: (() => void) | undefined
  const tab = (isHeld: boolean) =>
    clientOf(scene, {
      async fetch(input, init) {
        if (init?.method !== 'POST') return await fetch(input, init)
        const response = await fetch(String(input).replace(scene.through, scene.url), init)
        if (isHeld && String(input).endsWith('/messages')) {
          await new Promise<void>((resolve) => {
            answer = resolve
          })
        }
        return response
      },
    }).session(scene.session)
  const [one, other] = [tab(true), tab(false)]
  for (const handle of [one, other]) {
    watch(handle)
    await isLive(handle)
  }
  scene.proxy.refuse()
  scene.proxy.cutAll()
  const first = one.send({ text: 'first' })
  await eventually(async () => answer !== undefined)
  await other.send({ text: 'second' })
  answer!()
  await first
  await eventually(async () => other.getSnapshot().messages.length === 2)
  expect(shownBy(other)).toEqual(['user: first', 'user: second'])
})

test('a message that the server refuses does not keep its session from being loaded', async () => {
  const scene = await openScene()
  await scene.ann.send(scene.session, 'before')
  const client = clientOf(scene)
  const handle = client.session(scene.session)
  const sent = handle.send({ parts: [{ type: 'nothing-known' }] })
  await eventually(async () => client.unsent.list().length > 0)
  watch(handle)
  await expect(sent).rejects.toThrow()
  await isLive(handle)
  expect(shownBy(handle)).toContain('user: before')
  expect(handle.getSnapshot().messages.at(-1)!.delivery?.state).toBe('failed')
})

test('a message that an earlier page wrote makes its session, and stays in sight', async () => {
  const scene = await openScene()
  const storage = memoryStorage()
  const id = 'not-made-yet'
  scene.proxy.refuse()
  const first = clientOf(scene, { storage })
  const written = first.session(id)
  const { leave } = watch(written)
  void written.send({ text: 'from the tunnel' })
  await eventually(async () => shownBy(written)[0] === 'user: from the tunnel')
  leave()
  first.close()

  // Of the next page the session is known to be missing before the message gets through.
  const held: (() => void)[] = []
  scene.proxy.accept()
  const second = clientOf(scene, {
    storage,
    async fetch(input, init) {
      if (init?.method === 'POST' && String(input).includes('/v1/sessions')) {
        await new Promise<void>((resolve) => held.push(resolve))
      }
      return await fetch(input, init)
    },
  })
  const handle = second.session(id)
  watch(handle)
  await eventually(async () => handle.getSnapshot().phase === 'missing')
  await eventually(async () => shownBy(handle)[0] === 'user: from the tunnel')
  const seen: string[] = []
  onTestFinished(handle.subscribe(() => seen.push(shownBy(handle).join())))
  await eventually(async () => {
    for (const letGo of held.splice(0)) letGo()
    return shownBy(handle)[1] === 'assistant: Re from the tunnel'
  })
  expect(seen.filter((each) => !each.includes('from the tunnel'))).toEqual([])
  expect(textOf(handle.getSnapshot().messages[0]!.parts)).toBe('from the tunnel')
})

test('an earlier page that comes when the session was loaded anew is loaded for what is shown now, and is there', async () => {
  const scene = await openScene()
  await queryOnce(
    scene.database,
    `select count(holdfast.say(s.tenant_id, s.id, 'm' || n, '[]', null, 'said', null, 'main'))
       from holdfast.sessions s, generate_series(1, 60) n where s.id = '${scene.session}'`,
  )
  const held: (() => void)[] = []
  let isHolding = true
  const client = clientOf(scene, {
    async fetch(input, init) {
      const answer = await fetch(input, init)
      if (isHolding && String(input).includes('before=')) await new Promise<void>((resolve) => held.push(resolve))
      return answer
    },
  })
  const handle = client.session(scene.session)
  const { leave } = watch(handle)
  await isLive(handle)
  const count = handle.getSnapshot().messages.length
  expect(count).toBeLessThan(60)
  const earlier = handle.loadEarlier()
  await eventually(async () => held.length === 1)
  // Who leaves and comes back has it loaded anew.
  leave()
  let loads = 0
  onTestFinished(handle.onLoaded(() => loads++))
  watch(handle)
  await eventually(async () => loads === 1)
  isHolding = false
  for (const letGo of held) letGo()
  expect(await earlier).toBe(true)
  await eventually(async () => handle.getSnapshot().messages.length > count)
})
