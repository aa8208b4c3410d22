/**
 * A reply's markdown in sections that are read each by itself: what is finished is not read again while the last one
 * grows, and no section takes long to draw.
 */

const sectionMin = 200

/** A blank line, and behind it what begins a block of its own whatever stands before it. */
const border = /\n[ \t]*\n(?=[^\s>*+\-\d|<[:$~])/g
const fence = /^ {0,3}(`{3,}|~{3,})/gm
/** A footnote, or where a link leads that is told elsewhere: what is said so is for the whole text. */
const definition = /^ {0,3}\[[^\]\n]+\]:/m
export const isOneWhole = (text: string) => definition.test(text)

export type Sections = { text: string; done: readonly string[]; rest: string }
export const noSections: Sections = { text: '', done: [], rest: '' }

/** Goes on from what it was before, where the text has grown since. */
export function sectionsOf(text: string, before: Sections): Sections {
  const grown = before.text !== '' && text.startsWith(before.text) ? before : noSections
  let rest = grown.rest + text.slice(grown.text.length)
  if (isOneWhole(rest)) return { text, done: [], rest: text }
  const done = [...grown.done]
  for (let at = endOfFirst(rest); at !== null; at = endOfFirst(rest)) {
    done.push(rest.slice(0, at))
    rest = rest.slice(at)
  }
  return { text, done, rest }
}

function endOfFirst(text: string): number | null {
  if (text.length < sectionMin) return null
  for (const { index, 0: found } of text.matchAll(border)) {
    if (index >= sectionMin && !isInFence(text.slice(0, index))) return index + found.length
  }
  return null
}

function isInFence(text: string): boolean {
  let open: string | null = null
  for (const [, mark = ''] of text.matchAll(fence)) {
    if (open === null) open = mark
    else if (mark[0] === open[0] && mark.length >= open.length) open = null
  }
  return open !== null
}
