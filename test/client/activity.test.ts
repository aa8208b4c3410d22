/** What a client sees of its session's people without being told: P143, P149. */
import { expect, test } from 'vitest'
import { activityOf, readersOf, type ShownMessage } from '../../src/client/client.ts'
import { notLoaded } from '../../src/client/session.ts'
import { withDelivery } from '../../src/client/shown-message.ts'
import type { Part } from '../../src/core/chunk.ts'
import type { Turn } from '../../src/core/message.ts'
import { createView, newMessage, type Shown, type Snapshot } from '../../src/core/view.ts'

const at = '2026-11-30T00:00:00.000Z'
const of = { sessionId: 's', lane: 'main', at } as const
const own = () => ({ ...newMessage({ ...of, id: 'm', seq: 5, role: 'user' }), author: 'ann' })
const membersOf = (...reads: number[]) =>
  ['ann', 'bob', 'carl', 'rita'].map((userId, index) => {
    const read = reads[index]!
    return { userId, role: index === 3 ? 'reader' : 'member', delivered: read + 1, read }
  })

test('a message is delivered and read when every other member has it; who has read it is known before (P143)', () => {
  const states = [
    [[0, 9, 9, 3], 'sent', ['bob', 'carl']],
    [[9, 9, 9, 4], 'delivered', ['bob', 'carl']],
    [[0, 5, 9, 5], 'read', ['bob', 'carl', 'rita']],
  ] as const
  for (const [reads, state, readers] of states) {
    const members = membersOf(...reads)
    const shown = { members, messages: [own()], turns: [] } as unknown as Shown
    const message = withDelivery(own(), shown, 0)
    expect([message.delivery, readersOf(message, members)]).toEqual([{ state }, readers])
  }
  const waiting: ShownMessage = { ...own(), seq: 0, author: null, delivery: { state: 'waiting', retryAt: null } }
  const reply: ShownMessage = { ...newMessage({ ...of, id: 'r', seq: 5, role: 'assistant' }), delivery: null }
  for (const message of [waiting, reply]) expect(readersOf(message, membersOf(9, 9, 9, 9))).toEqual([])
})

test('in a private lane the assistant alone is the other one, whoever has read on in what all see (P143, P157)', () => {
  const message = { ...own(), lane: 'private:ann' }
  const members = membersOf(0, 9, 9, 9)
  const turn: Turn = { id: 't', messageId: 'm', replyId: 'r', attempt: 0, round: 1, state: 'queued' }
  const stateOf = (attempt: number) => {
    const shown = { members, messages: [message], turns: [{ ...turn, attempt }] } as unknown as Shown
    return withDelivery({ ...message }, shown, 0)
  }
  expect(readersOf(stateOf(0), members)).toEqual([])
  expect([0, 1, 2].map((attempt) => stateOf(attempt).delivery?.state)).toEqual(['sent', 'delivered', 'read'])
})

test('the assistant thinks while a turn runs whose reply does not end in text, and writes while it does (P149)', () => {
  const doing = (state: Turn['state'], parts: Part[]) => {
    const reply: ShownMessage = { ...newMessage({ ...of, id: 'r', seq: 5, role: 'assistant' }), parts, delivery: null }
    const turn: Turn = { id: 't', messageId: 'm', replyId: 'r', attempt: 1, round: 1, state }
    return activityOf({ ...notLoaded, messages: [reply], turns: [turn], typing: ['bob'] }).map((each) =>
      'assistant' in each ? each.assistant : `${each.userId} ${each.doing}`,
    )
  }
  const text = (said: string) => ({ type: 'text', text: said })
  const call = { type: 'tool-weather', toolCallId: 'c', state: 'input-available' }
  expect(doing('running', [])).toEqual(['thinking', 'bob typing'])
  expect(doing('running', [{ type: 'step-start' }, text('')])).toEqual(['thinking', 'bob typing'])
  expect(doing('running', [text('It')])).toEqual(['writing', 'bob typing'])
  expect(doing('running', [text('It is'), call])).toEqual(['thinking', 'bob typing'])
  for (const state of ['queued', 'waiting'] as const) expect(doing(state, [text('It')])).toEqual(['bob typing'])
})

test('nobody else reads what is said in a private lane: its delivery is the assistant’s (P143, P157)', () => {
  const message = { ...own(), lane: 'private:ann' }
  const members = membersOf(9, 9, 9, 9)
  const shown = { members, messages: [message], turns: [] } as unknown as Shown
  const seen = withDelivery(message, shown, 0)
  expect([seen.delivery, readersOf(seen, members)]).toEqual([{ state: 'sent' }, []])
})

test('who joins, gets another role or leaves is so among the members that are shown (P51)', () => {
  const [ann, bob, carl] = membersOf(3, 4, 5, 0)
  const snapshot = { session: {}, members: [ann, bob], messages: [], before: null, turns: [], open: [], cursor: '0' }
  const view = createView(snapshot as unknown as Snapshot)
  const told = [
    ['member.joined', { member: carl, by: 'ann' }],
    ['member.changed', { member: { ...bob, role: 'reader', read: 0 }, by: 'ann' }],
    ['member.left', { userId: 'ann', by: 'ann', reason: 'left' }],
  ] as const
  for (const [index, [type, data]] of told.entries()) {
    const ends = { after: String(index), cursor: String(index + 1) }
    expect(view.take({ ...ends, type, data, seq: index + 1, at })).toBe(true)
  }
  // What they have read stays theirs.
  expect(view.now().members).toEqual([{ ...bob, role: 'reader' }, carl])
})
