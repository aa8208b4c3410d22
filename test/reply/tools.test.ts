/** What `tools` promises to a reply, whichever way it calls them. What happens when a process dies: test/faults/tools.test.ts. */
import { readFileSync } from 'node:fs'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { convertToModelMessages, jsonSchema, stepCountIs, streamText, tool } from 'ai'
import { expect, onTestFinished, test } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import type { Reply } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import type { Frame } from '../support/client.ts'
import { queryOnce } from '../support/postgres.ts'
import { startProvider } from '../support/provider.mjs'

const partsOf = (outcome: Frame): Part[] => outcome.data.message.parts
const callsOf = (outcome: Frame) =>
  partsOf(outcome).flatMap(({ toolCallId, state, output, errorText }) =>
    toolCallId === undefined ? [] : [[toolCallId, state, output ?? errorText]],
  )
const place = jsonSchema<{ place: string }>({ type: 'object', properties: { place: { type: 'string' } } })

test('the example of docs/tools.md runs: each call once, with a key of its own', async () => {
  const provider = await startProvider()
  onTestFinished(() => provider.stop())
  provider.script(({ body }) =>
    body.messages.at(-1).role === 'tool'
      ? [{ text: 'Booked.' }]
      : [
          { tool: { id: 'k1', name: 'weather', input: ['{"place":"Rome"}'] } },
          { tool: { id: 'k2', name: 'book', input: ['{"place":"Rome"}'] } },
        ],
  )
  const model = createOpenAICompatible({ name: 'stub', baseURL: provider.url })('m')
  const keys: unknown[] = []
  const ran = (input: { place: string }, options: object) => {
    keys.push((options as { idempotencyKey?: string }).idempotencyKey)
    return { of: input.place }
  }
  const weather = tool({ inputSchema: place, execute: ran })
  const book = tool({ inputSchema: place, execute: ran })
  const reply: Reply = async ({ messages, signal, tools }) =>
    streamText({
      model,
      messages: await convertToModelMessages(messages),
      tools: tools({ weather: { ...weather, idempotent: true }, book }),
      stopWhen: stepCountIs(5),
      abortSignal: signal,
      maxRetries: 0,
    })
  const { ann, session, watcher, database } = await openChat({ reply })
  await ann.send(session, 'hi', 'm1')
  expect(callsOf(await watcher.outcome('m1'))).toEqual([
    ['k1', 'output-available', { of: 'Rome' }],
    ['k2', 'output-available', { of: 'Rome' }],
  ])
  expect(new Set(keys).size).toBe(2)
  const rows = await queryOnce(
    database,
    'select call_id, state, output, attempt from holdfast.tool_calls order by call_id',
  )
  expect(rows).toEqual(['k1', 'k2'].map((call_id) => ({ call_id, state: 'done', output: { of: 'Rome' }, attempt: 1 })))
  const document = readFileSync(new URL('../../docs/tools.md', import.meta.url), 'utf8')
  const example = /```ts\n(const reply[\s\S]*?)```/.exec(document)![1]!
  const here = readFileSync(new URL(import.meta.url), 'utf8')
  for (const line of example.trim().split('\n')) expect(here).toContain(line.trim())
})

type Execute = (input: unknown, options: { toolCallId: string }) => unknown
/** A reply that calls its one tool itself, as many times as there are inputs, all with one id. */
const calling = (execute: Execute, inputs: unknown[]): Reply =>
  async function* ({ tools }) {
    const { look } = tools({ look: { execute } })
    for (const input of inputs) {
      yield { type: 'start-step' }
      yield { type: 'tool-input-available', toolCallId: 'call_0', toolName: 'look', input: input as string }
      const output = await look.execute(input, { toolCallId: 'call_0' })
      yield { type: 'tool-output-available', toolCallId: 'call_0', output: output as string }
      yield { type: 'finish-step' }
    }
    yield { type: 'finish', finishReason: 'stop' }
  }

test('calls that a provider numbers anew in each step are told apart', async () => {
  const { ann, session, watcher } = await openChat({ reply: calling((input) => `of ${input}`, ['a', 'b']) })
  await ann.send(session, 'hi', 'm1')
  expect(callsOf(await watcher.outcome('m1'))).toEqual([
    ['call_0', 'output-available', 'of a'],
    ['call_0', 'output-available', 'of b'],
  ])
})

test('what JSON cannot carry is stored as it is shown', async () => {
  const odd = () => ({ text: 'a\u0000b\ud800', at: new Date(0), none: undefined })
  const { ann, session, watcher, database } = await openChat({ reply: calling(odd, ['a']) })
  await ann.send(session, 'hi', 'm1')
  const [call] = callsOf(await watcher.outcome('m1'))
  const [row] = await queryOnce<{ output: unknown }>(database, 'select output from holdfast.tool_calls')
  expect(row!.output).toEqual(call![2])
  expect(row!.output).toEqual({ text: 'a\uFFFDb\uFFFD', at: '1970-01-01T00:00:00.000Z' })
})

test('a call that is not in the stream is refused, with what to do', async () => {
  const { ann, session, watcher } = await openChat({
    reply: async function* ({ tools }) {
      const { look } = tools({ look: { execute: async () => 'never' } })
      const refused = await (look.execute as Execute as () => Promise<unknown>)().catch((error: Error) => error.message)
      yield String(refused)
    },
  })
  await ann.send(session, 'hi', 'm1')
  expect(partsOf(await watcher.outcome('m1')).at(-1)!.text).toBe(
    'look.execute: expected {toolCallId} as the second argument.',
  )
})

test('a result beyond the bytes of a reply ends it as budget_exceeded', async () => {
  const { ann, session, watcher } = await openChat({ reply: calling(() => 'x'.repeat(1_100_000), ['a']) })
  await ann.send(session, 'hi', 'm1')
  expect((await watcher.outcome('m1')).data).toMatchObject({ code: 'budget_exceeded' })
})

test('a tool that fails is not run again, and its error is thrown to the reply', async () => {
  let runs = 0
  const broken = () => {
    runs++
    throw new Error('broken')
  }
  const { ann, session, watcher, database } = await openChat({ reply: calling(broken, ['a']), attemptsMax: 1 })
  await ann.send(session, 'hi', 'm1')
  expect((await watcher.outcome('m1')).data.code).toBe('internal')
  expect(runs).toBe(1)
  const rows = await queryOnce(database, 'select state, output from holdfast.tool_calls')
  expect(rows).toEqual([{ state: 'failed', output: 'Error: broken' }])
})

test('an execute that yields shows each value, and the last one is the result', async () => {
  const counting = async function* () {
    yield 'one'
    yield 'two'
  }
  const reply: Reply = async function* ({ tools }) {
    const { look } = tools({ look: { execute: counting } })
    yield { type: 'start-step' }
    yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'look', input: 'a' }
    const running = (look.execute as unknown as (input: unknown, options: object) => AsyncIterable<string>)('a', {
      toolCallId: 'k1',
    })
    let last = ''
    for await (const value of running) {
      last = value
      yield { type: 'tool-output-available', toolCallId: 'k1', output: value, preliminary: true }
    }
    yield { type: 'tool-output-available', toolCallId: 'k1', output: last }
    yield { type: 'finish-step' }
    yield { type: 'finish', finishReason: 'stop' }
  }
  const { ann, session, watcher, database } = await openChat({ reply })
  await ann.send(session, 'hi', 'm1')
  expect(callsOf(await watcher.outcome('m1'))).toEqual([['k1', 'output-available', 'two']])
  expect(await queryOnce(database, 'select output from holdfast.tool_calls')).toEqual([{ output: 'two' }])
})
