/** The step of a reply that was cut off after one of its tools had begun: it is kept as it stands. */
import type { Part } from './chunk.ts'
import type { Json } from './json.ts'
import { lastIndex } from './last-index.ts'

export function lastStep(parts: readonly Part[]): Part[] {
  return parts.slice(lastIndex(parts, ({ type }) => type === 'step-start') + 1)
}

export const isCall = ({ type }: Part): boolean => type === 'dynamic-tool' || type.startsWith('tool-')

/** Those that the app's own tools have still to answer. What the provider runs is the provider's. */
export function callsWithoutResult(parts: readonly Part[]): Part[] {
  return parts.filter((part) => isCall(part) && part.providerExecuted !== true && waits.has(part.state))
}
const waits: ReadonlySet<Json | undefined> = new Set(['input-available', 'approval-responded'])

/** The last step has made calls, and all have their result: what goes on from here asks the model again. */
export function hasAllResults(parts: readonly Part[]): boolean {
  const calls = lastStep(parts).filter((part) => isCall(part) && part.providerExecuted !== true)
  return calls.length > 0 && calls.every(({ state, preliminary }) => results.has(state) && preliminary !== true)
}
const results: ReadonlySet<Json | undefined> = new Set(['output-available', 'output-error', 'output-denied'])

/** With the call as it is now, in the place of what it was last. */
export function withCall(parts: readonly Part[], call: Part): Part[] {
  const at = lastIndex(parts, ({ toolCallId }) => toolCallId === call.toolCallId)
  return parts.map((each, index) => (index === at ? call : each))
}

/**
 * The parts with the last step as it is kept: calls have these results (by id: a state, and what goes with it), a text that
 * was being written ends where it is, a call whose input had not come to its end is left out, and so is one without a
 * result that is not to be kept. Of an output that was not the last nothing is kept.
 */
export function withResults(
  parts: readonly Part[],
  results: ReadonlyMap<string, Part>,
  isToBeKept: (call: Part) => boolean,
): Part[] {
  const from = lastIndex(parts, ({ type }) => type === 'step-start') + 1
  return [...parts.slice(0, from), ...parts.slice(from).flatMap((part) => keptPart(part, results, isToBeKept))]
}

/** The parts with these results, and all else as it is: of a step that has ended nothing is left out. */
export function withAnswers(parts: readonly Part[], results: ReadonlyMap<string, Part>): Part[] {
  const step = new Set(lastStep(parts))
  return parts.map((part) => (step.has(part) && isCall(part) ? answeredPart(part, results) : part))
}

/** The same object where its result is not among these, or it has one. */
function answeredPart(part: Part, results: ReadonlyMap<string, Part>): Part {
  const result = results.get(String(part.toolCallId))
  const isUnanswered = waits.has(part.state) || part.preliminary === true
  if (result === undefined || !isUnanswered) return part
  const { preliminary: _preliminary, output: _output, ...call } = part
  const { type: _type, ...answer } = result
  return { ...call, ...answer }
}

function keptPart(part: Part, results: ReadonlyMap<string, Part>, isToBeKept: (call: Part) => boolean): Part[] {
  if (part.state === 'streaming') return [{ ...part, state: 'done' }]
  if (!isCall(part)) return [part]
  const answered = answeredPart(part, results)
  if (answered !== part) return [answered]
  if (part.state === 'input-streaming') return []
  if (part.state === 'input-available' && part.providerExecuted !== true && !isToBeKept(part)) return []
  if (part.preliminary !== true) return [part]
  const { preliminary: _preliminary, output: _output, ...call } = part
  return [{ ...call, state: 'input-available' }]
}

/**
 * The same for the model: what has still to run is said to be approved, which is how the AI SDK (6 and 7) runs calls of a
 * history before it asks the model.
 */
export function withCallsToRun(parts: readonly Part[]): Part[] {
  const toRun = new Set(callsWithoutResult(lastStep(parts)))
  return parts.map((part) =>
    toRun.has(part) && part.state === 'input-available'
      ? { ...part, state: 'approval-responded', approval: { id: `kept-${String(part.toolCallId)}`, approved: true } }
      : part,
  )
}
