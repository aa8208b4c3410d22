/** `holdfast/client` over each of its connections, before a server that is cut, refused, and goes away (I5, I7, R2.7). */
import { describe, expect, onTestFinished, test } from 'vitest'
import { createClient, memoryStorage, type SessionHandle } from '../../src/client/client.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { seeded } from '../support/random.ts'
import { tokenOf } from '../support/server.ts'
import { clientOf, isLive, openScene, shownBy, stored, transports, watch } from './scene.ts'

describe.each(transports)('over %s', (transport) => {
  test('a message is shown at once, its reply word by word, and at the end what is stored, on two devices', async () => {
    const scene = await openScene()
    const [phone, laptop] = [clientOf(scene, { transport }), clientOf(scene, { transport })]
    const [here, there] = [phone.session(scene.session), laptop.session(scene.session)]
    const seen = [watch(here), watch(there)]
    await Promise.all([isLive(here), isLive(there)])
    expect(phone.connection.getSnapshot()).toMatchObject({ phase: 'live', transport })
    const sent = here.send({ text: 'slow' })
    const { message } = await sent
    expect(message.parts).toEqual([{ type: 'text', text: 'slow' }])
    for (let words = 1; words <= 12; words++) {
      scene.say(1)
      for (const handle of [here, there]) {
        await eventually(async () => shownBy(handle)[1]?.endsWith(`${words - 1} `) === true)
      }
    }
    for (const handle of [here, there]) {
      await eventually(async () => handle.getSnapshot().messages[1]?.status === 'complete')
      expect(shownBy(handle)).toEqual(await stored(scene))
      expect(handle.getSnapshot()).toMatchObject({ phase: 'ready', turns: [], isBusy: false })
      expect(handle.getSnapshot().messages[0]!.delivery).toEqual({ state: 'read' })
    }
    expect(seen.flatMap(({ problems }) => problems)).toEqual([])
  })

  test('cut at random bytes, refused for a while, it goes on without a gap or a double', async () => {
    const scene = await openScene()
    const client = clientOf(scene, { transport })
    const handle = client.session(scene.session)
    const { problems } = watch(handle)
    await isLive(handle)
    const random = seeded(7)
    let cuts = 0
    let bytes = 0
    let due = 800 + random(3_000)
    scene.proxy.watch({
      onDownstream(data) {
        bytes += data.length
        if (bytes < due || cuts === 10) return 'pass'
        bytes = 0
        due = 800 + random(3_000)
        // With this piece, or after it.
        if (cuts++ % 2 === 0) return 'cut'
        setImmediate(() => scene.proxy.cutAll())
        return 'pass'
      },
    })
    for (let at = 0; at < 4; at++) {
      const sent = handle.send({ text: `slow ${at}` })
      for (let word = 0; word < 12; word++) {
        scene.say(1)
        if (word === 6) {
          scene.proxy.refuse()
          scene.proxy.cutAll()
          scene.proxy.accept()
          client.wake()
        }
      }
      await sent
    }
    await eventually(
      async () =>
        handle.getSnapshot().messages.filter(({ status, role }) => role === 'assistant' && status === 'complete')
          .length === 4,
    )
    expect(shownBy(handle)).toEqual(await stored(scene))
    expect(problems).toEqual([])
    expect(cuts).toBeGreaterThan(1)
  })

  test('who leaves and comes back, and who comes for the first time, sees the reply that is being written', async () => {
    const scene = await openScene()
    const client = clientOf(scene, { transport })
    const handle = client.session(scene.session)
    const first = watch(handle)
    await isLive(handle)
    await handle.send({ text: 'slow' })
    scene.say(3)
    await eventually(async () => shownBy(handle)[1] === 'assistant: 0 1 2 ')
    first.leave()
    expect(handle.getSnapshot().isLive).toBe(false)
    await eventually(async () => client.connection.getSnapshot().phase === 'idle')
    scene.say(3)
    const again = watch(handle)
    const late = clientOf(scene, { transport }).session(scene.session)
    const other = watch(late)
    for (const each of [handle, late]) await eventually(async () => shownBy(each)[1] === 'assistant: 0 1 2 3 4 5 ')
    scene.say(6)
    for (const each of [handle, late]) {
      await eventually(async () => each.getSnapshot().messages[1]?.status === 'complete')
      expect(shownBy(each)).toEqual(await stored(scene))
    }
    expect([...again.problems, ...other.problems]).toEqual([])
  })

  test('commands: stop, retry, edit, regenerate, select; each is seen on the other device', async () => {
    const scene = await openScene()
    const [here, there] = [clientOf(scene, { transport }), clientOf(scene, { transport })].map((client) =>
      client.session(scene.session),
    ) as [SessionHandle, SessionHandle]
    const seen = [watch(here), watch(there)]
    await Promise.all([isLive(here), isLive(there)])
    const both = async (matches: (handle: SessionHandle) => boolean) => {
      for (const handle of [here, there]) await eventually(async () => matches(handle))
    }
    const { message } = await here.send({ text: 'slow' })
    scene.say(2)
    await both((handle) => shownBy(handle)[1] === 'assistant: 0 1 ')
    await there.stop()
    await both((handle) => handle.getSnapshot().messages[1]?.status === 'stopped')
    scene.say(100)
    await here.retry(message.id)
    await both((handle) => handle.getSnapshot().messages[1]?.status === 'complete')
    await there.edit(message.id, 'other')
    await both((handle) => shownBy(handle).join() === 'user: other,assistant: Re other')
    await here.select(message.id)
    await both((handle) => shownBy(handle)[0] === 'user: slow')
    await here.regenerate(message.id)
    await both(
      (handle) => handle.getSnapshot().messages[1]?.branch?.count === 3 && handle.getSnapshot().turns.length === 0,
    )
    expect(shownBy(here)).toEqual(await stored(scene))
    expect(shownBy(there)).toEqual(await stored(scene))
    expect(seen.flatMap(({ problems }) => problems)).toEqual([])
  })

  test('several sessions on one connection, one after the other, and the list of them hears of all', async () => {
    const scene = await openScene()
    const client = clientOf(scene, { transport })
    const leave = client.sessions.subscribe(() => undefined)
    onTestFinished(leave)
    await eventually(async () => client.sessions.getSnapshot().phase === 'ready')
    const ids = [
      scene.session,
      ...(await Promise.all([1, 2].map(async (at) => (await client.createSession({ title: `Chat ${at}` })).id))),
    ]
    const handles = ids.map((id) => client.session(id))
    const seen = handles.map(watch)
    await Promise.all(handles.map(isLive))
    await Promise.all(handles.map((handle, at) => handle.send({ text: `to ${at}` })))
    for (const [at, handle] of handles.entries())
      await eventually(async () => shownBy(handle)[1] === `assistant: Re to ${at}`)
    await eventually(
      async () =>
        client.sessions.getSnapshot().sessions.filter(({ lastPreview }) => lastPreview?.startsWith('Re to')).length ===
        3,
    )
    await client.deleteSession(ids[1]!)
    await eventually(async () => handles[1]!.getSnapshot().phase === 'missing')
    await eventually(async () => client.sessions.getSnapshot().sessions.length === 2)
    expect(seen.flatMap(({ problems }) => problems)).toEqual([])
  })
})

