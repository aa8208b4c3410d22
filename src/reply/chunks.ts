import type { Chunk } from '../core/chunk.ts'
import { ReplyError } from '../core/errors.ts'
import type { StepUsage } from '../core/message.ts'
import { aborted, abortRace } from './abort-race.ts'
import { classify } from './classify.ts'
import type { Reply, ReplyContext, StreamTextPart, StreamTextResult } from './reply.ts'

/**
 * Turns whatever a reply is into AI SDK UI message chunks: first `start` with the reply's id, last `finish`.
 *
 * Only an explicit finish is a success, because a stream that breaks off and one that ends look alike: a stream of
 * chunks must have a `finish`, and `streamText` must have finished for a reason that a provider gave. Everything else
 * throws a `ReplyError`. When the signal aborts, the source is told and the chunks just end, without `finish`, even if
 * the source hangs. Chunks are passed on as they came: not cloned, not validated, not parsed again.
 */
export async function* replyChunks(reply: Reply, context: ReplyContext): AsyncGenerator<Chunk, void, undefined> {
  const race = abortRace(context.signal)
  let source: Source | undefined
  try {
    const opened = await race.wait(openSource(reply, context))
    if (opened === aborted) return
    source = opened
    let form: Form | undefined
    for (;;) {
      const next = await race.wait(source.next())
      if (next === aborted) return
      if (next.done) break
      form ??= formOf(next.value, source, context.replyId)
      for (const chunk of form.piece(next.value)) yield chunk
    }
    source = undefined
    if (form === undefined) throw new ReplyError('provider_truncated', 'The reply ended without a single piece.')
    for (const chunk of form.end()) yield chunk
  } catch (error) {
    if (context.signal.aborted) return
    throw classify(error)
  } finally {
    race.end()
    source?.cancel()
  }
}

/** Where the pieces come from. `cancel` tells it that nobody reads on, and does not wait for it. */
type Source = {
  next(): Promise<{ done?: boolean; value?: unknown }>
  cancel(): void
  notes?: StreamTextNotes
}

async function openSource(reply: Reply, context: ReplyContext): Promise<Source> {
  const value: unknown = await reply(context)
  if (typeof value === 'string') return iteratorSource(oneString(value))
  if (isStreamTextResult(value)) return streamTextSource(value, context)
  return streamSource(value) ?? unsupported(value)
}

function streamSource(value: unknown): Source | undefined {
  if (isReadableStream(value)) return readerSource(value)
  if (isAsyncIterable(value)) return iteratorSource(value[Symbol.asyncIterator]())
  return undefined
}

async function* oneString(text: string) {
  yield text
}

function iteratorSource(iterator: AsyncIterator<unknown>): Source {
  return {
    next: () => iterator.next(),
    cancel: () => unheard(iterator.return?.()),
  }
}

function readerSource(stream: ReadableStream<unknown>): Source {
  const reader = stream.getReader()
  return {
    next: () => reader.read(),
    cancel: () => unheard(reader.cancel()),
  }
}

/** A source that is told to end may hang or fail in its own clean-up; the attempt is over and neither matters. */
function unheard(work: Promise<unknown> | undefined): void {
  work?.catch(() => undefined)
}

/** What the parts of `streamText` tell beyond their chunks. */
type StreamTextNotes = {
  /** The first `error` part's raw error; its chunk has only a text. */
  failure?: { error: unknown }
  finish?: StreamTextPart
}

