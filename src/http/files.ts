/**
 * Files of a session: uploaded by themselves, or as `data:` URLs in a message, from which they are taken out before it is
 * accepted. A file's id is made of its type and content, so the same one again is the one that is there, and a repeated
 * message compares equal. A process that dies between the two leaves a file that no message names, and so does a message
 * that is refused: it counts in the session's bounds, is used by the next send of the same, and goes with the session.
 */
import { createHash } from 'node:crypto'
import * as z from 'zod'
import { point } from '#points'
import { audienceOf } from '../core/event.ts'
import { fileAt, filePath } from '../core/file-path.ts'
import { limits } from '../core/limits.ts'
import type { Database } from '../store/database.ts'
import {
  fileOfMember,
  fileSliceBytes,
  fileSliceOfMember,
  filesThere,
  type ListedFile,
  listFiles,
  type StoredFile,
  storeFile,
} from '../store/files.ts'
import { filenameSchema, readBytes, readQuery, type UserPart } from './body.ts'
import { mediaTypeOf, readDataUrl } from './data-url.ts'
import { laneOf } from './lane.ts'
import { Problem } from './problem.ts'
import { type Range, rangeOf } from './range.ts'
import { type Call, json, type Route, sessionOf, type Within } from './route.ts'

/** Whose files, for whom, and what lies before their paths. */
type Place = { database: Database; basePath: string; tenantId: string; sessionId: string; userId: string }
/** Where they are said: only who may see that may see them. */
export type FilePlace = Place & { audience: string | null }

export function filePlaceOf(call: Within, lane: string): FilePlace {
  return { ...placeOf(call), audience: audienceOf(lane) }
}

function placeOf(call: Within): Place {
  const { database, basePath } = call.parts
  return { database, basePath, ...sessionOf(call) }
}

type FilePart = Extract<UserPart, { type: 'file' }>
type Content = { mediaType: string; bytes: Buffer; filename: string | null }

/**
 * The parts with the path of a stored file in place of each `data:` URL, and each path of a file of this session as it is
 * now. What is stored by then stays, whatever becomes of the message. Throws a `Problem` that names the part: a URL that
 * cannot be read, a type that is not the content's, too much, another session's file, or one that is more private than the
 * message; or says that the user may not write
 * here. Parts with neither are passed on, and nothing is asked of the database where there are no others.
 */
export async function takeOutFiles(place: FilePlace, parts: UserPart[]): Promise<UserPart[]> {
  const found = parts.map((part, at) => (part.type === 'file' ? fileIn(place, part, at) : null))
  const fileIds = [...new Set(found.flatMap((each) => each?.fileId ?? []))]
  if (fileIds.length === 0) return parts
  const there = await filesThere(place.database, { ...place, fileIds })
  if (there === null) throw new Problem('not_found')
  if (there.role === 'reader') throw new Problem('forbidden')
  for (const [at, each] of found.entries()) if (each?.content === null) checkThere(there.types, each, at)
  for (const each of found) {
    if (!each?.content || there.types.has(each.fileId)) continue
    await store(place, each.fileId, each.content)
    there.types.set(each.fileId, each.content.mediaType)
  }
  await point('files.stored')
  return parts.map((part, at) => withPath(place, part, found[at]!))
}

/** `content`: null where it must be there already. `mediaType`: as the part says. */
type Found = { fileId: string; mediaType: string; content: Content | null }

/** Null: the file is somewhere else, and stays there. */
function fileIn(place: FilePlace, part: FilePart, at: number): Found | null {
  const { url, filename = null } = part
  if (/^data:/i.test(url)) {
    const data = readDataUrl(url)
    if (data === null) throw bad(at, 'url', 'this data: URL cannot be read')
    if (data === 'too_large') throw new Problem('too_large', `"parts.${at}.url": ${fileTooLarge}`)
    if (data.bytes.length === 0) throw bad(at, 'url', 'the file is empty')
    if (part.mediaType !== '' && mediaTypeOf(part.mediaType) !== data.mediaType) {
      throw bad(at, 'mediaType', 'expected the type that the data: URL has')
    }
    return { fileId: fileIdOf(data, place.audience), mediaType: data.mediaType, content: { ...data, filename } }
  }
  const own = fileAt(url)
  if (own === null) return null
  if (own.sessionId !== place.sessionId) throw noSuchFile(at)
  return { fileId: own.fileId, mediaType: mediaTypeOf(part.mediaType) ?? part.mediaType, content: null }
}

