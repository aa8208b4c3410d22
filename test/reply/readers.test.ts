import { createOpenAICompatible as createOpenAICompatible6 } from '@ai-sdk/openai-compatible'
import { readUIMessageStream as readMessage6, streamText as streamText6 } from 'ai'
import { readUIMessageStream as readMessage7, streamText as streamText7 } from 'ai7'
import { createOpenAICompatible as createOpenAICompatible7 } from 'openai-compatible7'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openai } from '../../src/adapters/openai.ts'
import type { Chunk } from '../../src/core/chunk.ts'
import type { UserOrAssistantMessage } from '../../src/reply/message.ts'
import { startProvider } from '../support/provider.mjs'
import { deltasOf, replyId, userMessage, type WriterName, wireOf, writerNames, writers, written } from './writers.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.stop())

const words = ['Es war ', 'einmal', ' ein Mädchen,\n\n', '"das" 🌍', ' \\ `code`', '.']
const weather = { id: 'call-1', name: 'weather', input: ['{"city":', '"Köln"}'] }

/** The message that a client of either major makes of the chunks, without the fields in which the majors differ. */
async function messageOf(chunks: Chunk[], major: 6 | 7) {
  const stream = new ReadableStream<never>({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk as never)
      controller.close()
    },
  })
  const terminateOnError = true
  let last: { id: string; parts: { type: string; [key: string]: unknown }[] } | undefined
  const messages = major === 6 ? readMessage6({ stream, terminateOnError }) : readMessage7({ stream, terminateOnError })
  for await (const message of messages) last = message as unknown as typeof last
  return last!
}

describe.each(writerNames)('a reply written with %s', (name: WriterName) => {
  test('has the text that the provider sent, delta by delta, under the reply id', async () => {
    provider.script(words.map((text) => ({ text })))
    const { chunks } = await written(writers[name](provider.url))
    expect(chunks[0]).toEqual({ type: 'start', messageId: replyId })
    expect(chunks.flatMap((chunk) => (chunk.type === 'text-delta' ? [chunk.delta] : []))).toEqual(words)
    expect(chunks.at(-1)).toEqual({ type: 'finish', finishReason: 'stop' })
  })

  test.each([6, 7] as const)('is a whole message to a client of major %i', async (major) => {
    provider.script([
      { reasoning: 'Let me ' },
      { reasoning: 'see.' },
      ...words.map((text) => ({ text })),
      { tool: weather },
    ])
    const { chunks } = await written(writers[name](provider.url))
    const { id, parts } = await messageOf(chunks, major)
    expect(id).toBe(replyId)
    // AI SDK 7 begins each of Anthropic's messages with a part of its own, which says what the prompt cost.
    expect(parts.filter(({ type }) => type !== 'custom')).toMatchObject([
      { type: 'step-start' },
      // Only those who are compatible with OpenAI tell it in chat completions, so `@ai-sdk/openai` does not look for it.
      ...(name.endsWith(', chat') ? [] : [{ type: 'reasoning', text: 'Let me see.', state: 'done' }]),
      { type: 'text', text: words.join(''), state: 'done' },
      { type: 'tool-weather', toolCallId: 'call-1', state: 'input-available', input: { city: 'Köln' } },
    ])
    expect(chunks.at(-1)).toEqual({ type: 'finish', finishReason: 'tool-calls' })
  })

  test('reports what the provider reported, once', async () => {
    provider.script([{ text: 'Hi' }])
    const { usage } = await written(writers[name](provider.url))
    expect(usage).toMatchObject([
      { model: 'stub-1', inputTokens: 11, outputTokens: 7, cachedInputTokens: 3, finishReason: 'stop' },
    ])
    if (wireOf(name) !== 'messages') expect(usage[0]).toMatchObject({ reasoningTokens: 2 })
  })

  test('says why it ended', async () => {
    const words = { chat: 'length', responses: 'max_output_tokens', messages: 'max_tokens' }
    provider.script([{ text: 'Hi' }, { finish: words[wireOf(name)] }])
    expect((await written(writers[name](provider.url))).chunks.at(-1)).toEqual({
      type: 'finish',
      finishReason: 'length',
    })
  })

  test('is a success for a reason that only the provider understands', async () => {
    provider.script([{ text: 'Hi' }, { finish: 'enough_said' }])
    const { chunks, error } = await written(writers[name](provider.url))
    expect(error).toBeUndefined()
    expect(chunks.at(-1)?.type).toBe('finish')
  })

  test('is a success where the model declines in its own words', async () => {
    provider.script([{ refusal: 'I would rather ' }, { refusal: 'not.' }])
    const { chunks, error } = await written(writers[name](provider.url))
    expect(error).toBeUndefined()
    // `@ai-sdk/openai-compatible` 2 does not look for these words.
    expect(deltasOf(chunks)).toBe(name === 'AI SDK 6, compatible' ? '' : 'I would rather not.')
  })

  test('shows each delta as it comes, without waiting for the next', async () => {
    let open: (() => void) | undefined
    const opened = new Promise<void>((resolve) => {
      open = resolve
    })
    provider.script([{ text: 'first' }, { wait: opened }, { text: ' second' }])
    const onChunk = ({ type }: Chunk) => {
      if (type === 'text-delta') open?.()
    }
    const { chunks } = await written(writers[name](provider.url), { onChunk })
    expect(deltasOf(chunks)).toBe('first second')
  })

  test('sends the conversation with an earlier tool call and its result', async () => {
    provider.script([{ text: 'Hi' }])
    const messages = [userMessage('How warm is it?'), answered, userMessage('And now?')]
    await written(writers[name](provider.url), { messages, message: messages[2]! })
    const { body } = provider.requests.at(-1)!
    expect(body.messages ?? body.input).toMatchObject(conversations[wireOf(name)])
    expect(body).toMatchObject({ model: 'stub-1', stream: true })
  })

  test('continues a partial message under its id', async () => {
    provider.script([{ text: 'It is warm.' }])
    const partial = { ...answered, id: replyId, parts: answered.parts.slice(0, 2) }
    const { chunks } = await written(writers[name](provider.url), {
      messages: [userMessage('How warm is it?'), partial],
      stepsDone: 1,
    })
    expect(chunks[0]).toEqual({ type: 'start', messageId: replyId })
    const { body } = provider.requests.at(-1)!
    expect(body.messages ?? body.input).toHaveLength(3)
  })

  test('is read for many replies at a time without mixing them up', async () => {
    provider.script(({ index }) => [{ text: `reply ${index} ` }, { pauseMs: 5 }, { text: `of ${index}` }])
    const replies = await Promise.all(Array.from({ length: 20 }, () => written(writers[name](provider.url))))
    const texts = replies.map(({ chunks }) => deltasOf(chunks))
    expect(new Set(texts).size).toBe(20)
    for (const text of texts) expect(text).toMatch(/^reply (\d+) of \1$/)
  })
})

