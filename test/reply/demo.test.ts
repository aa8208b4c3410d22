import { describe, expect, test } from 'vitest'
import { demoReply } from '../../src/reply/demo.ts'
import { answer, callsIn, partsIn, waits } from '../control/asking.ts'
import { ofType, openScene, textIn } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { deltasOf, userMessage, written } from './writers.ts'

const fast = demoReply({ wordsPerSecond: 1_000_000 })

async function answerTo(text: string, attempt = 1) {
  const message = userMessage(text)
  const { chunks, usage, error } = await written(fast, { message, messages: [message], attempt })
  return { text: deltasOf(chunks), usage, error }
}

test('the demo model says what it is, how to set a key, and what it heard', async () => {
  const { text, error } = await answerTo('What is a lease?')
  expect(error).toBeUndefined()
  expect(text).toContain('I am the demo model')
  expect(text).toContain('`OPENAI_API_KEY` or `ANTHROPIC_API_KEY`')
  expect(text).toContain('> What is a lease?')
})

test('the demo model gives the same words for the same message', async () => {
  for (const text of ['Hello', 'long', 'slow', '', '🌍\n\n```js\n1\n```']) {
    expect((await answerTo(text)).text).toBe((await answerTo(text)).text)
  }
})

test('the demo model reports what it used', async () => {
  const { usage } = await answerTo('Two words')
  expect(usage).toMatchObject([{ model: 'demo', inputTokens: 2, finishReason: 'stop' }])
})

describe('asked to be', () => {
  test('slow, it numbers sixty lines that take about a minute at its usual pace', async () => {
    const { text } = await answerTo('Slow!')
    const numbers = [...text.matchAll(/^(\d+)\. /gm)].map(([, number]) => Number(number))
    expect(numbers).toEqual(Array.from({ length: 60 }, (_, index) => index + 1))
    const seconds = text.trim().split(/\s+/).length / 20
    expect(seconds).toBeGreaterThan(50)
    expect(seconds).toBeLessThan(90)
  })

  test('long, it writes headings, lists, tables and code', async () => {
    const { text } = await answerTo('long')
    for (const mark of ['# ', '## 4.', '* a first', '| Step |', '```ts']) expect(text).toContain(mark)
    expect(text.split('\n\n').length).toBeGreaterThan(15)
  })

  test('failing, it breaks off in each attempt as an overloaded provider does', async () => {
    for (const attempt of [1, 2, 3]) {
      const { text, error } = await answerTo('fail', attempt)
      expect(error).toMatchObject({ code: 'provider_overloaded' })
      expect(text).toMatch(/^I am the demo model/)
    }
  })

  test('failing once, its second attempt is whole', async () => {
    expect((await answerTo('Fail once.', 1)).error).toMatchObject({ code: 'provider_overloaded' })
    const { text, error } = await answerTo('Fail once.', 2)
    expect(error).toBeUndefined()
    expect(text).toContain('The first attempt failed, as you asked.')
  })
})

test('an abort ends the demo model between two words', async () => {
  const abort = new AbortController()
  const onChunk = () => abort.abort()
  const { chunks, error } = await written(demoReply(), { signal: abort.signal, onChunk })
  expect(error).toBeUndefined()
  expect(chunks.map(({ type }) => type)).not.toContain('finish')
})

const noKey = { OPENAI_API_KEY: '' }
const rollsIn = (output: unknown) => (output as { rolls: number[] }).rolls

