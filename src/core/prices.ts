/** What a step costs, exactly: prices are decimal numbers per million tokens, in whatever currency the app counts in. */
import type { StepUsage } from './message.ts'

/** Per million tokens, each a number or a decimal text (`'0.075'`), at most 12 digits after the point. */
export type Price = {
  input: number | string
  output: number | string
  /** Of those input tokens that came from the provider's cache. Defaults to `input`. */
  cachedInput?: number | string
  /** Of those output tokens that were reasoning. Defaults to `output`. */
  reasoning?: number | string
}

/**
 * By the model as its provider names it, or `provider/model`, which goes first; or a function that answers the price of what
 * a step used, and null where it knows none.
 */
export type Prices =
  | { readonly [model: string]: Price }
  | ((provider: string | undefined, model: string | undefined, usage: StepUsage) => Price | null)

/** What is wrong with them, as the end of a sentence that begins with `prices`; null: nothing. */
export function wrongPrices(prices: unknown): string | null {
  if (typeof prices === 'function') return null
  if (typeof prices !== 'object' || prices === null || Array.isArray(prices)) {
    return ': expected an object of prices by model, or a function that answers one'
  }
  for (const [model, price] of Object.entries(prices)) {
    const wrong = wrongPrice(price)
    if (wrong !== null) return `["${model}"]${wrong}`
  }
  return null
}

const names = ['input', 'output', 'cachedInput', 'reasoning'] as const

function wrongPrice(price: unknown): string | null {
  if (typeof price !== 'object' || price === null) return ': expected { input, output, cachedInput?, reasoning? }'
  const unknown = Object.keys(price).find((name) => !(names as readonly string[]).includes(name))
  if (unknown !== undefined) return `.${unknown}: there is no such price, only ${names.join(', ')}`
  for (const name of names) {
    const value = (price as Record<string, unknown>)[name]
    if (value === undefined && name !== 'input' && name !== 'output') continue
    if (scaled(value) === null) {
      return `.${name}: expected what a million tokens cost, a number or a text like "0.075", not negative, with at most 12 digits after the point`
    }
  }
  return null
}

/**
 * A decimal number as text; null: no price is known of it, or no tokens were reported. Throws what the app's function throws,
 * and a TypeError where it answers no price.
 */
export function costOf(prices: Prices, usage: StepUsage): string | null {
  const { provider, model, inputTokens, outputTokens } = usage
  if (inputTokens === undefined && outputTokens === undefined) return null
  if (!inputTokens && !outputTokens) return '0'
  const price = typeof prices === 'function' ? prices(provider, model, usage) : listed(prices, provider, model)
  if (price === null) return null
  const wrong = wrongPrice(price)
  if (wrong !== null) throw new TypeError(`prices()${wrong}.`)
  const of = (name: (typeof names)[number], instead: 'input' | 'output') => scaled(price[name] ?? price[instead])!
  const [input, cached] = split(inputTokens ?? 0, usage.cachedInputTokens ?? 0)
  const [output, reasoning] = split(outputTokens ?? 0, usage.reasoningTokens ?? 0)
  return decimal(
    input * of('input', 'input') +
      cached * of('cachedInput', 'input') +
      output * of('output', 'output') +
      reasoning * of('reasoning', 'output'),
  )
}

function listed(prices: { readonly [model: string]: Price }, provider: string | undefined, model: string | undefined) {
  if (model === undefined) return null
  const name = [`${provider}/${model}`, model].find((each) => Object.hasOwn(prices, each))
  return name === undefined ? null : prices[name]!
}

/** Providers count the part within the whole. */
function split(whole: number, part: number): [bigint, bigint] {
  const counted = Math.min(whole, part)
  return [BigInt(whole - counted), BigInt(counted)]
}

const digits = 12

/** Times 10^12; null: no such number. */
function scaled(value: unknown): bigint | null {
  const text = typeof value === 'number' && Number.isFinite(value) ? plain(value) : value
  const match = typeof text === 'string' && /^(\d{1,15})(?:\.(\d{1,12}))?$/.exec(text)
  if (!match) return null
  return BigInt(match[1]! + (match[2] ?? '').padEnd(digits, '0'))
}

/** Without an exponent, as small numbers are written. */
function plain(value: number): string {
  const text = String(value)
  return text.includes('e') ? value.toFixed(digits).replace(/\.?0+$/, '') : text
}

/** Of units of 10^-18: a millionth of a price. */
function decimal(units: bigint): string {
  const text = units.toString().padStart(19, '0')
  return `${text.slice(0, -18)}.${text.slice(-18)}`.replace(/\.?0+$/, '')
}
