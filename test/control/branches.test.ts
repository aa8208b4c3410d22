import { expect, test } from 'vitest'
import { apiOf } from '../support/client.ts'
import { openTalk, refusedWith } from './scene.ts'

test('an edit begins a branch beside the old one; each has its own prompt, and switching is seen by all (I13)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  for (const [id, text] of [
    ['m1', 'one'],
    ['m2', 'two'],
    ['m3', 'three'],
  ] as const) {
    await ann.send(session, text, id)
    await watcher.outcome(id)
  }
  const stand = await talk.command('m2', 'edit', { id: 'm2b', text: 'zwei' })
  expect(stand.message).toMatchObject({ id: 'm2b', branch: { index: 1, count: 2, previous: 'm2', next: null } })
  await watcher.outcome('m2b')
  expect(talk.prompt(3)).toEqual(['user: one', 'assistant: Re one (0)', 'user: zwei'])
  const edited = ['user: one', 'assistant: Re one (0)', 'user: zwei [2/2]', 'assistant: Re zwei (3)']
  expect(await talk.shown()).toEqual(edited)

  await talk.command('m2', 'select')
  const selected = await watcher.until(({ type }) => type === 'branch.selected')
  expect(selected.data).toEqual({ messageId: 'm2', index: 0, count: 2 })
  expect(await talk.shown()).toEqual([
    'user: one',
    'assistant: Re one (0)',
    'user: two [1/2]',
    'assistant: Re two (1)',
    'user: three',
    'assistant: Re three (2)',
  ])
  const shown = (await ann.snapshot(session)).messages.find(({ id }) => id === 'm2')
  expect(shown?.branch).toEqual({ index: 0, count: 2, previous: null, next: 'm2b' })
  await ann.send(session, 'four', 'm4')
  await watcher.outcome('m4')
  expect(talk.prompt(4).slice(2)).toEqual([
    'user: two',
    'assistant: Re two (1)',
    'user: three',
    'assistant: Re three (2)',
    'user: four',
  ])

  await talk.command('m2b', 'select')
  expect(await talk.shown()).toEqual(edited)
  // A message deep in the branch that is not shown brings all of it back.
  await talk.command('m4', 'select')
  expect((await talk.shown()).at(-2)).toBe('user: four')
  // Shown already: nothing is written.
  await talk.command('m4', 'select')
  const { frames } = await ann.poll(session, {})
  expect(frames.filter(({ type }) => type === 'branch.selected').map(({ data }) => data.messageId)).toEqual([
    'm2',
    'm2b',
    'm4',
  ])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('an edit and a regeneration that are repeated find what they made (I10)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'one', 'm1')
  await watcher.outcome('m1')
  const edits = await Promise.all(
    Array.from({ length: 10 }, () => talk.command('m1', 'edit', { id: 'm1b', text: 'eins' })),
  )
  expect(new Set(edits.map(({ turn }) => turn.id)).size).toBe(1)
  await watcher.outcome('m1b')
  const again = await Promise.all(Array.from({ length: 10 }, () => talk.command('m1b', 'regenerate', { id: 'r2' })))
  expect(new Set(again.map(({ reply }) => reply.id))).toEqual(new Set(['r2']))
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.id === 'r2')
  expect(await talk.shown()).toEqual(['user: eins [2/2]', 'assistant: Re eins (2) [2/2]'])
  expect(await refusedWith(talk.command('m1b', 'regenerate', { id: 'm1' }))).toBe('id_conflict')
  expect(await refusedWith(talk.command('m1', 'edit', { id: 'm1b', text: 'other' }))).toBe('id_conflict')
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('another reply to an earlier message leaves what came after it in the old reply’s branch', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  for (const [id, text] of [
    ['m1', 'one'],
    ['m2', 'two'],
  ] as const) {
    await ann.send(session, text, id)
    await watcher.outcome(id)
  }
  const first = (await ann.snapshot(session)).messages[1]!.id
  await talk.command('m1', 'regenerate', { id: 'r2' })
  await watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.id === 'r2')
  expect(await talk.shown()).toEqual(['user: one', 'assistant: Re one (2) [2/2]'])
  await talk.command(first, 'select')
  expect(await talk.shown()).toEqual(['user: one', 'assistant: Re one (0) [1/2]', 'user: two', 'assistant: Re two (1)'])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a message that waits is changed in its place, keeps its id, and a repeat of its first send finds it', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await ann.send(session, 'secnd', 'm2')
  await ann.send(session, 'third', 'm3')
  const stand = await talk.command('m2', 'edit', { id: 'unused', text: 'second' })
  expect(stand.message).toMatchObject({ id: 'm2', branch: null, parts: [{ type: 'text', text: 'second' }] })
  expect((await watcher.until(({ type }) => type === 'message.changed')).data.message.id).toBe('m2')
  expect((await ann.send(session, 'secnd', 'm2')).message.parts).toEqual([{ type: 'text', text: 'second' }])
  talk.goOn()
  await watcher.outcome('m3')
  expect(talk.prompt(2).slice(2)).toEqual(['user: second', 'assistant: Re second (1)', 'user: third'])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('while a reply of its branch is written a message is neither edited nor answered again', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'one', 'm1')
  await watcher.outcome('m1')
  const { turn } = await ann.send(session, 'wait', 'm2')
  await watcher.until(({ type, turnId }) => type === 'chunk' && turnId === turn.id)
  const before = await ann.snapshot(session)
  expect(await refusedWith(talk.command('m1', 'edit', { id: 'm1b', text: 'x' }))).toBe('busy')
  expect(await refusedWith(talk.command('m1', 'regenerate', { id: 'r2' }))).toBe('busy')
  expect((await ann.snapshot(session)).messages).toEqual(before.messages)
  talk.goOn()
  await watcher.outcome('m2')
  await watcher.close()
})

