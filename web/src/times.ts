/** Times as people read them. */
import { useEffect, useState } from 'react'

const minuteMs = 60_000
const hourMs = 60 * minuteMs
const dayMs = 24 * hourMs

export function agoOf(iso: string): string {
  const agoMs = Date.now() - Date.parse(iso)
  if (agoMs < minuteMs) return 'now'
  if (agoMs < hourMs) return `${Math.floor(agoMs / minuteMs)} min`
  if (agoMs < dayMs) return `${Math.floor(agoMs / hourMs)} h`
  return new Date(iso).toLocaleDateString(undefined, { day: 'numeric', month: 'short' })
}

export const clockOf = (iso: string) =>
  new Date(iso).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' })

// A browser's first time in words takes nearly a frame: alone, while the server is awaited.
setTimeout(() => clockOf(new Date().toISOString()))

/** To the second, with its date. */
export const momentOf = (ms: number) =>
  new Date(ms).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' })

/** A time to come: of today the clock, of this week also the day, else the date. */
export function untilOf(iso: string): string {
  const at = new Date(iso)
  const time = clockOf(iso)
  if (at.toDateString() === new Date().toDateString()) return time
  const isNear = at.getTime() - Date.now() < 6 * dayMs
  const day: Intl.DateTimeFormatOptions = isNear ? { weekday: 'short' } : { day: 'numeric', month: 'short' }
  return `${at.toLocaleDateString(undefined, day)} ${time}`
}

/** The time now, again every so often while `isRunning`. */
export function useNow(everyMs: number, isRunning: boolean): number {
  const [now, setNow] = useState(Date.now)
  useEffect(() => {
    if (!isRunning) return
    setNow(Date.now())
    const timer = setInterval(() => setNow(Date.now()), everyMs)
    return () => clearInterval(timer)
  }, [everyMs, isRunning])
  return now
}

/** It has been so for this long. */
export function useIsLate(isSo: boolean, ms: number): boolean {
  const [isLate, setLate] = useState(false)
  useEffect(() => {
    if (!isSo) return setLate(false)
    const timer = setTimeout(() => setLate(true), ms)
    return () => clearTimeout(timer)
  }, [isSo, ms])
  return isLate
}
