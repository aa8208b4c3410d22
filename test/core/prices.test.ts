import { expect, test } from 'vitest'
import { costOf, type Prices, wrongPrices } from '../../src/core/prices.ts'

const prices: Prices = {
  m: { input: 0.15, output: '0.6', cachedInput: 0.075 },
  'p/m': { input: 3, output: 15, reasoning: 1e-7 },
}

test.each([
  [
    'what is not in the cache costs the input’s price',
    { model: 'm', inputTokens: 1000, cachedInputTokens: 400 },
    '0.00012',
  ],
  [
    'reasoning costs what output does where nothing else is said',
    { model: 'm', outputTokens: 3, reasoningTokens: 2 },
    '0.0000018',
  ],
  [
    'the provider’s model goes first',
    { provider: 'p', model: 'm', outputTokens: 1, reasoningTokens: 1 },
    '0.0000000000001',
  ],
  [
    'more of the part than of the whole is the whole',
    { model: 'm', inputTokens: 1, cachedInputTokens: 9 },
    '0.000000075',
  ],
  ['a model that nobody priced costs nobody knows what', { model: 'x', inputTokens: 1 }, null],
  ['a model with the name of something of every object is not priced', { model: 'constructor', inputTokens: 1 }, null],
  ['nothing reported costs nobody knows what', { model: 'm' }, null],
  ['no tokens cost nothing, whatever the model', { inputTokens: 0 }, '0'],
])('%s', (_, usage, cost) => {
  expect(costOf(prices, usage)).toBe(cost)
})

test('sums that floats get wrong are exact', () => {
  expect(costOf({ m: { input: 0.1, output: 0.2 } }, { model: 'm', inputTokens: 1, outputTokens: 1 })).toBe('0.0000003')
  const much = { model: 'm', inputTokens: 10_000_000, outputTokens: 9_999_999 }
  expect(costOf({ m: { input: '123456789.123456789012', output: 0 } }, much)).toBe('1234567891.23456789012')
})

test('a function is asked with what was used, and its answer is held to the same shape', () => {
  const usage = { provider: 'p', model: 'm', inputTokens: 2_000_000, outputTokens: 0 }
  const byLength: Prices = (_provider, _model, { inputTokens = 0 }) => ({ input: inputTokens > 1e6 ? 2 : 1, output: 0 })
  expect(costOf(byLength, usage)).toBe('4')
  expect(costOf(() => null, usage)).toBe(null)
  expect(() => costOf(() => ({ input: -1, output: 0 }), usage)).toThrow('prices().input: expected')
})

test.each([
  [3, ': expected an object of prices by model'],
  [{ m: 3 }, '["m"]: expected { input, output'],
  [{ m: { input: 1 } }, '["m"].output: expected what a million tokens cost'],
  [{ m: { input: 1, output: Number.NaN } }, '["m"].output: expected'],
  [{ m: { input: '1,5', output: 1 } }, '["m"].input: expected'],
  [{ m: { input: 1, output: 1, cached: 1 } }, '["m"].cached: there is no such price'],
])('%j is refused by name', (given, sentence) => {
  expect(wrongPrices(given)).toContain(sentence)
})
