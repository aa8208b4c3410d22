import { expect, test } from 'vitest'
import { type Absence, stepsOf } from '../../web/src/timeline.ts'
import {
  type ChunkFrame,
  type EventFrame,
  type Frame,
  type Message,
  type Part,
  type Snapshot,
  takeFrame,
  takePast,
  textOf,
  type View,
  viewOf,
} from '../../web/src/view.ts'

const turnId = 't1'
const timeOf = (second: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString()

function messageOf(id: string, role: Message['role'], parts: Part[], status: Message['status']): Message {
  const repliesTo = role === 'assistant' ? 'u1' : null
  return { id, role, parts, status, error: null, repliesTo, model: null, createdAt: timeOf(0) }
}

const empty: Snapshot = {
  session: { id: 's1', title: null, updatedAt: timeOf(0), lastPreview: null },
  messages: [],
  before: null,
  turns: [],
  open: [],
  cursor: 'c0',
}

/** Frames whose cursors follow one another from `c0`. */
function chain(frames: { type: string; second?: number; data?: object; chunk?: Partial<ChunkFrame> }[]): Frame[] {
  return frames.map(({ type, second = 0, data = {}, chunk }, at) => {
    const ends = { after: `c${at}`, cursor: `c${at + 1}` }
    if (chunk) return { ...ends, type: 'chunk', messageId: 'r1', attempt: 1, index: 0, n: 1, chunks: [], ...chunk }
    return { ...ends, type, seq: at + 1, at: timeOf(second), turnId, data } as EventFrame
  })
}

function play(frames: Frame[], from: View = viewOf(empty)): View {
  let view = from
  for (const frame of frames) {
    const next = takeFrame(view, frame)
    if (next === 'gap') throw new Error(`a gap at ${frame.cursor}`)
    view = next
  }
  return view
}

const created = {
  type: 'message.created',
  data: {
    message: messageOf('u1', 'user', [{ type: 'text', text: 'hi' }], 'complete'),
    reply: { id: 'r1', status: 'pending' },
    turn: { id: turnId, messageId: 'u1', replyId: 'r1', state: 'queued', attempt: 0 },
  },
}
const started = (attempt: number, second = 0, base: Part[] = []) => ({
  type: 'attempt.started',
  second,
  data: { turnId, replyId: 'r1', attempt, base },
})
const text = (attempt: number, index: number, ...deltas: string[]) => ({
  type: 'chunk',
  chunk: {
    attempt,
    index,
    n: deltas.length + (index === 0 ? 1 : 0),
    chunks: [
      ...(index === 0 ? [{ type: 'text-start', id: '1' }] : []),
      ...deltas.map((delta) => ({ type: 'text-delta', id: '1', delta })),
    ],
  },
})
const complete = (said: string, second = 0) => ({
  type: 'message.ai_response',
  second,
  data: { message: messageOf('r1', 'assistant', [{ type: 'text', text: said }], 'complete') },
})

const shown = (view: View) => textOf(view.messages.at(-1)?.parts ?? [])

test('a later attempt begins from its base: texts of two attempts are never joined (I7)', () => {
  const frames = chain([created, started(1), text(1, 0, 'one ', 'two '), started(2), text(2, 0, 'uno ')])
  expect(shown(play(frames.slice(0, 3)))).toBe('one two ')
  expect(shown(play(frames.slice(0, 4)))).toBe('')
  expect(shown(play(frames))).toBe('uno ')
  const kept = chain([created, started(1), text(1, 0, 'lost '), started(2, 0, [{ type: 'text', text: 'kept' }])])
  expect(shown(play(kept))).toBe('kept')
})

test('a frame that does not come right after the last one is a gap, and so is a chunk out of place (I5)', () => {
  const frames = chain([created, started(1), text(1, 0, 'a'), text(1, 2, 'b')])
  const view = play(frames.slice(0, 2))
  expect(takeFrame(view, frames[3]!)).toBe('gap')
  expect(takeFrame(view, frames[1]!)).toBe('gap')
  const misplaced = chain([created, started(1), text(1, 3, 'x')])
  expect(takeFrame(play(misplaced.slice(0, 2)), misplaced[2]!)).toBe('gap')
  const stale = chain([created, started(2), text(1, 0, 'x')])
  expect(takeFrame(play(stale.slice(0, 2)), stale[2]!)).toBe('gap')
})

test('following on from a snapshot in the middle of a reply shows the same as having been there (I5)', () => {
  const frames = chain([created, started(1), text(1, 0, 'one '), text(1, 2, 'two '), complete('one two three')])
  const there = play(frames)
  const snapshot: Snapshot = {
    ...empty,
    messages: [created.data.message, { ...messageOf('r1', 'assistant', [], 'streaming') }],
    turns: [{ id: turnId, messageId: 'u1', replyId: 'r1', state: 'running', attempt: 1 }],
    open: [{ turnId, replyId: 'r1', attempt: 1, index: 2, chunks: text(1, 0, 'one ').chunk.chunks }],
    cursor: 'c3',
  }
  const late = viewOf(snapshot)
  expect(shown(late)).toBe('one ')
  const followed = play(frames.slice(3), late)
  expect(followed.messages).toEqual(there.messages)
  expect(takePast(followed, frames).turns).toEqual(there.turns)
})

test('a message that does not change stays the same object, so that it is not drawn again', () => {
  const frames = chain([created, started(1), text(1, 0, 'one ')])
  const before = play(frames.slice(0, 2))
  const after = play(frames)
  expect(after.messages[0]).toBe(before.messages[0])
})

const labels = (view: View, absences: Absence[] = []) =>
  stepsOf(view.turns.get(turnId)!, absences).map(({ label }) => label)
const at = (second: number) => Date.parse(timeOf(second))

test('the timeline tells a killed attempt from one that ended by itself, and from a page that was merely away', () => {
  const crashed = { type: 'attempt.ended', second: 9, data: { attempt: 1, reason: 'crashed' } }
  const gap: Absence = { from: at(3), to: at(5), reason: 'lost' }
  for (const told of [[crashed], []]) {
    const killed = play(chain([created, started(1, 1), ...told, started(2, 9), complete('x', 12)]))
    expect(labels(killed, [gap])).toEqual(['Stored', 'Queued', 'Attempt 1', 'Killed', 'Attempt 2', 'Complete'])
    expect(stepsOf(killed.turns.get(turnId)!, [gap])[3]?.at).toBe(at(3))
    expect(stepsOf(killed.turns.get(turnId)!, [])[3]?.at).toBe(null)
  }

  // The page that killed the server knows it before the log does.
  const killing = play(chain([created, started(1, 1)]))
  expect(labels(killing, [{ from: at(3), to: null, reason: 'killed' }])).toEqual([
    'Stored',
    'Queued',
    'Attempt 1',
    'Killed',
  ])

  const ended = { type: 'attempt.ended', second: 2, data: { attempt: 1, reason: 'error', code: 'provider_overloaded' } }
  const failedOnce = play(chain([created, started(1, 1), ended, started(2, 9), complete('x', 12)]))
  expect(labels(failedOnce)).toEqual(['Stored', 'Queued', 'Attempt 1', 'Broke off', 'Attempt 2', 'Complete'])

  const cut: Absence = { from: at(3), to: at(6), reason: 'cut' }
  const away = play(chain([created, started(1, 1), complete('x', 12)]))
  expect(labels(away, [cut])).toEqual(['Stored', 'Queued', 'Attempt 1', 'Connection cut', 'Complete'])
  const before: Absence = { from: at(0) - 60_000, to: at(0) - 50_000, reason: 'lost' }
  expect(labels(away, [before])).toEqual(['Stored', 'Queued', 'Attempt 1', 'Complete'])
})
