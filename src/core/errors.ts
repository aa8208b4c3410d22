/**
 * The one table of errors. Each code has, for requests, an HTTP status, the code with which a WebSocket is closed for
 * it (null: it is said in a frame, and the socket stays), and whether the same request may succeed later (or the socket
 * be opened again); for turns, whether the runner tries again by itself (`transient`) and whether a person may
 * (`canRetry`); and the sentence that a person reads, which says what happened and what to do next (two fields where the
 * second depends). `budget_exceeded`
 * and `internal` are of both kinds, and say something else in each. Codes are part of the protocol: they are never
 * renamed. Close codes below 4000 are those of RFC 6455, 7.4.1 and of its registry; ours are 4000 and the HTTP status.
 */
type RequestRow = { status: number; close: CloseCode | null; retryable: boolean; title: string; sentence: string }
type TurnRow = { transient: boolean; canRetry: boolean; happened: string; next: string }
type CloseRow = { reconnects: boolean; sentence: string }

/**
 * The codes with which a WebSocket is closed. `reconnects`: a client opens it again by itself, with growing pauses; else
 * only after something has changed. The sentence is the close's reason where there is no better one: RFC 6455, 5.5.1
 * leaves it 123 bytes.
 */
export const closes = {
  1001: { reconnects: true, sentence: 'The page or the app has gone away. Said by clients.' },
  1009: { reconnects: false, sentence: 'This frame is larger than allowed.' },
  1011: { reconnects: true, sentence: 'Something went wrong on our side, or the database does not answer.' },
  1012: { reconnects: true, sentence: 'This server is going away. Connect again; another one takes over.' },
  4400: { reconnects: false, sentence: 'A frame cannot be read.' },
  4401: { reconnects: false, sentence: 'Sign in, or get a new ticket, then connect again.' },
  4403: { reconnects: false, sentence: 'You may not do this.' },
  4404: { reconnects: false, sentence: 'There is nothing here that you may see.' },
  4408: { reconnects: true, sentence: 'Nothing was asked for a while. Connect again when there is something to ask.' },
  4429: {
    reconnects: true,
    sentence: 'You read too slowly, or have too many sockets. Wait a moment and connect again.',
  },
} as const satisfies Record<number, CloseRow>
export type CloseCode = keyof typeof closes

export const requestErrors = {
  invalid_request: {
    status: 400,
    close: 4400,
    retryable: false,
    title: 'Invalid request',
    sentence: 'The request is not valid.',
  },
  bad_cursor: {
    status: 400,
    close: 4400,
    retryable: false,
    title: 'Bad cursor',
    sentence: 'The cursor cannot be read. Load the session again and follow from its cursor.',
  },
  unauthorized: {
    status: 401,
    close: 4401,
    retryable: false,
    title: 'Unauthorized',
    sentence: 'Sign in first: the request has no valid token or guest cookie.',
  },
  forbidden: {
    status: 403,
    close: 4403,
    retryable: false,
    title: 'Forbidden',
    sentence: 'Your role in this session does not allow this.',
  },
  not_found: {
    status: 404,
    close: 4404,
    retryable: false,
    title: 'Not found',
    sentence: 'There is nothing here that you may see.',
  },
  method_not_allowed: {
    status: 405,
    close: null,
    retryable: false,
    title: 'Method not allowed',
    sentence: 'This route exists, but not with this method. The header "allow" names those that it has.',
  },
  busy: {
    status: 409,
    close: null,
    retryable: true,
    title: 'Busy',
    sentence: 'A reply is being written. Send again when it has ended, or choose to queue.',
  },
  not_waiting: {
    status: 409,
    close: null,
    retryable: false,
    title: 'Not waiting',
    sentence: 'Nothing waits for this answer any more. Load the session to see what became of it.',
  },
  gone: { status: 410, close: 4404, retryable: false, title: 'Gone', sentence: 'This was deleted.' },
  too_large: {
    status: 413,
    close: 1009,
    retryable: false,
    title: 'Too large',
    sentence: 'The request is larger than allowed. Shorten it and send it again.',
  },
  id_conflict: {
    status: 422,
    close: null,
    retryable: false,
    title: 'Id conflict',
    sentence: 'This id is already used for something else. Choose a new id.',
  },
  rate_limited: {
    status: 429,
    close: 4429,
    retryable: true,
    title: 'Too many requests',
    sentence: 'You are sending too fast. Wait a moment and send again.',
  },
  budget_exceeded: {
    status: 429,
    close: null,
    retryable: true,
    title: 'Budget exceeded',
    sentence: 'The budget is used up. Send again when it is renewed or raised.',
  },
  internal: {
    status: 500,
    close: 1011,
    retryable: true,
    title: 'Internal error',
    sentence: 'Something went wrong on our side. Send it again with the same id; nothing is done twice.',
  },
  draining: {
    status: 503,
    close: 1012,
    retryable: true,
    title: 'Draining',
    sentence: 'This server is going away. Connect again; another one takes over.',
  },
  unavailable: {
    status: 503,
    close: 1011,
    retryable: true,
    title: 'Unavailable',
    sentence: 'The database does not answer at the moment. Send it again with the same id; nothing is done twice.',
  },
  no_runner: {
    status: 503,
    close: null,
    retryable: true,
    title: 'No runner',
    sentence:
      'No process is there that writes replies. Its operator has to start one, then send it again with the same id.',
  },
} as const satisfies Record<string, RequestRow>

