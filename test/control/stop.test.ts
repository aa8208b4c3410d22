import { expect, test } from 'vitest'
import { ofType, outcomesOf } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { lastSaid } from '../support/obedient.ts'
import { queryOnce } from '../support/postgres.ts'
import { openTalk, refusedWith } from './scene.ts'

test('a message that waits in its lane is withdrawn: its text comes back, and it is in no prompt (I11, I13)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await ann.send(session, 'a slip', 'm2')
  await ann.send(session, 'third', 'm3')
  const stand = await talk.command('m2', 'stop')
  expect(stand.turn.state).toBe('stopped')
  expect(stand.message.parts).toEqual([{ type: 'text', text: 'a slip' }])
  const stopped = await watcher.outcome('m2')
  expect(stopped.data).toMatchObject({ userMessageId: 'm2', reason: 'withdrawn', by: 'ann' })
  talk.goOn()
  await watcher.outcome('m3')
  expect(talk.prompt(1)).toEqual(['user: wait', 'assistant: Half of wait, whole.', 'user: third'])
  expect(await talk.shown()).toEqual([
    'user: wait',
    'assistant: Half of wait, whole.',
    'user: third',
    'assistant: Re third (1)',
  ])
  for (const command of ['retry', 'edit', 'regenerate']) {
    const body = command === 'retry' ? {} : command === 'edit' ? { id: 'm4', text: 'x' } : { id: 'm4' }
    expect(await refusedWith(talk.command('m2', command, body))).toBe('gone')
  }
  expect((await talk.command('m2', 'stop')).turn.state).toBe('stopped')
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a reply that backs off after an error is stopped, and nothing of it is begun again (I2, I11)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher, provider, database } = talk
  // The provider asks to be left alone for 3 s, so the stop comes before the next attempt is due.
  await ann.send(session, 'later', 'm1')
  const ended = await watcher.until(({ type }) => type === 'attempt.ended')
  const { turn } = await talk.command('m1', 'stop')
  const outcome = await watcher.outcome('m1')
  expect([turn.state, outcome.type]).toEqual(['stopped', 'message.stopped'])
  await ann.send(session, 'next', 'm2')
  await watcher.outcome('m2')
  await eventually(() => isPast(database, ended.data.retryAt))
  // A claim that takes this one has seen everything that is due.
  await ann.send(session, 'last', 'm3')
  await watcher.outcome('m3')
  expect(provider.requests.filter((request) => lastSaid(request) === 'later')).toHaveLength(1)
  expect(ofType(watcher, 'attempt.started').filter(({ data }) => data.turnId === turn.id)).toHaveLength(1)
  expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a stop that comes too late shows the outcome that won (I11)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'hello', 'm1')
  await watcher.outcome('m1')
  const stand = await talk.command('m1', 'stop', { round: 1 })
  expect([stand.turn.state, stand.reply.status]).toEqual(['complete', 'complete'])
  // One that was imported has no event of its own.
  const row = { type: 'message', sessionId: session, text: 'before', createdAt: '2024-01-01T00:00:00Z' }
  const rows = [
    { ...row, id: 'i1', role: 'user' },
    { ...row, id: 'i2', role: 'assistant', repliesTo: 'i1' },
  ]
  await ann.request('/v1/import', { method: 'POST', body: JSON.stringify({ rows }) })
  expect((await talk.command('i1', 'stop')).turn.state).toBe('complete')
  expect(ofType(watcher, 'message.stopped')).toEqual([])
  await watcher.close()
})

test('a stop of a round that is over leaves the present one alone (I10, I11)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await talk.command('m1', 'stop', { round: 1 })
  await talk.command('m1', 'retry', { round: 1 })
  await watcher.until(({ type, attempt }) => type === 'chunk' && attempt === 2)
  expect((await talk.command('m1', 'stop', { round: 1 })).turn).toMatchObject({ state: 'running', round: 2 })
  talk.goOn()
  await watcher.until(({ type }) => type === 'message.ai_response')
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

/** By the database's clock, which alone says what is due. */
async function isPast(database: string, at: string): Promise<boolean> {
  const [row] = await queryOnce<{ past: boolean }>(database, 'select clock_timestamp() > $1 as past', [at])
  return row!.past
}
