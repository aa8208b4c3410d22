/** Calls of tools in a reply that is being written: the chunks of a call, put into its part as the server does. */
import type { Chunk, Part } from './view.ts'

export type CallState =
  | 'input-streaming'
  | 'input-available'
  | 'approval-requested'
  | 'approval-responded'
  | 'output-available'
  | 'output-error'
  | 'output-denied'

/** `rawInput`: while its input is being written, what has come of it. */
export type CallPart = Part & {
  toolCallId: string
  state: CallState
  input?: unknown
  rawInput?: string
  output?: unknown
  preliminary?: boolean
  errorText?: string
  approval?: { id: string; approved?: boolean; reason?: string }
}

export const isCall = (part: Part): part is CallPart => part.type === 'dynamic-tool' || part.type.startsWith('tool-')

export const toolNameOf = (part: CallPart) =>
  part.type === 'dynamic-tool' ? String(part.toolName) : part.type.slice('tool-'.length)

/** Changes `parts`, but none of those in it. Other chunks than a call's change nothing. */
export function addCallChunk(parts: Part[], chunk: Chunk): void {
  const at = parts.findLastIndex((part) => isCall(part) && part.toolCallId === chunk.toolCallId)
  const part = parts[at] as CallPart | undefined
  const said = saidBy(chunk, part)
  if (said === null) return
  const step = parts.findLastIndex(({ type }) => type === 'step-start')
  // The input of a call begins a part in its step, what came of it may come in a later one.
  const isKnown = part !== undefined && (chunk.toolName === undefined || at > step)
  if (isKnown) parts[at] = { ...part, ...said }
  else if (chunk.toolName !== undefined) parts.push({ ...nameOf(chunk), toolCallId: chunk.toolCallId, ...said })
}

const nameOf = ({ toolName, dynamic }: Chunk) =>
  dynamic === true ? { type: 'dynamic-tool', toolName } : { type: `tool-${toolName}` }

function saidBy(chunk: Chunk, part: CallPart | undefined): Partial<CallPart> | null {
  const { input, output, preliminary } = chunk
  switch (chunk.type) {
    case 'tool-input-start':
      return { state: 'input-streaming', rawInput: '' }
    case 'tool-input-delta':
      return { rawInput: (part?.rawInput ?? '') + String(chunk.inputTextDelta) }
    case 'tool-input-available':
      return { state: 'input-available', input }
    case 'tool-input-error':
      return { state: 'output-error', input, errorText: String(chunk.errorText) }
    case 'tool-approval-request':
      return { state: 'approval-requested', approval: { id: String(chunk.approvalId) } }
    case 'tool-output-available':
      return { state: 'output-available', output, preliminary: preliminary === true }
    case 'tool-output-error':
      return { state: 'output-error', errorText: String(chunk.errorText) }
    case 'tool-output-denied':
      return { state: 'output-denied' }
    default:
      return null
  }
}

/** An answer's part takes the place of the one of its call. */
export function withCallPart(parts: readonly Part[], call: Part): Part[] {
  const at = parts.findLastIndex(({ toolCallId }) => toolCallId === call.toolCallId)
  return parts.map((part, index) => (index === at ? call : part))
}
