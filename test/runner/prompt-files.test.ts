/** Files come back to `reply` as `data:` URLs, and reach the provider in the words of its wire. */
import { randomBytes } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { filePath } from '../../src/core/file-path.ts'
import type { HoldfastOptions, ReplyContext } from '../../src/index.ts'
import type { UserOrAssistantMessage } from '../../src/reply/message.ts'
import { openPromptFiles } from '../../src/runner/prompt-files.ts'
import type { Database } from '../../src/store/database.ts'
import { storeFile } from '../../src/store/files.ts'
import { gate } from '../faults/scene.ts'
import { type WriterName, wireOf, writerNames, writers } from '../reply/writers.ts'
import { openChat } from '../support/chat.ts'
import { startProvider } from '../support/provider.mjs'
import { openStored, sessionsOf, tenantId, userId } from '../support/stored.ts'

const megabyte = 1024 * 1024
const base64 = randomBytes(3_000).toString('base64')
const png = `data:image/png;base64,${base64}`
const file = (url: string, filename?: string) => ({
  type: 'file',
  mediaType: url.startsWith('data:text') ? 'text/plain' : 'image/png',
  url,
  ...(filename === undefined ? {} : { filename }),
})
const withParts = (...parts: object[]) => ({ text: undefined, parts })
const leftOut = (name: string) => ({
  type: 'text',
  text: `[An attached file that was left out, because there were too many: ${name}, image/png]`,
})

/** A chat whose replies keep what they were given. */
async function openKept(options: Partial<HoldfastOptions> = {}) {
  const asked: ReplyContext[] = []
  const lines: [line: string, detail: object | undefined][] = []
  const opened = await openChat({
    reply: (context) => {
      asked.push(context)
      return 'seen'
    },
    log: (line, detail) => lines.push([line, detail]),
    ...options,
  })
  const { ann, session, watcher } = opened
  const answered = async (id: string, ...parts: object[]) => {
    await ann.send(session, '', id, withParts(...parts))
    return await watcher.outcome(id)
  }
  const upload = async (bytes: Buffer, filename: string) => {
    const response = await ann.request(`/v1/sessions/${session}/files?filename=${filename}`, {
      method: 'POST',
      headers: { 'content-type': 'image/png' },
      body: bytes as Buffer<ArrayBuffer>,
    })
    return file(((await response.json()) as { url: string }).url, filename)
  }
  return { ...opened, asked, lines, answered, upload }
}

const partsOf = ({ messages }: ReplyContext) =>
  messages.filter(({ role }) => role === 'user').map(({ parts }) => parts as object[])

test('a reply gets the files of its message and of those before it as they were sent (P96)', async () => {
  const { ann, session, asked, answered } = await openKept()
  await answered('m1', { type: 'text', text: 'look' }, file(png, 'a.png'))
  await answered('m2', file('data:text/plain,h%C3%A9llo'), file(png))
  const text = `data:text/plain;base64,${Buffer.from('héllo').toString('base64')}`
  expect(asked[0]!.message.parts).toEqual([{ type: 'text', text: 'look' }, file(png, 'a.png')])
  expect(partsOf(asked[1]!)).toEqual([
    [{ type: 'text', text: 'look' }, file(png, 'a.png')],
    [file(text), file(png)],
  ])
  // What is stored and shown still has paths.
  expect(JSON.stringify(await ann.snapshot(session))).not.toContain('base64')
})

test('a file somewhere else stays where it is', async () => {
  const { asked, answered } = await openKept()
  await answered('m1', file('https://a.example/b.png'))
  expect(asked[0]!.message.parts).toEqual([file('https://a.example/b.png')])
})

test('onReply is given the files, too', async () => {
  const seen: object[] = []
  const { answered } = await openKept({
    onReply: (_, { message }) => {
      seen.push(message.parts)
      return {}
    },
  })
  await answered('m1', file(png))
  expect(seen).toEqual([[file(png)]])
})

