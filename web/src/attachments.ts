/**
 * Files that are to go with a message, for each session: chosen, uploaded while the message is written, and kept with its
 * draft. What is uploaded is there after a reload; of what was on its way then the next page says that it is lost.
 */
import { type FilePart, HoldfastError, type Part, uploadFile } from 'holdfast/client'
import { client, whileConnected } from './client.ts'
import { rememberSize } from './file-sizes.ts'
import { isShownInline } from './files.ts'
import { hearLost, noteUploads } from './lost-uploads.ts'
import { recall, remember } from './storage.ts'

export type Attachment = {
  id: string
  name: string
  size: number | null
  /** The address of its picture, where it has one. */
  preview: string | null
  stand: Stand
}
type Stand =
  | { state: 'waiting' }
  | { state: 'uploading'; share: number }
  | { state: 'uploaded'; part: FilePart }
  /** `isBrokenOff`: no answer came. `mayTry`: it may be taken the next time. */
  | { state: 'failed'; error: string; isBrokenOff: boolean; mayTry: boolean }

/** What this page has in its hands. `prepare` makes the session, where there is none. */
type Job = { sessionId: string; file: File; prepare: (() => Promise<unknown>) | null; control: AbortController }

/** At a time. A browser has six connections to a server, and the chat needs some. */
const uploadsMax = 2
/** With its text, as many parts as a message may have. */
const filesMax = 63

const known = new Map<string, readonly Attachment[]>()
const jobs = new Map<string, Job>()
const prepared = new Map<string, Promise<unknown>>()
const queue: string[] = []
let running = 0
const hearers = new Set<() => void>()

export function subscribeAttachments(hear: () => void): () => void {
  hearers.add(hear)
  return () => hearers.delete(hear)
}

export function attachmentsOf(sessionId: string): readonly Attachment[] {
  const there = known.get(sessionId)
  if (there) return there
  const kept = parsed(recall(keyOf(sessionId)))
  known.set(sessionId, kept)
  return kept
}

const keyOf = (sessionId: string) => `files:${sessionId}`

function set(sessionId: string, next: readonly Attachment[]): void {
  known.set(sessionId, next)
  const kept = next.flatMap(({ stand, size }) => (stand.state === 'uploaded' ? [{ part: stand.part, size }] : []))
  remember(keyOf(sessionId), kept.length === 0 ? null : JSON.stringify(kept))
  noteUploads(
    [...known].flatMap(([sessionId, all]) =>
      all.flatMap(({ name, size, stand }) => {
        if (stand.state === 'uploaded') return []
        const why = stand.state === 'failed' && !stand.mayTry ? stand.error : lostWords
        return [{ sessionId, name, size, why }]
      }),
    ),
  )
  for (const hear of hearers) hear()
}

function parsed(stored: string | null): readonly Attachment[] {
  if (stored === null) return []
  return (JSON.parse(stored) as { part: FilePart; size: number | null }[]).map(({ part, size }) =>
    asUploaded(part, size),
  )
}

function asUploaded(part: FilePart, size: number | null): Attachment {
  const preview = isShownInline(part.mediaType) ? part.url : null
  return { id: client.newId(), name: part.filename ?? 'File', size, preview, stand: { state: 'uploaded', part } }
}

const lostWords = 'It was not uploaded before the page was left. Choose it again.'

hearLost((lost) => {
  for (const { sessionId, name, size, why } of lost) {
    const stand: Stand = { state: 'failed', error: why, isBrokenOff: false, mayTry: false }
    set(sessionId, [...attachmentsOf(sessionId), { id: client.newId(), name, size, preview: null, stand }])
  }
})

/** Uploads them, into a session that `prepare` makes before. */
export function attach(sessionId: string, files: readonly File[], prepare: Job['prepare']): void {
  const added = files.map((file): Attachment => {
    const id = client.newId()
    jobs.set(id, { sessionId, file, prepare, control: new AbortController() })
    const preview = isShownInline(file.type) ? URL.createObjectURL(file) : null
    return { id, name: file.name, size: file.size, preview, stand: { state: 'waiting' } }
  })
  set(sessionId, [...attachmentsOf(sessionId), ...added])
  for (const { id } of added) begin(id)
}

