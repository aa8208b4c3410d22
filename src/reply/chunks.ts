import type { Chunk } from '../core/chunk.ts'
import { ReplyError } from '../core/errors.ts'
import type { JsonObject } from '../core/json.ts'
import type { StepUsage } from '../core/message.ts'
import { aborted, abortRace } from './abort-race.ts'
import { classify } from './classify.ts'
import { type Pour, pour, type Reply, type ReplyContext, type StreamTextPart, type StreamTextResult } from './reply.ts'

/**
 * Takes chunks that came together. Null: more may be given at once. A promise: nothing more is given until it resolves,
 * and if it rejects, the reading ends with that error.
 */
export type Take = (chunks: Chunk[]) => Promise<void> | null

/**
 * Reads whatever a reply is as AI SDK UI message chunks: first `start` with the reply's id, last `finish`.
 *
 * Only an explicit finish is a success, because a stream that breaks off and one that ends look alike: a stream of
 * chunks must have a `finish`, and `streamText` must have finished for a reason that a provider gave. Everything else
 * rejects with a `ReplyError`. When the signal aborts, the source is told and the reading just ends, without `finish`,
 * even if the source hangs. Chunks are passed on as they came: not cloned, not validated, not parsed again.
 */
export async function readReply(reply: Reply, context: ReplyContext, take: Take): Promise<void> {
  const race = abortRace(context.signal)
  const taking = ownErrors(take)
  let source: Source | undefined
  try {
    const opened = await race.wait(openSource(reply, context))
    if (opened === aborted) return
    source = opened
    const form = createForm(context.replyId, source.notes)
    if ((await race.wait(source.pour((piece) => give(piece, form, taking.take)))) === aborted) return
    source = undefined
    await taking.take(form.end())
  } catch (error) {
    if (taking.failed()) throw error
    if (context.signal.aborted) return
    throw classify(error)
  } finally {
    race.end()
    source?.cancel()
  }
}

/** What the taker itself fails of is no error of the reply's. */
function ownErrors(take: Take): { take: Take; failed: () => boolean } {
  let failed = false
  const mark = (error: unknown): never => {
    failed = true
    throw error
  }
  return {
    take(chunks) {
      try {
        return take(chunks)?.catch(mark) ?? null
      } catch (error) {
        return mark(error)
      }
    },
    failed: () => failed,
  }
}

function give(piece: unknown, form: Form, take: Take): Promise<void> | null {
  const chunks: Chunk[] = []
  try {
    form.take(piece, chunks)
  } catch (error) {
    // What came before it is part of the reply that failed.
    if (chunks.length === 0) throw error
    return Promise.resolve(take(chunks)).then(() => Promise.reject(error))
  }
  return chunks.length > 0 ? take(chunks) : null
}

/** Where the pieces come from. `cancel` tells it that nobody takes any more, and does not wait for it. */
type Source = { pour: Pour; cancel(): void; notes?: StreamTextNotes }

async function openSource(reply: Reply, context: ReplyContext): Promise<Source> {
  const value: unknown = await reply(context)
  if (typeof value === 'string') return { pour: async (take) => void (await take(value)), cancel: () => undefined }
  if (isStreamTextResult(value)) return streamTextSource(value, context)
  return streamSource(value) ?? unsupported(value)
}

function streamSource(value: unknown): Source | undefined {
  if (isPourable(value)) return { pour: value[pour].bind(value), cancel: () => undefined }
  if (isReadableStream(value)) {
    const reader = value.getReader()
    return pulledSource(
      () => reader.read(),
      () => reader.cancel(),
    )
  }
  if (!isAsyncIterable(value)) return undefined
  const iterator = value[Symbol.asyncIterator]()
  return pulledSource(
    () => iterator.next(),
    () => iterator.return?.(),
  )
}

function pulledSource(
  next: () => Promise<{ done?: boolean; value?: unknown }>,
  cancel: () => Promise<unknown> | undefined,
): Source {
  let cancelled = false
  return {
    async pour(take) {
      for (;;) {
        const { done, value } = await next()
        if (done || cancelled) return
        const waits = take(value)
        if (waits) await waits
      }
    },
    cancel() {
      cancelled = true
      // It may hang or fail in its own clean-up; the attempt is over and neither matters.
      cancel()?.catch(() => undefined)
    },
  }
}

