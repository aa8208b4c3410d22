import type { Chunk } from '../core/chunk.ts'
import { ReplyError } from '../core/errors.ts'
import type { JsonObject } from '../core/json.ts'
import type { StepUsage } from '../core/message.ts'
import { classify } from '../reply/classify.ts'
import type { Reply } from '../reply/reply.ts'
import { anthropicMessages } from './anthropic-messages.ts'
import { type ProviderEvent, type ProviderReading, providerChunks } from './provider-stream.ts'
import { StepWriter } from './step-writer.ts'

export type AnthropicOptions = {
  /** The model's name as the provider knows it. */
  model: string
  apiKey?: string
  /** Where `/messages` is. Defaults to `https://api.anthropic.com/v1`. */
  baseUrl?: string
  /** Instructions before the conversation. */
  system?: string
  /** Sent with every request, over the reader's own. */
  headers?: Record<string, string>
  /** Put into every request's body, over the reader's own fields. `max_tokens` defaults to 8192. */
  body?: JsonObject
}

/**
 * A reply written by Anthropic's messages API, read with as little work per token as possible: one step, whose tool
 * calls are passed on and executed by nobody. The signature of its thinking is kept in `providerMetadata.anthropic`.
 *
 * ```ts
 * const reply = anthropic({ model: 'claude-sonnet-4-5', apiKey: process.env.ANTHROPIC_API_KEY })
 * ```
 */
export function anthropic(options: AnthropicOptions): Reply {
  const { model, apiKey, baseUrl = 'https://api.anthropic.com/v1', system, headers = {}, body = {} } = options
  const url = `${baseUrl.replace(/\/+$/, '')}/messages`
  const authorization: Record<string, string> = apiKey === undefined ? {} : { 'x-api-key': apiKey }
  const fixed: JsonObject = { model, stream: true, max_tokens: 8192, ...(system === undefined ? {} : { system }) }
  return ({ messages, signal, usage }) => {
    const lingering = new AbortController()
    const request = {
      url,
      headers: { 'anthropic-version': '2023-06-01', ...authorization, ...headers },
      body: { ...fixed, messages: anthropicMessages(messages), ...body },
      signal: AbortSignal.any([signal, lingering.signal]),
    }
    return providerChunks(request, new AnthropicReading(model, lingering), usage)
  }
}

/**
 * After `message_stop` nothing comes but the end of the answer, and the connection serves the next request. One that is
 * kept open is ended by us, so that no reply waits for it.
 */
const lingerMs = 500

/** Anthropic's stop reasons to the AI SDK's finish reasons. */
const reasons: Record<string, 'stop' | 'length' | 'content-filter' | 'tool-calls'> = {
  end_turn: 'stop',
  stop_sequence: 'stop',
  max_tokens: 'length',
  model_context_window_exceeded: 'length',
  tool_use: 'tool-calls',
  refusal: 'content-filter',
}

type AnthropicEvent =
  | { type: 'message_start'; message?: { model?: string; usage?: AnthropicUsage } }
  | { type: 'content_block_start'; content_block?: AnthropicBlock }
  | { type: 'content_block_delta'; delta?: AnthropicDelta }
  | { type: 'content_block_stop' }
  | { type: 'message_delta'; delta?: { stop_reason?: string | null }; usage?: AnthropicUsage }
  | { type: 'message_stop' }
  | { type: 'ping' }
  | { type: 'error'; error?: unknown }

type AnthropicBlock =
  | { type: 'text'; text?: string }
  | { type: 'thinking'; thinking?: string }
  | { type: 'redacted_thinking'; data: string }
  | { type: 'tool_use'; id: string; name: string }
type AnthropicDelta =
  | { type: 'text_delta'; text: string }
  | { type: 'thinking_delta'; thinking: string }
  | { type: 'signature_delta'; signature: string }
  | { type: 'input_json_delta'; partial_json: string }
type AnthropicUsage = {
  input_tokens?: number | null
  output_tokens?: number | null
  cache_creation_input_tokens?: number | null
  cache_read_input_tokens?: number | null
}

