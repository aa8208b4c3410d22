/**
 * FP1: a reply that was taken over is, part by part, the one that nothing has disturbed, and its model was asked the same
 * (I7, I9). A page with `useChat` that followed meanwhile shows it, whether a step was kept open or was written again.
 */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { isCall } from '../../src/core/open-step.ts'
import type { ProviderRequest } from '../support/provider.mjs'
import { seeded } from '../support/random.ts'
import { sdkChat } from '../use-chat/sdk.ts'
import { ofType, openScene, outcomesOf } from './scene.ts'
import { answerAll } from './tool-page.ts'
import { type Asked, essenceOf, type Plan, recordsFile, recordsIn, same } from './tool-plans.ts'

const program = fileURLToPath(new URL('tool-runs-server.mjs', import.meta.url))
const plan: Plan = {
  run: 'r',
  pauseMs: 2,
  steps: [
    { calls: [{ id: 'k0-0', tool: 'echo', ms: 50 }], search: true },
    {
      calls: [
        { id: 'k1-0', tool: 'count', ms: 400 },
        { id: 'k1-1', tool: 'echo', ms: 500 },
      ],
    },
  ],
}

/** Every point of the call of the first step, and of the two of the second where both have begun; and where no call runs. */
const points: [string, { kept: boolean }][] = [
  ['tool.begin:1', { kept: false }],
  ['tool.begun:1', { kept: true }],
  ['tool.end:1', { kept: true }],
  ['tool.ended:1', { kept: true }],
  ['checkpoint.answered:1', { kept: false }],
  ['tool.ended:2', { kept: true }],
  ['tool.ended:3', { kept: true }],
  ['finish.send:1', { kept: false }],
]

/**
 * Without what the AI SDK makes of a stream that it reads: ids of texts that it has seen before, and beside a result the
 * call's own metadata once more, which it reads of the call where that is not there.
 */
const partsOf = (parts: readonly Part[]): Part[] =>
  parts.map(({ id: _id, resultProviderMetadata: _copy, ...part }) => part)

/** The same of a result: of a call that it runs before it asks the model, the AI SDK passes no metadata on beside it. */
const toldOf = ({ role, content }: Asked['prompt'][number]) => ({
  role,
  content: role === 'tool' ? (content as object[]).map((part) => ({ ...part, providerOptions: undefined })) : content,
})

async function reply(major: 6 | 7, point: string | null) {
  const scene = await openScene()
  const records = recordsFile()
  const env = { KIND: String(major), RECORDS: records }
  const { url } = await scene.start({ program, env: { ...env, HOLDFAST_ROLES: 'http' } })
  const runner = { program, env: { ...env, HOLDFAST_ROLES: 'runner' } }
  const first = await scene.start({ ...runner, points: point === null ? [] : [`${point}:kill`] })
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  const page = await sdkChat(major, { url, id: session, headers: { 'x-ai-sdk': String(major) } })
  void page.sendMessage({ text: JSON.stringify(plan) })
  const over = new AbortController()
  const following = answerAll(page, seeded(1), over.signal)
  if (point !== null) {
    await first.exited
    await scene.start(runner)
  }
  const ended = await watcher.until(({ type }) => type.startsWith('message.') && type !== 'message.created')
  over.abort(ended.type)
  const triedAgain = await following
  await watcher.close()
  expect(watcher.problems).toEqual([])
  expect(outcomesOf(watcher, ended.data.message.repliesTo)).toHaveLength(1)
  expect(ended.type).toBe('message.ai_response')
  const { parts } = (await scene.ann.snapshot(session)).messages.at(-1)!
  expect(parts).toEqual(ended.data.message.parts)
  expect(essenceOf(page.messages.at(-1)!.parts)).toEqual(essenceOf(parts))
  const prompts = recordsIn<Asked>(records, 'prompt').map(({ prompt }) => prompt.map(toldOf))
  const bases = ofType(watcher, 'attempt.started').map(({ data }) => data.base as Part[])
  return {
    parts: partsOf(parts),
    prompts: prompts.filter((each, at) => !same(each, prompts[at - 1])),
    asked: prompts.length,
    bases,
    triedAgain,
  }
}

