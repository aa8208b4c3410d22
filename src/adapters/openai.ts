import type { Chunk } from '../core/chunk.ts'
import { ReplyError } from '../core/errors.ts'
import type { JsonObject } from '../core/json.ts'
import type { StepUsage } from '../core/message.ts'
import { classify } from '../reply/classify.ts'
import type { Reply } from '../reply/reply.ts'
import { openaiMessages } from './openai-messages.ts'
import { type ProviderEvent, type ProviderReading, providerChunks } from './provider-stream.ts'
import { StepWriter } from './step-writer.ts'

export type OpenAiOptions = {
  /** The model's name as the provider knows it. */
  model: string
  /** Sent as a bearer token. Absent: none is sent, as servers on one's own machine like it. */
  apiKey?: string
  /** Where `/chat/completions` is. Defaults to `https://api.openai.com/v1`; any compatible provider will do. */
  baseUrl?: string
  /** Instructions before the conversation. */
  system?: string
  /** Sent with every request, over the reader's own. */
  headers?: Record<string, string>
  /** Put into every request's body, over the reader's own fields: `temperature`, `tools`, … */
  body?: JsonObject
}

/**
 * A reply written by OpenAI's chat completions or by any provider that speaks like it, read with as little work per
 * token as possible: one step, whose tool calls are passed on and executed by nobody.
 *
 * ```ts
 * const reply = openai({ model: 'gpt-5-mini', apiKey: process.env.OPENAI_API_KEY })
 * ```
 */
export function openai(options: OpenAiOptions): Reply {
  const { model, apiKey, baseUrl = 'https://api.openai.com/v1', system, headers = {}, body = {} } = options
  const url = `${baseUrl.replace(/\/+$/, '')}/chat/completions`
  const authorization: Record<string, string> = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
  const fixed: JsonObject = { model, stream: true, stream_options: { include_usage: true } }
  return ({ messages, signal, usage }) => {
    const request = {
      url,
      headers: { ...authorization, ...headers },
      body: { ...fixed, messages: openaiMessages(messages, system), ...body },
      signal,
    }
    return providerChunks(request, new OpenAiReading(model), usage)
  }
}

/** Reasons in the words of OpenAI and of servers like it, to those of the AI SDK. `broken`: the reply is not whole. */
const reasons: Record<string, 'stop' | 'length' | 'content-filter' | 'tool-calls' | 'broken'> = {
  stop: 'stop',
  eos: 'stop',
  end_turn: 'stop',
  stop_sequence: 'stop',
  length: 'length',
  max_tokens: 'length',
  model_length: 'length',
  content_filter: 'content-filter',
  tool_calls: 'tool-calls',
  function_call: 'tool-calls',
  abort: 'broken',
  error: 'broken',
  insufficient_system_resource: 'broken',
}

type OpenAiEvent = {
  error?: unknown
  model?: string
  choices?: { delta?: OpenAiDelta | null; finish_reason?: string | null }[]
  usage?: OpenAiUsage | null
}
type OpenAiDelta = {
  content?: unknown
  refusal?: unknown
  reasoning_content?: unknown
  reasoning?: unknown
  tool_calls?: OpenAiToolCall[] | null
}
type OpenAiToolCall = { index?: number; id?: string; function?: { name?: string; arguments?: string } }
type OpenAiUsage = {
  prompt_tokens?: number
  completion_tokens?: number
  prompt_tokens_details?: { cached_tokens?: number } | null
  completion_tokens_details?: { reasoning_tokens?: number } | null
}

class OpenAiReading implements ProviderReading {
  private readonly writer = new StepWriter()
  private readonly tools: { id: string; name: string; input: string }[] = []
  private model: string
  private reported: OpenAiUsage | undefined
  private finishReason: string | undefined

  constructor(model: string) {
    this.model = model
  }

  get isFinished(): boolean {
    return this.finishReason !== undefined
  }

  event(data: ProviderEvent): Chunk[] {
    const event = data as OpenAiEvent
    if (event.error) throw classify(event.error, 'provider_truncated')
    if (event.model) this.model = event.model
    // Sent once at the end, or with every event: the last one counts.
    if (event.usage) this.reported = event.usage
    const choice = event.choices?.[0]
    if (choice?.delta) this.delta(choice.delta)
    if (choice?.finish_reason) this.finishReason = choice.finish_reason
    return this.writer.take()
  }

  private delta({ content, refusal, reasoning_content, reasoning, tool_calls }: OpenAiDelta): void {
    const thought = reasoning_content ?? reasoning
    if (isText(thought)) this.writer.delta('reasoning', thought)
    if (isText(content)) this.writer.delta('text', content)
    if (isText(refusal)) this.writer.delta('text', refusal)
    for (const call of tool_calls ?? []) this.toolCall(call)
  }

  /** Only the first delta of a call has its id and name. Some servers leave out the index. */
  private toolCall({ index, id, function: called }: OpenAiToolCall): void {
    const place = index ?? (id === undefined ? this.tools.length - 1 : this.tools.length)
    this.tools[place] ??= this.openTool(id ?? `call-${place}`, called?.name ?? '')
    const tool = this.tools[place]
    const delta = called?.arguments
    if (!isText(delta)) return
    tool.input += delta
    this.writer.toolDelta(tool.id, delta)
  }

  private openTool(id: string, name: string) {
    this.writer.openTool(id, name)
    return { id, name, input: '' }
  }

  end(): Chunk[] {
    if (this.finishReason === undefined) {
      throw new ReplyError('provider_truncated', "The provider's stream ended without a finish_reason.")
    }
    const reason = reasons[this.finishReason]
    if (reason === 'broken') {
      throw new ReplyError('provider_truncated', `The provider ended the reply with ${this.finishReason}.`)
    }
    for (const { id, name, input } of Object.values(this.tools)) this.writer.closeTool(id, name, input)
    this.writer.finish(reason)
    return this.writer.take()
  }

  usage(): StepUsage | undefined {
    if (this.reported === undefined) return undefined
    const { prompt_tokens, completion_tokens, prompt_tokens_details, completion_tokens_details } = this.reported
    return {
      provider: 'openai',
      model: this.model,
      inputTokens: prompt_tokens,
      outputTokens: completion_tokens,
      cachedInputTokens: prompt_tokens_details?.cached_tokens,
      reasoningTokens: completion_tokens_details?.reasoning_tokens,
      finishReason: this.finishReason && (reasons[this.finishReason] ?? 'other'),
    }
  }
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}
