/** Replies of the app's own making that do what they should not. */
import { expect, test } from 'vitest'
import { type HoldfastOptions, type Reply, ReplyError, type TurnCode } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import type { Frame } from '../support/client.ts'
import { ofType, textIn } from './scene.ts'

async function answered(reply: Reply, options: Partial<HoldfastOptions> = {}) {
  const { ann, session, watcher } = await openChat({ ...options, reply })
  await ann.send(session, 'hi', 'm1')
  const outcome = await watcher.outcome('m1')
  await watcher.close()
  expect(watcher.problems).toEqual([])
  const shown = ofType(watcher, 'chunk').flatMap((frame: Frame) => frame.chunks as { [key: string]: unknown }[])
  return { outcome, shown }
}

test('one chunk object that is yielded again and again, each time with another text, is shown as it is stored (I6, I7)', async () => {
  const { outcome, shown } = await answered(async function* () {
    yield { type: 'start' }
    yield { type: 'text-start', id: 't' }
    const delta = { type: 'text-delta' as const, id: 't', delta: '' }
    for (const word of ['a ', 'b ', 'c ', 'd ']) {
      delta.delta = word
      yield delta
    }
    delta.delta = 'late '
    yield { type: 'text-end', id: 't' }
    yield { type: 'finish', finishReason: 'stop' }
  })
  expect(textIn(outcome)).toBe('a b c d ')
  expect(shown.map(({ delta }) => delta ?? '').join('')).toBe('a b c d ')
})

test('data that cannot be stored any more after it was yielded stops no turn (I2)', async () => {
  const { outcome, shown } = await answered(async function* () {
    yield { type: 'start' }
    const data: { [key: string]: unknown } = { bytes: 1 }
    yield { type: 'data-progress', id: 'p', data }
    data.bytes = 10n
    data.self = data
    yield { type: 'finish', finishReason: 'stop' }
  })
  expect(outcome.type).toBe('message.ai_response')
  const part = { type: 'data-progress', id: 'p', data: { bytes: 1 } }
  expect(outcome.data.message.parts).toEqual([part])
  expect(shown).toContainEqual(part)
})

test('a step too many ends the turn before anything of it is shown (I2)', async () => {
  const { outcome, shown } = await answered(
    async function* () {
      yield { type: 'start' }
      for (const id of ['1', '2', '3']) {
        yield { type: 'start-step' }
        yield { type: 'text-start', id }
        yield { type: 'text-delta', id, delta: `step ${id}` }
        yield { type: 'text-end', id }
        yield { type: 'finish-step' }
      }
      yield { type: 'finish', finishReason: 'stop' }
    },
    { stepsMax: 2, onBudget: 'fail' },
  )
  expect(outcome.data).toMatchObject({ code: 'budget_exceeded' })
  expect(shown.flatMap(({ delta }) => delta ?? [])).toEqual(['step 1', 'step 2'])
})

test('a code that there is not ends the turn at once, and the log says which there are (I2)', async () => {
  const lines: object[] = []
  const { outcome } = await answered(
    () => {
      throw new ReplyError('rate_limited' as TurnCode, 'The model said wait.')
    },
    { log: (line, detail) => void lines.push({ line, ...detail }) },
  )
  expect(outcome.data).toMatchObject({ code: 'internal', canRetry: true })
  const detail = expect.stringMatching(/expected one of the codes provider_rate_limited, .*, got "rate_limited"/)
  expect(lines).toContainEqual(
    expect.objectContaining({ line: 'attempt failed', attempt: 1, code: 'internal', detail }),
  )
})
