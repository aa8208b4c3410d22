import fc from 'fast-check'
import { expect, it } from 'vitest'
import type { Chunk } from '../../src/core/chunk.ts'
import { createFold } from '../../src/core/fold.ts'
import { canJoin, join, joinDeltas } from '../../src/core/join.ts'
import { replySteps } from '../support/replies.ts'

const fold = (chunks: Chunk[]) => {
  const folded = createFold()
  for (const chunk of chunks) folded.push(chunk)
  return { parts: folded.parts(), metadata: folded.metadata() }
}
const text = (delta: string, more: object = {}): Chunk => ({ type: 'text-delta', id: 't', delta, ...more })

it('folds to the same message, joined or not', () => {
  fc.assert(
    fc.property(replySteps(7), (steps) => {
      const chunks = steps.flat()
      const before = structuredClone(chunks)
      const joined = joinDeltas(chunks)
      expect(fold(joined)).toEqual(fold(chunks))
      expect(chunks).toEqual(before)
      expect(joinDeltas(joined)).toEqual(joined)
    }),
    { numRuns: 1_000 },
  )
})

it('joins adjacent deltas of one text, reasoning or tool input', () => {
  const input = (inputTextDelta: string): Chunk => ({ type: 'tool-input-delta', toolCallId: 'c', inputTextDelta })
  const thought = (delta: string): Chunk => ({ type: 'reasoning-delta', id: 't', delta })
  expect(joinDeltas([text('a'), text('b'), thought('c'), thought('d'), input('{'), input('}'), text('e')])).toEqual([
    text('ab'),
    thought('cd'),
    input('{}'),
    text('e'),
  ])
})

it('keeps apart deltas of different ids and those that carry metadata of their own', () => {
  const metadata = { providerMetadata: { p: { a: 1 } } }
  expect(canJoin(text('a'), { type: 'text-delta', id: 'u', delta: 'b' })).toBe(false)
  expect(canJoin(text('a'), text('b', metadata))).toBe(false)
  expect(canJoin({ type: 'text-start', id: 't' }, text('a'))).toBe(false)
  expect(join(text('a', metadata), text('b'))).toEqual(text('ab', metadata))
})

it('refuses to join what cannot be joined', () => {
  expect(() => join({ type: 'start-step' }, text('a'))).toThrow('Ask canJoin first')
})
