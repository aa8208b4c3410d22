import type { Chunk } from '../core/chunk.ts'
import type { JsonObject } from '../core/json.ts'
import type { AnyTools } from '../core/known-part.ts'
import type { StepUsage } from '../core/message.ts'
import type { UserOrAssistantMessage } from './message.ts'
import type { WrapTools } from './tools.ts'

/**
 * The app's function that writes a reply: Holdfast calls it once per attempt, in the background, whoever is watching.
 *
 * ```ts
 * const reply: Reply = async ({ messages, signal }) =>
 *   streamText({ model, messages: await convertToModelMessages(messages), abortSignal: signal, maxRetries: 0 })
 * ```
 *
 * What it throws ends the attempt; a `ReplyError` says so with a code of its own, everything else is classified.
 */
export type Reply = (context: ReplyContext) => ReplyValue | Promise<ReplyValue>

export type ReplyContext = {
  /**
   * The conversation up to and including `message`, oldest first. What may follow is there after a takeover: the partial
   * assistant message with `replyId` where `stepsDone` is not 0, which holds the finished steps and is to be continued;
   * and what was handed over (`steering`), before it where one of its steps was told of it, else after it. Files that
   * users sent are `data:` URLs, of 24 MB together at most: the newest, and a line of text for each that was left out.
   */
  messages: UserOrAssistantMessage[]
  /** The user's message that is being answered. */
  message: UserOrAssistantMessage
  session: { id: string; title: string | null; metadata: JsonObject | null }
  user: { id: string; tenantId: string }
  /** `lane`: `main`, `user:ID`, or `private:ID`, where `messages` hold what nobody else is to be told. */
  turn: { id: string; round: number; lane: string }
  /** 1, 2, 3… over the whole life of the turn. */
  attempt: number
  /** How many steps were kept from an earlier attempt: its finished ones, and one whose tools had begun. */
  stepsDone: number
  /** The id of the assistant's message, the same for every attempt of a round. */
  replyId: string
  /**
   * Aborted when the attempt is over for any reason: stopped, timed out, taken over, failed, or finished. Pass it on to
   * whatever the reply waits for; a provider that is not told goes on writing, and billing.
   */
  signal: AbortSignal
  /** Makes tools run once, whatever dies: give `tools: tools(mine)` to `streamText`. */
  tools: WrapTools
  /**
   * Messages that were sent with `whenBusy: 'steer'` since the last call: this reply answers them, so they get none of
   * their own. To be called at a border of two steps; each is given once in an attempt, so the reply has to tell it to
   * every step from there on (`steerSteps` does for `streamText`), and in `messages` to the attempts after it. A reply
   * that never calls it leaves them to their own turns.
   */
  steering(): Promise<UserOrAssistantMessage[]>
  /**
   * Reports what one step used. AI SDK results and the readers of this package report by themselves. A reply whose
   * signal was aborted may report what it knows a moment after its stream has ended.
   */
  usage(report: StepUsage): void
}

/**
 * What a reply may be: a string; a stream of strings; a stream of AI SDK UI message chunks, one or several at a time,
 * which is complete only if it has a `finish` chunk; or the result of `streamText` (major 6 or 7), recognised by its
 * shape, which an app's own object may have (see `StreamTextResult`).
 */
export type ReplyValue =
  | string
  | AsyncIterable<string>
  | AsyncIterable<ReplyChunk | ReplyChunk[]>
  | ReadableStream<string>
  | ReadableStream<ReplyChunk | ReplyChunk[]>
  | StreamTextResult

/**
 * How the readers of this package give their chunks: by calling `take` with what each read of the socket brought, without
 * a promise for each token (which cost more than parsing it). Where `take` answers a promise, nothing more is given until
 * it resolves. Resolves at the provider's end; rejects where the reply failed, or with what `take` rejects with.
 */
export type Pour = (take: (piece: unknown) => Promise<void> | null) => Promise<void>
export const pour: unique symbol = Symbol.for('holdfast.pour')

/** A chunk of ours or of any version of the AI SDK, whose types differ in details that are never read. */
export type ReplyChunk = Chunk | { type: Chunk['type'] }

/**
 * As much of `streamText`'s result as is used; `ai` itself is never imported. An app that writes parts of its own beside
 * the model's answers an object of this shape, and passes the options on: by them Holdfast hears why the provider
 * failed, when it wants to be asked again, and what each step used, none of which is in the chunks.
 *
 * ```ts
 * const reply: Reply = ({ messages, signal }) => ({
 *   toUIMessageStream: (options) =>
 *     createUIMessageStream({
 *       onError: options.onError,
 *       execute: async ({ writer }) => {
 *         writer.write({ type: 'data-sources', data: await sourcesFor(messages) })
 *         const result = streamText({ model, messages: await convertToModelMessages(messages), abortSignal: signal, maxRetries: 0 })
 *         writer.merge(result.toUIMessageStream(options))
 *       },
 *     }),
 * })
 * ```
 *
 * With message metadata of its own: `{ ...options, messageMetadata: (at) => options.messageMetadata(at) ?? mine(at) }`.
 * Other options (`sendReasoning`, `sendSources`) may stand beside them. A stream without a model's finish needs a
 * `finish` chunk.
 */
export type StreamTextResult = {
  toUIMessageStream(options: UiStreamOptions): ReadableStream<unknown> | AsyncIterable<unknown>
}

/** The tools that `streamText` was given in this reply: what a client's types say of their calls. */
export type ToolsOf<R extends Reply> = ToolsOfResult<ToolResultOf<Awaited<ReturnType<R>>>>
type ToolResultOf<Value> = Value extends { readonly staticToolResults: PromiseLike<(infer Result)[]> } ? Result : never
type ToolsOfResult<Result> = [Result] extends [{ toolName: infer Name extends string; input: unknown; output: unknown }]
  ? string extends Name
    ? AnyTools
    : [Name] extends [never]
      ? AnyTools
      : { [Each in Result as NameOf<Each>]: CallOf<Each> }
  : AnyTools
type NameOf<Result> = Result extends { toolName: infer Name extends string } ? Name : never
type CallOf<Result> = Result extends { input: infer Input; output: infer Output }
  ? { input: Input; output: Output }
  : never

export type UiStreamOptions = {
  generateMessageId: () => string
  originalMessages: UserOrAssistantMessage[]
  /** Takes an error and answers the text for people. For `createUIMessageStream`, too. */
  onError: (error: unknown) => string
  /** To be called with every part of the model's stream. Answers undefined: Holdfast has no metadata of its own. */
  messageMetadata: (options: { part: StreamTextPart }) => JsonObject | undefined
}

/** As much of `TextStreamPart` as is read, in both majors. */
export type StreamTextPart = {
  type: string
  error?: unknown
  finishReason?: string
  rawFinishReason?: string
  response?: { modelId?: string }
  usage?: {
    inputTokens?: number
    outputTokens?: number
    inputTokenDetails?: { cacheReadTokens?: number }
    outputTokenDetails?: { reasoningTokens?: number }
  }
}
