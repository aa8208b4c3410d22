import { expect, test } from 'vitest'
import { ofType, outcomesOf } from '../faults/scene.ts'
import { openTalk, refusedWith } from './scene.ts'

test('queue: a second message waits, is seen by all, and is answered after the first with its reply in the prompt (I13)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  expect((await ann.send(session, 'second', 'm2')).turn.state).toBe('queued')
  expect((await ann.snapshot(session)).turns.map(({ messageId, state }) => [messageId, state])).toEqual([
    ['m1', 'running'],
    ['m2', 'queued'],
  ])
  talk.goOn()
  await watcher.outcome('m2')
  expect(talk.prompt(1)).toEqual(['user: wait', 'assistant: Half of wait, whole.', 'user: second'])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('reject: a busy lane refuses and stores nothing; a free one takes the message', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  const before = await ann.snapshot(session)
  expect(await refusedWith(ann.send(session, 'second', 'm2', { whenBusy: 'reject' }))).toBe('busy')
  expect((await ann.snapshot(session)).messages).toHaveLength(before.messages.length)
  // What is stored already is no new message, however busy it is.
  expect((await ann.send(session, 'wait', 'm1', { whenBusy: 'reject' })).turn.state).toBe('running')
  talk.goOn()
  await watcher.outcome('m1')
  await ann.send(session, 'second', 'm2', { whenBusy: 'reject' })
  expect((await watcher.outcome('m2')).type).toBe('message.ai_response')
  await watcher.close()
})

test('interrupt: the reply that is written is stopped, its text kept, and the new message is answered at once (I11)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher, provider } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await ann.send(session, 'rather this', 'm2', { whenBusy: 'interrupt' })
  await watcher.outcome('m2')
  const [stopped] = outcomesOf(watcher, 'm1')
  expect(stopped).toMatchObject({ type: 'message.stopped', data: { reason: 'interrupted', by: 'ann' } })
  expect(talk.prompt(1)).toEqual(['user: wait', 'assistant: Half of wait', 'user: rather this'])
  expect(await provider.requests[0]!.closed).toBe('aborted')
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('interrupt: a server that dies right after it took the message has marked what runs; another one stops it (I1, I11)', async () => {
  const talk = await openTalk({ HOLDFAST_LEASE_MS: '5000' })
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  const dying = await talk.start({ points: ['accept.answered:1:kill'], env: { HOLDFAST_ROLES: 'http' } })
  const sending = ann.send(session, 'rather this', 'm2', { whenBusy: 'interrupt' }).catch(() => undefined)
  await dying.exited
  await sending
  const living = await talk.start()
  const stopped = await watcher.outcome('m1')
  expect(stopped.data).toMatchObject({ reason: 'interrupted' })
  expect((await watcher.outcome('m2')).type).toBe('message.ai_response')
  expect(await living.stop()).toBe(0)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('interrupt and steer on a free lane are answered like any message', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  for (const whenBusy of ['interrupt', 'steer']) {
    await ann.send(session, whenBusy, whenBusy, { whenBusy })
    expect((await watcher.outcome(whenBusy)).type).toBe('message.ai_response')
  }
  expect(ofType(watcher, 'message.stopped')).toEqual([])
  await watcher.close()
})

test('steer: a reply without a border of steps leaves the message to its own turn', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await ann.send(session, 'and this', 'm2', { whenBusy: 'steer' })
  talk.goOn()
  expect((await watcher.outcome('m2')).type).toBe('message.ai_response')
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('whenBusy takes one of its four words', async () => {
  const talk = await openTalk()
  expect(await refusedWith(talk.ann.send(talk.session, 'hi', 'm1', { whenBusy: 'later' }))).toBe('invalid_request')
  expect((await talk.ann.snapshot(talk.session)).messages).toEqual([])
  await talk.watcher.close()
})