test('where no socket gets through it is a stream, and where bodies come whole long polls', async () => {
  const scene = await openScene()
  class NoSocket extends EventTarget {
    onclose: ((event: { code: number }) => void) | null = null
    constructor() {
      super()
      queueMicrotask(() => this.onclose?.({ code: 1006 }))
    }
    close() {
      // It never was open.
    }
  }
  const client = clientOf(scene, { WebSocket: NoSocket as unknown as typeof WebSocket })
  const handle = client.session(scene.session)
  watch(handle)
  await isLive(handle)
  expect(client.connection.getSnapshot().transport).toBe('sse')
  const whole = clientOf(scene, {
    WebSocket: NoSocket as unknown as typeof WebSocket,
    async fetch(input, init) {
      const response = await fetch(input, init)
      const text = response.status === 204 ? null : await response.text()
      const { status, headers } = response
      return Object.defineProperty(new Response(text, { status, headers }), 'body', { value: undefined })
    },
  })
  const other = whole.session(scene.session)
  watch(other)
  await isLive(other)
  expect(whole.connection.getSnapshot().transport).toBe('poll')
  await other.send({ text: 'hello' })
  for (const each of [handle, other]) await eventually(async () => shownBy(each)[1] === 'assistant: Re hello')
})

test('what was shown last is kept on the device and shown at once, before the server has answered (R2.2)', async () => {
  const scene = await openScene()
  const storage = memoryStorage()
  const client = clientOf(scene, { storage })
  const handle = client.session(scene.session)
  const { leave } = watch(handle)
  await isLive(handle)
  await handle.send({ text: 'hello' })
  await eventually(async () => handle.getSnapshot().messages[1]?.status === 'complete')
  await eventually(async () => (await storage.entries('shown:')).some(([, text]) => text.includes('Re hello')))
  leave()
  client.close()
  scene.proxy.refuse()
  scene.proxy.cutAll()
  const offline = clientOf(scene, { storage })
  const kept = offline.session(scene.session)
  watch(kept)
  await eventually(async () => kept.getSnapshot().phase === 'kept')
  expect(shownBy(kept)).toEqual(['user: hello', 'assistant: Re hello'])
  void kept.send({ text: 'from the tunnel' })
  await eventually(async () => shownBy(kept)[2] === 'user: from the tunnel')
  await eventually(async () => kept.getSnapshot().messages[2]!.delivery?.state === 'waiting')
  scene.proxy.accept()
  offline.wake()
  await eventually(async () => shownBy(kept)[3] === 'assistant: Re from the tunnel')
  expect(kept.getSnapshot().phase).toBe('ready')
  await offline.logout()
  expect(await storage.entries('')).toEqual([])
})

