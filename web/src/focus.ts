/** The keyboard is never lost: where what had it goes away, and nobody has said where to, it goes on beside it. */
import { useEffect } from 'react'

/** Whoever knows better where it goes has done so by then. */
const otherwiseMs = 100

export function useKeptFocus(): void {
  useEffect(() => {
    let last: Element | null = null
    let isOfList = false
    const onFocus = ({ target }: FocusEvent) => {
      last = target as Element
      isOfList = last.closest('nav') !== null
    }
    // Who has left it by themselves wants no other place.
    const onLeave = ({ target }: FocusEvent) =>
      queueMicrotask(() => {
        // Nor has who looks at another window.
        if (target === last && last?.isConnected && document.hasFocus()) last = null
      })
    const goOn = () => {
      if (last === null || last.isConnected || document.activeElement !== document.body) return
      last = null
      // On a phone its own keyboard would slide in.
      const ofChat = matchMedia('(hover: hover)').matches ? ['.composer textarea', '.messages'] : ['.messages']
      const ofUsage = '.usage-ranges :checked'
      const places = (isOfList ? ['.new-chat'] : [...ofChat, ofUsage]).map((place) =>
        document.querySelector<HTMLElement>(place),
      )
      // Who was made a reader has no field.
      places.find((place) => place !== null)?.focus()
    }
    const watcher = new MutationObserver(() => {
      if (last !== null && !last.isConnected) setTimeout(goOn, otherwiseMs)
    })
    watcher.observe(document.body, { childList: true, subtree: true })
    document.addEventListener('focusin', onFocus)
    document.addEventListener('focusout', onLeave)
    return () => {
      watcher.disconnect()
      document.removeEventListener('focusin', onFocus)
      document.removeEventListener('focusout', onLeave)
    }
  }, [])
}
