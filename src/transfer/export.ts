/** What a user has, as JSON lines: each a row that an import takes (rows.ts), with what it passes over beside. */
import type { JsonObject } from '../core/json.ts'
import type { Database } from '../store/database.ts'
import { type ExportedMessage, type ExportedSession, exportedMessages, exportedSessions } from '../store/imports.ts'

const sessionsMax = 100
/** A reply may have a megabyte. */
const messagesMax = 20

/** Texts of some lines each, each line ended. One page is held at a time. Without a session all of the user's. */
export async function* exportLines(
  database: Database,
  { tenantId, userId, sessionId }: { tenantId: string; userId: string; sessionId: string | null },
): AsyncGenerator<string, void, undefined> {
  for (let after = ''; ; ) {
    const sessions = await exportedSessions(database, { tenantId, userId, after, only: sessionId, limit: sessionsMax })
    for (const session of sessions) {
      yield lineOf(sessionLine(session))
      yield* messageLines(database, { tenantId, userId, sessionId: session.id })
    }
    const last = sessions.at(-1)
    if (last === undefined || sessions.length < sessionsMax) return
    after = last.id
  }
}

async function* messageLines(
  database: Database,
  of: { tenantId: string; userId: string; sessionId: string },
): AsyncGenerator<string, void, undefined> {
  for (let after = { position: -2_147_483_648, role: '', id: '' }; ; ) {
    const rows = await exportedMessages(database, { ...of, after, limit: messagesMax })
    const lines = rows.flatMap(({ message }) => messageLine(of.sessionId, message)).map(lineOf)
    if (lines.length > 0) yield lines.join('')
    const last = rows.at(-1)
    if (last === undefined || rows.length < messagesMax) return
    after = { position: last.position, role: last.message.role, id: last.message.id }
  }
}

const lineOf = (row: object) => `${JSON.stringify(row)}\n`

function sessionLine({ id, title, metadata, createdAt, role }: ExportedSession) {
  return { type: 'session', id, title, metadata, createdAt, role }
}

/** None: nothing is said in it, as in a reply that is still to come. */
function messageLine(sessionId: string, { parts, ...message }: ExportedMessage): object[] {
  if (parts.length === 0) return []
  const isTaken = ({ type }: JsonObject) => type === 'text' || type === 'file'
  const others = parts.filter((part) => !isTaken(part))
  const taken = parts.filter(isTaken).map(partOf)
  return [{ type: 'message', sessionId, ...message, parts: taken, ...(others.length > 0 && { otherParts: others }) }]
}

/** As a client may submit it. */
function partOf({ type, text, mediaType, url, filename }: JsonObject): JsonObject {
  if (type === 'text') return { type, text: text! }
  return { type: type!, mediaType: mediaType!, url: url!, ...(filename === undefined ? {} : { filename }) }
}
