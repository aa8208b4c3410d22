/**
 * Publishes the logs of sessions over a service that brings them to the app's clients. Each session is published by one
 * process at a time, which follows its log as any follower does, from the publisher's own position:
 *
 *   due ──claim──▶ held: follow, publish what comes in order, move the position ──nothing more──▶ left
 *    ▲                 │
 *    └── lease ran out ┴── refused: given back, due later
 *
 * The position moves after the service has taken what lies before it. So what a dying process published last is published
 * again, under the same ids, which the service passes over: no gap, and no double as long as it remembers ids. A wakeup
 * starts it at once; the poll finds what no wakeup told. A process that was paused publishes nothing after its lease: it
 * trusts that for less time than the database does.
 */
import { decodeCursor } from '../core/cursor.ts'
import type { Item } from '../core/following.ts'
import type { Database } from '../store/database.ts'
import {
  claimPublishing,
  duePublishing,
  forgetPublishing,
  giveBackPublishing,
  type HeldPosition,
  leavePublishing,
  membersWhoSee,
  movePublishing,
  publisherSeen,
  renewPublishing,
} from '../store/publishers.ts'
import type { Hub, Sink } from './hub.ts'
import type { Note } from './wakeups.ts'

export type Publication = {
  tenantId: string
  sessionId: string
  /** Of the log. With seq, or position, attempt and index, it names what is published. */
  epoch: string
  /** Null: all who may read the session. Else these users alone. */
  to: readonly string[] | null
  /** One event, or chunks in order. All are of one audience. */
  items: readonly Item[]
}

export type PublishingLog = (line: string, detail?: object) => void

/** A service to publish over. */
export type Publisher = {
  /** Names its positions in the database: another name begins anew. */
  readonly name: string
  /**
   * Resolves when the service has taken all of it, in order. What it has taken before it does not take twice. Rejects
   * where it does not take it now, with `retryAfterMs` if it says when; the same comes again.
   */
  publish(publication: Publication, signal: AbortSignal, log: PublishingLog): Promise<void>
  /** What a session's clients had leads nowhere any more: they load it anew. As `publish`. */
  reset(session: { tenantId: string; sessionId: string }, reason: string, signal: AbortSignal): Promise<void>
  /** The least time between two publications of chunks alone. */
  chunksEveryMs(): number
}

export type Publishing = { hear(note: Note | null): void; start(): void; stop(withinMs?: number): Promise<void> }

/** Followed at a time by one process: others, or it later, take the rest. */
const heldMaxDefault = 400
/** Where others are due and all places are taken: a session has its place for so long at least, */
const heldLeastDefaultMs = 2_000
/** and so many give theirs up at once. */
const leftAtOnceMax = 40
const fullToldEveryMs = 60_000
/** A session is followed on for so long: the next event of a conversation then costs no claim. */
const lingerMs = 2_000
const runsAtOnceMax = 50
/** Waiting to be published: beyond this nothing is read. */
const queuedMax = 200
const failedMostMs = 60_000
/** Of the lease as the database counts it, from when it was asked for. */
const trustedShare = 0.8
const seenEveryMs = 3_600_000
/** What is ready to be published when the process goes still is, if it takes no longer. */
const stopMs = 2_000

type Held = HeldPosition & {
  sinceMs: number
  trustedUntilMs: number
  /** Others wait for its place. */
  isToLeave: boolean
  /** An attempt is open at its position. */
  isOpen: boolean
  queue: Item[]
  /** Why nothing more comes. */
  over: string | null
  caughtUp: boolean
  lost: boolean
  ring(): void
  /** Who reads on when there is room in the queue, or nobody publishes from it any more. */
  awaitingRoom: (() => void)[]
}

