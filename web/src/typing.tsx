/** Who else writes just now, and telling them that one writes (PROTOCOL.md, P144). */
import type { SessionHandle, SessionState } from 'holdfast/client'
import { useCallback, useEffect, useRef } from 'react'
import { calledOf } from './people.ts'

/** So often it is said again while it is so. */
const sayMs = 3_000

/** `say` is called at each change of what is written; `sent` with a message, which ends it for all who see it. */
export function useSayTyping(handle: SessionHandle, { isLive, members }: SessionState) {
  const isHeard = isLive && members.length > 1
  const saidAt = useRef<number | null>(null)
  const say = useCallback(
    (isWriting: boolean) => {
      const { current } = saidAt
      if (!isHeard || (isWriting ? current !== null && Date.now() - current < sayMs : current === null)) return
      saidAt.current = isWriting ? Date.now() : null
      // It is over in some seconds anyway.
      handle.setTyping(isWriting).catch(() => undefined)
    },
    [handle, isHeard],
  )
  const latest = useRef(say)
  latest.current = say
  // Who goes to another chat does not write here.
  useEffect(() => () => latest.current(false), [])
  const sent = useCallback(() => {
    saidAt.current = null
  }, [])
  return { say, sent }
}

export function Typing({ typing }: Pick<SessionState, 'typing'>) {
  const [first = ''] = typing
  const words = typing.length === 1 ? `${calledOf(first)} is writing…` : `${typing.length} people are writing…`
  return (
    <div className="typing" role="status">
      {typing.length > 0 && <p dir="auto">{words}</p>}
    </div>
  )
}
