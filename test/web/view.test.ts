import { expect, test } from 'vitest'
import { questionOf } from '../../web/src/asks.ts'
import { type Absence, stepsOf } from '../../web/src/timeline.ts'
import {
  type Chunk,
  type ChunkFrame,
  type EventFrame,
  type Frame,
  lineOf,
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
  const round = role === 'assistant' ? 1 : null
  const none = { metadata: null, error: null, branch: null, model: null }
  return { id, role, parts, status, repliesTo, round, createdAt: timeOf(0), updatedAt: timeOf(0), ...none }
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
function chain(
  frames: { type: string; second?: number; turnId?: string; data?: object; chunk?: Partial<ChunkFrame> }[],
): Frame[] {
  return frames.map(({ type, second = 0, turnId: of = turnId, data = {}, chunk }, at) => {
    const ends = { after: `c${at}`, cursor: `c${at + 1}` }
    if (chunk) return { ...ends, type: 'chunk', messageId: 'r1', attempt: 1, index: 0, n: 1, chunks: [], ...chunk }
    return { ...ends, type, seq: at + 1, at: timeOf(second), turnId: of, data } as EventFrame
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
    turn: { id: turnId, messageId: 'u1', replyId: 'r1', state: 'queued', attempt: 0, round: 1 },
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

test('what the assistant says by itself stands after a reply that goes on being written (P38)', () => {
  const notice = { ...messageOf('s1', 'assistant', [{ type: 'text', text: 'a notice' }], 'complete'), repliesTo: null }
  const said = { type: 'message.said', data: { message: notice } }
  const frames = chain([created, started(1), text(1, 0, 'one '), said, text(1, 2, 'two'), said, complete('one two')])
  expect(play(frames).messages.map(({ id, parts }) => [id, textOf(parts)])).toEqual([
    ['u1', 'hi'],
    ['r1', 'one two'],
    ['s1', 'a notice'],
  ])
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
    turns: [{ id: turnId, messageId: 'u1', replyId: 'r1', state: 'running', attempt: 1, round: 1 }],
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

const second = (id: string, branch: Message['branch'] = null) => ({
  type: 'message.created',
  turnId: `t-${id}`,
  data: {
    message: { ...messageOf(id, 'user', [{ type: 'text', text: id }], 'complete'), branch },
    reply: { id: `r-${id}`, status: 'pending' },
    turn: { id: `t-${id}`, messageId: id, replyId: `r-${id}`, state: 'queued', attempt: 0, round: 1 },
  },
})
const failed = {
  type: 'message.error',
  data: {
    ...{ userMessageId: 'u1', code: 'provider_timeout', error: 'No answer.', canRetry: true },
    message: messageOf('r1', 'assistant', [], 'failed'),
  },
}
const queuedAgain = {
  type: 'turn.queued',
  data: { turn: { id: turnId, messageId: 'u1', replyId: 'r2', state: 'queued', attempt: 1, round: 2 }, shown: true },
}
const withdrawn = {
  type: 'message.stopped',
  turnId: 't-u2',
  data: { userMessageId: 'u2', reason: 'withdrawn', message: messageOf('r-u2', 'assistant', [], 'stopped') },
}
const idsOf = (view: View) => view.messages.map(({ id }) => id)

test('a new round takes the place of the old reply, clears the error, and is first in line at its message (I10)', () => {
  const again = play(chain([created, started(1), failed, queuedAgain]))
  expect(idsOf(again)).toEqual(['u1', 'r2'])
  expect(again.messages[0]?.error).toBe(null)
  expect(again.messages[1]).toMatchObject({ status: 'pending', parts: [], round: 2 })
  expect(again.messages[1]?.branch).toEqual({ index: 1, count: 2, previous: 'r1', next: null })
  expect(again.turns.get(turnId)).toMatchObject({ isOpen: true, hasBegun: false, replyId: 'r2', retryAt: null })
  // What stays behind it only the snapshot tells: retry keeps it, another reply does not.
  const frames = chain([created, started(1), failed, second('u2'), queuedAgain])
  expect(takeFrame(play(frames.slice(0, 4)), frames[4]!)).toBe('gap')
  const waiting = play(chain([created, second('u2'), second('u3')]))
  expect(lineOf(waiting).map(({ messageId }) => messageId)).toEqual(['u1', 'u2', 'u3'])
})

test('a new round in a branch that is not shown changes nothing of what is, but for the error that is over (I10)', () => {
  const aside = { ...queuedAgain, data: { ...queuedAgain.data, shown: false } }
  const again = play(chain([created, started(1), failed, aside]))
  expect(idsOf(again)).toEqual(['u1', 'r1'])
  expect(again.messages[0]?.error).toBe(null)
  // It stands behind the one that is shown, and may be selected.
  expect(again.messages[1]?.branch).toEqual({ index: 0, count: 2, previous: null, next: 'r2' })
})

test('a message that is withdrawn goes away with its reply, one that steered goes on without; both leave the line (I11)', () => {
  const gone = play(chain([created, started(1), second('u2'), withdrawn]))
  expect(idsOf(gone)).toEqual(['u1', 'r1'])
  expect(lineOf(gone).map(({ messageId }) => messageId)).toEqual(['u1'])
  const steered = { ...withdrawn, data: { ...withdrawn.data, reason: 'steered', replyId: 'r1' } }
  expect(idsOf(play(chain([created, started(1), second('u2'), steered])))).toEqual(['u1', 'r1', 'u2'])
})

test('where other messages are shown from then on, the snapshot is loaded', () => {
  const branch = { index: 1, count: 2, previous: 'u1', next: null }
  const selected = { type: 'branch.selected', data: { messageId: 'u2', ...branch } }
  for (const frame of [second('u2', branch), selected]) {
    const frames = chain([created, frame])
    expect(takeFrame(play(frames.slice(0, 1)), frames[1]!)).toBe('gap')
  }
  const edited = chain([created, second('u2', null), withdrawn])
  const view = play(edited.slice(0, 2))
  const messages = view.messages.map((each) => (each.id === 'u2' ? { ...each, branch } : each))
  expect(takeFrame({ ...view, messages }, edited[2]!)).toBe('gap')
})

test('a message that is edited while it waits is replaced in its place', () => {
  const changed = {
    type: 'message.changed',
    data: { message: messageOf('u2', 'user', [{ type: 'text', text: 'new' }], 'complete') },
  }
  const view = play(chain([created, second('u2'), changed]))
  expect(idsOf(view)).toEqual(['u1', 'r1', 'u2', 'r-u2'])
  expect(textOf(view.messages[2]!.parts)).toBe('new')
})

test('what an attempt hands over is due at once, and goes on as the same reply; a round that waits has not begun', () => {
  const handover = { type: 'attempt.ended', second: 3, data: { turnId, attempt: 1, reason: 'handover' } }
  const over = play(chain([created, started(1), text(1, 0, 'one '), handover]))
  expect(over.turns.get(turnId)).toMatchObject({ isOpen: true, hasBegun: true, retryAt: timeOf(3) })
  const turn = { id: turnId, messageId: 'u1', replyId: 'r2', state: 'queued', attempt: 1, round: 2 }
  const waiting = viewOf({ ...empty, turns: [turn] })
  expect(waiting.turns.get(turnId)).toMatchObject({ isOpen: true, hasBegun: false, retryAt: null })
})

test('a past that was read further than the stream has come changes nothing: the turn ends when its outcome comes (I2)', () => {
  const frames = chain([created, started(1), complete('done')])
  const ahead = takePast(play(frames.slice(0, 1)), frames)
  expect(lineOf(ahead).map(({ hasBegun }) => hasBegun)).toEqual([false])
  const begun = play(frames.slice(1, 2), ahead)
  expect(lineOf(begun).map(({ hasBegun }) => hasBegun)).toEqual([true])
  const done = play(frames.slice(2), begun)
  expect(lineOf(done)).toEqual([])
  expect(done.turns.get(turnId)?.events.map(({ seq }) => seq)).toEqual([1, 2, 3])
})

test('a snapshot that is loaded in between keeps the past of the turns, and says which are over', () => {
  const before = play(chain([created, started(1, 1)]))
  const after = viewOf({ ...empty, turns: [] }, before)
  expect(after.turns.get(turnId)).toMatchObject({ isOpen: false, events: before.turns.get(turnId)!.events })
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

  // A new round has a timeline of its own.
  const retried = play(
    chain([
      created,
      started(1, 1),
      failed,
      queuedAgain,
      { ...started(2, 9), data: { turnId, replyId: 'r2', attempt: 2, base: [] } },
    ]),
  )
  expect(labels(retried)).toEqual(['Queued', 'Attempt 2'])

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

const book = (state: string, more: object = {}) => ({
  type: 'tool-book',
  toolCallId: 'k1',
  state,
  input: { place: 'here' },
  ...more,
})
const approvals = [{ id: 'a1', toolCallId: 'k1', toolName: 'book', expiresAt: timeOf(60) }]
const turnNow = (state: string, more: object = {}) => ({
  ...{ id: turnId, messageId: 'u1', replyId: 'r1', state, attempt: 1, round: 1 },
  ...more,
})
const asking: Part[] = [{ type: 'step-start' }, book('approval-requested', { approval: { id: 'a1' } })]
const waiting = {
  type: 'turn.waiting',
  second: 1,
  data: {
    turn: turnNow('waiting', { waitingFor: 'approval', approvals, toolCalls: [] }),
    message: messageOf('r1', 'assistant', asking, 'streaming'),
  },
}
const responded = book('approval-responded', { approval: { id: 'a1', approved: true } })
const answered = {
  type: 'approval.answered',
  second: 2,
  data: { turn: turnNow('queued'), messageId: 'r1', toolCallId: 'k1', approved: true, by: 'ann', part: responded },
}
const asksIn = (view: View) => view.turns.get(turnId)!.asks.map(({ kind, id }) => [kind, id])

test('a turn that waits asks until it is answered, and the answer takes the place of its call (P110, P114)', () => {
  const frames = chain([created, started(1), waiting, answered, started(2, 3, [{ type: 'step-start' }, responded])])
  const asked = play(frames.slice(0, 3))
  expect(asksIn(asked)).toEqual([['approval', 'a1']])
  expect(asked.messages[1]).toMatchObject({ status: 'streaming', parts: asking })
  expect(asked.open.size).toBe(0)
  const going = play(frames.slice(0, 4))
  expect(asksIn(going)).toEqual([])
  expect(going.messages[1]!.parts[1]).toEqual(responded)
  expect(lineOf(going).map(({ id }) => id)).toEqual([turnId])
  expect(play(frames).messages[1]!.parts[1]).toEqual(responded)
  const labels = stepsOf(play(frames).turns.get(turnId)!, []).map(({ label }) => label)
  expect(labels).toEqual(['Stored', 'Queued', 'Attempt 1', 'Waits', 'Approved', 'Attempt 2'])
})

test('a snapshot of a waiting turn asks the same as having been there, and a stop ends the question (P116)', () => {
  const { turn, message } = waiting.data
  const messages = [created.data.message, message]
  const view = viewOf({ ...empty, messages, turns: [turn] })
  expect(view.turns.get(turnId)!.asks).toEqual(play(chain([created, started(1), waiting])).turns.get(turnId)!.asks)
  const stop = { type: 'message.stopped', data: { message: { ...message, status: 'stopped' }, userMessageId: 'u1' } }
  expect(asksIn(play(chain([stop]), view))).toEqual([])
})

test('questions of other kinds, and calls of a client, are told apart', () => {
  const kinds = [
    { ...approvals[0]!, kind: 'uncertain' },
    { id: 'a2', kind: 'budget', expiresAt: timeOf(60) },
    { id: 'a3', kind: 'budget', budget: 'progress', used: 3, max: 3, expiresAt: timeOf(60) },
  ]
  const toolCalls = [{ toolCallId: 'k2', toolName: 'where', expiresAt: timeOf(60) }]
  const view = viewOf({ ...empty, turns: [turnNow('waiting', { approvals: kinds, toolCalls })] })
  expect(asksIn(view)).toEqual([
    ['uncertain', 'a1'],
    ['budget', 'a2'],
    ['budget', 'a3'],
    ['tool', 'k2'],
  ])
  expect(view.turns.get(turnId)!.asks.map((ask) => questionOf(ask)?.title)).toEqual([
    'It is not known whether this ran. Run it again?',
    'It reached its limit. Let it go on?',
    'The model stopped answering, at the last of 3 attempts. Let it try again?',
    undefined,
  ])
})

test('the chunks of a call make its part, from the first letter of its input to its result', () => {
  const call = (index: number, ...chunks: Chunk[]) => ({
    type: 'chunk',
    chunk: { attempt: 1, index, n: chunks.length, chunks },
  })
  const frames = chain([
    created,
    started(1),
    call(0, { type: 'start-step' }, { type: 'tool-input-start', toolCallId: 'k1', toolName: 'book' }),
    call(2, { type: 'tool-input-delta', toolCallId: 'k1', inputTextDelta: '{"pla' }),
    call(3, { type: 'tool-input-available', toolCallId: 'k1', toolName: 'book', input: { place: 'here' } }),
    call(4, { type: 'tool-output-available', toolCallId: 'k1', output: 'so far', preliminary: true }),
    call(5, { type: 'tool-output-available', toolCallId: 'k1', output: 'booked' }),
    call(6, { type: 'start-step' }, { type: 'tool-input-start', toolCallId: 'k1', toolName: 'book' }),
    call(8, { type: 'tool-output-error', toolCallId: 'k1', errorText: 'It broke.' }),
  ])
  const calls = (count: number) =>
    play(frames.slice(0, count))
      .messages[1]!.parts.filter(({ type }) => type === 'tool-book')
      .map(({ state, rawInput, output, errorText }) => [state, errorText ?? output ?? rawInput])
  expect(calls(4)).toEqual([['input-streaming', '{"pla']])
  expect(play(frames.slice(0, 5)).messages[1]!.parts[1]).toMatchObject({
    state: 'input-available',
    input: { place: 'here' },
  })
  expect(calls(6)).toEqual([['output-available', 'so far']])
  expect(calls(7)).toEqual([['output-available', 'booked']])
  expect(calls(9)).toEqual([
    ['output-available', 'booked'],
    ['output-error', 'It broke.'],
  ])
})