/** What the parts of `streamText` tell beyond their chunks. */
type StreamTextNotes = {
  /** The first `error` part's raw error; its chunk has only a text. */
  failure?: { error: unknown }
  /** What became a text last: where an app's own writing failed, there is no part. (A failed tool's does, too.) */
  told?: { error: unknown }
  finish?: StreamTextPart
}

function streamTextSource(result: StreamTextResult, context: ReplyContext): Source {
  const notes: StreamTextNotes = {}
  const stream = result.toUIMessageStream({
    generateMessageId: () => context.replyId,
    originalMessages: context.messages,
    // The SDK's own default, said aloud: a failed tool's text goes to people, and the tool's errors may hold secrets.
    onError: (error) => {
      notes.told = { error }
      return 'An error occurred.'
    },
    messageMetadata: ({ part }) => {
      if (part.type === 'finish-step') context.usage(stepUsageOf(part))
      if (part.type === 'finish') notes.finish = part
      if (part.type === 'error') notes.failure ??= { error: part.error }
      return undefined
    },
  })
  const source = streamSource(stream) ?? unsupported(stream)
  return { ...source, notes }
}

function stepUsageOf({ usage, response, finishReason }: StreamTextPart): StepUsage {
  return {
    model: response?.modelId,
    inputTokens: usage?.inputTokens,
    outputTokens: usage?.outputTokens,
    cachedInputTokens: usage?.inputTokenDetails?.cacheReadTokens,
    reasoningTokens: usage?.outputTokenDetails?.reasoningTokens,
    finishReason,
  }
}

/** How pieces become chunks. Both throw a `ReplyError` where the reply cannot be a success any more. */
type Form = { take(piece: unknown, into: Chunk[]): void; end(): Chunk[] }

/** The first piece tells which kind they are of. */
function createForm(replyId: string, notes: StreamTextNotes | undefined): Form {
  let form: Form | undefined
  return {
    take(piece, into) {
      form ??= typeof piece === 'string' ? textForm(replyId) : chunkForm(replyId, notes)
      form.take(piece, into)
    },
    end() {
      if (form === undefined) throw new ReplyError('provider_truncated', 'The reply ended without a single piece.')
      return form.end()
    },
  }
}

const textId = 'text'

function textForm(replyId: string): Form {
  let begun = false
  return {
    take(piece, into) {
      if (typeof piece !== 'string') unsupported(piece)
      if (!begun) {
        into.push({ type: 'start', messageId: replyId }, { type: 'start-step' }, { type: 'text-start', id: textId })
      }
      begun = true
      if (piece !== '') into.push({ type: 'text-delta', id: textId, delta: piece })
    },
    end: () => [{ type: 'text-end', id: textId }, { type: 'finish-step' }, { type: 'finish', finishReason: 'stop' }],
  }
}

/** `finish` is held back until the stream has ended: what the app adds after it still belongs to the reply. */
function chunkForm(replyId: string, notes: StreamTextNotes | undefined): Form {
  let begun = false
  let finish: FinishChunk | undefined
  const start = (messageMetadata: JsonObject | undefined, into: Chunk[]): void => {
    if (!begun) into.push({ type: 'start', messageId: replyId, ...(messageMetadata && { messageMetadata }) })
    else if (messageMetadata !== undefined) into.push({ type: 'message-metadata', messageMetadata })
    begun = true
  }
  const takeOne = (chunk: Chunk, into: Chunk[]): void => {
    switch (chunk.type) {
      case 'start':
        start(chunk.messageMetadata, into)
        return
      case 'error':
        throw failureOf(chunk.errorText, notes)
      case 'abort':
        throw new ReplyError('provider_truncated', 'The reply was aborted by its source.')
      case 'finish':
        finish = chunk
        return
      default:
        if (isTextless(chunk)) throw textless(chunk.type)
        if (!begun) start(undefined, into)
        into.push(chunk)
    }
  }
  return {
    take(piece, into) {
      if (!Array.isArray(piece)) takeOne(asChunk(piece), into)
      else for (const chunk of piece) takeOne(asChunk(chunk), into)
    },
    end() {
      if (finish === undefined || !isSuccess(finish, notes)) throw truncated(finish)
      if (isFiltered(finish, notes)) {
        throw new ReplyError('content_filtered', 'The provider ended the reply by its content filter.')
      }
      const last: Chunk[] = []
      if (!begun) start(undefined, last)
      return [...last, finish]
    },
  }
}

