import { setTimeout as pause } from 'node:timers/promises'

const againMs = 20

/**
 * For conditions that nothing announces: looks until `look` answers something that is neither `undefined` nor `false`,
 * and rejects when that took longer than `withinMs`. What `look` rejects with counts as "not yet", and is the cause.
 */
export async function eventually<T>(look: () => Promise<T | undefined | false>, withinMs = 20_000): Promise<T> {
  const untilMs = performance.now() + withinMs
  let cause: unknown
  for (;;) {
    try {
      const seen = await look()
      if (seen !== undefined && seen !== false) return seen
    } catch (error) {
      cause = error
    }
    if (performance.now() > untilMs) throw new Error(`It did not happen within ${withinMs} ms: ${look}`, { cause })
    await pause(againMs)
  }
}
