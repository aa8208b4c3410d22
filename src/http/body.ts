/** Reading what clients send: bounded, then parsed, then checked against the route's schema. */
import type { IncomingMessage } from 'node:http'
import * as z from 'zod'
import { fileAt } from '../core/file-path.ts'
import { idPattern } from '../core/ids.ts'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { cleanText } from '../core/plain-json.ts'
import { isName, nameRule } from './principal.ts'
import { Problem } from './problem.ts'

export async function readBody<T>(request: Request, schema: z.ZodType<T>): Promise<T> {
  const value = await readJson(request, limits.requestBytesMax)
  checkValue(value)
  return checked(value, schema)
}

/** What is asked in code is held to what holds for a body: its JSON is what is taken. */
export function readValue<T>(asked: object, schema: z.ZodType<T>): T {
  const text = textOf(asked)
  const max = limits.requestBytesMax
  if (Buffer.byteLength(text) > max) throw new Problem('too_large', `What is asked may have at most ${max} bytes.`)
  const value = parseJson(text)
  checkValue(value)
  return checked(value, schema)
}

function textOf(asked: object): string {
  try {
    return JSON.stringify(asked)
  } catch {
    throw new Problem('invalid_request', 'What is asked must be JSON: no circles and no bigint.')
  }
}

/** Of any depth and with any text: for a body of which little is read. What is read has to pass `checked`. */
export async function readJson(request: Request, bytesMax: number): Promise<Json> {
  const type = request.headers.get('content-type') ?? ''
  // Also what keeps other sites' forms out: a browser asks before it sends JSON across origins.
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    throw new Problem(
      'invalid_request',
      `Expected content-type application/json, got ${type ? `"${type.slice(0, 100)}"` : 'none'}.`,
    )
  }
  return parseJson(await readText(request, bytesMax))
}

export function checked<T>(value: Json, schema: z.ZodType<T>): T {
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw new Problem('invalid_request', sentenceOf(parsed.error))
  return parsed.data
}

/**
 * A parser that the app has put before us, such as `express.json()`, has read the body and left in `body` what it made
 * of it: a value, a text or bytes. The glue to Node takes bytes from `rawBody`, where some parsers leave them as well.
 * A `body` beside a stream that nobody has read is Express 4's for what no parser was for.
 */
export function restoreBody(incoming: IncomingMessage & { body?: unknown; rawBody?: unknown }): void {
  if (!incoming.readableEnded || incoming.body === undefined || incoming.rawBody instanceof Buffer) return
  incoming.rawBody = bytesOf(incoming.body)
}

function bytesOf(body: unknown): Buffer {
  if (body instanceof Uint8Array) return Buffer.from(body)
  if (typeof body === 'string') return Buffer.from(body)
  try {
    return Buffer.from(JSON.stringify(body))
  } catch {
    // What is no JSON, or nested too deep to be written, is answered as a body that is not valid.
    return Buffer.alloc(0)
  }
}

async function readText(request: Request, max: number): Promise<string> {
  return decodeUtf8(await readBytes(request, max, `The body may have at most ${max} bytes.`))
}

/** Of bodies and frames (socket-frames.ts) that are being read at this moment. Who sends slowly holds no more than they have sent. */
let beingRead = 0

/** A frame that is not whole. `refuse` has it given up, and what it held released. */
export type Holder = { readonly held: number; refuse(): void }
const holders = new Set<Holder>()

/** It makes room for others as long as it is the largest. Answers what ends that. */
export function mayBeRefused(holder: Holder): () => void {
  holders.add(holder)
  return () => void holders.delete(holder)
}

/**
 * So many more have come of something that is not whole yet. Where that is more than this process holds of all, the largest
 * frame gives way, and not who comes: a socket holds half a frame as long as it likes. False: there is none.
 */
export function holdBytes(bytes: number): boolean {
  beingRead += bytes
  while (beingRead > limits.bodiesBytesMax) {
    const largest = largestHolder()
    if (largest === undefined) return false
    largest.refuse()
  }
  return true
}

function largestHolder(): Holder | undefined {
  let largest: Holder | undefined
  for (const holder of holders) if (holder.held > (largest?.held ?? 0)) largest = holder
  return largest
}

/** They are read, or nobody wants them any more. */
export function releaseBytes(bytes: number): void {
  beingRead -= bytes
}

/** The body as it came. More than `max` bytes are refused with this sentence, without waiting for the rest. */
export async function readBytes(request: Request, max: number, sentence: string): Promise<Buffer> {
  const tooLarge = () => new Problem('too_large', sentence)
  if (Number(request.headers.get('content-length') ?? 0) > max) throw tooLarge()
  if (!request.body) return Buffer.alloc(0)
  const pieces: Uint8Array[] = []
  let bytes = 0
  try {
    for await (const piece of request.body as unknown as AsyncIterable<Uint8Array>) {
      bytes += piece.byteLength
      const mayHold = holdBytes(piece.byteLength)
      if (bytes > max) throw tooLarge()
      if (!mayHold) throw new Problem('rate_limited', tooMuchAtOnce, { retryAfterMs: 1_000 })
      pieces.push(piece)
    }
  } catch (error) {
    if (error instanceof Problem) throw error
    // The client went away in the middle of it: nobody's fault here, and nobody hears the answer.
    throw new Problem('invalid_request', 'The body broke off.')
  } finally {
    releaseBytes(bytes)
  }
  return Buffer.concat(pieces)
}

