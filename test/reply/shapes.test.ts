import type {
  UIMessageChunk as Chunk6,
  StreamTextResult as Result6,
  ToolSet as ToolSet6,
  UIMessage as UIMessage6,
} from 'ai'
import type { UIMessageChunk as Chunk7, UIMessage as UIMessage7 } from 'ai7'
import { expect, expectTypeOf, test } from 'vitest'
import { ReplyError } from '../../src/core/errors.ts'
import type {
  HoldfastOptions,
  LaneOf,
  MessagePart,
  Reply,
  ReplyChunk,
  ReplyContext,
  ReplyValue,
  StreamTextResult,
  UserOrAssistantMessage,
} from '../../src/index.ts'
import { replyId, written } from './writers.ts'

const whole = [
  { type: 'start', messageId: replyId },
  { type: 'start-step' },
  { type: 'text-start', id: 'text' },
  { type: 'text-delta', id: 'text', delta: 'Hello ' },
  { type: 'text-delta', id: 'text', delta: 'you' },
  { type: 'text-end', id: 'text' },
  { type: 'finish-step' },
  { type: 'finish', finishReason: 'stop' },
]

function streamOf<T>(items: T[]): ReadableStream<T> {
  return new ReadableStream({
    start(controller) {
      for (const item of items) controller.enqueue(item)
      controller.close()
    },
  })
}

/** A stream of chunks whose types are not looked at, as an app in plain JavaScript has them. */
function chunksOf(...chunks: object[]): ReadableStream<Chunk6> {
  return streamOf(chunks as Chunk6[])
}

test('a string becomes one delta between a start with the reply id and a finish', async () => {
  const { chunks } = await written(() => 'Hello you')
  expect(chunks).toEqual([
    ...whole.slice(0, 3),
    { type: 'text-delta', id: 'text', delta: 'Hello you' },
    ...whole.slice(5),
  ])
})

test('an empty string is a whole reply without text', async () => {
  const { chunks } = await written(async () => '')
  expect(chunks).toEqual([...whole.slice(0, 3), ...whole.slice(5)])
})

test('an async generator of strings becomes deltas, and its normal end is a success', async () => {
  const { chunks } = await written(async function* () {
    yield 'Hello '
    yield ''
    yield 'you'
  })
  expect(chunks).toEqual(whole)
})

test('a ReadableStream of strings becomes deltas', async () => {
  expect((await written(() => streamOf(['Hello ', 'you']))).chunks).toEqual(whole)
})

test('chunks pass as they are, and start gets the reply id whatever the source said', async () => {
  const delta = { type: 'text-delta', id: 't', delta: 'Hi', providerMetadata: { p: { a: 1 } } } as const
  const { chunks } = await written(async function* () {
    yield { type: 'start', messageId: 'foreign', messageMetadata: { a: 1 } } as const
    yield delta
    yield { type: 'finish' } as const
  })
  expect(chunks).toEqual([{ type: 'start', messageId: replyId, messageMetadata: { a: 1 } }, delta, { type: 'finish' }])
  expect(chunks[1]).toBe(delta)
})

test('a stream of chunks without a start gets one, and a later start keeps only its metadata', async () => {
  const { chunks } = await written(() =>
    chunksOf(
      { type: 'data-a', data: 1 },
      { type: 'start', messageMetadata: { b: 2 } },
      { type: 'start' },
      { type: 'finish' },
    ),
  )
  expect(chunks).toEqual([
    { type: 'start', messageId: replyId },
    { type: 'data-a', data: 1 },
    { type: 'message-metadata', messageMetadata: { b: 2 } },
    { type: 'finish' },
  ])
})

test('finish is the last chunk, after what the app added behind it', async () => {
  const { chunks } = await written(() =>
    chunksOf({ type: 'start' }, { type: 'finish', finishReason: 'stop' }, { type: 'data-a', data: 1 }),
  )
  expect(chunks.map(({ type }) => type)).toEqual(['start', 'data-a', 'finish'])
})

test.each([
  ['ends without a finish chunk', [{ type: 'start' }, { type: 'text-delta', id: 't', delta: 'Hi' }]],
  ['has an abort chunk of its own', [{ type: 'start' }, { type: 'abort' }, { type: 'finish' }]],
  ['has an error chunk', [{ type: 'start' }, { type: 'error', errorText: 'no' }, { type: 'finish' }]],
  ['finishes for the reason error', [{ type: 'finish', finishReason: 'error' }]],
  ['finishes for the reason interrupted', [{ type: 'finish', finishReason: 'interrupted' }]],
  ['finishes for the reason other, which nobody explains', [{ type: 'finish', finishReason: 'other' }]],
  ['is empty', []],
])('a stream of chunks that %s is truncated, never a success', async (_, given) => {
  const { chunks, error } = await written(() => chunksOf(...given))
  expect(error).toMatchObject({ name: 'ReplyError', code: 'provider_truncated' })
  expect(chunks.some(({ type }) => type === 'finish' || type === 'error')).toBe(false)
})

