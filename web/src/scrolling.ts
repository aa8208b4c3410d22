/** Where in the messages the reader is. */
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'react'

const nearEndPx = 80

/** Stays at the end while the reader is there, and leaves alone who has scrolled up to read. */
export function useEnd(isEmpty: boolean, lastSent: string | undefined) {
  const scroller = useRef<HTMLElement>(null)
  const follows = useRef(true)
  const [isAway, setAway] = useState(false)
  useEffect(() => {
    const { current } = scroller
    if (!current) return
    let height = 0
    let room = 0
    const look = () => {
      const isAtEnd = current.scrollHeight - current.scrollTop - current.clientHeight < nearEndPx
      // A phone that is turned, or its keyboard, moves the text as well; only the reader leaves the end.
      const isMoved = current.scrollHeight !== height || current.clientHeight !== room
      if (isMoved && follows.current && !isAtEnd) return
      follows.current = isAtEnd
      setAway(!isAtEnd)
    }
    current.addEventListener('scroll', look, { passive: true })
    const watcher = new ResizeObserver(() => {
      height = current.scrollHeight
      room = current.clientHeight
      if (follows.current) current.scrollTo({ top: height })
    })
    if (current.firstElementChild) watcher.observe(current.firstElementChild)
    watcher.observe(current)
    return () => {
      current.removeEventListener('scroll', look)
      watcher.disconnect()
    }
  }, [])
  const toEnd = useCallback(() => {
    follows.current = true
    scroller.current?.scrollTo({ top: scroller.current.scrollHeight })
  }, [])
  // biome-ignore lint/correctness/useExhaustiveDependencies: the chat begins at its end
  useLayoutEffect(toEnd, [isEmpty, toEnd])
  useLayoutEffect(() => {
    // Who has just sent something wants to see it.
    if (lastSent !== undefined) toEnd()
  }, [lastSent, toEnd])
  /** Shows what begins here, where the reader would have to go up for it. */
  const goUpTo = useCallback((selector: string) => {
    const { current } = scroller
    const place = current?.querySelector(selector)
    if (!current || !place) return
    const above = place.getBoundingClientRect().top - current.getBoundingClientRect().top - marginPx
    if (above >= 0) return
    follows.current = false
    current.scrollBy({ top: above })
  }, [])
  return { scroller, isAway, toEnd, goUpTo }
}
const marginPx = 8
