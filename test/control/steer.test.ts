/** Messages that are handed to the reply that is being written, by a reply that asks for them between its steps. */
import pg from 'pg'
import { expect, test } from 'vitest'
import { ReplyError } from '../../src/core/errors.ts'
import type { HoldfastOptions, ReplyContext } from '../../src/index.ts'
import { gate, ofType, outcomesOf, textIn } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { shownOf } from './scene.ts'

const saidIn = ({ parts }: { parts: { type: string; text?: string }[] }) => parts.map(({ text }) => text ?? '').join('')

/** Each step is written when its gate opens; between steps the reply takes what was sent to steer it. */
async function openSteered(options: Partial<HoldfastOptions> = {}) {
  const prompts: string[][] = []
  const second = gate()
  const failing = { next: false }
  const opened = await openChat({
    ...options,
    async *reply({ messages, message, steering, stepsDone }: ReplyContext) {
      prompts.push(messages.map((each) => `${each.role}: ${saidIn(each)}`))
      const steered = stepsDone > 0 ? messages.slice(messages.findIndex(({ id }) => id === message.id) + 2) : []
      yield { type: 'start' }
      for (let step = stepsDone; step < 2; step++) {
        yield { type: 'start-step' }
        yield { type: 'text-start', id: `t${step}` }
        const about = step === 0 ? saidIn(message) : steered.map(saidIn).join(' and ')
        yield { type: 'text-delta', id: `t${step}`, delta: `[${about}]` }
        yield { type: 'text-end', id: `t${step}` }
        if (step === 1 && failing.next) {
          failing.next = false
          throw new ReplyError('provider_overloaded', 'on purpose')
        }
        yield { type: 'finish-step' }
        if (step === 0 && saidIn(message) === 'first') await second.passed
        if (step === 0) steered.push(...(await steering()))
      }
      yield { type: 'finish', finishReason: 'stop' }
    },
  })
  const { ann, session, watcher, database } = opened
  const first = await ann.send(session, 'first', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  const query = async (text: string, values: unknown[]) => {
    const client = new pg.Client(database)
    await client.connect()
    await client.query(text, values).finally(() => client.end())
  }
  return { ...opened, first, prompts, goOn: second.open, failing, query }
}

test('steer: a message is handed to the running reply at its next border, has no reply of its own, and stays (I2, I13)', async () => {
  const { ann, session, watcher, first, prompts, goOn } = await openSteered()
  await ann.send(session, 'also this', 'm2', { whenBusy: 'steer' })
  await ann.send(session, 'later', 'm3')
  goOn()
  const steered = await watcher.outcome('m2')
  expect(steered).toMatchObject({
    type: 'message.stopped',
    data: { userMessageId: 'm2', reason: 'steered', replyId: first.reply.id },
  })
  expect(textIn(await watcher.outcome('m1')).replace(/\s+/g, '')).toBe('[first][alsothis]')
  await watcher.outcome('m3')
  expect(prompts.at(-1)).toEqual(['user: first', 'user: also this', 'assistant: [first][also this]', 'user: later'])
  expect(await shownOf(ann, session)).toEqual([
    'user: first',
    'assistant: [first]\n\n[also this]',
    'user: also this',
    'user: later',
    'assistant: [later]\n\n[]',
  ])
  expect(outcomesOf(watcher, 'm2')).toHaveLength(1)
  expect(ofType(watcher, 'attempt.started')).toHaveLength(2)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('steer: an attempt that goes on from a finished step is told again what was handed over (I13)', async () => {
  const { ann, session, watcher, prompts, goOn, failing } = await openSteered()
  await ann.send(session, 'also this', 'm2', { whenBusy: 'steer' })
  failing.next = true
  goOn()
  expect(textIn(await watcher.outcome('m1')).replace(/\s+/g, '')).toBe('[first][alsothis]')
  expect(prompts).toEqual([['user: first'], ['user: first', 'assistant: [first]', 'user: also this']])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('lane: messages of two authors run beside each other where the app says so, each in its order (I2)', async () => {
  const { ann, url, session, watcher, goOn, query } = await openSteered({ lane: () => 'author' })
  await query(
    `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, 'bob', 'member')`,
    [session],
  )
  const bob = await apiOf(url, 'bob')
  await ann.send(session, 'behind it', 'm2')
  await bob.send(session, 'beside it', 'm3')
  await watcher.outcome('m3')
  const { messages, turns } = await ann.snapshot(session)
  expect(messages.filter(({ role }) => role === 'user').map(({ lane }) => lane)).toEqual([
    'user:ann',
    'user:ann',
    'user:bob',
  ])
  expect(turns.map(({ messageId, state }) => [messageId, state])).toEqual([
    ['m1', 'running'],
    ['m2', 'queued'],
  ])
  goOn()
  await watcher.outcome('m2')
  await watcher.close()
  expect(watcher.problems).toEqual([])
})