test('a token that is refused is asked for again; who is not known is signed out, until they sign in', async () => {
  const scene = await openScene()
  let token = 'expired'
  const client = createClient({ url: scene.through, token: () => token, storage: memoryStorage() })
  onTestFinished(() => client.close())
  const handle = client.session(scene.session)
  watch(handle)
  await eventually(async () => handle.getSnapshot().error?.kind === 'auth')
  token = await tokenOf('ann')
  client.wake()
  await isLive(handle)
  expect(handle.getSnapshot()).toMatchObject({ phase: 'ready', error: null })
})

test('a message that is written before anything was loaded makes its session, too, and changes none that is there', async () => {
  const scene = await openScene()
  const client = clientOf(scene)
  const { message } = await client.session('brand-new').send({ text: 'hello' })
  expect(message.sessionId).toBe('brand-new')
  await scene.ann.send(scene.session, 'before')
  await client.session(scene.session).send({ text: 'hello again' })
  await eventually(async () => (await stored(scene)).length === 4)
  expect(await stored(scene)).toContain('user: before')
})

test('a session that is not there is missing, and made with its first message', async () => {
  const scene = await openScene()
  const client = clientOf(scene)
  const handle = client.session(client.newId())
  watch(handle)
  await eventually(async () => handle.getSnapshot().phase === 'missing')
  const sent = handle.send({ text: 'first' })
  await eventually(async () => shownBy(handle)[0] === 'user: first')
  await sent
  await eventually(async () => shownBy(handle)[1] === 'assistant: Re first')
  expect(handle.getSnapshot().phase).toBe('ready')
})

