/**
 * What the page shows: `#/<id>` in its address is a session, `#/invite/<token>` an invitation to one, `#/usage/<range>` what
 * was used; without any it is a new chat, which has its id already.
 */
import { useSyncExternalStore } from 'react'
import { client } from './client.ts'
import { recall, remember } from './storage.ts'

export const usageRanges = ['7', '30', '90', 'month'] as const
/** So many days up to today, or this month. */
export type UsageRange = (typeof usageRanges)[number]

/** `invite`: the token of an invitation that was opened, and is neither accepted nor left. `usage`: that of this time is shown. */
export type Place = { sessionId: string; isNew: boolean; invite: string | null; usage: UsageRange | null }

const pattern = /^#\/([A-Za-z0-9._:~-]{1,128})$/
const invitePattern = /^#\/invite\/([\w-]{1,200})$/
const usagePattern = /^#\/usage\/(\w+)$/
const lastKey = 'last-session'
const chatAlone = { invite: null, usage: null }
const hearers = new Set<() => void>()
let place = read()

function read(): Place {
  const sessionId = pattern.exec(location.hash)?.[1]
  if (sessionId !== undefined) return { ...chatAlone, sessionId, isNew: false }
  const invite = invitePattern.exec(location.hash)?.[1] ?? null
  const range = usagePattern.exec(location.hash)?.[1]
  const usage = usageRanges.find((each) => each === range) ?? null
  return { sessionId: client.newId(), isNew: true, invite, usage }
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
  set({ ...chatAlone, sessionId, isNew: false })
}

/** The chat takes the invitation's place in the browser's history: who goes back is not asked again. */
export function goInto(sessionId: string): void {
  remember(lastKey, sessionId)
  history.replaceState(null, '', `#/${sessionId}`)
  set({ ...chatAlone, sessionId, isNew: false })
}

export function goToNew(): void {
  remember(lastKey, null)
  history.pushState(null, '', location.pathname + location.search)
  set({ ...chatAlone, sessionId: client.newId(), isNew: true })
}

export const usageAddress = (range: UsageRange) => `#/usage/${range}`

/** Whoever goes back leaves what was used, and does not go through the ranges that were looked at. */
export function changeUsageRange(usage: UsageRange): void {
  history.replaceState(null, '', usageAddress(usage))
  set({ ...place, usage })
}

/** The new chat has its first message: from now on it has an address. It stays the same chat. */
export function keepPlace(): void {
  remember(lastKey, place.sessionId)
  if (place.isNew) history.replaceState(null, '', `#/${place.sessionId}`)
}

window.addEventListener('popstate', () => set(read()))
window.addEventListener('hashchange', () => {
  const { sessionId, invite, usage } = read()
  if (
    usage !== null ? usage !== place.usage : invite === null ? sessionId !== place.sessionId : invite !== place.invite
  ) {
    set(read())
  }
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
