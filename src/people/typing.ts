/**
 * Who is typing where. Nothing of it is stored: it passes by, to the others who follow the session just now, and ends by
 * itself at those who were told, because this process may be gone by then. Of one user in one session a word goes out at
 * once, and after it the last one that came meanwhile, at most one in `everyMs` from each process.
 */
import { limits } from '../core/limits.ts'
import { type Note, passingNote } from '../log/wakeups.ts'

type Typer = { tenantId: string; sessionId: string; userId: string }

export type Typing = {
  /** The caller has asked for the right, and whether others may know. */
  say(typer: Typer, isTyping: boolean): void
  stop(): void
}

const everyMs = 1_000
/** Who have said something within `everyMs`. One more is not told: their next word may be. */
const typersMax = 10_000

export function createTyping(tell: (note: Note) => void): Typing {
  /** Those whose last word is less than `everyMs` old, with the word that waits. */
  const quiet = new Map<string, { timer: NodeJS.Timeout; waiting: boolean | undefined }>()

  function tellNow(key: string, typer: Typer, isTyping: boolean): void {
    const { userId } = typer
    const lastsMs = isTyping ? limits.typingLastsMs : 0
    tell(passingNote(typer, { type: 'typing', data: { userId, isTyping, lastsMs } }, userId))
    const over = () => {
      const waiting = quiet.get(key)?.waiting
      quiet.delete(key)
      if (waiting !== undefined) tellNow(key, typer, waiting)
    }
    quiet.set(key, { timer: setTimeout(over, everyMs).unref(), waiting: undefined })
  }

  return {
    say({ tenantId, sessionId, userId }, isTyping) {
      const key = `${tenantId}\n${sessionId}\n${userId}`
      const there = quiet.get(key)
      if (there) there.waiting = isTyping
      else if (quiet.size < typersMax) tellNow(key, { tenantId, sessionId, userId }, isTyping)
    },
    stop() {
      for (const { timer } of quiet.values()) clearTimeout(timer)
      quiet.clear()
    },
  }
}
