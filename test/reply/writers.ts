import { createAnthropic as createAnthropic6 } from '@ai-sdk/anthropic'
import { createOpenAI as createOpenAI6 } from '@ai-sdk/openai'
import { createOpenAICompatible as createOpenAICompatible6 } from '@ai-sdk/openai-compatible'
import {
  convertToModelMessages as convert6,
  type LanguageModel as Model6,
  jsonSchema as schema6,
  streamText as streamText6,
  tool as tool6,
} from 'ai'
import {
  convertToModelMessages as convert7,
  type LanguageModel as Model7,
  jsonSchema as schema7,
  streamText as streamText7,
  tool as tool7,
} from 'ai7'
import { createAnthropic as createAnthropic7 } from 'anthropic7'
import { createOpenAICompatible as createOpenAICompatible7 } from 'openai-compatible7'
import { createOpenAI as createOpenAI7 } from 'openai7'
import { anthropic } from '../../src/adapters/anthropic.ts'
import { openai } from '../../src/adapters/openai.ts'
import type { Chunk } from '../../src/core/chunk.ts'
import type { StepUsage } from '../../src/core/message.ts'
import { readReply, type Take } from '../../src/reply/chunks.ts'
import type { UserOrAssistantMessage } from '../../src/reply/message.ts'
import type { Reply, ReplyContext } from '../../src/reply/reply.ts'

// Said for each request: that the stub's model is unknown, so that its limit is a guess.
Object.assign(globalThis, { AI_SDK_LOG_WARNINGS: false })

const id = 'stub-1'
const settings = (url: string) => ({ baseURL: url, apiKey: 'k' })
const compatible = (url: string) => ({ ...settings(url), name: 'stub', includeUsage: true })

/**
 * The ways in which a reply comes from a provider, each for the provider's stub at `url`: two majors of the AI SDK on
 * four wires, and our readers, of which `openai` speaks chat completions with everybody. The SDKs know one tool.
 */
export const writers = {
  'AI SDK 6, compatible': (url: string) => ai6(createOpenAICompatible6(compatible(url)).chatModel(id)),
  'AI SDK 6, chat': (url: string) => ai6(createOpenAI6(settings(url)).chat(id)),
  'AI SDK 6, responses': (url: string) => ai6(createOpenAI6(settings(url)).responses(id)),
  'AI SDK 6, messages': (url: string) => ai6(createAnthropic6(settings(url))(id)),
  'AI SDK 7, compatible': (url: string) => ai7(createOpenAICompatible7(compatible(url)).chatModel(id)),
  'AI SDK 7, chat': (url: string) => ai7(createOpenAI7(settings(url)).chat(id)),
  'AI SDK 7, responses': (url: string) => ai7(createOpenAI7(settings(url)).responses(id)),
  'AI SDK 7, messages': (url: string) => ai7(createAnthropic7(settings(url))(id)),
  openai: (url: string) => openai({ model: id, apiKey: 'k', baseUrl: url }),
  anthropic: (url: string) => anthropic({ model: id, apiKey: 'k', baseUrl: url }),
} satisfies { [name: string]: (url: string) => Reply }

export type WriterName = keyof typeof writers
export const writerNames = Object.keys(writers) as WriterName[]

/** What is spoken with the provider. Those who are compatible with OpenAI speak chat completions. */
export type Wire = 'chat' | 'responses' | 'messages'

export function wireOf(name: WriterName): Wire {
  if (name === 'anthropic' || name.endsWith('messages')) return 'messages'
  return name.endsWith('responses') ? 'responses' : 'chat'
}

function ai6(model: Model6): Reply {
  const tools = { weather: tool6({ inputSchema: schema6<{ city: string }>({ type: 'object' }) }) }
  return async ({ messages, signal }) =>
    streamText6({ model, tools, messages: await convert6(messages), abortSignal: signal, maxRetries: 0, onError })
}

function ai7(model: Model7): Reply {
  const tools = { weather: tool7({ inputSchema: schema7<{ city: string }>({ type: 'object' }) }) }
  return async ({ messages, signal }) =>
    streamText7({ model, tools, messages: await convert7(messages), abortSignal: signal, maxRetries: 0, onError })
}

/** The SDK's own default prints every error. */
function onError(): undefined {
  return undefined
}

export const replyId = 'reply-1'

export function userMessage(text: string): UserOrAssistantMessage {
  return { id: 'user-1', role: 'user', parts: [{ type: 'text', text }] }
}

export function contextFor(given: Partial<ReplyContext> = {}): ReplyContext {
  const message = given.message ?? userMessage('Hello')
  return {
    messages: [message],
    message,
    session: { id: 'session-1', title: null, metadata: null },
    user: { id: 'ada', tenantId: 'default' },
    turn: { id: 'turn-1', round: 1, lane: 'main' },
    attempt: 1,
    stepsDone: 0,
    replyId,
    signal: new AbortController().signal,
    tools: (set) => set,
    steering: async () => [],
    usage: () => undefined,
    ...given,
  }
}

/** Takes one chunk after the other, and waits for what each makes. */
function eachChunk(on: (chunk: Chunk) => void | Promise<void>): Take {
  const rest = async (waits: Promise<void>, chunks: Chunk[]) => {
    await waits
    await take(chunks)
  }
  const take: Take = (chunks) => {
    for (const [at, chunk] of chunks.entries()) {
      const waits = on(chunk)
      if (waits) return rest(waits, chunks.slice(at + 1))
    }
    return null
  }
  return take
}

/** All that a reply gave until it ended or failed. `onChunk` is told each chunk as it comes. */
export async function written(
  reply: Reply,
  given: Partial<ReplyContext> & { onChunk?: (chunk: Chunk) => void | Promise<void> } = {},
) {
  const usage: StepUsage[] = []
  const chunks: Chunk[] = []
  const context = contextFor({ usage: (report) => usage.push(report), ...given })
  try {
    const take = eachChunk((chunk) => {
      chunks.push(chunk)
      return given.onChunk?.(chunk)
    })
    await readReply(reply, context, take)
    return { chunks, usage, error: undefined }
  } catch (error) {
    return { chunks, usage, error }
  }
}

export function deltasOf(chunks: Chunk[], type: 'text-delta' | 'reasoning-delta' = 'text-delta'): string {
  return chunks.map((chunk) => (chunk.type === type ? (chunk.delta as string) : '')).join('')
}
