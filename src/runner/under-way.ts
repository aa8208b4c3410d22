/** What is under way, for whoever has to wait for it, within bounds. */
import { setTimeout as pause } from 'node:timers/promises'

/** Something is under way from now on, among these. Answers what ends it. */
export function during(things: Set<Promise<void>>): () => void {
  let end!: () => void
  const thing = new Promise<void>((resolve) => {
    end = resolve
  })
  things.add(thing)
  return () => {
    things.delete(thing)
    end()
  }
}

/** Resolves when all have ended, or they are not worth waiting for any longer. Never rejects. */
export async function settled(things: ReadonlySet<Promise<void>>, withinMs: number, until: AbortSignal): Promise<void> {
  if (things.size === 0 || until.aborted) return
  const stopWaiting = new AbortController()
  const giveUp = pause(withinMs, undefined, { signal: AbortSignal.any([until, stopWaiting.signal]) })
  await Promise.race([Promise.all(things), giveUp.catch(() => undefined)])
  stopWaiting.abort()
}
