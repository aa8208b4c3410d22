import fc from 'fast-check'
import { expect, it } from 'vitest'
import type { ChunkRun, Event } from '../../src/core/event.ts'
import { frameOf } from '../../src/core/frames.ts'

const event: Event = {
  ...{ seq: 7, type: 'message.created', turnId: 'turn', position: 7, attempt: 0, audience: 'user:ann' },
  ...{ at: '2026-01-02T03:04:05.678Z', json: '{"message":{"id":"m"}}' },
}
const run: ChunkRun = {
  ...{ turnId: 'turn', messageId: 'reply', position: 7, audience: 'user:ann', attempt: 2, index: 3, n: 2 },
  json: '[{"type":"text-delta","id":"t","delta":"ab"}]',
}

it('holds of an event what the protocol says, and nothing of its audience', () => {
  const frame = frameOf({ cursor: 'e.7', event }, 'e.6')
  expect(frame.cursor).toBe('e.7')
  expect(JSON.parse(frame.json)).toEqual({
    ...{ cursor: 'e.7', after: 'e.6', type: 'message.created', seq: 7, at: event.at, turnId: 'turn' },
    data: { message: { id: 'm' } },
  })
  expect(JSON.parse(frameOf({ cursor: 'e.7', event: { ...event, turnId: null } }, 'e.6').json)).not.toHaveProperty(
    'turnId',
  )
})

it('holds of chunks what the protocol says', () => {
  expect(JSON.parse(frameOf({ cursor: 'e.7.7:2:5', run }, 'e.7.7:2:3').json)).toEqual({
    ...{ cursor: 'e.7.7:2:5', after: 'e.7.7:2:3', type: 'chunk', turnId: 'turn', messageId: 'reply' },
    ...{ attempt: 2, index: 3, n: 2, chunks: [{ type: 'text-delta', id: 't', delta: 'ab' }] },
  })
})

it('differs from follower to follower in its two cursors only', () => {
  const rest = (json: string) => json.slice(json.indexOf('"type"'))
  const one = frameOf({ cursor: 'e.7', event }, 'e.6').json
  const other = frameOf({ cursor: 'e.7.3:1:0', event }, 'e.2').json
  expect(other).not.toBe(one)
  expect(rest(other)).toBe(rest(one))
})

const anyText = fc.string({ unit: fc.constantFrom(...'a"\\\n\r\t\0\u2028é{}', '😀', '\ud800') })

it('is JSON on one line for any type and data', () => {
  fc.assert(
    fc.property(anyText, fc.jsonValue(), anyText, (type, data, messageId) => {
      const json = JSON.stringify(data)
      const frames = [
        frameOf({ cursor: 'e.7', event: { ...event, type, json } }, 'e.6'),
        frameOf({ cursor: 'e.7', run: { ...run, messageId, json: `[${json}]` } }, 'e.6'),
      ]
      expect(JSON.parse(frames[0]!.json)).toMatchObject({ type })
      expect(JSON.parse(frames[1]!.json)).toMatchObject({ messageId })
      // A line break would end the frame's `data:` field.
      for (const frame of frames) expect(frame.json).not.toMatch(/[\r\n]/)
    }),
  )
})
