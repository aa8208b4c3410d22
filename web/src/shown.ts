/** Whether somebody looks at this page. */
import type { HoldfastClient } from 'holdfast/client'
import { useEffect, useSyncExternalStore } from 'react'

export const useIsShown = () => useSyncExternalStore(onShownChanged, () => !document.hidden)

function onShownChanged(hear: () => void): () => void {
  document.addEventListener('visibilitychange', hear)
  return () => document.removeEventListener('visibilitychange', hear)
}

/** A browser has six connections to a server for all its tabs: those that nobody sees leave theirs. */
const hiddenMs = 30_000

/** A device that sleeps fires no timers: how long it was is looked at when it is back. */
export function useRestWhenHidden(client: HoldfastClient): void {
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined
    let since: number | null = null
    const look = () => {
      clearTimeout(timer)
      if (document.hidden) {
        since = Date.now()
        timer = setTimeout(client.rest, hiddenMs)
        return
      }
      if (since !== null && Date.now() - since >= hiddenMs) client.wake()
      since = null
    }
    look()
    document.addEventListener('visibilitychange', look)
    return () => {
      clearTimeout(timer)
      document.removeEventListener('visibilitychange', look)
    }
  }, [client])
}
