import { isReplyError, ReplyError, type TurnCode } from '../core/errors.ts'

/**
 * Why a provider failed, told from what it or its SDK threw: the provider's own error code first, then names that say
 * more than a status, then the HTTP status, then the error's name, then the network's code. Errors are recognised by their fields, so that any version
 * of an SDK will do. Texts are read in one place only, where a provider gives nothing else.
 */

/** `error.code` and `error.type` of OpenAI, Anthropic and those who speak like them. */
const byProviderCode = new Map<string, TurnCode>([
  ['rate_limit_exceeded', 'provider_rate_limited'],
  ['rate_limit_error', 'provider_rate_limited'],
  ['overloaded_error', 'provider_overloaded'],
  ['timeout_error', 'provider_timeout'],
  // These come as 429, 404 or 400, but waiting does not help: the operator has to act.
  ['insufficient_quota', 'provider_auth'],
  ['billing_hard_limit_reached', 'provider_auth'],
  ['billing_error', 'provider_auth'],
  ['invalid_api_key', 'provider_auth'],
  ['authentication_error', 'provider_auth'],
  ['permission_error', 'provider_auth'],
  ['model_not_found', 'provider_auth'],
  ['context_length_exceeded', 'context_too_long'],
  ['string_above_max_length', 'context_too_long'],
  ['request_too_large', 'context_too_long'],
  ['content_filter', 'content_filtered'],
  ['content_policy_violation', 'content_filtered'],
])

/** Codes that say less than a status does: those who speak like OpenAI send them with any (Ollama: `api_error`, 404). */
const byVagueCode = new Map<string, TurnCode>([
  ['server_error', 'provider_overloaded'],
  ['api_error', 'provider_overloaded'],
])

const byStatus = new Map<number, TurnCode>([
  [401, 'provider_auth'],
  // No credit left, at those who are paid in advance.
  [402, 'provider_auth'],
  [403, 'provider_auth'],
  // The model, or the whole address: no message can help, the operator can.
  [404, 'provider_auth'],
  [408, 'provider_timeout'],
  // A lock that was not had in time; the vendors' own SDKs try again too.
  [409, 'provider_overloaded'],
  [413, 'context_too_long'],
  [429, 'provider_rate_limited'],
  [504, 'provider_timeout'],
])

/** Of the message: a file that cannot be had, or of a kind that this model cannot read. Its status is not the provider's. */
const byTellingName = new Map<string, TurnCode>([
  ['AI_DownloadError', 'provider_rejected'],
  ['AI_UnsupportedFunctionalityError', 'provider_rejected'],
])

const byName = new Map<string, TurnCode>([
  ['TimeoutError', 'provider_timeout'],
  // Not by our signal, whose abort is never classified: the app's or the SDK's own time limit.
  ['AbortError', 'provider_timeout'],
  ['APIConnectionTimeoutError', 'provider_timeout'],
  ['APIConnectionError', 'provider_unreachable'],
  ['AI_InvalidResponseDataError', 'provider_truncated'],
  ['AI_EmptyResponseBodyError', 'provider_truncated'],
  ['AI_NoOutputGeneratedError', 'provider_truncated'],
  ['AI_JSONParseError', 'provider_truncated'],
  ['AI_TypeValidationError', 'provider_truncated'],
  ['AI_StreamProviderError', 'provider_truncated'],
  ['AI_LoadAPIKeyError', 'provider_auth'],
  ['AI_LoadSettingError', 'provider_auth'],
  ['AI_NoSuchModelError', 'provider_auth'],
])

const byNetworkCode = new Map<string, TurnCode>([
  ['ECONNREFUSED', 'provider_unreachable'],
  ['ECONNRESET', 'provider_unreachable'],
  ['EPIPE', 'provider_unreachable'],
  ['ENOTFOUND', 'provider_unreachable'],
  ['EAI_AGAIN', 'provider_unreachable'],
  ['EHOSTUNREACH', 'provider_unreachable'],
  ['ENETUNREACH', 'provider_unreachable'],
  ['ETIMEDOUT', 'provider_timeout'],
  ['UND_ERR_SOCKET', 'provider_unreachable'],
  ['UND_ERR_CONNECT_TIMEOUT', 'provider_unreachable'],
  ['UND_ERR_HEADERS_TIMEOUT', 'provider_timeout'],
  ['UND_ERR_BODY_TIMEOUT', 'provider_timeout'],
])

/** Errors that only wrap the one that matters, by the field that holds it. */
const wrappers = new Map([
  ['AI_RetryError', 'lastError'],
  ['AI_NoOutputGeneratedError', 'cause'],
])

/** How far down causes are followed; longer chains than this are loops. */
const causesMax = 5

/**
 * The `ReplyError` for anything that a reply threw or that a provider sent as an error. `otherwise` is the code where
 * nothing is known about it: by default a bug of ours or the app's. The detail names facts only, because what
 * providers write may hold keys and content; the error itself is its `cause`.
 */
export function classify(error: unknown, otherwise: TurnCode = 'internal'): ReplyError {
  if (isReplyError(error)) return error
  const inner = unwrapped(error)
  if (isReplyError(inner)) return inner
  const facts = factsOf(inner)
  const retryAfterMs = retryAfterOf(facts.headers)
  return new ReplyError(codeOf(facts) ?? otherwise, sentenceOf(facts), { retryAfterMs, cause: error })
}

/** The `ReplyError` for an answer that is not 2xx. `body` is the beginning of what the provider wrote. */
export function classifyResponse(status: number, headers: object, body: string): ReplyError {
  return classify({ name: 'HTTP', statusCode: status, responseHeaders: headers, responseBody: body })
}

