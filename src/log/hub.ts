/**
 * Followers of this process, by session. Each session that somebody follows has one feed, which stands at the end of
 * the log: it takes what wakeups bring if it fits, reads otherwise, and offers what it got to its followers. A
 * follower that is behind (at its start, after a gap, or because its socket was full) reads for itself until it is
 * not. Feed and follower are the same machine (core/following).
 *
 * A follower starts only when its feed stands: what is committed after the follower's first read has a seq or index
 * after the feed's, so the feed will offer it.
 */
import type { Cursor } from '../core/cursor.ts'
import { type ChunkRun, type Event, maySee } from '../core/event.ts'
import {
  createFollowing,
  cursorOf,
  type FollowEffect,
  type FollowInput,
  type Following,
  follow,
} from '../core/following.ts'
import { type ControlWord, type Frame, frameOf } from '../core/frames.ts'
import type { Database } from '../store/database.ts'
import { pollFollowed, readNow, readPage } from '../store/log.ts'
import { stillMembers } from '../store/sessions.ts'
import { lookEveryMs, type Note, type Passing } from './wakeups.ts'

/** Where a follower's frames go: a socket, or an answer being collected. */
export type Sink = {
  send(frames: Frame[]): void
  /** `cursor`: where the follower stands, for words after which it may come back without having seen a frame. */
  control(word: ControlWord, cursor?: string): void
  /** A frame that is told in passing, as JSON text. Without it none is. */
  pass?(json: string): void
  /** The follower has come so far without a frame: what was there is not theirs to see. */
  moved?(cursor: string): void
  /** Null while there is room; else resolves when there is room again. Nothing is sent meanwhile. */
  room(): Promise<void> | null
  /** Where several followers send to one place: resolves when no other reads for it, to what lets the next one. */
  turn?(): Promise<() => void>
  /** Nothing comes any more: the session is gone, or not the user's any more. */
  end(): void
}

export type Follow = { cursor(): string; stop(): void }

type Follower = {
  tenantId: string
  sessionId: string
  /** Null: the server itself, which sees all and stays through a drain. */
  userId: string | null
  following: Following
  lastSent: string
  /** Of the last cursor that they were told. */
  toldSeq: number
  sink: Sink
  stopped: boolean
  /** Its last read failed: the next poll wakes it. */
  stale: boolean
}
type Feed = {
  tenantId: string
  sessionId: string
  following: Following
  followers: Set<Follower>
  /** False: there is no such session. */
  standing: Promise<boolean>
  /** Nothing is read or offered before: it would meet a place that is still to be set. */
  stands: boolean
  /** How often it has moved on. */
  moves: number
}

export type Hub = {
  /** Null: there is no such session. A cursor `null` means "from now on". Rights are the caller's to check first. */
  follow(
    who: { tenantId: string; sessionId: string; userId: string | null; cursor: Cursor | null },
    sink: Sink,
  ): Promise<Follow | null>
  hear(note: Note | null): void
  /** Nothing wakes this process: sessions with a live turn are polled more often. */
  deaf(deaf: boolean): void
  /** Of the log; the cursors that are given out carry it. */
  epoch(): string
  /** Tells every follower to come back elsewhere. */
  drain(afterMs: number): void
  start(): void
  stop(): void
}

/** Rights and the epoch are looked at again this often: who lost a right is gone within 5 s, however rarely we poll. */
const checkEveryMs = 4_000
/** After a check that failed: the database may be back. */
const checkAgainMs = 500
/** A session is taken for live while a turn has an attempt, and for so long after its log has grown. */
const liveForMs = 10_000

/**
 * What the poll finds to be stored is often on its way here already: while 500 replies were written, 200 feeds a second
 * were read for nothing, which took a sixth of the processor. One that has moved meanwhile is being told; the next poll
 * finds it if it is not. With every wakeup lost none moves, and each is read after this time.
 */
const onItsWayMs = 50

/** After so many events that they may not see a follower is told where they are: whoever comes back would read them again. */
const unseenMax = 100

/** A feed's own are told to nobody. */
const noCursor = () => ''

