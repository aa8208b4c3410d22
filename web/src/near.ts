/**
 * How the groups of messages stand on the page, by where the reader is: those within some way are drawn whole, one after
 * the other, so that no frame waits for many; of more of them the text is there, to be found and read out; and of a long
 * chat the rest is room, as high as they are. So what a frame costs is not by how many there are.
 */
import { type RefObject, startTransition, useEffect, useLayoutEffect, useMemo, useRef, useState } from 'react'
import { flushSync } from 'react-dom'
import { isDrawing } from './drawing.ts'
import { type Group, type Stand, textMax } from './groups.ts'
import { guessedHeight } from './heights.ts'

const drawnMax = 12
/** Of what the reader sees, above and below. */
const drawnWithin = 0.6
const textAround = textMax / 2
/** Who goes to and fro has none of them made anew each time. */
const slack = 8
const atOnce = 4
const leaveAtOnce = 16

/** What stands in the list, from the group at this place on. `isRoom`: so many of them have but room. */
export type Row = { at: number; groups: readonly Group[]; isRoom: boolean }
/** `heightOf`: of one that is not drawn, in px. `state`: another one where something is drawn that was not, or not any more. */
export type Near = {
  rows: readonly Row[]
  standOf(group: Group): Stand
  heightOf(group: Group): number
  keptKey: number | undefined
  state: object
}

type State = { stands: ReadonlyMap<number, Stand>; heights: ReadonlyMap<number, number> }
type Change = { stands: Map<number, Stand>; heights: Map<number, number>; isUrgent: boolean }

/** `keptKey`: of a group that is drawn wherever the reader is. */
export function useNear(
  scroller: RefObject<HTMLElement | null>,
  groups: readonly Group[],
  keptKey: number | undefined,
): Near {
  const [state, setState] = useState<State>({ stands: new Map(), heights: new Map() })
  const near = useMemo(() => nearOf(groups, state, keptKey), [groups, state, keptKey])
  // As it is on the page.
  const latest = useRef(near)
  const watched = useRef<(() => void) | null>(null)

  useEffect(() => {
    const root = scroller.current
    const column = root?.firstElementChild
    if (!root || !column) return
    let frame = 0
    const look = () => {
      if (frame === 0) frame = requestAnimationFrame(step)
    }
    const step = () => {
      frame = 0
      const change = nextChange(root, column, latest.current)
      if (change === null) return
      if (change === 'later') look()
      // Where there would be nothing to see it is there in this frame.
      else if (change.isUrgent) flushSync(() => setState((before) => changed(before, change)))
      else startTransition(() => setState((before) => changed(before, change)))
    }
    root.addEventListener('scroll', look, { passive: true })
    const watcher = new ResizeObserver(look)
    watcher.observe(root)
    watcher.observe(column)
    watched.current = look
    return () => {
      cancelAnimationFrame(frame)
      root.removeEventListener('scroll', look)
      watcher.disconnect()
      watched.current = null
    }
  }, [scroller])

  useLayoutEffect(() => {
    latest.current = near
    watched.current?.()
  }, [near])
  return near
}

function nearOf(groups: readonly Group[], state: State, keptKey: number | undefined): Near {
  const { stands, heights } = state
  const standOf = ({ key, begins }: Group) => (key === keptKey ? 'drawn' : (stands.get(key) ?? begins))
  const rows: (Row & { groups: Group[] })[] = []
  for (const [at, group] of groups.entries()) {
    const isRoom = standOf(group) === 'room'
    const last = rows.at(-1)
    if (isRoom && last?.isRoom) last.groups.push(group)
    else rows.push({ at, groups: [group], isRoom })
  }
  return { rows, standOf, heightOf: (group) => heights.get(group.key) ?? guessedHeight(group), keptKey, state }
}

function changed({ stands, heights }: State, change: Change): State {
  const { heights: measured } = change
  const next = new Map([...stands, ...change.stands])
  return { stands: next, heights: measured.size === 0 ? heights : new Map([...heights, ...measured]) }
}

