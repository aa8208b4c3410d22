/**
 * An app whose model has a tool that asks a person (`book`), one that a client runs (`where`), one that a client runs when a
 * person was asked (`sign`), and one that just runs (`look`).
 */
import { createOpenAICompatible as provider6 } from '@ai-sdk/openai-compatible'
import * as ai6 from 'ai'
import * as ai7 from 'ai7'
import { createOpenAICompatible as provider7 } from 'openai-compatible7'
import { onTestFinished } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { isCall } from '../../src/core/open-step.ts'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import type { HoldfastOptions, Reply } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import type { Api, Frame, Stand, Watcher } from '../support/client.ts'
import type { Step } from '../support/obedient.ts'
import { type ProviderRequest, startProvider } from '../support/provider.mjs'

export const call = (id: string, name: string, place = 'here'): Step => ({
  tool: { id, name, input: [`{"place":"${place}"}`] },
})
type Said = { role: string; content: unknown; tool_call_id?: string }
/** What the model was told of its calls. */
export const resultsIn = ({ body }: ProviderRequest): unknown[] =>
  (body.messages as Said[])
    .filter(({ role }) => role === 'tool')
    .map(({ tool_call_id, content }) => [tool_call_id, content])

/** By the number of results that the model was told in this turn, what it says next; then how many there were. */
export function modelOf(steps: Step[][]) {
  const sizes = steps.map((step) => step.filter((each) => 'tool' in each).length)
  return (request: ProviderRequest): Step[] => {
    let results = resultsIn(request).length
    const step = sizes.findIndex((size) => {
      if (results <= 0) return true
      results -= size
      return false
    })
    return step < 0 ? [{ text: `Told: ${resultsIn(request).length}.` }] : [{ text: 'Let me see.' }, ...steps[step]!]
  }
}

export type Run = { name: string; input: unknown; toolCallId: string }

export async function openAsking(
  major: SdkMajor,
  steps: Step[][],
  options: Partial<HoldfastOptions> & {
    execute?: (run: Run) => Promise<unknown> | unknown
    change?: <Tools extends object>(tools: Tools) => Tools
  } = {},
) {
  const { execute = ({ name }) => ({ of: name }), change, ...more } = options
  const provider = await startProvider()
  onTestFinished(() => provider.stop())
  provider.script(modelOf(steps))
  const runs: Run[] = []
  const reply = replyOf(
    major,
    provider.url,
    (run) => {
      runs.push(run)
      return execute(run)
    },
    change,
  )
  const chat = await openChat({ reply, ...more })
  return { ...chat, provider, runs }
}

/** `change`: of the tools, before they are given to `tools`. */
export function replyOf(
  major: SdkMajor,
  url: string,
  execute: (run: Run) => unknown,
  change: <Tools extends object>(tools: Tools) => Tools = (tools) => tools,
): Reply {
  // The types of the majors differ, and are the vendor's affair.
  const ai = (major === 6 ? ai6 : ai7) as unknown as typeof ai6 & { isStepCount: typeof ai6.stepCountIs }
  const model = (major === 6 ? provider6 : provider7)({ name: 'stub', baseURL: url })('m') as ai6.LanguageModel
  const inputSchema = ai.jsonSchema<{ place: string }>({ type: 'object', properties: { place: { type: 'string' } } })
  const running = (name: string) => ({
    description: name,
    inputSchema,
    execute: (input: unknown, { toolCallId }: { toolCallId: string }) => execute({ name, input, toolCallId }),
  })
  const stepCountIs = major === 6 ? ai.stepCountIs : ai.isStepCount
  return async ({ messages, signal, tools }) =>
    ai.streamText({
      model,
      messages: await ai.convertToModelMessages(messages),
      tools: tools(
        change({
          look: ai.tool(running('look')),
          book: ai.tool({ ...running('book'), needsApproval: true }),
          where: ai.tool({ description: 'where', inputSchema }),
          sign: ai.tool({ description: 'sign', inputSchema, needsApproval: true }),
        }),
      ),
      stopWhen: stepCountIs(6),
      abortSignal: signal,
      maxRetries: 0,
    })
}

export const partsIn = ({ data }: Frame): Part[] => data.message.parts
export const callsIn = (parts: readonly Part[]): unknown[] =>
  parts
    .filter(isCall)
    .map(({ toolCallId, state, output, errorText }) => [
      toolCallId,
      state,
      ...(output === undefined && errorText === undefined ? [] : [output ?? errorText]),
    ])

/** The nth time that the reply waits. */
export const waits = (watcher: Watcher, nth = 1): Promise<Frame> => {
  const seen = new Set<Frame>()
  return watcher.until((frame) => {
    if (frame.type === 'turn.waiting') seen.add(frame)
    return frame.type === 'turn.waiting' && [...seen].indexOf(frame) === nth - 1
  })
}

export async function answer(
  ann: Api,
  session: string,
  what: 'approvals' | 'tool-results',
  id: string,
  body: object,
): Promise<{ status: number; body: Stand & { code?: string; detail?: string } }> {
  const response = await ann.request(`/v1/sessions/${session}/${what}/${id}`, {
    method: 'POST',
    body: JSON.stringify(body),
  })
  return { status: response.status, body: (await response.json()) as Stand & { code?: string } }
}
