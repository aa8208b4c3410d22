/** What the page makes of turns and their events: the line, what is asked, the timeline. */
import { expect, test } from 'vitest'
import type { EventFrame, Turn } from '../../src/client/client.ts'
import { asksOf, questionOf } from '../../web/src/asks.ts'
import { type Absence, livesOf, stepsOf } from '../../web/src/timeline.ts'
import { lineOf } from '../../web/src/turns.ts'

const timeOf = (second: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString()
const turnOf = (id: string, to: Partial<Turn> = {}): Turn => ({
  ...{ id: `t-${id}`, messageId: id, replyId: `r-${id}`, state: 'queued', attempt: 0, round: 1 },
  ...to,
})

test('those behind one that runs wait in the order of their messages, and one that is retried where its message stands', () => {
  const messages = ['u1', 'u2', 'u3'].map((id) => ({ id }))
  const idsOf = (...turns: Turn[]) => lineOf(turns, messages).map(({ messageId }) => messageId)
  expect(idsOf(turnOf('u3'), turnOf('u2'), turnOf('u1'))).toEqual(['u1', 'u2', 'u3'])
  expect(idsOf(turnOf('u1', { round: 2 }), turnOf('u3', { state: 'running', attempt: 1 }))).toEqual(['u3', 'u1'])
  expect(idsOf(turnOf('u1', { round: 2 }), turnOf('u2', { attempt: 1, dueAt: timeOf(9) }))).toEqual(['u1', 'u2'])
  const asking = turnOf('u1', { state: 'waiting', attempt: 1 })
  expect(idsOf(asking, turnOf('u2', { state: 'running', attempt: 1 }), turnOf('u3'))).toEqual(['u2', 'u1', 'u3'])
})

test('questions of each kind, and calls of a client, are told apart, and only a waiting turn asks (P110, P113, P117)', () => {
  const call = { toolCallId: 'k1', toolName: 'book', expiresAt: timeOf(60) }
  const budget = { kind: 'budget', used: 3, max: 3, expiresAt: timeOf(60) } as const
  const waiting = turnOf('u1', {
    ...{ state: 'waiting', attempt: 2 },
    approvals: [
      { ...call, kind: 'approval', id: 'a1' },
      { ...call, kind: 'uncertain', id: 'a2' },
      { ...budget, budget: 'progress', id: 'a3' },
    ],
    toolCalls: [{ ...call, toolCallId: 'k2', toolName: 'where' }],
  })
  const asks = asksOf(waiting)
  expect(asks.map(({ kind, id, toolCallId, attempt }) => [kind, id, toolCallId, attempt])).toEqual([
    ['approval', 'a1', 'k1', 2],
    ['uncertain', 'a2', 'k1', 2],
    ['budget', 'a3', null, 2],
    ['tool', 'k2', 'k2', 2],
  ])
  expect(asks.map((ask) => questionOf(ask)?.title)).toEqual([
    'May book run?',
    'It is not known whether this ran. Run it again?',
    'The model stopped answering, at the last of 3 attempts. Let it try again?',
    undefined,
  ])
  expect(asksOf({ ...waiting, state: 'queued' })).toEqual([])
})

test('a budget of the app’s is told with whose, how much and when, and the yes is offered to who may say it (P226)', () => {
  const rule = { per: 'session', every: 'month', measure: 'tokens', renewsAt: timeOf(60) } as const
  const asked = {
    kind: 'budget',
    budget: 'limit',
    id: 'a1',
    used: 12,
    max: 10,
    expiresAt: timeOf(60),
    ...rule,
  } as const
  const questionTo = (mayGoOn: 'member' | 'owner' | 'server', isOwner: boolean) => {
    const turn = turnOf('u1', { state: 'waiting', approvals: [{ ...asked, mayGoOn }] })
    return questionOf(asksOf(turn)[0]!, isOwner)!
  }
  const title = 'The month’s budget of this chat is used up: 12 tokens of 10.'
  for (const offered of [questionTo('member', false), questionTo('owner', true)]) {
    expect(offered).toMatchObject({ title: `${title} Let it go on?`, yes: 'Go on', no: 'End it' })
    expect(offered.note).toMatch(/^It goes on by itself at /)
  }
  expect(questionTo('owner', false)).toMatchObject({ title, yes: null, no: 'End it' })
  expect(questionTo('owner', false).note).toMatch(/^An owner of this chat may let it go on. It goes on by itself at /)
  expect(questionTo('server', true).note).toMatch(/^Who runs this service may let it go on\. /)
})

type Told = { type: string; second?: number; data?: object; of?: string }

const lifeOf = (told: Told[], of = 'r-u1') =>
  livesOf(
    told.map(({ type, second = 0, data = {}, of: turnId = 't-u1' }, at): EventFrame => {
      const ends = { after: `c${at}`, cursor: `c${at + 1}` }
      return { ...ends, type, seq: at + 1, at: timeOf(second), turnId, data: data as EventFrame['data'] }
    }),
  ).lives.get(of)!
const labels = (told: Told[], absences: Absence[] = [], of?: string) =>
  stepsOf(lifeOf(told, of), absences).map(({ label }) => label)
const at = (second: number) => Date.parse(timeOf(second))

const created = { type: 'message.created', data: { turn: turnOf('u1') } }
const started = (attempt: number, second = 0) => ({ type: 'attempt.started', second, data: { attempt } })
const complete = { type: 'message.ai_response', second: 12 }
const failed = { type: 'message.error' }
const queuedAgain = { type: 'turn.queued', data: { turn: turnOf('u1', { replyId: 'r2', attempt: 1, round: 2 }) } }

test('a turn is open until its outcome, and again in a new round, which has another reply and a timeline of its own', () => {
  expect(lifeOf([created])).toMatchObject({ isOpen: true, replyId: 'r-u1', attempt: 0 })
  const other = { type: 'message.created', of: 't-u2', data: { turn: turnOf('u2') } }
  expect(lifeOf([created, other, started(1), complete])).toMatchObject({ isOpen: false, attempt: 1 })
  expect(lifeOf([created, other, started(1), complete], 'r-u2')).toMatchObject({ isOpen: true, replyId: 'r-u2' })
  const retried = [created, started(1, 1), failed, queuedAgain, started(2, 9)]
  expect(lifeOf(retried, 'r2')).toMatchObject({ isOpen: true, replyId: 'r2', attempt: 2 })
  expect(labels(retried, [], 'r2')).toEqual(['Queued', 'Attempt 2'])
  // What happened to the first one is still known.
  expect(lifeOf(retried)).toMatchObject({ isOpen: false, attempt: 1 })
  expect(labels(retried)).toEqual(['Stored', 'Queued', 'Attempt 1', 'Failed'])
})

test('the timeline tells a killed attempt from one that ended by itself, and from a page that was merely away', () => {
  const crashed = { type: 'attempt.ended', second: 9, data: { attempt: 1, reason: 'crashed' } }
  const gap: Absence = { from: at(3), to: at(5), reason: 'lost' }
  for (const told of [[crashed], []]) {
    const killed = [created, started(1, 1), ...told, started(2, 9), complete]
    expect(labels(killed, [gap])).toEqual(['Stored', 'Queued', 'Attempt 1', 'Killed', 'Attempt 2', 'Complete'])
    expect(stepsOf(lifeOf(killed), [gap])[3]?.at).toBe(at(3))
    expect(stepsOf(lifeOf(killed), [])[3]?.at).toBe(null)
  }

  // The page that killed the server knows it before the log does.
  const killing = [created, started(1, 1)]
  expect(labels(killing, [{ from: at(3), to: null, reason: 'killed' }])).toEqual([
    'Stored',
    'Queued',
    'Attempt 1',
    'Killed',
  ])

  const ended = { type: 'attempt.ended', second: 2, data: { attempt: 1, reason: 'error', code: 'provider_overloaded' } }
  const failedOnce = [created, started(1, 1), ended, started(2, 9), complete]
  expect(labels(failedOnce)).toEqual(['Stored', 'Queued', 'Attempt 1', 'Broke off', 'Attempt 2', 'Complete'])

  const cut: Absence = { from: at(3), to: at(6), reason: 'cut' }
  const away = [created, started(1, 1), complete]
  expect(labels(away, [cut])).toEqual(['Stored', 'Queued', 'Attempt 1', 'Connection cut', 'Complete'])
  const before: Absence = { from: at(0) - 60_000, to: at(0) - 50_000, reason: 'lost' }
  expect(labels(away, [before])).toEqual(['Stored', 'Queued', 'Attempt 1', 'Complete'])
})

test('a turn that waits for people and is answered shows both, and the attempt that goes on is no takeover (P114)', () => {
  const waiting = { type: 'turn.waiting', second: 1, data: { turn: turnOf('u1', { state: 'waiting', attempt: 1 }) } }
  const answered = {
    type: 'approval.answered',
    second: 2,
    data: { approved: true, turn: turnOf('u1', { attempt: 1 }) },
  }
  const told = [created, started(1), waiting, answered, started(2, 3)]
  expect(labels(told)).toEqual(['Stored', 'Queued', 'Attempt 1', 'Waits', 'Approved', 'Attempt 2'])
})
