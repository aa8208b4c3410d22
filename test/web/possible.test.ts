import { expect, test } from 'vitest'
import type { ShownMessage as Message, Turn } from '../../src/client/client.ts'
import { type Failure, type Possible, possibleIn } from '../../web/src/possible.ts'

type Branch = NonNullable<Message['branch']>

const at = '2026-01-01T00:00:00.000Z'
const later = '2026-01-01T00:00:05.000Z'
const counts = { inputTokens: null, outputTokens: null, createdAt: at, updatedAt: at }
const where = { sessionId: 's', seq: 1, author: null, lane: 'main', delivery: null }
const none = { parts: [], metadata: null, error: null, branch: null, model: null, ...counts, ...where }
const failure = (canRetry: boolean): Failure => ({ code: 'provider_timeout', error: 'No answer.', canRetry })
const alternative = (index: number, count: number): Branch => ({
  index,
  count,
  previous: index > 0 ? `v${index - 1}` : null,
  next: index < count - 1 ? `v${index + 1}` : null,
})

/** A message `u1`, `u2`, … and the reply to it, as one of `statuses`, and their turn where it has no outcome. */
type Pair = {
  reply: Message['status'] | 'none'
  turn?: Partial<Turn>
  error?: Failure
  ownBranch?: Branch
  replyBranch?: Branch
}

function canOf(pairs: Pair[]): (id: string) => string {
  const messages = pairs.flatMap(({ reply, error = null, ownBranch = null, replyBranch = null }, index): Message[] => {
    const [id, replyId] = [`u${index + 1}`, `r${index + 1}`]
    const own: Message = { ...none, id, role: 'user', status: 'complete', repliesTo: null, round: null }
    const answer = { ...none, id: replyId, role: 'assistant' as const, repliesTo: id, round: 1, branch: replyBranch }
    const asked = { ...own, error, branch: ownBranch }
    return reply === 'none' ? [asked] : [asked, { ...answer, status: reply }]
  })
  const turns = pairs.flatMap(({ turn }, index): Turn[] => {
    const id = String(index + 1)
    const ids = { id: `t${id}`, messageId: `u${id}`, replyId: `r${id}` }
    return turn ? [{ ...ids, state: 'queued', attempt: 0, round: 1, ...turn }] : []
  })
  const possible = possibleIn({ messages, turns })
  return (id) => told(possible(messages.find((each) => each.id === id)!))
}

function told({ place, edit, switch: isSwitch, failure: why, isSteered, isAsking, ...can }: Possible) {
  const { withdraw, stop, retry, another } = can
  const said = { withdraw, stop, retry, another, switch: isSwitch, failure: why !== null, steered: isSteered }
  const names = Object.entries({ ...said, asks: isAsking }).flatMap(([name, is]) => (is ? [name] : []))
  return [...(place === null ? [] : [`place ${place}`]), ...(edit ? [`edit ${edit}`] : []), ...names].join(', ')
}

const running: Partial<Turn> = { state: 'running', attempt: 1 }
const question = { kind: 'approval' as const, id: 'a1', toolCallId: 'k1', toolName: 'book', expiresAt: later }
const waiting: Partial<Turn> = { state: 'waiting', attempt: 1, approvals: [question], toolCalls: [] }
const done: Pair = { reply: 'complete' }

