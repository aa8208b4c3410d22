import { isDeepStrictEqual } from 'node:util'
import { readUIMessageStream as read6 } from 'ai'
import { readUIMessageStream as read7 } from 'ai7'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Chunk, Part } from '../../src/core/chunk.ts'
import { createFold } from '../../src/core/fold.ts'
import type { JsonObject } from '../../src/core/json.ts'
import { type AiMajor, replySteps } from '../support/replies.ts'

type Content = { parts: Part[]; metadata: JsonObject | null }

const fold = (chunks: Chunk[], base?: Content): Content => {
  const folded = createFold(base)
  for (const chunk of chunks) expect(folded.push(chunk)).toBe(true)
  return { parts: folded.parts(), metadata: folded.metadata() }
}

/** What the SDK's own reader shows last. */
async function read(major: AiMajor, chunks: Chunk[], base?: Content): Promise<Content> {
  let last: unknown
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(structuredClone(chunk))
      controller.close()
    },
  })
  const message = base && { id: 'a1', role: 'assistant', ...structuredClone(base) }
  const readUIMessageStream = (major === 6 ? read6 : read7) as (options: object) => AsyncIterable<unknown>
  for await (const seen of readUIMessageStream({ stream, message, terminateOnError: true })) last = seen
  const { parts, metadata } = JSON.parse(JSON.stringify(last)) as { parts: Part[]; metadata?: JsonObject }
  return { parts: major === 6 ? parts.map(withInput) : parts, metadata: metadata ?? null }
}

/** Major 6 keeps the input that could not be read in `rawInput`, 7 in `input`. The fold follows 7. */
const withInput = (part: Part): Part => {
  const { rawInput, ...rest } = part
  return part.errorText === 'No such field.' && rawInput !== undefined ? { ...rest, input: rawInput } : part
}

function expectSame(folded: Content, shown: Content) {
  // isDeepStrictEqual is much faster than expect, which is asked only for its account of the difference.
  if (!isDeepStrictEqual(plain(folded), shown)) expect(plain(folded)).toEqual(shown)
}
const plain = <Value>(value: Value): Value => JSON.parse(JSON.stringify(value)) as Value

const majors: AiMajor[] = [6, 7]
const runs = { numRuns: 1_000 }

describe.each(majors)('a fold, beside AI SDK %i', (major) => {
  it('gives the message that the SDK shows', async () => {
    await fc.assert(
      fc.asyncProperty(replySteps(major), async (steps) => {
        expectSame(fold(steps.flat()), await read(major, steps.flat()))
      }),
      runs,
    )
  })

  it('continues a message cut between two steps as the SDK does', async () => {
    await fc.assert(
      fc.asyncProperty(replySteps(major), fc.nat(3), async (steps, cut) => {
        const base = fold(steps.slice(0, cut).flat())
        const rest = steps.slice(cut).flat()
        if (rest.length === 0) return
        const before = structuredClone(base)
        const end = fold(rest, base)
        expectSame(end, await read(major, rest, before))
        expect(isDeepStrictEqual(base, before)).toBe(true)
      }),
      runs,
    )
  })
})

describe('a fold', () => {
  const step: Chunk[] = [{ type: 'start-step' }, { type: 'text-start', id: 't' }]
  const delta = (text: string): Chunk => ({ type: 'text-delta', id: 't', delta: text })

  it('shows an open text as streaming and a closed one as done', () => {
    const folded = createFold()
    for (const chunk of [...step, delta('Hel'), delta('lo')]) folded.push(chunk)
    expect(folded.parts()).toEqual([{ type: 'step-start' }, { type: 'text', text: 'Hello', state: 'streaming' }])
    folded.push({ type: 'text-end', id: 't' })
    expect(folded.parts()[1]).toEqual({ type: 'text', text: 'Hello', state: 'done' })
  })

  it('ignores a chunk that has no place and says so', () => {
    const folded = createFold()
    const strays: Chunk[] = [
      delta('lost'),
      { type: 'reasoning-end', id: 't' },
      { type: 'tool-input-delta', toolCallId: 'c', inputTextDelta: '{' },
      { type: 'tool-output-available', toolCallId: 'c', output: 1 },
      { type: 'tool-output-denied', toolCallId: 'c' },
      { type: 'tool-approval-request', toolCallId: 'c', approvalId: 'p' },
      { type: 'tool-approval-response', approvalId: 'p', approved: true },
    ]
    expect(strays.map((chunk) => folded.push(chunk))).toEqual(strays.map(() => false))
    expect(folded.parts()).toEqual([])
  })

  it('passes over a chunk of a type that it does not know', () => {
    const folded = createFold()
    expect(folded.push({ type: 'hologram', id: 'h' } as unknown as Chunk)).toBe(true)
    expect(folded.parts()).toEqual([])
  })

  it('never changes parts that it has shown, and shows an unchanged part as the same object', () => {
    const folded = createFold()
    for (const chunk of [...step, delta('a')]) folded.push(chunk)
    const before = folded.parts()
    const copy = structuredClone(before)
    folded.push(delta('b'))
    expect(before).toEqual(copy)
    expect(folded.parts()[0]).toBe(before[0])
    expect(folded.parts()[1]).not.toBe(before[1])
  })

  it('forgets the unfinished step at a reset-step and keeps its marker', () => {
    const folded = createFold()
    for (const chunk of [...step, delta('first'), { type: 'text-end', id: 't' } as const]) folded.push(chunk)
    for (const chunk of [...step, delta('half'), { type: 'reset-step' } as const]) folded.push(chunk)
    expect(folded.push(delta('lost'))).toBe(false)
    expect(folded.parts().map((part) => part.text ?? part.type)).toEqual(['step-start', 'first', 'step-start'])
  })

  it('keeps an input clean that spells NULs and halves of pairs as escapes', () => {
    const folded = createFold()
    folded.push({ type: 'tool-input-start', toolCallId: 'c', toolName: 'write' })
    folded.push({ type: 'tool-input-delta', toolCallId: 'c', inputTextDelta: '{"a":"\\u0000\\ud83d' })
    expect(folded.parts()[0]?.input).toEqual({ a: '\uFFFD\uFFFD' })
  })

  it('takes each delta in the same time, however long the reply is', () => {
    const folded = createFold()
    for (const chunk of step) folded.push(chunk)
    folded.push({ type: 'tool-input-start', toolCallId: 'c', toolName: 'write' })
    folded.push({ type: 'tool-input-delta', toolCallId: 'c', inputTextDelta: '["' })
    for (let i = 0; i < 200_000; i++) {
      folded.push(delta('word '))
      folded.push({ type: 'tool-input-delta', toolCallId: 'c', inputTextDelta: 'word ' })
    }
    const [, text, call] = folded.parts()
    expect(text?.text).toHaveLength(1_000_000)
    expect(String(call?.input)).toHaveLength(1_000_000)
  }, 5_000)
})