export const tooMuchAtOnce = 'Too much is being uploaded to this server at the moment. Send it again later.'

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new Problem('invalid_request', 'The body is not valid UTF-8.')
  }
}

export function parseJson(text: string): Json {
  let value: Json
  try {
    value = JSON.parse(text)
  } catch {
    throw new Problem('invalid_request', 'The body is not valid JSON.')
  }
  return value
}

/** What no route takes, wherever it stands: too deep, half characters, NUL, extreme numbers, prototypes as keys. */
export function checkValue(value: Json): void {
  checkAt(value, 0, checkText)
}

/** All of it but texts, for JSON whose texts are cleaned instead. */
export function checkShape(value: Json): void {
  checkAt(value, 0, () => undefined)
}

function checkAt(value: Json, depth: number, checkEach: (text: string) => void): void {
  if (depth > limits.jsonDepthMax) {
    throw new Problem('invalid_request', `JSON may be nested at most ${limits.jsonDepthMax} deep.`)
  }
  if (typeof value === 'string') checkEach(value)
  if (typeof value === 'number' && !isWritable(value)) {
    throw new Problem('invalid_request', 'Numbers must be 0, or in size from 1e-21 to 1e21.')
  }
  if (typeof value !== 'object' || value === null) return
  for (const [key, inner] of Object.entries(value)) {
    if (key === '__proto__') throw new Problem('invalid_request', 'The key "__proto__" is not allowed.')
    checkEach(key)
    checkAt(inner, depth + 1, checkEach)
  }
}

/**
 * PostgreSQL writes numbers of `jsonb` in full: `1e308` comes back as 309 digits, so a body of 256 KB became 13 MB in each
 * event, snapshot and page that holds it.
 */
function isWritable(value: number): boolean {
  const size = Math.abs(value)
  return size === 0 || (size >= 1e-21 && size <= 1e21)
}

function checkText(text: string): void {
  if (cleanText(text) === text) return
  throw new Problem('invalid_request', 'Text must be valid Unicode: no NUL character and no half of a surrogate pair.')
}

/** The first thing that is wrong, where, and what was expected. Values are not repeated: they may be content. */
function sentenceOf(error: z.ZodError, whole = 'The body'): string {
  const issue = error.issues[0]
  if (!issue) return 'The request is not valid.'
  const where = issue.path.length > 0 ? `"${issue.path.join('.').slice(0, 200)}"` : whole
  return `${where}: ${issue.message.slice(0, 300)}.`
}

/** A query's values: each a string or absent. Keys that the schema does not know are passed over, unless it is strict. */
export function readQuery<T>(url: URL, schema: z.ZodType<T>): T {
  const parsed = schema.safeParse(Object.fromEntries(url.searchParams))
  if (!parsed.success) {
    const { path } = parsed.error.issues[0] ?? {}
    const where = path?.length ? 'In the query, ' : ''
    throw new Problem('invalid_request', `${where}${sentenceOf(parsed.error, 'The query')}`)
  }
  return parsed.data
}

/** Of a user or a tenant. */
export const nameSchema = z.string().refine(isName, `expected a text ${nameRule}`)
export const idSchema = z.string().regex(idPattern, 'expected 1 to 128 of A-Z a-z 0-9 . _ : ~ -, not "." or ".."')

/** Its values are JSON already, and were bounded when the body was read. */
export const metadataSchema = z.record(z.string(), z.custom<Json>())

export const filenameSchema = z
  .string()
  .min(1)
  .max(limits.filenameCharactersMax)
  .refine((name) => cleanText(name) === name, 'expected valid Unicode without NUL')

/** As long as the body lets it be, and read by `takeOutFiles`. */
const dataUrlSchema = z.string().regex(/^data:/i)
const storedFileSchema = z
  .string()
  .max(limits.urlCharactersMax)
  .refine((url) => fileAt(url) !== null)
const webUrlSchema = z.url({ protocol: /^https?$/ }).max(limits.urlCharactersMax)

const filePartSchema = z
  .strictObject({
    type: z.literal('file'),
    mediaType: z.string().max(200),
    url: z.union([dataUrlSchema, storedFileSchema, webUrlSchema], {
      error: `expected an http or https URL of at most ${limits.urlCharactersMax} characters, a data: URL, or the path of a file of this session`,
    }),
    filename: filenameSchema.optional(),
  })
  .refine(({ mediaType, url }) => mediaType !== '' || /^data:/i.test(url), {
    path: ['mediaType'],
    message: 'expected a type, which only a data: URL says by itself',
  })

export const partSchema = z.discriminatedUnion(
  'type',
  [z.strictObject({ type: z.literal('text'), text: z.string().min(1) }), filePartSchema],
  { error: 'expected a part of type "text" or "file"' },
)

/** As clients send it: files may still be `data:` URLs. What is stored has gone through `takeOutFiles`. */
export type UserPart = z.infer<typeof partSchema>