const states: { state: string; pairs: Pair[]; can: { [id: string]: string } }[] = [
  {
    state: 'complete',
    pairs: [done],
    can: { u1: 'edit beside', r1: 'another' },
  },
  {
    state: 'the head, that nobody has begun',
    pairs: [{ reply: 'pending', turn: {} }],
    can: { u1: 'place 0, edit in place, withdraw', r1: 'place 0' },
  },
  {
    state: 'running, and one queued behind it',
    pairs: [
      { reply: 'streaming', turn: running },
      { reply: 'pending', turn: {} },
    ],
    can: { u1: 'place 0, stop', r1: 'place 0', u2: 'place 1, edit in place, withdraw', r2: 'place 1' },
  },
  {
    state: 'waiting for people, and one queued behind it: it can be stopped, and nothing is put beside it',
    pairs: [done, { reply: 'streaming', turn: waiting }, { reply: 'pending', turn: {} }],
    can: {
      u1: '',
      r1: '',
      u2: 'place 0, stop, asks',
      r2: 'place 0, asks',
      u3: 'place 1, edit in place, withdraw',
      r3: 'place 1',
    },
  },
  {
    state: 'waiting for people, while one behind it is answered: neither is queued',
    pairs: [
      { reply: 'streaming', turn: waiting },
      { reply: 'streaming', turn: running },
    ],
    can: { u1: 'place 1, stop, asks', r1: 'place 1, asks', u2: 'place 0, stop', r2: 'place 0' },
  },
  {
    state: 'backing off',
    pairs: [{ reply: 'streaming', turn: { attempt: 1, dueAt: later } }],
    can: { u1: 'place 0, stop', r1: 'place 0' },
  },
  {
    state: 'an earlier one that is retried goes before one that backs off',
    pairs: [
      { reply: 'pending', turn: { attempt: 1, round: 2 }, replyBranch: alternative(1, 2) },
      { reply: 'streaming', turn: { attempt: 1, dueAt: later } },
    ],
    can: { u1: 'place 0, stop', u2: 'place 1, stop' },
  },
  {
    state: 'failed, and may be tried again',
    pairs: [{ reply: 'failed', error: failure(true) }],
    can: { u1: 'edit beside', r1: 'retry, failure' },
  },
  {
    state: 'failed for good',
    pairs: [{ reply: 'failed', error: failure(false) }],
    can: { u1: 'edit beside', r1: 'failure' },
  },
  {
    state: 'expired: it failed without an attempt, and waits again in round 2',
    pairs: [done, { reply: 'pending', turn: { attempt: 0, round: 2 }, replyBranch: alternative(1, 2) }],
    can: { u2: 'place 0, stop', r2: 'place 0, switch' },
  },
  {
    state: 'round 2, that waits behind another',
    pairs: [
      { reply: 'streaming', turn: running },
      { reply: 'pending', turn: { attempt: 1, round: 2 }, replyBranch: alternative(1, 2) },
    ],
    can: { u2: 'place 1, stop', r2: 'place 1, switch' },
  },
  {
    state: 'taken into the reply before it, while that is written and after it',
    pairs: [{ reply: 'streaming', turn: running }, { reply: 'none' }],
    can: { u1: 'place 0, stop', u2: 'steered' },
  },
  {
    state: 'taken into a reply that is over',
    pairs: [done, { reply: 'none' }],
    can: { u1: 'edit beside', r1: 'another', u2: 'steered' },
  },
  {
    state: 'stopped',
    pairs: [{ reply: 'stopped' }],
    can: { u1: 'edit beside', r1: 'retry' },
  },
  {
    state: 'in the middle, while a later one runs: retry keeps what comes after, an edit would not',
    pairs: [done, { reply: 'failed', error: failure(true) }, { reply: 'streaming', turn: running }, done],
    can: { u1: '', r1: '', u2: '', r2: 'retry, failure', u4: 'edit beside', r4: 'another' },
  },
  {
    state: 'the last of several replies, which failed',
    pairs: [{ reply: 'failed', error: failure(true), replyBranch: alternative(2, 3) }],
    can: { r1: 'retry, switch, failure' },
  },
  {
    state: 'an old reply that failed: the error is not its own any more, and its turn is over',
    pairs: [{ reply: 'failed', error: failure(true), replyBranch: alternative(0, 3) }],
    can: { r1: 'another, switch' },
  },
  {
    state: 'an old reply, while the next one is written',
    pairs: [{ reply: 'complete', replyBranch: alternative(0, 2), turn: { ...running, replyId: 'other' } }],
    can: { u1: 'place 0, stop', r1: 'place 0, switch' },
  },
  {
    state: 'versions of a message, and of the reply to it, while that is written',
    pairs: [{ reply: 'streaming', turn: running, ownBranch: alternative(1, 2), replyBranch: alternative(1, 2) }],
    can: { u1: 'place 0, stop, switch', r1: 'place 0, switch' },
  },
]

test.each(states)('what may be done: $state', ({ pairs, can }) => {
  const of = canOf(pairs)
  expect(Object.fromEntries(Object.keys(can).map((id) => [id, of(id)]))).toEqual(can)
})

test('what the assistant has said by itself is answered by no other reply, and may be switched to (P38)', () => {
  const said: Message = { ...none, id: 's1', role: 'assistant', status: 'complete', repliesTo: null, round: null }
  const alone = (message: Message) => possibleIn({ messages: [message], turns: [] })(message)
  expect(told(alone(said))).toBe('')
  const beside = { ...said, branch: alternative(0, 2) }
  expect(told(alone(beside))).toBe('switch')
})
