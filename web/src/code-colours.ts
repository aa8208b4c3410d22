/**
 * Colours for code, in the coarse: comments, strings, numbers and words that most languages keep for themselves. A real
 * grammar for each language weighs some hundred kilobytes and, with Shiki, wants WebAssembly, which the page's policy
 * forbids. What is not known is left plain.
 */
export type Token = { kind: 'plain' | 'comment' | 'string' | 'number' | 'word'; at: number; text: string }

const words =
  'abstract and as async await begin bool break case catch char class const continue create def default del delete do elif else end enum except export extends extern false final finally fn for from func function if impl implements import in insert int interface into is lambda let match mod mut new nil None not null or package private protected pub public raise readonly return select self set static struct super switch then this throw trait True False true try type typeof undefined union unsafe update use using val values var void where while with yield'
const word = `\\b(?:${words.split(' ').join('|')})\\b`
const string = '"(?:[^"\\\\\\n]|\\\\.)*"?|\'(?:[^\'\\\\\\n]|\\\\.)*\'?|`(?:[^`\\\\]|\\\\.)*`?'
const number = '\\b\\d[\\w.]*'
const slashes = '//[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)'
const hashes = '#[^\\n]*'
const dashes = '--[^\\n]*'

const commentOf: { [language: string]: string } = {
  ...Object.fromEntries(
    'ts js tsx jsx typescript javascript json jsonc java c cpp cs go rust rs swift kotlin php css scss'
      .split(' ')
      .map((name) => [name, slashes]),
  ),
  ...Object.fromEntries('py python sh bash zsh shell yaml yml toml ruby rb'.split(' ').map((name) => [name, hashes])),
  sql: dashes,
  lua: dashes,
}

/** What stands behind so much has none. */
const coloursMax = 20_000
const stretchMin = 1_000

/** `at`: where the last one begins, which may still change. */
export type Stretches = {
  code: string
  language: string
  done: readonly (readonly Token[])[]
  at: number
  last: readonly Token[]
}
export const noStretches: Stretches = { code: '', language: '', done: [], at: 0, last: [] }

/**
 * The code in stretches of some lines. Goes on from what it was before, where it has grown since: those that are done stay
 * as they are. One ends with a line, where no sign is open that may end further on.
 */
export function stretchesOf(code: string, language: string, before: Stretches): Stretches {
  const isGrown = before.language === language && code.startsWith(before.code)
  const done = isGrown ? [...before.done] : []
  let at = isGrown ? before.at : 0
  const coloured = Math.max(at, coloursMax)
  const tokens = tokensOf(code.slice(at, coloured), language, at)
  if (code.length > coloured) tokens.push({ kind: 'plain', at: coloured, text: code.slice(coloured) })
  let last: Token[] = []
  for (let { kind, at: from, text } of tokens) {
    for (
      let end = endIn(kind, text, at + stretchMin - from);
      end > 0;
      end = endIn(kind, text, at + stretchMin - from)
    ) {
      done.push([...last, { kind, at: from, text: text.slice(0, end) }])
      last = []
      from += end
      at = from
      text = text.slice(end)
    }
    if (text !== '') last.push({ kind, at: from, text })
  }
  return { code, language, done, at, last }
}

/** Behind the first line that ends from there on; 0: none does. */
const endIn = (kind: Token['kind'], text: string, from: number) =>
  kind === 'plain' ? text.indexOf('\n', Math.max(0, from)) + 1 : 0

/** `start`: where in a longer one this code stands. */
function tokensOf(code: string, language: string, start: number): Token[] {
  const comment = Object.hasOwn(commentOf, language) ? commentOf[language] : undefined
  if (code === '') return []
  if (comment === undefined) return [{ kind: 'plain', at: start, text: code }]
  const pattern = new RegExp(`(?<comment>${comment})|(?<string>${string})|(?<number>${number})|(?<word>${word})`, 'g')
  const tokens: Token[] = []
  let at = 0
  for (const found of code.matchAll(pattern)) {
    if (found.index > at) tokens.push({ kind: 'plain', at: start + at, text: code.slice(at, found.index) })
    const [kind] = Object.entries(found.groups ?? {}).find(([, text]) => text !== undefined) ?? ['plain']
    tokens.push({ kind: kind as Token['kind'], at: start + found.index, text: found[0] })
    at = found.index + found[0].length
  }
  if (at < code.length) tokens.push({ kind: 'plain', at: start + at, text: code.slice(at) })
  return tokens
}
