/** How large the files of this server are. A message does not say it: it is asked for, once, when a link to one is drawn. */
import { useEffect, useState } from 'react'

const sizes = new Map<string, number>()

export const rememberSize = (url: string, size: number) => void sizes.set(url, size)

/** Null: nobody knows. `url` is null where this server does not have it. */
export function useSize(url: string | null): number | null {
  const [size, setSize] = useState(() => sizes.get(url ?? '') ?? null)
  useEffect(() => {
    if (url === null || sizes.has(url)) return
    const control = new AbortController()
    fetch(url, { method: 'HEAD', signal: control.signal })
      .then((response) => {
        const bytes = Number(response.headers.get('content-length'))
        if (!response.ok || !(bytes > 0)) return
        rememberSize(url, bytes)
        setSize(bytes)
      })
      // A link without a size is one, too.
      .catch(() => undefined)
    return () => control.abort()
  }, [url])
  return size
}

/** As the server counts, whose limit is said beside it. */
const kb = 1024

export function sizeWords(bytes: number): string {
  if (bytes < kb) return `${bytes} bytes`
  if (bytes < kb * kb) return `${Math.round(bytes / kb)} KB`
  return `${(bytes / kb / kb).toFixed(1)} MB`
}