export function createPublishing(options: {
  database: Database
  hub: Hub
  publisher: Publisher
  /** Names this process. The publisher is known to the database already (`publisherSeen`). */
  holder: string
  leaseMs: number
  pollMs: number
  /** Defaults to 400. */
  heldMax?: number
  /** Before others have its place. Defaults to 2,000. */
  heldLeastMs?: number
  log: PublishingLog
}): Publishing {
  const { database, hub, publisher, leaseMs, heldMax = heldMaxDefault, heldLeastMs = heldLeastDefaultMs, log } = options
  const who = { publisher: publisher.name, holder: options.holder }
  const held = new Map<string, Held>()
  const workers = new Set<Promise<void>>()
  const aborting = new AbortController()
  let stopping = false
  let claiming: Promise<void> | undefined
  let claimAgain = false
  let fullToldAtMs = Number.NEGATIVE_INFINITY
  let seenAtMs = performance.now()
  let timers: NodeJS.Timeout[] = []

  function claimSoon(): void {
    if (stopping) return
    claimAgain = true
    claiming ??= claimAll().finally(() => {
      claiming = undefined
    })
  }

  async function claimAll(): Promise<void> {
    while (claimAgain && !stopping) {
      claimAgain = false
      try {
        await claim()
      } catch {
        // The database is away: the poll looks again.
      }
    }
  }

  async function claim(): Promise<void> {
    if (performance.now() - seenAtMs > seenEveryMs) {
      await publisherSeen(database, publisher.name)
      seenAtMs = performance.now()
    }
    const limit = heldMax - held.size
    if (limit === 0) return await makeRoom()
    const sentMs = performance.now()
    for (const position of await claimPublishing(database, who, { leaseMs, limit })) {
      const worker = hold(position, sentMs).finally(() => {
        workers.delete(worker)
        // What was noted while it was leaving told it alone.
        claimSoon()
      })
      workers.add(worker)
    }
  }

  /** A reply that is written for long keeps its session due: others have their turn, the longest held give way. */
  async function makeRoom(): Promise<void> {
    const nowMs = performance.now()
    const ripe = [...held.values()].filter((one) => nowMs - one.sinceMs >= heldLeastMs).slice(0, leftAtOnceMax)
    if (ripe.length === 0) return
    const due = await duePublishing(database, publisher.name, ripe.length)
    for (const one of ripe.slice(0, due)) {
      one.isToLeave = true
      one.ring()
    }
    if (due === 0 || nowMs - fullToldAtMs < fullToldEveryMs) return
    fullToldAtMs = nowMs
    log('more sessions are to be published than this process follows at once: they take turns, start more processes', {
      publisher: publisher.name,
      heldMax,
    })
  }

  async function hold(position: HeldPosition, sentMs: number): Promise<void> {
    const key = keyOf(position)
    // Its lease ran out here, too: that worker has lost it, and finds out.
    const before = held.get(key)
    if (before) lose(before)
    let ring: () => void = () => undefined
    const one: Held = {
      ...position,
      sinceMs: performance.now(),
      trustedUntilMs: sentMs + leaseMs * trustedShare,
      isToLeave: false,
      isOpen: false,
      queue: [],
      over: null,
      caughtUp: false,
      lost: false,
      ring: () => ring(),
      awaitingRoom: [],
    }
    held.set(key, one)
    const rung = (ms: number) =>
      new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms)
        ring = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    let follow: Awaited<ReturnType<Hub['follow']>> = null
    let failure: { afterMs: number; mostMs: number } | null = null
    try {
      const start = position.cursor === null ? null : decodeCursor(position.cursor)
      const cursor = start ?? { epoch: hub.epoch(), seq: position.seq, open: new Map() }
      one.isOpen = cursor.open.size > 0
      follow = await hub.follow({ ...position, userId: null, cursor }, sinkOf(one))
      if (follow === null) one.over = 'gone'
      await publishAll(one, rung)
    } catch (error) {
      if (!one.lost && !aborting.signal.aborted) failure = toldOf(error)
    } finally {
      follow?.stop()
      if (held.get(key) === one) held.delete(key)
      const isOurs = !one.lost
      lose(one)
      // Where that is not heard, its lease runs out.
      if (isOurs) await giveBackPublishing(database, who, one, failure).catch(() => undefined)
    }
  }

  function toldOf(error: unknown): { afterMs: number; mostMs: number } {
    const { retryAfterMs = 0 } = error as { retryAfterMs?: number }
    log('not published, it is tried again', { publisher: publisher.name, error: String(error) })
    return { afterMs: retryAfterMs, mostMs: failedMostMs }
  }

  /** Resolves when it has lost the session, or left it. */
  async function publishAll(one: Held, rung: (ms: number) => Promise<void>): Promise<void> {
    let chunksAtMs = Number.NEGATIVE_INFINITY
    while (!one.lost && !one.isToLeave) {
      if (one.queue.length === 0) {
        if (one.over === 'ended') return
        if (one.over !== null) return await startAnew(one, one.over)
        if (stopping && one.caughtUp) return
        await rung(lingerMs)
        if (one.queue.length === 0 && one.over === null && one.caughtUp && !one.isOpen) {
          if (await leavePublishing(database, who, one)) return lose(one)
        }
        continue
      }
      const restMs = chunksAtMs + publisher.chunksEveryMs() - performance.now()
      // What closes them comes soon behind: it does not wait.
      if (restMs > 0 && !stopping && one.queue.every((item) => 'run' in item)) {
        await new Promise((resolve) => setTimeout(resolve, restMs))
        if (one.queue.length === 0) continue
      }
      const items = nextOf(one.queue)
      if ('run' in items.at(-1)!) chunksAtMs = performance.now()
      await publishSome(one, items)
    }
  }

  async function publishSome(one: Held, items: Item[]): Promise<void> {
    const { tenantId, sessionId } = one
    const audience = audienceOf(items[0]!)
    const to = audience === null ? null : await membersWhoSee(database, one, audience)
    await mustHold(one)
    // Of the log that it is from: by now there may be another one.
    const { epoch } = decodeCursor(items[0]!.cursor)!
    await publisher.publish({ tenantId, sessionId, epoch, to, items }, aborting.signal, log)
    one.queue.splice(0, items.length)
    if (one.queue.length < queuedMax) giveRoom(one)
    await move(one, items.at(-1)!.cursor)
  }

  /** The log is not the one that was published, or not there any more: clients are told, and its end is the new position. */
  async function startAnew(one: Held, reason: string): Promise<void> {
    await mustHold(one)
    await publisher.reset(one, reason, aborting.signal)
    if (reason === 'gone') return await forgetPublishing(database, who, one)
    const follow = await hub.follow(
      { ...one, userId: null, cursor: null },
      { send: () => undefined, control: () => undefined, room: () => null, end: () => undefined },
    )
    follow?.stop()
    if (follow) await move(one, follow.cursor())
  }

  async function mustHold(one: Held): Promise<void> {
    if (performance.now() >= one.trustedUntilMs) await renew([one])
    if (one.lost) throw new Error('another process publishes this session')
    if (performance.now() >= one.trustedUntilMs) throw new Error('the lease of this session was not renewed in time')
  }

  async function move(one: Held, cursor: string): Promise<void> {
    const sentMs = performance.now()
    const { seq, open } = decodeCursor(cursor)!
    one.isOpen = open.size > 0
    const isHeld = await movePublishing(database, who, one, { seq, cursor, isOpen: one.isOpen, leaseMs })
    if (isHeld) one.trustedUntilMs = sentMs + leaseMs * trustedShare
    else lose(one)
  }

  async function renew(some: Held[]): Promise<void> {
    if (some.length === 0) return
    const sentMs = performance.now()
    const { still, renewed } = await renewPublishing(database, who, some, leaseMs)
    for (const one of some) {
      if (renewed.has(one)) one.trustedUntilMs = Math.max(one.trustedUntilMs, sentMs + leaseMs * trustedShare)
      else if (!still.has(one)) lose(one)
    }
  }

  return {
    hear(note) {
      if (note === null) return claimSoon()
      if (note.passing || (note.events.length === 0 && note.runs.length > 0)) return
      if (!held.has(keyOf(note))) claimSoon()
    },
    start() {
      claimSoon()
      timers = [
        setInterval(claimSoon, options.pollMs),
        setInterval(() => void renew([...held.values()]).catch(() => undefined), leaseMs / 3),
      ]
      for (const timer of timers) timer.unref()
    },
    async stop(withinMs = stopMs) {
      stopping = true
      for (const one of held.values()) one.ring()
      const late = setTimeout(() => aborting.abort(), withinMs)
      const cut = new Promise<void>((resolve) => aborting.signal.addEventListener('abort', () => resolve()))
      const ended = Promise.resolve(claiming).then(async () => {
        for (const one of held.values()) one.ring()
        await Promise.all(workers)
      })
      await Promise.race([ended, cut])
      clearTimeout(late)
      for (const timer of timers) clearInterval(timer)
      for (const one of held.values()) lose(one)
    },
  }
}

