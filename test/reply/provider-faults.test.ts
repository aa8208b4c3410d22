import { type AddressInfo, createServer } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Chunk } from '../../src/core/chunk.ts'
import type { TurnCode } from '../../src/core/errors.ts'
import { startProvider } from '../support/provider.mjs'
import { contextFor, deltasOf, type WriterName, writerNames, writers, written } from './writers.ts'

/** FAULTS §2, FL1–8: what a provider can do wrong, and what the turn is told. Nothing of it may look like a success. */

type Provider = Awaited<ReturnType<typeof startProvider>>
type Step = Extract<Parameters<Provider['script']>[0], unknown[]>[number]
type Fault = {
  fault: string
  steps: Step[]
  code: TurnCode
  retryAfterMs?: number
}

const half = { text: 'Half a re' }
const openaiError = (fields: object) => ({ error: { message: 'no', ...fields } })

const faults: Fault[] = [
  {
    fault: '429 with Retry-After in seconds',
    steps: [{ status: 429, headers: { 'retry-after': '7' }, body: openaiError({ type: 'rate_limit_error' }) }],
    code: 'provider_rate_limited',
    retryAfterMs: 7_000,
  },
  {
    fault: '429 with retry-after-ms',
    steps: [{ status: 429, headers: { 'retry-after-ms': '1500', 'retry-after': '2' }, body: openaiError({}) }],
    code: 'provider_rate_limited',
    retryAfterMs: 1_500,
  },
  {
    fault: '429 because the quota is used up',
    steps: [{ status: 429, body: openaiError({ code: 'insufficient_quota' }) }],
    code: 'provider_auth',
  },
  { fault: '500', steps: [{ status: 500 }], code: 'provider_overloaded' },
  {
    fault: '503 with a page of a proxy',
    steps: [{ status: 503, body: '<html>no</html>' }],
    code: 'provider_overloaded',
  },
  {
    fault: '529',
    steps: [{ status: 529, body: openaiError({ type: 'overloaded_error' }) }],
    code: 'provider_overloaded',
  },
  { fault: '504', steps: [{ status: 504 }], code: 'provider_timeout' },
  { fault: '401', steps: [{ status: 401, body: openaiError({}) }], code: 'provider_auth' },
  {
    fault: '400 because the context is too long',
    steps: [{ status: 400, body: openaiError({ code: 'context_length_exceeded' }) }],
    code: 'context_too_long',
  },
  { fault: '422', steps: [{ status: 422, body: openaiError({}) }], code: 'provider_rejected' },
  { fault: 'a clean end without a finish', steps: [half, { end: true }], code: 'provider_truncated' },
  { fault: 'an empty answer', steps: [{ end: true }], code: 'provider_truncated' },
  { fault: 'a reset in the middle', steps: [half, { pauseMs: 20 }, { destroy: true }], code: 'provider_truncated' },
  {
    fault: 'a line that is not JSON',
    steps: [half, { raw: 'data: {"choices":[{"del\n\n' }, { hang: true }],
    code: 'provider_truncated',
  },
  {
    fault: 'an end inside a line',
    steps: [half, { raw: 'data: {"choices":[{"del' }, { end: true }],
    code: 'provider_truncated',
  },
  {
    fault: 'an error after the 200 with a type that is known',
    steps: [half, { error: { message: 'Overloaded', type: 'overloaded_error' } }, { end: true }],
    code: 'provider_overloaded',
  },
  {
    fault: 'an error after the 200 that says nothing',
    steps: [half, { error: { message: 'Something happened' } }, { end: true }],
    code: 'provider_truncated',
  },
]

let provider: Provider
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.stop())

