/** A reply's text: plain until the renderer of markdown has come, which is loaded after the page. */
import { type ComponentType, memo, useEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react'
import { CodeBlock } from './code-block.tsx'
import { drawSoon } from './drawing.ts'
import type { MarkdownProps } from './markdown.tsx'
import { codeOf, isOneWhole, noSections, sectionsOf } from './sections.ts'

type Markdown = ComponentType<MarkdownProps>

let loaded: Markdown | null = null
const hearers = new Set<() => void>()
const backoffMs = { first: 500, most: 10_000 }

/** The server may be away just now, which takes the look of the text away, and nothing else. */
async function load(tries = 0): Promise<void> {
  try {
    loaded = (await import('./markdown.tsx')).default
    for (const hear of hearers) hear()
  } catch {
    setTimeout(() => void load(tries + 1), Math.min(backoffMs.most, backoffMs.first * 2 ** tries))
  }
}
void load()

function subscribe(hear: () => void): () => void {
  hearers.add(hear)
  return () => hearers.delete(hear)
}

export function ReplyText({ text, isStreaming }: { text: string; isStreaming: boolean }) {
  const known = useRef(noSections)
  const sections = useMemo(() => sectionsOf(text, known.current), [text])
  known.current = sections
  const last = sections.done.length
  return [...sections.done, sections.rest].map((section, at) => {
    if (section.trim() === '') return null
    // biome-ignore lint/suspicious/noArrayIndexKey: sections are only ever added at the end
    return <Section key={at} text={section} isStreaming={isStreaming && at === last} goesOn={at > 0} />
  })
}

/** `goesOn`: it stands behind another one of the same text. */
type SectionProps = { text: string; isStreaming: boolean; goesOn: boolean }

/** Its words are there at once, and their look when there is time for it; what is being written has it from the start. */
const Section = memo(({ text, isStreaming, goesOn }: SectionProps) => {
  const Markdown = useSyncExternalStore(subscribe, () => loaded)
  const [isDrawn, setDrawn] = useState(isStreaming)
  const plain = useRef<HTMLDivElement>(null)
  /** What was drawn as it was written stays as it is when it is finished: to draw all of it anew takes a frame and more. */
  const wasStreaming = useRef(isStreaming)
  const code = useMemo(() => codeOf(text), [text])
  const isWaiting = Markdown !== null && !isDrawn
  useEffect(() => {
    if (isWaiting && plain.current) return drawSoon(plain.current, () => setDrawn(true))
  }, [isWaiting])
  if (Markdown === null || !isDrawn) {
    return (
      <div ref={plain} className={`${classOf(goesOn)} whitespace-pre-wrap`} dir="auto">
        {text}
      </div>
    )
  }
  if (code !== null) {
    return (
      <div className={classOf(goesOn)} dir="auto">
        <CodeBlock {...code} />
      </div>
    )
  }
  const isByBlock = isStreaming || (wasStreaming.current && !isOneWhole(text))
  return <Markdown {...{ text, isStreaming, isByBlock }} className={classOf(goesOn)} />
})

const classOf = (goesOn: boolean) => (goesOn ? 'reply-text goes-on' : 'reply-text')
