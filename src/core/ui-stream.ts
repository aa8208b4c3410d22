/**
 * One reply as a stream for `useChat`: what of the session's log concerns it goes in, chunks for one client come out.
 *
 * Such a client can only be told more; of what it shows it forgets nothing, but for a 7 that is told `reset-step`. So
 * this keeps what the client shows, and each attempt and outcome is told as what is missing from that: as more chunks;
 * else, to 7, as its last step written again; else as an error, after which the client asks for the whole. A stream that
 * ends without `finish`, `abort` or `error` was cut: half a reply is never told as a whole one.
 */
import { canonicalJson } from './canonical.ts'
import type { Chunk, Part } from './chunk.ts'
import { createFold } from './fold.ts'
import type { Json, JsonObject } from './json.ts'
import type { Message } from './message.ts'
import { isCall, lastStep } from './open-step.ts'
import { chunksOf, compacted, forSdk, partsFor, type SdkMajor } from './ui-chunks.ts'

export type UiStream = {
  /** An attempt began, or a finished reply is told: `base` is what stands before its first chunk. */
  started(attempt: { replyId: string; base: readonly Part[]; metadata?: JsonObject | null }): Chunk[]
  /** `missed`: they were stored before the client came, all that there were. */
  chunks(chunks: readonly Chunk[], missed: boolean): Chunk[]
  complete(message: Pick<Message, 'id' | 'parts' | 'metadata'>): Chunk[]
  /** The reply waits for people: the client is to show what is asked, and may answer once its stream has ended. */
  waiting(message: Pick<Message, 'id' | 'parts' | 'metadata'>): Chunk[]
  /** The reply stands so, and goes on only when it is asked for again: the client is told why. */
  cutOff(message: Pick<Message, 'id' | 'parts' | 'metadata'>, sentence: string): Chunk[]
  /** The client shows these parts of it already. To be said first. */
  shows(parts: readonly Part[]): void
  stopped(message: Pick<Message, 'id' | 'parts' | 'metadata'>, reason?: string): Chunk[]
  failed(sentence: string): Chunk[]
  /** Nothing follows. */
  readonly isOver: boolean
}

/** What a client is told that shows what cannot be taken back. Its `regenerate()` attaches to the running turn. */
export const writtenAgain = 'The reply was interrupted and is being written again.'