type Facts = {
  name: string | undefined
  status: number | undefined
  headers: unknown
  providerCodes: string[]
  networkCodes: string[]
  isRetryable: boolean
  /** Read for `promptTooLong` alone. */
  text: string
}

function codeOf(facts: Facts): TurnCode | undefined {
  return (
    firstIn(byProviderCode, facts.providerCodes) ??
    codeOfTellingName(facts) ??
    codeOfStatus(facts) ??
    firstIn(byVagueCode, facts.providerCodes) ??
    (facts.status === undefined ? undefined : 'provider_truncated') ??
    firstIn(byName, facts.name === undefined ? [] : [facts.name]) ??
    firstIn(byNetworkCode, facts.networkCodes) ??
    (facts.isRetryable ? 'provider_unreachable' : undefined)
  )
}

function codeOfTellingName({ name, status, networkCodes }: Facts): TurnCode | undefined {
  const mayPass = status === undefined ? firstIn(byNetworkCode, networkCodes) !== undefined : isPassing(status)
  // The host of a file may be better in a moment, as a provider may.
  return name === undefined || mayPass ? undefined : byTellingName.get(name)
}

function isPassing(status: number): boolean {
  return status >= 500 || status === 408 || status === 429
}

function codeOfStatus({ status, text }: Facts): TurnCode | undefined {
  // Below 300 it is an answer, and something else was wrong with it.
  if (status === undefined || status < 300) return undefined
  // A redirect that nobody followed: the address is not the provider's.
  if (status < 400) return 'provider_auth'
  if (status === 400 && promptTooLong.test(text)) return 'context_too_long'
  return byStatus.get(status) ?? (status >= 500 ? 'provider_overloaded' : 'provider_rejected')
}

/** Anthropic has no code of its own for this, and some who speak like OpenAI have none either. */
const promptTooLong = /prompt is too long|maximum context length/i

function firstIn(table: Map<string, TurnCode>, keys: string[]): TurnCode | undefined {
  for (const key of keys) {
    const code = table.get(key)
    if (code !== undefined) return code
  }
  return undefined
}

function unwrapped(error: unknown): unknown {
  let current = error
  for (let depth = 0; depth < causesMax; depth += 1) {
    const field = wrappers.get(stringOf(fieldOf(current, 'name')) ?? '')
    const inner = field === undefined ? undefined : fieldOf(current, field)
    if (inner === undefined || inner === null) return current
    current = inner
  }
  return current
}

function factsOf(error: unknown): Facts {
  const bodies = providerErrorsOf(error)
  const words = bodies.flatMap((body) => [fieldOf(body, 'code'), fieldOf(body, 'type')])
  const status = [fieldOf(error, 'statusCode'), fieldOf(error, 'status'), ...words].find(isStatus)
  return {
    name: stringOf(fieldOf(error, 'name')),
    status,
    headers: fieldOf(error, 'responseHeaders') ?? fieldOf(error, 'headers'),
    providerCodes: words.flatMap((word) => stringOf(word) ?? []),
    networkCodes: networkCodesOf(error),
    isRetryable: fieldOf(error, 'isRetryable') === true,
    text: bodies.flatMap((body) => stringOf(fieldOf(body, 'message')) ?? []).join('\n'),
  }
}

/**
 * The error objects inside an error: `{error: {code, type, message}}`, parsed by an SDK or still a text. The last event
 * of OpenAI's responses holds it one level deeper.
 */
function providerErrorsOf(error: unknown): unknown[] {
  const holders = [error, fieldOf(error, 'data'), parsed(fieldOf(error, 'responseBody'))]
  return holders
    .flatMap((holder) => [holder, fieldOf(holder, 'error'), fieldOf(fieldOf(holder, 'response'), 'error')])
    .filter((body) => body !== undefined)
}

function networkCodesOf(error: unknown): string[] {
  const codes: string[] = []
  let current = error
  for (let depth = 0; depth < causesMax && current !== undefined; depth += 1) {
    codes.push(stringOf(fieldOf(current, 'code')) ?? '', stringOf(fieldOf(current, 'name')) ?? '')
    current = fieldOf(current, 'cause')
  }
  return codes
}

/**
 * What the provider said about when to come back: `retry-after-ms`, or `retry-after` in seconds or as a date
 * (RFC 9110 §10.2.3). Undefined where it said nothing that can be read.
 */
function retryAfterOf(headers: unknown): number | undefined {
  const ms = numberOf(headerOf(headers, 'retry-after-ms'))
  if (ms !== undefined) return Math.max(0, Math.round(ms))
  const value = headerOf(headers, 'retry-after')
  const seconds = numberOf(value)
  if (seconds !== undefined) return Math.max(0, Math.round(seconds * 1000))
  const date = value === undefined ? Number.NaN : Date.parse(value)
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now())
}

function headerOf(headers: unknown, name: string): string | undefined {
  if (headers instanceof Headers) return headers.get(name) ?? undefined
  return stringOf(fieldOf(headers, name))
}

function sentenceOf({ name, status, providerCodes }: Facts): string {
  const facts = [name ?? 'Error', status, ...providerCodes].filter((fact) => fact !== undefined)
  return facts.join(' ').slice(0, 200)
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined
}

function stringOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined
}

function numberOf(value: string | undefined): number | undefined {
  const number = value === undefined || value.trim() === '' ? Number.NaN : Number(value)
  return Number.isNaN(number) ? undefined : number
}

function isStatus(value: unknown): value is number {
  return typeof value === 'number' && value >= 100 && value < 600
}

function parsed(body: unknown): unknown {
  if (typeof body !== 'string') return undefined
  try {
    return JSON.parse(body)
  } catch {
    // A page of a proxy, or half of a document: it tells nothing.
    return undefined
  }
}