function begin(id: string): void {
  const job = jobs.get(id)
  if (!job) return
  if (attachmentsOf(job.sessionId).findIndex((each) => each.id === id) >= filesMax) {
    const error = `A message may have at most ${filesMax} files. Send this one with the next message.`
    stand(id, { state: 'failed', error, isBrokenOff: false, mayTry: true })
    return
  }
  stand(id, { state: 'waiting' })
  queue.push(id)
  next()
}

function next(): void {
  while (running < uploadsMax) {
    const id = queue.shift()
    if (id === undefined) return
    const job = jobs.get(id)
    if (!job) continue
    running++
    void upload(id, job).finally(() => {
      running--
      next()
    })
  }
}

function stand(id: string, stand: Stand): void {
  const sessionId = jobs.get(id)?.sessionId
  if (sessionId === undefined) return
  set(
    sessionId,
    attachmentsOf(sessionId).map((each) => (each.id === id ? { ...each, stand } : each)),
  )
}

async function upload(id: string, { sessionId, file, prepare, control }: Job): Promise<void> {
  stand(id, { state: 'uploading', share: 0 })
  try {
    await preparedOnce(sessionId, prepare)
    const onProgress = (share: number) => stand(id, { state: 'uploading', share })
    const signal = AbortSignal.any([control.signal, whileConnected()])
    const part = await uploadFile({ sessionId, file, onProgress, signal })
    rememberSize(part.url, file.size)
    stand(id, { state: 'uploaded', part })
    jobs.delete(id)
  } catch (error) {
    // Taken away meanwhile: then there is nothing left to say it of.
    const refusal = error instanceof HoldfastError && error.kind !== 'network' ? error : null
    const sentence = error instanceof HoldfastError ? error.message : 'The connection broke off.'
    const mayTry = refusal?.kind !== 'validation'
    stand(id, { state: 'failed', error: sentence, isBrokenOff: refusal === null, mayTry })
  }
}

function preparedOnce(sessionId: string, prepare: Job['prepare']): Promise<unknown> {
  if (prepare === null) return Promise.resolve()
  const made = prepared.get(sessionId) ?? prepare()
  prepared.set(sessionId, made)
  return made.catch((error: unknown) => {
    prepared.delete(sessionId)
    throw error
  })
}

export const uploadAgain = begin

/** The server is reached again: what broke off is uploaded by itself. */
export function uploadBrokenOff(sessionId: string): void {
  for (const { id, stand } of attachmentsOf(sessionId)) if (stand.state === 'failed' && stand.isBrokenOff) begin(id)
}

export function remove(sessionId: string, id: string): void {
  forget(attachmentsOf(sessionId).filter((each) => each.id === id))
  set(
    sessionId,
    attachmentsOf(sessionId).filter((each) => each.id !== id),
  )
}

/** They go with a message. Those that are not uploaded stay. */
export function taken(sessionId: string): FilePart[] {
  const all = attachmentsOf(sessionId)
  const going = all.filter(({ stand }) => stand.state === 'uploaded')
  forget(going)
  set(
    sessionId,
    all.filter((each) => !going.includes(each)),
  )
  return going.flatMap(({ stand }) => (stand.state === 'uploaded' ? [stand.part] : []))
}

/** Those of a message that was taken back. */
export function giveBackFiles(sessionId: string, parts: readonly Part[]): void {
  const files = parts.filter(({ type }) => type === 'file') as FilePart[]
  if (files.length > 0) set(sessionId, [...attachmentsOf(sessionId), ...files.map((part) => asUploaded(part, null))])
}

function forget(gone: readonly Attachment[]): void {
  for (const { id, preview } of gone) {
    jobs.get(id)?.control.abort()
    jobs.delete(id)
    if (preview?.startsWith('blob:')) URL.revokeObjectURL(preview)
  }
}
