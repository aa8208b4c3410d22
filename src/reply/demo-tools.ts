/** The demo model's calls of tools: one that just runs (`dice`), and one that a person is asked about (`send_email`). */
import { randomInt } from 'node:crypto'
import { setTimeout as after } from 'node:timers/promises'
import type { Json } from '../core/json.ts'
import { isToolPart, type ToolPart, textOf } from './message.ts'
import type { ReplyChunk, ReplyContext } from './reply.ts'

/** Resolves when so many words more would have been written. Rejects when the signal is aborted. */
export type Pace = (words?: number) => Promise<void>

export function paceOf(wordsPerSecond: number, signal: AbortSignal): Pace {
  const begun = performance.now()
  let words = 0
  return async (more = 1) => {
    words += more
    const waitMs = begun + (words * 1000) / wordsPerSecond - performance.now()
    if (waitMs > 0) await after(waitMs, undefined, { signal })
  }
}

/** Each word with the space that follows it, so that joining them gives the text back. */
export function wordsOf(text: string): string[] {
  return text.match(/\s*\S+\s*/g) ?? []
}

export type DemoToolName = 'dice' | 'send_email'

/** What a message asks for by one of its words. A long one has such words by chance, and is none. */
export function demoToolFor(said: string): DemoToolName | undefined {
  if (said.length > wishCharsMax) return undefined
  if (/\b(approv\w*|permission|e-?mails?)\b/i.test(said)) return 'send_email'
  return /\b(tools?|dice|die|roll)\b/i.test(said) ? 'dice' : undefined
}
const wishCharsMax = 200

/**
 * Calls the tool in its first step and tells of it in the second. An attempt that takes over finds how far it came in the
 * last message: it runs what was approved or left without a result, and then tells.
 */
export async function* demoToolReply(name: DemoToolName, context: ReplyContext, pace: Pace) {
  const { message, messages, replyId, stepsDone, tools, usage } = context
  const own = demoTools(pace)
  const tool = own[name]
  const { execute } = tools(own)[name]
  const kept = stepsDone === 0 ? undefined : messages.find(({ id }) => id === replyId)?.parts.findLast(isToolPart)
  const toolCallId = kept?.toolCallId ?? `${name}-${replyId}`
  const input = kept === undefined ? tool.inputFor(textOf(message)) : ((kept.input ?? null) as Json)
  const report = { provider: 'demo', model: 'demo', inputTokens: wordsOf(textOf(message)).length }
  let end: End | undefined = kept && endOf(kept)
  if (kept === undefined) {
    yield* call(tool, { toolCallId, toolName: name, input, pace })
    usage({ ...report, outputTokens: wordsOf(tool.before).length, finishReason: 'tool-calls' })
    if (tool.needsApproval) {
      yield [{ type: 'finish-step' }, { type: 'finish', finishReason: 'tool-calls' }] satisfies ReplyChunk[]
      return
    }
  }
  if (end === undefined) {
    const output = await execute(input, { toolCallId })
    end = { output }
    yield { type: 'tool-output-available', toolCallId, output } satisfies ReplyChunk
  } else if ('refused' in end && kept?.state !== 'output-denied') {
    yield { type: 'tool-output-denied', toolCallId } satisfies ReplyChunk
  }
  if (kept === undefined) yield { type: 'finish-step' } satisfies ReplyChunk
  const after = afterText(tool, end)
  yield { type: 'start-step' } satisfies ReplyChunk
  yield* text('after', after, pace)
  usage({ ...report, outputTokens: wordsOf(after).length, finishReason: 'stop' })
  yield [{ type: 'finish-step' }, { type: 'finish', finishReason: 'stop' }] satisfies ReplyChunk[]
}

type End = { output: Json } | { refused: string | undefined } | { failed: string }

/** Undefined: it has still to run. */
function endOf(part: ToolPart): End | undefined {
  switch (part.state) {
    case 'output-available':
      return { output: part.output }
    case 'output-error':
      return { failed: part.errorText }
    case 'output-denied':
      return { refused: part.approval.reason }
    case 'approval-responded':
      return part.approval.approved ? undefined : { refused: part.approval.reason }
    default:
      return undefined
  }
}

type Called = { toolCallId: string; toolName: DemoToolName; input: Json; pace: Pace }

async function* call(tool: DemoTool, { toolCallId, toolName, input, pace }: Called): AsyncGenerator<ReplyChunk> {
  yield { type: 'start-step' }
  yield* text('before', tool.before, pace)
  yield { type: 'tool-input-start', toolCallId, toolName }
  for (const inputTextDelta of wordsOf(JSON.stringify(input))) {
    await pace()
    yield { type: 'tool-input-delta', toolCallId, inputTextDelta }
  }
  yield { type: 'tool-input-available', toolCallId, toolName, input }
  if (tool.needsApproval) yield { type: 'tool-approval-request', toolCallId, approvalId: `approve-${toolCallId}` }
}

async function* text(id: string, said: string, pace: Pace): AsyncGenerator<ReplyChunk> {
  yield { type: 'text-start', id }
  for (const delta of wordsOf(said)) {
    await pace()
    yield { type: 'text-delta', id, delta }
  }
  yield { type: 'text-end', id }
}

type DemoTool = {
  needsApproval: boolean
  /** It may run again where its process died. Of another a person is asked then. */
  idempotent: boolean
  before: string
  after(output: Json): string
  inputFor(said: string): Json
  execute(input: Json, options: { toolCallId: string }): Promise<Json>
}

/** So many words could be written while a tool runs: long enough to kill the server meanwhile. */
const runWords = 30

function demoTools(pace: Pace): Record<DemoToolName, DemoTool> {
  return {
    dice: {
      needsApproval: false,
      idempotent: true,
      before: 'I am the demo model, and I roll two dice for you with a tool.',
      after: (output) =>
        `The dice show ${rollsIn(output).join(' and ')}. The roll was stored before I told you of it, so it stays the same whatever happens now: kill the server, and I go on with these numbers.`,
      inputFor: () => ({ dice: 2, sides: 6 }),
      async execute() {
        await pace(runWords)
        return { rolls: [randomInt(1, 7), randomInt(1, 7)] }
      },
    },
    send_email: {
      needsApproval: true,
      idempotent: false,
      before:
        'I am the demo model. I would send this email, which is only pretended, and I do not do it without your word.',
      after: () =>
        'It is done: you approved the email and the tool ran, once. (It only pretended: nothing has left this machine.)',
      inputFor: (said) => ({ to: 'crew@example.com', subject: 'Hello from the demo', text: said.trim() }),
      async execute() {
        await pace(runWords)
        return { sent: true, pretended: true }
      },
    },
  }
}

function rollsIn(output: Json): number[] {
  const { rolls } = output as { rolls: number[] }
  return rolls
}

function afterText(tool: DemoTool, end: End): string {
  if ('output' in end) return tool.after(end.output)
  if ('failed' in end) return `I go on without the tool. What became of it: ${end.failed}`
  return refusedText(end.refused)
}

function refusedText(reason: string | undefined): string {
  if (reason === 'expired') return 'Nobody answered in time, so the tool did not run and no email was sent.'
  const why = reason === undefined ? '' : ` You said why: ${reason}`
  return `You refused it, so the tool did not run and no email was sent.${why}`
}
