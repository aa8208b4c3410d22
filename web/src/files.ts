/** What may be shown of a file that somebody sent, or a model made: nothing of it may run here, or be loaded from elsewhere. */
import type { Part } from 'holdfast/client'

/** The images that the server serves to be looked at. An SVG is a page that can do things. */
const images = new Set(['image/png', 'image/jpeg', 'image/gif', 'image/webp', 'image/avif'])
export const isShownInline = (mediaType: string) => images.has(mediaType)

/** Sounds and films that browsers play. What is in them is data to a player, and runs nothing. */
const played = new Set([
  ...['audio/mpeg', 'audio/mp4', 'audio/x-m4a', 'audio/aac', 'audio/ogg', 'audio/webm', 'audio/flac'],
  ...['audio/wav', 'audio/x-wav', 'audio/wave'],
  ...['video/mp4', 'video/webm', 'video/ogg'],
])

export type ShownFile = {
  name: string
  /** `here`: a file of this server. `given`: it is in the message itself. `elsewhere`: a click leads to it. */
  place: 'here' | 'given' | 'elsewhere' | null
  /** Null: a click must not lead there. */
  url: string | null
  /** Null: it is a link. */
  shows: 'image' | 'audio' | 'video' | null
}

export function shownFilesOf(parts: readonly Part[]): ShownFile[] {
  return parts.filter(({ type }) => type === 'file').map(shownFile)
}

function shownFile({ url: given, mediaType, filename }: Part): ShownFile {
  const type = String(mediaType ?? '').toLowerCase()
  const url = String(given ?? '')
  const place = placeOf(url)
  const name =
    nameOf(filename) || nameOf(place === 'elsewhere' ? new URL(url).pathname.split('/').at(-1) : type) || 'File'
  const isLoaded = place === 'here' || (place === 'given' && url.slice('data:'.length).startsWith(`${type};`))
  return { name, place, url: place === null ? null : url, shows: isLoaded ? shownAs(type) : null }
}

function shownAs(type: string): ShownFile['shows'] {
  if (images.has(type)) return 'image'
  return played.has(type) ? (type.startsWith('audio/') ? 'audio' : 'video') : null
}

function placeOf(url: string): ShownFile['place'] {
  if (/^data:/i.test(url)) return 'given'
  if (isWebUrl(url)) return 'elsewhere'
  const isOwn = URL.canParse(url, location.origin) && new URL(url, location.origin).origin === location.origin
  return isOwn && /^\/(?:[\w.~-]+\/)*v1\/sessions\/[\w.:~-]+\/files\/[\w-]{43}$/.test(url) ? 'here' : null
}

export function isWebUrl(url: unknown): url is string {
  return typeof url === 'string' && URL.canParse(url) && /^https?:$/.test(new URL(url).protocol)
}

/** Without what turns the order of letters around: it makes one ending of a name look like another. */
const nameOf = (name: unknown) =>
  String(name ?? '')
    .replace(/[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/g, '')
    .trim()
