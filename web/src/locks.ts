/** What tabs of this browser agree on by locks. A browser has none where the page came by plain http from another machine. */

/** One tab at a time; rejects where `signal` aborts before its turn. Without locks two may work at once. */
export async function locked<T>(name: string, work: () => T | Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!('locks' in navigator)) return await work()
  return await navigator.locks.request(`holdfast:${name}`, signal ? { signal } : {}, work)
}

/** Until this tab is closed, which is long after others see what it has stored. */
export async function hold(name: string): Promise<void> {
  if (!('locks' in navigator)) return
  await new Promise<void>((held, refused) => {
    const keep = () => {
      held()
      return new Promise<never>(() => undefined)
    }
    navigator.locks.request(`holdfast:${name}`, keep).catch(refused)
  })
}

export async function isHeld(name: string): Promise<boolean> {
  if (!('locks' in navigator)) return false
  const { held = [] } = await navigator.locks.query()
  return held.some((lock) => lock.name === `holdfast:${name}`)
}
