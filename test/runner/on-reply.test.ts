/** What the app says about a finished reply, and what becomes of the reply when it says nonsense. */
import { expect, onTestFinished, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { type AiResponse, createHoldfast, type HoldfastOptions, OptionError } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { jwtSecret } from '../support/server.ts'

type Line = { line: string; detail: object }

async function open(options: Partial<HoldfastOptions>) {
  const lines: Line[] = []
  const log = (line: string, detail = {}) => void lines.push({ line, detail })
  const opened = await openChat({ log, reply: () => 'a secret answer', ...options })
  return { ...opened, lines }
}

/** One more server on the database, which writes no replies. */
function reader(database: string) {
  const chat = createHoldfast({
    database,
    tokens: { secret: jwtSecret },
    roles: ['http'],
    log: () => undefined,
    reply: () => '',
  })
  onTestFinished(() => chat.close())
  return chat
}

/** Metadata as an app of requirement R0.3 has it. */
type Offers = { offerReadyToShare?: boolean; invitationMessage?: string | null; mood: { now?: string; was?: string } }

const withMetadata: HoldfastOptions['reply'] = async function* () {
  yield { type: 'start', messageMetadata: { mood: { now: 'calm', was: 'sad' }, from: 'chunks' } }
  yield { type: 'text-start', id: 't' }
  yield { type: 'text-delta', id: 't', delta: 'a secret answer' }
  yield { type: 'text-end', id: 't' }
  yield { type: 'finish', finishReason: 'stop' }
}

test('what onReply answers is stored with the reply and stands beside it in its event; its fields win over those of chunks (R0.3, P56)', async () => {
  const asked: unknown[] = []
  const onReply: HoldfastOptions<Offers>['onReply'] = async (reply, { signal, ...context }) => {
    asked.push({ reply: structuredClone(reply), context, aborted: signal.aborted })
    return { offerReadyToShare: true, invitationMessage: null, mood: { now: 'bright\0' } }
  }
  const { ann, session, watcher } = await open({ reply: withMetadata, onReply })
  const { turn, reply } = await ann.send(session, 'hi', 'm1')
  const { type, data } = await watcher.outcome('m1')
  const { message, ...beside } = data as AiResponse<Offers>
  const metadata = {
    from: 'chunks',
    mood: { now: 'bright\uFFFD', was: 'sad' },
    offerReadyToShare: true,
    invitationMessage: null,
  }
  expect({ type, beside, metadata: message.metadata }).toEqual({
    type: 'message.ai_response',
    beside: metadata,
    metadata,
  })
  expect((await ann.snapshot(session)).messages[1]!.metadata).toEqual(metadata)
  expect(asked).toEqual([
    {
      aborted: false,
      reply: {
        id: reply.id,
        role: 'assistant',
        model: null,
        parts: [{ type: 'text', text: 'a secret answer', state: 'done' }],
        metadata: { mood: { now: 'calm', was: 'sad' }, from: 'chunks' },
      },
      context: {
        messages: [{ id: 'm1', role: 'user', parts: [{ type: 'text', text: 'hi' }] }],
        message: { id: 'm1', role: 'user', parts: [{ type: 'text', text: 'hi' }] },
        session: { id: session, title: null, metadata: {} },
        user: { id: 'ann', tenantId: 'default' },
        turn: { id: turn.id, round: 1, lane: 'main' },
        attempt: 1,
        replyId: reply.id,
      },
    },
  ])
  expect(watcher.problems).toEqual([])
})

const cycle: { [key: string]: unknown } = { secret: 1 }
cycle.self = cycle
/** What it does, and the word of the log that says why its metadata is missing. Null: it said nothing, which is no fault. */
const answers: [string, () => object | null | undefined | Promise<object>, RegExp | null][] = [
  [
    'throws',
    () => {
      throw new TypeError('secret')
    },
    /threw TypeError/,
  ],
  [
    'throws no error',
    () => {
      throw 'secret'
    },
    /threw string/,
  ],
  ['rejects', () => Promise.reject(new RangeError('secret')), /threw RangeError/],
  ['never answers', () => new Promise(() => undefined), /within 100 ms/],
  ['answers a text', () => 'secret' as unknown as object, /no JSON object/],
  ['answers a list', () => ['secret'], /no JSON object/],
  ['answers a function', () => () => 'secret', /no JSON object/],
  ['answers what holds itself', () => cycle, /threw ReplyError/],
  ['answers more than 32 KB', () => ({ secret: 'x'.repeat(40_000) }), /40013 bytes, more than 32768/],
  ['answers nothing', () => undefined, null],
  ['answers null', () => null, null],
]

test.each(answers)(
  'a reply is complete, without the app’s metadata and with one line without content, where onReply %s (I2)',
  async (_, answer, why) => {
    const { ann, session, watcher, lines } = await open({ reply: withMetadata, onReply: answer, onReplyMs: 100 })
    await ann.send(session, 'hi', 'm1')
    const { type, data } = await watcher.outcome('m1')
    expect(type).toBe('message.ai_response')
    expect(textOf(data.message.parts)).toBe('a secret answer')
    expect(data.message.metadata).toEqual({ mood: { now: 'calm', was: 'sad' }, from: 'chunks' })
    const said = lines.filter(({ line }) => line.includes('onReply'))
    expect(said).toHaveLength(why === null ? 0 : 1)
    if (why !== null) expect(said[0]!.detail).toMatchObject({ attempt: 1, why: expect.stringMatching(why) })
    expect(JSON.stringify(lines)).not.toContain('secret')
  },
)

test('what onReply does to the reply that it was given changes nothing that is stored (I7)', async () => {
  const { ann, session, watcher } = await open({
    onReply: (reply) => {
      for (const part of reply.parts) if (part.type === 'text') part.text = 'another'
      reply.parts.push({ type: 'text', text: 'more' })
    },
  })
  await ann.send(session, 'hi', 'm1')
  expect(textOf((await watcher.outcome('m1')).data.message.parts)).toBe('a secret answer')
  expect(watcher.problems).toEqual([])
})

test('a stop while onReply runs ends the turn at once as stopped, with its text, and tells onReply (I11)', async () => {
  let begun!: () => void
  let told!: () => void
  const began = new Promise<void>((resolve) => (begun = resolve))
  const wasTold = new Promise<void>((resolve) => (told = resolve))
  const { ann, session, watcher } = await open({
    onReplyMs: 60_000,
    leaseMs: 1_000,
    drainMs: 0,
    onReply: (_, { signal }) => {
      signal.addEventListener('abort', () => told())
      begun()
      return new Promise(() => undefined)
    },
  })
  await ann.send(session, 'hi', 'm1')
  await began
  const stopped = await ann.command(session, 'm1', 'stop')
  expect(stopped.turn.state).toBe('stopped')
  expect(textOf(stopped.reply.parts)).toBe('a secret answer')
  await wasTold
  // The lane is free: the next turn is begun, by the same runner.
  await ann.send(session, 'again', 'm2')
  await watcher.until(({ type, data }) => type === 'attempt.started' && data.turnId !== stopped.turn.id)
  expect(watcher.problems).toEqual([])
})

test('a process that is told to end stores the finished reply without waiting for onReply', async () => {
  let begun!: () => void
  const began = new Promise<void>((resolve) => {
    begun = resolve
  })
  const { chat, ann, session, lines, database } = await open({
    onReplyMs: 60_000,
    drainMs: 100,
    onReply: () => {
      begun()
      return new Promise(() => undefined)
    },
  })
  await ann.send(session, 'hi', 'm1')
  await began
  await chat.close()
  expect(lines).toContainEqual(
    expect.objectContaining({ detail: expect.objectContaining({ why: 'the process is told to end' }) }),
  )
  const { url } = await reader(database).listen(0)
  const [, reply] = (await (await apiOf(url)).snapshot(session)).messages
  expect(reply).toMatchObject({ status: 'complete', metadata: null })
})

test('an attempt that runs onReply for longer than its lease keeps the turn, and runs it once (I3, I9)', async () => {
  let runs = 0
  const { ann, session, watcher } = await open({
    leaseMs: 1_000,
    pollMs: 100,
    onReply: (_, { attempt }) => {
      runs++
      return new Promise((resolve) => setTimeout(() => resolve({ attempt }), 2_500))
    },
  })
  await ann.send(session, 'hi', 'm1')
  expect((await watcher.outcome('m1')).data).toMatchObject({ attempt: 1 })
  expect(runs).toBe(1)
})

test('a module that is loaded again brings its onReply along', async () => {
  const { ann, session, watcher, database } = await open({ onReply: () => ({ version: 1 }) })
  createHoldfast({ database, tokens: { secret: jwtSecret }, reply: () => 'b', onReply: () => ({ version: 2 }) })
  await ann.send(session, 'hi', 'm1')
  expect((await watcher.outcome('m1')).data.version).toBe(2)
})

test('an onReply that is no function, and an onReplyMs out of bounds, are refused at the start', () => {
  const reply = () => 'x'
  // @ts-expect-error no function
  expect(() => createHoldfast({ reply, onReply: {} })).toThrow(new OptionError('onReply: expected a function.'))
  expect(() => createHoldfast({ reply, onReplyMs: 0 })).toThrow(/onReplyMs: expected a whole number from 1 to 60000/)
})
