import fc from 'fast-check'
import { expect, it } from 'vitest'
import { canonicalJson } from '../../src/core/canonical.ts'
import type { Json } from '../../src/core/json.ts'

const anyJson = fc.jsonValue() as fc.Arbitrary<Json>

/** The same value with the keys of every object in another order. */
function reordered(value: Json): Json {
  if (Array.isArray(value)) return value.map(reordered)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, each]) => [key, reordered(each!)]),
  )
}

it('is JSON of the same value', () => {
  fc.assert(
    fc.property(anyJson, (value) => {
      const json = JSON.stringify(value)
      expect(JSON.parse(canonicalJson(JSON.parse(json) as Json))).toEqual(JSON.parse(json))
    }),
    { numRuns: 500 },
  )
})

it('is one text for equal values, whatever the order of their keys', () => {
  fc.assert(
    fc.property(anyJson, (value) => {
      expect(canonicalJson(reordered(value))).toBe(canonicalJson(value))
    }),
    { numRuns: 500 },
  )
  expect(canonicalJson({ b: [1, { d: null, c: 'x' }], a: true })).toBe('{"a":true,"b":[1,{"c":"x","d":null}]}')
})

it('is two texts for different values', () => {
  fc.assert(
    fc.property(anyJson, anyJson, (one, other) => {
      const same = JSON.stringify(JSON.parse(canonicalJson(one))) === JSON.stringify(JSON.parse(canonicalJson(other)))
      expect(canonicalJson(one) === canonicalJson(other)).toBe(same)
    }),
    { numRuns: 500 },
  )
  const values: Json[] = [[1, 2], [[1], 2], ['1', 2], '1,2', [1], 1, '1', {}, [], null, 'null', { a: 1 }, { a: '1' }]
  const texts = values.map((value) => canonicalJson(value))
  expect(new Set(texts).size).toBe(texts.length)
})

it('keeps a key named __proto__ apart', () => {
  expect(canonicalJson(JSON.parse('{"__proto__":{"a":1},"a":2}') as Json)).toBe('{"__proto__":{"a":1},"a":2}')
})
