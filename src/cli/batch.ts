/**
 * One command on many turns: one that cannot be had is asked again, then counted, and keeps no other waiting. What is
 * done stays done, so whoever gives the command again goes on with the rest.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { type Database, DatabaseError } from '../store/database.ts'
import type { TurnOfMessage } from '../store/operate.ts'
import { lineOf } from './exit.ts'

/** `left`: nothing was to be done any more. `failure` says for how many something went wrong, and what. */
export type Counts = { done: number; left: number; failure: Failure | null }
export type Failure = { says: string }

/** A line on standard error each time that so many were asked. */
const progressEvery = 1_000

/** `act` resolves to whether it has changed something. Rejects where not even the first page could be read. */
export async function each(
  pages: AsyncIterable<TurnOfMessage[]>,
  act: (turn: TurnOfMessage) => Promise<boolean>,
): Promise<Counts> {
  const counts: Counts = { done: 0, left: 0, failure: null }
  let failed = 0
  let asked = 0
  const one = async (turn: TurnOfMessage) => {
    asked++
    try {
      counts[(await act(turn)) ? 'done' : 'left']++
    } catch (error) {
      if (isAway(error)) throw error
      failed++
      counts.failure = { says: `${failed} could not be asked (${causeOf(error)}): give the command again` }
    }
    if (asked % progressEvery === 0) process.stderr.write(`${asked} so far\n`)
  }
  try {
    for await (const page of pages) for (const turn of page) await one(turn)
  } catch (error) {
    if (asked === 0) throw error
    counts.failure = { says: `The rest could not be asked (${causeOf(error)}): give the command again` }
  }
  return counts
}

/** The database, which keeps all others waiting too. */
function isAway(error: unknown): boolean {
  return error instanceof DatabaseError && (error.kind === 'refused' || error.kind === 'unknown')
}

function causeOf(error: unknown): string {
  return lineOf(error)
    .split('\n', 1)[0]!
    .replace(/^DatabaseError: |\.$/g, '')
}

const triesMax = 3
const askAgainMs = 250

/** Asks again what the database did not answer. Only for what may be asked twice: it reads, or names its round. */
export function patient(database: Database): Database {
  return {
    ...database,
    async query<Row>(...asked: Parameters<Database['query']>): Promise<Row[]> {
      for (let tries = 1; ; tries++) {
        try {
          return await database.query<Row>(...asked)
        } catch (error) {
          const kind = error instanceof DatabaseError ? error.kind : 'bug'
          if (kind === 'bug' || kind === 'bad_data' || tries >= triesMax) throw error
          await pause(askAgainMs * tries)
        }
      }
    },
  }
}
