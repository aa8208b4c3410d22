import { memo, useMemo, useRef, useState } from 'react'
import { noStretches, stretchesOf, type Token } from './code-colours.ts'
import { CheckIcon, CopyIcon } from './icons.tsx'

export function CodeBlock({ code, language }: { code: string; language: string }) {
  const known = useRef(noStretches)
  const stretches = useMemo(() => stretchesOf(code, language.toLowerCase(), known.current), [code, language])
  known.current = stretches
  return (
    <figure className="code-block" aria-label={language ? `Code, ${language}` : 'Code'}>
      <figcaption>
        <span>{language || 'text'}</span>
        <CopyButton text={code} label="Copy code" />
      </figcaption>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <pre tabIndex={0}>
        <code>
          {[...stretches.done, stretches.last].map((tokens, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: stretches are only ever added at the end
            <Stretch key={at} tokens={tokens} />
          ))}
        </code>
      </pre>
    </figure>
  )
}

const Stretch = memo(({ tokens }: { tokens: readonly Token[] }) => (
  <span className="block">
    {tokens.map(({ kind, at, text }) => (
      <span key={at} className={`code-${kind}`}>
        {text}
      </span>
    ))}
  </span>
))

const copiedMs = 1_600

export function CopyButton({ text, label }: { text: string; label: string }) {
  const [isCopied, setCopied] = useState(false)
  const copy = async () => {
    await copyText(text)
    setCopied(true)
    setTimeout(() => setCopied(false), copiedMs)
  }
  return (
    <button type="button" className="quiet-button" onClick={() => void copy()} aria-label={label} title={label}>
      {isCopied ? <CheckIcon /> : <CopyIcon />}
      <span aria-live="polite" className="text-xs">
        {isCopied ? 'Copied' : ''}
      </span>
    </button>
  )
}

/** Pages that came over plain http from another machine have no clipboard: there the old command still works. */
async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) return await navigator.clipboard.writeText(text)
  const area = document.createElement('textarea')
  area.value = text
  area.className = 'sr-only'
  // Outside an open dialog nothing can be selected.
  ;(document.querySelector('dialog[open]') ?? document.body).append(area)
  area.select()
  document.execCommand('copy')
  area.remove()
}
