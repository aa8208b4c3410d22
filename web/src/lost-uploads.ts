/**
 * Files that a page was left with before they were uploaded. A page cannot keep a file, so the next one says which have to
 * be chosen again. Each page writes down the names of its own, and holds a lock while it lives, so that another one knows
 * whether what is written there is still under way.
 */
import { hold, locked } from './locks.ts'
import { recall, recallAll, remember } from './storage.ts'

/** `why` it is not uploaded, for a person. */
export type Lost = { sessionId: string; name: string; size: number | null; why: string }
type Note = { page: string; files: readonly Lost[] }

const prefix = 'uploading:'
const lockOf = (page: string) => `page:${page}`
/** Ids of pages, not of anything that the server knows. Not every browser has `randomUUID` over plain http. */
const page = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`
let isHolding = false

/** All that this page has in its hands just now. */
export function noteUploads(files: readonly Lost[]): void {
  if (files.length > 0 && !isHolding) {
    isHolding = true
    void hold(lockOf(page))
  }
  if (isHolding) remember(prefix + page, files.length === 0 ? null : JSON.stringify({ page, files } satisfies Note))
}

/** So long a page that is left may take to let go of its lock. Who holds it longer lives. */
const leavesMs = 2_000

/**
 * Tells what earlier pages have left, each to one page. Without locks (plain http) nobody can tell whether they still live,
 * and nothing is said.
 */
export function hearLost(hear: (lost: readonly Lost[]) => void): void {
  if (!('locks' in navigator)) return
  for (const text of recallAll(prefix)) {
    const { page: other } = JSON.parse(text) as Note
    const take = () => {
      // As it was written last; and not what another page has told meanwhile.
      const left = recall(prefix + other)
      remember(prefix + other, null)
      if (left !== null) hear((JSON.parse(left) as Note).files)
    }
    // Where it is still held the files are on their way in another tab.
    locked(lockOf(other), take, AbortSignal.timeout(leavesMs)).catch(() => undefined)
  }
}