describe('asked for', () => {
  test.each(['roll the dice', 'Call a tool, please', 'Dice?'])(
    'a tool (%s), it rolls two dice and tells of them in its next step',
    async (said) => {
      const { ann, session, watcher } = await openChat({ reply: fast })
      await ann.send(session, said, 'm1')
      const outcome = await watcher.outcome('m1')
      const parts = partsIn(outcome)
      expect(parts.map(({ type }) => type)).toEqual(['step-start', 'text', 'tool-dice', 'step-start', 'text'])
      expect(parts[2]).toMatchObject({ state: 'output-available', input: { dice: 2, sides: 6 } })
      expect(textIn(outcome)).toContain(`The dice show ${rollsIn(parts[2]!.output).join(' and ')}.`)
      expect(watcher.problems).toEqual([])
    },
  )

  test.each(['send an email', 'Something that needs approval'])(
    'approval (%s), it waits, runs when it is approved, and says so',
    async (said) => {
      const { ann, session, watcher } = await openChat({ reply: fast })
      await ann.send(session, said, 'm1')
      const { data } = await waits(watcher)
      const [approval] = data.turn.approvals
      expect(approval).toMatchObject({ toolName: 'send_email' })
      await answer(ann, session, 'approvals', approval.id, { approved: true })
      const outcome = await watcher.outcome('m1')
      expect(callsIn(partsIn(outcome))).toEqual([
        [approval.toolCallId, 'output-available', { sent: true, pretended: true }],
      ])
      expect(textIn(outcome)).toContain('you approved the email and the tool ran')
      expect(watcher.problems).toEqual([])
    },
  )

  test('approval, and refused, it says so with the reason, and the tool does not run', async () => {
    const { ann, session, watcher } = await openChat({ reply: fast })
    await ann.send(session, 'send an email', 'm1')
    const { data } = await waits(watcher)
    await answer(ann, session, 'approvals', data.turn.approvals[0].id, { approved: false, reason: 'too early' })
    const outcome = await watcher.outcome('m1')
    expect(callsIn(partsIn(outcome))).toEqual([[data.turn.approvals[0].toolCallId, 'output-denied']])
    expect(textIn(outcome)).toContain('no email was sent. You said why: too early')
    expect(watcher.problems).toEqual([])
  })

  test('nothing, it calls none: a long message has such words by chance', async () => {
    const { text } = await answerTo(`${'Once upon a time there was a mill. '.repeat(6)}It got an email.`)
    expect(text).toContain('A real model would have taken it from there.')
  })

  test.each(['tool.begin', 'tool.begun', 'tool.ended', 'checkpoint.answered'])(
    'a tool, and killed at %s, another process tells the roll that is stored (I9)',
    async (point) => {
      const { start, ann } = await openScene()
      await start({ env: { ...noKey, HOLDFAST_ROLES: 'http' } })
      const dying = await start({ points: [`${point}:1:kill`], env: { ...noKey, HOLDFAST_ROLES: 'runner' } })
      const session = await ann.createSession()
      const watcher = ann.watch(session)
      await ann.send(session, 'roll the dice', 'm1')
      await dying.exited
      await start({ env: { ...noKey, HOLDFAST_ROLES: 'runner' } })
      const outcome = await watcher.outcome('m1')
      expect(outcome.type).toBe('message.ai_response')
      const call = partsIn(outcome).find(({ type }) => type === 'tool-dice')!
      expect(callsIn(partsIn(outcome))).toHaveLength(1)
      expect(textIn(outcome)).toContain(`The dice show ${rollsIn(call.output).join(' and ')}.`)
      expect(ofType(watcher, 'attempt.started')).toHaveLength(2)
      expect(watcher.problems).toEqual([])
      await watcher.close()
    },
  )

  /** Approved, killed at the point, and taken over. */
  async function approvedAndKilled(point: string) {
    const { start, ann } = await openScene()
    await start({ env: { ...noKey, HOLDFAST_ROLES: 'http' } })
    const dying = await start({ points: [`${point}:1:kill`], env: { ...noKey, HOLDFAST_ROLES: 'runner' } })
    const session = await ann.createSession()
    const watcher = ann.watch(session)
    await ann.send(session, 'send an email', 'm1')
    const { data } = await waits(watcher)
    await answer(ann, session, 'approvals', data.turn.approvals[0].id, { approved: true })
    await dying.exited
    await start({ env: { ...noKey, HOLDFAST_ROLES: 'runner' } })
    return { ann, session, watcher }
  }

  test.each(['tool.begin', 'tool.ended'])(
    'approval, and killed at %s after it, nobody is asked again (I3, I9)',
    async (point) => {
      const { watcher } = await approvedAndKilled(point)
      const outcome = await watcher.outcome('m1')
      expect(textIn(outcome)).toContain('you approved the email and the tool ran')
      expect(ofType(watcher, 'turn.waiting')).toHaveLength(1)
      expect(watcher.problems).toEqual([])
      await watcher.close()
    },
  )

  test.each([
    { approved: true, told: 'you approved the email and the tool ran' },
    { approved: false, told: 'I go on without the tool. What became of it: Interrupted' },
  ])(
    'approval, and killed while it ran, it asks whether it may run again: $approved (I3, I9)',
    async ({ approved, told }) => {
      const { ann, session, watcher } = await approvedAndKilled('tool.begun')
      await watcher.until(({ data }) => data?.turn?.waitingFor === 'uncertain')
      const { data } = ofType(watcher, 'turn.waiting')[1]!
      await answer(ann, session, 'approvals', data.turn.approvals[0].id, { approved })
      expect(textIn(await watcher.outcome('m1'))).toContain(told)
      expect(watcher.problems).toEqual([])
      await watcher.close()
    },
  )
})