export const turnErrors = {
  provider_rate_limited: {
    transient: true,
    canRetry: true,
    happened: 'The model is receiving too many requests.',
    next: 'Try again in a moment.',
  },
  provider_overloaded: {
    transient: true,
    canRetry: true,
    happened: 'The model is overloaded.',
    next: 'Try again in a moment.',
  },
  provider_unreachable: {
    transient: true,
    canRetry: true,
    happened: 'The model could not be reached.',
    next: 'Try again in a moment.',
  },
  provider_timeout: {
    transient: true,
    canRetry: true,
    happened: 'The model did not answer in time.',
    next: 'Try again.',
  },
  provider_truncated: {
    transient: true,
    canRetry: true,
    happened: 'The reply broke off before it was finished.',
    next: 'Try again.',
  },
  provider_rejected: {
    transient: false,
    canRetry: false,
    happened: 'The model refused this request.',
    next: 'Change the message and send it as a new one.',
  },
  provider_auth: {
    transient: false,
    canRetry: true,
    happened: 'The server cannot use the model.',
    next: 'Its operator has to check the key and the name of the model, then you can try again.',
  },
  content_filtered: {
    transient: false,
    canRetry: false,
    happened: 'A content filter stopped the reply.',
    next: 'Change the message and send it as a new one.',
  },
  context_too_long: {
    transient: false,
    canRetry: false,
    happened: 'The conversation is too long for the model.',
    next: 'Start a new session or shorten the message.',
  },
  tool_failed: {
    transient: false,
    canRetry: true,
    happened: 'A tool that the reply needed failed.',
    next: 'Try again.',
  },
  tool_uncertain: {
    transient: false,
    canRetry: true,
    happened: 'It is not known whether a tool of this reply has run.',
    next: 'Check what it did before you try again.',
  },
  budget_exceeded: {
    transient: false,
    canRetry: true,
    happened: 'The reply reached its limit before it was finished.',
    next: 'Try again or ask for something shorter.',
  },
  no_progress: { transient: true, canRetry: true, happened: 'The model stopped answering.', next: 'Try again.' },
  crashed: {
    transient: false,
    canRetry: true,
    happened: 'The server stopped while writing this reply.',
    next: 'Try again.',
  },
  expired: {
    transient: false,
    canRetry: true,
    happened: 'This message waited too long for its reply.',
    next: 'Try again.',
  },
  internal: {
    transient: false,
    canRetry: true,
    happened: 'Something went wrong while writing the reply.',
    next: 'Try again.',
  },
} as const satisfies Record<string, TurnRow>

export type RequestCode = keyof typeof requestErrors
export type TurnCode = keyof typeof turnErrors

/** Why a turn failed, as clients see it on the user's message. `error` is the sentence for people. */
export type Failure = { code: TurnCode; error: string; canRetry: boolean; retryAfterMs?: number }

export function failureOf(code: TurnCode, retryAfterMs?: number): Failure {
  const { happened, next, canRetry } = turnErrors[code]
  return { code, error: `${happened} ${next}`, canRetry, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) }
}

const nextOfLastRound = 'It was tried as often as a message may be: send it as a new one.'

/** The same in the last round that a turn may have, where "try again" would be bad advice. */
export function inLastRound({ code, canRetry, error }: Failure): Failure {
  if (!canRetry) return { code, canRetry, error }
  return { code, canRetry: false, error: `${turnErrors[code].happened} ${nextOfLastRound}` }
}

/** What every `ReplyError` has, whichever copy of this module made it: a second bundle of an app has its own. */
const brand = Symbol.for('holdfast.replyError')

/**
 * Thrown by what reads a provider (and by apps' `reply` functions, if they know better than the classifier): the
 * attempt ends with this code. `retryAfterMs` is the provider's own word on when to come back. `detail` is for
 * operators and holds no content.
 *
 * A code that there is not becomes `internal`, and the detail says which there are: plain JavaScript finds out only here,
 * and a reply that failed must have an outcome all the same (I2).
 */
export class ReplyError extends Error {
  static {
    Object.defineProperty(ReplyError.prototype, brand, { value: true })
  }
  override readonly name = 'ReplyError'
  readonly code: TurnCode
  readonly retryAfterMs: number | undefined
  constructor(code: TurnCode, detail: string, options: { retryAfterMs?: number; cause?: unknown } = {}) {
    super(isTurnCode(code) ? detail : noSuchCode(code, detail), { cause: options.cause })
    this.code = isTurnCode(code) ? code : 'internal'
    this.retryAfterMs = options.retryAfterMs
  }
}

/** In place of `instanceof`, which knows only those of its own bundle. */
export function isReplyError(error: unknown): error is ReplyError {
  return typeof error === 'object' && error !== null && brand in error
}

function isTurnCode(code: unknown): code is TurnCode {
  return typeof code === 'string' && Object.hasOwn(turnErrors, code)
}

function noSuchCode(code: unknown, detail: string): string {
  const known = Object.keys(turnErrors).join(', ')
  const got = typeof code === 'string' ? `"${code}"` : typeof code
  return `ReplyError: expected one of the codes ${known}, got ${got}. ${detail}`
}
