/** A reply without an SDK: it yields its chunks and calls its tools itself, also those that an earlier attempt has left. */
import { setTimeout as pause } from 'node:timers/promises'
import { inputOf, nextStep, planIn, toldOf } from './planned-model.mjs'

const isCall = ({ type, providerExecuted }) => type.startsWith('tool-') && providerExecuted !== true
const nameOf = ({ type }) => type.slice('tool-'.length)

export const ownReply = (definitions) =>
  async function* ({ messages, message, replyId, tools }) {
    const set = tools(definitions)
    const plan = planIn(message.parts[0].text)
    const last = messages.at(-1)
    const before = last.role === 'assistant' ? last.parts.filter(isCall) : []
    const answers = new Map(before.flatMap(answerOf))

    yield { type: 'start', messageId: replyId }
    const left = before.filter(({ state }) => state === 'approval-responded')
    for (const { toolCallId, approval } of left) {
      if (approval.approved) continue
      answers.set(toolCallId, 'denied')
      yield { type: 'tool-output-denied', toolCallId }
    }
    const granted = left.filter(({ approval }) => approval.approved)
    yield* running(
      granted.map((part) => run(set[nameOf(part)], part.toolCallId, part.input)),
      answers,
    )

    for (;;) {
      const step = nextStep(plan, answers)
      yield { type: 'start-step' }
      const at = step?.at ?? plan.steps.length
      const id = `t${at}`
      yield { type: 'text-start', id }
      yield { type: 'text-delta', id, delta: step === null ? toldOf(answers) : `Step ${at}.` }
      await pause(plan.pauseMs * 30)
      yield { type: 'text-end', id }
      if (step === null) {
        yield { type: 'finish-step' }
        yield { type: 'finish', finishReason: 'stop' }
        return
      }
      if (step.search) {
        const search = { toolCallId: `search-${at}`, providerExecuted: true, dynamic: true }
        yield { type: 'tool-input-available', ...search, toolName: 'search', input: { query: 'q' } }
        yield { type: 'tool-output-available', ...search, output: { found: at } }
      }
      let asks = false
      const runs = []
      for (const call of step.calls) {
        const { id: toolCallId, tool: toolName } = call
        const input = inputOf(plan, call)
        yield { type: 'tool-input-available', toolCallId, toolName, input }
        await pause(plan.pauseMs * 5)
        if (definitions[toolName].needsApproval) {
          asks = true
          yield { type: 'tool-approval-request', toolCallId, approvalId: `ask-${plan.run}-${toolCallId}` }
        } else {
          runs.push(run(set[toolName], toolCallId, input))
        }
      }
      yield* running(runs, answers)
      yield { type: 'finish-step' }
      if (asks) {
        yield { type: 'finish', finishReason: 'tool-calls' }
        return
      }
    }
  }

function answerOf({ toolCallId, state, output, errorText }) {
  if (state === 'output-available') return [[toolCallId, output]]
  if (state === 'output-error') return [[toolCallId, errorText]]
  return state === 'output-denied' ? [[toolCallId, 'denied']] : []
}

/** It runs from now on, whoever looks. */
function run({ execute }, toolCallId, input) {
  const chunks = runChunks(execute, toolCallId, input)
  return { chunks, next: chunks.next() }
}

async function* runChunks(execute, toolCallId, input) {
  try {
    const answered = execute(input, { toolCallId })
    let output
    if (answered[Symbol.asyncIterator] === undefined) output = await answered
    else {
      for await (output of answered) yield { type: 'tool-output-available', toolCallId, output, preliminary: true }
    }
    yield { type: 'tool-output-available', toolCallId, output }
  } catch {
    yield { type: 'tool-output-error', toolCallId, errorText: 'An error occurred.' }
  }
}

/** The chunks of all of them, as they come. */
async function* running(runs, answers) {
  const open = new Set(runs)
  while (open.size > 0) {
    const next = await Promise.race([...open].map(async (each) => ({ each, ...(await each.next) })))
    const { each, done, value } = next
    if (done) open.delete(each)
    else {
      each.next = each.chunks.next()
      if (value.preliminary !== true) answers.set(value.toolCallId, value.output ?? value.errorText)
      yield value
    }
  }
}
