import fc from 'fast-check'
import { expect, it } from 'vitest'
import { type Cursor, decodeCursor, encodeCursor } from '../../src/core/cursor.ts'

const count = fc.integer({ min: 0, max: 999_999_999 })
const epoch = fc.stringMatching(/^[a-z0-9]{1,16}$/)
const anyCursor: fc.Arbitrary<Cursor> = fc
  .tuple(
    epoch,
    count,
    fc.uniqueArray(fc.tuple(count, count, count), { maxLength: 100, selector: ([position]) => position }),
  )
  .map(([epoch, seq, entries]) => ({
    epoch,
    seq,
    open: new Map(entries.map(([position, attempt, index]) => [position, { attempt, index }])),
  }))

it('comes back from its text as it was', () => {
  fc.assert(
    fc.property(anyCursor, (cursor) => {
      const text = encodeCursor(cursor)
      expect(decodeCursor(text)).toEqual(cursor)
      // It goes into a header, a query and a JSON string as it is.
      expect(text).toMatch(/^[a-z0-9.:]+$/)
    }),
    { numRuns: 1_000 },
  )
})

it('is read from no text but its own: whatever is read is written the same way again', () => {
  const almost = fc
    .tuple(anyCursor, fc.nat(), fc.constantFrom('', '0', '.', ':', '-1', 'e', ' ', '\n', '٣', '99999999999', '.1:1:1'))
    .map(([cursor, at, insert]) => {
      const text = encodeCursor(cursor)
      return text.slice(0, at % (text.length + 1)) + insert + text.slice((at % (text.length + 1)) + 1)
    })
  let read = 0
  fc.assert(
    fc.property(fc.oneof(almost, fc.string(), fc.string({ unit: fc.constantFrom(...'e019.:-\n٣') })), (text) => {
      const cursor = decodeCursor(text)
      if (cursor === null) return
      read++
      expect(encodeCursor(cursor)).toBe(text)
    }),
    { numRuns: 3_000 },
  )
  expect(read).toBeGreaterThan(100)
})

it('holds a thousand open turns, more than a session has authors with a lane each', () => {
  const open = new Map(Array.from({ length: 1_024 }, (_, at) => [at, { attempt: 1, index: at }]))
  expect(decodeCursor(encodeCursor({ epoch: 'e', seq: 2_000, open }))).toEqual({ epoch: 'e', seq: 2_000, open })
})

it('is not read from rubbish', () => {
  const many = Array.from({ length: 1_025 }, (_, at) => `.${at}:1:0`).join('')
  const rubbish = [
    ...[
      '',
      '.',
      'e',
      'e.',
      '.1',
      'e.x',
      'e.-1',
      'e.01',
      'e.1e3',
      'e.1.',
      'e.1.1',
      'e.1.1:1',
      'e.1.1:1:1:1',
      'e.1.1:1:x',
    ],
    ...['E.1', 'e-f.1', ' e.1', 'e.1 ', 'e.1\n', 'e.9999999999', 'e.1.1:1:9999999999', 'e'.repeat(17), `e.1${many}`],
    // One turn has one place.
    'e.9.1:1:0.1:1:5',
  ]
  for (const text of rubbish) expect([text, decodeCursor(text)]).toEqual([text, null])
})
