/** Calls of tools among the parts of a reply. */
import type { Part } from 'holdfast/client'

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
  rawInput?: string
  preliminary?: boolean
  errorText?: string
  approval?: { id: string; approved?: boolean; reason?: string }
}

export const isCall = (part: Part): part is CallPart => part.type === 'dynamic-tool' || part.type.startsWith('tool-')

export const toolNameOf = (part: CallPart) =>
  part.type === 'dynamic-tool' ? String(part.toolName) : part.type.slice('tool-'.length)