test.each([
  ['a number', 7],
  ['nothing', undefined],
  ['null', null],
  ['a Response', new Response('Hi')],
  ['a stream of bytes', streamOf([new Uint8Array([72])])],
  ['a stream of objects that are no chunks', streamOf([{ text: 'Hi' }])],
  ['a stream that mixes strings and chunks', streamOf<unknown>(['Hi', { type: 'finish' }])],
])('a reply that is %s fails as internal and says what was expected', async (_, value) => {
  const { error } = await written(() => value as ReplyValue)
  expect(error).toMatchObject({ code: 'internal', message: expect.stringContaining('A reply must be a string, ') })
})

test.each([
  ['text-delta', { id: 't', text: 'Hi' }],
  ['reasoning-delta', { id: 'r', text: 'Hm' }],
  ['tool-input-delta', { toolCallId: 'c', delta: '{' }],
])(
  'a %s of another shape fails as internal and says what was expected, instead of being a text "undefined"',
  async (type, fields) => {
    const { chunks, error } = await written(() => chunksOf({ type: 'start' }, { type, ...fields }, { type: 'finish' }))
    expect(error).toMatchObject({ code: 'internal', message: expect.stringContaining('not its fullStream') })
    expect(chunks).toEqual([{ type: 'start', messageId: replyId }])
  },
)

test('what the reply throws is classified, and a ReplyError passes as it is', async () => {
  const own = new ReplyError('content_filtered', 'Not this.')
  const throwing =
    (error: unknown): Reply =>
    () => {
      throw error
    }
  expect((await written(throwing(own))).error).toBe(own)
  expect((await written(throwing(new TypeError('x is undefined')))).error).toMatchObject({ code: 'internal' })
})

test('an error in the middle of a stream of strings leaves no finish', async () => {
  const { chunks, error } = await written(async function* () {
    yield 'Hello '
    throw new ReplyError('provider_overloaded', 'Enough.')
  })
  expect(chunks).toEqual(whole.slice(0, 4))
  expect(error).toMatchObject({ code: 'provider_overloaded' })
})

test('an abort ends the chunks at once without finish and tells an iterator that hangs', async () => {
  const abort = new AbortController()
  const events: string[] = []
  const source: AsyncIterable<string> = {
    [Symbol.asyncIterator]: () => ({
      next() {
        events.push('next')
        if (events.length === 1) return Promise.resolve({ value: 'Hello', done: false })
        setImmediate(() => abort.abort())
        return new Promise(() => undefined)
      },
      return() {
        events.push('return')
        return new Promise(() => undefined)
      },
    }),
  }
  const { chunks, error } = await written(() => source, { signal: abort.signal })
  expect(error).toBeUndefined()
  expect(chunks.at(-1)).toEqual({ type: 'text-delta', id: 'text', delta: 'Hello' })
  expect(events).toEqual(['next', 'next', 'return'])
})

test('an abort cancels a ReadableStream that hangs', async () => {
  const abort = new AbortController()
  const { error, cancelled } = await new Promise<{ error: unknown; cancelled: true }>((resolve) => {
    const stream = new ReadableStream<string>({
      start: (controller) => controller.enqueue('Hello'),
      pull: () => void setImmediate(() => abort.abort()),
      cancel: async () => resolve({ ...(await end), cancelled: true }),
    })
    const end = written(() => stream, { signal: abort.signal })
  })
  expect({ error, cancelled }).toEqual({ error: undefined, cancelled: true })
})

test('an abort ends a reply that has not even returned', async () => {
  const abort = new AbortController()
  setImmediate(() => abort.abort())
  expect(await written(() => new Promise(() => undefined), { signal: abort.signal })).toEqual({
    chunks: [],
    usage: [],
    error: undefined,
  })
})

test('an end that comes together with the abort is no error of the reply', async () => {
  const abort = new AbortController()
  const source: AsyncIterable<string> = {
    [Symbol.asyncIterator]: () => ({
      next() {
        // One turn of the queue later than the end itself, one earlier than the reader of it.
        queueMicrotask(() => queueMicrotask(() => abort.abort()))
        return Promise.resolve({ value: undefined, done: true })
      },
    }),
  }
  expect((await written(() => source, { signal: abort.signal })).error).toBeUndefined()
})

test('what a source throws because of the abort is no error of the reply', async () => {
  const abort = new AbortController()
  const reply: Reply = ({ signal }) =>
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
  setImmediate(() => abort.abort())
  expect((await written(reply, { signal: abort.signal })).error).toBeUndefined()
})

test('the types of both majors of the AI SDK fit without a cast', () => {
  expectTypeOf<ReplyContext['messages']>().toExtend<UIMessage6[]>()
  expectTypeOf<ReplyContext['messages']>().toExtend<UIMessage7[]>()
  expectTypeOf<ReadableStream<Chunk6>>().toExtend<ReplyValue>()
  expectTypeOf<ReadableStream<Chunk7>>().toExtend<ReplyValue>()
  expectTypeOf<Result6<ToolSet6, never>>().toExtend<ReplyValue>()
})

test('what an app has to name has a name', () => {
  expectTypeOf<ReplyContext['messages']>().toEqualTypeOf<UserOrAssistantMessage[]>()
  expectTypeOf<UserOrAssistantMessage['parts']>().toEqualTypeOf<MessagePart[]>()
  expectTypeOf<AsyncIterable<ReplyChunk>>().toExtend<ReplyValue>()
  expectTypeOf<StreamTextResult>().toExtend<ReplyValue>()
  expectTypeOf<NonNullable<HoldfastOptions['lane']>>().toEqualTypeOf<LaneOf>()
})
