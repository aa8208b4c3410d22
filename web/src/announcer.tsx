import { useEffect, useRef, useState } from 'react'
import { plainText } from './plain-text.ts'

/**
 * Reads a reply to a screen reader as it is written, without babble: each paragraph once, when it is finished, and the
 * last one with the outcome. The text on screen changes many times a second, so it is no live region itself.
 */
export function Announcer({ text, outcome }: { text: string | null; outcome: string | null }) {
  const [said, setSaid] = useState<readonly { id: number; text: string }[]>([])
  const progress = useRef({ isOpen: false, paragraphs: 0, next: 0 })

  useEffect(() => {
    const { current } = progress
    const say = (...lines: string[]) =>
      setSaid((before) => [...before, ...lines.map((line) => ({ id: current.next++, text: line }))].slice(-linesMax))
    if (text === null) return
    if (outcome === null && !current.isOpen) {
      current.isOpen = true
      current.paragraphs = 0
      say('A reply is on its way.')
    }
    // What was there before the page came is read when the reader goes there.
    if (!current.isOpen) return
    const paragraphs = spokenParagraphs(text)
    const finished = outcome === null ? paragraphs.slice(0, -1) : paragraphs
    // A later attempt may begin again: then it is read from its beginning.
    if (finished.length < current.paragraphs) current.paragraphs = 0
    const fresh = finished.slice(current.paragraphs).filter(Boolean)
    current.paragraphs = finished.length
    if (outcome !== null) {
      current.isOpen = false
      fresh.push(outcome)
    }
    if (fresh.length > 0) say(...fresh)
  }, [text, outcome])

  return (
    <div className="sr-only" role="log" aria-label="New in this chat" aria-live="polite" aria-relevant="additions">
      {said.map(({ id, text: line }) => (
        <p key={id}>{line}</p>
      ))}
    </div>
  )
}

const linesMax = 12

/** With a word in place of code, which nobody wants read out. */
function spokenParagraphs(text: string): string[] {
  return text
    .replace(/^```[^\n]*\n[\s\S]*?(?:^```[^\n]*$|$(?![\s\S]))/gm, 'A block of code.\n\n')
    .split(/\n\s*\n/)
    .map(plainText)
    .filter((paragraph, at, all) => paragraph !== '' || at === all.length - 1)
}
