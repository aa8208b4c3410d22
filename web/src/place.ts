/** Which session the page shows: `#/<id>` in its address; without one a new chat, which has its id already. */
import { useSyncExternalStore } from 'react'
import { client } from './client.ts'
import { recall, remember } from './storage.ts'

export type Place = { sessionId: string; isNew: boolean }

const pattern = /^#\/([A-Za-z0-9._:~-]{1,128})$/
const lastKey = 'last-session'
const hearers = new Set<() => void>()
let place = read()

function read(): Place {
  const sessionId = pattern.exec(location.hash)?.[1]
  return sessionId === undefined ? { sessionId: client.newId(), isNew: true } : { sessionId, isNew: false }
}

function set(next: Place): void {
  place = next
  for (const hear of hearers) hear()
}

/** Who comes back without an address finds what was open last. */
export function restorePlace(): void {
  const last = recall(lastKey)
  if (location.hash !== '' || last === null) return
  history.replaceState(null, '', `#/${last}`)
  set(read())
}

export function goTo(sessionId: string): void {
  remember(lastKey, sessionId)
  history.pushState(null, '', `#/${sessionId}`)
  set({ sessionId, isNew: false })
}

export function goToNew(): void {
  remember(lastKey, null)
  history.pushState(null, '', location.pathname + location.search)
  set({ sessionId: client.newId(), isNew: true })
}

/** The new chat has its first message: from now on it has an address. It stays the same chat. */
export function keepPlace(): void {
  remember(lastKey, place.sessionId)
  if (place.isNew) history.replaceState(null, '', `#/${place.sessionId}`)
}

window.addEventListener('popstate', () => set(read()))
window.addEventListener('hashchange', () => {
  if (pattern.exec(location.hash)?.[1] !== place.sessionId) set(read())
})

export const placeNow = () => place

export const usePlace = () =>
  useSyncExternalStore(
    (hear) => {
      hearers.add(hear)
      return () => hearers.delete(hear)
    },
    () => place,
  )
