/**
 * Passing frames of a connection that are about no session that it follows (those of a session: `pass` in src/log/hub.ts).
 * While its reader has no room, the last one about each thing is kept.
 */
import type { PassingFrame } from '../core/frames.ts'

export type Passing = {
  /** `about`: what a later frame takes the place of. */
  pass(about: string, frame: PassingFrame): void
}

/** Things that a reader without room is told of later; of others they ask when they are back. */
const keptMax = 1_000

export function createPassing(out: { say(frames: string[]): void; room(): Promise<void> | null }): Passing {
  const kept = new Map<string, PassingFrame>()
  let waiting = false

  const flush = () => {
    const room = out.room()
    if (room === null) {
      const frames = [...kept.values()].map((frame) => JSON.stringify(frame))
      kept.clear()
      if (frames.length > 0) out.say(frames)
    } else if (!waiting) {
      waiting = true
      void room.then(() => {
        waiting = false
        flush()
      })
    }
  }

  return {
    pass(about, frame) {
      // At its end: a change of what is kept is the last thing that happened.
      kept.delete(about)
      if (kept.size >= keptMax) return
      kept.set(about, frame)
      flush()
    },
  }
}
