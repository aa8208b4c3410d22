/**
 * A title for a session, by the app's `title`, after its first complete reply. It is asked for once, by who stored that
 * reply; when that process ends, nobody else asks. Nothing waits for it.
 */

import type { Event } from '../core/event.ts'
import { limits } from '../core/limits.ts'
import { cleanText } from '../core/plain-json.ts'
import type { Title } from '../reply/finished.ts'
import { replyMessage } from '../reply/message.ts'
import type { Database } from '../store/database.ts'
import { giveTitleIfNone, isFirstUntitledReply } from '../store/sessions.ts'
import { askApp } from './app-call.ts'
import { askAgain } from './ask-again.ts'
import type { Attempt, AttemptOptions } from './attempt.ts'

export type TitleOptions = Pick<AttemptOptions, 'onEvent' | 'log'> & {
  database: Database
  /** Looked up for each session, because a reloaded module's is used. */
  title: () => Title | undefined
  titleMs: number
}

/**
 * Whether there is anything to ask: the app gives titles, and there was none when the attempt began. All members see the
 * title, so nothing private is told in it.
 */
export function mayBeUntitled({ title }: Pick<TitleOptions, 'title'>, { asked, claimed }: Attempt): boolean {
  return title() !== undefined && asked !== null && asked.session.title === null && claimed.audience === null
}

/** Never rejects. `event`: by which the attempt's reply was stored as complete. */
export async function titleFirst(options: TitleOptions, attempt: Attempt, event: Event): Promise<void> {
  const { claimed, handover } = attempt
  const untitled = (why: string) => options.log('title: the session has none', { sessionId: claimed.sessionId, why })
  try {
    const title = await askTitle(options, attempt, event)
    if (title === null) return
    if ('why' in title) return untitled(title.why)
    const given = await askAgain(() => giveTitleIfNone(options.database, { ...claimed, title: title.text }), handover)
    if (given) options.onEvent(claimed, given)
  } catch {
    untitled('the database does not answer')
  }
}

/** Null: it has one, or is to have none. */
async function askTitle(
  { database, title: find, titleMs }: TitleOptions,
  { claimed, fold, asked, handover }: Attempt,
  { seq }: Event,
): Promise<{ text: string } | { why: string } | null> {
  const title = find()
  if (title === undefined || asked === null) return null
  if (!(await askAgain(() => isFirstUntitledReply(database, { ...claimed, seq }), handover))) return null
  const { messages, session, user } = asked
  const stored = { id: claimed.replyId, role: 'assistant' as const, parts: fold.parts(), metadata: fold.metadata() }
  const context = { messages: [...messages, replyMessage(stored)], session, user }
  const answer = await askApp((signal) => title({ ...context, signal }), titleMs, [handover])
  switch (answer.how) {
    case 'answered':
      return readTitle(answer.value)
    case 'failed':
      return { why: `it threw ${answer.error}` }
    case 'late':
      return { why: `no answer within ${titleMs} ms` }
    case 'over':
      return { why: 'the process is told to end' }
  }
}

/** One line, as a person might have written it. */
function readTitle(value: unknown): { text: string } | { why: string } | null {
  if (value === null || value === undefined) return null
  if (typeof value !== 'string') return { why: 'it answered no text' }
  const line = cleanText(value).replace(/\s+/g, ' ').trim()
  const text = line
    .slice(0, limits.titleCharactersMax)
    .replace(/[\uD800-\uDBFF]$/, '')
    .trimEnd()
  return text === '' ? null : { text }
}