export function createUiStream(major: SdkMajor): UiStream {
  let shown = createFold()
  /** Texts and reasonings without their end, in the order in which they began: what ends them, and their part. */
  const open = new Map<string, { end: 'text-end' | 'reasoning-end'; id: string; at: number }>()
  let begun = false
  let isOver = false
  let stepIsOpen = false
  /** The marker of this step stands already. */
  let markerStands = false
  let finishReason: string | undefined
  let out: Chunk[] = []

  function emit(given: Chunk): void {
    if (isOver) return
    const chunk = forSdk(given, major)
    if (chunk === null) {
      if (given.type === 'reset-step' && showsOfStep()) cannotTakeBack()
      return
    }
    switch (chunk.type) {
      case 'start-step':
        if (markerStands) {
          markerStands = false
          return
        }
        if (stepIsOpen) emit({ type: 'finish-step' })
        stepIsOpen = true
        break
      case 'finish-step':
        if (!stepIsOpen) return
        // 6 forgets what is open in a step at its end.
        if (major === 6) closeOpen()
        stepIsOpen = false
        break
      case 'text-delta':
      case 'text-end':
      case 'reasoning-delta':
      case 'reasoning-end':
        // Without its beginning it is fatal.
        if (!open.has(keyOf(chunk.type, chunk.id))) return
        break
      case 'finish':
      case 'abort':
      case 'error':
        isOver = true
        break
    }
    put(chunk)
  }

  function put(chunk: Chunk): void {
    out.push(chunk)
    shown.push(chunk)
    switch (chunk.type) {
      case 'text-start':
      case 'reasoning-start': {
        const end = chunk.type === 'text-start' ? 'text-end' : 'reasoning-end'
        open.set(keyOf(chunk.type, chunk.id), { end, id: chunk.id, at: shown.parts().length - 1 })
        break
      }
      case 'text-end':
      case 'reasoning-end':
        open.delete(keyOf(chunk.type, chunk.id))
        break
      case 'reset-step':
        open.clear()
        break
    }
  }

  const emitAll = (chunks: readonly Chunk[]): void => {
    for (const chunk of chunks) emit(chunk)
  }

  function begin(replyId: string, metadata: JsonObject | null | undefined): void {
    if (begun) return
    begun = true
    emit({ type: 'start', messageId: replyId, ...(metadata ? { messageMetadata: metadata } : {}) })
  }

  /** Brings what the client shows to `target`. `goesOn`: more is being written after it. */
  function bringTo(parts: readonly Part[], goesOn: boolean): void {
    const target = partsFor(parts, major)
    const rest = restOf(shown.parts(), target, open, major)
    if (rest !== null) {
      markerStands = false
      emitAll(rest)
      return
    }
    const again = major === 7 ? writtenFromLastStep(shown.parts(), target, goesOn) : null
    if (again === null) {
      cannotTakeBack()
      return
    }
    const hasMarker = shown.parts().some(({ type }) => type === 'step-start')
    emit({ type: 'reset-step' })
    stepIsOpen = hasMarker
    markerStands = hasMarker && again.length === 0
    emitAll(again)
  }

  function showsOfStep(): boolean {
    const last = shown.parts().at(-1)
    return last !== undefined && last.type !== 'step-start'
  }

  function cannotTakeBack(): void {
    emit({ type: 'error', errorText: writtenAgain })
  }

  function closeOpen(): void {
    for (const { end, id } of [...open.values()]) emit({ type: end, id })
  }

  /** A client that goes on by itself after results would ask again: nothing waits for it. */
  function keepFromGoingOn(): void {
    if (!endsInResults(shown.parts())) return
    markerStands = false
    emit({ type: 'start-step' })
  }

  /** Answers what `say` emitted. */
  const saying = (say: () => void): Chunk[] => {
    out = []
    say()
    return out
  }

  return {
    get isOver() {
      return isOver
    },
    started: ({ replyId, base, metadata }) =>
      saying(() => {
        begin(replyId, metadata)
        finishReason = undefined
        bringTo(base, true)
      }),
    chunks: (chunks, missed) =>
      saying(() => {
        for (const chunk of missed ? compacted(chunks) : chunks) {
          if (chunk.type === 'finish') finishReason = chunk.finishReason
          if (chunk.type === 'start' || chunk.type === 'finish') {
            if (chunk.messageMetadata !== undefined) {
              emit({ type: 'message-metadata', messageMetadata: chunk.messageMetadata })
            }
          } else emit(chunk)
        }
      }),
    complete: ({ id, parts, metadata }) =>
      saying(() => {
        begin(id, metadata)
        bringTo(parts, false)
        keepFromGoingOn()
        if (stepIsOpen) emit({ type: 'finish-step' })
        emit({
          type: 'finish',
          finishReason: finishReason ?? 'stop',
          ...(metadata ? { messageMetadata: metadata } : {}),
        })
      }),
    waiting: ({ id, parts, metadata }) =>
      saying(() => {
        begin(id, metadata)
        bringTo(parts, false)
        if (stepIsOpen) emit({ type: 'finish-step' })
        emit({ type: 'finish', finishReason: 'tool-calls', ...(metadata ? { messageMetadata: metadata } : {}) })
      }),
    cutOff: ({ id, parts, metadata }, sentence) =>
      saying(() => {
        begin(id, metadata)
        bringTo(parts, false)
        emit({ type: 'error', errorText: sentence })
      }),
    shows(parts) {
      shown = createFold({ parts: [...partsFor(parts, major)] })
    },
    stopped: ({ id, parts, metadata }, reason) =>
      saying(() => {
        // Nothing of it was ever begun: an empty message would say less than none.
        if (begun || parts.length > 0) {
          begin(id, metadata)
          const rest = restOf(shown.parts(), partsFor(parts, major), open, major)
          if (rest) emitAll(rest)
          closeOpen()
          keepFromGoingOn()
          emit({ type: 'message-metadata', messageMetadata: { status: 'stopped' } })
        }
        emit({ type: 'abort', ...(reason === undefined ? {} : { reason }) })
      }),
    failed: (sentence) => saying(() => emit({ type: 'error', errorText: sentence })),
  }
}

/** Texts and reasonings have ids of their own. */
const keyOf = (type: string, id: string): string => `${type.slice(0, 1)}${id}`

type Open = ReadonlyMap<string, { end: 'text-end' | 'reasoning-end'; id: string; at: number }>

