/** The rows of an import: each a session or a message, checked one by one, so that a bad one keeps no other from coming in. */
import { createHash } from 'node:crypto'
import * as z from 'zod'
import { canonicalJson } from '../core/canonical.ts'
import { fileAt } from '../core/file-path.ts'
import { idPattern } from '../core/ids.ts'
import type { Json, JsonObject } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { cleanText } from '../core/plain-json.ts'
import type { ImportedMessage, ImportedSession } from '../store/imports.ts'

/** What was wrong with a line, for who sent it; no value of it is repeated. */
export type BadRow = { line: number; id?: string; error: string }
export type ImportRow =
  | { kind: 'session'; line: number; sessionId: string; session: ImportedSession }
  | { kind: 'message'; line: number; sessionId: string; message: ImportedMessage }
  /** Of another branch than the one that was shown where it was exported. */
  | { kind: 'unshown' }

const idSchema = z.string().regex(idPattern, 'expected 1 to 128 of A-Z a-z 0-9 . _ : ~ -, not "." or ".."')
const metadataSchema = z.record(z.string(), z.custom<Json>()).nullish()
/** Years 1 to 9999, as PostgreSQL reads them, and not of tomorrow: it stands before what is said here. */
const timeSchema = z.iso
  .datetime({ offset: true, message: 'expected an ISO 8601 time' })
  .transform((text) => new Date(text))
  .refine((at) => at.getTime() >= Date.parse('0001-01-01'), 'expected a time in the years 1 to 9999')
  .refine((at) => at.getTime() <= Date.now() + 86_400_000, 'expected a time that is not in the future')
  .transform((at) => at.toISOString())

const textPart = z.strictObject({ type: z.literal('text'), text: z.string() })
const filePart = z.strictObject({
  type: z.literal('file'),
  mediaType: z.string().min(1).max(200),
  url: z
    .string()
    .max(limits.urlCharactersMax)
    .refine(
      (url) => fileAt(url) !== null || isWebUrl(url),
      'expected an http or https URL, or the path of a file of this session',
    ),
  filename: z.string().min(1).max(limits.filenameCharactersMax).optional(),
})
/** Calls of tools, reasoning and the like are what a server says, and no client. */
const partSchema = z.discriminatedUnion('type', [textPart, filePart], {
  error: 'expected a part of type "text" or "file"',
})

/** What an export says beside, of which nothing is taken. */
const passedOver = {
  author: z.unknown(),
  status: z.unknown(),
  error: z.unknown(),
  lane: z.unknown(),
  isShown: z.unknown(),
  inputTokens: z.unknown(),
  outputTokens: z.unknown(),
  otherParts: z.unknown(),
}
const messageSchema = z
  .strictObject({
    type: z.literal('message'),
    sessionId: idSchema,
    id: idSchema,
    role: z.enum(['user', 'assistant'], { error: 'expected "user" or "assistant"' }),
    text: z.string().min(1).optional(),
    parts: z.array(partSchema).max(limits.partsMax).optional(),
    metadata: metadataSchema,
    createdAt: timeSchema,
    repliesTo: idSchema.nullish(),
    model: z.string().min(1).max(200).nullish(),
    ...passedOver,
  })
  .partial(
    Object.fromEntries(Object.keys(passedOver).map((key) => [key, true])) as { [key in keyof typeof passedOver]: true },
  )
  .refine(({ text, parts }) => (text === undefined) !== (parts === undefined), 'expected either "text" or "parts"')
  .refine(({ role, repliesTo }) => (role === 'assistant') === (repliesTo != null), {
    path: ['repliesTo'],
    message: 'expected the id of the user’s message that it replies to, of an assistant’s message and of no other',
  })
  .refine(({ role, parts }) => role === 'assistant' || parts === undefined || parts.length > 0, {
    path: ['parts'],
    message: 'expected at least one part',
  })