export function createHub(options: {
  database: Database
  epoch: string
  /** The log's epoch now: it changes under a running process when a standby takes over. */
  readEpoch: () => Promise<string>
  pollMs: number
  log: (line: string) => void
}): Hub {
  const { database, readEpoch, pollMs } = options
  let { epoch } = options
  const feeds = new Map<string, Feed>()
  let pollTimer: NodeJS.Timeout | undefined
  let wayTimer: NodeJS.Timeout | undefined
  let isDeaf = false
  let lastWholePollMs = performance.now()
  /** How far the log of a feed had got, and when that was seen. */
  const grown = new WeakMap<Feed, { seq: number; atMs: number }>()
  let checks: (() => void)[] = []
  let running = false
  let drainAfterMs: number | undefined

  function feedOf(tenantId: string, sessionId: string): Feed {
    const key = keyOf(tenantId, sessionId)
    const there = feeds.get(key)
    if (there) return there
    const following = createFollowing({ epoch, seq: 0, open: new Map() })
    const feed: Feed = {
      tenantId,
      sessionId,
      following,
      followers: new Set(),
      stands: false,
      moves: 0,
      standing: readNow(database, tenantId, sessionId).then((now) => {
        if (now === null) return false
        following.seq = now.seq
        following.open.clear()
        for (const [position, open] of now.open) following.open.set(position, open)
        feed.stands = true
        return true
      }),
    }
    feeds.set(key, feed)
    return feed
  }

  function feedNext(feed: Feed, input: FollowInput): void {
    for (const effect of follow(feed.following, input, noCursor)) {
      switch (effect.type) {
        case 'read':
          readFor(feed, (next) => feedNext(feed, next))
          break
        case 'show': {
          feed.moves++
          const events: Event[] = []
          const runs: ChunkRun[] = []
          for (const item of effect.items) 'event' in item ? events.push(item.event) : runs.push(item.run)
          const left = usersLeft(events)
          for (const follower of feed.followers) {
            // It reads for itself, which is judged: they may be members again by now.
            if (isUsers(follower) && left.has(follower.userId)) followerNext(follower, { type: 'wake' })
            else followerOffered(follower, events, runs)
          }
          break
        }
        case 'reset':
          // The log is not what it was: it was restored to an earlier state.
          for (const follower of [...feed.followers]) {
            follower.sink.control({ type: 'reset', reason: effect.reason })
            end(follower)
          }
          forget(feed)
          break
        case 'caught-up':
          break
      }
    }
  }

  /** Only to who is live and has room: they are not owed it. */
  function pass(feed: Feed, { json, notTo }: Passing): void {
    for (const { userId, following, sink } of feed.followers) {
      if (userId !== notTo && following.caughtUp && sink.pass && sink.room() === null) sink.pass(json)
    }
  }

  function followerOffered(follower: Follower, events: Event[], runs: ChunkRun[]): void {
    followerNext(follower, follower.sink.room() === null ? { type: 'offer', events, runs } : { type: 'wake' })
  }

  function followerNext(follower: Follower, input: FollowInput): void {
    if (follower.stopped) return
    for (const effect of follow(follower.following, input)) perform(follower, effect)
    const { following, sink, stopped } = follower
    if (stopped || !following.caughtUp || following.seq - follower.toldSeq < unseenMax) return
    follower.toldSeq = following.seq
    sink.moved?.(cursorOf(following))
  }

  function perform(follower: Follower, effect: FollowEffect): void {
    switch (effect.type) {
      case 'read':
        readFor(follower, (next) => followerNext(follower, next), follower.sink)
        break
      case 'show': {
        const frames: Frame[] = []
        for (const item of effect.items) {
          frames.push(frameOf(item, follower.lastSent))
          follower.lastSent = item.cursor
        }
        if (frames.length > 0) follower.sink.send(frames)
        follower.toldSeq = follower.following.seq
        break
      }
      case 'caught-up':
        follower.toldSeq = follower.following.seq
        follower.sink.control({ type: 'caught-up' }, cursorOf(follower.following))
        break
      case 'reset':
        follower.sink.control({ type: 'reset', reason: effect.reason })
        end(follower)
        break
    }
  }

  function readFor(reader: Feed | Follower, next: (input: FollowInput) => void, sink: Sink | null = null): void {
    const { tenantId, sessionId, following } = reader
    const read = async () => {
      const over = await sink?.turn?.()
      try {
        await sink?.room()
        if ('stopped' in reader && reader.stopped) return
        const userId = 'userId' in reader ? reader.userId : null
        const page = await readPage(database, tenantId, sessionId, following, userId)
        if (page) next({ type: 'page', page })
        else if ('stopped' in reader) gone(reader)
        else sessionGone(tenantId, sessionId)
      } finally {
        over?.()
      }
    }
    read().catch(() => {
      if ('stale' in reader) reader.stale = true
      next({ type: 'read-failed' })
    })
  }

  function sessionGone(tenantId: string, sessionId: string): void {
    const feed = feeds.get(keyOf(tenantId, sessionId))
    if (!feed) return
    for (const follower of [...feed.followers]) gone(follower)
    forget(feed)
  }

  /** The session was deleted, or is not the user's any more. */
  function gone(follower: Follower): void {
    if (follower.stopped) return
    follower.sink.control({ type: 'reset', reason: 'gone' })
    end(follower)
  }

  function forget(feed: Feed): void {
    const key = keyOf(feed.tenantId, feed.sessionId)
    if (feeds.get(key) === feed) feeds.delete(key)
  }

  function end(follower: Follower): void {
    if (follower.stopped) return
    stopFollower(follower)
    follower.sink.end()
  }

  function stopFollower(follower: Follower): void {
    follower.stopped = true
    const feed = feeds.get(keyOf(follower.tenantId, follower.sessionId))
    if (!feed?.followers.delete(follower)) return
    if (feed.followers.size === 0) forget(feed)
  }

  /** All sessions each `pollMs`; between that, while nothing wakes us, those that are live. */
  function feedsToPoll(): Feed[] {
    const standing = [...feeds.values()].filter((feed) => feed.stands)
    if (!isDeaf) return standing
    const live = standing.filter(isLive)
    if (performance.now() - lastWholePollMs < pollMs) return live
    lastWholePollMs = performance.now()
    return standing
  }

  function isLive(feed: Feed): boolean {
    const { seq, open } = feed.following
    const before = grown.get(feed)
    if (before?.seq !== seq) grown.set(feed, { seq, atMs: performance.now() })
    return open.size > 0 || before?.seq !== seq || performance.now() - before.atMs < liveForMs
  }

  async function poll(): Promise<void> {
    const standing = feedsToPoll()
    const movesBefore = new Map(standing.map((feed) => [feed, feed.moves]))
    const behind = standing.length === 0 ? [] : await pollFollowed(database, standing.flatMap(followedBy))
    const still: { feed: Feed; moves: number }[] = []
    for (const { tenantId, sessionId, gone } of behind) {
      const feed = feeds.get(keyOf(tenantId, sessionId))
      if (gone) sessionGone(tenantId, sessionId)
      else if (feed && feed.moves === movesBefore.get(feed)) still.push({ feed, moves: feed.moves })
    }
    clearTimeout(wayTimer)
    wayTimer = setTimeout(() => wakeUnlessMoved(still), onItsWayMs).unref()
    for (const feed of feeds.values()) {
      for (const follower of feed.followers) {
        if (!follower.stale) continue
        follower.stale = false
        followerNext(follower, { type: 'wake' })
      }
    }
  }

  function wakeUnlessMoved(some: { feed: Feed; moves: number }[]): void {
    for (const { feed, moves } of some) if (feed.moves === moves) wake(feed)
  }

  async function checkEpoch(): Promise<void> {
    const now = await readEpoch()
    if (now === epoch) return
    epoch = now
    endAll({ type: 'reset', reason: 'epoch' })
    feeds.clear()
  }

  function endAll(word: ControlWord | null): void {
    for (const feed of [...feeds.values()]) {
      for (const follower of [...feed.followers]) {
        if (word?.type === 'reconnect' && !isUsers(follower)) continue
        if (word) follower.sink.control(word)
        end(follower)
      }
    }
  }

  async function checkMembers(): Promise<void> {
    const followers = [...feeds.values()].flatMap((feed) => [...feed.followers].filter(isUsers))
    if (followers.length === 0) return
    const members = await stillMembers(database, followers)
    for (const follower of followers) {
      if (!members.has(follower)) gone(follower)
    }
  }

  function wake(feed: Feed | undefined): void {
    if (feed?.stands) feedNext(feed, { type: 'wake' })
  }

  /** Null: there is no such session. */
  async function standingFeed(tenantId: string, sessionId: string): Promise<Feed | null> {
    const feed = feedOf(tenantId, sessionId)
    const stands = await feed.standing.catch((error: unknown) => {
      forget(feed)
      throw error
    })
    if (!stands) forget(feed)
    return stands ? feed : null
  }

  function schedule(): void {
    clearTimeout(pollTimer)
    pollTimer = setTimeout(
      () => {
        // The database is away: the next poll looks again.
        poll()
          .catch(() => undefined)
          .finally(() => running && schedule())
      },
      lookEveryMs(pollMs, isDeaf),
    )
    pollTimer.unref()
  }

  return {
    epoch: () => epoch,
    async follow({ tenantId, sessionId, userId, cursor }, sink) {
      let feed: Feed | null
      do {
        feed = await standingFeed(tenantId, sessionId)
        if (feed === null) return null
        // It may have been forgotten while it was awaited; then it would never be woken.
      } while (feeds.get(keyOf(tenantId, sessionId)) !== feed)
      const sees = (audience: string | null) => userId === null || maySee(audience, userId)
      const start = cursor ?? { epoch, seq: feed.following.seq, open: seenOf(feed.following.open, sees) }
      const following = createFollowing(start, sees)
      const lastSent = cursorOf(following)
      const follower: Follower = {
        tenantId,
        sessionId,
        userId,
        following,
        lastSent,
        toldSeq: following.seq,
        sink,
        stopped: false,
        stale: false,
      }
      feed.followers.add(follower)
      if (start.epoch !== epoch) {
        sink.control({ type: 'reset', reason: 'epoch' })
        end(follower)
      } else if (drainAfterMs !== undefined && userId !== null) {
        sink.control({ type: 'reconnect', afterMs: drainAfterMs })
        end(follower)
      } else {
        followerNext(follower, { type: 'start' })
      }
      return { cursor: () => cursorOf(following), stop: () => stopFollower(follower) }
    },
    hear(note) {
      if (note === null) {
        for (const feed of feeds.values()) wake(feed)
        return
      }
      const feed = feeds.get(keyOf(note.tenantId, note.sessionId))
      if (!feed) return
      if (note.passing) return pass(feed, note.passing)
      if (feed.stands) return feedNext(feed, offerOf(note))
      feed.standing.then(
        () => feedNext(feed, offerOf(note)),
        () => undefined,
      )
    },
    deaf(deaf) {
      isDeaf = deaf
      if (running) schedule()
    },
    drain(afterMs) {
      drainAfterMs = afterMs
      endAll({ type: 'reconnect', afterMs })
    },
    start() {
      running = true
      schedule()
      // Each for itself: neither waits for the other, or for a poll that hangs.
      checks = [repeat(checkMembers), repeat(checkEpoch)]
    },
    stop() {
      running = false
      clearTimeout(pollTimer)
      clearTimeout(wayTimer)
      for (const stop of checks) stop()
      endAll(null)
    },
  }
}

