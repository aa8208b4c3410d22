/**
 * The messages in groups of some, so that what a frame costs is by what changed and by what is near, not by how many
 * there are. A message stays in its group, in which it keeps its focus and what is open in it.
 */
import type { ShownMessage } from 'holdfast/client'

/** Drawn whole; its text alone; or room for it, and nothing in it. */
export type Stand = 'drawn' | 'text' | 'room'

/** `begins`: how it stands until it is seen where the reader is. What is new is drawn: somebody looks at it. */
export type Group = { key: number; messages: readonly ShownMessage[]; begins: Stand }

const groupMax = 8
/** Drawn at once when a chat is opened, or another branch of it; the others in the frames after that. */
const drawnAtFirst = 1
/** So many have their text on the page, whoever looks where: of a chat that has no more, all do. */
export const textMax = 48

/** The same groups where nothing in them changed. */
export function groupsOf(messages: readonly ShownMessage[], before: readonly Group[]): readonly Group[] {
  const oldest = before[0]?.messages[0]?.id
  const start = oldest === undefined ? -1 : messages.findIndex(({ id }) => id === oldest)
  if (start === -1) return begun(messages, nextKey(before))
  const groups = [...earlier(messages.slice(0, start), before[0]?.key ?? 0, before.length)]
  let at = start
  let kept = 0
  for (const group of before) {
    if (!isAt(messages, at, group.messages)) break
    at += group.messages.length
    kept++
  }
  // One that has room takes what comes.
  if (at < messages.length && kept === before.length) at -= before[--kept]?.messages.length ?? 0
  groups.push(...before.slice(0, kept), ...later(messages.slice(at), before.slice(kept), nextKey(before)))
  return groups
}

/** Whether those stand there, as they are. */
export function isAt<Item>(items: readonly Item[], at: number, those: readonly Item[]): boolean {
  for (let place = 0; place < those.length; place++) if (items[at + place] !== those[place]) return false
  return true
}

const nextKey = (groups: readonly Group[]) => Math.max(0, ...groups.map(({ key }) => key)) + 1

function begun(messages: readonly ShownMessage[], key: number): Group[] {
  const groups = earlier(messages, key + Math.ceil(messages.length / groupMax), 0)
  return groups.map((group, at) => (at >= groups.length - drawnAtFirst ? { ...group, begins: 'drawn' } : group))
}

/** Full from the end on: what comes before the first one has a group of its own. `behind`: so many stand after them. */
function earlier(messages: readonly ShownMessage[], firstKey: number, behind: number): Group[] {
  const groups: Group[] = []
  for (let end = messages.length, key = firstKey - 1; end > 0; end -= groupMax, key--) {
    const begins = behind + groups.length < textMax ? 'text' : 'room'
    groups.push({ key, messages: messages.slice(Math.max(0, end - groupMax), end), begins })
  }
  return groups.reverse()
}

function later(messages: readonly ShownMessage[], before: readonly Group[], freshKey: number): Group[] {
  const keys = new Map(before.flatMap(({ key, messages: those }) => those.map(({ id }) => [id, key] as const)))
  const known = new Map(before.map((group) => [group.key, group]))
  const runs: { key: number; messages: ShownMessage[] }[] = []
  const used = new Set<number>()
  let fresh = freshKey
  for (const message of messages) {
    const last = runs.at(-1)
    const key = keys.get(message.id)
    const isOfLast = key === last?.key || (key === undefined && (last?.messages.length ?? groupMax) < groupMax)
    if (last && isOfLast) last.messages.push(message)
    else {
      const own = key === undefined || used.has(key) ? fresh++ : key
      used.add(own)
      runs.push({ key: own, messages: [message] })
    }
  }
  return runs.map(({ key, messages: those }, at) => {
    const group = known.get(key)
    if (group?.messages.length === those.length && isAt(those, 0, group.messages)) return group
    const isDrawn = at < drawnAtFirst || at >= runs.length - drawnAtFirst
    const ofMany = runs.length > textMax ? 'room' : 'text'
    return { key, messages: those, begins: group?.begins ?? (isDrawn ? 'drawn' : ofMany) }
  })
}
