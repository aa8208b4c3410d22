/**
 * One attempt's calls of the model, for the ledger: which were made, what was reported of each, and what is thought of those
 * of which nothing was. The first call's row is opened by the claim, before this process knows of it; each later one's
 * with what ends the step before it.
 */
import type { Chunk } from '../core/chunk.ts'
import type { StepUsage } from '../core/message.ts'
import type { StepReport } from '../store/turns.ts'

/** What a step costs, as a decimal number; null: not known. */
export type PriceOf = (usage: StepUsage) => string | null

export type AttemptLedger = {
  /** What was reported, in order: the n-th report is of the n-th call. One without numbers keeps its place. */
  readonly reports: StepReport[]
  /**
   * The reply is asked now. `promptBytes`: of the conversation that it was given, counted where it has to be. `keepsStep`: the
   * calls of a step that an earlier attempt began come first, and the model after them.
   */
  replyAsked(promptBytes: () => number, at: { keepsStep: boolean; bytes: number }): void
  /** To be told of each chunk. `isKept`: it is of the step that was kept. `bytes`: those of the reply before it. */
  taken(chunk: Chunk, at: { isKept: boolean; bytes: number }): void
  report(usage: StepUsage): StepReport
  /** The row that the next call will be, when it is one. From here on it may be open. */
  nextStep(): number
  /** What is known of the steps that are over. */
  atCheckpoint(): StepReport[]
  /**
   * With the attempt's end. `mayHaveGoneOn`: the model may have been called for a step of which nothing came.
   * `isRefused`: the provider has refused the last call.
   */
  atEnd(how: { mayHaveGoneOn: boolean; isRefused?: boolean }): StepReport[]
  /**
   * Where somebody else has ended the attempt, and estimated what was open: what is known better, and calls that were made since.
   */
  atLoss(): StepReport[]
}

type Call = { bytesBefore: number; bytesWritten: number; isOver: boolean }

export function createAttemptLedger(priceOf: PriceOf): AttemptLedger {
  const reports: StepReport[] = []
  const calls: Call[] = []
  let opened = 1
  let promptBytes: (() => number) | undefined

  const begin = (bytesBefore: number) => calls.push({ bytesBefore, bytesWritten: 0, isOver: false })

  /** `said`: by a report that has no numbers. */
  function estimated(step: number, said?: StepUsage): StepReport {
    const { bytesBefore, bytesWritten } = calls[step] ?? { bytesBefore: 0, bytesWritten: 0 }
    const inputTokens = tokensOf(promptBytes!() + bytesBefore)
    return { step, usage: { ...said, inputTokens, outputTokens: tokensOf(bytesWritten) }, estimated: true }
  }

  const settled = () =>
    reports.map((report) => (hasNumbers(report) ? report : estimated(report.step, report.usage ?? undefined)))

  const ledger: AttemptLedger = {
    reports,
    replyAsked(bytes, at) {
      promptBytes = bytes
      if (!at.keepsStep) begin(at.bytes)
    },
    taken(chunk, { isKept, bytes }) {
      if (isKept) return
      const last = calls.at(-1)
      if (chunk.type === 'start-step' && last?.isOver !== false) begin(bytes)
      const written = bytesOf(chunk)
      if (written > 0) {
        if (calls.length === 0) begin(bytes)
        calls.at(-1)!.bytesWritten += written
      }
      if (chunk.type === 'finish-step' && last) last.isOver = true
    },
    report(usage) {
      const report = { step: reports.length, usage, cost: priceOf(usage) }
      reports.push(report)
      return report
    },
    nextStep() {
      opened = Math.max(opened, calls.length + 1)
      return calls.length
    },
    atCheckpoint() {
      const over = calls.flatMap(({ isOver }, step) => (isOver && step >= reports.length ? [estimated(step)] : []))
      return [...settled(), ...over]
    },
    atEnd({ mayHaveGoneOn, isRefused = false }) {
      const made = promptBytes && mayHaveGoneOn ? Math.max(opened, calls.length) : calls.length
      const silent: StepReport[] = []
      for (let step = reports.length; step < Math.max(opened, calls.length); step++) {
        const isNothing = isRefused && step === made - 1 && !calls[step]?.bytesWritten
        if (step >= made) silent.push({ step, usage: null })
        else if (isNothing) silent.push({ step, usage: nothing, cost: '0', estimated: true })
        else silent.push(estimated(step))
      }
      return [...settled(), ...silent]
    },
    atLoss: () =>
      ledger
        .atEnd({ mayHaveGoneOn: promptBytes !== undefined })
        .filter(({ step, usage }) => usage === null || step < Math.max(calls.length, reports.length)),
  }
  return ledger
}

/** A provider's answer without its usage tells nothing of what it took. */
export function hasNumbers({ usage }: StepReport): boolean {
  return usage?.inputTokens !== undefined || usage?.outputTokens !== undefined
}

const nothing = { inputTokens: 0, outputTokens: 0 }

/** As the database estimates (`tokens_of_bytes`): four bytes are taken for a token. */
const tokensOf = (bytes: number) => Math.min(10_000_000, Math.ceil(bytes / 4))

/** What the model wrote with it. */
function bytesOf(chunk: Chunk): number {
  if ('delta' in chunk && typeof chunk.delta === 'string') return Buffer.byteLength(chunk.delta)
  if (chunk.type === 'tool-input-available') return JSON.stringify(chunk.input)?.length ?? 0
  return 0
}

/** Of what the reply is given to read; files are not counted, they are read in ways of their own. */
export function bytesOfPrompt(messages: readonly { parts: readonly unknown[] }[]): number {
  const withoutFiles = (_: string, value: unknown) =>
    typeof value === 'string' && value.startsWith('data:') ? '' : value
  return messages.reduce((sum, { parts }) => sum + Buffer.byteLength(JSON.stringify(parts, withoutFiles)), 0)
}
