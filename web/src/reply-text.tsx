/** A reply's text: plain until the renderer of markdown has come, which is loaded after the page. */
import { type ComponentType, useSyncExternalStore } from 'react'

type Markdown = ComponentType<{ text: string; isStreaming: boolean }>

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
  const Markdown = useSyncExternalStore(subscribe, () => loaded)
  if (Markdown === null) {
    return (
      <div className="reply-text whitespace-pre-wrap" dir="auto">
        {text}
      </div>
    )
  }
  return <Markdown text={text} isStreaming={isStreaming} />
}
