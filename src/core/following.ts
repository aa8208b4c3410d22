/**
 * The follower's machine: a cursor, and what to do about each thing that happens. There is one way forward, reading
 * the log after the cursor; what rides along with a wakeup (an offer) is a read that was made by somebody else, and is
 * used only if it fits exactly after the cursor. So there is no moment between "replayed" and "live" in which
 * something could be missed or sent twice (I5).
 *
 *   resting --wake, or an offer with a gap--> reading --page without more--> resting
 *
 * A wake during a read is remembered: the read may have looked before what the wake is about was committed.
 */

import { type Cursor, encodeCursor, type OpenAttempt } from './cursor.ts'
import { type ChunkRun, closesAttempt, type Event } from './event.ts'

export type Following = {
  readonly epoch: string
  seq: number
  readonly open: Map<number, OpenAttempt>
  reading: boolean
  wokenMeanwhile: boolean
  caughtUp: boolean
  /** Whether it is told what has this audience. Of the rest nothing is in its cursors but that the log has grown. */
  readonly sees: (audience: string | null) => boolean
}

/** What one statement read after a cursor: events in order and then, if they are all, the open attempts' chunks. */
export type Page = {
  events: Event[]
  runs: ChunkRun[]
  /** There is more than this page. */
  more: boolean
  /** The last seq of the log at that moment. */
  lastSeq: number
}

/** Something of the log, with the cursor that a follower has after it. */
export type Item = { cursor: string; event: Event } | { cursor: string; run: ChunkRun }

export type FollowInput =
  | { type: 'start' }
  | { type: 'wake' }
  | { type: 'offer'; events: Event[]; runs: ChunkRun[] }
  | { type: 'page'; page: Page }
  | { type: 'read-failed' }

export type FollowEffect =
  | { type: 'read' }
  | { type: 'show'; items: Item[] }
  | { type: 'caught-up' }
  | { type: 'reset'; reason: 'epoch' | 'ahead' | 'gap' }

export function createFollowing(cursor: Cursor, sees: Following['sees'] = () => true): Following {
  return {
    epoch: cursor.epoch,
    seq: cursor.seq,
    open: new Map(cursor.open),
    reading: false,
    wokenMeanwhile: false,
    caughtUp: false,
    sees,
  }
}

export function cursorOf(following: Following): string {
  return encodeCursor(following)
}

/** Changes `following` and says what is to be done, in order. `encode`: for one whose cursors nobody is told. */
export function follow(following: Following, input: FollowInput, encode = encodeCursor): FollowEffect[] {
  switch (input.type) {
    case 'start':
    case 'wake':
      return lookAgain(following)
    case 'offer':
      return takeOffer(following, input, encode)
    case 'page':
      return takePage(following, input.page, encode)
    case 'read-failed':
      // The next wake or poll reads again.
      following.reading = false
      return []
  }
}

function lookAgain(following: Following): FollowEffect[] {
  if (following.reading) {
    following.wokenMeanwhile = true
    return []
  }
  following.reading = true
  return [{ type: 'read' }]
}

type Encode = typeof encodeCursor

function takeOffer(
  following: Following,
  { events, runs }: Omit<Page, 'more' | 'lastSeq'>,
  encode: Encode,
): FollowEffect[] {
  if (following.reading) {
    following.wokenMeanwhile = true
    return []
  }
  const items: Item[] = []
  const fits =
    events.every((event) => addEvent(following, event, items, encode)) &&
    runs.every((run) => addRun(following, run, items, encode))
  const show: FollowEffect[] = items.length > 0 ? [{ type: 'show', items }] : []
  return fits ? show : [...show, ...lookAgain(following)]
}

function takePage(following: Following, page: Page, encode: Encode): FollowEffect[] {
  following.reading = false
  if (page.lastSeq < following.seq) return [{ type: 'reset', reason: 'ahead' }]
  const items: Item[] = []
  for (const event of page.events) {
    if (!addEvent(following, event, items, encode)) return [{ type: 'reset', reason: 'gap' }]
  }
  for (const run of page.runs) {
    // A cursor that does not know a turn which is open (it was given before the attempt began) starts at its index 0.
    if (!following.open.has(run.position) && run.index === 0 && following.sees(run.audience)) {
      following.open.set(run.position, beginning(run.attempt, run.audience))
    }
    if (!addRun(following, run, items, encode)) return [{ type: 'reset', reason: 'gap' }]
  }
  const effects: FollowEffect[] = items.length > 0 ? [{ type: 'show', items }] : []
  if (page.more || following.wokenMeanwhile) {
    following.wokenMeanwhile = false
    return [...effects, ...lookAgain(following)]
  }
  if (!following.caughtUp) {
    following.caughtUp = true
    effects.push({ type: 'caught-up' })
  }
  return effects
}

function beginning(attempt: number, audience: string | null): OpenAttempt {
  return { attempt, index: 0, ...(audience === null ? {} : { audience }) }
}

/** False: something is missing before it. What the follower has already is passed over. */
function addEvent(following: Following, event: Event, items: Item[], encode: Encode): boolean {
  if (event.seq <= following.seq) return true
  if (event.seq !== following.seq + 1) return false
  following.seq = event.seq
  if (!following.sees(event.audience)) return true
  if (event.position !== null && event.attempt !== null) {
    if (event.type === 'attempt.started') {
      following.open.set(event.position, beginning(event.attempt, event.audience))
    }
    if (closesAttempt(event)) following.open.delete(event.position)
  }
  items.push({ cursor: encode(following), event })
  return true
}

function addRun(following: Following, run: ChunkRun, items: Item[], encode: Encode): boolean {
  if (!following.sees(run.audience)) return true
  const mine = following.open.get(run.position)
  if (mine === undefined || mine.attempt < run.attempt) return false
  if (mine.attempt > run.attempt || run.index + run.n <= mine.index) return true
  if (run.index !== mine.index) return false
  following.open.set(run.position, { ...mine, index: run.index + run.n })
  items.push({ cursor: encode(following), run })
  return true
}
