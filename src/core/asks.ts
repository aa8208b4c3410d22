/** What a reply cannot go on without: calls of its last step that a person approves, or that a client runs. */
import type { Part } from './chunk.ts'
import type { Json } from './json.ts'
import { isCall, lastStep } from './open-step.ts'

/** `id`: what an answer names, the approval's or the call's. */
export type Ask = { kind: 'approval' | 'tool'; id: string; callId: string; name: string; input: Json }

/** `isForClient`: of a call that has its input and no result, whether it is a client's to run. */
export function asksOf(parts: readonly Part[], isForClient: (callId: string) => boolean): Ask[] {
  const asks = new Map<string, Ask>()
  for (const part of lastStep(parts)) {
    const kind = kindOf(part, isForClient)
    if (kind === null) continue
    const callId = String(part.toolCallId)
    const id = kind === 'approval' ? String((part.approval as { id?: Json }).id) : callId
    asks.set(callId, { kind, id, callId, name: toolNameOf(part), input: part.input ?? null })
  }
  return [...asks.values()]
}

function kindOf(part: Part, isForClient: (callId: string) => boolean): Ask['kind'] | null {
  if (!isCall(part)) return null
  if (part.state === 'approval-requested') return 'approval'
  const isWithout = part.state === 'input-available' && part.providerExecuted !== true
  return isWithout && isForClient(String(part.toolCallId)) ? 'tool' : null
}

export function toolNameOf({ type, toolName }: Part): string {
  return type === 'dynamic-tool' ? String(toolName) : type.slice('tool-'.length)
}

/** What is said of a question that nobody answered in time: to the model, and to followers. */
export const expiredAnswers = {
  approval: { approved: false, reason: 'expired' },
  tool: { errorText: 'No result came in time.' },
} as const
