/** What a reply says, in sections and stretches of code: of what has come only what may still change is read again. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { noStretches, stretchesOf } from '../../web/src/code-colours.ts'
import { codeOf, noSections, sectionsOf } from '../../web/src/sections.ts'

test('a text in sections is the same text, each finished one as it was while it grows, and no fence is cut', () => {
  const block = '```ts\nconst a = 1\n\nconst b = 2\n```\n\n'
  const text = Array.from({ length: 60 }, (_, at) => `A paragraph ${at} of words.\n\n${block}- one\n\n  two\n\n`).join(
    '',
  )
  let sections = noSections
  let before = noSections
  for (let end = 1; end <= text.length; end += 7) {
    before = sections
    sections = sectionsOf(text.slice(0, end), before)
    expect([...sections.done, sections.rest].join('')).toBe(text.slice(0, end))
    expect(sections.done.slice(0, before.done.length)).toEqual(before.done)
  }
  expect(sections.done.length).toBeGreaterThan(5)
  for (const done of sections.done) expect(done.split('```').length % 2).toBe(1)
  expect(sectionsOf(`${text}\n[a]: https://example.org`, noSections).done).toEqual([])
})

const anyText = fc
  .array(
    fc.constantFrom(
      ...[
        'A line of words, long enough that some of them fill a section.\n',
        '\n',
        '\n\n',
        '# One\n',
        '- one\n',
        '  two\n',
      ],
      ...[
        '```ts\n',
        '```\n',
        '````\n',
        '~~~\n',
        '```',
        '  ```\n',
        "const a = 'b'\n",
        '/* c\n',
        '*/ d\n',
        '`e\n',
        '// f\n',
      ],
      ...['[g]: https://example.org\n', '> h\n', '| i |\n|---|\n', 'x'],
    ),
    { maxLength: 120 },
  )
  .map((pieces) => pieces.join(''))
const anyCuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 })
const prefixesOf = (text: string, cuts: number[]) => [
  ...cuts.sort((a, b) => a - b).map((cut) => text.slice(0, Math.floor(cut * text.length))),
  text,
]

test('wherever a text is cut as it comes, its sections and the colours of its code are those of the whole', () => {
  fc.assert(
    fc.property(anyText, anyCuts, (text, cuts) => {
      let sections = noSections
      for (const prefix of prefixesOf(text, cuts)) sections = sectionsOf(prefix, sections)
      const whole = sectionsOf(text, noSections)
      expect([sections.done, sections.rest]).toEqual([whole.done, whole.rest])
      expect([...whole.done, whole.rest].join('')).toBe(text)
    }),
  )
  fc.assert(
    fc.property(anyText, fc.integer({ min: 1, max: 30 }), anyCuts, (some, times, cuts) => {
      const code = some.repeat(times)
      let stretches = noStretches
      for (const prefix of prefixesOf(code, cuts)) stretches = stretchesOf(prefix, 'ts', stretches)
      const whole = stretchesOf(code, 'ts', noStretches)
      expect(stretches).toEqual(whole)
      const tokens = [...whole.done, whole.last].flat()
      expect(tokens.map(({ text }) => text).join('')).toBe(code)
      for (const { at, text } of tokens) expect(code.slice(at, at + text.length)).toBe(text)
    }),
  )
})

test('a block of code is a section of its own while it grows, with what it is called and without its fences', () => {
  const lines = Array.from({ length: 400 }, (_, at) => `const a${at} = "b" // ${at}\n\n[c${at}]: d\n`).join('')
  const open = `Look:\n\`\`\`\`ts title\n${lines}`
  const growing = sectionsOf(open, noSections)
  expect(growing.done).toEqual(['Look:\n'])
  expect(codeOf(growing.rest)).toEqual({ code: lines.slice(0, -1), language: 'ts' })
  const closed = sectionsOf(`${open}\`\`\`\n\`\`\`\`\n\nAnd then.`, growing)
  expect(closed.done.map((section) => codeOf(section)?.code.length)).toEqual([undefined, lines.length + 3])
  expect(closed.rest).toBe('\nAnd then.')
  // Long as it is, what was coloured is not coloured again.
  const first = stretchesOf(lines, 'ts', noStretches)
  const next = stretchesOf(`${lines}const last = 1`, 'ts', first)
  expect(first.done.length).toBeGreaterThan(5)
  for (const [at, stretch] of first.done.entries()) expect(next.done[at]).toBe(stretch)
})
