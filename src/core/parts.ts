import type { Part } from './chunk.ts'
import type { Json } from './json.ts'
import { isCall } from './open-step.ts'

/**
 * The parts of a reply that will get no more chunks, made valid as history: `convertToModelMessages` and
 * `validateUIMessages` of both AI SDK majors accept them. An open text or reasoning is done. A tool call without its
 * result becomes `output-error` with this text; one that the user denied becomes `output-denied`. A preliminary output
 * stays as it is, because a stop must not take away what was shown. Parts that need no change are the same objects, so
 * closing twice is closing once.
 */
export const closeParts = (parts: readonly Part[], how: { toolErrorText: string }): Part[] =>
  parts.map((part) => closePart(part, how.toolErrorText))

/** The same of calls alone, for a reply that has finished. What the provider runs may have its result only later. */
export const closeCalls = (parts: readonly Part[], errorTextOf: (call: Part) => string): Part[] =>
  parts.map((part) => (isCall(part) && part.providerExecuted !== true ? closePart(part, errorTextOf(part)) : part))

function closePart(part: Part, errorText: string): Part {
  switch (part.state) {
    case 'streaming':
      return { ...part, state: 'done' }
    case 'input-streaming':
    case 'input-available':
    case 'approval-requested':
      return failCall(part, errorText)
    case 'approval-responded':
      return isApproved(part.approval) ? failCall(part, errorText, part.approval) : { ...part, state: 'output-denied' }
    default:
      return part
  }
}

/** A failed call may carry a granted approval but no open one, and must have an input for the provider to read. */
function failCall(part: Part, errorText: string, granted?: Json): Part {
  const { rawInput: _rawInput, inputEncoding: _inputEncoding, approval: _approval, ...call } = part
  const approval = granted === undefined ? {} : { approval: granted }
  return { ...call, state: 'output-error', input: part.input ?? {}, errorText, ...approval }
}

const isApproved = (approval: Json | undefined) =>
  typeof approval === 'object' && approval !== null && !Array.isArray(approval) && approval.approved === true

/**
 * What the reply says, without reasoning and tools. Texts with something else between them, such as a tool call or the
 * border of a step, are set apart by a blank line; texts that follow one another, or with only sources between them,
 * are one sentence cut by its citations and are put together as they are.
 */
export function textOf(parts: readonly Part[]): string {
  let text = ''
  let isApart = false
  for (const part of parts) {
    if (part.type === 'text' && typeof part.text === 'string' && part.text !== '') {
      text += (isApart && text !== '' ? '\n\n' : '') + part.text
      isApart = false
    } else if (part.type !== 'text' && !part.type.startsWith('source-')) isApart = true
  }
  return text
}

const previewLength = 140

/** The beginning of the text for a list of sessions: one line of at most 140 UTF-16 units, or null without text. */
export function previewOf(parts: readonly Part[]): string | null {
  const line = textOf(parts).replace(/\s+/g, ' ').trim()
  // The end is only cut where a pair was split: a whole line is well-formed already.
  const preview = line.length > previewLength ? line.slice(0, previewLength).replace(/[\uD800-\uDBFF]$/, '') : line
  return preview === '' ? null : preview
}
