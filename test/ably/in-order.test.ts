/** What is done with messages of Ably's that do not fit: waited for a moment, then read from the server. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type AblyMessage, createInOrder } from '../../src/ably-client/in-order.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

function open(cursor = 'e.0') {
  const seen = { shown: [] as number[], missing: 0 }
  const inOrder = createInOrder(cursor, {
    show: (frame) => seen.shown.push((frame as { seq: number }).seq),
    missing: () => seen.missing++,
  })!
  return { inOrder, seen }
}

const event = (seq: number): AblyMessage => ({
  name: 'app.said',
  data: seq,
  extras: { headers: { epoch: 'e', seq: String(seq), at: '' } },
})

test('what comes twice is shown once, what is ahead waits for what is before it (I5)', () => {
  const { inOrder, seen } = open()
  for (const seq of [1, 1, 3, 2, 3, 2]) inOrder.take(event(seq))
  expect(seen).toEqual({ shown: [1, 2, 3], missing: 0 })
  expect(inOrder.cursor()).toBe('e.3')
  vi.runAllTimers()
  expect(seen.missing).toBe(0)
})

test('a gap is read when its time is over, also while more and more comes behind it', () => {
  const { inOrder, seen } = open()
  for (let seq = 2; seq < 6; seq++) {
    inOrder.take(event(seq))
    vi.advanceTimersByTime(20)
  }
  expect(seen).toEqual({ shown: [], missing: 1 })
  inOrder.reading()
  inOrder.readTo('e.5')
  // Another gap has its own time.
  inOrder.take(event(7))
  vi.advanceTimersByTime(50)
  inOrder.take(event(6))
  inOrder.take(event(9))
  vi.advanceTimersByTime(50)
  expect(seen).toEqual({ shown: [6, 7], missing: 1 })
  vi.advanceTimersByTime(20)
  expect(seen.missing).toBe(2)
})

test('while a read stands still no more is kept than has its bound, and what was not is read, too (I5)', () => {
  const { inOrder, seen } = open()
  inOrder.reading()
  for (let seq = 2; seq <= 2_000; seq++) inOrder.take(event(seq))
  expect(seen).toEqual({ shown: [], missing: 0 })
  inOrder.readTo('e.1')
  const kept = seen.shown.length
  expect(kept).toBeGreaterThan(0)
  expect(kept).toBeLessThan(1_000)
  expect(seen.missing).toBe(1)
  // Nobody tells of what comes last again.
  inOrder.reading()
  inOrder.readTo('e.2000')
  vi.runAllTimers()
  expect(seen.missing).toBe(1)
  expect(inOrder.cursor()).toBe('e.2000')
})
