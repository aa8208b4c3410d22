/**
 * The tool calls of one attempt. A call is stored before it runs and its result after, and each of the two moves the turn's
 * checkpoint on, into the middle of the step: an attempt that takes over keeps the step as it stands.
 *
 * What may have become of a call that an earlier attempt left without a result:
 *   not begun   it has no row, and is in no checkpoint: the model makes it again. Approved by a person, or taken back by an
 *               attempt that ended between the row and the run, it is in one, and runs now
 *   begun       it may have run. One that is idempotent runs again, with the same key; for others the app decides
 *               (`onUncertain`), else a person does: the attempt ends with a question, before any call of the step runs
 *
 * A call that a person was asked about runs only if it was approved, with the input that was shown.
 *
 * A call belongs to its step until it has its result, also where the reply has said the step's end by then. All writes of a
 * checkpoint are one after the other, those between two steps (attempt-run.ts) as well, and each is of its own moment.
 *
 * The SDK calls a tool as soon as it has read the call, which may be before this process has taken the end of the step
 * before. So a call waits until its own chunk was taken: only then is it known of which step it is.
 */
import { createHash } from 'node:crypto'
import { point } from '#points'
import { toolNameOf } from '../core/asks.ts'
import { canonicalJson } from '../core/canonical.ts'
import type { Part } from '../core/chunk.ts'
import { cleanJson } from '../core/clean.ts'
import { ReplyError } from '../core/errors.ts'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { callsWithoutResult, lastStep, withAnswers, withResults } from '../core/open-step.ts'
import { trustOfLease } from '../log/append.ts'
import type { BegunCall, ToolCall } from '../reply/tools.ts'
import type { OnUncertain } from '../reply/uncertain.ts'
import { type Database, DatabaseError } from '../store/database.ts'
import {
  beginCallIfHeld,
  type CallBegun,
  endCallIfHeld,
  takeBackCallIfHeld,
  uncertainCalls,
} from '../store/tool-calls.ts'
import type { Checkpoint } from '../store/turns.ts'
import { askAgain } from './ask-again.ts'
import { type Attempt, checkpointOf, type ToolCalls, type Went } from './attempt.ts'
import { during, settled } from './under-way.ts'

