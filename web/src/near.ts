/**
 * Which groups of messages are drawn whole: those within some way of what is looked at, one after the other, so that no
 * frame waits for many; and some of those that were, up to a bound. Of the others the text alone is on the page.
 */
import { type RefObject, startTransition, useEffect, useRef, useState } from 'react'
import { isDrawing } from './drawing.ts'
import type { Group } from './groups.ts'

const nearMax = 12

/** `heights`: of those that are not drawn any more, in px. */
export type Near = { has(group: Group): boolean; heightOf(group: Group): number | undefined }

type State = { isNear: ReadonlyMap<number, boolean>; heights: ReadonlyMap<number, number> }

export function useNear(scroller: RefObject<HTMLElement | null>, groups: readonly Group[]): Near {
  const [state, setState] = useState<State>({ isNear: new Map(), heights: new Map() })
  const latest = useRef({ state, groups })
  latest.current = { state, groups }
  const watched = useRef<{ look(): void; watcher: IntersectionObserver } | null>(null)

  useEffect(() => {
    const root = scroller.current
    if (!root) return
    /** Those in sight or nearly, and how far from it. */
    const wanted = new Map<Element, number>()
    let frame = 0
    const look = () => {
      if (frame === 0) frame = requestAnimationFrame(step)
    }
    const step = () => {
      frame = 0
      // The words of those that came before are drawn first.
      if (isDrawing()) return look()
      const now = latest.current
      const next = nextStep(wanted, root, now.state, now.groups)
      if (next !== null) startTransition(() => setState(next))
    }
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting, boundingClientRect: place, rootBounds } of entries) {
          if (!isIntersecting) wanted.delete(target)
          else
            wanted.set(target, rootBounds ? Math.abs(place.top + place.bottom - rootBounds.top - rootBounds.bottom) : 0)
        }
        look()
      },
      { root, rootMargin: '60% 0px' },
    )
    watched.current = { look, watcher }
    return () => {
      cancelAnimationFrame(frame)
      watcher.disconnect()
      watched.current = null
    }
  }, [scroller])

  // biome-ignore lint/correctness/useExhaustiveDependencies: what is near may be drawn, and there may be others to watch
  useEffect(() => {
    const { current } = watched
    if (!current) return
    for (const each of scroller.current?.querySelectorAll('.group') ?? []) current.watcher.observe(each)
    current.look()
  }, [groups.length, groups[0]?.key, groups.at(-1)?.key, state, scroller])

  return {
    has: (group) => state.isNear.get(group.key) ?? group.isNew,
    heightOf: ({ key }) => state.heights.get(key),
  }
}

const keyOf = (element: Element) => Number((element as HTMLElement).dataset.group)

/** The nearest that is not drawn is drawn; where there is none, one that is too many is not any more. Null: all is well. */
function nextStep(
  wanted: Map<Element, number>,
  root: HTMLElement,
  { isNear, heights }: State,
  groups: readonly Group[],
): State | null {
  const drawn = groups.filter((group) => isNear.get(group.key) ?? group.isNew).map(({ key }) => key)
  const has = new Set(drawn)
  let nearest: number | null = null
  let least = Number.POSITIVE_INFINITY
  for (const [element, distance] of wanted) {
    if (!element.isConnected) wanted.delete(element)
    else if (distance < least && !has.has(keyOf(element))) {
      least = distance
      nearest = keyOf(element)
    }
  }
  if (nearest !== null) return { isNear: new Map(isNear).set(nearest, true), heights }
  if (drawn.length <= nearMax) return null
  const inSight = new Set([...wanted.keys()].map(keyOf))
  // The last one is where what comes is shown.
  const lastKey = groups.at(-1)?.key
  for (const element of root.querySelectorAll<HTMLElement>('.group:not(.is-far)')) {
    const key = keyOf(element)
    if (inSight.has(key) || key === lastKey || isInUse(element)) continue
    return { isNear: new Map(isNear).set(key, false), heights: new Map(heights).set(key, element.offsetHeight) }
  }
  return null
}

/** What has the keyboard, is being written or is marked is not taken away. */
function isInUse(element: HTMLElement): boolean {
  const selection = getSelection()
  const isMarked = selection !== null && !selection.isCollapsed && selection.containsNode(element, true)
  return (
    isMarked || element.contains(document.activeElement) || element.querySelector('.editor, details[open]') !== null
  )
}
