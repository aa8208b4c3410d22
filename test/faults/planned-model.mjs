/**
 * A language model of the AI SDK (6 or 7) that does what a plan in the user's last message says, whatever process asks it:
 * it calls of each step what has no result yet, and when all have one it says what it was told.
 */
import { setTimeout as pause } from 'node:timers/promises'

/**
 * @typedef {{ id: string, tool: string, ms: number, decision?: unknown }} Call
 * @typedef {{ calls: Call[], search?: boolean }} Step `search`: the provider runs a tool of its own in it
 * @typedef {{ run: string, steps: Step[], pauseMs: number }} Plan
 * @typedef {{ role: string, content: { type: string, text?: string, toolCallId?: string, output?: unknown }[] | string }} Said
 */

/** @param {string} text @returns {Plan} */
export const planIn = (text) => JSON.parse(text)

/** The step that is to be written, or null for the last one. @param {Plan} plan @param {ReadonlyMap<string, unknown>} answers */
export function nextStep(plan, answers) {
  const at = plan.steps.findIndex(({ calls }) => calls.some(({ id }) => !answers.has(id)))
  if (at < 0) return null
  const { calls, search = false } = /** @type {Step} */ (plan.steps[at])
  return { at, search, calls: calls.filter(({ id }) => !answers.has(id)) }
}

/** @param {Plan} plan @param {Call} call */
export const inputOf = ({ run }, { id, ms, decision }) => ({
  run,
  id,
  ms,
  ...(decision === undefined ? {} : { decision }),
})

/** What the last text of a reply says of what it was told. @param {ReadonlyMap<string, unknown>} answers */
export const toldOf = (answers) => `Told: ${JSON.stringify([...answers])}`

const usage = { inputTokens: { total: 3 }, outputTokens: { total: 5 } }
const sealed = { acme: { signature: 'c2lnbmVk', redacted: null } }

/** @param {Said[]} prompt */
function turnOf(prompt) {
  const from = prompt.findLastIndex(({ role }) => role === 'user')
  const content = prompt[from]?.content ?? ''
  const text = typeof content === 'string' ? content : content.map((part) => part.text ?? '').join('')
  /** @type {Map<string, unknown>} */
  const answers = new Map()
  for (const { role, content } of prompt.slice(from + 1)) {
    if (role !== 'tool' || typeof content === 'string') continue
    for (const { type, toolCallId, output } of content)
      if (type === 'tool-result') answers.set(String(toolCallId), output)
  }
  return { plan: planIn(text), answers }
}

/** @param {Plan} plan @param {ReadonlyMap<string, unknown>} answers @param {'6' | '7'} major */
function* partsOf(plan, answers, major) {
  const step = nextStep(plan, answers)
  const at = step?.at ?? plan.steps.length
  yield { type: 'stream-start', warnings: [] }
  yield { type: 'reasoning-start', id: `r${at}`, providerMetadata: { acme: { begun: at } } }
  yield { type: 'reasoning-delta', id: `r${at}`, delta: `Thinking of ${at}.` }
  yield { type: 'reasoning-end', id: `r${at}`, providerMetadata: sealed }
  yield {
    type: 'source',
    sourceType: 'url',
    id: `s${at}`,
    url: 'https://example.com/',
    title: 'A source',
    providerMetadata: sealed,
  }
  const data = Buffer.from(`file ${at}`).toString('base64')
  yield {
    type: 'file',
    mediaType: 'text/plain',
    data: major === '6' ? data : { type: 'data', data },
    providerMetadata: sealed,
  }
  yield { type: 'text-start', id: `t${at}`, providerMetadata: sealed }
  yield { type: 'text-delta', id: `t${at}`, delta: step === null ? toldOf(answers) : `Step ${at}.` }
  yield { type: 'text-end', id: `t${at}`, providerMetadata: sealed }
  if (step === null) {
    yield { type: 'finish', usage, finishReason: { unified: 'stop', raw: 'stop' } }
    return
  }
  if (step.search) {
    const call = { toolCallId: `search-${at}`, toolName: 'search', providerMetadata: sealed }
    yield { type: 'tool-call', ...call, input: '{"query":"q"}', providerExecuted: true, dynamic: true }
    yield { type: 'tool-result', ...call, result: { found: at }, providerExecuted: true, dynamic: true }
  }
  for (const call of step.calls) {
    const input = JSON.stringify(inputOf(plan, call))
    yield { type: 'tool-input-start', id: call.id, toolName: call.tool, providerMetadata: sealed }
    yield { type: 'tool-input-delta', id: call.id, delta: input }
    yield { type: 'tool-input-end', id: call.id }
    yield { type: 'tool-call', toolCallId: call.id, toolName: call.tool, input, providerMetadata: sealed }
  }
  yield { type: 'finish', usage, finishReason: { unified: 'tool-calls', raw: 'tool_use' } }
}

/** @param {'6' | '7'} major @param {(run: string, prompt: Said[]) => void} asked */
export function plannedModel(major, asked) {
  return {
    specificationVersion: major === '6' ? 'v3' : 'v4',
    provider: 'acme',
    modelId: 'planned',
    supportedUrls: {},
    async doGenerate() {
      throw new Error('It only streams.')
    },
    /** @param {{ prompt: Said[], abortSignal?: AbortSignal }} options */
    async doStream({ prompt, abortSignal }) {
      const { plan, answers } = turnOf(prompt)
      asked(plan.run, prompt)
      const parts = partsOf(plan, answers, major)
      const stream = new ReadableStream({
        async pull(controller) {
          if (plan.pauseMs > 0) await pause(plan.pauseMs)
          const next = abortSignal?.aborted ? { done: true, value: undefined } : parts.next()
          if (next.done) controller.close()
          else controller.enqueue(next.value)
        },
      })
      return { stream }
    },
  }
}
