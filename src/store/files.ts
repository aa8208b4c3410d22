/** What users sent as files: stored once per session and content, read with the session's rights. */
import type { Database, Statement } from './database.ts'
import type { Role } from './sessions.ts'

type SessionKey = { tenantId: string; sessionId: string }

const storeStatement: Statement = {
  name: 'store-file',
  text: 'select holdfast.store_file($1, $2, $3, $4, $5, $6, $7::bytea, $8, $9, $10) as outcome',
}

/** Judged under the session's lock. `full`: the session has as many files, or bytes of them, as it may. Asked again it is `same`. */
export async function storeFile(
  database: Database,
  ask: SessionKey & {
    userId: string
    /** Who may see it, as a message's. */
    audience: string | null
    fileId: string
    mediaType: string
    filename: string | null
    bytes: Uint8Array
    filesMax: number
    bytesMax: number
  },
): Promise<'created' | 'same' | 'full' | 'not_found' | 'forbidden'> {
  type Row = { outcome: 'created' | 'same' | 'full' | 'not_found' | 'forbidden' }
  const { tenantId, sessionId, userId, audience, fileId, mediaType, filename, bytes, filesMax, bytesMax } = ask
  const values = [tenantId, sessionId, userId, fileId, mediaType, filename, bytes, filesMax, bytesMax, audience]
  return (await database.query<Row>('files', storeStatement, values))[0]!.outcome
}

const thereStatement: Statement = {
  name: 'files-there',
  text: `
    select m.role, coalesce((select json_object_agg(f.id, f.media_type) from holdfast.files f
        where f.tenant_id = $1 and f.session_id = $2 and f.id = any($4::text[])
          and (f.audience is null or f.audience = $5)), '{}') as types
      from holdfast.members m where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $3`,
}

/**
 * The media types of those of these files that are there and may be named in what has this audience, and what the user is to the
 * session; null: nothing.
 */
export async function filesThere(
  database: Database,
  ask: SessionKey & { userId: string; audience: string | null; fileIds: string[] },
): Promise<{ role: Role; types: Map<string, string> } | null> {
  type Row = { role: Role; types: Record<string, string> }
  const values = [ask.tenantId, ask.sessionId, ask.userId, ask.fileIds, ask.audience]
  const row = (await database.query<Row>('read', thereStatement, values))[0]
  return row ? { role: row.role, types: new Map(Object.entries(row.types)) } : null
}

const oneStatement: Statement = {
  name: 'file-of-member',
  text: `
    select f.media_type as "mediaType", f.filename, f.size
      from holdfast.members m
      join holdfast.files f on f.tenant_id = m.tenant_id and f.session_id = m.session_id and f.id = $4
     where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $3 and holdfast.may_see(f.audience, $3)`,
}

export type StoredFile = { mediaType: string; filename: string | null; size: number }

/** Null: no such file, or none that the user may read. */
export async function fileOfMember(
  database: Database,
  ask: SessionKey & { userId: string; fileId: string },
): Promise<StoredFile | null> {
  const values = [ask.tenantId, ask.sessionId, ask.userId, ask.fileId]
  return (await database.query<StoredFile>('read', oneStatement, values))[0] ?? null
}

/**
 * How much of a file is read at a time. The driver reads bytes as text of twice the length, and a whole file kept
 * everything else in the process waiting for 0.2 s. (Of 3 bytes each: pieces of base64 can be put together.)
 */
export const fileSliceBytes = 3 * 128 * 1024

const memberSliceStatement: Statement = {
  name: 'file-slice-of-member',
  text: `
    select substring(f.bytes from $5::int + 1 for ${fileSliceBytes}) as bytes
      from holdfast.members m
      join holdfast.files f on f.tenant_id = m.tenant_id and f.session_id = m.session_id and f.id = $4
     where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $3 and holdfast.may_see(f.audience, $3)`,
}

/** What stands from there on in the file. Null: it is gone, or the user may not read it any more. */
export async function fileSliceOfMember(
  database: Database,
  ask: SessionKey & { userId: string; fileId: string; from: number },
): Promise<Buffer | null> {
  const values = [ask.tenantId, ask.sessionId, ask.userId, ask.fileId, ask.from]
  return (await database.query<{ bytes: Buffer }>('files', memberSliceStatement, values))[0]?.bytes ?? null
}

const listStatement: Statement = {
  name: 'list-files',
  text: `
    select id, media_type as "mediaType", filename, size, author, holdfast.iso(created_at) as "createdAt"
      from holdfast.files
     where tenant_id = $1 and session_id = $2 and holdfast.may_see(audience, $3) order by created_at, id`,
}

export type ListedFile = {
  id: string
  mediaType: string
  filename: string | null
  size: number
  author: string
  createdAt: string
}

/** All of a session that the user may see, oldest first: their number is bounded. */
export function listFiles(
  database: Database,
  { tenantId, sessionId, userId }: SessionKey & { userId: string },
): Promise<ListedFile[]> {
  return database.query('read', listStatement, [tenantId, sessionId, userId])
}

const promptStatement: Statement = {
  name: 'prompt-files',
  text: `
    select id, media_type as "mediaType", size from holdfast.files
     where tenant_id = $1 and session_id = $2 and id = any($3::text[])`,
}

/** For a prompt, which is the session's own: nobody's rights are asked. */
export async function promptFiles(
  database: Database,
  { tenantId, sessionId }: SessionKey,
  fileIds: string[],
): Promise<Map<string, { mediaType: string; size: number }>> {
  type Row = { id: string; mediaType: string; size: number }
  const rows = await database.query<Row>('read', promptStatement, [tenantId, sessionId, fileIds])
  return new Map(rows.map((row) => [row.id, row]))
}

const sliceStatement: Statement = {
  name: 'file-slice',
  text: `
    select substring(bytes from $4::int + 1 for ${fileSliceBytes}) as bytes from holdfast.files
     where tenant_id = $1 and session_id = $2 and id = $3`,
}

/** For a prompt: what stands from there on in the file. Null: the session was deleted. */
export async function fileSlice(
  database: Database,
  { tenantId, sessionId }: SessionKey,
  fileId: string,
  from: number,
): Promise<Buffer | null> {
  const values = [tenantId, sessionId, fileId, from]
  return (await database.query<{ bytes: Buffer }>('files', sliceStatement, values))[0]?.bytes ?? null
}
