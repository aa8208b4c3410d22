/** The rows of an app's own table of messages as the rows of an import, session by session. */
import type { JsonObject } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import type { SourceRow } from '../store/source-table.ts'
import type { Line } from './import.ts'

/** Some of one session's rows, in order: `isEnd` says that nothing of it follows. */
export type SessionRows = { sessionId: string; userId: string | null; lines: Line[]; isEnd: boolean }

/**
 * A session is its first user's. A reply that names no message replies to the user's message before it. `max`: a session of
 * more rows comes in several pieces.
 */
export async function* sessionsIn(pages: AsyncIterable<SourceRow[]>, max: number): AsyncGenerator<SessionRows> {
  let now: (SessionRows & { asked: string | null }) | undefined
  let line = 0
  for await (const page of pages) {
    for (const row of page) {
      line++
      const sessionId = row.sessionId ?? ''
      if (now !== undefined && now.sessionId !== sessionId) {
        yield { ...now, isEnd: true }
        now = undefined
      }
      if (now === undefined) {
        now = { sessionId, userId: row.userId, lines: titleLine(row, line), isEnd: false, asked: null }
      }
      now.userId ??= row.userId
      if (row.role === 'user') now.asked = row.id
      now.lines.push({ line, value: messageOf(row, now.asked) })
      if (now.lines.length < max) continue
      yield now
      now = { ...now, lines: [] }
    }
  }
  if (now !== undefined) yield { ...now, isEnd: true }
}

function titleLine({ sessionId, title }: SourceRow, line: number): Line[] {
  return title === null || title === ''
    ? []
    : [{ line, value: { type: 'session', id: sessionId, title: startOf(title) } }]
}

/** As much of it as a title may have, and no half of a character at its end. */
const startOf = (title: string) => title.slice(0, limits.titleCharactersMax).replace(/[\ud800-\udbff]$/u, '')

function messageOf(
  { id, sessionId, role, text, createdAt, repliesTo, model }: SourceRow,
  asked: string | null,
): JsonObject {
  const said = { type: 'message', id, sessionId, role, text, createdAt }
  return {
    ...said,
    ...(role === 'assistant' ? { repliesTo: repliesTo ?? asked } : {}),
    ...(model === null || model === '' ? {} : { model }),
  }
}
