import { describe, expect, test, vi } from 'vitest'
import { ReplyError } from '../../src/core/errors.ts'
import { classify, classifyResponse } from '../../src/reply/classify.ts'

function apiCallError(fields: object): Error {
  return Object.assign(new Error('no'), { name: 'AI_APICallError', isRetryable: false, ...fields })
}

function fetchError(code: string): Error {
  return new TypeError('fetch failed', { cause: Object.assign(new Error(code), { code }) })
}

function named(name: string, fields: object = {}): Error {
  return Object.assign(new Error('no'), { name }, fields)
}

test.each([
  [200, 'provider_truncated'],
  [301, 'provider_auth'],
  [400, 'provider_rejected'],
  [401, 'provider_auth'],
  [402, 'provider_auth'],
  [403, 'provider_auth'],
  [404, 'provider_auth'],
  [408, 'provider_timeout'],
  [409, 'provider_overloaded'],
  [413, 'context_too_long'],
  [422, 'provider_rejected'],
  [429, 'provider_rate_limited'],
  [500, 'provider_overloaded'],
  [502, 'provider_overloaded'],
  [503, 'provider_overloaded'],
  [504, 'provider_timeout'],
  [529, 'provider_overloaded'],
])('HTTP %i is %s, from an SDK and from our readers alike', (status, code) => {
  expect(classify(apiCallError({ statusCode: status })).code).toBe(code)
  expect(classify({ status, error: {} }).code).toBe(code)
  expect(classifyResponse(status, {}, 'not JSON').code).toBe(code)
})

test.each([
  [429, { code: 'insufficient_quota', type: 'insufficient_quota' }, 'provider_auth'],
  [404, { code: 'model_not_found', type: 'invalid_request_error' }, 'provider_auth'],
  [400, { code: 'context_length_exceeded', type: 'invalid_request_error' }, 'context_too_long'],
  [400, { type: 'invalid_request_error', message: 'prompt is too long: 9 tokens > 8 maximum' }, 'context_too_long'],
  [400, { code: 'content_filter' }, 'content_filtered'],
  [400, { type: 'billing_error' }, 'provider_auth'],
  [404, { type: 'not_found_error', message: 'model: stub-1' }, 'provider_auth'],
  [404, { type: 'api_error', message: 'model "stub-1" not found, try pulling it first' }, 'provider_auth'],
  [200, { type: 'api_error' }, 'provider_overloaded'],
  [200, { type: 'overloaded_error' }, 'provider_overloaded'],
])('HTTP %i with the error %o is %s', (statusCode, error, code) => {
  const body = JSON.stringify({ type: 'error', error })
  expect(classifyResponse(statusCode, {}, body).code).toBe(code)
  expect(classify(apiCallError({ statusCode, responseBody: body })).code).toBe(code)
  expect(classify(apiCallError({ statusCode, data: { error } })).code).toBe(code)
})

