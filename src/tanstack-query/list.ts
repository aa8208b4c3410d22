/**
 * A cached list of messages and what the client shows of the session, put together by their ids. What the client shows is
 * newer and in order; the list may go back further, be in pages, and hold what the app has put there itself.
 */
import type { ShownMessage } from '../client/client.ts'

export type Listing<Item> = {
  /** The cached form of a message. Null: it is left as it is in the list, or out of it. */
  toItem(message: ShownMessage, cached: Item | undefined): Item | null
  idOf(item: Item): string
  /** Where the list is in a page, or in what is cached, that is not the list itself. Else `data` or `messages`. */
  field: string | undefined
  newestFirst: boolean
}

export type Shown = {
  sessionId: string
  messages: readonly ShownMessage[]
  /** There are older ones on the server. */
  hasEarlier: boolean
  /** All that is stored up to now is among them: what is not is not shown any more. */
  isWhole: boolean
  /** The ids of all that was ever shown. */
  known: ReadonlySet<string>
}

/** From which message an item was made, so that it is made once. */
const sources = new WeakMap<object, ShownMessage>()

/**
 * What the list is from now on; the same object where nothing changed. `apart`: messages are missing between what is
 * cached and what is shown. `foreign`: it holds no list.
 */
export function merge<Item>(cached: unknown, shown: Shown, listing: Listing<Item>): unknown | 'apart' | 'foreign' {
  const pages = pagesOf(cached, listing)
  if (pages === null) return 'foreign'
  const { messages } = shown
  const byId = new Map(messages.map((message) => [message.id, message]))
  const there = new Set(pages.flatMap(({ items }) => items.map(listing.idOf)))
  const first = messages.findIndex(({ id }) => there.has(id))
  if (first < 0 && shown.hasEarlier) return 'apart'

  // By the id of the message that it comes after. What is older than all that is cached is left to the app's own paging.
  const added = new Map<string | null, Item[]>()
  let after: string | null = null
  for (const message of messages.slice(Math.max(first, 0))) {
    if (there.has(message.id)) after = message.id
    else {
      const item = made(message, undefined, listing)
      if (item !== null) added.set(after, [...(added.get(after) ?? []), item])
    }
  }
  const isGone = goneBy(shown, byId, listing)
  const next = pages.map(({ items }, at) => [
    ...items.flatMap((item) => {
      const message = byId.get(listing.idOf(item))
      if (message === undefined) return isGone(item) ? [] : [item]
      return [made(message, item, listing) ?? item, ...(added.get(message.id) ?? [])]
    }),
    // Where nothing is shared there is one page, or the newest comes first.
    ...(at === 0 ? (added.get(null) ?? []) : []),
  ])
  const isSame = pages.every(({ items }, at) => sameItems(items, next[at]!))
  return isSame ? cached : withPages(cached, next, listing)
}

/** Items that TanStack Query has copied, to keep what is equal, are those that were made. */
export function remember<Item>(data: unknown, messages: readonly ShownMessage[], listing: Listing<Item>): void {
  const byId = new Map(messages.map((message) => [message.id, message]))
  for (const { items } of pagesOf(data, listing) ?? []) {
    for (const item of items) {
      const message = byId.get(listing.idOf(item))
      if (message !== undefined) sources.set(item as object, message)
    }
  }
}

function made<Item>(message: ShownMessage, cached: Item | undefined, { toItem }: Listing<Item>): Item | null {
  if (cached !== undefined && sources.get(cached as object) === message) return cached
  return toItem(message, cached)
}

/** Taken back, or of a branch that is not shown any more; also where it was never seen here, as far as its place tells. */
function goneBy<Item>(shown: Shown, byId: ReadonlyMap<string, ShownMessage>, { idOf }: Listing<Item>) {
  const seqs = [...byId.values()].flatMap(({ seq }) => (seq > 0 ? [seq] : []))
  const oldest = Math.min(...seqs)
  const newest = Math.max(...seqs)
  return (item: Item) => {
    if (!shown.isWhole) return false
    if (shown.known.has(idOf(item))) return true
    const { seq, sessionId } = item as { seq?: unknown; sessionId?: unknown }
    return sessionId === shown.sessionId && typeof seq === 'number' && seq >= oldest && seq <= newest
  }
}

/** Oldest first. Null: it holds no list. */
type Pages<Item> = { items: Item[] }[] | null

function pagesOf<Item>(cached: unknown, listing: Listing<Item>): Pages<Item> {
  const pages = rawPagesOf(cached).map((page) => itemsOf(page, listing))
  return pages.includes(null) ? null : pages.map((items) => ({ items: inOrder(items as Item[], listing) }))
}

function rawPagesOf(cached: unknown): readonly unknown[] {
  return isInfinite(cached) ? cached.pages : [cached]
}

/** Null: there is none, or it holds what is no object. */
function itemsOf<Item>(page: unknown, listing: Listing<Item>): Item[] | null {
  const name = fieldOf(page, listing)
  const items: unknown = name === null ? page : (page as Record<string, unknown>)[name]
  return Array.isArray(items) && items.every((item) => typeof item === 'object' && item !== null) ? items : null
}

function fieldOf(page: unknown, { field }: Pick<Listing<never>, 'field'>): string | null {
  if (typeof page !== 'object' || page === null || Array.isArray(page)) return null
  return field ?? ('data' in page ? 'data' : 'messages')
}

function withPages<Item>(cached: unknown, next: Item[][], listing: Listing<Item>): unknown {
  const pages = rawPagesOf(cached).map((page, at) => {
    const items = inOrder(next[at]!, listing)
    const name = fieldOf(page, listing)
    return name === null ? items : { ...(page as object), [name]: items }
  })
  return isInfinite(cached) ? { ...cached, pages } : pages[0]
}

function inOrder<Item>(items: Item[], { newestFirst }: Pick<Listing<never>, 'newestFirst'>): Item[] {
  return newestFirst ? [...items].reverse() : items
}

function isInfinite(cached: unknown): cached is { pages: readonly unknown[]; pageParams: readonly unknown[] } {
  return typeof cached === 'object' && cached !== null && 'pages' in cached && 'pageParams' in cached
}

function sameItems(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((each, at) => each === b[at])
}
