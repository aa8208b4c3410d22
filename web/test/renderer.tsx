import { useEffect, useRef } from 'react'
import { createRoot } from 'react-dom/client'
import Markdown from '../src/markdown.tsx'
import '../src/style.css'

declare global {
  interface Window {
    /** Draws a reply's text as the page does; `id` tells one reply from another. Resolves when it is on the page. */
    draw(id: string, text: string, isStreaming: boolean): Promise<void>
  }
}

const root = createRoot(document.getElementById('root') as HTMLElement)

window.draw = async (id, text, isStreaming) => {
  await new Promise<void>((resolve) => {
    root.render(<Drawn key={id} text={text} isStreaming={isStreaming} onDrawn={resolve} />)
  })
  // Streamdown draws a change of a streaming reply in a transition: that is done before a later task runs.
  await new Promise((resolve) => setTimeout(resolve))
}

function Drawn({ text, isStreaming, onDrawn }: { text: string; isStreaming: boolean; onDrawn(): void }) {
  useEffect(onDrawn)
  const wasStreaming = useRef(isStreaming)
  const isByBlock = isStreaming || wasStreaming.current
  return <Markdown {...{ text, isStreaming, isByBlock }} className="reply-text" />
}
