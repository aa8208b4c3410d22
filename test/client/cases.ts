/**
 * What a client is given, and what it shows then, as JSON that clients in other languages are held to as well: the files of
 * test/client/cases. They are written anew, from real sessions, by
 *   HOLDFAST_CASES=test/client/cases npx vitest run --project tests test/client/view.test.ts
 * (`seed-…`); the others were written by hand: gaps, a type that nobody knows, a reply with all that one may hold, calls (half
 * inputs, results, approvals, an id that is used again), attempts and rounds that begin, turns of what is not shown,
 * members who come and go.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createView, type LogFrame, type Shown, type Snapshot, type View } from '../../src/core/view.ts'

/** `leadsOn`: the frame says what is shown from now on; else the next thing given is a snapshot. */
export type Given = { snapshot: Snapshot } | { frame: LogFrame; leadsOn: boolean }
export type Case = { given: Given[]; shown: object }

/** What is compared. When a message was last written not every event tells. */
export const comparable = ({ messages, turns, members, cursor }: Shown) => ({
  messages: messages.map(({ createdAt: _createdAt, updatedAt: _updatedAt, ...message }) => message),
  turns,
  members,
  cursor,
})

/** Rejects where a frame leads on that should not, or the other way round. */
export function played(given: readonly Given[]): View {
  let view: View | null = null
  for (const each of given) {
    if ('snapshot' in each) view = createView(each.snapshot)
    else if (view?.take(each.frame) !== each.leadsOn) throw new Error(`${each.frame.cursor} leads on: ${!each.leadsOn}`)
  }
  return view!
}

/** Where asked to: the whole of it, and two beginnings, in the middle of what is being said. */
export async function record(name: string, given: readonly Given[], random: (below: number) => number): Promise<void> {
  const dir = process.env.HOLDFAST_CASES
  if (dir === undefined) return
  await mkdir(dir, { recursive: true })
  const ends = [given.length, 2 + random(given.length - 2), 2 + random(given.length - 2)]
  for (const [at, end] of ends.entries()) {
    let cut = end
    // Not before the snapshot that a frame asks for.
    for (let last = given[cut - 1]!; 'leadsOn' in last && !last.leadsOn; last = given[cut - 1]!) cut++
    const beginning = given.slice(0, cut)
    const one: Case = { given: beginning, shown: comparable(played(beginning).now()) }
    await writeFile(join(dir, `${name}-${at}.json`), `${JSON.stringify(one)}\n`)
  }
}