class AnthropicReading implements ProviderReading {
  private readonly writer = new StepWriter()
  private tool: { id: string; name: string; input: string } | undefined
  private thinking: JsonObject | undefined
  private model: string
  private reported: AnthropicUsage | undefined
  private stopReason: string | undefined
  private readonly lingering: AbortController
  private lingerTimer: NodeJS.Timeout | undefined

  /** Aborts `lingering` where the answer has no end although its last event has come. */
  constructor(model: string, lingering: AbortController) {
    this.model = model
    this.lingering = lingering
  }

  get isFinished(): boolean {
    return this.stopReason !== undefined
  }

  event(data: ProviderEvent): Chunk[] {
    const event = data as AnthropicEvent
    switch (event.type) {
      case 'message_start':
        this.model = event.message?.model ?? this.model
        this.report(event.message?.usage)
        break
      case 'content_block_start':
        this.openBlock(event.content_block)
        break
      case 'content_block_delta':
        this.delta(event.delta)
        break
      case 'content_block_stop':
        this.closeBlock()
        break
      case 'message_delta':
        this.report(event.usage)
        this.stopReason = event.delta?.stop_reason ?? this.stopReason
        break
      case 'message_stop':
        this.lingerTimer = setTimeout(() => this.lingering.abort(), lingerMs).unref()
        break
      case 'error':
        throw classify(event.error, 'provider_truncated')
      default: // `ping` and types yet unknown say nothing.
    }
    return this.writer.take()
  }

  /** Later numbers replace earlier ones: they are totals of the whole message. */
  private report(usage: AnthropicUsage | undefined): void {
    if (usage) this.reported = { ...this.reported, ...usage }
  }

  private openBlock(block: AnthropicBlock | undefined): void {
    if (block?.type === 'tool_use') {
      this.tool = { id: block.id, name: block.name, input: '' }
      this.writer.openTool(block.id, block.name)
    }
    if (block?.type === 'thinking' || block?.type === 'redacted_thinking') this.writer.openPart('reasoning')
    if (block?.type === 'redacted_thinking') this.thinking = { redactedData: block.data }
    if (block?.type === 'thinking' && block.thinking) this.writer.delta('reasoning', block.thinking)
    if (block?.type === 'text' && block.text) this.writer.delta('text', block.text)
  }

  private delta(delta: AnthropicDelta | undefined): void {
    if (delta?.type === 'text_delta' && delta.text) this.writer.delta('text', delta.text)
    if (delta?.type === 'thinking_delta' && delta.thinking) this.writer.delta('reasoning', delta.thinking)
    if (delta?.type === 'signature_delta') this.thinking = { signature: delta.signature }
    if (delta?.type === 'input_json_delta' && delta.partial_json) this.toolDelta(delta.partial_json)
  }

  private toolDelta(input: string): void {
    if (this.tool === undefined) return
    this.tool.input += input
    this.writer.toolDelta(this.tool.id, input)
  }

  private closeBlock(): void {
    if (this.tool !== undefined) this.writer.closeTool(this.tool.id, this.tool.name, this.tool.input)
    this.writer.closePart(this.thinking === undefined ? {} : { providerMetadata: { anthropic: this.thinking } })
    this.tool = undefined
    this.thinking = undefined
  }

  end(): Chunk[] {
    clearTimeout(this.lingerTimer)
    if (this.stopReason === undefined) {
      throw new ReplyError('provider_truncated', "The provider's stream ended without a stop_reason.")
    }
    this.writer.finish(reasons[this.stopReason])
    return this.writer.take()
  }

  /** Until the stop reason is known, the output's number is a first guess of the provider's and is left out. */
  usage(): StepUsage | undefined {
    if (this.reported === undefined) return undefined
    const { input_tokens, output_tokens, cache_creation_input_tokens, cache_read_input_tokens } = this.reported
    const inputs = [input_tokens, cache_creation_input_tokens, cache_read_input_tokens].filter(isNumber)
    return {
      provider: 'anthropic',
      model: this.model,
      inputTokens: inputs.length === 0 ? undefined : inputs.reduce((sum, tokens) => sum + tokens),
      outputTokens: this.isFinished ? (output_tokens ?? undefined) : undefined,
      cachedInputTokens: cache_read_input_tokens ?? undefined,
      finishReason: this.stopReason && (reasons[this.stopReason] ?? 'other'),
    }
  }
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number'
}