test.each(['approve', 'answerTool'] as const)(
  '%s whose answer was lost is sent again, and is never one to the next question of the same id (P114)',
  async (command) => {
    const scene = await openScene({
      // A provider that numbers the calls of each step.
      reply: async function* ({ stepsDone }) {
        if (stepsDone < 2) {
          yield { type: 'start-step' }
          yield { type: 'tool-input-available', toolCallId: 'call_0', toolName: 'where', input: { step: stepsDone } }
          if (command === 'approve') yield { type: 'tool-approval-request', toolCallId: 'call_0', approvalId: 'call_0' }
          yield { type: 'finish-step' }
        }
        yield { type: 'finish', finishReason: stepsDone < 2 ? 'tool-calls' : 'stop' }
      },
    })
    const { ann, session, watcher } = scene
    let lost = 0
    /** The first answer comes when the next question waits, and is lost. */
    const losing: typeof fetch = async (input, init) => {
      const response = await fetch(input, init)
      if (!/\/(approvals|tool-results)\//.test(String(input)) || lost++ > 0) return response
      await watcher.until(({ type, data }) => type === 'turn.waiting' && data.turn.attempt === 2)
      throw new TypeError('The answer was lost.')
    }
    const handle = clientOf(scene, { fetch: losing }).session(session)
    watch(handle)
    await isLive(handle)
    await ann.send(session, 'hi', 'm1')
    await eventually(async () => handle.getSnapshot().turns[0]?.state === 'waiting')
    const { turn } =
      command === 'approve'
        ? await handle.approve('call_0', { approved: true })
        : await handle.answerTool('call_0', { output: 'home' })
    expect(lost).toBe(2)
    expect(turn).toMatchObject({ state: 'waiting', attempt: 2 })
    expect(watcher.frames.filter(({ type }) => type === 'approval.answered')).toHaveLength(1)
    // The next one is another question.
    await eventually(async () => handle.getSnapshot().turns[0]?.attempt === 2)
    await (command === 'approve'
      ? handle.approve('call_0', { approved: false })
      : handle.answerTool('call_0', { errorText: 'nowhere' }))
    await watcher.outcome('m1')
    const answered = watcher.frames.filter(({ type }) => type === 'approval.answered')
    expect(answered.map(({ data }) => data.approved)).toEqual([true, false])
  },
)

test('what is read on one device is read in the list of another, also long after it was said (P126, P140)', async () => {
  const scene = await openScene()
  const { ann, session, watcher, database } = scene
  await ann.send(session, 'hi', 'm1')
  await watcher.outcome('m1')
  await queryOnce(database, `update holdfast.sessions set updated_at = updated_at - interval '1 minute'`)
  await ann.createSession()
  const [phone, laptop] = [clientOf(scene), clientOf(scene)]
  onTestFinished(laptop.sessions.subscribe(() => undefined))
  const unread = () => laptop.sessions.getSnapshot().sessions.find(({ id }) => id === session)?.unread
  await eventually(async () => unread() === 1)
  // Until it has heard that it is told.
  const handle = phone.session(session)
  watch(handle)
  await isLive(handle)
  await eventually(async () => laptop.connection.getSnapshot().phase === 'live')
  await handle.markRead()
  await eventually(async () => unread() === 0)
})

/** A `fetch` that a test looks into: `meddle` answers what happens instead, or nothing. */
function meddling(meddle: (path: string, init: RequestInit) => Promise<Response> | undefined) {
  const asked: string[] = []
  const meddled: typeof fetch = (input, init = {}) => {
    const { pathname, search } = new URL(String(input))
    asked.push(`${init.method ?? 'GET'} ${pathname}`)
    return meddle(pathname + search, init) ?? fetch(input, init)
  }
  return { asked, fetch: meddled }
}

test('what the server has taken stays shown while nothing can be followed, and once when it can again (R0.5)', async () => {
  const scene = await openScene()
  let isCut = false
  const network = meddling((path) => (isCut && path.startsWith('/v1/events') ? Promise.reject(new Error()) : undefined))
  const client = clientOf(scene, { transport: 'sse', fetch: network.fetch })
  const handle = client.session(scene.session)
  const { problems } = watch(handle)
  await isLive(handle)
  isCut = true
  scene.proxy.cutAll()
  await eventually(async () => !handle.getSnapshot().isLive)
  const { message } = await handle.send({ text: 'hello' })
  expect(client.unsent.list()).toEqual([])
  await eventually(async () => handle.getSnapshot().messages[0]?.delivery?.state === 'sent')
  expect(handle.getSnapshot()).toMatchObject({ isBusy: true, turns: [{ messageId: message.id }] })
  isCut = false
  client.wake()
  await eventually(async () => shownBy(handle).join() === 'user: hello,assistant: Re hello')
  await eventually(async () => handle.getSnapshot().turns.length === 0)
  expect(problems).toEqual([])
})

test('a session that an unsent message makes is not asked for before it is there', async () => {
  const scene = await openScene()
  const { asked, fetch } = meddling(() => undefined)
  const client = clientOf(scene, { transport: 'sse', fetch })
  const id = client.newId()
  void client.unsent.add({ sessionId: id, parts: [{ type: 'text', text: 'first' }], makes: { title: 'A title' } })
  const handle = client.session(id)
  watch(handle)
  await eventually(async () => shownBy(handle)[1] === 'assistant: Re first')
  expect(handle.getSnapshot().session?.title).toBe('A title')
  const ofIt = asked.filter((line) => /sessions(\/[^/]+(\/messages)?)?$/.test(line))
  expect(ofIt).toEqual([`POST /v1/sessions`, `POST /v1/sessions/${id}/messages`, `GET /v1/sessions/${id}`])
})

test('a session whose first message another tab has sent is loaded then, and followed by who was not known before', async () => {
  const scene = await openScene()
  const storage = memoryStorage()
  let token = 'expired'
  const shared = { url: scene.through, storage, user: 'ann', transport: 'sse' } as const
  const [shows, sends] = [
    createClient({ ...shared, token: () => token }),
    createClient({ ...shared, token: () => tokenOf('ann') }),
  ]
  onTestFinished(() => shows.close())
  onTestFinished(() => sends.close())
  onTestFinished(shows.sessions.subscribe(() => undefined))
  await eventually(async () => shows.connection.getSnapshot().phase === 'signed_out')
  const id = shows.newId()
  const added = shows.unsent.add({
    sessionId: id,
    parts: [{ type: 'text', text: 'first' }],
    makes: { title: 'A title' },
  })
  const handle = shows.session(id)
  watch(handle)
  await added
  sends.unsent.start()
  token = await tokenOf('ann')
  await eventually(async () => shownBy(handle)[1] === 'assistant: Re first')
  await isLive(handle)
})

test('who rests leaves the connection, and follows on from where it was when woken (I5)', async () => {
  const scene = await openScene()
  const { asked, fetch } = meddling(() => undefined)
  const client = clientOf(scene, { transport: 'sse', fetch })
  const handle = client.session(scene.session)
  watch(handle)
  await isLive(handle)
  client.rest()
  await eventually(async () => client.connection.getSnapshot().phase === 'idle' && !handle.getSnapshot().isLive)
  await handle.send({ text: 'hello' })
  await eventually(async () => (await stored(scene))[1] === 'assistant: Re hello')
  expect(client.connection.getSnapshot().phase).toBe('idle')
  client.wake()
  await eventually(async () => shownBy(handle)[1] === 'assistant: Re hello')
  expect(asked.filter((line) => line === `GET /v1/sessions/${scene.session}`)).toHaveLength(1)
})

test('a stop answers what became of the message, and leaves a later round alone (I11)', async () => {
  const scene = await openScene()
  const client = clientOf(scene)
  const handle = client.session(scene.session)
  watch(handle)
  await isLive(handle)
  const { message } = await handle.send({ text: 'slow' })
  scene.say(1)
  await eventually(async () => shownBy(handle)[1] === 'assistant: 0 ')
  const queued = await handle.send({ text: 'behind it' })
  const [stand] = await handle.stop(queued.message.id)
  expect(stand).toMatchObject({ withdrawn: true, message: { id: queued.message.id } })
  expect((await handle.stop()).map(({ turn }) => turn?.state)).toEqual(['stopped'])
  await handle.retry(message.id)
  await eventually(async () => handle.getSnapshot().turns[0]?.round === 2)
  expect((await handle.stop(message.id, 1))[0]?.turn?.state).not.toBe('stopped')
  scene.say(20)
  await eventually(async () => handle.getSnapshot().messages[1]?.status === 'complete')
})

test('an edit with parts says anew what is not text, too', async () => {
  const scene = await openScene()
  const handle = clientOf(scene).session(scene.session)
  watch(handle)
  await isLive(handle)
  const parts = [
    { type: 'text', text: 'look' },
    { type: 'file', mediaType: 'text/plain', url: 'data:text/plain;base64,aGk=' },
  ]
  const { message } = await handle.send({ parts }, { metadata: { from: 'here' } })
  await eventually(async () => handle.getSnapshot().messages[1]?.status === 'complete')
  const edited = [{ type: 'text', text: 'see' }, message.parts[1]!]
  await handle.edit(message.id, { parts: edited, metadata: { from: 'there' } })
  await eventually(async () => shownBy(handle)[0] === 'user: see')
  expect(handle.getSnapshot().messages[0]).toMatchObject({ parts: edited, metadata: { from: 'there' } })
})

test('who was not known follows at once when a message of theirs was taken', async () => {
  const scene = await openScene()
  let token = 'expired'
  const client = createClient({ url: scene.through, token: () => token, storage: memoryStorage(), transport: 'sse' })
  onTestFinished(() => client.close())
  onTestFinished(client.sessions.subscribe(() => undefined))
  await eventually(async () => client.connection.getSnapshot().phase === 'signed_out')
  token = await tokenOf('ann')
  await client.session(scene.session).send({ text: 'hello' })
  await eventually(async () => client.connection.getSnapshot().phase === 'live')
  await eventually(async () => client.sessions.getSnapshot().sessions.length === 1)
})

test('a session that was deleted here leaves the list without a hint', async () => {
  const scene = await openScene()
  const network = meddling((path) => (path.startsWith('/v1/events') ? Promise.reject(new Error()) : undefined))
  const client = clientOf(scene, { transport: 'sse', fetch: network.fetch })
  onTestFinished(client.sessions.subscribe(() => undefined))
  await eventually(async () => client.sessions.getSnapshot().sessions.length === 1)
  await client.deleteSession(scene.session)
  expect(client.sessions.getSnapshot().sessions).toEqual([])
})

test('a request that hangs is asked anew when the app is back', async () => {
  const scene = await openScene()
  let hung = 0
  const network = meddling((path, { signal }) => {
    if (path !== `/v1/sessions/${scene.session}` || hung > 0) return undefined
    hung++
    return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(new Error())))
  })
  const client = clientOf(scene, { fetch: network.fetch })
  const handle = client.session(scene.session)
  watch(handle)
  await eventually(async () => hung === 1)
  await eventually(async () => {
    client.wake()
    return handle.getSnapshot().isLive
  })
})

