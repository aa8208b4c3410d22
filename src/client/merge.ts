/** A guest of this device has signed in: the server makes what they have the account's, and what was not sent yet is the account's to send. */
import { locksHere } from './locks.ts'
import { indexedDbStorage, memoryStorage, type Storage } from './storage.ts'
import { tabsHere } from './tabs.ts'
import type { TabWord } from './unsent.ts'
import { errorOf, unreachable } from './wire.ts'

/** Who asks, and where, is said as to `createClient`; the guest's cookie must go along with it. */
export type MergeOptions = {
  url?: string
  token?: string | ((isRenewal: boolean) => string | null | Promise<string | null>)
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>)
  credentials?: RequestCredentials
  fetch?: typeof fetch
  storage?: Storage
  /** As in the account's `createClient`. */
  user: string
  /** As in the guest's. Defaults to `me`. */
  guest?: string
}

/**
 * `guestId`: null where the server knows of no guest here, as after a page that was closed in the middle of it. `unsent`: how many
 * messages the account's client sends now.
 */
export type Merged = { guestId: string | null; sessions: number; unsent: number }

/**
 * Call it once somebody has signed in, when the guest's client is closed and before the account's is made; at every sign-in, if you
 * like. Rejects with a `HoldfastError`, and nothing on the device has changed, where the server refuses or is not reached: where it is
 * `retryable`, call it again.
 */
export async function mergeGuest(options: MergeOptions): Promise<Merged> {
  const { url = '', user, guest = 'me' } = options
  const answer = await askToMerge(options)
  const storage = options.storage ?? (typeof indexedDB === 'undefined' ? memoryStorage() : indexedDbStorage())
  const nameOf = (who: string) => `${encodeURIComponent(url)}:${encodeURIComponent(who)}`
  const [from, to] = [`unsent:${nameOf(guest)}:`, `unsent:${nameOf(user)}:`]
  if (from !== to) {
    // Other tabs of the guest's, which would go on trying, and end by it.
    const tabs = tabsHere<TabWord>(`holdfast 1 ${from}`, () => undefined)
    tabs.tell('out')
    tabs.close()
  }
  // One tab at a time: another one would put back what the account has sent, or taken back, meanwhile.
  const unsent = await locksHere().hold(`holdfast:merge ${from}`, () => move(storage, from, to))
  for (const [key] of await storage.entries(`shown:${nameOf(guest)}:`)) await storage.remove(key)
  return { ...answer, unsent }
}

/** Where both have one name, as where the app gives none, what is there is the account's already. */
async function move(storage: Storage, from: string, to: string): Promise<number> {
  const kept = await storage.entries(from)
  for (const [key, text] of from === to ? [] : kept) {
    // First there, then not here: the same message twice is sent once, by its id.
    await storage.set(to + key.slice(from.length), text)
    await storage.remove(key)
  }
  return kept.length
}

async function askToMerge(options: MergeOptions): Promise<Omit<Merged, 'unsent'>> {
  const { url = '', token, headers, credentials } = options
  const path = `${url.replace(/\/+$/, '')}/v1/guest/merge`
  const ask = async (isRenewal: boolean) => {
    const all = new Headers(typeof headers === 'function' ? await headers() : headers)
    const bearer = typeof token === 'function' ? await token(isRenewal) : token
    if (bearer) all.set('authorization', `Bearer ${bearer}`)
    all.set('content-type', 'application/json')
    const request = { method: 'POST', headers: all, body: '{}', ...(credentials === undefined ? {} : { credentials }) }
    return await (options.fetch ?? fetch)(path, request).catch(() => {
      throw unreachable(0, true)
    })
  }
  let response = await ask(false)
  if (response.status === 401 && typeof token === 'function') response = await ask(true)
  if (response.status === 404) return { guestId: null, sessions: 0 }
  if (!response.ok) throw await errorOf(response)
  const { guestId, sessions } = (await response.json()) as { guestId: string; sessions: number }
  return { guestId, sessions }
}
