/** What the replies of tool-runs-server.mjs are to do, what its tools have recorded, and what may never be seen of them. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { onTestFinished } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { createFold } from '../../src/core/fold.ts'
import { callsWithoutResult, isCall, lastStep } from '../../src/core/open-step.ts'
import { textOf } from '../../src/core/parts.ts'
import type { Frame } from '../support/client.ts'
import type { Call, Plan } from './planned-model.mjs'

export type { Call, Plan } from './planned-model.mjs'

export type Random = (below: number) => number
export type Start = { what: 'start'; at: number; run: string; id: string; callId: string; key: string; start: string }
export type Word = { what: 'word'; run: string; id: string; key: string; decision: unknown }
export type Asked = { what: 'prompt'; run: string; prompt: { role: string; content: unknown }[] }
export type Row = {
  run: string
  callId: string
  state: string
  output: { start?: string } | null
  endedAtMs: number | null
}

const tools = ['look', 'look', 'book', 'book', 'book', 'order', 'watch', 'watch', 'broken']
const decisions = [undefined, undefined, 'run', { output: { decided: true } }, 'ask', 'run', 'fail']

/** One to three steps of one to three calls, each of a tool of its own kind. */
export function planOf(run: string, random: Random): Plan {
  const callOf =
    (step: number) =>
    (_: unknown, nth: number): Call => {
      const decision = decisions[random(decisions.length)]
      return {
        id: `k${step}-${nth}`,
        tool: tools[random(tools.length)]!,
        ms: random(4) * 60,
        // A turn that fails has nothing more to show: few do.
        ...(decision === undefined || (decision === 'fail' && random(6) > 0) ? {} : { decision }),
      }
    }
  const steps = Array.from({ length: 1 + random(2) }, (_, step) => ({
    calls: Array.from({ length: 1 + random(3) }, callOf(step)),
    search: random(3) === 0,
  }))
  return { run, steps, pauseMs: 2 + random(8) }
}

/** An empty one, deleted after the test. */
export function recordsFile(): string {
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-tool-runs-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const file = join(dir, 'records')
  writeFileSync(file, '')
  return file
}

/** A line that a killed process had not written to its end is none. */
export function recordsIn<Kind extends { what: string }>(file: string, what: Kind['what']): Kind[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith(`{"what":"${what}"`) && line.endsWith('}'))
    .map((line) => JSON.parse(line) as Kind)
}

/** What was seen that may never be. */
export function wrongOf(
  { run, steps }: Plan,
  seen: { frames: Frame[]; starts: Start[]; words: Word[]; rows: Row[]; parts: Part[] },
): string[] {
  const wrong: string[] = []
  for (const { id, tool } of steps.flatMap(({ calls }) => calls)) {
    const say = (what: string) => wrong.push(`${run} ${id} ${tool}: ${what}`)
    const starts = seen.starts.filter((start) => start.id === id)
    const rows = seen.rows.filter(({ callId }) => callId === id)
    const answers = seen.frames.filter(({ type, data }) => type === 'approval.answered' && data.toolCallId === id)
    const approved = (kind: string) => answers.filter(({ data }) => data.kind === kind && data.approved === true).length
    const words = seen.words.filter((word) => word.id === id && word.decision === 'run').length
    const allowed = (tool === 'order' ? approved('approval') : 1) + approved('uncertain') + words
    if (tool !== 'look' && starts.length > allowed) say(`started ${starts.length} times, ${allowed} were allowed`)
    if (tool === 'order' && approved('approval') === 0 && starts.length > 0) say('started without approval')
    if (new Set(starts.map(({ key }) => key)).size > 1) say('started with several keys')
    if (rows.length > 1) say(`stored ${rows.length} times`)
    const [row] = rows
    if (starts.length > 0 && row === undefined) say('started, and not stored')
    if (row?.endedAtMs != null) {
      const late = starts.filter(({ at }) => at > row.endedAtMs! + 2)
      if (late.length > 0) say('started after its end was stored')
      const given = row.output?.start
      if (given !== undefined && given !== starts.at(-1)?.start) say('has the result of a start that was not its last')
    }
    const part = seen.parts.findLast(({ toolCallId }) => toolCallId === id)
    const shown = (part?.preliminary === true ? undefined : part?.output) as { start?: string } | undefined
    if (shown?.start !== undefined && shown.start !== row?.output?.start)
      say(`shows ${JSON.stringify(part)}, and stored is ${JSON.stringify(row)}`)
  }
  return wrong
}

/** The model was told of each call what the stored message shows. */
export function untold(parts: readonly Part[]): string[] {
  const [, json] = /Told: (.*)$/.exec(textOf([parts.at(-1)!])) ?? []
  if (json === undefined) return ['the last text does not say what was told']
  const told = new Map(JSON.parse(json) as [string, unknown][])
  return parts.filter(isOwnCall).flatMap((part) => {
    const output = part.output as { start?: string } | undefined
    const is = JSON.stringify(told.get(String(part.toolCallId)) ?? null)
    if (output === undefined)
      return told.has(String(part.toolCallId)) ? [] : [`${String(part.toolCallId)} was not told`]
    return is.includes(JSON.stringify(output)) ? [] : [`${String(part.toolCallId)} was told ${is}`]
  })
}
const isOwnCall = (part: Part) => isCall(part) && part.providerExecuted !== true

/** What a follower of raw frames holds of a reply when it has been shown its end, or null where it was not. */
export function foldedOf(frames: readonly Frame[]): Part[] | null {
  const from = frames.findLastIndex(({ type }) => type === 'attempt.started')
  const chunks = frames
    .slice(from)
    .flatMap(({ type, chunks }) => (type === 'chunk' ? (chunks as { type: string }[]) : []))
  if (chunks.at(-1)?.type !== 'finish') return null
  const fold = createFold({ parts: frames[from]!.data.base as Part[] })
  for (const chunk of chunks) fold.push(chunk as never)
  return fold.parts()
}

/** Takeovers that began in the middle of a step, and those of them that had calls to run again or to ask about. */
export function keptIn(frames: readonly Frame[]): { steps: number; open: number } {
  const events = frames.filter(({ type }) => type !== 'chunk')
  const taken = events.filter(
    ({ type }, at) => type === 'attempt.started' && events[at - 1]?.data?.reason === 'crashed',
  )
  const steps = taken.map(({ data }) => lastStep(data.base as Part[])).filter((step) => step.some(isOwnCall))
  return { steps: steps.length, open: steps.filter((step) => callsWithoutResult(step).length > 0).length }
}

/** Of a part what a client of the AI SDK keeps, too. */
export function essenceOf(parts: readonly { type: string; [field: string]: unknown }[]): unknown[] {
  return parts
    .map(({ type, text, toolCallId, state, input, output, errorText }) => ({
      type,
      text,
      toolCallId,
      state,
      input,
      output,
      errorText,
    }))
    .map((part) => JSON.parse(JSON.stringify(part)) as object)
}

export const same = (one: unknown, other: unknown): boolean => isDeepStrictEqual(one, other)
