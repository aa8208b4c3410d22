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

const coloursMax = 20_000

export function tokensOf(code: string, language: string): Token[] {
  const comment = Object.hasOwn(commentOf, language) ? commentOf[language] : undefined
  if (comment === undefined || code.length > coloursMax) return [{ kind: 'plain', at: 0, text: code }]
  const pattern = new RegExp(`(?<comment>${comment})|(?<string>${string})|(?<number>${number})|(?<word>${word})`, 'g')
  const tokens: Token[] = []
  let at = 0
  for (const found of code.matchAll(pattern)) {
    if (found.index > at) tokens.push({ kind: 'plain', at, text: code.slice(at, found.index) })
    const [kind] = Object.entries(found.groups ?? {}).find(([, text]) => text !== undefined) ?? ['plain']
    tokens.push({ kind: kind as Token['kind'], at: found.index, text: found[0] })
    at = found.index + found[0].length
  }
  if (at < code.length) tokens.push({ kind: 'plain', at, text: code.slice(at) })
  return tokens
}