type FinishChunk = Extract<Chunk, { type: 'finish' }>

const reasonsOfSuccess = new Set(['stop', 'length', 'content-filter', 'tool-calls'])

/**
 * A provider that just ends looks like `other` without a raw reason. Only `streamText`'s parts tell the raw one, so
 * without them `other` is never believed; `finish` without a reason is then the app's own word.
 */
function isSuccess(finish: FinishChunk, notes: StreamTextNotes | undefined): boolean {
  const reason = notes?.finish?.finishReason ?? finish.finishReason
  if (reason === undefined) return notes?.finish === undefined
  return reasonsOfSuccess.has(reason) || (reason === 'other' && notes?.finish?.rawFinishReason !== undefined)
}

/**
 * What a filter let pass is no reply: the text breaks off anywhere. A model that declines in words of its own has
 * written one; `streamText` calls both `content-filter`, and only the raw reason tells them apart.
 */
function isFiltered(finish: FinishChunk, notes: StreamTextNotes | undefined): boolean {
  const raw = notes?.finish?.rawFinishReason
  const inWords = notes !== undefined && (raw === undefined || raw === 'stop')
  return finish.finishReason === 'content-filter' && !inWords
}

function truncated(finish: FinishChunk | undefined): ReplyError {
  const how = finish === undefined ? 'without a finish chunk' : `with finish reason ${finish.finishReason ?? 'unknown'}`
  return new ReplyError('provider_truncated', `The reply's stream ended ${how}.`)
}

/** An error that only exists as a text or a plain object was sent by the provider in the middle of its answer. */
function failureOf(errorText: string, notes: StreamTextNotes | undefined): ReplyError {
  const { error: raw } = notes?.failure ?? notes?.told ?? { error: { message: errorText } }
  return classify(raw, raw instanceof Error ? 'internal' : 'provider_truncated')
}

function asChunk(piece: unknown): Chunk {
  if (typeof piece !== 'object' || piece === null || typeof (piece as { type?: unknown }).type !== 'string') {
    return unsupported(piece)
  }
  return piece as Chunk
}

/** `fullStream` has parts of these types with other fields: taken as chunks, they would be a reply of "undefined". */
function isTextless(chunk: Chunk): boolean {
  switch (chunk.type) {
    case 'text-delta':
    case 'reasoning-delta':
      return typeof chunk.delta !== 'string'
    case 'tool-input-delta':
      return typeof chunk.inputTextDelta !== 'string'
    default:
      return false
  }
}

function textless(type: string): ReplyError {
  return new ReplyError(
    'internal',
    `A ${type} must have its text in delta (tool-input-delta: inputTextDelta), as UI message chunks have. Of streamText give the result itself, not its fullStream.`,
  )
}

function unsupported(value: unknown): never {
  const kind = typeof value === 'object' && value !== null ? (value.constructor?.name ?? 'object') : typeof value
  throw new ReplyError(
    'internal',
    `A reply must be a string, a stream of strings, a stream of AI SDK UI message chunks, or the result of streamText. It was or held a value of type ${kind}.`,
  )
}

function isStreamTextResult(value: unknown): value is StreamTextResult {
  return typeof (value as StreamTextResult | null | undefined)?.toUIMessageStream === 'function'
}

function isPourable(value: unknown): value is { [pour]: Pour } {
  return typeof (value as { [pour]?: unknown } | null | undefined)?.[pour] === 'function'
}

function isReadableStream(value: unknown): value is ReadableStream<unknown> {
  return typeof (value as ReadableStream | null | undefined)?.getReader === 'function'
}

function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof (value as AsyncIterable<unknown> | null | undefined)?.[Symbol.asyncIterator] === 'function'
}
