/** Parts of the app's own beside those of `streamText`: nothing that is known of the provider may be lost on the way. */
import { createOpenAICompatible as createOpenAICompatible6 } from '@ai-sdk/openai-compatible'
import {
  convertToModelMessages as convert6,
  createUIMessageStream as createStream6,
  streamText as streamText6,
} from 'ai'
import {
  convertToModelMessages as convert7,
  createUIMessageStream as createStream7,
  streamText as streamText7,
} from 'ai7'
import { createOpenAICompatible as createOpenAICompatible7 } from 'openai-compatible7'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createFold } from '../../src/core/fold.ts'
import type { Reply, UiStreamOptions } from '../../src/index.ts'
import { type Provider, startProvider } from '../support/provider.mjs'
import { replyId, written } from './writers.ts'

type Own = {
  /** The app's own writing fails with this. */
  fails?: unknown
  /** Answers without asking the model. */
  cached?: string
  metadata?: boolean
}

const settings = (url: string) => ({ baseURL: url, apiKey: 'k', name: 'stub', includeUsage: true })
const onError = (): undefined => undefined
const withMetadata = (options: UiStreamOptions): UiStreamOptions => ({
  ...options,
  messageMetadata: (at) => options.messageMetadata(at) ?? (at.part.type === 'start' ? { mine: true } : undefined),
})

const majors: { [name: string]: (url: string, own: Own) => Reply } = {
  'AI SDK 6'(url, { fails, cached, metadata }) {
    const model = createOpenAICompatible6(settings(url)).chatModel('stub-1')
    return ({ messages, signal }) => ({
      toUIMessageStream: (options) =>
        createStream6({
          onError: options.onError,
          execute: async ({ writer }) => {
            writer.write({ type: 'data-sources', data: ['a', 'b'] })
            if (fails !== undefined) throw fails
            if (cached !== undefined) {
              writer.write({ type: 'text-start', id: 't' })
              writer.write({ type: 'text-delta', id: 't', delta: cached })
              writer.write({ type: 'text-end', id: 't' })
              writer.write({ type: 'finish' })
              return
            }
            const prompt = await convert6(messages)
            const result = streamText6({ model, messages: prompt, abortSignal: signal, maxRetries: 0, onError })
            writer.merge(result.toUIMessageStream(metadata ? withMetadata(options) : options))
          },
        }),
    })
  },
  'AI SDK 7'(url, { fails, cached, metadata }) {
    const model = createOpenAICompatible7(settings(url)).chatModel('stub-1')
    return ({ messages, signal }) => ({
      toUIMessageStream: (options) =>
        createStream7({
          onError: options.onError,
          execute: async ({ writer }) => {
            writer.write({ type: 'data-sources', data: ['a', 'b'] })
            if (fails !== undefined) throw fails
            if (cached !== undefined) {
              writer.write({ type: 'text-start', id: 't' })
              writer.write({ type: 'text-delta', id: 't', delta: cached })
              writer.write({ type: 'text-end', id: 't' })
              writer.write({ type: 'finish' })
              return
            }
            const prompt = await convert7(messages)
            const result = streamText7({ model, messages: prompt, abortSignal: signal, maxRetries: 0, onError })
            writer.merge(result.toUIMessageStream(metadata ? withMetadata(options) : options))
          },
        }),
    })
  },
}

const sources = { type: 'data-sources', data: ['a', 'b'] }

describe.each(Object.keys(majors))("data parts beside those of %s's streamText", (name) => {
  let provider: Provider
  beforeAll(async () => {
    provider = await startProvider()
  })
  afterAll(() => provider.stop())

  const answered = async (own: Own = {}) => {
    const went = await written(majors[name]!(provider.url, own))
    const fold = createFold()
    for (const chunk of went.chunks) fold.push(chunk)
    return { ...went, parts: fold.parts(), metadata: fold.metadata() }
  }

  test('are part of the reply, whose usage is reported and whose id is the right one', async () => {
    provider.script([{ text: 'Hello' }])
    const { chunks, parts, usage, error } = await answered()
    expect(error).toBeUndefined()
    expect(chunks[0]).toEqual({ type: 'start', messageId: replyId })
    expect(parts).toEqual([sources, { type: 'step-start' }, expect.objectContaining({ type: 'text', text: 'Hello' })])
    expect(usage).toEqual([expect.objectContaining({ inputTokens: 11, outputTokens: 7, finishReason: 'stop' })])
  })

  test('leave room for metadata of the app, which is asked after ours', async () => {
    provider.script([{ text: 'Hello' }])
    const { metadata, usage } = await answered({ metadata: true })
    expect(metadata).toEqual({ mine: true })
    expect(usage).toHaveLength(1)
  })

  test.each([
    ['429 with Retry-After', [{ status: 429, headers: { 'retry-after': '7' } }], 'provider_rate_limited', 7_000],
    ['401', [{ status: 401 }], 'provider_auth', undefined],
    [
      'a socket that breaks off',
      [{ text: 'Hal' }, { pauseMs: 20 }, { destroy: true as const }],
      'provider_truncated',
      undefined,
    ],
    ['a stream that just ends', [{ text: 'Hal' }, { end: true as const }], 'provider_truncated', undefined],
  ])('keep what is known of %s', async (_, script, code, retryAfterMs) => {
    provider.script(script)
    const { error } = await answered()
    expect(error).toMatchObject({ name: 'ReplyError', code, retryAfterMs })
  })

  test("keep the app's own error, where it throws beside the model", async () => {
    expect((await answered({ fails: new TypeError('x is undefined') })).error).toMatchObject({ code: 'internal' })
    const refused = Object.assign(new Error('no'), { status: 429, headers: { 'retry-after': '3' } })
    expect((await answered({ fails: refused })).error).toMatchObject({
      code: 'provider_rate_limited',
      retryAfterMs: 3_000,
    })
  })

  test('may be all there is, with a finish of the app', async () => {
    const { parts, usage, error } = await answered({ cached: 'Known already.' })
    expect(error).toBeUndefined()
    expect(parts).toEqual([sources, { type: 'text', text: 'Known already.', state: 'done' }])
    expect(usage).toEqual([])
  })
})