export function createToolCalls(options: {
  database: Database
  attempt: Attempt
  /** A result of more bytes ends the attempt. */
  bytesMax: number
  onUncertain: () => OnUncertain | undefined
  leaseMs: number
  /** The attempt cannot go on. */
  breakOff: (went: Went) => void
}): ToolCalls {
  const { database, attempt, bytesMax, leaseMs, breakOff } = options
  const { claimed, log, stop } = attempt
  /** By the call's id, of which step it is, for each time that it was called. */
  const called = new Map<string, number[]>()
  const waiting = new Map<string, (() => void)[]>()
  const kept = new Map<string, { part: Part; isCalled: boolean }>()
  /** What is to become of those of them that are uncertain. Null: none of them was called yet. */
  let decisions: Promise<Map<string, Decision>> | null = null
  /** Of the step that was written last: those that are begun, here or in an earlier attempt. */
  const begunCalls = new Set<string>()
  /** Begun here, and without a result so far. */
  const running = new Set<CallPlace>()
  /** The tools that the reply was given, by name. */
  const ours = new Map<string, { isRunHere: boolean; isIdempotent: boolean }>()
  /** Of the step that is open: results that are stored, whose chunks may not have been taken yet. */
  const results = new Map<string, Part>()
  let writing: Promise<unknown> = Promise.resolve()
  /** Until it is decided whether each of these runs, and until each that does has its result stored. */
  const beginning = new Set<Promise<void>>()
  const ending = new Set<Promise<void>>()

  if (claimed.checkpoint?.isOpen) {
    for (const part of callsWithoutResult(lastStep(claimed.checkpoint.parts))) {
      const callId = String(part.toolCallId)
      kept.set(callId, { part, isCalled: false })
      begunCalls.add(callId)
    }
  }

  /** A call of the step that was kept is of that one, once. */
  function takeKept({ callId, isNew }: ToolCall): Part | undefined {
    const call = kept.get(callId)
    if (call === undefined || call.isCalled || isNew) return undefined
    call.isCalled = true
    return call.part
  }

  /** Waits as long as the attempt does: its chunk may be long in coming, where the database is. */
  async function stepOf({ callId }: ToolCall): Promise<number> {
    const there = called.get(callId)?.shift()
    if (there !== undefined) return there
    mustGoOn()
    await new Promise<void>((resolve) => {
      const come = () => {
        stop.signal.removeEventListener('abort', come)
        resolve()
      }
      stop.signal.addEventListener('abort', come)
      waiting.set(callId, [...(waiting.get(callId) ?? []), come])
    })
    mustGoOn()
    return called.get(callId)?.shift() ?? attempt.step
  }

  /**
   * A call that has not begun is left out, and the model makes it again: whether a person has to be asked about it is known
   * only when the reply has said all of its step.
   */
  function isToBeKept(part: Part): boolean {
    return begunCalls.has(String(part.toolCallId)) || ours.get(toolNameOf(part))?.isRunHere === false
  }

  function over(): Error {
    // The turn may be somebody else's by now: it is given back, if it is not.
    breakOff({ how: 'handover' })
    return new Error('The attempt is over.')
  }

  function isOver(): boolean {
    return stop.signal.aborted || log.ended.aborted
  }

  function mustGoOn(): void {
    if (isOver()) throw new Error('The attempt is over.')
  }

  /** One after the other: each holds what those before it have stored. */
  function inOrder<Answer>(write: () => Promise<Answer>): Promise<Answer> {
    const written = writing.then(write, write)
    writing = written.catch(() => undefined)
    return written
  }

  /**
   * `stepHasEnded`: the reply has said the end of the step that it wrote last. Where a call of it runs still, a takeover
   * starts from within that step all the same: else nobody would decide what became of the call.
   */
  function checkpointNow(stepHasEnded: boolean, nextIndex: number): Checkpoint {
    const parts = attempt.fold.parts()
    if (!stepHasEnded) {
      return checkpointOf(attempt, { nextIndex, parts: withResults(parts, results, isToBeKept), isOpen: true })
    }
    const step = attempt.step - 1
    if (![...running].some((place) => place.step === step)) {
      return checkpointOf(attempt, { nextIndex, parts: withAnswers(parts, results), isOpen: false })
    }
    return checkpointOf(attempt, { step, nextIndex, parts: withResults(parts, results, isToBeKept), isOpen: true })
  }

  /** `end`: that the call has ended, which no write before its own may say. */
  function write<Answer>(
    place: CallPlace,
    ask: (checkpoint: Checkpoint) => Promise<Answer>,
    end?: () => void,
  ): Promise<Answer> {
    return inOrder(async () => {
      mustGoOn()
      end?.()
      const checkpoint = checkpointNow(!attempt.stepIsOpen && place.step < attempt.step, log.stored())
      return await asked(() => ask(checkpoint))
    })
  }

  /** What our store fails of is no result of a tool's, and nothing for the model to read. */
  async function asked<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
    try {
      return await askAgain(ask, log.ended)
    } catch (error) {
      if (error instanceof DatabaseError && (error.kind === 'bad_data' || error.kind === 'bug')) {
        const detail = `a tool call cannot be stored (${error.code})`
        breakOff({ how: 'error', error: new ReplyError('internal', detail) })
      }
      throw over()
    }
  }

  async function begin(call: ToolCall): Promise<BegunCall> {
    const part = takeKept(call)
    const step = part === undefined ? await stepOf(call) : claimed.checkpoint!.step
    const key = { ...claimed, step, callId: call.callId }
    const name = call.name
    const inputHash = inputHashOf(call.input)
    let sentAtMs = 0
    const ask = async (again: boolean) => {
      await point('tool.begin')
      begunCalls.add(call.callId)
      running.add(key)
      const answer = await write(key, (checkpoint) => {
        sentAtMs = performance.now()
        return beginCallIfHeld(database, key, { name, inputHash, again, leaseMs }, checkpoint)
      })
      if (answer.outcome !== 'begun') running.delete(key)
      return answer
    }
    const idempotencyKey = keyOf(claimed, key)
    const decision = part === undefined ? undefined : await decisionOf(call)
    const decided = during(beginning)
    try {
      let begun = await ask(false)
      if (begun.outcome === 'uncertain' && decision !== undefined) {
        begun = await ask(true)
        if (begun.outcome === 'begun' && typeof decision === 'object') {
          await end(key, 'done', decision.output)
          return { output: decision.output }
        }
      }
      await point('tool.begun')
      return await toRun(begun, key, idempotencyKey, sentAtMs + leaseMs * trustOfLease)
    } finally {
      decided()
    }
  }

  /** It surely did not run, and nobody has to be asked about it. Where that cannot be stored, somebody is. */
  async function takeBack(key: CallPlace): Promise<void> {
    running.delete(key)
    await askAgain(() => takeBackCallIfHeld(database, key), log.ended).catch(() => undefined)
  }

  async function toRun(
    begun: CallBegun,
    key: CallPlace,
    idempotencyKey: string,
    trustedUntilMs: number,
  ): Promise<BegunCall> {
    switch (begun.outcome) {
      case 'begun':
        // So late that somebody else may have the turn by now, who would not know that it runs.
        if (performance.now() > trustedUntilMs || isOver()) {
          if (begun.isFirst) await takeBack(key)
          throw over()
        }
        return runOf(key, idempotencyKey)
      case 'done':
        return { output: begun.output }
      case 'failed':
        throw new Error(String(begun.output))
      case 'uncertain':
        throw uncertain()
      case 'refused':
        throw new Error('Nobody has approved this call with this input.')
      case 'lost':
        throw over()
    }
  }

  function runOf(key: CallPlace, idempotencyKey: string): BegunCall {
    const ended = during(ending)
    return {
      key: idempotencyKey,
      done: async (output) => {
        await end(key, 'done', resultOf(output)).finally(ended)
      },
      failed: async (error) => {
        // Told to end, it fails because it was told: nobody knows how far it got.
        if (!stop.signal.aborted) await end(key, 'failed', resultOf(String(error))).finally(ended)
      },
    }
  }

  function resultOf(output: unknown): Json {
    const json = cleanJson(output) ?? null
    const bytes = Buffer.byteLength(JSON.stringify(json))
    if (bytes > bytesMax) {
      const error = new ReplyError('budget_exceeded', `a tool's result of ${bytes} bytes, more than ${bytesMax}`)
      breakOff({ how: 'error', error })
      throw error
    }
    return json
  }

  async function end(key: CallPlace, state: 'done' | 'failed', output: Json): Promise<void> {
    await point('tool.end')
    const part: Part =
      state === 'done'
        ? { type: '', state: 'output-available', output }
        : { type: '', state: 'output-error', errorText: toolErrorText }
    const hasEnded = () => {
      running.delete(key)
      // Else another step has begun since, and may have a call of the same id.
      if (key.step >= (attempt.stepIsOpen ? attempt.step : attempt.step - 1)) results.set(key.callId, part)
    }
    const ask = (checkpoint: Checkpoint) =>
      endCallIfHeld(database, key, { state, output }, checkpoint, attempt.ledger.nextStep())
    const stored = await write(key, ask, hasEnded)
    await point('tool.ended')
    if (stored === 'lost') throw over()
  }

  function uncertain(cause?: unknown): ReplyError {
    const detail = 'a tool call was begun by an earlier attempt and has no result'
    const error = new ReplyError('tool_uncertain', detail, { cause })
    breakOff({ how: 'error', error })
    return error
  }

  /** Of a call that was kept. Undefined: it is not uncertain, or a person said that it may run again. */
  async function decisionOf({ callId }: ToolCall): Promise<Decision | undefined> {
    // Of all at once, before any of them runs: what ran already would be cut off by a question about another.
    decisions ??= decideAll(claimed.checkpoint!.step)
    return (await decisions).get(callId)
  }

  async function decideAll(step: number): Promise<Map<string, Decision>> {
    const parts = new Map([...kept].map(([callId, { part }]) => [callId, part]))
    const rows = await asked(() => uncertainCalls(database, claimed, step))
    const calls = rows.flatMap(({ callId, inputHash }) => {
      const part = parts.get(callId)
      const isIt = part !== undefined && inputHashOf(part.input ?? null) === inputHash
      return isIt ? [uncertainCallOf(callId, part, step)] : []
    })
    const decided = await Promise.all(calls.map(async (call) => [call, await decide(call)] as const))
    const asks = decided.flatMap(([{ idempotencyKey, ...call }, decision]) =>
      decision === 'ask'
        ? [{ kind: 'uncertain' as const, id: `uncertain-${claimed.attempt}-${idempotencyKey}`, ...call }]
        : [],
    )
    if (asks.length > 0) {
      breakOff({ how: 'uncertain', asks })
      throw new Error('The attempt is over: a person is asked first.')
    }
    return new Map(decided.flatMap(([{ callId }, decision]) => (decision === 'ask' ? [] : [[callId, decision]])))
  }

  function uncertainCallOf(callId: string, part: Part, step: number) {
    const idempotencyKey = keyOf(claimed, { ...claimed, step, callId })
    return { callId, name: toolNameOf(part), input: part.input ?? null, idempotencyKey }
  }

  async function decide({
    name,
    input,
    idempotencyKey,
  }: ReturnType<typeof uncertainCallOf>): Promise<Decision | 'ask'> {
    const onUncertain = options.onUncertain()
    if (ours.get(name)?.isIdempotent === true) return 'run'
    if (onUncertain === undefined) return 'ask'
    const { session, user, turn } = attempt.asked!
    // Its error is the app's, and no result of the tool's: the model is not told it.
    const answer = async () => await onUncertain({ tool: name, input, idempotencyKey, session, user, turn })
    const decision = await answer().catch((cause: unknown) => {
      throw uncertain(cause)
    })
    if (decision === 'run' || decision === 'ask') return decision
    if (typeof decision === 'object' && decision !== null && 'output' in decision) {
      return { output: resultOf(decision.output) }
    }
    throw uncertain()
  }

  return {
    begin,
    decided: () => settled(beginning, limits.callsEndWithinMs, log.ended),
    ended: () => settled(ending, limits.callsEndWithinMs, log.ended),
    hasBegun: (callId) => begunCalls.has(callId),
    inOrder,
    checkpointNow,
    isKept({ callId, name, input, isNew }) {
      const call = kept.get(callId)
      if (call === undefined || call.isCalled || isNew || toolNameOf(call.part) !== name) return false
      return inputHashOf(call.part.input ?? null) === inputHashOf(input)
    },
    given(toolName, tool) {
      ours.set(toolName, tool)
    },
    isOurs: (toolName) => ours.get(toolName)?.isRunHere ?? null,
    taken(chunk) {
      if (chunk.type === 'start-step') {
        results.clear()
        // What was refused is not run, and a provider may use its id again.
        kept.clear()
        called.clear()
        begunCalls.clear()
      }
      if (chunk.type !== 'tool-input-available' || chunk.providerExecuted === true) return
      const { toolCallId } = chunk
      called.set(toolCallId, [...(called.get(toolCallId) ?? []), attempt.step])
      const next = waiting.get(toolCallId)?.shift()
      next?.()
    },
  }
}

/** Of the input as it is stored and shown, whatever order its keys have. */
export function inputHashOf(input: unknown): string {
  return createHash('sha256')
    .update(canonicalJson(cleanJson(input) ?? null))
    .digest('base64url')
}

/** What becomes of an uncertain call: it runs again, or this came of it. */
type Decision = 'run' | { output: Json }

type CallPlace = { tenantId: string; sessionId: string; turnId: string; attempt: number; step: number; callId: string }

/** As the AI SDK shows it: a tool's own errors may hold secrets. */
const toolErrorText = 'An error occurred.'

/** The same for the same call in whichever attempt. */
function keyOf({ turnId, round }: { turnId: string; round: number }, { step, callId }: CallPlace): string {
  return createHash('sha256')
    .update(JSON.stringify([turnId, round, step, callId]))
    .digest('base64url')
    .slice(0, 32)
}