test('commands with bad input are refused and change nothing; strangers see no difference to what is not there (I15)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher } = talk
  await ann.send(session, 'one', 'm1')
  await watcher.outcome('m1')
  const before = await ann.snapshot(session)
  for (const [name, body] of [
    ['retry', { round: 0 }],
    ['retry', { round: '1' }],
    ['stop', { rounds: 1 }],
    ['edit', { text: 'x' }],
    ['edit', { id: 'm1b' }],
    ['edit', { id: 'm1b', text: 'x', parts: [] }],
    ['edit', { id: 'm1b', text: 'x', role: 'assistant' }],
    ['edit', { id: 'no spaces', text: 'x' }],
    ['regenerate', {}],
    ['regenerate', { id: 1 }],
    ['select', { index: 0 }],
  ] as const) {
    expect([name, body, await refusedWith(talk.command('m1', name, body))]).toEqual([name, body, 'invalid_request'])
  }
  const bob = await apiOf(talk.url, 'bob')
  for (const name of ['retry', 'stop', 'edit', 'regenerate', 'select']) {
    const body = name === 'edit' ? { id: 'b', text: 'x' } : name === 'regenerate' ? { id: 'b' } : {}
    expect([name, await refusedWith(bob.command(session, 'm1', name, body))]).toEqual([name, 'not_found'])
    expect([name, await refusedWith(talk.command('none', name, body))]).toEqual([name, 'not_found'])
  }
  expect(await ann.snapshot(session)).toEqual(before)
  await watcher.close()
})

test('an edit that makes a turn counts as a message that is sent; one too many is 429 and changes nothing (P35, P72)', async () => {
  const talk = await openTalk({ HOLDFAST_SENDS_PER_MINUTE: '1' })
  const { ann, session, watcher } = talk
  await ann.send(session, 'one', 'm1')
  await watcher.outcome('m1')
  const before = await ann.snapshot(session)
  const body = JSON.stringify({ id: 'm1b', text: 'eins' })
  const refused = await ann.request(`/v1/sessions/${session}/messages/m1/edit`, { method: 'POST', body })
  expect([refused.status, refused.headers.get('ratelimit-policy')]).toEqual([429, '"sends";q=1;w=60'])
  expect(await refused.json()).toMatchObject({ code: 'rate_limited', userMessageId: 'm1b', retryable: true })
  expect(await ann.snapshot(session)).toEqual(before)
  await watcher.close()
})
