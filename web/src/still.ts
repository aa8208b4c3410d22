/**
 * What the reader looks at stays where it is when messages before it come, or are drawn that were not. A browser does so by
 * itself only where the element that it holds on to is not drawn anew, and some do not at all.
 */
import { Component, type ReactNode, type RefObject } from 'react'

type StillProps = {
  scroller: RefObject<HTMLElement | null>
  /** What else changes moves nothing, or is seen to by the browser. */
  drawn: object
  firstKey: number | undefined
  children: ReactNode
}
type Held = { selector: string; top: number }

/** A class: nothing else is told right before the page is changed. */
export class Still extends Component<StillProps> {
  override getSnapshotBeforeUpdate({ drawn, firstKey }: StillProps): Held | null {
    const { scroller } = this.props
    return drawn === this.props.drawn && firstKey === this.props.firstKey ? null : heldIn(scroller.current)
  }

  override componentDidUpdate(_props: StillProps, _state: unknown, held: Held | null): void {
    const { current } = this.props.scroller
    const element = held && current?.querySelector(held.selector)
    if (!element) return
    const moved = element.getBoundingClientRect().top - held.top
    if (moved !== 0) current?.scrollBy({ top: moved })
  }

  override render(): ReactNode {
    return this.props.children
  }
}

/** The first message that begins in sight; where none does, the one that is in sight. */
function heldIn(scroller: HTMLElement | null): Held | null {
  if (scroller === null) return null
  const { top: from, bottom: to } = scroller.getBoundingClientRect()
  let held: Held | null = null
  for (const group of scroller.querySelectorAll('.group')) {
    const place = group.getBoundingClientRect()
    if (place.bottom <= from) continue
    if (place.top >= to) break
    for (const article of group.querySelectorAll<HTMLElement>('article')) {
      const { top, bottom } = article.getBoundingClientRect()
      if (bottom <= from || top >= to) continue
      const { message, reply } = article.dataset
      held = { selector: message ? `[data-message="${message}"]` : `[data-reply="${reply}"]`, top }
      if (top >= from) return held
    }
  }
  return held
}
