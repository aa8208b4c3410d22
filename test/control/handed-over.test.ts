/** Where a message stands that was handed to a running reply: in prompts, for the app's functions, for who waits. */
import { expect, test } from 'vitest'
import { createFold } from '../../src/core/fold.ts'
import { textOf } from '../../src/core/parts.ts'
import { type HoldfastOptions, ReplyError } from '../../src/index.ts'
import { gate, ofType, outcomesOf } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'

type Told = { role: string; parts: object[] }
const said = ({ role, parts }: Told) => `${role}: ${textOf(parts as never).replaceAll('\n', '')}`

/**
 * A reply of three steps, in session with nobody else. A step begins when its gate opens, takes what was sent to steer it,
 * and says its number; `fails`: those that break off once, before they are finished.
 */
async function openSteps({ fails = [], ...options }: { fails?: number[] } & Partial<HoldfastOptions> = {}) {
  const gates = [gate(), gate(), gate(), gate()]
  const failing = new Set(fails)
  const prompts: string[][] = []
  const given: string[][] = []
  gates[0]!.open()
  const opened = await openChat({
    ...options,
    async *reply({ messages, stepsDone, steering }) {
      prompts.push(messages.map(said))
      for (let step = stepsDone; step < 3; step++) {
        await gates[step]!.passed
        given.push((await steering()).map(said))
        yield { type: 'start-step' }
        yield { type: 'text-start', id: 't' }
        yield { type: 'text-delta', id: 't', delta: `[${step}]` }
        if (failing.delete(step)) throw new ReplyError('provider_overloaded', 'on purpose')
        yield { type: 'text-end', id: 't' }
        yield { type: 'finish-step' }
      }
      await gates[3]!.passed
      yield { type: 'finish', finishReason: 'stop' }
    },
  })
  const { ann, session, watcher } = opened
  const { reply } = await ann.send(session, 'first', 'm1')
  const steer = (text: string, id: string) => ann.send(session, text, id, { whenBusy: 'steer' })
  const open = (...steps: number[]) => {
    for (const step of steps) gates[step]!.open()
  }
  const shows = (text: string) => watcher.until(() => watcher.text(reply.id)?.replaceAll('\n', '') === text)
  await shows('[0]')
  return { ...opened, replyId: reply.id, prompts, given, steer, open, shows }
}

