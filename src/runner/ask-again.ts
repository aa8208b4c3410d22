import { setTimeout as pause } from 'node:timers/promises'
import { DatabaseError } from '../store/database.ts'

const askAgainMs = 250
/** Half a minute at least: by then somebody else has taken the turn over, and the answer is `lost`. */
const askAgainMax = 120
/** What asking again may cure. */
const cured: ReadonlySet<DatabaseError['kind']> = new Set(['refused', 'conflict', 'unknown'])

/**
 * Asks the database until there is an answer: for what may be asked twice because it is a read, or fenced by the
 * attempt's number. Rejects with what asking again does not cure, or when `until` is aborted.
 */
export async function askAgain<T>(ask: () => Promise<T>, until?: AbortSignal): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await ask()
    } catch (error) {
      const kind = error instanceof DatabaseError ? error.kind : 'bug'
      if (!cured.has(kind) || tries >= askAgainMax || until?.aborted) throw error
      await pause(askAgainMs)
    }
  }
}
