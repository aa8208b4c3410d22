/** How long what failed waits before it is tried again, and sleep that can be woken. */

export type Growth = { first: number; most: number }

/** Doubles with each failure; up to a half is chance, so that pages which lost one server do not come back as one. */
export const backOffMs = ({ first, most }: Growth, failures: number) =>
  Math.min(most, first * 2 ** failures) * (0.5 + Math.random() / 2)

export type Sleeper = {
  /** `Infinity`: until it is woken. */
  sleep(ms: number): Promise<void>
  /** Wakes all that sleep now. */
  wake(): void
}

export function sleeper(): Sleeper {
  const wakers = new Set<() => void>()
  return {
    sleep: (ms) =>
      new Promise((resolve) => {
        const wake = () => {
          clearTimeout(timer)
          wakers.delete(wake)
          resolve()
        }
        const timer = ms === Number.POSITIVE_INFINITY ? undefined : setTimeout(wake, ms)
        wakers.add(wake)
      }),
    wake() {
      for (const wake of wakers) wake()
    },
  }
}
