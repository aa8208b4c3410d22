/** What came while nobody looked. */
import type { Message, SessionState } from 'holdfast/client'
import { useEffect, useRef, useState } from 'react'

/** Who was away for less has seen what came, or sees it come. */
const awayMs = 10_000

/**
 * The first reply that came while this user was away: of a chat that is opened, what was read on no device; later, what
 * came while the page was hidden or had no connection. Null: none. Until something is sent: then it was seen.
 */
export function useCame(state: SessionState, isShown: boolean, lastSent: string | undefined): string | null {
  const { phase, isLive, messages, session } = state
  const [first, setFirst] = useState<string | null>(null)
  const seen = useRef<{ messages: readonly Message[]; at: number } | null>(null)
  const hasSent = useRef(false)
  const isLooking = isShown && isLive
  useEffect(() => {
    if (lastSent !== undefined) hasSent.current = true
    if (phase !== 'ready' || !isLooking) return
    if (seen.current === null) {
      const unread = session?.unread ?? 0
      // Of a chat that was begun here the first reply may be there before its log is followed.
      const over = unread > 0 && !hasSent.current ? overIn(messages) : []
      if (over.length > 0) setFirst(over.at(-Math.min(unread, over.length)) ?? null)
    } else if (Date.now() - seen.current.at > awayMs) {
      const ids = new Set(overIn(seen.current.messages))
      const came = overIn(messages).find((id) => !ids.has(id))
      if (came !== undefined) setFirst(came)
    }
    seen.current = { messages, at: Date.now() }
    // What follows came while somebody looked, until they look away.
    return () => {
      if (seen.current) seen.current = { ...seen.current, at: Date.now() }
    }
  }, [phase, isLooking, messages, session, lastSent])
  useEffect(() => {
    if (lastSent !== undefined) setFirst(null)
  }, [lastSent])
  return first
}

/** Looked for when somebody was away, and not for each piece of a reply. */
const overIn = (messages: readonly Message[]) =>
  messages.flatMap(({ id, role, status }) =>
    role === 'assistant' && status !== 'pending' && status !== 'streaming' ? [id] : [],
  )
