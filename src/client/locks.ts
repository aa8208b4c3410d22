/** One at a time by name: over all tabs of the origin where the browser has Web Locks, else within this process. */
export type Locks = {
  /** Waits for the lock, and holds it while `act` runs. `isStolen`: takes it from whoever holds it, whose `hold` rejects. */
  hold<T>(name: string, act: () => Promise<T>, isStolen?: boolean): Promise<T>
  /** Null: somebody holds it. */
  tryHold<T>(name: string, act: () => Promise<T>): Promise<T | null>
}

export function locksHere(): Locks {
  return typeof navigator !== 'undefined' && navigator.locks !== undefined ? webLocks(navigator.locks) : processLocks()
}

/** Whether tabs can find out who of them does something for all. */
export function canShare(): boolean {
  return typeof navigator !== 'undefined' && navigator.locks !== undefined && typeof BroadcastChannel !== 'undefined'
}

function webLocks(manager: LockManager): Locks {
  return {
    hold: (name, act, steal = false) => manager.request(name, { steal }, act) as Promise<never>,
    tryHold: (name, act) =>
      manager.request(name, { ifAvailable: true }, async (lock) =>
        lock === null ? null : await act(),
      ) as Promise<never>,
  }
}

export function processLocks(): Locks {
  const last = new Map<string, Promise<unknown>>()
  const hold = <T>(name: string, act: () => Promise<T>): Promise<T> => {
    const held = (last.get(name) ?? Promise.resolve()).then(act)
    const settled: Promise<unknown> = held
      .catch(() => undefined)
      .then(() => {
        if (last.get(name) === settled) last.delete(name)
      })
    last.set(name, settled)
    return held
  }
  return { hold, tryHold: async (name, act) => (last.has(name) ? null : await hold(name, act)) }
}
