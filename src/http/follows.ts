/**
 * The sessions that one connection follows: each has its own place in its own log, and all are written to one reader. The
 * same behind the socket, the stream and the long poll of many sessions, which only differ in how they write.
 *
 * Each is a follower of its own (src/log/hub.ts), so none waits for another's log. But what they read is sent to one place:
 * they take turns, one page each, so that 100 that catch up do not put 100 pages into a socket that has room for one.
 */
import { type ControlWord, inSession } from '../core/frames.ts'
import { idPattern } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Follow, Sink } from '../log/hub.ts'
import { startOf } from './events.ts'
import type { Principal } from './principal.ts'
import { Problem } from './problem.ts'
import { mustHave } from './right.ts'
import type { HttpParts } from './route.ts'

/** What a client followed, and how it called that. */
type Named = { sessionId: string; ref?: string }

/** Said of one session. `following`: what is told of it from here on begins at this cursor. */
export type SessionWord = { sessionId: string } & ControlWord
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
  /** `cursor` as a client writes it. Takes the place of an earlier one of this session. `ref`: said with the answer. */
  follow(asked: { sessionId: string; cursor?: string | undefined; ref?: string | undefined }): void
  unfollow(sessionId: string): void
  /** Where each stands that is followed. */
  cursors(): Record<string, string>
  /** How many are followed, or asked for. */
  count(): number
  stop(): void
}

type Entry = { follow: Follow | null; release(): void; stopped: boolean }

/** `admit`: asked before each; rejects for who may follow nothing. */
export function createFollows(
  parts: HttpParts,
  { tenantId, userId }: Principal,
  out: Out,
  admit: () => Promise<void> = async () => undefined,
): Follows {
  const entries = new Map<string, Entry>()
  const turn = createTurns()
  /** Also those that were replaced meanwhile. */
  let beginning = 0

  function end(sessionId: string, entry: Entry): void {
    if (entry.stopped) return
    entry.stopped = true
    entry.follow?.stop()
    if (entries.get(sessionId) === entry) entries.delete(sessionId)
    entry.release()
  }

  function sinkOf(sessionId: string, entry: Entry): Sink {
    return {
      send: (frames) => out.say(frames.map(({ json }) => inSession(sessionId, json))),
      control(word) {
        // Where it is to be followed again from where it stands, it stands there still when that is said.
        if (word.type === 'reset') end(sessionId, entry)
        out.word({ sessionId, ...word })
      },
      pass: (json) => out.say([inSession(sessionId, json)]),
      room: out.room,
      turn,
      end: () => end(sessionId, entry),
    }
  }

  async function begin(named: Named, cursorText: string | undefined, entry: Entry): Promise<void> {
    const { sessionId } = named
    await admit()
    if (!idPattern.test(sessionId)) throw new Problem('not_found')
    const cursor = startOf(parts, cursorText)
    await mustHave('read', { parts, params: { sessionId }, principal: { tenantId, userId } })
    const over = await turn()
    try {
      await out.room()
      if (entry.stopped) return
      const follow = await parts.hub.follow({ tenantId, sessionId, userId, cursor }, sinkOf(sessionId, entry))
      if (follow === null) throw new Problem('not_found')
      if (entry.stopped) return follow.stop()
      entry.follow = follow
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
      const before = entries.get(sessionId)
      const followed = before ? entries.size - 1 : entries.size
      if (Math.max(followed, beginning) >= limits.followsMax) return out.refused(named, tooMany())
      if (before) end(sessionId, before)
      const entry: Entry = { follow: null, release: out.hold(), stopped: false }
      entries.set(sessionId, entry)
      beginning++
      begin(named, cursor, entry)
        .catch((error: unknown) => {
          if (entry.stopped) return
          end(sessionId, entry)
          out.refused(named, error)
        })
        .finally(() => beginning--)
    },
    unfollow(sessionId) {
      const entry = entries.get(sessionId)
      if (entry) end(sessionId, entry)
    },
    cursors() {
      const begun = [...entries].flatMap(([sessionId, { follow }]) => (follow ? [[sessionId, follow.cursor()]] : []))
      return Object.fromEntries(begun)
    },
    count: () => entries.size,
    stop() {
      for (const [sessionId, entry] of [...entries]) end(sessionId, entry)
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
