/** What a wait gives when the signal was faster. */
export const aborted: unique symbol = Symbol('aborted')

export type AbortRace = {
  /** The work's result, or `aborted`. Work that lost goes on unheard: it can neither hold the caller nor reject. */
  wait<T>(work: Promise<T>): Promise<T | typeof aborted>
  end(): void
}

/**
 * Lets one reader wait for many promises in turn, each only until the signal aborts. One listener serves them all:
 * `Promise.race` with one long-lived promise would keep a reaction on it for every delta of the reply.
 */
export function abortRace(signal: AbortSignal): AbortRace {
  let leave: ((value: typeof aborted) => void) | undefined
  const onAbort = () => leave?.(aborted)
  signal.addEventListener('abort', onAbort, { once: true })
  return {
    wait<T>(work: Promise<T>) {
      return new Promise<T | typeof aborted>((resolve, reject) => {
        leave = resolve
        if (signal.aborted) resolve(aborted)
        work.then(resolve, reject)
      })
    },
    end: () => signal.removeEventListener('abort', onAbort),
  }
}
