/**
 * What the page shows: `#/<id>` in its address is a session, `#/invite/<token>` an invitation to one; without either it is a
 * new chat, which has its id already.
 */
import { useSyncExternalStore } from 'react'
import { client } from './client.ts'
import { recall, remember } from './storage.ts'

/** `invite`: the token of an invitation that was opened, and is neither accepted nor left. */
export type Place = { sessionId: string; isNew: boolean; invite: string | null }

const pattern = /^#\/([A-Za-z0-9._:~-]{1,128})$/
const invitePattern = /^#\/invite\/([\w-]{1,200})$/
const lastKey = 'last-session'
const hearers = new Set<() => void>()
let place = read()

function read(): Place {
  const sessionId = pattern.exec(location.hash)?.[1]
  if (sessionId !== undefined) return { sessionId, isNew: false, invite: null }
  const invite = invitePattern.exec(location.hash)?.[1] ?? null
  return { sessionId: client.newId(), isNew: true, invite }
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
  set({ sessionId, isNew: false, invite: null })
}

/** The chat takes the invitation's place in the browser's history: who goes back is not asked again. */
export function goInto(sessionId: string): void {
  remember(lastKey, sessionId)
  history.replaceState(null, '', `#/${sessionId}`)
  set({ sessionId, isNew: false, invite: null })
}

export function goToNew(): void {
  remember(lastKey, null)
  history.pushState(null, '', location.pathname + location.search)
  set({ sessionId: client.newId(), isNew: true, invite: null })
}

/** The new chat has its first message: from now on it has an address. It stays the same chat. */
export function keepPlace(): void {
  remember(lastKey, place.sessionId)
  if (place.isNew) history.replaceState(null, '', `#/${place.sessionId}`)
}

window.addEventListener('popstate', () => set(read()))
window.addEventListener('hashchange', () => {
  const { sessionId, invite } = read()
  if (invite === null ? sessionId !== place.sessionId : invite !== place.invite) set(read())
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