/** The chunks that make `target` of what is shown. Null: something that is shown is not in it. */
function restOf(shown: readonly Part[], target: readonly Part[], open: Open, major: SdkMajor): Chunk[] | null {
  if (shown.length > target.length) return null
  const rest: Chunk[] = []
  const opens = [...open.values()]
  for (const [at, part] of shown.entries()) {
    const wanted = target[at]!
    const unfinished = opens.find((each) => each.at === at)
    if (unfinished && wanted.type === part.type) {
      const said = String(part.text)
      const text = String(wanted.text)
      if (!text.startsWith(said)) return null
      const { end, id } = unfinished
      const delta = end === 'text-end' ? 'text-delta' : 'reasoning-delta'
      if (text.length > said.length) rest.push({ type: delta, id, delta: text.slice(said.length) })
      rest.push({ type: end, id })
    } else if (essenceOf(part) !== essenceOf(wanted)) {
      const result = resultOf(part, wanted, major)
      if (result === null) return null
      rest.push(result)
    }
  }
  return [...rest, ...chunksOf(target.slice(shown.length), major)]
}

/** The one chunk that brings a call which waits for its result, or is broken off, to its end, or to the next that is asked. */
function resultOf(part: Part, wanted: Part, major: SdkMajor): Chunk | null {
  const { type, toolCallId } = part
  const isBrokenOff = part.state === 'input-streaming' && wanted.state === 'output-error'
  if (type !== wanted.type || toolCallId !== wanted.toolCallId) return null
  if (!unanswered.has(part.state) && !isBrokenOff) return null
  const last = chunksOf([wanted], major).at(-1)
  if (last === undefined) return null
  // A 6 knows no answer to what was asked: to it the call has begun.
  const isAnswered = part.state === 'approval-requested' && wanted.state === 'input-available'
  return isAnswered || /^tool-(output|approval)-/.test(last.type) ? last : null
}
const unanswered: ReadonlySet<Json | undefined> = new Set([
  'input-available',
  'approval-requested',
  'approval-responded',
])

/**
 * The chunks after a `reset-step`, which takes away all after the last `step-start`. Null: what is to be taken back lies
 * before that, or `target` ends before it and nothing follows.
 */
function writtenFromLastStep(shown: readonly Part[], target: readonly Part[], goesOn: boolean): Chunk[] | null {
  const shownSteps = stepsOf(shown)
  const targetSteps = stepsOf(target)
  const last = shownSteps.length - 1
  const stands = targetSteps.slice(0, last)
  if (stands.length < last || stands.some((step, at) => !areSame(step, shownSteps[at]!))) return null
  const [again, ...further] = targetSteps.slice(last)
  if (again === undefined) return goesOn ? [] : null
  return chunksOf([...(last === 0 ? again : again.slice(1)), ...further.flat()], 7)
}

/** What stands before the first step, and then each step with its marker. */
function stepsOf(parts: readonly Part[]): Part[][] {
  const steps: Part[][] = [[]]
  for (const part of parts) {
    if (part.type === 'step-start') steps.push([])
    steps.at(-1)!.push(part)
  }
  return steps
}

function areSame(some: readonly Part[], others: readonly Part[]): boolean {
  return some.length === others.length && some.every((part, at) => essenceOf(part) === essenceOf(others[at]!))
}

/** What a reader sees of a part: a client of 6 is not told all of its fields, and an input comes in two ways. */
function essenceOf(part: Part): string {
  const { type } = part
  if (type === 'step-start') return type
  if (type === 'text' || type === 'reasoning') return canonicalJson([type, part.text ?? ''])
  if (isCall(part)) {
    return canonicalJson([type, part.toolCallId, part.state, part.output, part.errorText].map(orNull))
  }
  return canonicalJson([type, part.id, part.data, part.url, part.sourceId, part.title, part.mediaType].map(orNull))
}

const orNull = (value: Json | undefined): Json => value ?? null

/**
 * Whether a client that goes on by itself may do so here (`lastAssistantMessageIsCompleteWithToolCalls` of the AI SDK): to it a
 * call that was denied has no result. The runner judges by `hasAllResults`, to which it has one.
 */
function endsInResults(parts: readonly Part[]): boolean {
  const calls = lastStep(parts).filter((part) => isCall(part) && part.providerExecuted !== true)
  return calls.length > 0 && calls.every(({ state }) => state === 'output-available' || state === 'output-error')
}
