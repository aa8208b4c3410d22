/**
 * The sessions that one connection follows: each has its own place in its own log, and all are written to one reader. The
 * same behind the socket, the stream and the long poll of many sessions, which only differ in how they write.
 *
 * Each is a follower of its own (src/log/hub.ts), so none waits for another's log. But what they read is sent to one place:
 * they take turns, one page each, so that 100 that catch up do not put 100 pages into a socket that has room for one.
 */
import { encodeCursor } from '../core/cursor.ts'
import { type ControlWord, inSession } from '../core/frames.ts'
import { idPattern } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Follow, Sink } from '../log/hub.ts'
import type { Device } from '../people/presence.ts'
import type { PresenceState } from '../store/presence.ts'
import { startOf } from './events.ts'
import type { Principal } from './principal.ts'
import { Problem } from './problem.ts'
import { type Followed, mayFollow } from './rate.ts'
import { mustHave } from './right.ts'
import type { HttpParts } from './route.ts'

/** What a client followed, and how it called that. */
type Named = { sessionId: string; ref?: string }

/** Said of one session. `following`: what is told of it from here on begins at this cursor. */
export type SessionWord = Named & ControlWord
export type FollowingWord = Named & { type: 'following'; cursor: string }

/** Where it goes. */
export type Out = {
  /** Frames that go out together. */
  say(frames: string[]): void
  word(word: SessionWord | FollowingWord): void
  /** This session is not followed; `ref` is that of who asked. */
  refused(named: Named, error: unknown): void
  /** As of a `Sink`. */
  room(): Promise<void> | null
  /** One more is followed, until what this answers is called. */
  hold(): () => void
}

export type Follows = {
  /**
   * `cursor` as a client writes it. Takes the place of an earlier one of this session, or where they go by refs, of this ref.
   * `ref`: said with the answer; where they go by refs, with all that is told.
   */
  follow(asked: { sessionId: string; cursor?: string | undefined; ref?: string | undefined }): void
  unfollow(sessionId: string): void
  /** Whether the device is in front of its user, in all that it follows and will. */
  present(state: PresenceState): void
  /** Where each stands that is followed, by session, or by ref; one that has not begun stands where it was asked from. */
  cursors(): Record<string, string>
  /** How many are followed, or asked for. */
  count(): number
  stop(): void
}

type Entry = {
  follow: Follow | null
  followed: Followed | undefined
  device: Device | undefined
  from: string | undefined
  release(): void
  stopped: boolean
}

/** `admit`: asked before each; rejects for who may follow nothing. `byRef`: one session may be followed under several refs. */
export function createFollows(
  parts: HttpParts,
  principal: Principal,
  out: Out,
  options: { admit?: () => Promise<void>; byRef?: boolean; state?: PresenceState } = {},
): Follows {
  const { admit = async () => undefined, byRef = false } = options
  let { state = 'here' } = options
  const { tenantId, userId } = principal
  const entries = new Map<string, Entry>()
  const turn = createTurns()
  /** Also those that were replaced meanwhile. */
  let beginning = 0

  const keyOf = ({ sessionId, ref }: Named) => (byRef ? (ref ?? sessionId) : sessionId)

  function end(key: string, entry: Entry): void {
    if (entry.stopped) return
    entry.stopped = true
    entry.follow?.stop()
    entry.followed?.unfollow()
    entry.device?.leave()
    if (entries.get(key) === entry) entries.delete(key)
    entry.release()
  }

  function sinkOf(named: Named, entry: Entry): Sink {
    const { sessionId } = named
    const told: Named = byRef ? named : { sessionId }
    const ended = () => end(keyOf(named), entry)
    return {
      send: (frames) => out.say(frames.map(({ json }) => inSession(sessionId, json, told.ref))),
      control(word) {
        // Where it is to be followed again from where it stands, it stands there still when that is said.
        if (word.type === 'reset') ended()
        out.word({ ...told, ...word })
      },
      pass: (json) => out.say([inSession(sessionId, json, told.ref)]),
      room: out.room,
      turn,
      end: ended,
    }
  }

  async function begin(named: Named, cursorText: string | undefined, entry: Entry): Promise<void> {
    const { sessionId } = named
    await admit()
    if (!idPattern.test(sessionId)) throw new Problem('not_found')
    const cursor = startOf(parts, cursorText)
    await mustHave('read', { parts, params: { sessionId }, principal: { tenantId, userId } })
    const followed = await mayFollow({ parts, principal })
    if (entry.stopped) return followed.unfollow()
    entry.followed = followed
    const over = await turn()
    try {
      await out.room()
      if (entry.stopped) return
      const sink = followed.metered(sinkOf(named, entry))
      const follow = await parts.hub.follow({ tenantId, sessionId, userId, cursor }, sink)
      if (follow === null) throw new Problem('not_found')
      if (entry.stopped) return follow.stop()
      entry.follow = follow
      entry.device = parts.presence.enter({ tenantId, sessionId, userId }, state)
      // Before its first frame: that is read in a turn after this one.
      out.word({ ...named, type: 'following', cursor: follow.cursor() })
    } finally {
      over()
    }
  }

  const tooMany = () => {
    const most = `At most ${limits.followsMax} sessions may be followed on one connection.`
    return new Problem('rate_limited', `${most} Unfollow one first, or open another.`)
  }

  return {
    follow({ sessionId, cursor, ref }) {
      const named = { sessionId, ...(ref === undefined ? {} : { ref }) }
      const key = keyOf(named)
      const before = entries.get(key)
      const followed = before ? entries.size - 1 : entries.size
      if (Math.max(followed, beginning) >= limits.followsMax) return out.refused(named, tooMany())
      if (before) end(key, before)
      const entry: Entry = {
        follow: null,
        followed: undefined,
        device: undefined,
        from: cursor,
        release: out.hold(),
        stopped: false,
      }
      entries.set(key, entry)
      beginning++
      begin(named, cursor, entry)
        .catch((error: unknown) => {
          if (entry.stopped) return
          end(key, entry)
          out.refused(named, error)
        })
        .finally(() => beginning--)
    },
    unfollow(sessionId) {
      const entry = entries.get(sessionId)
      if (entry) end(sessionId, entry)
    },
    present(now) {
      state = now
      for (const { device } of entries.values()) device?.say(now)
    },
    cursors() {
      const start = encodeCursor({ epoch: parts.hub.epoch(), seq: 0, open: new Map() })
      const placeOf = ({ follow, from }: Entry) => follow?.cursor() ?? from ?? start
      return Object.fromEntries([...entries].map(([key, entry]) => [key, placeOf(entry)]))
    },
    count: () => entries.size,
    stop() {
      for (const [key, entry] of [...entries]) end(key, entry)
    },
  }
}

/** One at a time, in the order in which they asked. */
function createTurns(): () => Promise<() => void> {
  let last = Promise.resolve()
  return async () => {
    const before = last
    let over!: () => void
    last = new Promise((resolve) => {
      over = resolve
    })
    await before
    return over
  }
}
