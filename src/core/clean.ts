import type { Chunk } from './chunk.ts'
import { ReplyError } from './errors.ts'
import type { Json } from './json.ts'
import type { StepUsage } from './message.ts'
import { cleanText, isClean, NotPlain, plainJson } from './plain-json.ts'

/**
 * What a `reply` yields is made storable here, before anything sees it. Postgres refuses a NUL and half a surrogate
 * pair in `jsonb`, and one refused row would fail the flush of every turn, at every retry. So the text that is stored,
 * the text that is shown and the text that is folded are the same cleaned text.
 *
 * A provider may cut its stream between the two halves of an emoji. A delta's trailing high surrogate is therefore held
 * back and put before the next delta of the same text, reasoning or tool input. Every other lone surrogate, and every
 * NUL, becomes U+FFFD.
 *
 * And it is copied: an app that yields one object again and again, each time with another text, or goes on with what it
 * has yielded, would change what waits to be stored after it was folded.
 */
export type Cleaner = {
  /** Chunks to store in place of this one: usually a copy of it. Throws `ReplyError` for what JSON cannot carry at all. */
  clean(chunk: Chunk): Chunk[]
  /** What is still held back, as deltas. To be called when the reply's stream has ended, however it ended. */
  end(): Chunk[]
}

type Delta = Extract<Chunk, { type: 'text-delta' | 'reasoning-delta' | 'tool-input-delta' }>

export function createCleaner(): Cleaner {
  /** By kind and id: a delta of nothing but the high surrogate, which waits for its other half. */
  const held = new Map<string, Delta>()

  const take = (key: string): Chunk[] => {
    const half = held.get(key)
    return half !== undefined && held.delete(key) ? [cleanChunk(withText(half, '\uFFFD'))] : []
  }
  const end = () => [...held.keys()].flatMap(take)

  const cleanDelta = (delta: Delta): Chunk[] => {
    const key = keyOf(delta)
    const before = held.get(key)
    const text = (before === undefined ? '' : textIn(before)) + textIn(delta)
    const half = /[\uD800-\uDBFF]$/.exec(text)?.[0]
    if (half === undefined) held.delete(key)
    else held.set(key, onlyText(delta, half))
    if (before === undefined && half === undefined) return [cleanChunk(delta)]
    const rest = withText(delta, half === undefined ? text : text.slice(0, -1))
    const isNothing = textIn(rest) === '' && Object.keys(rest).length === 3
    return isNothing ? [] : [cleanChunk(rest)]
  }

  const clean = (chunk: Chunk): Chunk[] => {
    if (held.size === 0 && isFlatAndClean(chunk)) return [{ ...chunk }]
    if (isDelta(chunk)) return cleanDelta(chunk)
    const before = endsAll.has(chunk.type) ? end() : endedBy(chunk).flatMap(take)
    return [...before, cleanChunk(chunk)]
  }
  return { clean, end }
}

/** After these no delta of an open part may come (or the part is gone), so nothing can complete a held half. */
const endsAll: ReadonlySet<string> = new Set(['finish-step', 'reset-step', 'finish', 'abort', 'error'])

/** Which held half, if any, this chunk leaves without its other half. */
function endedBy(chunk: Chunk): string[] {
  switch (chunk.type) {
    case 'text-start':
    case 'text-end':
      return [`text-delta ${chunk.id}`]
    case 'reasoning-start':
    case 'reasoning-end':
      return [`reasoning-delta ${chunk.id}`]
    default:
      return 'toolCallId' in chunk ? [`tool-input-delta ${chunk.toolCallId}`] : []
  }
}

const isDelta = (chunk: Chunk): chunk is Delta =>
  chunk.type === 'text-delta' || chunk.type === 'reasoning-delta' || chunk.type === 'tool-input-delta'
const keyOf = (delta: Delta) => `${delta.type} ${delta.type === 'tool-input-delta' ? delta.toolCallId : delta.id}`
const textIn = (delta: Delta) => (delta.type === 'tool-input-delta' ? delta.inputTextDelta : delta.delta)
const withText = (delta: Delta, text: string): Delta =>
  delta.type === 'tool-input-delta' ? { ...delta, inputTextDelta: text } : { ...delta, delta: text }
const onlyText = (delta: Delta, text: string): Delta =>
  delta.type === 'tool-input-delta'
    ? { type: delta.type, toolCallId: delta.toolCallId, inputTextDelta: text }
    : { type: delta.type, id: delta.id, delta: text }

/** Nearly every chunk is a delta of three short strings: those pass without being looked up. */
function isFlatAndClean(chunk: Readonly<Record<string, unknown>>): boolean {
  for (const key in chunk) {
    const value = chunk[key]
    if (typeof value !== 'string' || !isClean(value) || !isClean(key)) return false
  }
  return true
}

function cleanChunk(chunk: Chunk): Chunk {
  // Only strings and what JSON cannot carry are changed, so a chunk stays a chunk.
  return storable(chunk, chunk.type) as Chunk
}

/**
 * A copy of the value as `JSON.stringify` would write it, with clean strings and keys.
 * A BigInt, which `JSON.stringify` refuses, becomes its digits. Throws `ReplyError` for cycles and absurd depths.
 */
export const cleanJson = (value: unknown): Json | undefined => storable(value, 'value')

function storable(value: unknown, where: string): Json | undefined {
  try {
    return plainJson(value, where)
  } catch (error) {
    if (error instanceof NotPlain) throw new ReplyError('internal', `${error.message}. Yield plain data.`)
    throw error
  }
}

/** More tokens than any step has. One report fits an `int`; what is added up is `bigint`. */
const tokensMax = 10_000_000

/**
 * A report as the ledger takes it: what is no count of tokens, or no text, is as if it had not been reported. One `1.5`
 * of a provider made every attempt's end unstorable, so that the reply was asked for four times and failed.
 */
export function cleanUsage(usage: StepUsage): StepUsage {
  return {
    provider: name(usage.provider),
    model: name(usage.model),
    inputTokens: count(usage.inputTokens),
    outputTokens: count(usage.outputTokens),
    cachedInputTokens: count(usage.cachedInputTokens),
    reasoningTokens: count(usage.reasoningTokens),
    finishReason: name(usage.finishReason),
  }
}

const name = (value: unknown) => (typeof value === 'string' ? cleanText(value) : undefined)
const count = (value: unknown) =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) <= tokensMax ? (value as number) : undefined
