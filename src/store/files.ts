/** What users sent as files: stored once per session and content, read with the session's rights. */
import type { Database, Statement } from './database.ts'
import type { Role } from './sessions.ts'

type SessionKey = { tenantId: string; sessionId: string }

const storeStatement: Statement = {
  name: 'store-file',
  text: 'select holdfast.store_file($1, $2, $3, $4, $5, $6, $7::bytea, $8, $9) as outcome',
}

/** Judged under the session's lock. `full`: the session has as many files, or bytes of them, as it may. Asked again it is `same`. */
export async function storeFile(
  database: Database,
  ask: SessionKey & {
    userId: string
    fileId: string
    mediaType: string
    filename: string | null
    bytes: Uint8Array
    filesMax: number
    bytesMax: number
  },
): Promise<'created' | 'same' | 'full' | 'not_found' | 'forbidden'> {
  type Row = { outcome: 'created' | 'same' | 'full' | 'not_found' | 'forbidden' }
  const { tenantId, sessionId, userId, fileId, mediaType, filename, bytes, filesMax, bytesMax } = ask
  const values = [tenantId, sessionId, userId, fileId, mediaType, filename, bytes, filesMax, bytesMax]
  return (await database.query<Row>('files', storeStatement, values))[0]!.outcome
}

const thereStatement: Statement = {
  name: 'files-there',
  text: `
    select m.role, coalesce((select json_object_agg(f.id, f.media_type) from holdfast.files f
        where f.tenant_id = $1 and f.session_id = $2 and f.id = any($4::text[])), '{}') as types
      from holdfast.members m where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $3`,
}

/** The media types of those of these files that are there, and what the user is to the session; null: nothing. */
export async function filesThere(
  database: Database,
  ask: SessionKey & { userId: string; fileIds: string[] },
): Promise<{ role: Role; types: Map<string, string> } | null> {
  type Row = { role: Role; types: Record<string, string> }
  const values = [ask.tenantId, ask.sessionId, ask.userId, ask.fileIds]
  const row = (await database.query<Row>('read', thereStatement, values))[0]
  return row ? { role: row.role, types: new Map(Object.entries(row.types)) } : null
}

const serveStatement: Statement = {
  name: 'serve-file',
  text: `
    select f.media_type as "mediaType", f.filename, f.size, case when $5 then f.bytes end as bytes
      from holdfast.members m
      join holdfast.files f on f.tenant_id = m.tenant_id and f.session_id = m.session_id and f.id = $4
     where m.tenant_id = $1 and m.session_id = $2 and m.user_id = $3`,
}

export type ServedFile = { mediaType: string; filename: string | null; size: number; bytes: Buffer | null }

/** Null: no such file, or none that the user may read. `bytes` only where they are asked for. */
export async function fileOfMember(
  database: Database,
  ask: SessionKey & { userId: string; fileId: string; withBytes: boolean },
): Promise<ServedFile | null> {
  const values = [ask.tenantId, ask.sessionId, ask.userId, ask.fileId, ask.withBytes]
  const rows = await database.query<ServedFile>(ask.withBytes ? 'files' : 'read', serveStatement, values)
  return rows[0] ?? null
}

const listStatement: Statement = {
  name: 'list-files',
  text: `
    select id, media_type as "mediaType", filename, size, author, holdfast.iso(created_at) as "createdAt"
      from holdfast.files where tenant_id = $1 and session_id = $2 order by created_at, id`,
}

export type ListedFile = {
  id: string
  mediaType: string
  filename: string | null
  size: number
  author: string
  createdAt: string
}

/** All of a session, oldest first: their number is bounded. */
export function listFiles(database: Database, { tenantId, sessionId }: SessionKey): Promise<ListedFile[]> {
  return database.query('read', listStatement, [tenantId, sessionId])
}

const sizesStatement: Statement = {
  name: 'file-sizes',
  text: 'select id, size from holdfast.files where tenant_id = $1 and session_id = $2 and id = any($3::text[])',
}

/** For a prompt, which is the session's own: nobody's rights are asked. */
export async function fileSizes(
  database: Database,
  { tenantId, sessionId }: SessionKey,
  fileIds: string[],
): Promise<Map<string, number>> {
  type Row = { id: string; size: number }
  const rows = await database.query<Row>('read', sizesStatement, [tenantId, sessionId, fileIds])
  return new Map(rows.map(({ id, size }) => [id, size]))
}

const contentStatement: Statement = {
  name: 'file-content',
  text: `
    select media_type as "mediaType", bytes from holdfast.files
     where tenant_id = $1 and session_id = $2 and id = $3`,
}

/** Null: the session was deleted. */
export async function fileContent(
  database: Database,
  { tenantId, sessionId }: SessionKey,
  fileId: string,
): Promise<{ mediaType: string; bytes: Buffer } | null> {
  type Row = { mediaType: string; bytes: Buffer }
  return (await database.query<Row>('files', contentStatement, [tenantId, sessionId, fileId]))[0] ?? null
}