const sessionSchema = z
  .strictObject({
    type: z.literal('session'),
    id: idSchema,
    title: z.string().min(1).max(limits.titleCharactersMax).nullish(),
    metadata: metadataSchema,
    createdAt: timeSchema.nullish(),
    role: z.unknown(),
  })
  .partial({ role: true })

/** `value`: JSON of one line. Throws nothing: what is wrong is answered. */
export function readRow(value: Json, line: number): ImportRow | BadRow {
  const { type, id } = (isObject(value) ? value : {}) as { type?: Json; id?: Json }
  const named = typeof id === 'string' && idPattern.test(id) ? { id } : {}
  const wrong = wrongJson(value)
  if (wrong !== null) return { line, ...named, error: wrong }
  if (type !== 'session' && type !== 'message') {
    return { line, ...named, error: '"type": expected "session" or "message".' }
  }
  if (type === 'session') {
    const parsed = sessionSchema.safeParse(value)
    if (!parsed.success) return { line, ...named, error: sentenceOf(parsed.error) }
    const { title = null, metadata = null, createdAt = null } = parsed.data
    return {
      kind: 'session',
      line,
      sessionId: parsed.data.id,
      session: { title, metadata: metadata as JsonObject | null, createdAt },
    }
  }
  const parsed = messageSchema.safeParse(value)
  if (!parsed.success) return { line, ...named, error: sentenceOf(parsed.error) }
  const { sessionId, isShown } = parsed.data
  if (isShown === false) return { kind: 'unshown' }
  const foreign = (parsed.data.parts ?? []).some((part) => {
    const at = part.type === 'file' ? fileAt(part.url) : null
    return at !== null && at.sessionId !== sessionId
  })
  if (foreign) return { line, ...named, error: '"parts": a file is another session’s.' }
  return { kind: 'message', line, sessionId, message: messageOf(parsed.data, line) }
}

function messageOf(
  { id, role, text, parts, metadata, createdAt, repliesTo = null, model = null }: z.infer<typeof messageSchema>,
  line: number,
): ImportedMessage {
  const said = (parts ?? [{ type: 'text', text: text! }]) as Json[]
  // Last: no import says that it is none.
  const marked = { ...(metadata as JsonObject | null | undefined), imported: true }
  const content = { role, parts: said, metadata: marked, createdAt, repliesTo, model } as JsonObject
  const hash = createHash('sha256').update(canonicalJson(content)).digest('base64url')
  return { line, id, role, parts: said, metadata: marked, createdAt, repliesTo, model, hash }
}

function sentenceOf(error: z.ZodError): string {
  const issue = error.issues[0]
  const where = issue && issue.path.length > 0 ? `"${issue.path.join('.').slice(0, 200)}"` : 'The row'
  return `${where}: ${issue?.message.slice(0, 300) ?? 'not valid'}.`
}

/** What no row may hold, wherever it stands: as of all bodies (P5). Null: nothing of it. */
function wrongJson(value: Json, depth = 0): string | null {
  if (depth > limits.jsonDepthMax) return `JSON may be nested at most ${limits.jsonDepthMax} deep.`
  if (typeof value === 'string' && cleanText(value) !== value)
    return 'Text must be valid Unicode: no NUL character and no half of a surrogate pair.'
  if (typeof value === 'number' && value !== 0 && !(Math.abs(value) >= 1e-21 && Math.abs(value) <= 1e21)) {
    return 'Numbers must be 0, or in size from 1e-21 to 1e21.'
  }
  if (typeof value !== 'object' || value === null) return null
  for (const [key, inner] of Object.entries(value)) {
    if (key === '__proto__') return 'The key "__proto__" is not allowed.'
    const wrong = wrongJson(key, depth) ?? wrongJson(inner, depth + 1)
    if (wrong !== null) return wrong
  }
  return null
}

const isWebUrl = (url: string) => URL.canParse(url) && /^https?:$/.test(new URL(url).protocol)
const isObject = (value: Json): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
