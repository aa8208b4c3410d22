import type { Json } from './json.ts'
import { cleanJson } from './plain-json.ts'

/**
 * What a beginning of a JSON text says so far: `{"city":"Par` is `{city: 'Par'}`. A string is kept as far as it goes, a
 * literal is completed, a number is kept up to its last digit, and a key without a value is left out. This is what the
 * AI SDK shows of a tool's input while the model still writes it. Undefined where nothing is said yet, or where the
 * text is no JSON. The result is clean, as all that is stored: the text may spell NULs and half pairs as escapes.
 */
export function parsePartialJson(text: string): Json | undefined {
  const whole = parsed(text)
  try {
    const value = whole === undefined ? parsed(repaired(text)) : whole
    return value === undefined ? undefined : cleanJson(value)
  } catch {
    // Nested deeper than can be stored: nobody is shown it, and folding goes on.
    return undefined
  }
}

function parsed(text: string): Json | undefined {
  try {
    return JSON.parse(text)
  } catch {
    // No JSON, or not yet: that is the answer.
    return undefined
  }
}

/** Strings (the last may lack its end), brackets, colons and commas, and runs of anything else but white space. */
const tokens = /"[^"\\]*(?:\\.?[^"\\]*)*"?|[{}[\],:]|[^\s{}[\],:"]+/gs

/** The longest beginning of the text that can be closed, closed. */
function repaired(text: string): string {
  const closers: string[] = []
  let kept = ''
  let isKey = false
  for (const { 0: token, index } of text.matchAll(tokens)) {
    const end = index + token.length
    if (token === '{' || token === '[') closers.push(token === '{' ? '}' : ']')
    if (token === '}' || token === ']') closers.pop()
    if (token === ':') isKey = false
    else if (token === ',' || token === '{') isKey = closers.at(-1) === '}'
    if (token === ',' || token === ':' || (isKey && token.startsWith('"'))) continue
    const value = end === text.length ? finished(token) : token
    if (value === undefined) break
    kept = text.slice(0, index) + value + [...closers].reverse().join('')
    if (closers.length === 0) break
  }
  return kept
}

/** The last token, as if the text ended well there; undefined if it says nothing yet. */
function finished(token: string): string | undefined {
  if (wholeString.test(token) || '{}[]'.includes(token)) return token
  if (token.startsWith('"')) return `${stringSoFar.exec(token)?.[0]}"`
  return ['true', 'false', 'null'].find((word) => word.startsWith(token)) ?? numberSoFar.exec(token)?.[0]
}

const wholeString = /^"[^"\\]*(?:\\.[^"\\]*)*"$/s
const stringSoFar = /^"[^\\]*(?:\\(?:u[0-9a-f]{4}|[^u])[^\\]*)*/i
const numberSoFar = /^-?\d+(?:\.\d+)?(?:e[+-]?\d+)?/i
