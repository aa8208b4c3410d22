/** Reading `data:` URLs (RFC 2397), strictly: what a lenient reader would skip is a file that came broken. */
import { limits } from '../core/limits.ts'

export type DataUrl = { mediaType: string; bytes: Buffer }

/** Null: it is no valid one. `too_large`: its content is more than a file may have; it is not decoded then. */
export function readDataUrl(url: string): DataUrl | 'too_large' | null {
  const comma = url.indexOf(',')
  if (!/^data:/i.test(url) || comma === -1) return null
  const head = url.slice('data:'.length, comma)
  const isBase64 = /; *base64$/i.test(head)
  const mediaType = head === '' || head.startsWith(';') ? 'text/plain' : mediaTypeOf(head)
  if (mediaType === null) return null
  const bytes = isBase64 ? bytesOfBase64(url.slice(comma + 1)) : bytesOfEscaped(url.slice(comma + 1))
  return bytes === null || bytes === 'too_large' ? bytes : { mediaType, bytes }
}

function bytesOfBase64(text: string): Buffer | 'too_large' | null {
  // Four characters for three bytes, and at most two that only fill.
  if (text.length > Math.ceil(limits.fileBytesMax / 3) * 4) return 'too_large'
  const bytes = Buffer.from(text, 'base64')
  // Node skips what it cannot read. Written again it is the same, but for what fills; a pattern took four times as long.
  const again = bytes.toString('base64')
  if (again.length - text.length > 2 || !again.startsWith(text)) return null
  return bytes.length > limits.fileBytesMax ? 'too_large' : bytes
}

function bytesOfEscaped(text: string): Buffer | 'too_large' | null {
  if (text.length > 3 * limits.fileBytesMax) return 'too_large'
  try {
    const bytes = Buffer.from(decodeURIComponent(text))
    return bytes.length > limits.fileBytesMax ? 'too_large' : bytes
  } catch {
    // Broken escapes, or bytes that are no UTF-8: those come as base64.
    return null
  }
}

/** RFC 6838, section 4.2: what a type and a subtype may consist of. So it can stand in a header. */
const mediaTypePattern = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/

/** The type without its parameters, in lower case: `Text/Plain;charset=utf-8` is `text/plain`. Null: it is none. */
export function mediaTypeOf(text: string): string | null {
  const essence = text.split(';', 1)[0]!.trim().toLowerCase()
  return mediaTypePattern.test(essence) ? essence : null
}
