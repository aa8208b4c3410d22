/**
 * What one process counts by itself, of each user: connections, sessions that are followed, and the bytes of logs that they
 * were sent to catch up. None of it is money or storage, so several processes do not ask each other: with two of them a user
 * may have twice as many.
 */
import type { Sink } from '../log/hub.ts'

type User = { tenantId: string; userId: string }

export type LimitsHere = {
  /** One more, until what this answers is called. Null: there are `max` already. */
  connect(user: User, max: number): (() => void) | null
  follow(user: User, max: number): (() => void) | null
  /** How long until the user may catch up again; 0: now. */
  resumesInMs(user: User, bytesMax: number): number
  /** Counts what is sent through this one until it says that its reader has caught up. */
  metered(user: User, sink: Sink): Sink
}

const windowMs = 60_000
/** From so many users on those are looked for whose minute is over. */
const windowsKept = 10_000

export function createLimitsHere(now: () => number = () => performance.now()): LimitsHere {
  const connections = createCounts()
  const follows = createCounts()
  /** A minute begins with the first byte. */
  const resumed = new Map<string, { sinceMs: number; bytes: number }>()

  function windowOf(key: string) {
    const known = resumed.get(key)
    return known !== undefined && now() - known.sinceMs < windowMs ? known : undefined
  }

  function count(key: string, bytes: number): void {
    const known = windowOf(key)
    if (known !== undefined) {
      known.bytes += bytes
      return
    }
    if (resumed.size >= windowsKept) {
      for (const each of [...resumed.keys()]) if (windowOf(each) === undefined) resumed.delete(each)
    }
    resumed.set(key, { sinceMs: now(), bytes })
  }

  return {
    connect: (user, max) => connections.take(keyOf(user), max),
    follow: (user, max) => follows.take(keyOf(user), max),
    resumesInMs(user, bytesMax) {
      const known = windowOf(keyOf(user))
      if (bytesMax === 0 || known === undefined || known.bytes < bytesMax) return 0
      return Math.max(1, Math.ceil(known.sinceMs + windowMs - now()))
    },
    metered(user, sink) {
      const key = keyOf(user)
      let caughtUp = false
      return {
        ...sink,
        send(frames) {
          if (!caughtUp)
            count(
              key,
              frames.reduce((bytes, { json }) => bytes + json.length, 0),
            )
          sink.send(frames)
        },
        control(word, cursor) {
          if (word.type === 'caught-up') caughtUp = true
          sink.control(word, cursor)
        },
      }
    },
  }
}

/** Forgotten at zero. */
function createCounts() {
  const counts = new Map<string, number>()
  return {
    take(key: string, max: number): (() => void) | null {
      const before = counts.get(key) ?? 0
      if (before >= max) return null
      counts.set(key, before + 1)
      let isHeld = true
      return () => {
        if (!isHeld) return
        isHeld = false
        const now = counts.get(key)! - 1
        if (now === 0) counts.delete(key)
        else counts.set(key, now)
      }
    },
  }
}

const keyOf = ({ tenantId, userId }: User) => JSON.stringify([tenantId, userId])
