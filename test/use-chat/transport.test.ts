import { randomUUID } from 'node:crypto'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { HoldfastError, type HoldfastTransportOptions, holdfastTransport } from '../../src/ai-sdk/transport.ts'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { writtenAgain } from '../../src/core/ui-stream.ts'
import { createHoldfast, type Reply, ReplyError } from '../../src/index.ts'
import { gate, openScene as openFaultScene } from '../faults/scene.ts'
import { type Chat, openChat } from '../support/chat.ts'
import { eventually } from '../support/eventually.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { jwtSecret, tokenOf } from '../support/server.ts'
import { type SdkChat, type SdkMessage, type SdkOptions, sdkChat, shownBy, textOf } from './sdk.ts'

const majors: SdkMajor[] = [6, 7]
const pieces = ['Re', ' is', ' what', ' is', ' said', ', whole.']
const whole = pieces.join('')

/** A reply whose words come one by one as the test says so; `asked` counts how often it was asked for. */
function spoken() {
  const asked: string[] = []
  let allowed = 0
  const waiting: (() => void)[] = []
  const say = (words: number) => {
    allowed += words
    for (const resolve of waiting.splice(0)) resolve()
  }
  const reply: Reply = async function* ({ message }) {
    const said = message.parts.flatMap((part) => (part.type === 'text' ? [String(part.text)] : [])).join('')
    asked.push(said)
    if (said === 'fail') throw new ReplyError('provider_rejected', 'no')
    if (said !== 'slow') return yield `Re ${said}`
    for (const piece of pieces) {
      while (allowed === 0) await new Promise<void>((resolve) => waiting.push(resolve))
      allowed--
      yield piece
    }
  }
  return { reply, asked, say }
}

type Scene = Chat & ReturnType<typeof spoken> & { proxy: TcpProxy; through: string; id: string }

async function openScene(options: Parameters<typeof openChat>[0] = {}): Promise<Scene> {
  const words = spoken()
  const opened = await openChat({ reply: words.reply, limits: { sendsPerMinute: 0 }, ...options })
  onTestFinished(() => words.say(1_000))
  const { hostname, port } = new URL(opened.url)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  onTestFinished(() => proxy.close())
  return { ...opened, ...words, proxy, through: `http://${proxy.host}:${proxy.port}`, id: randomUUID() }
}

type Page = { chat: SdkChat; transport: ReturnType<typeof holdfastTransport>; states: boolean[]; errors: Error[] }

async function openPage(
  major: SdkMajor,
  { through, id }: Pick<Scene, 'through' | 'id'>,
  {
    user = 'ann',
    messages = [],
    ...options
  }: Omit<HoldfastTransportOptions, 'headers'> & { user?: string; messages?: SdkMessage[] } = {},
): Promise<Page> {
  const states: boolean[] = []
  const errors: Error[] = []
  const transport = holdfastTransport({
    api: through,
    headers: async () => ({ authorization: `Bearer ${await tokenOf(user)}` }),
    sdk: major,
    onReconnecting: (is) => states.push(is),
    ...options,
  })
  const given = { url: through, id, messages, transport, onError: (error: Error) => errors.push(error) }
  const chat = await sdkChat(major, given as SdkOptions)
  // A test that failed leaves nothing that connects again.
  onTestFinished(() => chat.stop())
  return { chat, transport, states, errors }
}

const stored = async ({ ann, id }: Scene) =>
  (await ann.snapshot(id)).messages.map(({ role, parts }) => `${role}: ${textOf({ id: '', role, parts })}`)

const shows = (chat: SdkChat, text: string) => eventually(async () => textOf(chat.messages[1]) === text)