const answered: UserOrAssistantMessage = {
  id: 'assistant-1',
  role: 'assistant',
  parts: [
    { type: 'step-start' },
    {
      type: 'tool-weather',
      toolCallId: 'call-1',
      state: 'output-available',
      input: { city: 'Köln' },
      output: { celsius: 21 },
    },
    { type: 'step-start' },
    { type: 'text', text: '21 °C.' },
  ],
}

const user = (text: string, type = 'text') => ({ role: 'user', content: [{ type, text }] })

/** The same conversation in the words of each wire. */
const conversations = {
  chat: [
    { role: 'user', content: 'How warm is it?' },
    {
      role: 'assistant',
      content: null,
      tool_calls: [{ id: 'call-1', type: 'function', function: { name: 'weather', arguments: '{"city":"Köln"}' } }],
    },
    { role: 'tool', tool_call_id: 'call-1', content: '{"celsius":21}' },
    { role: 'assistant', content: '21 °C.' },
    { role: 'user', content: 'And now?' },
  ],
  responses: [
    user('How warm is it?', 'input_text'),
    { type: 'function_call', call_id: 'call-1', name: 'weather', arguments: '{"city":"Köln"}' },
    { type: 'function_call_output', call_id: 'call-1', output: '{"celsius":21}' },
    // 7 writes the text alone, 6 a list of parts.
    { role: 'assistant', content: expect.anything() },
    user('And now?', 'input_text'),
  ],
  messages: [
    user('How warm is it?'),
    { role: 'assistant', content: [{ type: 'tool_use', id: 'call-1', name: 'weather', input: { city: 'Köln' } }] },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'call-1', content: '{"celsius":21}' }] },
    { role: 'assistant', content: [{ type: 'text', text: '21 °C.' }] },
    user('And now?'),
  ],
}

test('the readers send their key, headers, system and body as each provider wants them', async () => {
  provider.script([{ text: 'Hi' }])
  const options = { system: 'Be brief.', headers: { 'x-team': 'a' }, body: { temperature: 0 } }
  await written(openai({ model: 'm', apiKey: 'secret', baseUrl: `${provider.url}/`, ...options }))
  const asked = provider.requests.at(-1)!
  expect(asked.path).toBe('/v1/chat/completions')
  expect(asked.headers).toMatchObject({ authorization: 'Bearer secret', 'x-team': 'a' })
  expect(asked.body).toMatchObject({ temperature: 0, stream_options: { include_usage: true } })
  expect(asked.body.messages[0]).toEqual({ role: 'system', content: 'Be brief.' })
})