function streamTextSource(result: StreamTextResult, context: ReplyContext): Source {
  const notes: StreamTextNotes = {}
  const stream = result.toUIMessageStream({
    generateMessageId: () => context.replyId,
    originalMessages: context.messages,
    // The SDK's own default, said aloud: a failed tool's text goes to people, and the tool's errors may hold secrets.
    onError: () => 'An error occurred.',
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

/** How pieces of one kind become chunks. Both throw a `ReplyError` where the reply cannot be a success any more. */
type Form = { piece(piece: unknown): Chunk[]; end(): Chunk[] }

function formOf(first: unknown, source: Source, replyId: string): Form {
  return typeof first === 'string' ? textForm(replyId) : chunkForm(replyId, source.notes)
}

const textId = 'text'

function textForm(replyId: string): Form {
  let begun = false
  return {
    piece(piece) {
      if (typeof piece !== 'string') return unsupported(piece)
      const delta: Chunk[] = piece === '' ? [] : [{ type: 'text-delta', id: textId, delta: piece }]
      if (begun) return delta
      begun = true
      const opening: Chunk[] = [
        { type: 'start', messageId: replyId },
        { type: 'start-step' },
        { type: 'text-start', id: textId },
      ]
      return [...opening, ...delta]
    },
    end: () => [{ type: 'text-end', id: textId }, { type: 'finish-step' }, { type: 'finish', finishReason: 'stop' }],
  }
}

/** `finish` is held back until the stream has ended: what the app adds after it still belongs to the reply. */
function chunkForm(replyId: string, notes: StreamTextNotes | undefined): Form {
  let begun = false
  let finish: FinishChunk | undefined
  const startOrMetadata = ({ messageMetadata }: StartChunk): Chunk[] => {
    if (begun) return messageMetadata === undefined ? [] : [{ type: 'message-metadata', messageMetadata }]
    begun = true
    return [{ type: 'start', messageId: replyId, ...(messageMetadata === undefined ? {} : { messageMetadata }) }]
  }
  return {
    piece(piece) {
      const chunk = asChunk(piece)
      if (chunk.type === 'start') return startOrMetadata(chunk)
      if (chunk.type === 'error') throw failureOf(chunk.errorText, notes)
      if (chunk.type === 'abort') throw new ReplyError('provider_truncated', 'The reply was aborted by its source.')
      if (chunk.type === 'finish') {
        finish = chunk
        return []
      }
      return begun ? [chunk] : [...startOrMetadata({ type: 'start' }), chunk]
    },
    end() {
      if (finish === undefined || !isSuccess(finish, notes)) throw truncated(finish)
      return begun ? [finish] : [...startOrMetadata({ type: 'start' }), finish]
    },
  }
}

type StartChunk = Extract<Chunk, { type: 'start' }>
type FinishChunk = Extract<Chunk, { type: 'finish' }>

const reasonsOfSuccess = new Set(['stop', 'length', 'content-filter', 'tool-calls'])

/**
 * A provider that just ends looks like `other` without a raw reason. Only `streamText`'s parts tell the raw one, so in
 * a bare stream of chunks `other` is never believed; `finish` without a reason is the app's own word.
 */
function isSuccess(finish: FinishChunk, notes: StreamTextNotes | undefined): boolean {
  const reason = notes?.finish?.finishReason ?? finish.finishReason
  if (reason === undefined) return notes === undefined
  return reasonsOfSuccess.has(reason) || (reason === 'other' && notes?.finish?.rawFinishReason !== undefined)
}

function truncated(finish: FinishChunk | undefined): ReplyError {
  const how = finish === undefined ? 'without a finish chunk' : `with finish reason ${finish.finishReason ?? 'unknown'}`
  return new ReplyError('provider_truncated', `The reply's stream ended ${how}.`)
}

/** An error that only exists as a text or a plain object was sent by the provider in the middle of its answer. */
function failureOf(errorText: string, notes: StreamTextNotes | undefined): ReplyError {
  const raw = notes?.failure === undefined ? { message: errorText } : notes.failure.error
  return classify(raw, raw instanceof Error ? 'internal' : 'provider_truncated')
}

function asChunk(piece: unknown): Chunk {
  if (typeof piece !== 'object' || piece === null || typeof (piece as { type?: unknown }).type !== 'string') {
    return unsupported(piece)
  }
  return piece as Chunk
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

function isReadableStream(value: unknown): value is ReadableStream<unknown> {
  return typeof (value as ReadableStream | null | undefined)?.getReader === 'function'
}

function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof (value as AsyncIterable<unknown> | null | undefined)?.[Symbol.asyncIterator] === 'function'
}