test('a message that is handed to the running reply brings its files (P33, P96)', async () => {
  const sent = gate()
  const steered: UserOrAssistantMessage[] = []
  const { ann, session, watcher } = await openKept({
    async *reply({ steering }) {
      yield { type: 'start' }
      yield { type: 'start-step' }
      yield { type: 'finish-step' }
      await sent.passed
      steered.push(...(await steering()))
      yield { type: 'finish', finishReason: 'stop' }
    },
  })
  await ann.send(session, 'first', 'm1')
  await watcher.until(({ type }) => type === 'attempt.started')
  await ann.send(session, '', 'm2', { ...withParts(file(png)), whenBusy: 'steer' })
  sent.open()
  await watcher.outcome('m1')
  expect(steered.map(({ parts }) => parts)).toEqual([[file(png)]])
})

test('of more files than fit into a prompt the newest are given, and of the others the model is told (P96)', async () => {
  const { asked, lines, answered, upload } = await openKept()
  const contents = Array.from({ length: 4 }, () => randomBytes(7 * megabyte))
  const [a, b, c, d] = await Promise.all(contents.map((bytes, at) => upload(bytes, `${at}.png`)))
  const small = await upload(Buffer.from('small'), 'small.png')
  await answered('m1', small, a!, b!)
  await answered('m2', c!, d!)
  const given = (at: number) => file(`data:image/png;base64,${contents[at]!.toString('base64')}`, `${at}.png`)
  const [first, second] = partsOf(asked[1]!)
  // Not toEqual, which would print what it compares.
  expect(isDeepStrictEqual(second, [given(2), given(3)])).toBe(true)
  expect(first!.slice(0, 2)).toEqual([file('data:image/png;base64,c21hbGw=', 'small.png'), leftOut('0.png')])
  expect(isDeepStrictEqual(first![2], given(1))).toBe(true)
  const said = lines.filter(([line]) => line === 'files left out of a prompt')
  expect(said).toEqual([['files left out of a prompt', { turnId: expect.any(String), attempt: 1, count: 1 }]])
})

test('a file that stands in a prompt twice is read once', async () => {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const database = stored.open()
  const [sessionId] = await sessionsOf(database, 1)
  const fileId = 'f'.repeat(43)
  const bounds = { filesMax: 10, bytesMax: megabyte }
  const bytes = Buffer.from('bytes')
  const ask = {
    tenantId,
    sessionId: sessionId!,
    userId,
    audience: null,
    fileId,
    mediaType: 'image/png',
    filename: null,
    bytes,
  }
  expect(await storeFile(database, { ...ask, ...bounds })).toBe('created')
  const reads: string[] = []
  const spy: Database = {
    ...database,
    query(purpose, statement, values) {
      reads.push(statement.name)
      return database.query(purpose, statement, values)
    },
  }
  const options = { bytesMax: megabyte, until: new AbortController().signal, onLeftOut: () => undefined }
  const files = openPromptFiles(spy, { tenantId, sessionId: sessionId! }, options)
  const part = () => file(filePath('', sessionId!, fileId)) as UserOrAssistantMessage['parts'][number]
  const messages: UserOrAssistantMessage[] = [{ id: 'm1', role: 'user', parts: [part(), part()] }]
  const whole = [{ id: 'm1', role: 'user', parts: Array(2).fill(file('data:image/png;base64,Ynl0ZXM=')) }]
  expect([await files.give(messages), await files.give(messages)]).toEqual([whole, whole])
  expect(reads.filter((name) => name === 'file-slice')).toHaveLength(1)
})

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.stop())

const onWire = {
  chat: { type: 'image_url', image_url: { url: png } },
  responses: { type: 'input_image', image_url: png },
  messages: { type: 'image', source: { type: 'base64', media_type: 'image/png', data: base64 } },
}

test.each(writerNames)(
  'an image reaches the provider by %s with the bytes that were sent (P96)',
  async (name: WriterName) => {
    const { answered } = await openKept({ reply: writers[name](provider.url) })
    const outcome = await answered('m1', { type: 'text', text: 'look' }, file(png))
    expect(outcome.type).toBe('message.ai_response')
    const { body } = provider.requests.at(-1)!
    const [message] = (body.messages ?? body.input) as { content: object[] }[]
    expect(message!.content[1]).toMatchObject(onWire[wireOf(name)])
  },
)