function isUsers(follower: Follower): follower is Follower & { userId: string } {
  return follower.userId !== null
}

/** Checks each `checkEveryMs`, from start to start. Answers what stops it. */
function repeat(check: () => Promise<void>): () => void {
  let stopped = false
  let timer: NodeJS.Timeout | undefined
  const checkIn = (ms: number) => {
    if (!stopped) timer = setTimeout(run, ms).unref()
  }
  const run = () => {
    const sinceMs = performance.now()
    check().then(
      () => checkIn(Math.max(0, sinceMs + checkEveryMs - performance.now())),
      () => checkIn(checkAgainMs),
    )
  }
  checkIn(checkEveryMs)
  return () => {
    stopped = true
    clearTimeout(timer)
  }
}

function seenOf(open: Cursor['open'], sees: (audience: string | null) => boolean): Cursor['open'] {
  return new Map([...open].filter(([, { audience = null }]) => sees(audience)))
}

/** Whoever is no member from one of these on. */
function usersLeft(events: Event[]): Set<string> {
  const left = events.filter(({ type }) => type === 'member.left')
  return new Set(left.map(({ json }) => (JSON.parse(json) as { userId: string }).userId))
}

function offerOf(note: Note): FollowInput {
  if (note.events.length === 0 && note.runs.length === 0) return { type: 'wake' }
  return { type: 'offer', events: note.events, runs: note.runs }
}

function followedBy({ tenantId, sessionId, following: { seq, open } }: Feed) {
  const entries = [...open].map(([position, { attempt, index }]) => ({
    tenantId,
    sessionId,
    seq,
    position,
    attempt,
    index,
  }))
  return entries.length > 0 ? entries : [{ tenantId, sessionId, seq, position: 0, attempt: 0, index: 0 }]
}

function keyOf(tenantId: string, sessionId: string): string {
  return `${tenantId}\n${sessionId}`
}
