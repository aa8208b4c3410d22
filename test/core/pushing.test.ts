import { expect, test } from 'vitest'
import {
  afterDelivery,
  afterReceipt,
  createPushing,
  type Delivery,
  type PushInput,
  pushingNext,
  takeMax,
  textOf,
} from '../../src/core/pushing.ts'

const policy = { resend: false, receiptsAfterMs: 900_000 }

test('looks again when the next one is due, at the latest after the poll, and at once where more may be due', () => {
  const state = createPushing(1_000)
  const next = (input: PushInput) => pushingNext(state, input)
  expect(next({ type: 'start' })).toEqual([{ type: 'take', limit: takeMax }])
  // One is under way.
  expect(next({ type: 'timer' })).toEqual([])
  expect(next({ type: 'taken', count: 0, dueInMs: 300 })).toEqual([{ type: 'timer', ms: 300 }])
  next({ type: 'timer' })
  expect(next({ type: 'taken', count: 1, dueInMs: 5_000 })).toEqual([{ type: 'timer', ms: 1_000 }])
  next({ type: 'timer' })
  expect(next({ type: 'taken', count: takeMax, dueInMs: null })).toEqual([{ type: 'take', limit: takeMax }])
  expect(next({ type: 'take-failed' })).toEqual([{ type: 'timer', ms: 1_000 }])
})

test('four batches at a time are sent, the end of one takes the next, and who drains takes nothing', () => {
  const state = createPushing(1_000)
  pushingNext(state, { type: 'start' })
  for (let batch = 1; batch < 4; batch++) {
    expect(pushingNext(state, { type: 'taken', count: takeMax, dueInMs: null })).toHaveLength(1)
  }
  expect(pushingNext(state, { type: 'taken', count: takeMax, dueInMs: null })).toEqual([])
  expect(pushingNext(state, { type: 'batch-ended' })).toEqual([{ type: 'take', limit: takeMax }])
  expect(pushingNext(state, { type: 'batch-ended' })).toEqual([])
  pushingNext(state, { type: 'drain' })
  expect(pushingNext(state, { type: 'taken', count: takeMax, dueInMs: null })).toEqual([])
})

test('what was refused for now is tried again, later each time, as late as the service asks, and as often as it takes', () => {
  const again = (tries: number, afterMs?: number) =>
    afterDelivery({ outcome: 'again', why: '', ...(afterMs === undefined ? {} : { afterMs }) }, tries, policy, 0)
  expect([1, 2, 3].map((tries) => again(tries))).toMatchObject(
    [500, 1_000, 2_000].map((afterMs) => ({ state: 'due', afterMs })),
  )
  expect(again(1, 30_000)).toMatchObject({ state: 'due', afterMs: 30_500 })
  expect(again(1, Number.MAX_SAFE_INTEGER).afterMs).toBe(3_600_500)
  expect(again(30)).toMatchObject({ state: 'due', afterMs: 150_000 })
})

test('what nobody knows of is sent again only where the app wants it (I14)', () => {
  const unknown: Delivery = { outcome: 'unknown', why: '' }
  expect(afterDelivery(unknown, 1, policy, 0)).toMatchObject({ state: 'unknown' })
  expect(afterDelivery(unknown, 1, { ...policy, resend: true }, 0)).toMatchObject({ state: 'due' })
})

test('a ticket is asked about until its receipt is there, for a day', () => {
  const ask = { ticket: 't', tries: 1, isOld: false }
  expect(afterDelivery({ outcome: 'sent', ticket: 't' }, 1, policy, 0)).toEqual({
    state: 'sent',
    afterMs: 900_000,
    ticket: 't',
  })
  expect(afterReceipt(undefined, ask, policy, 0)).toMatchObject({ state: 'sent', ticket: 't' })
  expect(afterReceipt(undefined, { ...ask, isOld: true }, policy, 0)).toMatchObject({ state: 'sent', ticket: null })
  expect(afterReceipt({ outcome: 'gone', why: '' }, ask, policy, 0)).toMatchObject({ state: 'gone' })
})

test('a text is the app’s as far as it says one, without control characters, and cut', () => {
  expect(textOf('turn.waiting', { title: 'Hallo\n\u0000Welt' })).toEqual({
    title: 'Hallo \uFFFDWelt',
    body: 'The assistant cannot go on without it.',
  })
  expect(textOf('app.event', null).title).toBe('Something new')
  expect([...textOf('a.b', { body: '🙂'.repeat(300) }).body]).toHaveLength(180)
})