test.each([
  ['a refused connection', fetchError('ECONNREFUSED'), 'provider_unreachable'],
  ['an unknown host', fetchError('ENOTFOUND'), 'provider_unreachable'],
  ['a connection that could not be made in time', fetchError('UND_ERR_CONNECT_TIMEOUT'), 'provider_unreachable'],
  ['headers that did not come in time', fetchError('UND_ERR_HEADERS_TIMEOUT'), 'provider_timeout'],
  ['a socket error without a cause', named('Error', { code: 'ECONNRESET' }), 'provider_unreachable'],
  ['an SDK that could not connect', apiCallError({ isRetryable: true }), 'provider_unreachable'],
  ["the app's own time limit", named('TimeoutError'), 'provider_timeout'],
  ['an abort that is not ours', new DOMException('Aborted', 'AbortError'), 'provider_timeout'],
  ['a response that is not what the SDK expects', named('AI_TypeValidationError'), 'provider_truncated'],
  ['an answer without a body', named('AI_EmptyResponseBodyError'), 'provider_truncated'],
  ['a missing key', named('AI_LoadAPIKeyError'), 'provider_auth'],
  ['a missing setting', named('AI_LoadSettingError'), 'provider_auth'],
  ['a model that the SDK does not know', named('AI_NoSuchModelError', { modelId: 'x' }), 'provider_auth'],
  ["a user's file that is not there", named('AI_DownloadError', { statusCode: 404 }), 'provider_rejected'],
  ["a user's file that is not for us", named('AI_DownloadError', { statusCode: 403 }), 'provider_rejected'],
  ['a file whose address is refused', named('AI_DownloadError'), 'provider_rejected'],
  ['a file whose host is busy', named('AI_DownloadError', { statusCode: 503 }), 'provider_overloaded'],
  ['a file whose host is away', named('AI_DownloadError', { cause: fetchError('ECONNRESET') }), 'provider_unreachable'],
  ['a kind of file that the model cannot read', named('AI_UnsupportedFunctionalityError'), 'provider_rejected'],
  ['a number that came as a code, as some routers send it', { code: 429, message: 'no' }, 'provider_rate_limited'],
  ['a bug', new TypeError('x is not a function'), 'internal'],
  ['a text', 'no', 'internal'],
  ['nothing', undefined, 'internal'],
])('%s is %s', (_, error, code) => {
  expect(classify(error).code).toBe(code)
})

describe('what wraps an error', () => {
  test('a RetryError is judged by its last error, whatever the name around it', () => {
    const lastError = apiCallError({ statusCode: 429, responseHeaders: { 'retry-after': '2' } })
    expect(classify(named('AI_RetryError', { lastError }))).toMatchObject({
      code: 'provider_rate_limited',
      retryAfterMs: 2_000,
    })
  })

  test('a ReplyError passes as it is, also from inside a wrapper', () => {
    const own = new ReplyError('content_filtered', 'Not this.')
    expect(classify(own)).toBe(own)
    expect(classify(named('AI_RetryError', { lastError: own }))).toBe(own)
  })

  test('one of a second bundle of the app, which has a class of its own, is one as well', async () => {
    vi.resetModules()
    const other = await import('../../src/core/errors.ts')
    const theirs = new other.ReplyError('provider_rate_limited', 'Wait.', { retryAfterMs: 7_000 })
    expect(theirs).not.toBeInstanceOf(ReplyError)
    expect(classify(theirs)).toBe(theirs)
    expect(classify(named('AI_RetryError', { lastError: theirs }))).toBe(theirs)
  })

  test('causes that point at each other do not hold it up', () => {
    const error = new Error('loop')
    error.cause = error
    expect(classify(error).code).toBe('internal')
  })
})

test.each([
  [{ 'retry-after': '1.5' }, 1_500],
  [{ 'retry-after': '0' }, 0],
  [{ 'retry-after-ms': '250', 'retry-after': '9' }, 250],
  [{ 'retry-after': '-3' }, 0],
  [{ 'retry-after': 'Thu, 01 Jan 1970 00:00:00 GMT' }, 0],
  [{ 'retry-after': 'soon' }, undefined],
  [{}, undefined],
])('the headers %o say to come back after %s ms', (headers, retryAfterMs) => {
  expect(classifyResponse(429, headers, '').retryAfterMs).toBe(retryAfterMs)
  expect(classify(named('RateLimitError', { status: 429, headers: new Headers(headers) })).retryAfterMs).toBe(
    retryAfterMs,
  )
})

test('Retry-After may be a date', () => {
  const inTenSeconds = new Date(Date.now() + 10_000).toUTCString()
  const { retryAfterMs } = classifyResponse(503, { 'retry-after': inTenSeconds }, '')
  expect(retryAfterMs).toBeGreaterThan(8_000)
  expect(retryAfterMs).toBeLessThanOrEqual(10_000)
})

test('the detail names facts and never what the provider wrote, which may hold keys and content', () => {
  const body = JSON.stringify({ error: { code: 'invalid_api_key', message: 'Incorrect key: sk-canary' } })
  const { message, cause } = classifyResponse(401, {}, body)
  expect(message).toBe('HTTP 401 invalid_api_key')
  expect(JSON.stringify(cause)).toContain('sk-canary')
})
