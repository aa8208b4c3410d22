/** What a reply names as its sources, folded. A model writes their addresses: a click leads to the web and nowhere else. */
import type { Part } from 'holdfast/client'
import { isWebUrl } from './files.ts'
import { FoldIcon } from './icons.tsx'

type Source = { key: string; title: string; url: string | null; note: string | null }

export function Sources({ parts }: { parts: readonly Part[] }) {
  const sources = sourcesOf(parts)
  if (sources.length === 0) return null
  return (
    <details className="sources">
      <summary>
        {sources.length === 1 ? '1 source' : `${sources.length} sources`} <FoldIcon />
      </summary>
      <ol>
        {sources.map(({ key, title, url, note }) => (
          <li key={key}>
            {url === null ? (
              <bdi>{title}</bdi>
            ) : (
              <a href={url} target="_blank" rel="noopener noreferrer nofollow ugc" referrerPolicy="no-referrer">
                <bdi>{title}</bdi>
              </a>
            )}
            {note !== null && <bdi className="source-note">{note}</bdi>}
          </li>
        ))}
      </ol>
    </details>
  )
}

/** One that is named twice is one. */
function sourcesOf(parts: readonly Part[]): Source[] {
  const found = parts.flatMap((part): Source[] => {
    const title = typeof part.title === 'string' ? part.title.trim() : ''
    if (part.type === 'source-url') {
      const given = String(part.url ?? '')
      if (!isWebUrl(given)) return [{ key: given, title: title || given, url: null, note: null }]
      const { href, host } = new URL(given)
      return [{ key: href, title: title || href, url: href, note: title ? host : null }]
    }
    if (part.type !== 'source-document') return []
    const note = String(part.filename ?? part.mediaType ?? '') || null
    return [
      { key: `document ${part.sourceId}`, title: title || note || 'Document', url: null, note: title ? note : null },
    ]
  })
  return [...new Map(found.map((source) => [source.key, source])).values()]
}