test('the readers send the files that their providers take, texts as text, and of others a note', async () => {
  provider.script([{ text: 'Hi' }])
  const file = (mediaType: string, content: string, filename?: string) => ({
    type: 'file' as const,
    mediaType,
    url: `data:${mediaType};base64,${Buffer.from(content).toString('base64')}`,
    ...(filename === undefined ? {} : { filename }),
  })
  const pdf = file('application/pdf', '%PDF')
  const files = [
    file('text/csv', 'é;1', 'a.csv'),
    file('image/svg+xml', '<svg/>'),
    pdf,
    file('application/zip', 'PK', 'a.zip'),
    file('image/tiff', 'II*'),
  ]
  const message = { ...userMessage('x'), parts: files }
  const sent = async (name: 'openai' | 'anthropic') => {
    await written(writers[name](provider.url), { messages: [message], message })
    return provider.requests.at(-1)!.body.messages[0].content as object[]
  }
  const text = (said: string) => ({ type: 'text', text: said })
  const texts = [text('a.csv:\n\né;1'), text('An attached file:\n\n<svg/>')]
  const zip = text('[An attached file that cannot be shown here: a.zip, application/zip]')
  expect(await sent('openai')).toEqual([
    ...texts,
    { type: 'file', file: { filename: 'document.pdf', file_data: pdf.url } },
    zip,
    { type: 'image_url', image_url: { url: files[4]!.url } },
  ])
  expect(await sent('anthropic')).toEqual([
    ...texts,
    { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: 'JVBERg==' } },
    zip,
    text('[An attached file that cannot be shown here: unnamed, image/tiff]'),
  ])
})

test('the anthropic reader keeps the signature of the thinking and sends it back', async () => {
  provider.script([{ reasoning: 'Hmm.' }, { text: 'Hi' }])
  const first = await written(writers.anthropic(provider.url))
  const { parts } = await messageOf(first.chunks, 7)
  const reply = { id: replyId, role: 'assistant', parts } as unknown as UserOrAssistantMessage
  await written(writers.anthropic(provider.url), { messages: [userMessage('a'), reply, userMessage('b')] })
  expect(provider.requests.at(-1)!.body.messages[1].content).toEqual([
    { type: 'thinking', thinking: 'Hmm.', signature: 'c2lnbmVk' },
    { type: 'text', text: 'Hi' },
  ])
})

test('to anthropic, which wants the user to begin, something of the user’s goes before what the assistant has said first', async () => {
  provider.script([{ text: 'Hi' }])
  const greeting: UserOrAssistantMessage = { id: 's1', role: 'assistant', parts: [{ type: 'text', text: 'Hello!' }] }
  await written(writers.anthropic(provider.url), { messages: [greeting, userMessage('a')] })
  const { messages } = provider.requests.at(-1)!.body
  expect(messages.map(({ role }: { role: string }) => role)).toEqual(['user', 'assistant', 'user'])
  expect(messages[1].content).toEqual([{ type: 'text', text: 'Hello!' }])
})

/** The majors' functions under one type, for tests that say the same of both. */
const majors = [
  { major: 6, streamText: streamText6, createOpenAICompatible: createOpenAICompatible6 },
  {
    major: 7,
    streamText: streamText7 as unknown as typeof streamText6,
    createOpenAICompatible: createOpenAICompatible7 as unknown as typeof createOpenAICompatible6,
  },
]

const half = [
  { type: 'stream-start', warnings: [] },
  { type: 'text-start', id: 't' },
  { type: 'text-delta', id: 't', delta: 'Half' },
  { type: 'text-end', id: 't' },
]
const noUsage = { inputTokens: { total: undefined }, outputTokens: { total: undefined } }

/** A model of an app's own, whose stream has exactly these parts. */
function modelOf(parts: object[]): Parameters<typeof streamText6>[0]['model'] {
  const stream = new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(part)
      controller.close()
    },
  })
  const doStream = async () => ({ stream })
  return { specificationVersion: 'v3', provider: 'own', modelId: 'own-1', supportedUrls: {}, doStream } as never
}

describe.each(majors)('AI SDK $major', ({ streamText, createOpenAICompatible }) => {
  const onError = () => undefined

  test.each([
    ['without a finish', [], 'provider_truncated'],
    ['for no reason at all', [{ unified: 'other', raw: undefined }], 'provider_truncated'],
    ['for a reason of its own', [{ unified: 'other', raw: 'enough_said' }], undefined],
    ['for the reason error', [{ unified: 'error', raw: undefined }], 'provider_truncated'],
  ])('a model that ends %s is judged by that alone', async (_, reasons, code) => {
    const finish = reasons.map((finishReason) => ({ type: 'finish', usage: noUsage, finishReason }))
    const model = modelOf([...half, ...finish])
    const { error } = await written(() => streamText({ model, prompt: 'Hi', maxRetries: 0, onError }))
    expect(error).toEqual(code === undefined ? undefined : expect.objectContaining({ code }))
  })

  test('retries of its own are unwrapped to the last error', async () => {
    provider.script([{ status: 429, headers: { 'retry-after-ms': '1' }, body: { error: { message: 'no' } } }])
    const model = createOpenAICompatible({ name: 'stub', baseURL: provider.url }).chatModel('m')
    const { error } = await written(() => streamText({ model, prompt: 'Hi', maxRetries: 1, onError }))
    expect(error).toMatchObject({ code: 'provider_rate_limited', retryAfterMs: 1 })
  })
})
