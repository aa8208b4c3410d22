/**
 * A file is uploaded to its session before the message that has it is sent (PROTOCOL.md, P91). This stands apart from the
 * client: who uploads nothing loads nothing of it. Where there is an `XMLHttpRequest`, as in browsers and React Native, it
 * tells how far it is, which `fetch` cannot.
 */
import { limits } from '../core/limits.ts'
import { abortError, errorIn, errorOf, parsed, unlessAborted, unreachable } from './wire.ts'

/** The part of a message that has the file. */
export type FilePart = { type: 'file'; url: string; mediaType: string; filename?: string }

/** Who asks, and where, is said as to `createClient`. */
export type Upload = {
  url?: string
  token?: string | ((isRenewal: boolean) => string | null | Promise<string | null>)
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>)
  credentials?: RequestCredentials
  /** Where it is given it is used, and nothing is told of the progress. */
  fetch?: typeof fetch
  sessionId: string
  file: Blob
  /** Defaults to the name that a `File` has. */
  filename?: string
  /** From 0 to 1. The server has it when the promise resolves, and not before. */
  onProgress?: (share: number) => void
  signal?: AbortSignal
}

/** Nothing of the file went out for so long. */
const silentMs = 60_000

/**
 * One try. After an error whose `kind` is `network`, `service` or `rate_limit` the same may be uploaded again: it is stored
 * once. Rejects with a `HoldfastError`, and with an `AbortError` when aborted.
 */
export async function uploadFile(upload: Upload): Promise<FilePart> {
  const { file, sessionId, signal, token } = upload
  const filename = upload.filename ?? (file as Partial<File>).name
  // Who is refused in the middle of a large body often hears of a broken connection, not why.
  if (file.size > limits.fileBytesMax) throw errorIn({ code: 'too_large', status: 413, detail: tooLarge() })
  const api = (upload.url ?? '').replace(/\/+$/, '')
  const query = filename ? `?filename=${encodeURIComponent(filename)}` : ''
  const address = `${api}/v1/sessions/${encodeURIComponent(sessionId)}/files${query}`
  const send = upload.fetch === undefined && typeof XMLHttpRequest !== 'undefined' ? sendByRequest : sendByFetch
  const ask = async (isRenewal: boolean) => {
    const headers = await headersOf(upload, isRenewal)
    if (signal?.aborted) throw abortError()
    return await send(address, headers, upload)
  }
  let response = await unlessAborted(signal, ask(false))
  if (response.status === 401 && typeof token === 'function') response = await unlessAborted(signal, ask(true))
  if (!response.ok) throw await errorOf(response)
  const text = await unlessAborted(
    signal,
    response.text().catch(() => ''),
  )
  const { url, mediaType } = parsed(text, response.status) as { url: string; mediaType: string }
  return { type: 'file', url, mediaType, ...(filename ? { filename } : {}) }
}

const tooLarge = () => `A file may have at most ${limits.fileBytesMax / 1024 / 1024} MB. Choose a smaller one.`

async function headersOf({ headers, token, file }: Upload, isRenewal: boolean): Promise<Headers> {
  const all = new Headers(typeof headers === 'function' ? await headers() : headers)
  const bearer = typeof token === 'function' ? await token(isRenewal) : token
  if (bearer) all.set('authorization', `Bearer ${bearer}`)
  all.set('accept', 'application/json')
  // Where the device knows no type there is none.
  all.set('content-type', file.type || 'application/octet-stream')
  return all
}

async function sendByFetch(address: string, headers: Headers, upload: Upload): Promise<Response> {
  const { file: body, signal, credentials, fetch: given } = upload
  const init = { method: 'POST', headers, body, ...(signal && { signal }), ...(credentials && { credentials }) }
  // Whatever failed, no answer came; that it was aborted is told by whoever waits for this.
  return await (given ?? fetch)(address, init).catch(() => {
    throw unreachable(0, true)
  })
}

function sendByRequest(address: string, headers: Headers, upload: Upload): Promise<Response> {
  const { file, signal, credentials, onProgress } = upload
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest()
    let timer: ReturnType<typeof setTimeout>
    const abort = () => request.abort()
    const hear = () => {
      clearTimeout(timer)
      timer = setTimeout(abort, silentMs)
    }
    request.open('POST', address)
    request.withCredentials = credentials === 'include'
    headers.forEach((value, name) => {
      request.setRequestHeader(name, value)
    })
    request.upload.onprogress = ({ loaded, total }) => {
      hear()
      if (total > 0) onProgress?.(loaded / total)
    }
    request.onloadend = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
      const { status, responseText } = request
      if (status === 0) reject(unreachable(0, true))
      else resolve(new Response(responseText === '' ? null : responseText, { status }))
    }
    signal?.addEventListener('abort', abort)
    hear()
    request.send(file)
  })
}
