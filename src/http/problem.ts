import { randomUUID } from 'node:crypto'
import { type RequestCode, requestErrors } from '../core/errors.ts'
import { DatabaseError } from '../store/database.ts'

/** Thrown by routes; answered as a problem document (RFC 9457). `detail` says what was expected and what came. */
export class Problem extends Error {
  override readonly name = 'Problem'
  readonly code: RequestCode
  readonly retryAfterMs: number | undefined
  readonly userMessageId: string | undefined
  readonly retryable: boolean
  /** Of the answer, beside those that every problem has. */
  readonly headers: Readonly<Record<string, string>>
  /** `retryable`: where this time it is not as the code's row says. */
  constructor(
    code: RequestCode,
    detail?: string,
    more: {
      retryAfterMs?: number
      userMessageId?: string
      retryable?: boolean
      headers?: Record<string, string>
    } = {},
  ) {
    super(detail ?? requestErrors[code].sentence)
    this.retryable = more.retryable ?? requestErrors[code].retryable
    this.code = code
    this.retryAfterMs = more.retryAfterMs
    this.userMessageId = more.userMessageId
    this.headers = more.headers ?? {}
  }
}

/** How long to stay away while the database does not answer. */
const unavailableMs = 1_000

export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error
  if (error instanceof DatabaseError && error.kind !== 'bug' && error.kind !== 'bad_data') {
    return new Problem('unavailable', undefined, { retryAfterMs: unavailableMs })
  }
  return new Problem('internal')
}

/** As RFC 9457 writes it. */
export function problemDocument({ code, message: detail, retryable, retryAfterMs, userMessageId }: Problem) {
  const { status, title } = requestErrors[code]
  const requestId = randomUUID()
  return {
    type: `urn:holdfast:${code}`,
    title,
    status,
    code,
    detail,
    retryable,
    retryAfterMs,
    requestId,
    userMessageId,
  }
}

export function problemResponse(problem: Problem): Response {
  const body = problemDocument(problem)
  const { retryAfterMs } = problem
  const headers = new Headers({
    ...problem.headers,
    'content-type': 'application/problem+json',
    'cache-control': 'no-store',
  })
  if (retryAfterMs !== undefined) headers.set('retry-after', String(Math.ceil(retryAfterMs / 1000)))
  return new Response(JSON.stringify(body), { status: body.status, headers })
}

export function wantsJson({ headers }: Request): boolean {
  return /application\/(problem\+)?json/.test(headers.get('accept') ?? '')
}

/** A refusal as its sentence, for clients that show the whole body to people; as it is where JSON is asked for. */
export async function inWords(refusal: Response, request: Request): Promise<Response> {
  if (wantsJson(request)) return refusal
  const detail = await sentenceOf(refusal)
  const headers = new Headers(refusal.headers)
  headers.set('content-type', 'text/plain; charset=utf-8')
  headers.delete('content-length')
  return new Response(detail, { status: refusal.status, headers })
}

/** What a problem document says to people. It can be read once. */
export async function sentenceOf(refusal: Response): Promise<string> {
  return ((await refusal.json()) as { detail: string }).detail
}