/** As much as a frame has time for, what is most wanted first. `later`: not in this one; null: all stands as it should. */
function nextChange(root: Element, column: Element, near: Near): Change | 'later' | null {
  const { rows, standOf } = near
  // Before them stands what loads earlier ones.
  const elementOf = (place: number) => column.children[place + column.children.length - rows.length] as HTMLElement
  const view = root.getBoundingClientRect()
  const middle = (view.top + view.bottom) / 2
  const nearest = placeOf(middle, rows.length, elementOf)
  if (nearest < 0) return null
  const [first, last] = reachOf(nearest, view, rows.length, elementOf)
  const row = rows[nearest]!
  const at = row.isRoom ? row.at + within(row, elementOf(nearest), middle, near) : row.at
  const change: Change = { stands: new Map(), heights: new Map(), isUrgent: false }
  const far = farFrom(at, first, last, near, elementOf)
  // Of many that come one after the other it must not be the last that is done.
  for (const each of farthest(far, rows.length)) leave(each, 'room', change)
  const isSeen = (place: number) => {
    const { top, bottom } = elementOf(place).getBoundingClientRect()
    return bottom > view.top && top < view.bottom
  }
  const places = Array.from({ length: last - first + 1 }, (_, index) => first + index)
  const lacking = lackingAround(at, near)
  const fill = () => {
    for (const { key } of lacking) change.stands.set(key, 'text')
  }
  change.isUrgent = lacking.length > 0 && places.some((place) => rows[place]!.isRoom && isSeen(place))
  if (change.isUrgent) fill()
  // The words of those that came before are drawn first.
  else if (isDrawing()) return change.stands.size === 0 ? 'later' : change
  else {
    const wanted = places
      .filter((place) => !rows[place]!.isRoom && standOf(rows[place]!.groups[0]!) !== 'drawn')
      .sort((a, b) => Math.abs(a - nearest) - Math.abs(b - nearest))[0]
    const tooMany = drawnIn(near) > drawnMax ? far.find((each) => each.isDrawn && !isInUse(each.element)) : undefined
    if (wanted !== undefined) change.stands.set(rows[wanted]!.groups[0]!.key, 'drawn')
    else if (lacking.length > 0) fill()
    else if (tooMany && !change.stands.has(tooMany.key)) leave(tooMany, 'text', change)
  }
  return change.stands.size === 0 ? null : change
}

const drawnIn = ({ rows, standOf }: Near) => rows.filter(({ groups }) => standOf(groups[0]!) === 'drawn').length

type Far = { key: number; element: HTMLElement; isDrawn: boolean; away: number }

/** What may be taken away, the farthest first. The last one stays: it is where what comes is shown. */
function farFrom(at: number, first: number, last: number, near: Near, elementOf: ElementOf): Far[] {
  const { rows, standOf, keptKey } = near
  const far = rows.flatMap((row, place) => {
    const group = row.groups[0]!
    const isKept = group.key === keptKey || place === rows.length - 1
    if (row.isRoom || isKept || (place >= first && place <= last)) return []
    const isDrawn = standOf(group) === 'drawn'
    return [{ key: group.key, element: elementOf(place), isDrawn, away: Math.abs(row.at - at) }]
  })
  return far.sort((a, b) => b.away - a.away)
}

function farthest(far: readonly Far[], count: number): Far[] {
  const found: Far[] = []
  if (count <= textMax) return found
  for (const each of far) {
    if (each.away <= textAround + slack || found.length === leaveAtOnce) break
    if (!isInUse(each.element)) found.push(each)
  }
  return found
}

/** One that was drawn leaves as much room as it took. */
function leave({ key, element, isDrawn }: Far, to: Stand, { stands, heights }: Change): void {
  stands.set(key, to)
  if (isDrawn) heights.set(key, element.getBoundingClientRect().height)
}

type ElementOf = (place: number) => HTMLElement

/** The last that begins before this, as they stand one below the other. */
function placeOf(y: number, count: number, elementOf: ElementOf): number {
  let first = 0
  let end = count
  while (end - first > 1) {
    const half = (first + end) >> 1
    if (elementOf(half).getBoundingClientRect().top <= y) first = half
    else end = half
  }
  return count === 0 ? -1 : first
}

/** From where to where they stand in what the reader sees, or nearly. */
function reachOf(place: number, view: DOMRect, count: number, elementOf: ElementOf): [first: number, last: number] {
  const margin = view.height * drawnWithin
  let first = place
  while (first > 0 && elementOf(first).getBoundingClientRect().top > view.top - margin) first--
  let last = place
  while (last < count - 1 && elementOf(last).getBoundingClientRect().bottom < view.bottom + margin) last++
  return [first, last]
}

/** Which of those that it is the room of would stand there. */
function within({ groups }: Row, element: Element, y: number, { heightOf }: Near): number {
  const room = element.getBoundingClientRect()
  const heights = groups.map(heightOf)
  const above = ((y - room.top) / room.height) * heights.reduce((sum, height) => sum + height, 0)
  let place = 0
  for (let end = heights[0]!; end < above && place < heights.length - 1; end += heights[place]!) place++
  return place
}

/** The nearest of those that should have their text there and have not. */
function lackingAround(at: number, { rows }: Near): Group[] {
  const lacking: { group: Group; away: number }[] = []
  for (const row of rows) {
    if (!row.isRoom) continue
    const from = Math.max(0, at - textAround - row.at)
    for (const [index, group] of row.groups.slice(from, Math.max(from, at + textAround + 1 - row.at)).entries()) {
      lacking.push({ group, away: Math.abs(row.at + from + index - at) })
    }
  }
  lacking.sort((a, b) => a.away - b.away)
  return lacking.slice(0, atOnce).map(({ group }) => group)
}

/** What has the keyboard, is being written or is marked is not taken away. */
function isInUse(element: HTMLElement): boolean {
  const selection = getSelection()
  const isMarked = selection !== null && !selection.isCollapsed && selection.containsNode(element, true)
  return (
    isMarked || element.contains(document.activeElement) || element.querySelector('.editor, details[open]') !== null
  )
}
