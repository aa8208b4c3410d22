import { randomBytes, randomUUID } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { writtenAgain } from '../../src/core/ui-stream.ts'
import { type Reply, ReplyError } from '../../src/index.ts'
import { type Chat, openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { sdkChat, shownBy, textOf } from './sdk.ts'

const majors: SdkMajor[] = [6, 7]

/** A reply whose words come when the test says so; `asked` counts how often it was asked for. */
function spoken() {
  const asked: string[] = []
  let waiting: (() => void)[] = []
  let open = false
  const pass = () => new Promise<void>((resolve) => (open ? resolve() : waiting.push(resolve)))
  const reply: Reply = async function* ({ message }) {
    const said = message.parts.flatMap((part) => (part.type === 'text' ? [String(part.text)] : [])).join('')
    asked.push(said)
    if (said.includes('fail')) throw new ReplyError('provider_rejected', 'no')
    yield `Re ${said}`
    if (said.includes('wait')) await pass()
    yield ', whole.'
  }
  return {
    reply,
    asked,
    /** All that wait, and all that will. */
    goOn() {
      open = true
      for (const resolve of waiting) resolve()
      waiting = []
    },
  }
}

type Scene = Chat & ReturnType<typeof spoken> & { proxy: TcpProxy; through: string; id: string }

async function openScene(): Promise<Scene> {
  const words = spoken()
  const opened = await openChat({ reply: words.reply, limits: { sendsPerMinute: 0 } })
  onTestFinished(() => words.goOn())
  const { hostname, port } = new URL(opened.url)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  onTestFinished(() => proxy.close())
  return { ...opened, ...words, proxy, through: `http://${proxy.host}:${proxy.port}`, id: randomUUID() }
}

/** What the session holds, as the page would load it. */
const stored = async ({ ann, id }: Scene) =>
  (await ann.snapshot(id)).messages.map(({ role, parts }) => `${role}: ${textOf({ id: '', role, parts })}`)

describe.each(majors)('useChat of AI SDK %i, unmodified', (major) => {
  it('sends, streams and shows what is stored; the chat is made by its first message (R1.8)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    await chat.sendMessage({ text: 'hello' })
    expect(chat.status).toBe('ready')
    expect(shownBy(chat)).toEqual(['user: hello', 'assistant: Re hello, whole.'])
    await chat.sendMessage({ text: 'again' })
    expect(shownBy(chat)).toEqual(await stored(scene))
    expect((await scene.ann.snapshot(scene.id)).messages.map(({ id }) => id)).toEqual(chat.messages.map(({ id }) => id))
  })

  it('cut in the middle shows an error, and regenerate() attaches to the running turn: asked once (I2, I7)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.through, id: scene.id })
    const sent = chat.sendMessage({ text: 'wait' })
    await eventually(async () => textOf(chat.messages[1]) === 'Re wait')
    scene.proxy.cutAll()
    await sent
    expect(chat.status).toBe('error')
    const healed = chat.regenerate()
    await eventually(async () => textOf(chat.messages[1]) === 'Re wait')
    scene.goOn()
    await healed
    expect(chat.status).toBe('ready')
    expect(shownBy(chat)).toEqual(await stored(scene))
    expect(scene.asked).toEqual(['wait'])
  })

  it('loaded in the middle resumes from the start and then live, and once more after the end (R1.5)', async () => {
    const scene = await openScene()
    const first = await sdkChat(major, { url: scene.through, id: scene.id })
    const sent = first.sendMessage({ text: 'wait' })
    await eventually(async () => textOf(first.messages[1]) === 'Re wait')
    scene.proxy.cutAll()
    await sent
    const loaded = await sdkChat(major, { url: scene.url, id: scene.id, messages: first.messages.slice(0, 1) })
    const resumed = loaded.resumeStream()
    await eventually(async () => textOf(loaded.messages[1]) === 'Re wait')
    scene.goOn()
    await resumed
    expect(shownBy(loaded)).toEqual(await stored(scene))
    const later = await sdkChat(major, { url: scene.url, id: scene.id, messages: loaded.messages })
    await later.resumeStream()
    expect(shownBy(later)).toEqual(await stored(scene))
    expect(scene.asked).toEqual(['wait'])
  })

  it('resumes nothing where there is nothing, and of a stranger learns nothing (I15)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    await chat.resumeStream()
    expect(chat.status).toBe('ready')
    await chat.sendMessage({ text: 'hello' })
    const bob = await sdkChat(major, { url: scene.url, id: scene.id, user: 'bob' })
    await bob.resumeStream()
    expect([bob.status, bob.messages]).toEqual(['ready', []])
    await bob.sendMessage({ text: 'let me in' })
    expect(bob.status).toBe('error')
    expect(bob.error?.message).toBe('There is nothing here that you may see.')
    expect(await stored(scene)).toEqual(['user: hello', 'assistant: Re hello, whole.'])
  })

  it('stopped by another device ends where the stored text ends, and goes on with the next message (I11)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    const sent = chat.sendMessage({ text: 'wait' })
    await eventually(async () => textOf(chat.messages[1]) === 'Re wait')
    const stop = await scene.ann.request(`/api/chat/${scene.id}/stop`, { method: 'POST', body: '{}' })
    expect([stop.status, await stop.json()]).toEqual([200, { success: true }])
    await sent
    expect(chat.status).toBe('ready')
    expect(shownBy(chat)).toEqual(['user: wait', 'assistant: Re wait'])
    await chat.sendMessage({ text: 'next' })
    expect(shownBy(chat)).toEqual(await stored(scene))
  })

  it('stopped here only stops looking; the reply goes on', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    const sent = chat.sendMessage({ text: 'wait' })
    await eventually(async () => textOf(chat.messages[1]) === 'Re wait')
    await chat.stop()
    await sent
    scene.goOn()
    await eventually(async () => (await stored(scene))[1] === 'assistant: Re wait, whole.')
  })

  it('a failed reply shows a sentence, and each way to try again is the same message in a new round (I10)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    await chat.sendMessage({ text: 'fail' })
    expect(chat.status).toBe('error')
    expect(chat.error?.message).toMatch(/^The assistant's provider|^The /)
    expect(chat.error?.message).not.toContain('{')
    await chat.regenerate()
    await chat.regenerate({ messageId: chat.messages[0]!.id })
    expect(scene.asked).toEqual(['fail', 'fail', 'fail'])
    // The client's own shape for this continues the assistant's message: it would hold both texts.
    await chat.sendMessage()
    expect([chat.status, chat.error?.message]).toEqual(['error', expect.stringContaining('call regenerate()')])
    const { messages } = await scene.ann.snapshot(scene.id)
    expect(messages.filter(({ role }) => role === 'user')).toHaveLength(1)
  })

  it('regenerate() of a complete reply writes another, once; a page that missed the end is shown it', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    await chat.sendMessage({ text: 'hello' })
    await chat.regenerate()
    // So soon after the end it may come from a page that was cut off.
    expect(scene.asked).toEqual(['hello'])
    await chat.regenerate({ messageId: chat.messages[1]!.id })
    expect(scene.asked).toEqual(['hello', 'hello'])
    expect(shownBy(chat)).toEqual(await stored(scene))
    const { messages } = await scene.ann.snapshot(scene.id)
    expect(messages[1]?.branch).toMatchObject({ index: 1, count: 2 })
    expect(chat.messages[1]!.id).toBe(messages[1]!.id)
  })

  it('an edit is a branch, the same one however often it is sent, and what follows builds on it (I13)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    await chat.sendMessage({ text: 'hello' })
    const { id } = chat.messages[0]!
    await chat.sendMessage({ text: 'goodbye', messageId: id })
    expect(shownBy(chat)).toEqual(['user: goodbye', 'assistant: Re goodbye, whole.'])
    await chat.sendMessage()
    await chat.sendMessage({ text: 'more' })
    expect(scene.asked).toEqual(['hello', 'goodbye', 'more'])
    expect(shownBy(chat)).toEqual(await stored(scene))
  })

  it('a file that it sends is stored once, is its path to others, and the same message again is the same (P90, P96)', async () => {
    const given: object[] = []
    const reply: Reply = ({ message }) => {
      given.push(message.parts)
      return `Reply ${given.length}`
    }
    const { url, ann } = await openChat({ reply })
    const id = randomUUID()
    const chat = await sdkChat(major, { url, id })
    const data = `data:image/png;base64,${randomBytes(1_000_000).toString('base64')}`
    const files = [{ type: 'file', mediaType: 'image/png', url: data, filename: 'a.png' }]
    const again = async (message: object, named: object = {}) => {
      const body = { id, messages: [message], trigger: 'submit-message', ...named }
      const response = await ann.request('/api/chat', { method: 'POST', body: JSON.stringify(body) })
      return response.ok && (await response.text()).includes(`Reply ${given.length}`)
    }
    await chat.sendMessage({ text: 'look', files })
    const [first] = chat.messages
    expect(await again(first!)).toBe(true)
    // Edited, with the file as the client still has it.
    await chat.sendMessage({ text: 'look again', files, messageId: first!.id })
    expect([chat.status, textOf(chat.messages[1])]).toEqual(['ready', 'Reply 2'])
    expect(await again(chat.messages[0]!, { messageId: first!.id })).toBe(true)
    const said = (text: string) => [...files, { type: 'text', text }]
    expect(isDeepStrictEqual(given, [said('look'), said('look again')])).toBe(true)
    const list = await ann.request(`/v1/sessions/${id}/files`)
    const { data: listed } = (await list.json()) as { data: { url: string }[] }
    expect(listed).toHaveLength(1)
    // As a page that was loaded again has it.
    const [shown] = (await ann.snapshot(id)).messages
    expect(shown!.parts[0]).toEqual({ ...files[0], url: listed[0]!.url })
    expect(await again({ id: shown!.id, role: 'user', parts: shown!.parts })).toBe(true)
    expect(given).toHaveLength(2)
  })

  it('edited back to what it said before, shows that branch again, and what follows builds on it (I13)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    await chat.sendMessage({ text: 'hello' })
    const { id } = chat.messages[0]!
    for (const text of ['goodbye', 'farewell', 'goodbye', 'hello']) {
      await chat.sendMessage({ text, messageId: id })
      expect(shownBy(chat)).toEqual([`user: ${text}`, `assistant: Re ${text}, whole.`])
      expect(await stored(scene)).toEqual(shownBy(chat))
    }
    await chat.sendMessage({ text: 'more' })
    expect(await stored(scene)).toEqual(shownBy(chat))
    expect(scene.asked).toEqual(['hello', 'goodbye', 'farewell', 'more'])
  })

  it('a second message while a reply is written waits its turn and is held open (R2.6)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(major, { url: scene.url, id: scene.id })
    const first = chat.sendMessage({ text: 'wait' })
    await eventually(async () => textOf(chat.messages[1]) === 'Re wait')
    const second = chat.sendMessage({ text: 'second' })
    await eventually(async () => (await stored(scene)).length === 4)
    scene.goOn()
    await Promise.all([first, second])
    expect(shownBy(chat)).toEqual(await stored(scene))
    expect(scene.asked).toEqual(['wait', 'second'])
  })

  it('a page that is loaded while two wait is told both, one after the other', async () => {
    const scene = await openScene()
    await scene.ann.createSession(scene.id)
    const first = await scene.ann.send(scene.id, 'wait')
    const second = await scene.ann.send(scene.id, 'second')
    const messages = [first, second].map(({ message: { id, role, parts } }) => ({ id, role, parts }))
    const chat = await sdkChat(major, { url: scene.url, id: scene.id, messages })
    const resumed = chat.resumeStream()
    await eventually(async () => textOf(chat.messages[2]) === 'Re wait')
    scene.goOn()
    await resumed
    expect(shownBy(chat).slice(2)).toEqual(['assistant: Re wait, whole.', 'assistant: Re second, whole.'])
  })
})