test('an attempt that goes on is told what was handed over before the steps that answer it, and after those that do not (I13)', async () => {
  const { watcher, prompts, given, steer, open, shows } = await openSteps({ fails: [2] })
  await steer('about 1', 'm2')
  open(1)
  await shows('[0][1]')
  await steer('about 2', 'm3')
  open(2, 3)
  await watcher.outcome('m1')
  expect(prompts).toEqual([['user: first'], ['user: first', 'user: about 1', 'assistant: [0][1]', 'user: about 2']])
  expect(given).toEqual([[], ['user: about 1'], ['user: about 2'], []])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('what was handed over stays before the steps that answer it through a second takeover (I13)', async () => {
  const { watcher, prompts, steer, open } = await openSteps({ fails: [1, 2] })
  await steer('about 1', 'm2')
  open(1, 2, 3)
  await watcher.outcome('m1')
  expect(prompts).toEqual([
    ['user: first'],
    ['user: first', 'assistant: [0]', 'user: about 1'],
    ['user: first', 'user: about 1', 'assistant: [0][1]'],
  ])
})

test('onReply and title are told what was handed over, also what was before a takeover (I13)', async () => {
  const told: string[][] = []
  const { ann, session, watcher, steer, open, shows } = await openSteps({
    fails: [1],
    onReply: (_, { messages }) => void told.push(messages.map(said)),
    title: ({ messages }) => {
      told.push(messages.map(said))
      return 'a title'
    },
  })
  await steer('about 1', 'm2')
  open(1)
  await watcher.until(({ type, data }) => type === 'attempt.started' && data.attempt === 2)
  await shows('[0][1]')
  await steer('about 2', 'm3')
  open(2, 3)
  await watcher.until(({ type }) => type === 'session.updated')
  const asked = ['user: first', 'user: about 1', 'user: about 2']
  expect(told).toEqual([asked, [...asked, 'assistant: [0][1][2]']])
  expect((await ann.snapshot(session)).session.title).toBe('a title')
})

test('the turns after it are told what was handed to a reply before that reply, which has answered it (I13)', async () => {
  const { ann, session, watcher, prompts, steer, open } = await openSteps()
  await steer('about 1', 'm2')
  await steer('and this', 'm3')
  open(1, 2, 3)
  await watcher.outcome('m1')
  await ann.send(session, 'later', 'm4')
  await watcher.outcome('m4')
  expect(prompts.at(-1)).toEqual([
    'user: first',
    'user: about 1',
    'user: and this',
    'assistant: [0][1][2]',
    'user: later',
  ])
})

test('a message behind another one that waits is not handed over before it: both are answered in turn (I13)', async () => {
  const { ann, session, watcher, prompts, given, steer, open } = await openSteps()
  await steer('at once', 'm2')
  await ann.send(session, 'in line', 'm3')
  await steer('behind it', 'm4')
  open(1)
  await watcher.outcome('m2')
  open(2, 3)
  await watcher.outcome('m4')
  expect(outcomesOf(watcher, 'm2')[0]!.data.reason).toBe('steered')
  expect(given.flat()).toContain('user: at once')
  // It goes to the turn of the one before it, which takes it before its first step.
  expect(prompts).toEqual([['user: first'], ['user: first', 'user: at once', 'assistant: [0][1][2]', 'user: in line']])
  expect(outcomesOf(watcher, 'm4')[0]!.data).toMatchObject({
    reason: 'steered',
    replyId: ofType(watcher, 'attempt.started')[1]!.data.replyId,
  })
})

test('who waits for a message that was handed over is answered with the whole reply, and not before (P37)', async () => {
  const { ann, session, watcher, steer, open, replyId } = await openSteps()
  const body = JSON.stringify({ id: 'm2', text: 'about 1', whenBusy: 'steer' })
  const wait = async (seconds: number) => {
    const path = `/v1/sessions/${session}/messages?wait=${seconds}`
    const response = await ann.request(path, { method: 'POST', body })
    return { status: response.status, body: await response.json() }
  }
  await steer('about 1', 'm2')
  const waits = wait(50)
  open(1)
  await watcher.outcome('m2')
  expect((await wait(0.3)).status).toBe(202)
  open(2, 3)
  const { status, body: answered } = await waits
  expect(status).toBe(200)
  expect(answered).toMatchObject({
    ...{ message: { id: 'm2' }, turn: { messageId: 'm2', state: 'stopped', replyId } },
    reply: { id: replyId, status: 'complete' },
  })
  expect(said(answered.reply)).toBe('assistant: [0][1][2]')
  expect(await wait(50)).toMatchObject({ status: 200, body: { reply: { id: replyId, status: 'complete' } } })
})

test('a command on a message whose reply is being written answers the base of its attempt: what follows its cursor completes it (I7)', async () => {
  const { ann, session, watcher, steer, open, shows } = await openSteps({ fails: [1] })
  await steer('about 1', 'm2')
  open(1)
  await watcher.until(({ type, data }) => type === 'attempt.started' && data.attempt === 2)
  await shows('[0][1]')
  const { messages } = await ann.snapshot(session)
  // A retry of what runs changes nothing; of what was handed over, a stop comes too late.
  for (const [messageId, command] of [
    ['m1', 'retry'],
    ['m2', 'stop'],
  ] as const) {
    const { reply, cursor } = await ann.command(session, messageId, command)
    expect(reply).toEqual(messages.find(({ id }) => id === reply.id))
    const { frames } = await ann.poll(session, { cursor })
    const fold = createFold({ parts: reply.parts })
    for (const frame of frames) for (const chunk of frame.chunks) fold.push(chunk)
    expect(textOf(fold.parts()).replaceAll('\n', '')).toBe('[0][1]')
  }
  open(2, 3)
  await watcher.outcome('m1')
})
