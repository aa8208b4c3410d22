/**
 * A witness stands beside one client and judges by the log itself what the client is shown (I5, I6). It knows nothing
 * of cursors: its place is the last event that was seen, and the next index of each turn whose chunks may be seen.
 */
import { type ChunkRun, closesAttempt, type Event, maySee } from '../../src/core/event.ts'
import type { Item } from '../../src/core/following.ts'
import { nextIndexOf, type Session } from './store.ts'

export type Place = { seq: number; next: Map<number, number> }

/** The place of who has seen everything that is stored now. */
export function placeNow({ events, turns }: Session): Place {
  const open = turns.filter((turn) => turn.open)
  return { seq: events.length, next: new Map(open.map((turn) => [turn.position, nextIndexOf(turn)])) }
}

/** Moves `place` on, or says what is wrong with showing this item there. */
export function problemOf(place: Place, session: Session, userId: string, item: Item): string | null {
  if ('run' in item) return problemOfRun(place, session, userId, item.run)
  const { event } = item
  if (!maySee(event.audience, userId)) return `event ${event.seq} is not for ${userId}`
  if (session.events[event.seq - 1] !== event) return `event ${event.seq} is not in the log`
  if (event.seq <= place.seq) return `event ${event.seq} was shown after ${place.seq}`
  const passedOver = unseen(place, session, userId).find(({ seq }) => seq < event.seq)
  if (passedOver) return `event ${passedOver.seq} was passed over for ${event.seq}`
  for (const each of session.events.slice(place.seq, event.seq)) track(place, each)
  place.seq = event.seq
  return null
}

function problemOfRun(place: Place, session: Session, userId: string, run: ChunkRun): string | null {
  const { position, attempt, index, n } = run
  const what = `chunks ${index} to ${index + n - 1} of ${position}:${attempt}`
  if (!maySee(run.audience, userId)) return `${what} are not for ${userId}`
  if (openAttempt(place, session, position) !== attempt) return `${what} were shown, that attempt is not open`
  const expected = place.next.get(position) ?? 0
  if (index !== expected) return `${what} were shown instead of ${expected}`
  const stored = chunksOf(session, position, attempt).slice(index, index + n)
  if (stored.length !== n || JSON.stringify(stored) !== run.json) return `${what} are not what the log holds`
  place.next.set(position, index + n)
  return null
}

/** The attempt whose chunks are part of the log, as of the place. */
function openAttempt({ seq }: Place, { events }: Session, position: number): number | null {
  const last = events
    .slice(0, seq)
    .findLast((event) => event.position === position && (event.type === 'attempt.started' || closesAttempt(event)))
  return last?.type === 'attempt.started' ? last.attempt : null
}

function chunksOf({ turns }: Session, position: number, attempt: number): unknown[] {
  const turn = turns.find((each) => each.position === position)
  const runs = turn?.runs.filter((run) => run.attempt === attempt) ?? []
  return runs.flatMap((run) => JSON.parse(run.json) as unknown[])
}

function unseen({ seq }: Place, { events }: Session, userId: string): Event[] {
  return events.slice(seq).filter((event) => maySee(event.audience, userId))
}

function track({ next }: Place, event: Event): void {
  if (event.type === 'attempt.started') next.set(event.position!, 0)
  if (closesAttempt(event)) next.delete(event.position!)
}

/** What the client would have to have seen by now, if it has caught up. */
export function missingAt(place: Place, session: Session, userId: string): string | null {
  const event = unseen(place, session, userId)[0]
  if (event) return `event ${event.seq} was never shown`
  const behind = session.turns.find(
    (turn) => turn.open && maySee(turn.audience, userId) && nextIndexOf(turn) > (place.next.get(turn.position) ?? 0),
  )
  return behind ? `chunks of ${behind.position}:${behind.attempt} were never shown` : null
}