describe('a takeover', () => {
  it.each(majors)(
    'AI SDK %i is told the reply again, or that it is written again: never two halves (I9, I7)',
    async (major) => {
      let attempt = 0
      let cut!: () => void
      const cutNow = new Promise<void>((resolve) => {
        cut = resolve
      })
      const reply: Reply = async function* () {
        attempt++
        if (attempt === 1) {
          yield 'Half of it'
          await cutNow
          throw new ReplyError('provider_truncated', 'cut')
        }
        yield 'The whole of it.'
      }
      const { url, ann } = await openChat({ reply })
      const id = randomUUID()
      const chat = await sdkChat(major, { url, id, headers: { 'x-ai-sdk': String(major) } })
      const sent = chat.sendMessage({ text: 'hello' })
      await eventually(async () => textOf(chat.messages[1]) === 'Half of it')
      cut()
      await sent
      if (major === 6) {
        expect([chat.status, chat.error?.message]).toEqual(['error', writtenAgain])
        await chat.regenerate()
      }
      expect(chat.status).toBe('ready')
      expect(textOf(chat.messages[1])).toBe('The whole of it.')
      expect(chat.messages).toHaveLength(2)
      expect(attempt).toBe(2)
      expect((await ann.snapshot(id)).messages).toHaveLength(2)
    },
  )
})

