/**
 * What the AI SDK checks again when a call that was kept is run (docs/tools.md): its input against the schema as it is then,
 * its policy, and a secret. What it refuses does not run, and the model is told.
 */
import { createOpenAICompatible as provider6 } from '@ai-sdk/openai-compatible'
import * as ai6 from 'ai'
import * as ai7 from 'ai7'
import { createOpenAICompatible as provider7 } from 'openai-compatible7'
import { describe, expect, onTestFinished, test } from 'vitest'
import * as z from 'zod'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import type { Reply } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { startProvider } from '../support/provider.mjs'
import { answer, call, callsIn, modelOf, partsIn, resultsIn, waits } from './asking.ts'

const plain = z.object({ place: z.string() })
const upper = z.object({ place: z.string().transform((text) => text.toUpperCase()) })
/** Its output is no input of it. */
const length = z.object({ place: z.string().transform((text) => text.length) })
const strict = z.object({ place: z.string().min(20) })

/** What the app gives to `streamText`, which a deploy may change. */
type App = { inputSchema: z.ZodType; more?: object }

/** `kept`: the call began without being asked about, and its process is gone; else it waits for its approval. */
async function openCalled(major: SdkMajor, app: App, how: 'approved' | 'kept') {
  // The types of the majors differ, and are the vendor's affair.
  const ai = (major === 6 ? ai6 : ai7) as unknown as typeof ai6 & { isStepCount: typeof ai6.stepCountIs }
  const provider = await startProvider()
  onTestFinished(() => provider.stop())
  provider.script(modelOf([[call('k1', 'book')]]))
  const model = (major === 6 ? provider6 : provider7)({ name: 'stub', baseURL: provider.url })('m') as ai6.LanguageModel
  const runs: unknown[] = []
  let dies = how === 'kept'
  const reply: Reply = async ({ messages, signal, tools }) =>
    ai.streamText({
      model,
      messages: await ai.convertToModelMessages(messages),
      tools: tools({
        book: {
          inputSchema: app.inputSchema,
          needsApproval: how === 'approved',
          idempotent: true,
          execute: (input: unknown) => {
            runs.push(input)
            return dies ? new Promise(() => undefined) : 'booked'
          },
        },
      }) as ai6.ToolSet,
      stopWhen: (major === 6 ? ai.stepCountIs : ai.isStepCount)(6),
      abortSignal: signal,
      maxRetries: 0,
      onError: () => undefined,
      ...app.more,
    })
  const scene = await openChat({ reply, leaseMs: 1_000, pollMs: 100 })
  await scene.ann.send(scene.session, 'hi', 'm1')
  /** The call is run, by whichever app is there then. */
  async function goOn() {
    if (how === 'approved') {
      const [approval] = (await waits(scene.watcher)).data.turn.approvals
      await answer(scene.ann, scene.session, 'approvals', approval.id, { approved: true })
    } else {
      dies = false
      // As a claim after its lease, of which the process that stands still has heard nothing.
      const taken = `update holdfast.turns set state = 'queued', due_at = now(), lease_until = null where state = 'running'`
      await queryOnce(scene.database, taken)
    }
    const outcome = await scene.watcher.outcome('m1')
    return { outcome, told: JSON.stringify(resultsIn(provider.requests.at(-1)!)), calls: callsIn(partsIn(outcome)) }
  }
  if (how === 'approved') await waits(scene.watcher)
  else await eventually(async () => runs.length === 1)
  return { runs, goOn, watcher: scene.watcher }
}

describe.each([6, 7] as const)('AI SDK %s', (major) => {
  test.each([
    ['an input', upper, 'HERE'],
    ['an input to what the schema does not take', length, 4],
  ])(
    'a schema that changes %s: what people are shown is what runs when they approve',
    async (_, inputSchema, place) => {
      const { runs, goOn, watcher } = await openCalled(major, { inputSchema }, 'approved')
      const shown = partsIn(await waits(watcher)).find(({ toolCallId }) => toolCallId === 'k1')
      expect(shown!.input).toEqual({ place })
      expect((await goOn()).calls).toEqual([['k1', 'output-available', 'booked']])
      expect(runs).toEqual([{ place }])
    },
  )

  test('a call that had begun runs again with its changed input where the schema takes that and leaves it', async () => {
    const { runs, goOn } = await openCalled(major, { inputSchema: upper }, 'kept')
    expect((await goOn()).calls).toEqual([['k1', 'output-available', 'booked']])
    expect(runs).toEqual([{ place: 'HERE' }, { place: 'HERE' }])
  })

  test('where the schema does not take it, it does not run again, and the model is told', async () => {
    const { runs, goOn } = await openCalled(major, { inputSchema: length }, 'kept')
    const { calls, told } = await goOn()
    expect(calls).toEqual([['k1', 'output-error', 'An error occurred.']])
    expect(told).toContain('Invalid input for tool book')
    expect(runs).toHaveLength(1)
  })

  test.each(['approved', 'kept'] as const)(
    'after a deploy whose schema is stricter a call that was %s does not run, and the model is told',
    async (how) => {
      const app: App = { inputSchema: plain }
      const { runs, goOn } = await openCalled(major, app, how)
      const before = runs.length
      app.inputSchema = strict
      const { calls, told } = await goOn()
      expect(calls).toEqual([['k1', 'output-error', 'An error occurred.']])
      expect(told).toContain('Invalid input for tool book')
      expect(runs).toHaveLength(before)
    },
  )

  test('with experimental_toolApprovalSecret an approved call runs; changed meanwhile, or of a call that had begun, it fails the turn', async () => {
    const more = { experimental_toolApprovalSecret: 'a secret of some length, for tests' }
    const approved = await openCalled(major, { inputSchema: plain, more }, 'approved')
    expect((await approved.goOn()).calls).toEqual([['k1', 'output-available', 'booked']])
    const app: App = { inputSchema: plain, more }
    const changed = await openCalled(major, app, 'approved')
    app.more = { experimental_toolApprovalSecret: 'another one, from a deploy meanwhile' }
    await changed.goOn().catch(() => undefined)
    expect((await changed.watcher.outcome('m1')).data).toMatchObject({ code: 'internal' })
    expect(changed.runs).toEqual([])
    const kept = await openCalled(major, { inputSchema: plain, more }, 'kept')
    await kept.goOn().catch(() => undefined)
    expect((await kept.watcher.outcome('m1')).data).toMatchObject({ code: 'internal' })
    expect(kept.runs).toHaveLength(1)
  })

  if (major === 7) {
    test.each(['approved', 'kept'] as const)(
      'a policy that denies now (toolApproval) denies a call that was %s, and the model is told',
      async (how) => {
        const app: App = { inputSchema: plain }
        const { runs, goOn } = await openCalled(major, app, how)
        const before = runs.length
        app.more = { toolApproval: () => 'denied' }
        const { calls, told } = await goOn()
        expect(calls).toEqual([['k1', 'output-denied']])
        expect(told).toContain('denied')
        expect(runs).toHaveLength(before)
      },
    )
  }
})
