/** The days of a range. The server counts in days of UTC, so they are those of UTC here, too. */
import type { UsageRange } from './place.ts'

const dayMs = 24 * 3_600_000

/** Each as `2026-11-30`, up to today. */
export function daysOf(range: UsageRange, now: number): string[] {
  const count = range === 'month' ? new Date(now).getUTCDate() : Number(range)
  return Array.from({ length: count }, (_, at) => dayOf(now - (count - 1 - at) * dayMs))
}

const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10)

const words = (day: string, how: Intl.DateTimeFormatOptions) =>
  new Date(`${day}T00:00:00Z`).toLocaleDateString(undefined, { ...how, timeZone: 'UTC' })

export const dayWords = (day: string) => words(day, { weekday: 'long', day: 'numeric', month: 'long' })
export const dateWords = (day: string) => words(day, { weekday: 'short', day: 'numeric', month: 'short' })
export const shortDayWords = (day: string) => words(day, { day: 'numeric', month: 'short' })

export const rangeWords: { [Range in UsageRange]: string } = {
  '7': '7 days',
  '30': '30 days',
  '90': '90 days',
  month: 'This month',
}
export const whenWords: { [Range in UsageRange]: string } = {
  '7': 'in the last 7 days',
  '30': 'in the last 30 days',
  '90': 'in the last 90 days',
  month: 'this month',
}