function checkThere(types: Map<string, string>, { fileId, mediaType }: Found, at: number): void {
  const stored = types.get(fileId)
  if (stored === undefined) throw noSuchFile(at)
  if (stored !== mediaType) throw bad(at, 'mediaType', 'expected the type that the file was stored with')
}

const noSuchFile = (at: number) => bad(at, 'url', 'this session has no such file')

function bad(at: number, field: string, sentence: string): Problem {
  return new Problem('invalid_request', `"parts.${at}.${field}": ${sentence}.`)
}

function withPath({ basePath, sessionId }: FilePlace, part: UserPart, found: Found | null): UserPart {
  if (part.type !== 'file' || found === null) return part
  // Where a browser knows no type, it sends none, and the URL has the general one.
  const mediaType = part.mediaType === '' ? found.mediaType : part.mediaType
  return { ...part, mediaType, url: filePath(basePath, sessionId, found.fileId) }
}

/** By its type, too: else the second of two would be served as the first. What is private is another file than what is not. */
function fileIdOf({ mediaType, bytes }: { mediaType: string; bytes: Buffer }, audience: string | null): string {
  const hash = createHash('sha256')
  if (audience !== null) hash.update(`${audience}\n`)
  return hash.update(`${mediaType}\n`).update(bytes).digest('base64url')
}

const mb = (bytes: number) => `${bytes / 1024 / 1024} MB`
const fileTooLarge = `A file may have at most ${mb(limits.fileBytesMax)}.`

async function store(place: FilePlace, fileId: string, content: Content): Promise<'created' | 'same'> {
  const { database, tenantId, sessionId, userId, audience } = place
  const bounds = { filesMax: limits.filesMax, bytesMax: limits.filesBytesMax }
  const outcome = await storeFile(database, { tenantId, sessionId, userId, audience, fileId, ...content, ...bounds })
  if (outcome === 'full') {
    const most = `${limits.filesMax.toLocaleString('en-US')} files and ${mb(limits.filesBytesMax)} of them`
    throw new Problem('too_large', `A session may have at most ${most}. Start a new session.`)
  }
  if (outcome === 'not_found' || outcome === 'forbidden') throw new Problem(outcome)
  return outcome
}

const uploadSchema = z.object({ filename: filenameSchema.optional() })

async function upload(call: Call): Promise<Response> {
  const { filename = null } = readQuery(call.url, uploadSchema)
  const mediaType = uploadedType(call.request)
  const bytes = await readBytes(call.request, limits.fileBytesMax, fileTooLarge)
  if (bytes.length === 0) throw new Problem('invalid_request', 'The file is empty.')
  const place = filePlaceOf(call, await laneOf(call))
  const fileId = fileIdOf({ mediaType, bytes }, place.audience)
  const outcome = await store(place, fileId, { mediaType, bytes, filename })
  const url = filePath(place.basePath, place.sessionId, fileId)
  const body = { id: fileId, url, mediaType, size: bytes.length }
  return json(outcome === 'created' ? 201 : 200, body, { location: url })
}

/** What a browser sends to other sites without asking them, a form or a text, is taken from nobody who is elsewhere. */
function uploadedType({ headers }: Request): string {
  const given = headers.get('content-type') ?? ''
  const mediaType = mediaTypeOf(given)
  const isForm = mediaType === 'multipart/form-data' || mediaType === 'application/x-www-form-urlencoded'
  const isForged = mediaType === 'text/plain' && headers.get('sec-fetch-site') === 'cross-site'
  if (mediaType !== null && !isForm && !isForged) return mediaType
  const got = given === '' ? 'none' : `"${given.slice(0, 100)}"`
  throw new Problem('invalid_request', `Expected the file itself, under the content-type that it has, got ${got}.`)
}

async function list(call: Call): Promise<Response> {
  const { database, basePath, sessionId, ...place } = placeOf(call)
  const files = await listFiles(database, { ...place, sessionId })
  const shown = (file: ListedFile) => ({ ...file, url: filePath(basePath, sessionId, file.id) })
  return json(200, { data: files.map(shown), before: null, after: null })
}