describe.each(majors)('useChat of AI SDK %i with holdfastTransport', (major) => {
  it('sends, streams and shows what is stored, twice; history is not sent (R1.8)', async () => {
    const scene = await openScene()
    const { chat } = await openPage(major, scene)
    let sent = 0
    scene.proxy.watch({
      onUpstream(data) {
        if (data.includes('POST')) sent = data.length
        return 'pass'
      },
    })
    await chat.sendMessage({ text: 'x'.repeat(20_000) })
    await chat.sendMessage({ text: 'one' })
    await chat.sendMessage({ text: 'two' })
    expect(sent).toBeLessThan(2_000)
    expect(chat.status).toBe('ready')
    expect(shownBy(chat)).toEqual(await stored(scene))
    expect((await scene.ann.snapshot(scene.id)).messages.map(({ id }) => id)).toEqual(chat.messages.map(({ id }) => id))
    await eventually(async () => scene.proxy.counts.open <= 2)
  })

  it('goes on after cuts anywhere, a refusal for a while and a hang, without an error, a gap or a double (I5, I7)', async () => {
    const scene = await openScene()
    const page = await openPage(major, scene, { silentMs: 1_500 })
    const { chat } = page
    scene.say(1)
    // Cut before the answer: the message is sent again with its id.
    let answers = 0
    scene.proxy.watch({ onDownstream: () => (answers++ === 0 ? 'cut' : 'pass') })
    const sent = chat.sendMessage({ text: 'slow' })
    await shows(chat, 'Re')
    scene.proxy.cutAll()
    scene.say(1)
    await shows(chat, 'Re is')
    scene.proxy.refuse()
    scene.proxy.cutAll()
    scene.say(1)
    await eventually(async () => scene.proxy.counts.refused > 1)
    scene.proxy.accept()
    await shows(chat, 'Re is what')
    scene.proxy.hang('down')
    scene.say(1)
    const { accepted } = scene.proxy.counts
    await eventually(async () => scene.proxy.counts.accepted > accepted)
    scene.proxy.resume('down')
    await shows(chat, 'Re is what is')
    scene.proxy.cutAfter('down', 10)
    scene.say(100)
    await sent
    expect([chat.status, page.errors]).toEqual(['ready', []])
    expect(shownBy(chat)).toEqual(['user: slow', `assistant: ${whole}`])
    expect(shownBy(chat)).toEqual(await stored(scene))
    expect(scene.asked).toEqual(['slow'])
    expect(page.states.length).toBeGreaterThan(4)
    expect(page.states).toEqual(page.states.map((_, at) => at % 2 === 0))
    expect(page.states.at(-1)).toBe(false)
  })

  it('resumes in the middle on a fresh page, goes on after a cut there, and null where nothing runs (R1.5)', async () => {
    const scene = await openScene()
    const first = await openPage(major, scene)
    await first.chat.resumeStream()
    expect([first.chat.status, first.chat.messages]).toEqual(['ready', []])
    scene.say(2)
    const sent = first.chat.sendMessage({ text: 'slow' })
    await shows(first.chat, 'Re is')
    const messages = first.chat.messages.slice(0, 1)
    await first.chat.stop()
    await sent
    const { chat, errors } = await openPage(major, scene, { messages })
    const resumed = chat.resumeStream()
    await shows(chat, 'Re is')
    scene.proxy.cutAll()
    scene.say(100)
    await resumed
    expect([chat.status, errors]).toEqual(['ready', []])
    expect(shownBy(chat)).toEqual(await stored(scene))
    expect(scene.asked).toEqual(['slow'])
    const stranger = await openPage(major, scene, { user: 'bob' })
    await stranger.chat.resumeStream()
    expect([stranger.chat.status, stranger.chat.messages]).toEqual(['ready', []])
  })

  it('resumes on the page that is being told, and after its stop(), without a double (I7)', async () => {
    const scene = await openScene()
    const { chat, errors } = await openPage(major, scene)
    scene.say(2)
    const sent = chat.sendMessage({ text: 'slow' })
    await shows(chat, 'Re is')
    const resumed = chat.resumeStream()
    scene.say(1)
    await shows(chat, 'Re is what')
    await chat.stop()
    const again = chat.resumeStream()
    scene.say(100)
    await Promise.all([sent, resumed, again])
    expect([chat.status, errors]).toEqual(['ready', []])
    expect(shownBy(chat)).toEqual(await stored(scene))
    expect(scene.asked).toEqual(['slow'])
  })

  it('a takeover is told again to a 7, and a 6 is told so and attaches: never two halves (I9, I7)', async () => {
    let attempt = 0
    let fail!: () => void
    const failed = new Promise<void>((resolve) => {
      fail = resolve
    })
    const scene = await openScene({
      async *reply() {
        if (++attempt > 1) return yield 'The whole of it.'
        yield 'Half of it'
        await failed
        throw new ReplyError('provider_truncated', 'cut')
      },
    })
    const { chat } = await openPage(major, scene)
    const sent = chat.sendMessage({ text: 'hello' })
    await shows(chat, 'Half of it')
    fail()
    await sent
    if (major === 6) {
      expect([chat.status, chat.error?.message]).toEqual(['error', writtenAgain])
      await chat.resumeStream()
    }
    expect(chat.status).toBe('ready')
    expect(shownBy(chat)).toEqual(['user: hello', 'assistant: The whole of it.'])
    expect(attempt).toBe(2)
  })

  it('stop() ends the reply on the server, and the page with what is stored (I11)', async () => {
    const scene = await openScene()
    const { chat, transport, errors } = await openPage(major, scene)
    scene.say(2)
    const sent = chat.sendMessage({ text: 'slow' })
    await shows(chat, 'Re is')
    // The answer is lost: asked again it stops the same one.
    const queued = await scene.ann.send(scene.id, 'next')
    let cut = false
    scene.proxy.watch({
      onDownstream(data) {
        if (cut || !data.includes('"success"')) return 'pass'
        cut = true
        return 'cut'
      },
    })
    await transport.stop(scene.id)
    await sent
    expect([chat.status, errors]).toEqual(['ready', []])
    await eventually(async () => (await scene.ann.snapshot(scene.id)).turns.length === 0)
    expect(await stored(scene)).toEqual(['user: slow', 'assistant: Re is', 'user: next', 'assistant: Re next'])
    expect(shownBy(chat)).toEqual(['user: slow', 'assistant: Re is'])
    expect([cut, queued.turn.state]).toEqual([true, 'queued'])
  })

  it('stop() of the chat only leaves: the reply goes on, and its connection is closed', async () => {
    const scene = await openScene()
    const { chat } = await openPage(major, scene)
    scene.say(1)
    const sent = chat.sendMessage({ text: 'slow' })
    await shows(chat, 'Re')
    await chat.stop()
    await sent
    expect([chat.status, chat.error]).toEqual(['ready', undefined])
    await eventually(async () => scene.proxy.counts.open <= 1)
    scene.say(100)
    await eventually(async () => (await stored(scene))[1] === `assistant: ${whole}`)
  })

  it('whenBusy: a message is refused with a sentence, interrupts, or waits, as it says (R2.6)', async () => {
    const scene = await openScene()
    const { chat } = await openPage(major, scene, { whenBusy: 'reject' })
    scene.say(2)
    const first = chat.sendMessage({ text: 'slow' })
    await shows(chat, 'Re is')
    const other = await openPage(major, scene, { whenBusy: 'reject', messages: chat.messages.slice(0, 1) })
    await other.chat.sendMessage({ text: 'no' })
    expect(other.chat.status).toBe('error')
    expect(other.chat.error?.message).toBe(
      'A reply is being written. Send again when it has ended, or choose to queue.',
    )
    expect(other.chat.error).toBeInstanceOf(HoldfastError)
    expect(other.chat.error).toMatchObject({ code: 'busy', status: 409, retryable: true })
    await other.chat.sendMessage({ text: 'now' }, { body: { whenBusy: 'interrupt' } })
    await first
    expect(await stored(scene)).toEqual(['user: slow', 'assistant: Re is', 'user: now', 'assistant: Re now'])
    expect(shownBy(chat)).toEqual(['user: slow', 'assistant: Re is'])
  })

  it('a refused message and a failed reply show their sentence; retry and regenerate() are one round each (I10)', async () => {
    const scene = await openScene()
    const { chat } = await openPage(major, scene)
    await chat.sendMessage({ text: 'nul \u0000' })
    expect([chat.status, chat.error?.message]).toEqual(['error', expect.stringMatching(/Unicode/)])
    chat.messages.length = 0
    await chat.sendMessage({ text: 'fail' })
    expect([chat.status, chat.error?.message]).toEqual(['error', expect.stringMatching(/^The model refused/)])
    await chat.regenerate()
    expect(scene.asked).toEqual(['fail', 'fail'])
    await chat.sendMessage({ text: 'hello' })
    // The page saw it whole: another one is wanted, however soon.
    await chat.regenerate()
    expect(scene.asked).toEqual(['fail', 'fail', 'hello', 'hello'])
    expect(shownBy(chat).at(-1)).toBe('assistant: Re hello')
  })
})