describe.each(writerNames)('a reply written with %s', (name: WriterName) => {
  test.each(faults)('ends with $code after $fault', async ({ steps, code, retryAfterMs }) => {
    provider.script(steps)
    const { chunks, error } = await written(writers[name](provider.url))
    expect(error).toMatchObject({ name: 'ReplyError', code, retryAfterMs })
    expect(chunks.some(({ type }) => type === 'finish' || type === 'error')).toBe(false)
  })

  test('ends with provider_unreachable where nobody listens', async () => {
    const gone = await startProvider()
    await gone.stop()
    expect((await written(writers[name](gone.url))).error).toMatchObject({ code: 'provider_unreachable' })
  })

  test('ends with provider_unreachable after a reset before the answer', async () => {
    const server = createServer((socket) => void socket.once('data', () => socket.resetAndDestroy()))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    const { error } = await written(writers[name](`http://127.0.0.1:${port}/v1`))
    await new Promise((resolve) => server.close(resolve))
    expect(error).toMatchObject({ code: 'provider_unreachable' })
  })

  test('ends by the abort alone where the provider never answers, and the provider is told', async () => {
    provider.script([{ hang: true }])
    const abort = new AbortController()
    const asked = provider.nextRequest()
    const end = written(writers[name](provider.url), { signal: abort.signal })
    const request = await asked
    abort.abort()
    expect((await end).error).toBeUndefined()
    expect(await request.closed).toBe('aborted')
  })

  test.each([
    ['hangs in the middle', [half, { hang: true }]],
    ['never ends', [{ forever: 'more ', everyMs: 5 }]],
  ] satisfies [string, Step[]][])(
    'ends by the abort alone where the provider %s, and the provider is told',
    async (_, steps) => {
      provider.script(steps)
      const abort = new AbortController()
      const asked = provider.nextRequest()
      const types: string[] = []
      await written(writers[name](provider.url), {
        signal: abort.signal,
        onChunk({ type }) {
          types.push(type)
          if (type === 'text-delta') abort.abort()
        },
      })
      expect(types.at(-1)).toBe('text-delta')
      expect(await (await asked).closed).toBe('aborted')
    },
  )

  test('is whole although one character was cut between two packets', async () => {
    provider.script([{ text: 'Grüße, ' }, { cut: '世界 🌍' }, { text: '!' }])
    const { chunks, error } = await written(writers[name](provider.url))
    expect(error).toBeUndefined()
    expect(deltasOf(chunks)).toBe('Grüße, 世界 🌍!')
  })

  test('is whole where the provider reports no usage', async () => {
    provider.script([{ text: 'Hi' }, { usage: null }])
    const { chunks, usage } = await written(writers[name](provider.url))
    expect(chunks.at(-1)).toEqual({ type: 'finish', finishReason: 'stop' })
    expect(usage.map(({ inputTokens, outputTokens }) => ({ inputTokens, outputTokens }))).toEqual(
      usage.map(() => ({ inputTokens: undefined, outputTokens: undefined })),
    )
  })

  test('counts the last usage where the provider reports it twice (I12)', async () => {
    const first = { inputTokens: 10, outputTokens: 1 }
    provider.script([{ text: 'Hi' }, { usage: first }, { usage: { ...first, outputTokens: 9 } }])
    const { usage } = await written(writers[name](provider.url))
    expect(usage).toMatchObject([{ inputTokens: 10, outputTokens: 9 }])
  })
})

describe.each(['openai', 'anthropic'] as const)('a reply written with %s', (name) => {
  test('is whole where the connection breaks off after the reason to finish', async () => {
    const last =
      name === 'openai'
        ? 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
        : 'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'
    provider.script([{ text: 'All' }, { raw: last }, { pauseMs: 20 }, { destroy: true }])
    const { chunks, error } = await written(writers[name](provider.url))
    expect(error).toBeUndefined()
    expect(chunks.at(-1)).toEqual({ type: 'finish', finishReason: 'stop' })
  })

  test('is whole where the connection stays open after the last event', async () => {
    const last =
      name === 'openai'
        ? 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        : 'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\ndata: {"type":"message_stop"}\n\n'
    provider.script([{ text: 'All' }, { raw: last }, { hang: true }])
    const { chunks, error } = await written(writers[name](provider.url))
    expect(error).toBeUndefined()
    expect(chunks.at(-1)).toEqual({ type: 'finish', finishReason: 'stop' })
  })

  test('that nobody reads to its end is closed at the provider', async () => {
    provider.script([half, { hang: true }])
    const asked = provider.nextRequest()
    const chunks = writers[name](provider.url)(contextFor()) as AsyncIterable<Chunk[]>
    for await (const read of chunks) if (read.some(({ type }) => type === 'text-delta')) break
    expect(await (await asked).closed).toBe('aborted')
  })

  test('is whole although its reader is much slower than the provider', async () => {
    const sent = Array.from({ length: 4_000 }, (_, index) => `${index} `)
    provider.script(sent.map((text) => ({ text })))
    const { chunks } = await written(writers[name](provider.url), {
      onChunk: () => new Promise((resolve) => setImmediate(resolve)),
    })
    expect(deltasOf(chunks)).toBe(sent.join(''))
  })

  test('is the same for an app that goes through its chunks itself', async () => {
    provider.script([{ reasoning: 'Hm. ' }, { text: 'Grüße, ' }, { cut: '世界 🌍' }])
    const inner = writers[name](provider.url)
    const direct = await written(inner)
    const wrapped = await written(async function* (context) {
      yield* (await inner(context)) as AsyncIterable<Chunk[]>
    })
    expect(wrapped).toEqual(direct)
    expect(direct.error).toBeUndefined()
  })

  test('that fails is closed at the provider', async () => {
    provider.script([half, { raw: 'data: not JSON\n\n' }, { hang: true }])
    const asked = provider.nextRequest()
    expect((await written(writers[name](provider.url))).error).toMatchObject({ code: 'provider_truncated' })
    expect(await (await asked).closed).toBe('aborted')
  })

  test('ends with provider_truncated after an event without end', async () => {
    provider.script([{ raw: `data: ${'x'.repeat(1_100_000)}` }, { hang: true }])
    expect((await written(writers[name](provider.url))).error).toMatchObject({ code: 'provider_truncated' })
  })
})
