import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Chunk } from '../../src/core/chunk.ts'
import { cleanJson, createCleaner } from '../../src/core/clean.ts'
import { ReplyError } from '../../src/core/errors.ts'
import { cleanText } from '../../src/core/plain-json.ts'

/** Any UTF-16 unit, halves of pairs and NUL far more often than by chance. */
const unit = fc.oneof(
  fc.constantFrom('\0', 'a', 'é'),
  fc.integer({ min: 0xd800, max: 0xdfff }).map((code) => String.fromCharCode(code)),
  fc.integer({ min: 0, max: 0xffff }).map((code) => String.fromCharCode(code)),
)
const poison = fc.array(unit, { maxLength: 8 }).map((units) => units.join(''))
const runs = { numRuns: 2_000 }

const delta = (kind: string, id: string, text: string): Chunk =>
  kind === 'tool-input'
    ? { type: 'tool-input-delta', toolCallId: id, inputTextDelta: text }
    : { type: kind === 'text' ? 'text-delta' : 'reasoning-delta', id, delta: text }
const isFor = (chunk: Chunk, kind: string, id: string) =>
  chunk.type === `${kind}-delta` && ('toolCallId' in chunk ? chunk.toolCallId : 'id' in chunk && chunk.id) === id
const textIn = (chunk: Chunk) =>
  'delta' in chunk ? chunk.delta : 'inputTextDelta' in chunk ? chunk.inputTextDelta : ''

/** Every string and key in it, at every depth. */
const stringsIn = (value: unknown): string[] => {
  if (typeof value === 'string') return [value]
  if (typeof value !== 'object' || value === null) return []
  return Array.isArray(value) ? value.flatMap(stringsIn) : Object.entries(value).flatMap(stringsIn)
}
const isStorable = (value: unknown) => stringsIn(value).every((text) => text.isWellFormed() && !text.includes('\0'))

describe('the cleaner', () => {
  it('gives for deltas cut anywhere what it gives for the whole text', () => {
    const kinds = fc.constantFrom('text', 'reasoning', 'tool-input')
    const deltas = fc.array(fc.record({ kind: kinds, id: fc.constantFrom('a', 'b'), text: poison }), { maxLength: 12 })
    fc.assert(
      fc.property(deltas, (written) => {
        const cleaner = createCleaner()
        const cleaned = written.flatMap(({ kind, id, text }) => cleaner.clean(delta(kind, id, text)))
        cleaned.push(...cleaner.end())
        expect(cleaned.every(isStorable)).toBe(true)
        for (const kind of ['text', 'reasoning', 'tool-input']) {
          for (const id of ['a', 'b']) {
            const whole = written.filter((one) => one.kind === kind && one.id === id).map((one) => one.text)
            const parts = cleaned.filter((chunk) => isFor(chunk, kind, id)).map(textIn)
            expect(parts.join('')).toBe(cleanText(whole.join('')))
          }
        }
      }),
      runs,
    )
  })

  it('makes of any value what JSON would, with text that Postgres takes', () => {
    const anything = fc.anything({
      key: poison,
      values: [poison, fc.double(), fc.bigInt(), fc.constant(undefined), fc.boolean(), fc.constant(null), fc.date()],
      withDate: true,
      withMap: true,
      withSparseArray: true,
      withNullPrototype: true,
    })
    fc.assert(
      fc.property(anything, (value) => {
        const digits = (_: string, some: unknown) => (typeof some === 'bigint' ? some.toString() : some)
        const json = JSON.stringify(value, digits)
        const cleaned = cleanJson(value)
        expect(isStorable(cleaned)).toBe(true)
        expect(JSON.stringify(cleaned)).toBe(json === undefined ? undefined : JSON.stringify(cleanedByHand(json)))
        expect(cleanJson(cleaned)).toEqual(cleaned)
      }),
      runs,
    )
  })

  it('puts the two halves of an emoji together', () => {
    const cleaner = createCleaner()
    const seen = ['Hi \uD83D', '\uDE00!'].flatMap((text) => cleaner.clean(delta('text', 't', text)))
    expect(seen).toEqual([delta('text', 't', 'Hi '), delta('text', 't', '😀!')])
    expect(cleaner.end()).toEqual([])
  })

  it('gives a half that is never completed as U+FFFD before its text ends', () => {
    const cleaner = createCleaner()
    expect(cleaner.clean(delta('text', 't', '\uD83D'))).toEqual([])
    expect(cleaner.clean({ type: 'text-end', id: 't' })).toEqual([
      delta('text', 't', '\uFFFD'),
      { type: 'text-end', id: 't' },
    ])
    cleaner.clean(delta('tool-input', 'c', '"\uD83D'))
    expect(cleaner.clean({ type: 'finish-step' })).toEqual([
      delta('tool-input', 'c', '\uFFFD'),
      { type: 'finish-step' },
    ])
    cleaner.clean(delta('tool-input', 'c', '"\uD83D'))
    expect(cleaner.end()).toEqual([delta('tool-input', 'c', '\uFFFD')])
  })

  it('gives an equal chunk if nothing is wrong with it, which the app cannot change afterwards (I6, I7)', () => {
    const chunks: Chunk[] = [
      delta('text', 't', 'Grüße 😀'),
      { type: 'text-delta', id: 't', delta: 'a', providerMetadata: { p: { list: [1, null, { b: true }] } } },
      { type: 'tool-output-available', toolCallId: 'c', output: { deep: [{ er: 'x' }] } },
    ]
    const cleaner = createCleaner()
    for (const chunk of chunks) {
      const [cleaned] = cleaner.clean(chunk)
      expect(cleaned).toEqual(chunk)
      const before = JSON.stringify(cleaned)
      overwrite(chunk)
      expect(JSON.stringify(cleaned)).toBe(before)
    }
  })

  it('keeps metadata that comes with nothing but half a pair', () => {
    const chunk: Chunk = { type: 'text-delta', id: 't', delta: '\uD83D', providerMetadata: { p: { a: 1 } } }
    expect(createCleaner().clean(chunk)).toEqual([{ ...chunk, delta: '' }])
  })

  it('refuses a value that holds itself, and names the chunk', () => {
    const output: Record<string, unknown> = {}
    output.self = [output, output]
    const chunk = { type: 'tool-output-available', toolCallId: 'c', output } as unknown as Chunk
    expect(() => createCleaner().clean(chunk)).toThrow(ReplyError)
    expect(() => createCleaner().clean(chunk)).toThrow('"tool-output-available" holds itself')
  })
})

/** Changes every value inside, at every depth. */
function overwrite(value: object): void {
  for (const [key, inner] of Object.entries(value)) {
    if (typeof inner === 'object' && inner !== null) overwrite(inner)
    Object.assign(value, { [key]: 10n })
  }
}

/** The same cleaning done the long way: on the JSON's own values, key by key. */
function cleanedByHand(json: string): unknown {
  const walk = (value: unknown): unknown => {
    if (typeof value === 'string') return cleanText(value)
    if (Array.isArray(value)) return value.map(walk)
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [cleanText(key), walk(one)]))
  }
  return walk(JSON.parse(json))
}
