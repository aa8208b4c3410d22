import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { ofType, outcomesOf } from '../faults/scene.ts'
import { apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { openHolder } from '../support/stored.ts'
import { openTalk, refusedWith } from './scene.ts'

test('a failed message is retried in its place: same id, error cleared, a new reply linked to it (R0.6, R4.4, I10)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  const sent = await ann.send(session, 'please fail', 'm1')
  const failed = await watcher.outcome('m1')
  expect(failed).toMatchObject({ type: 'message.error', data: { userMessageId: 'm1', code: 'provider_rejected' } })
  expect((await ann.snapshot(session)).messages[0]!.error).toMatchObject({ code: 'provider_rejected' })
  talk.mend()
  const stand = await talk.command('m1', 'retry', { round: 1 })
  expect(stand.message).toMatchObject({ id: 'm1', error: null })
  expect(stand.turn).toMatchObject({ id: sent.turn.id, round: 2 })
  expect(stand.reply).toMatchObject({ repliesTo: 'm1', round: 2, branch: { index: 1, count: 2 } })
  expect(stand.reply.id).not.toBe(sent.reply.id)
  const answered = await watcher.until(({ type }) => type === 'message.ai_response')
  expect(answered.data.message).toMatchObject({ id: stand.reply.id, repliesTo: 'm1', status: 'complete' })
  expect(ofType(watcher, 'turn.queued').map(({ data }) => data.turn.round)).toEqual([2])
  expect(await talk.shown()).toEqual(['user: please fail', 'assistant: Re please fail (1) [2/2]'])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('twenty retries at once from two devices at two servers make one round (I10)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'please fail', 'm1')
  await watcher.outcome('m1')
  const here = await apiOf(talk.url)
  const there = await apiOf((await talk.start()).url)
  const holder = await openHolder(talk.database)
  await holder.hold(session)
  const asked = Array.from({ length: 20 }, (_, at) =>
    (at % 2 === 0 ? here : there).command(session, 'm1', 'retry', { round: 1 }),
  )
  // One of each server at least: they all decide when the other one has.
  await eventually(async () => (await holder.waiting()) >= 2)
  await holder.release()
  const stands = await Promise.all(asked)
  const replies = new Set(stands.map(({ reply }) => reply.id))
  await watcher.until(() => outcomesOf(watcher, 'm1').length === 2)
  expect(replies.size).toBe(1)
  expect(ofType(watcher, 'turn.queued')).toHaveLength(1)
  // A command for a round that is over changes nothing, however late.
  expect((await talk.command('m1', 'retry', { round: 1 })).turn).toMatchObject({ round: 2, state: 'failed' })
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a message is answered in at most roundsMax rounds, and the refusal changes nothing', async () => {
  const talk = await openTalk({ HOLDFAST_ROUNDS_MAX: '2' })
  const { ann, session, watcher } = talk
  await ann.send(session, 'please fail', 'm1')
  await watcher.outcome('m1')
  await talk.command('m1', 'retry')
  await watcher.until(() => outcomesOf(watcher, 'm1').length === 2)
  const before = await ann.snapshot(session)
  expect(await refusedWith(talk.command('m1', 'retry'))).toBe('budget_exceeded')
  expect(await refusedWith(talk.command('m1', 'regenerate', { id: randomUUID() }))).toBe('budget_exceeded')
  expect(await ann.snapshot(session)).toEqual(before)
  await watcher.close()
})

test('a retry of a message that runs or is complete, and of nothing, changes nothing (I10)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  expect((await talk.command('m1', 'retry')).turn).toMatchObject({ state: 'running', round: 1 })
  talk.goOn()
  await watcher.outcome('m1')
  expect((await talk.command('m1', 'retry')).turn).toMatchObject({ state: 'complete', round: 1 })
  expect(await refusedWith(talk.command('m9', 'retry'))).toBe('not_found')
  expect(ofType(watcher, 'turn.queued')).toEqual([])
  await watcher.close()
})

test('a stopped reply is retried too, and what was said after it stays after it (R1.3, I13)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await talk.command('m1', 'stop')
  await ann.send(session, 'next', 'm2')
  await watcher.outcome('m2')
  expect(await talk.shown()).toEqual([
    'user: wait',
    'assistant stopped: Half of wait',
    'user: next',
    'assistant: Re next (1)',
  ])
  await talk.command('m1', 'retry')
  talk.goOn()
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.repliesTo === 'm1')
  expect(talk.prompt(2)).toEqual(['user: wait'])
  expect(await talk.shown()).toEqual([
    'user: wait',
    'assistant: Half of wait, whole. [2/2]',
    'user: next',
    'assistant: Re next (1)',
  ])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})