test('after a logout nothing is asked any more, also not what had no answer before', async () => {
  const scene = await openScene()
  let isAway = false
  const asked: string[] = []
  const client = clientOf(scene, {
    async fetch(input, init) {
      if (isAway) throw new TypeError('The network is away.')
      if (init?.method === 'PATCH') asked.push(String(input))
      return await fetch(input, init)
    },
  })
  const handle = client.session(scene.session)
  watch(handle)
  await isLive(handle)
  isAway = true
  const renamed = handle.rename('of who has left')
  await client.logout()
  isAway = false
  client.wake()
  await expect(renamed).rejects.toMatchObject({ name: 'AbortError' })
  expect(asked).toEqual([])
})

test('a network that is away for some seconds, and a token that ends, leave it a WebSocket', async () => {
  const scene = await openScene()
  const client = clientOf(scene, { token: () => tokenOf('ann', { expiresIn: '7s' }) })
  const handle = client.session(scene.session)
  const phases: string[] = []
  client.connection.subscribe(() => phases.push(client.connection.getSnapshot().phase))
  watch(handle)
  await isLive(handle)
  scene.proxy.refuse()
  await eventually(async () => {
    // Also what requests keep open.
    scene.proxy.cutAll()
    return phases.filter((phase) => phase === 'waiting').length >= 3
  })
  scene.proxy.accept()
  await eventually(async () => client.connection.getSnapshot().phase === 'live')
  expect(client.connection.getSnapshot().transport).toBe('websocket')
  const lives = () => phases.filter((phase) => phase === 'live').length
  const before = lives()
  await eventually(async () => lives() > before)
  expect(phases).not.toContain('signed_out')
})