function lose(one: Held): void {
  one.lost = true
  one.ring()
  giveRoom(one)
}

function giveRoom(one: Held): void {
  for (const resolve of one.awaitingRoom.splice(0)) resolve()
}

function sinkOf(one: Held): Sink {
  return {
    send(frames) {
      for (const { item } of frames) one.queue.push(item)
      one.ring()
    },
    control(word) {
      if (word.type === 'caught-up') one.caughtUp = true
      if (word.type === 'reset') {
        one.over = word.reason
        // They are of a log that clients are to forget.
        one.queue.length = 0
      }
      one.ring()
    },
    room() {
      if (one.lost || one.queue.length < queuedMax) return null
      return new Promise((resolve) => one.awaitingRoom.push(resolve))
    },
    end() {
      one.over ??= 'ended'
      one.ring()
    },
  }
}

/** An event by itself: each has an id of its own, and what was taken before a failure is not sent again. */
function nextOf(queue: Item[]): Item[] {
  const first = queue[0]!
  if ('event' in first) return [first]
  const end = queue.findIndex((item) => 'event' in item || item.run.audience !== first.run.audience)
  return queue.slice(0, Math.min(end === -1 ? queue.length : end, runsAtOnceMax))
}

function audienceOf(item: Item): string | null {
  return 'event' in item ? item.event.audience : item.run.audience
}

function keyOf({ tenantId, sessionId }: { tenantId: string; sessionId: string }): string {
  return `${tenantId}\n${sessionId}`
}
