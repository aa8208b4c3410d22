/** Calls of tools by a script in place of a model: what `streamText` does with what a model calls. */
import type { Json } from '../core/json.ts'
import { isToolPart, type ToolPart, toolNameOf } from '../reply/message.ts'
import type { ReplyChunk, ReplyContext } from '../reply/reply.ts'

/**
 * `tool` is called with `input`. Among the `tools` of the scripted reply it runs as a model's call would, after an approval
 * where it needs one; with `output` it answers that; with neither it is a client's tool, whose result the reply waits for.
 */
export type ToolPiece = { tool: string; input?: Json; output?: Json }

type Tool = {
  execute?: (input: Json, options: { toolCallId: string }) => unknown
  needsApproval?: unknown
  idempotent?: boolean
}
export type ToolSet = Record<string, Tool>

/** All that the script calls, as a reply gives its tools to a model. */
export function toolsOf(calls: readonly ToolPiece[], own: ToolSet): ToolSet {
  const set: ToolSet = {}
  for (const { tool, output } of calls) {
    if (output !== undefined) set[tool] = { execute: () => output, idempotent: true }
    else set[tool] ??= {}
  }
  return { ...set, ...own }
}

/** Answers whether something of the step waits for a person or a client. */
export async function* callTools(
  context: ReplyContext,
  calls: readonly ToolPiece[],
  set: ToolSet,
  wrapped: ToolSet,
  step: number,
): AsyncGenerator<ReplyChunk[], boolean> {
  const here: { toolCallId: string; toolName: string; input: Json }[] = []
  for (const [at, { tool: toolName, input = {} }] of calls.entries()) {
    const toolCallId = `call-${context.replyId}-${step}-${at}`
    yield [{ type: 'tool-input-available', toolCallId, toolName, input } as ReplyChunk]
    if (await needsApproval(set[toolName]!, input, toolCallId)) {
      yield [{ type: 'tool-approval-request', toolCallId, approvalId: `approve-${toolCallId}` } as ReplyChunk]
    } else if (set[toolName]!.execute) here.push({ toolCallId, toolName, input })
  }
  for (const { toolCallId, toolName, input } of here) {
    yield await resultOf(wrapped[toolName]!, input, toolCallId)
  }
  return here.length < calls.length
}

/** What the step that was kept still owes: calls that were approved or had begun run, refused ones are told of. */
export async function* goOnWithTools(
  { messages, replyId }: ReplyContext,
  wrapped: ToolSet,
): AsyncGenerator<ReplyChunk[]> {
  const kept = messages.find(({ id }) => id === replyId)?.parts.filter(isToolPart) ?? []
  for (const part of kept) {
    if (part.state !== 'approval-responded' && part.state !== 'input-available') continue
    if (part.state === 'approval-responded' && !part.approval.approved) {
      yield [{ type: 'tool-output-denied', toolCallId: part.toolCallId }]
    } else yield await runKept(part, wrapped)
  }
}

async function runKept(part: ToolPart, wrapped: ToolSet): Promise<ReplyChunk[]> {
  return resultOf(wrapped[toolNameOf(part)] ?? {}, (part.input ?? null) as Json, part.toolCallId)
}

async function needsApproval({ needsApproval: rule }: Tool, input: Json, toolCallId: string): Promise<boolean> {
  return typeof rule === 'function' ? (await rule(input, { toolCallId })) === true : rule === true
}

async function resultOf({ execute }: Tool, input: Json, toolCallId: string): Promise<ReplyChunk[]> {
  if (execute === undefined) return []
  try {
    const output = await lastOf(await execute(input, { toolCallId }))
    return [{ type: 'tool-output-available', toolCallId, output: (output ?? null) as Json } as ReplyChunk]
  } catch (error) {
    return [
      { type: 'tool-output-error', toolCallId, errorText: error instanceof Error ? error.message : String(error) },
    ]
  }
}

async function lastOf(value: unknown): Promise<unknown> {
  if (typeof (value as AsyncIterable<unknown> | null | undefined)?.[Symbol.asyncIterator] !== 'function') return value
  let last: unknown
  for await (const each of value as AsyncIterable<unknown>) last = each
  return last
}