async function serve(call: Call): Promise<Response> {
  const place = placeOf(call)
  const fileId = call.params.fileId!
  const etag = `"${fileId}"`
  const isKnown = (call.request.headers.get('if-none-match') ?? '').split(/\s*,\s*(?:W\/)?|^W\//).includes(etag)
  const file = await fileOfMember(place.database, { ...place, fileId })
  if (file === null) throw new Problem('not_found')
  if (isKnown) return new Response(null, { status: 304, headers: { etag, ...cached } })
  const { method, headers } = call.request
  const all = { from: 0, to: file.size }
  const range = method === 'HEAD' ? null : rangeOf(headers, file.size, etag)
  const about = { etag, 'accept-ranges': 'bytes', ...cached, ...served(file) }
  if (range === 'outside') {
    const refusal = { ...about, 'content-length': '0', 'content-range': `bytes */${file.size}` }
    return new Response(null, { status: 416, headers: refusal })
  }
  const { from, to } = range ?? all
  const body = method === 'HEAD' ? null : slices(call, fileId, { from, to })
  if (range === null) return new Response(body, { headers: about })
  const part = { 'content-length': String(to - from), 'content-range': `bytes ${from}-${to - 1}/${file.size}` }
  return new Response(body, { status: 206, headers: { ...about, ...part } })
}

/**
 * Each is judged anew. Where there is none any more, or the database fails, the connection breaks off before
 * `content-length`. Node's response is ended by itself: of an error in the stream its glue prints the whole.
 */
function slices(call: Call, fileId: string, { from, to }: Range): ReadableStream<Uint8Array> {
  const { database, ...place } = placeOf(call)
  return new ReadableStream({
    async pull(controller) {
      const bytes = await fileSliceOfMember(database, { ...place, fileId, from }).catch(() => null)
      if (bytes === null) {
        if (call.outgoing) call.outgoing.destroy()
        else controller.error(new Error('The file cannot be read any more.'))
        return
      }
      controller.enqueue(bytes.subarray(0, to - from))
      from += fileSliceBytes
      if (from >= to) controller.close()
    },
  })
}

/** A path stands for one content for ever. Kept by the user's own device, and used only for who asked for it. */
const cached = { 'cache-control': 'private, max-age=86400, immutable', vary: 'authorization, cookie' }

/**
 * What a user sent is never a page of ours: it runs nothing, loads nothing, is taken for nothing else than it says, and is
 * shown in the browser only where that is known to be harmless; all else is saved. SVG and HTML hold scripts, and
 * Chromium shows no PDF in a sandbox. An `img` shows an image either way.
 */
const inline = new Set(['image/png', 'image/jpeg', 'image/gif', 'image/webp', 'image/avif', 'text/plain'])
const isInline = (mediaType: string) => inline.has(mediaType) || /^(?:audio|video)\/[\w-]+$/.test(mediaType)

function served({ mediaType, filename, size }: StoredFile): Record<string, string> {
  const how = isInline(mediaType) ? 'inline' : 'attachment'
  const name = filename === null ? '' : `; filename*=UTF-8''${escaped(filename)}`
  return {
    'content-type': mediaType === 'text/plain' ? 'text/plain; charset=utf-8' : mediaType,
    'content-length': String(size),
    'content-disposition': `${how}${name}`,
    'content-security-policy': "sandbox; default-src 'none'",
    'x-content-type-options': 'nosniff',
    'cross-origin-resource-policy': 'same-origin',
  }
}

/** RFC 8187: of what `encodeURIComponent` leaves as it is, these must be escaped, too. */
function escaped(filename: string): string {
  return encodeURIComponent(filename).replace(/['()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`)
}

export const fileRoutes: Route[] = [
  {
    name: 'files.upload',
    method: 'POST',
    path: '/v1/sessions/:sessionId/files',
    right: 'write',
    // Before 8 MB are read. The statement that stores them judges again, under the session's lock.
    judgedBy: 'route',
    handle: upload,
  },
  {
    name: 'files.list',
    method: 'GET',
    path: '/v1/sessions/:sessionId/files',
    right: 'read',
    judgedBy: 'route',
    handle: list,
  },
  {
    name: 'files.serve',
    method: 'GET',
    path: '/v1/sessions/:sessionId/files/:fileId',
    right: 'read',
    judgedBy: 'statement',
    handle: serve,
  },
]