describe.each([6, 7] as const)('AI SDK %i', (major) => {
  let undisturbed: Awaited<ReturnType<typeof reply>>
  test('undisturbed, the reply has parts of every kind, and its model is told what it said', async () => {
    undisturbed = await reply(major, null)
    const { parts, prompts } = undisturbed
    const kinds = ['step-start', 'reasoning', 'source-url', 'file', 'text', 'dynamic-tool', 'tool-echo', 'tool-count']
    expect([...new Set(parts.map(({ type }) => type))].sort()).toEqual(kinds.sort())
    expect(parts.find(({ type }) => type === 'tool-echo')).toMatchObject({
      toolMetadata: { of: 'echo' },
      callProviderMetadata: { acme: { signature: 'c2lnbmVk' } },
      output: { of: 'k0-0' },
    })
    expect(prompts).toHaveLength(3)
    expect(JSON.stringify(prompts[2])).toContain('"signature":"c2lnbmVk"')
    expect(JSON.stringify(prompts[2])).toContain('"of":"k1-1"')
  })

  test.each(points)('killed at %s, it is the same, and the model was asked the same', async (point, { kept }) => {
    const { parts, prompts, asked, bases, triedAgain } = await reply(major, point)
    expect(bases).toHaveLength(2)
    const lastCall = bases[1]!.findLast((part) => isCall(part) && part.providerExecuted !== true)
    expect(lastCall !== undefined || point === 'tool.begin:1').toBe(true)
    expect(parts).toEqual(undisturbed.parts)
    expect(prompts).toEqual(undisturbed.prompts)
    // What was kept is not asked for again.
    if (kept) expect(asked).toBe(3)
    else expect(asked).toBeLessThanOrEqual(4)
    // 7 is told to forget what is written again; a 6 that was shown more than was kept has to try again.
    if (major === 7) expect(triedAgain).toBe(0)
  })
})

/** What Anthropic is sent. */
type Said = { role: string; content: string | { type: string; [field: string]: unknown }[] }
const saidIn = ({ body }: ProviderRequest) => body.messages as Said[]
const resultsIn = (request: ProviderRequest) =>
  saidIn(request).flatMap(({ content }) =>
    typeof content === 'string' ? [] : content.filter(({ type }) => type === 'tool_result'),
  )

describe.each([6, 7] as const)('AI SDK %i with Anthropic', (major) => {
  const talk = async (point: string | null) => {
    const scene = await openScene()
    const env = { KIND: String(major), RECORDS: recordsFile(), WIRE: 'anthropic' }
    scene.provider.script((request) => [
      { reasoning: 'Let me think.' },
      { text: `Told ${resultsIn(request).length}.` },
      ...(resultsIn(request).length > 0
        ? []
        : [{ tool: { id: 'k1', name: 'echo', input: ['{"run":"r","id":"k1","ms":50}'] } }]),
    ])
    await scene.start({ program, env: { ...env, HOLDFAST_ROLES: 'http' } })
    const runner = { program, env: { ...env, HOLDFAST_ROLES: 'runner' } }
    const first = await scene.start({ ...runner, points: point === null ? [] : [`${point}:kill`] })
    const session = await scene.ann.createSession()
    const watcher = scene.ann.watch(session)
    await scene.ann.send(session, 'hi', 'm1')
    if (point !== null) {
      await first.exited
      await scene.start(runner)
    }
    const { data } = await watcher.outcome('m1')
    await watcher.close()
    expect(watcher.problems).toEqual([])
    return { parts: partsOf(data.message.parts), said: saidIn(scene.provider.requests.at(-1)!) }
  }
  test('a takeover sends the signed reasoning and the result that an undisturbed run sends', async () => {
    const undisturbed = await talk(null)
    expect(JSON.stringify(undisturbed.said)).toContain('"signature":"c2lnbmVk"')
    for (const point of ['tool.begun:1', 'tool.end:1', 'tool.ended:1']) {
      const { parts, said } = await talk(point)
      expect(parts).toEqual(undisturbed.parts)
      expect(said).toEqual(undisturbed.said)
    }
  })
})
