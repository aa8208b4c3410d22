/**
 * A reply's markdown in sections that are read each by itself: what is finished is not read again while the last one
 * grows, and no section takes long to draw.
 */

const sectionMin = 200

/** A blank line, and behind it what begins a block of its own whatever stands before it. */
const border = /\n[ \t]*\n(?=[^\s>*+\-\d|<[:$~])/g
/** At the edge of the page it begins a block of code whatever stands before it. What it is called is taken as it stands. */
const opening = /^(`{3,}|~{3,})([^\n`\\&]*)\n/gm
const beginsWithCode = /^(?:[ \t]*\n)*(`{3,}|~{3,})([^\n`\\&]*)\n/
const fence = /^ {0,3}(`{3,}|~{3,})/gm
/** A footnote, or where a link leads that is told elsewhere: what is said so is for the whole text. */
const definition = /^ {0,3}\[[^\]\n]+\]:/m
export const isOneWhole = (text: string) => definition.test(text)

export type Sections = { text: string; done: readonly string[]; rest: string }
export const noSections: Sections = { text: '', done: [], rest: '' }

/** Goes on from what it was before, where the text has grown since. */
export function sectionsOf(text: string, before: Sections): Sections {
  const grown = before.text !== '' && text.startsWith(before.text) ? before : noSections
  const done = [...grown.done]
  let rest = grown.rest + text.slice(grown.text.length)
  for (;;) {
    const end = endOfFirst(rest)
    const first = end === null ? rest : rest.slice(0, end)
    if (!beginsWithCode.test(first) && isOneWhole(first)) return { text, done: [], rest: text }
    if (end === null) return { text, done, rest }
    done.push(first)
    rest = rest.slice(end)
  }
}

export type Code = { code: string; language: string }

/** Of a section that is one block of code and nothing else: it is not read as markdown, however long it grows. */
export function codeOf(section: string): Code | null {
  const opened = beginsWithCode.exec(section)
  if (opened === null) return null
  const closed = closingOf(section, opened)
  if (closed !== null && section.slice(closed.end).trim() !== '') return null
  const code = section.slice(opened[0].length, closed?.begin)
  return { code: code.replace(/\n$/, ''), language: opened[2]?.trim().split(/\s/)[0] ?? '' }
}

function endOfFirst(text: string): number | null {
  const code = beginsWithCode.exec(text)
  if (code !== null) {
    const closed = closingOf(text, code)
    // It may not be its end yet: more may come on its line.
    return closed === null || text[closed.end] !== '\n' ? null : closed.end + 1
  }
  const ends: number[] = []
  const block = firstOutside(text, opening, 0)
  if (block !== null) ends.push(block.index)
  const next = firstOutside(text, border, sectionMin)
  if (next !== null) ends.push(next.index + next[0].length)
  return ends.length === 0 ? null : Math.min(...ends)
}

function firstOutside(text: string, pattern: RegExp, from: number): RegExpExecArray | null {
  for (const found of text.matchAll(pattern)) {
    if (found.index >= from && !isInFence(text.slice(0, found.index))) return found
  }
  return null
}

/** Where the line is that ends a block of code. */
function closingOf(text: string, [opened, mark = '']: RegExpExecArray): { begin: number; end: number } | null {
  const closing = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}[ \\t]*$`, 'gm')
  closing.lastIndex = opened.length
  const found = closing.exec(text)
  return found && { begin: found.index, end: found.index + found[0].length }
}

function isInFence(text: string): boolean {
  let open: string | null = null
  for (const [, mark = ''] of text.matchAll(fence)) {
    if (open === null) open = mark
    else if (mark[0] === open[0] && mark.length >= open.length) open = null
  }
  return open !== null
}
