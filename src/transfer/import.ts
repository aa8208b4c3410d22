/**
 * Conversations made elsewhere come in: rows, any number of times, in any order, with the same result. They are stored session
 * by session, each in one transaction; what is interrupted is sent again.
 */
import { point } from '#points'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { type ImportedMessage, type ImportedSession, importRows } from '../store/imports.ts'
import type { HandOverParts } from './hand-over.ts'
import { type BadRow, readRow } from './rows.ts'

/**
 * `waiting`: of the new ones, replies that are kept and shown to nobody, because the message that they reply to has still to
 * come. `passedOver`: what an export says was not shown. `bad`: the first of them, `badCount` says how many.
 * `againInMs`: nothing more was taken of this user, and will be after so long.
 */
export type Imported = {
  new: number
  known: number
  waiting: number
  passedOver: number
  badCount: number
  bad: BadRow[]
  againInMs?: number
}

type OfSession = {
  lines: number[]
  ids: Map<number, string>
  session: ImportedSession | null
  messages: ImportedMessage[]
}

/** `value`: undefined where the line is no JSON. */
export type Line = { line: number; value: Json | undefined }

export async function importLines(
  parts: HandOverParts,
  who: { tenantId: string; userId: string },
  rows: readonly Line[],
  dayMax: number | null = null,
): Promise<Imported> {
  const bad: BadRow[] = []
  const total = { new: 0, known: 0, waiting: 0, passedOver: 0 }
  const sessions = new Map<string, OfSession>()
  for (const { line, value } of rows) {
    const row = value === undefined ? { line, error: 'The line is not valid JSON.' } : readRow(value, line)
    if (!('kind' in row)) {
      bad.push(row)
      continue
    }
    if (row.kind === 'unshown') {
      total.passedOver++
      continue
    }
    const of: OfSession = sessions.get(row.sessionId) ?? { lines: [], ids: new Map(), session: null, messages: [] }
    sessions.set(row.sessionId, of)
    of.lines.push(line)
    of.ids.set(line, row.kind === 'session' ? row.sessionId : row.message.id)
    if (row.kind === 'session' && of.session !== null) total.known++
    else if (row.kind === 'session') of.session = row.session
    else of.messages.push(row.message)
  }
  let since: string | null = null
  let againInMs: number | undefined
  for (const [sessionId, of] of sessions) {
    const answer = await importRows(parts.database, {
      ...who,
      sessionId,
      ...of,
      messagesMax: limits.importedMessagesMax,
      dayMax,
      since,
    })
    if (answer.outcome === 'spent') {
      againInMs = answer.freeInMs
      break
    }
    const badOf = (line: number, error: string): BadRow => ({ line, id: of.ids.get(line)!, error })
    if (answer.outcome !== 'imported') {
      bad.push(...of.lines.map((line) => badOf(line, sentences[answer.outcome])))
      continue
    }
    since ??= answer.at
    total.new += answer.new
    total.known += answer.known
    total.waiting += answer.waiting
    bad.push(...answer.bad.map(({ line, why }) => badOf(line, sentences[why])))
    const { tenantId } = who
    if (answer.made || answer.events.length > 0) {
      parts.wakeups.tell({ tenantId, sessionId, events: answer.events, runs: [], due: false })
    }
    await point('import-session-stored')
  }
  bad.sort((a, b) => a.line - b.line)
  const counts = { ...total, badCount: bad.length, bad: bad.slice(0, badToldMax) }
  return againInMs === undefined ? counts : { ...counts, againInMs }
}

/** An answer holds no more. */
const badToldMax = 100

const sentences = {
  foreign: 'This session is not yours, or was deleted: import into one that you own, or choose a new id.',
  erased: 'Whose it is was deleted meanwhile.',
  full: `A session may have at most ${limits.importedMessagesMax} imported messages.`,
  reply: 'It replies to a message that was not imported: to that only this server gives replies.',
  conflict: 'Another message of this session has this id, or this one had another content when it was imported.',
}

/** Empty lines are none, and count. */
export function linesOf(text: string): Line[] {
  return text
    .split('\n')
    .flatMap((json, at): Line[] => (json.trim() === '' ? [] : [{ line: at + 1, value: jsonOf(json) }]))
}

export function jsonOf(text: string): Json | undefined {
  try {
    return JSON.parse(text) as Json
  } catch {
    return undefined
  }
}
