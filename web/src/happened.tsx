/** What happened to a reply, for whoever asks: attempts, waits and takeovers, each with its time. */
import { createContext, useContext, useEffect, useId, useState } from 'react'
import { HistoryIcon } from './icons.tsx'
import { Timeline } from './knots.tsx'
import type { Absence, Life } from './timeline.ts'

type Happened = {
  lives: ReadonlyMap<string, Life>
  absences: readonly Absence[]
  clockAheadMs: number
  /** From now on the session's events are read. */
  want(): void
}

/** Of the chat that is shown. Only an open timeline hears of its changes. */
export const HappenedContext = createContext<Happened | null>(null)

export function WhatHappened({ replyId }: { replyId: string }) {
  const [isOpen, setOpen] = useState(false)
  const id = useId()
  return (
    <>
      <button
        type="button"
        className="quiet-button"
        aria-label="What happened"
        title="What happened"
        aria-expanded={isOpen}
        aria-controls={isOpen ? id : undefined}
        onClick={() => setOpen(!isOpen)}
      >
        <HistoryIcon />
      </button>
      {isOpen && (
        <div id={id} className="happened">
          <OfReply replyId={replyId} />
        </div>
      )}
    </>
  )
}

function OfReply({ replyId }: { replyId: string }) {
  const happened = useContext(HappenedContext)
  const want = happened?.want
  useEffect(() => want?.(), [want])
  const life = happened?.lives.get(replyId)
  if (!happened || !life) {
    return (
      <p className="timeline" role="status">
        It is looked up.
      </p>
    )
  }
  return <Timeline {...happened} life={life} className="timeline" label="What happened to this reply" />
}
