/// <reference lib="es2024.string" />
/** Any value as JSON that Postgres stores: what is folded and shown is so, too, in the page as on the server. */
import type { Json } from './json.ts'

/** By code points, so that a surrogate that is found is a lone one. */
const unclean = /[\0\uD800-\uDFFF]/gu

/** The engine's own way is the fast one, and that of phones has none. */
export const isClean = (text: string) =>
  String.prototype.isWellFormed === undefined
    ? text.search(unclean) === -1
    : text.isWellFormed() && !text.includes('\0')

/** The same text with U+FFFD for each NUL and each lone surrogate. */
export const cleanText = (text: string) => (isClean(text) ? text : text.replace(unclean, '\uFFFD'))

/** Postgres parses JSON recursively and gives up at some thousands of levels; nothing sensible comes near this. */
const depthMax = 500

/** A value that JSON cannot carry. */
export class NotPlain extends Error {}

/**
 * A copy of the value as `JSON.stringify` would write it, with clean strings and keys. A BigInt becomes its digits. Throws
 * `NotPlain`, which says `where`, for cycles and absurd depths.
 */
export const plainJson = (value: unknown, where = 'value'): Json | undefined => cleanValue(value, 0, where)

function cleanValue(value: unknown, depth: number, where: string): Json | undefined {
  if (depth > depthMax) {
    throw new NotPlain(
      `"${where}" holds itself or is nested deeper than ${depthMax} levels, so it cannot be stored as JSON`,
    )
  }
  switch (typeof value) {
    case 'string':
      return cleanText(value)
    case 'number':
      return Number.isFinite(value) ? value + 0 : null
    case 'boolean':
      return value
    case 'bigint':
      return value.toString()
    case 'object':
      if (value === null) return null
      return Array.isArray(value) ? cleanArray(value, depth, where) : cleanObject(value, depth, where)
    default:
      return undefined
  }
}

function cleanArray(array: readonly unknown[], depth: number, where: string): Json[] {
  return Array.from(array, (item) => cleanValue(item, depth + 1, where) ?? null)
}

function cleanObject(object: object, depth: number, where: string): Json | undefined {
  if ('toJSON' in object && typeof object.toJSON === 'function') {
    return cleanValue(object.toJSON(''), depth + 1, where)
  }
  const entries = Object.entries(object).flatMap(([key, value]): [string, Json][] => {
    const clean = cleanValue(value, depth + 1, where)
    return clean === undefined ? [] : [[cleanText(key), clean]]
  })
  // Unlike an assignment it sets no prototype.
  return Object.fromEntries(entries)
}

/** The same of what `JSON.parse` answered, which the page's bundle has without all that other values need. Throws where it is too deep. */
export function cleanJson(value: Json, depth = 0): Json {
  if (depth > depthMax) throw new RangeError('nested too deeply')
  if (typeof value === 'string') return cleanText(value)
  if (typeof value === 'number') return Number.isFinite(value) ? value + 0 : null
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((each) => cleanJson(each, depth + 1))
  return Object.fromEntries(
    Object.entries(value).map(([key, each]) => [cleanText(key), cleanJson(each as Json, depth + 1)]),
  )
}
