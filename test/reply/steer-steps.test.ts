/** `steerSteps` with both majors of the AI SDK: what is handed over between two steps is told to every step after it. */
import { createOpenAICompatible as createProvider6 } from '@ai-sdk/openai-compatible'
import {
  convertToModelMessages as convert6,
  jsonSchema as schema6,
  stepCountIs as stepCount6,
  streamText as streamText6,
  tool as tool6,
} from 'ai'
import {
  convertToModelMessages as convert7,
  jsonSchema as schema7,
  stepCountIs as stepCount7,
  streamText as streamText7,
  tool as tool7,
} from 'ai7'
import { createOpenAICompatible as createProvider7 } from 'openai-compatible7'
import { expect, onTestFinished, test } from 'vitest'
import { type ReplyContext, steerSteps } from '../../src/index.ts'
import type { UserOrAssistantMessage } from '../../src/reply/message.ts'
import type { Reply } from '../../src/reply/reply.ts'
import { gate } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { type Provider, startProvider } from '../support/provider.mjs'
import { deltasOf, userMessage, written } from './writers.ts'

/** The SDK's own default prints every error. */
const onError = () => undefined

const majors: Record<string, (url: string) => { steps: Reply; oneStep: Reply }> = {
  'AI SDK 6': (baseURL) => {
    const model = createProvider6({ baseURL, apiKey: 'k', name: 'stub' }).chatModel('stub-1')
    const tools = { look: tool6({ inputSchema: schema6<object>({ type: 'object' }), execute: () => 'seen' }) }
    const settings = async ({ messages, steering, signal }: ReplyContext) => ({
      ...{ model, messages: await convert6(messages), abortSignal: signal, maxRetries: 0, onError },
      prepareStep: steerSteps(steering, convert6),
    })
    return {
      steps: async (context) => streamText6({ ...(await settings(context)), tools, stopWhen: stepCount6(9) }),
      oneStep: async (context) => streamText6(await settings(context)),
    }
  },
  'AI SDK 7': (baseURL) => {
    const model = createProvider7({ baseURL, apiKey: 'k', name: 'stub' }).chatModel('stub-1')
    const tools = { look: tool7({ inputSchema: schema7<object>({ type: 'object' }), execute: () => 'seen' }) }
    const settings = async ({ messages, steering, signal }: ReplyContext) => ({
      ...{ model, messages: await convert7(messages), abortSignal: signal, maxRetries: 0, onError },
      prepareStep: steerSteps(steering, convert7),
    })
    return {
      steps: async (context) => streamText7({ ...(await settings(context)), tools, stopWhen: stepCount7(9) }),
      oneStep: async (context) => streamText7(await settings(context)),
    }
  },
}

/** `handed`: what was sent before each step, as `steering` gives it. */
async function writtenWith(
  reply: (of: { steps: Reply; oneStep: Reply }) => Reply,
  major: string,
  handed: UserOrAssistantMessage[][],
) {
  const provider = await startProvider()
  onTestFinished(() => provider.stop())
  const looks = handed.length - 1
  provider.script(({ index }) =>
    index < looks ? [{ tool: { id: `c${index}`, name: 'look', input: ['{}'] } }] : [{ text: 'done' }],
  )
  let asked = 0
  const steering = async () => handed[asked++] ?? []
  const { chunks, error } = await written(reply(majors[major]!(provider.url)), { steering })
  expect({ error, text: deltasOf(chunks) }).toEqual({ error: undefined, text: 'done' })
  return promptsOf(provider)
}

function promptsOf({ requests }: Provider): string[][] {
  type Told = { role: string; content: unknown }
  return requests.map(({ body }) =>
    body.messages.map(({ role, content }: Told) => (role === 'user' ? `user: ${content}` : role)),
  )
}

test.each(Object.keys(majors))(
  '%s: what is handed over before a step is told once to that step and to each after it, where it was said (I13)',
  async (major) => {
    const handed = [[], [userMessage('also this'), userMessage('and this')], [], [userMessage('and that')], []]
    expect(await writtenWith(({ steps }) => steps, major, handed)).toEqual([
      ['user: Hello'],
      ['user: Hello', 'assistant', 'tool', 'user: also this', 'user: and this'],
      ['user: Hello', 'assistant', 'tool', 'user: also this', 'user: and this', 'assistant', 'tool'],
      [
        ...['user: Hello', 'assistant', 'tool', 'user: also this', 'user: and this', 'assistant', 'tool'],
        ...['assistant', 'tool', 'user: and that'],
      ],
      [
        ...['user: Hello', 'assistant', 'tool', 'user: also this', 'user: and this', 'assistant', 'tool'],
        ...['assistant', 'tool', 'user: and that', 'assistant', 'tool'],
      ],
    ])
  },
)

test.each(Object.keys(majors))(
  '%s: without tools there is one step, which is told what is there at its start',
  async (major) => {
    const handed = [[userMessage('also this')]]
    expect(await writtenWith(({ oneStep }) => oneStep, major, handed)).toEqual([['user: Hello', 'user: also this']])
  },
)

test.each(Object.keys(majors))(
  '%s: a step that called a tool is kept when the provider fails the next, and what was handed over is told where it was said (I13)',
  async (major) => {
    const provider = await startProvider()
    onTestFinished(() => provider.stop())
    const first = gate()
    const look = (id: string) => ({ tool: { id, name: 'look', input: ['{}'] } })
    provider.script(({ index }) => {
      if (index === 0) return [{ wait: first.passed }, look('c0')]
      if (index === 1 || index === 3) return [{ status: 503 }]
      return index === 2 ? [look('c2')] : [{ text: 'done' }]
    })
    const { ann, session, watcher } = await openChat({ reply: majors[major]!(provider.url).steps })
    const asked = provider.nextRequest()
    await ann.send(session, 'Hello', 'm1')
    await asked
    await ann.send(session, 'also this', 'm2', { whenBusy: 'steer' })
    first.open()
    expect((await watcher.outcome('m1')).type).toBe('message.ai_response')
    const told = ['user: Hello', 'assistant', 'tool', 'user: also this']
    expect(promptsOf(provider)).toEqual([
      ['user: Hello'],
      told,
      // The first step is kept, and the second is asked for again; then both are kept.
      told,
      [...told, 'assistant', 'tool'],
      ['user: Hello', 'user: also this', 'assistant', 'tool', 'assistant', 'tool'],
    ])
    await watcher.close()
    expect(watcher.problems).toEqual([])
  },
)
