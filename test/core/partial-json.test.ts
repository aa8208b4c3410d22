import { parsePartialJson as sdkParse } from 'ai'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { parsePartialJson } from '../../src/core/partial-json.ts'

/** Texts on which the SDK's repair is sound: it trips over exponents, `[-` and quotes inside keys. */
const word = fc.string({ unit: fc.constantFrom('a', ' ', 'é', '\n', '"', '\\', ',', ':', '{', ']') })
const value = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    fc.constantFrom(true, false, null),
    fc.integer({ min: 0, max: 1e6 }),
    fc.integer({ min: 0, max: 1e6 }).map((n) => n / 8),
    word,
    fc.array(tie('value'), { maxLength: 3 }),
    fc.dictionary(fc.stringMatching(/^[a-z ]{0,4}$/), tie('value'), { maxKeys: 3, noNullPrototype: true }),
  ),
})).value

it('reads a beginning of a JSON text as the SDK does', async () => {
  await fc.assert(
    fc.asyncProperty(value, fc.nat(), fc.boolean(), async (json, cut, isSpaced) => {
      const whole = JSON.stringify(json, null, isSpaced ? 2 : 0)
      const text = whole.slice(0, cut % (whole.length + 1))
      expect(parsePartialJson(text)).toEqual((await sdkParse(text)).value)
    }),
    { numRuns: 3_000 },
  )
})

it.each([
  ['', undefined],
  ['no', undefined],
  ['{"city":"Par', { city: 'Par' }],
  ['{"city":"Paris","da', { city: 'Paris' }],
  ['{"days":[1,2', { days: [1, 2] }],
  ['{"sure":tr', { sure: true }],
  ['{"cold":-', {}],
  ['{"far":1.5e', { far: 1.5 }],
  ['{"line":"a\\', { line: 'a' }],
  ['{"line":"a\\u00', { line: 'a' }],
  ['{"say \\"hi\\":":1', { 'say "hi":': 1 }],
  ['{"a":1} and so on', { a: 1 }],
])('reads %s', (text, said) => {
  expect(parsePartialJson(text)).toEqual(said)
})

it('shows input nested deeper than can be stored as nothing instead of breaking the fold', () => {
  expect(parsePartialJson('['.repeat(1_000))).toBeUndefined()
  expect(parsePartialJson(`${'['.repeat(1_000)}${']'.repeat(1_000)}`)).toBeUndefined()
})
