/** What is shown after a command, and what lists say of the session. */
import { expect, test } from 'vitest'
import { failedTurns } from '../../src/store/operate.ts'
import { wrongsBesideTexts } from '../races/tree.ts'
import { openStoredTalk } from './stored-talk.ts'

test('a retry of a reply that is not shown leaves what is shown alone (I10)', async () => {
  const talk = await openStoredTalk()
  await talk.say('a')
  await talk.another('a', 'r2')
  await talk.fail()
  const toRetry = async () => {
    const found: string[] = []
    for await (const page of failedTurns(talk.database, 60)) found.push(...page.map(({ messageId }) => messageId))
    return found
  }
  expect(await toRetry()).toEqual(['a'])
  await talk.select('a-reply')
  await talk.say('b')
  const before = ['a', 'a-reply', 'b', 'b-reply']
  expect(await talk.shown()).toEqual(before)
  // Nor does the operator ask for it.
  expect(await toRetry()).toEqual([])

  const retried = await talk.again('a', 'r3')
  expect(retried.outcome === 'done' && JSON.parse(retried.event.json)).toMatchObject({
    turn: { replyId: 'r3', round: 3 },
    shown: false,
  })
  expect(await talk.shown()).toEqual(before)
  await talk.complete('Re a, again')
  expect(await talk.shown()).toEqual(before)
  expect(await talk.preview()).toBe('Re b')
  await talk.select('r3')
  expect(await talk.shown()).toEqual(['a', 'r3'])
  expect(await talk.preview()).toBe('Re a, again')
  expect(await wrongsBesideTexts(talk.stored)).toEqual([])
})

test('a retry in a branch that is not shown stays there, and is shown with it (I10)', async () => {
  const talk = await openStoredTalk()
  await talk.send('a')
  await talk.fail()
  await talk.change('a', 'a2')
  await talk.complete('Re a2')
  expect((await talk.again('a', 'r2')).outcome).toBe('done')
  await talk.complete('Re a')
  expect(await talk.shown()).toEqual(['a2', 'a2-reply'])
  await talk.select('a')
  expect(await talk.shown()).toEqual(['a', 'r2'])
  expect(await wrongsBesideTexts(talk.stored)).toEqual([])
})

test('an edit that is withdrawn shows the message again that it was an edit of (I11)', async () => {
  const talk = await openStoredTalk()
  await talk.say('m')
  await talk.change('m', 'm2')
  await talk.complete('Re m2')
  await talk.select('m')
  await talk.change('m', 'm3')
  expect(await talk.shown()).toEqual(['m3', 'm3-reply'])
  expect((await talk.halt('m3')).outcome).toBe('stopped')
  expect(await talk.shown()).toEqual(['m', 'm-reply'])
  expect(await wrongsBesideTexts(talk.stored)).toEqual([])
})

test('the preview is of the last message that is shown, of whichever lane, after each command', async () => {
  const talk = await openStoredTalk()
  await talk.say('first')
  await talk.send('of bob', { by: 'bob', lane: 'user:bob' })
  expect(await talk.preview()).toBe('of bob')
  // The only message of its lane.
  await talk.halt('of bob', 'bob')
  expect(await talk.preview()).toBe('Re first')

  await talk.send('slip', { lane: 'user:ann' })
  await talk.send('waits', { by: 'bob', lane: 'user:bob' })
  await talk.change('slip', 'said better')
  expect(await talk.preview()).toBe('waits')
  await talk.change('waits', 'said better, too', { by: 'bob' })
  expect(await talk.preview()).toBe('said better, too')
  await talk.halt('waits', 'bob')
  expect(await talk.preview()).toBe('said better')
  await talk.halt('slip')

  await talk.change('first', 'other')
  await talk.complete('Re other')
  expect(await talk.preview()).toBe('Re other')
  await talk.select('first')
  expect(await talk.preview()).toBe('Re first')
  // A reply that is written while another branch is shown.
  await talk.another('other', 'other-2')
  await talk.select('first')
  await talk.complete('Re other, aside')
  expect(await talk.preview()).toBe('Re first')
  expect(await wrongsBesideTexts(talk.stored)).toEqual([])
})