describe('holdfastTransport', () => {
  it.each(majors)(
    'AI SDK %i: a server that is killed while it writes and started again is a cut like any other (I1, I7, I9)',
    async (major) => {
      const scene = await openFaultScene()
      const gone = gate()
      let requests = 0
      scene.provider.script(() =>
        requests++ === 0 ? [{ text: 'Half of it' }, { wait: gone.passed }] : [{ text: 'The whole of it.' }],
      )
      const server = await scene.start()
      const port = Number(new URL(server.url).port)
      const id = randomUUID()
      const page = await openPage(major, { through: server.url, id })
      const sent = page.chat.sendMessage({ text: 'hello' })
      await shows(page.chat, 'Half of it')
      await server.kill()
      gone.open()
      await eventually(async () => page.states.includes(true))
      await scene.start({ port })
      await sent
      if (major === 6) {
        expect(page.chat.error?.message).toBe(writtenAgain)
        await page.chat.resumeStream()
      }
      expect(page.chat.status).toBe('ready')
      expect(page.errors).toHaveLength(major === 6 ? 1 : 0)
      expect(shownBy(page.chat)).toEqual(['user: hello', 'assistant: The whole of it.'])
      expect(requests).toBe(2)
      expect((await scene.ann.snapshot(id)).messages[1]).toMatchObject({ status: 'complete' })
    },
  )

  it('a server that is stopped and started again is a cut like any other: the reply is whole, and begun once more (I9)', async () => {
    const scene = await openScene()
    const { chat, errors } = await openPage(7, scene)
    scene.say(2)
    const sent = chat.sendMessage({ text: 'slow' })
    await shows(chat, 'Re is')
    const port = Number(new URL(scene.url).port)
    await scene.chat.close()
    const next = createHoldfast({
      database: scene.database,
      tokens: { secret: jwtSecret },
      log: () => undefined,
      drainMs: 0,
      reply: scene.reply,
    })
    onTestFinished(() => next.close())
    scene.say(100)
    await next.listen(port)
    await sent
    expect([chat.status, errors]).toEqual(['ready', []])
    expect(textOf(chat.messages[1])).toBe(whole)
    expect(scene.asked).toEqual(['slow', 'slow'])
  })

  it('follow() tells what another device does, and what this page does not at all', async () => {
    const scene = await openScene()
    const phone = await openPage(7, scene)
    const laptop = await openPage(7, scene)
    const told: { shown: string[]; isRunning: boolean }[] = []
    const leave = laptop.transport.follow(scene.id, (messages, isRunning) => {
      told.push({ shown: messages.map((message) => `${message.role}: ${textOf(message)}`), isRunning })
      ;(laptop.chat as { messages: SdkMessage[] }).messages = messages
      if (isRunning) void laptop.chat.resumeStream()
    })
    onTestFinished(leave)
    // The chat is made by this page's own message; it needs nobody to tell it.
    await laptop.chat.sendMessage({ text: 'mine' })
    await eventually(async () => told.length > 0)
    const before = told.length
    await laptop.chat.sendMessage({ text: 'mine again' })
    expect(told.length).toBe(before)
    await phone.chat.resumeStream()
    scene.say(2)
    const sent = phone.chat.sendMessage({ text: 'slow' })
    await eventually(async () => textOf(laptop.chat.messages.at(-1)) === 'Re is')
    // It may be told once more meanwhile, as one that this page resumes already.
    expect(told.slice(before).map(({ isRunning }) => isRunning)).toContain(true)
    scene.proxy.cutAll()
    scene.say(100)
    await sent
    await eventually(async () => textOf(laptop.chat.messages.at(-1)) === whole)
    await eventually(async () => laptop.chat.status === 'ready')
    expect(shownBy(laptop.chat)).toEqual(await stored(scene))
    // A refused message is not lost by what others do.
    await laptop.chat.sendMessage({ text: 'nul \u0000' })
    await scene.ann.send(scene.id, 'from the server')
    await eventually(async () => shownBy(laptop.chat).includes('assistant: Re from the server'))
    expect(shownBy(laptop.chat)).toContain('user: nul \u0000')
    leave()
  })

  it('follow() takes nothing back that this page was told while the session was read', async () => {
    const scene = await openScene()
    const open = gate()
    let isRead = false
    const { chat, transport } = await openPage(7, scene, {
      async fetch(input, init) {
        const response = await fetch(input, init)
        if (!response.ok || !String(input).includes('?limit=')) return response
        // As it was before the first word.
        const text = await response.text()
        isRead = true
        await open.passed
        return new Response(text, { headers: response.headers })
      },
    })
    const told: number[] = []
    onTestFinished(
      transport.follow(scene.id, (messages) => {
        told.push(messages.length)
        ;(chat as { messages: SdkMessage[] }).messages = messages
      }),
    )
    const sent = chat.sendMessage({ text: 'slow' })
    await eventually(async () => isRead)
    scene.say(1)
    await shows(chat, 'Re')
    open.open()
    await eventually(async () => told.length > 0)
    expect(shownBy(chat)).toEqual(['user: slow', 'assistant: Re'])
    scene.say(100)
    await sent
    expect(shownBy(chat)).toEqual(await stored(scene))
  })

  it.each(majors)(
    'AI SDK %i: regenerate() after a takeover tells what was written, however long ago (I2, I9)',
    async (major) => {
      let attempt = 0
      const failed = gate()
      const scene = await openScene({
        async *reply() {
          if (++attempt > 1) return yield 'The whole of it.'
          yield 'Half of it'
          await failed.passed
          throw new ReplyError('provider_truncated', 'cut')
        },
      })
      // To a 7 that does not say so it is told as to a 6.
      const { chat } = await openPage(major, scene, { sdk: 6 })
      const sent = chat.sendMessage({ text: 'hello' })
      await shows(chat, 'Half of it')
      failed.open()
      await sent
      expect(chat.error?.message).toBe(writtenAgain)
      await eventually(async () => (await stored(scene))[1] === 'assistant: The whole of it.')
      vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 60_000 })
      onTestFinished(() => void vi.useRealTimers())
      await chat.regenerate()
      expect([chat.status, shownBy(chat), attempt]).toEqual(['ready', await stored(scene), 2])
      // It was seen whole: now another one is meant.
      await chat.regenerate()
      expect(attempt).toBe(3)
    },
  )

  it('follow() has what went on after its error here resumed, also where its end was seen before the error (I7, I9)', async () => {
    let attempt = 0
    const failed = gate()
    const scene = await openScene({
      async *reply() {
        if (++attempt > 1) return yield 'The whole of it.'
        yield 'Half of it'
        await failed.passed
        throw new ReplyError('provider_truncated', 'cut')
      },
    })
    await scene.ann.createSession(scene.id)
    let streams = 0
    const held = gate()
    let holds = false
    const { chat, transport } = await openPage(6, scene, {
      async fetch(input, init) {
        const response = await fetch(input, init)
        // The first is that of follow(), the second that of the reply.
        if (!String(input).includes('/events') || ++streams !== 2) return response
        const holding = new TransformStream<Uint8Array, Uint8Array>({
          async transform(bytes, controller) {
            if (holds) await held.passed
            controller.enqueue(bytes)
          },
        })
        return new Response(response.body!.pipeThrough(holding), { headers: response.headers })
      },
    })
    onTestFinished(
      transport.follow(scene.id, (messages, isRunning) => {
        ;(chat as { messages: SdkMessage[] }).messages = messages
        if (isRunning) void chat.resumeStream()
      }),
    )
    await eventually(async () => streams === 1)
    const sent = chat.sendMessage({ text: 'hello' })
    await shows(chat, 'Half of it')
    holds = true
    failed.open()
    await eventually(async () => (await stored(scene))[1] === 'assistant: The whole of it.')
    held.open()
    await sent
    await eventually(async () => chat.status === 'ready')
    expect(shownBy(chat)).toEqual(['user: hello', 'assistant: The whole of it.'])
    expect(attempt).toBe(2)
  })

  it('follow() says when the session is deleted, and what the server refuses', async () => {
    const scene = await openScene()
    let token = await tokenOf('ann')
    const headers = () => ({ authorization: `Bearer ${token}` })
    const transport = holdfastTransport({ api: scene.through, headers })
    await scene.ann.createSession(scene.id)
    await scene.ann.send(scene.id, 'hello')
    const told: number[] = []
    onTestFinished(transport.follow(scene.id, (messages) => told.push(messages.length)))
    await eventually(async () => told.length > 0)
    const errors: HoldfastError[] = []
    const onError = (error: HoldfastError) => errors.push(error)
    const others: number[] = []
    onTestFinished(transport.follow(scene.session, (messages) => others.push(messages.length), { onError }))
    await eventually(async () => others.length > 0)
    await scene.ann.request(`/v1/sessions/${scene.id}`, { method: 'DELETE' })
    await eventually(async () => told.at(-1) === 0)
    token = 'expired'
    scene.proxy.cutAll()
    await eventually(async () => errors.length > 0)
    expect(errors).toEqual([expect.objectContaining({ code: 'unauthorized', status: 401 })])
  })

  it('a log that does not lead on any more is read anew, and what is shown goes on (P49)', async () => {
    const scene = await openScene()
    let breaks = 1
    const page = await openPage(6, scene, {
      async fetch(input, init) {
        const response = await fetch(input, init)
        if (!String(input).includes('/events') || breaks-- !== 0) return response
        // The second connection is told that its cursor is of another database.
        return new Response('data: {"type":"reset","reason":"epoch"}\n\n', { headers: response.headers })
      },
    })
    scene.say(2)
    const sent = page.chat.sendMessage({ text: 'slow' })
    await shows(page.chat, 'Re is')
    scene.proxy.cutAll()
    await eventually(async () => breaks < -1)
    scene.say(100)
    await sent
    expect([page.chat.status, page.errors]).toEqual(['ready', []])
    expect(shownBy(page.chat)).toEqual(await stored(scene))
  })

  it('a reply whose session is deleted ends with a sentence', async () => {
    const scene = await openScene()
    const { chat } = await openPage(6, scene)
    scene.say(1)
    const sent = chat.sendMessage({ text: 'slow' })
    await shows(chat, 'Re')
    await scene.ann.request(`/v1/sessions/${scene.id}`, { method: 'DELETE' })
    await sent
    expect([chat.status, chat.error?.message]).toEqual(['error', 'There is nothing here that you may see.'])
  })

  it('comes back at once when the network does, and asks for a token each time', async () => {
    const scene = await openScene()
    const { chat, transport } = await openPage(7, scene)
    scene.say(1)
    const sent = chat.sendMessage({ text: 'slow' })
    await shows(chat, 'Re')
    const random = vi.spyOn(Math, 'random').mockReturnValue(0.99)
    onTestFinished(() => random.mockRestore())
    scene.proxy.refuse()
    scene.proxy.cutAll()
    await eventually(async () => scene.proxy.counts.refused >= 4)
    scene.proxy.accept()
    scene.say(1)
    const sinceMs = performance.now()
    transport.wake()
    await shows(chat, 'Re is')
    expect(performance.now() - sinceMs).toBeLessThan(3_000)
    scene.say(100)
    await sent
  })

  it('an answer that breaks off is asked for again, and so is a token that cannot be had for a while', async () => {
    const scene = await openScene()
    let tokens = 0
    let answers = 0
    const errors: Error[] = []
    const transport = holdfastTransport({
      api: scene.through,
      headers: async () => {
        if (++tokens === 2) throw new Error('the app has no token now')
        return { authorization: `Bearer ${await tokenOf('ann')}` }
      },
      async fetch(input, init) {
        const response = await fetch(input, init)
        if (answers++ > 0) return response
        return new Response((await response.text()).slice(0, -10), { headers: response.headers })
      },
    })
    const onError = (error: Error) => errors.push(error)
    const chat = await sdkChat(7, { url: '', id: scene.id, transport, onError })
    await chat.sendMessage({ text: 'hello' })
    expect(errors).toEqual([])
    expect(tokens).toBeGreaterThanOrEqual(3)
    expect(shownBy(chat)).toEqual(await stored(scene))
    const broken = holdfastTransport({ api: scene.through, headers: () => Promise.reject(new Error('no such store')) })
    const other = await sdkChat(7, { url: '', id: 'other', transport: broken })
    await other.sendMessage({ text: 'hello' })
    expect(other.error?.message).toBe('no such store')
  })

  it('stopped while it cannot be sent, gives up', async () => {
    const scene = await openScene()
    scene.proxy.refuse()
    const { chat, errors } = await openPage(7, scene)
    const sent = chat.sendMessage({ text: 'hello' })
    await eventually(async () => scene.proxy.counts.refused > 1)
    expect(chat.status).toBe('submitted')
    await chat.stop()
    await sent
    expect([chat.status, errors]).toEqual(['ready', []])
  })

  it('without an origin says what is wrong, instead of trying for ever', async () => {
    const chat = await sdkChat(7, { url: '', id: 'c', transport: holdfastTransport() })
    await chat.sendMessage({ text: 'hello' })
    expect([chat.status, chat.error?.message]).toEqual(['error', expect.stringContaining('/api/chat')])
  })
})
