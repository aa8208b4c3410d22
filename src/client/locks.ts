/** One at a time by name: over all tabs of the origin where the browser has Web Locks, else within this client. */
export type Locks = {
  /** Waits for the lock, and holds it while `act` runs. `isStolen`: takes it from whoever holds it, whose `hold` rejects. */
  hold<T>(name: string, act: () => Promise<T>, isStolen?: boolean): Promise<T>
}

export function locksHere(): Locks {
  return typeof navigator !== 'undefined' && navigator.locks !== undefined ? webLocks(navigator.locks) : processLocks()
}

/** Whether tabs can find out who of them does something for all. */
export function canShare(): boolean {
  return typeof navigator !== 'undefined' && navigator.locks !== undefined && typeof BroadcastChannel !== 'undefined'
}

/** Where the browser refuses them, as it does where cookies are blocked, this client has its own. */
function webLocks(manager: LockManager): Locks {
  const own = processLocks()
  return {
    async hold(name, act, steal = false) {
      let hasBegun = false
      const begin = () => {
        hasBegun = true
        return act()
      }
      try {
        return (await manager.request(name, { steal }, begin)) as never
      } catch (error) {
        if (hasBegun) throw error
        return await own.hold(name, act)
      }
    },
  }
}

export function processLocks(): Locks {
  const last = new Map<string, Promise<unknown>>()
  return {
    hold(name, act) {
      const held = (last.get(name) ?? Promise.resolve()).then(act)
      const settled: Promise<unknown> = held
        .catch(() => undefined)
        .then(() => {
          if (last.get(name) === settled) last.delete(name)
        })
      last.set(name, settled)
      return held
    },
  }
}