describe('POST /api/chat', () => {
  const post = (scene: Scene, body: unknown, headers: Record<string, string> = {}) =>
    scene.ann.request('/api/chat', { method: 'POST', body: JSON.stringify(body), headers })
  const user = (text: string, id = randomUUID()) => ({ id, role: 'user', parts: [{ type: 'text', text }] })

  it('refuses what it cannot read with a sentence, and stores nothing', async () => {
    const scene = await openScene()
    const bad: [unknown, number, RegExp][] = [
      [{}, 400, /"id"/],
      [{ id: scene.id, messages: [] }, 400, /expected a message of the user/],
      [{ id: 'no spaces', messages: [user('x')] }, 400, /"id"/],
      [{ id: scene.id, messages: [{ ...user('x'), parts: [] }] }, 400, /text or a file/],
      [{ id: scene.id, messages: [{ ...user('x'), parts: [{ type: 'tool-x' }] }] }, 400, /"text" or "file"/],
      [{ id: scene.id, messages: [user('nul \u0000')] }, 400, /Unicode/],
      [{ id: scene.id, messages: [user('x'.repeat(300_000))] }, 413, /bytes/],
      [{ id: scene.id, messages: [{ ...user('x'), metadata: { long: 'x'.repeat(300_000) } }] }, 413, /bytes/],
      [{ id: scene.id, messages: [user('x'), { id: 'a', role: 'assistant', parts: [] }] }, 409, /Nothing waits/],
    ]
    for (const [body, status, sentence] of bad) {
      const response = await post(scene, body)
      expect([response.status, response.headers.get('content-type')]).toEqual([status, 'text/plain; charset=utf-8'])
      expect(await response.text()).toMatch(sentence)
    }
    expect((await scene.ann.request(`/v1/sessions/${scene.id}`)).status).toBe(404)
  })

  it('tells chunks of 7 only to who says a 7 that can take a step back (P83)', async () => {
    const reply: Reply = async function* () {
      yield { type: 'custom', kind: 'acme.card' }
      yield { type: 'finish', finishReason: 'stop' }
    }
    const { ann } = await openChat({ reply })
    const id = randomUUID()
    const sent = await ann.request('/api/chat', {
      method: 'POST',
      body: JSON.stringify({ id, messages: [user('hello')] }),
    })
    await sent.text()
    const isToldAll = async (said: string) => {
      const told = await ann.request(`/api/chat/${id}/stream?sdk=${said}`)
      const text = await told.text()
      expect(text).toContain('"type":"finish"')
      return text.includes('acme.card')
    }
    for (const said of ['7', '7.0.70', '7.0.173', '7.1.0', '8.0.0'])
      expect([said, await isToldAll(said)]).toEqual([said, true])
    for (const said of ['', '6', '6.0.323', '7.0.4', '7.0.69', 'seven', '5.9.9']) {
      expect([said, await isToldAll(said)]).toEqual([said, false])
    }
  })

  it('stores no file in a foreign chat, and says nothing else of it than of a message (I15)', async () => {
    const scene = await openScene()
    await scene.ann.createSession(scene.id)
    const zoe = await apiOf(scene.url, 'zoe')
    const file = { type: 'file', mediaType: 'text/plain', url: 'data:text/plain,hello' }
    const asked = (parts: object[]) =>
      zoe.request('/api/chat', {
        method: 'POST',
        body: JSON.stringify({ id: scene.id, messages: [{ id: 'm1', role: 'user', parts }] }),
      })
    const [withFile, withText] = [await asked([file]), await asked([{ type: 'text', text: 'hello' }])]
    expect([withFile.status, await withFile.text()]).toEqual([withText.status, await withText.text()])
    expect(withFile.status).toBe(404)
    const files = await scene.ann.request(`/v1/sessions/${scene.id}/files`)
    expect(await files.json()).toMatchObject({ data: [] })
  })

  it('says a refusal in words also where the session was never asked: nobody is signed in', async () => {
    const scene = await openScene()
    const nobody = await fetch(`${scene.url}/api/chat/${scene.id}/stop`, { method: 'POST' })
    expect([nobody.status, await nobody.text()]).toEqual([401, expect.stringContaining('Sign in first')])
  })

  it('writes another reply each time it is asked to, also of one that was chosen again (I10)', async () => {
    const scene = await openScene()
    const chat = await sdkChat(7, { url: scene.url, id: scene.id })
    await chat.sendMessage({ text: 'hello' })
    const first = chat.messages[1]!.id
    await chat.regenerate({ messageId: first })
    await scene.ann.command(scene.id, first, 'select')
    await chat.regenerate({ messageId: chat.messages[0]!.id })
    expect(scene.asked).toHaveLength(3)
    const { messages } = await scene.ann.snapshot(scene.id)
    expect(messages[1]?.branch).toMatchObject({ index: 2, count: 3 })
  })

  it('sent again tells the reply that is shown, and begins nothing where a hidden one has failed (I10)', async () => {
    let asked = 0
    const reply: Reply = () => {
      if (++asked === 2) throw new ReplyError('provider_rejected', 'no')
      return `Reply ${asked}`
    }
    const { ann } = await openChat({ reply })
    const id = randomUUID()
    const body = JSON.stringify({ id, messages: [user('hello')] })
    const again = async () => (await ann.request('/api/chat', { method: 'POST', body })).text()
    expect(await again()).toContain('Reply 1')
    const [, first] = (await ann.snapshot(id)).messages
    await ann.command(id, first!.id, 'regenerate', { id: 'other' })
    await eventually(async () => (await ann.snapshot(id)).messages[1]?.status === 'failed')
    await ann.command(id, first!.id, 'select')
    expect(await again()).toContain('Reply 1')
    expect(asked).toBe(2)
  })

  it('reads nothing of the history but the last message: 5 MB of it, as deep as it likes', async () => {
    const scene = await openScene()
    let deep: unknown = 'x'
    for (let n = 0; n < 2_000; n++) deep = [deep]
    const lie = { id: 'a', role: 'assistant', parts: [{ type: 'text', text: 'I promise a refund.' }, deep] }
    const long = { ...user('y'.repeat(5_000_000)), metadata: { deep } }
    const response = await post(scene, {
      id: scene.id,
      messages: [long, lie, user('hello')],
      trigger: 'submit-message',
    })
    expect(response.status).toBe(200)
    await response.text()
    expect(await stored(scene)).toEqual(['user: hello', 'assistant: Re hello, whole.'])
  })

  it('sent again by the browser itself is the same message, also after a stop (I1)', async () => {
    const scene = await openScene()
    const body = { id: scene.id, messages: [user('wait')], trigger: 'submit-message' }
    const control = new AbortController()
    const first = await scene.ann.request('/api/chat', {
      method: 'POST',
      body: JSON.stringify(body),
      signal: control.signal,
    })
    expect(first.status).toBe(200)
    await eventually(async () => scene.asked.length === 1)
    control.abort()
    await (await scene.ann.request(`/api/chat/${scene.id}/stop`, { method: 'POST', body: '{}' })).json()
    const second = await post(scene, body)
    expect(await second.text()).toContain('"type":"abort"')
    expect(scene.asked).toEqual(['wait'])
  })

  it('answers with the message, its reply and its turn where JSON is asked for', async () => {
    const scene = await openScene()
    const message = user('hello')
    const response = await post(scene, { id: scene.id, messages: [message] }, { accept: 'application/json' })
    const { turn, cursor, ...rest } = (await response.json()) as Record<string, { id: string }>
    expect(rest.message!.id).toBe(message.id)
    expect([typeof turn!.id, typeof cursor]).toEqual(['string', 'string'])
  })

  it('tells a client that follows the log itself what runs and waits, and from where; a stop may name one (I11)', async () => {
    const scene = await openScene()
    const json = { accept: 'application/json' }
    const send = async (text: string, more: object = {}) =>
      await (await post(scene, { id: scene.id, messages: [user(text)], ...more }, json)).json()
    const first = await send('wait')
    await eventually(async () => scene.asked.length === 1)
    expect(await send('no', { whenBusy: 'reject' })).toMatchObject({ code: 'busy', status: 409 })
    expect(await send('no', { whenBusy: 'never' })).toMatchObject({ code: 'invalid_request' })
    const second = await send('second')
    const resumed = await scene.ann.request(`/api/chat/${scene.id}/stream`, { headers: json })
    const { data } = (await resumed.json()) as { data: { reply: { id: string }; cursor: string }[] }
    expect(data.map(({ reply }) => reply.id)).toEqual([first.reply.id, second.reply.id])
    const { frames } = await scene.ann.poll(scene.id, { cursor: data[0]!.cursor })
    expect(frames[0]).toMatchObject({ type: 'attempt.started', data: { replyId: first.reply.id } })
    const stop = (replyId: string) =>
      scene.ann.request(`/api/chat/${scene.id}/stop`, { method: 'POST', body: JSON.stringify({ replyId }) })
    for (const replyId of [first.reply.id, first.reply.id, 'another']) expect((await stop(replyId)).status).toBe(200)
    await eventually(async () => (await stored(scene)).at(-1) === 'assistant: Re second, whole.')
    expect(await stored(scene)).toContain('assistant: Re wait')
  })

  it('makes a guest of who has no cookie, who may then stop and resume', async () => {
    const { url } = await openChat({ tokens: undefined as never })
    const id = randomUUID()
    const headers = { 'content-type': 'application/json' }
    const body = JSON.stringify({ id, messages: [user('hello')] })
    const response = await fetch(`${url}/api/chat`, { method: 'POST', headers, body })
    expect(await response.text()).toContain('the answer')
    const cookie = response.headers.get('set-cookie')!.split(';')[0]!
    const resumed = await fetch(`${url}/api/chat/${id}/stream`, { headers: { cookie } })
    expect(await resumed.text()).toContain('the answer')
    // Only a message makes a guest: a page that resumes beside its first one must not get another's cookie after it.
    const passing = await fetch(`${url}/api/chat/${id}/stream`)
    expect([passing.status, passing.headers.get('set-cookie')]).toEqual([204, null])
  })

  it('ends in the middle of a reply by a cut, never cleanly (I7)', async () => {
    const scene = await openScene()
    const response = await post(scene, { id: scene.id, messages: [user('wait')] })
    const read = response.text()
    await eventually(async () => scene.asked.length === 1)
    const closing = scene.chat.close()
    await expect(read).rejects.toThrow()
    scene.goOn()
    await closing
  })
})