test('a token that cannot be had at first is asked for again', async () => {
  const scene = await openScene()
  let asked = 0
  const client = clientOf(scene, {
    token: () => (++asked < 3 ? Promise.reject(new Error('The app’s own server is away.')) : tokenOf('ann')),
  })
  const handle = client.session(scene.session)
  watch(handle)
  await isLive(handle)
})

test('over one stream more sessions are followed than one address has room for', async () => {
  const scene = await openScene()
  const client = clientOf(scene, { transport: 'sse' })
  const ids = await Promise.all(Array.from({ length: 110 }, () => scene.ann.createSession()))
  const handles = ids.map((id) => client.session(id))
  for (const handle of handles) watch(handle)
  for (const handle of handles) await isLive(handle)
  const { message } = await handles.at(-1)!.send({ text: 'hi' })
  await eventually(async () => shownBy(handles.at(-1)!).join('|') === 'user: hi|assistant: Re hi')
  expect(message.sessionId).toBe(ids.at(-1))
})

test('the app’s handlers are told of a frame that leads to a new snapshot, too', async () => {
  const scene = await openScene()
  const handle = clientOf(scene).session(scene.session)
  watch(handle)
  await isLive(handle)
  const heard: string[] = []
  onTestFinished(handle.onFrame(({ type }) => heard.push(type)))
  const { message } = await handle.send({ text: 'one' })
  await eventually(async () => handle.getSnapshot().messages[1]?.status === 'complete')
  await handle.edit(message.id, 'two')
  await eventually(async () => shownBy(handle)[1] === 'assistant: Re two')
  await handle.select(message.id)
  await eventually(async () => shownBy(handle)[0] === 'user: one')
  expect(heard.filter((type) => type === 'message.created')).toHaveLength(2)
  expect(heard).toContain('branch.selected')
})
