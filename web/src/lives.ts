/** What the trying panel draws: the turns' events of a session, and when this page was away. */
import type { ConnectionState, EventFrame, SessionHandle, SessionState } from 'holdfast/client'
import { useCallback, useEffect, useRef, useState } from 'react'
import { readLog } from './demo.ts'
import { type Absence, type Life, livesOf, noLives } from './timeline.ts'

/** By reply. What came before the page did, or while it loaded, is read from the log. */
export function useLives(handle: SessionHandle, { turns, phase }: SessionState, isOn: boolean) {
  const [lives, setLives] = useState<ReadonlyMap<string, Life>>(new Map())
  const log = useRef({ events: [] as EventFrame[], told: noLives, cursor: '', isReading: false })
  const read = useCallback(async () => {
    const { current } = log
    if (current.isReading) return
    current.isReading = true
    const { events, cursor } = await readLog(handle.id, current.cursor)
    current.isReading = false
    current.cursor = cursor
    const seq = events[0]?.seq ?? Number.POSITIVE_INFINITY
    current.events = [...current.events.filter((each) => each.seq < seq), ...events]
    current.told = livesOf(current.events)
    setLives(current.told.lives)
  }, [handle])

  useEffect(() => {
    if (!isOn) return
    return handle.onFrame((frame) => {
      if (!('seq' in frame)) return
      const { current } = log
      // One that leaves a gap before it is read with what is missing.
      if (frame.after !== current.cursor && frame.seq !== (current.events.at(-1)?.seq ?? 0) + 1) return void read()
      current.events.push(frame)
      current.cursor = frame.cursor
      current.told = livesOf([frame], current.told)
      setLives(current.told.lives)
    })
  }, [handle, isOn, read])
  const isBehind = turns.some(({ replyId, attempt }) => lives.get(replyId)?.attempt !== attempt)
  useEffect(() => {
    if (isOn && phase === 'ready') void read()
  }, [isOn, phase, read])
  useEffect(() => {
    if (isOn && isBehind) void read()
  }, [isOn, isBehind, read])
  return lives
}

/** Add it to a time of the server's to have it by this clock: what comes live was said just now. */
export function useClockAhead(handle: SessionHandle): number {
  const [aheadMs, setAheadMs] = useState<number | null>(null)
  useEffect(
    () =>
      handle.onFrame((frame) => {
        if (!('at' in frame) || !handle.getSnapshot().isLive) return
        const ms = Date.now() - Date.parse(frame.at)
        setAheadMs((known) => (known === null || ms < known ? ms : known))
      }),
    [handle],
  )
  return aheadMs ?? 0
}

/** From when to when the session could not be followed. `expect`: why it is about to be so, where the page itself does it. */
export function useAbsences(isLive: boolean, connection: ConnectionState['phase'], clockAheadMs: number) {
  const [absences, setAbsences] = useState<readonly Absence[]>([])
  const expected = useRef<Absence['reason']>('lost')
  const wasLive = useRef(false)
  const latest = useRef({ connection, clockAheadMs })
  latest.current = { connection, clockAheadMs }
  useEffect(() => {
    const now = Date.now() - latest.current.clockAheadMs
    const reason = expected.current
    if (isLive) {
      expected.current = 'lost'
      setAbsences((all) => all.map((each) => (each.to === null ? { ...each, to: now } : each)))
    }
    // Who rests was not cut off.
    else if (wasLive.current && latest.current.connection !== 'idle') {
      setAbsences((all) => [...all, { from: now, to: null, reason }])
    }
    wasLive.current = isLive
  }, [isLive])
  const expect = useCallback((reason: Absence['reason']) => {
    expected.current = reason
  }, [])
  return { absences, expect }
}
