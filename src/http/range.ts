/** The part of a file that a player asks for, to begin in the middle (RFC 9110, section 14). One at a time. */

/** `to` is the first byte behind it. */
export type Range = { from: number; to: number }

/** Null: the whole, as where nothing, several parts or something else is asked for. `outside`: nothing of it is there. */
export function rangeOf(headers: Headers, size: number, etag: string): Range | 'outside' | null {
  const [, first, last] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(headers.get('range')?.trim() ?? '') ?? []
  const known = headers.get('if-range')
  if (first === undefined || last === undefined || first + last === '' || (known !== null && known !== etag))
    return null
  const isEnd = first === ''
  const from = isEnd ? Math.max(0, size - Number(last)) : Number(first)
  const to = isEnd || last === '' ? size : Math.min(size, Number(last) + 1)
  if (!isEnd && last !== '' && Number(last) < from) return null
  return from < to ? { from, to } : 'outside'
}
