/** Calling functions of the app that nothing depends on: they may throw, take too long, or never answer. */
export type AppAnswer<T> =
  | { how: 'answered'; value: T }
  /** `error` is the name of what was thrown: its message may hold content. */
  | { how: 'failed'; error: string }
  | { how: 'late' }
  /** One of `until` was aborted first. */
  | { how: 'over' }

/** Never rejects. What comes later than `withinMs` is not heard; the signal that was passed on says so. */
export function askApp<T>(
  ask: (signal: AbortSignal) => T | Promise<T>,
  withinMs: number,
  until: readonly AbortSignal[],
): Promise<AppAnswer<T>> {
  const waiting = new AbortController()
  return new Promise((resolve) => {
    const end = (answer: AppAnswer<T>) => {
      clearTimeout(timer)
      for (const signal of until) signal.removeEventListener('abort', over)
      resolve(answer)
      waiting.abort()
    }
    const over = () => end({ how: 'over' })
    const timer = setTimeout(() => end({ how: 'late' }), withinMs)
    for (const signal of until) signal.addEventListener('abort', over)
    if (until.some((signal) => signal.aborted)) return over()
    Promise.resolve(waiting.signal)
      .then(ask)
      .then(
        (value) => end({ how: 'answered', value }),
        (error: unknown) => end({ how: 'failed', error: error instanceof Error ? error.name : typeof error }),
      )
  })
}
