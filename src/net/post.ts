/** A POST whose other side may do what it likes: it always answers, in time, and of what comes back little is read. */
import { type Agent as HttpAgent, request as httpRequest, type OutgoingHttpHeaders } from 'node:http'
import { type Agent, request } from 'node:https'

export type Answer =
  | { status: number; retryAfterMs?: number }
  /** `isReached`: there was a connection, so nobody knows what the other side has done. */
  | { status?: undefined; code: string; isReached: boolean }

type Posting = {
  headers: OutgoingHttpHeaders
  body: Buffer | string
  agent: Agent | HttpAgent
  answerWithinMs: number
  signal?: AbortSignal
}

/** Of an answer nothing but its status and headers is wanted. */
const answerBytesMax = 4_096

/** Follows no redirect. */
export function post(endpoint: URL, { headers, body, agent, answerWithinMs, signal }: Posting): Promise<Answer> {
  if (signal?.aborted) return Promise.resolve({ code: 'ABORTED', isReached: false })
  return new Promise((resolve) => {
    let isReached = false
    const isTls = endpoint.protocol === 'https:'
    const send = isTls ? request : httpRequest
    const asking = send(endpoint, { method: 'POST', headers, agent }, (response) => {
      resolve({ status: response.statusCode!, ...retryAfter(response.headers['retry-after']) })
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > answerBytesMax) response.destroy()
      })
      // It was answered by then.
      response.on('error', () => undefined)
    })
    const giveUp = (code: string) => {
      // One that waits for a connection would tell of its end when it has got it.
      resolve({ code, isReached })
      asking.destroy()
    }
    const timer = setTimeout(() => giveUp('ETIMEDOUT'), answerWithinMs)
    const abort = () => giveUp('ABORTED')
    signal?.addEventListener('abort', abort)
    asking.on('socket', (socket) => {
      isReached = !socket.connecting
      socket.once(isTls ? 'secureConnect' : 'connect', () => {
        isReached = true
      })
    })
    asking.on('error', ({ code }: NodeJS.ErrnoException) => resolve({ code: code ?? 'no code', isReached }))
    asking.on('close', () => {
      // One that changes the protocol (101) ends without an answer or an error.
      resolve({ code: 'no answer', isReached })
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
    })
    asking.end(body)
  })
}

/** Seconds, or a date (RFC 9110, 10.2.3). What is neither says nothing. */
function retryAfter(header: string | undefined): { retryAfterMs?: number } {
  if (header === undefined) return {}
  const afterMs = /^\d+$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now()
  return Number.isFinite(afterMs) ? { retryAfterMs: Math.max(0, afterMs) } : {}
}
