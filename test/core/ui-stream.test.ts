import { isDeepStrictEqual } from 'node:util'
import {
  lastAssistantMessageIsCompleteWithToolCalls as goesOn6,
  readUIMessageStream as read6,
  uiMessageChunkSchema as schema6,
} from 'ai'
import {
  lastAssistantMessageIsCompleteWithToolCalls as goesOn7,
  readUIMessageStream as read7,
  uiMessageChunkSchema as schema7,
} from 'ai7'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Chunk, Part } from '../../src/core/chunk.ts'
import { createFold } from '../../src/core/fold.ts'
import { joinDeltas } from '../../src/core/join.ts'
import { closeParts } from '../../src/core/parts.ts'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { createUiStream, type UiStream, writtenAgain } from '../../src/core/ui-stream.ts'
import { replySteps } from '../support/replies.ts'

const majors: SdkMajor[] = [6, 7]
const runs = { numRuns: 200 }

/** What the SDK's own reader shows last, and the error that it shows, if any. */
async function read(major: SdkMajor, chunks: Chunk[]): Promise<{ parts: Part[]; metadata: unknown; error?: string }> {
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(structuredClone(chunk))
      controller.close()
    },
  })
  let last: { parts: Part[]; metadata?: unknown } = { parts: [] }
  let error: string | undefined
  const readUIMessageStream = (major === 6 ? read6 : read7) as (options: object) => AsyncIterable<typeof last>
  const onError = (caught: unknown) => {
    error = String(caught)
  }
  for await (const seen of readUIMessageStream({ stream, onError })) last = seen
  const { parts, metadata } = JSON.parse(JSON.stringify(last)) as typeof last
  return { parts, metadata, ...(error === undefined ? {} : { error }) }
}

/** What a person sees of a part, and what its app acts upon. */
const essence = (part: Part) => {
  const { type, text, toolCallId, state, output, errorText, data, url, sourceId } = part
  if (type === 'text' || type === 'reasoning') return { type, text }
  const isCall = toolCallId !== undefined
  return { type, toolCallId, state: isCall ? state : undefined, output, errorText, data, url, sourceId }
}
const plain = <Value>(value: Value): Value => JSON.parse(JSON.stringify(value)) as Value
const essences = (parts: readonly Part[]) => plain(parts.map(essence))
const foldOf = (chunks: Chunk[], base: Part[] = []) => {
  const fold = createFold({ parts: base })
  for (const chunk of chunks) fold.push(chunk)
  return { parts: plain(fold.parts()), metadata: fold.metadata() }
}

/** What majors 6 have no chunk for is not told to them, nor asked of them. */
const knownTo = (major: SdkMajor, parts: readonly Part[]) =>
  parts.filter(({ type }) => major === 7 || !['custom', 'reasoning-file', 'steering-message'].includes(type))

async function valid(major: SdkMajor, chunks: Chunk[]) {
  const schema = (major === 6 ? schema6 : schema7)()
  for (const chunk of chunks) {
    const result = await schema.validate!(plain(chunk))
    expect(result.success, JSON.stringify(chunk)).toBe(true)
  }
}

/** A call of another attempt is another call. */
const renamed = (chunks: Chunk[]): Chunk[] =>
  JSON.parse(JSON.stringify(chunks).replaceAll('"call-', '"later-').replaceAll('"approval-', '"further-')) as Chunk[]

/** A reply as the log has it: chunks until a cut, and then those of the attempt that took over. */
const cutReplies = (major: SdkMajor) =>
  fc.record({
    before: replySteps(major),
    after: replySteps(major),
    kept: fc.nat(3),
    shown: fc.nat(30),
    came: fc.nat(30),
  })

/** Whether the client asks again by itself after results, where its app lets it. */
function goesOn(major: SdkMajor, parts: Part[]): boolean {
  const asks = (major === 6 ? goesOn6 : goesOn7) as (options: object) => boolean
  return asks({ messages: [{ id: 'a1', role: 'assistant', parts }] })
}

/** What keeps a client from going on is no part of the reply. */
const withoutLastMarker = <T extends { type: string }>(parts: T[]): T[] =>
  parts.at(-1)?.type === 'step-start' ? parts.slice(0, -1) : parts

/** Whoever wrote it: a 6 comes to replies with parts that only 7 knows. */
const anyReply = replySteps(7)
const plainReply = anyReply.filter((steps) => steps.flat().every(({ type }) => type !== 'reset-step'))

describe.each(majors)('a reply for useChat of AI SDK %i', (major) => {
  it('is the stored message for whoever comes at its start, in its middle or after its end', async () => {
    await fc.assert(
      fc.asyncProperty(major === 7 ? anyReply : plainReply, fc.nat(40), fc.boolean(), async (steps, came, live) => {
        const chunks = steps.flat()
        const message = { id: 'a1', ...foldOf(chunks) }
        const ui = createUiStream(major)
        const told = ui.started({ replyId: 'a1', base: [] })
        if (live) {
          told.push(...ui.chunks(joinDeltas(chunks.slice(0, came)), true))
          for (const chunk of chunks.slice(came)) told.push(...ui.chunks([chunk], false))
        }
        told.push(...ui.complete(message))
        await valid(major, told)
        const shown = await read(major, told)
        expect(shown.error).toBeUndefined()
        expect(withoutLastMarker(essences(shown.parts))).toEqual(
          withoutLastMarker(essences(knownTo(major, message.parts))),
        )
        expect(goesOn(major, shown.parts)).toBe(false)
        expect(shown.metadata ?? null).toEqual(message.metadata)
        expect(ui.isOver).toBe(true)
        expect(told.at(-1)?.type).toBe('finish')
      }),
      runs,
    )
  })

  it('is the stored message after a takeover, or an error: never something else', async () => {
    let errors = 0
    let whole = 0
    await fc.assert(
      fc.asyncProperty(cutReplies(major), async ({ before, after, kept, shown, came }) => {
        const steps = before.slice(0, -1)
        const base = foldOf(steps.slice(0, kept).flat()).parts
        const first = [...steps.slice(0, kept).flat(), ...(steps[kept] ?? [])]
        const seen = first.slice(0, steps.slice(0, kept).flat().length + shown)
        const second = renamed(after.flat())
        const message = { id: 'a1', ...foldOf(second, base) }
        const ui = createUiStream(major)
        const told = ui.started({ replyId: 'a1', base: [] })
        told.push(...ui.chunks(seen, false))
        told.push(...ui.started({ replyId: 'a1', base }))
        if (!ui.isOver) {
          told.push(...ui.chunks(second.slice(0, came), false))
          told.push(...ui.complete(message))
        }
        await valid(major, told)
        const result = await read(major, told)
        if (told.at(-1)?.type === 'error') {
          errors++
          expect(told.at(-1)).toEqual({ type: 'error', errorText: writtenAgain })
          expect(result.error).toContain(writtenAgain)
          return
        }
        whole++
        expect(result.error).toBeUndefined()
        expect(withoutLastMarker(essences(result.parts))).toEqual(
          withoutLastMarker(essences(knownTo(major, message.parts))),
        )
      }),
      runs,
    )
    expect(whole).toBeGreaterThan(major === 7 ? runs.numRuns * 0.9 : 10)
    expect(major === 7 || errors > 10).toBe(true)
  })

  it('that was stopped shows what is stored, closes what is open and adds nothing that a client goes on from', async () => {
    await fc.assert(
      fc.asyncProperty(replySteps(major), fc.nat(40), fc.nat(40), async (steps, stored, seen) => {
        const chunks = steps.flat().slice(0, -1)
        const { parts, metadata } = foldOf(chunks.slice(0, stored))
        const message = { id: 'a1', parts: closeParts(parts, { toolErrorText: 'Stopped.' }), metadata }
        const ui: UiStream = createUiStream(major)
        const told = ui.started({ replyId: 'a1', base: [] })
        told.push(...ui.chunks(chunks.slice(0, Math.min(seen, stored)), false))
        told.push(...ui.stopped(message, 'stopped by ann'))
        await valid(major, told)
        const result = await read(major, told)
        expect(result.error).toBeUndefined()
        expect(told.at(-1)?.type).toBe('abort')
        expect((result.metadata as { status?: string }).status).toBe('stopped')
        expect(goesOn(major, result.parts)).toBe(false)
      }),
      runs,
    )
  })
})

/** What passes by has left nothing whose place the second could have taken: the step that is begun again takes it away. */
const passingThenKept: Chunk[][] = [
  [
    { type: 'start', messageId: 'a1' },
    { type: 'start-step' },
    { type: 'data-note', id: 'x', data: [], transient: true },
  ],
  [{ type: 'start-step' }, { type: 'data-note', id: 'x', data: [] }, { type: 'reset-step' }],
  [{ type: 'start-step' }, { type: 'finish', finishReason: 'stop', messageMetadata: {} }],
]

describe('a reply for useChat', () => {
  it('that begins a step again is never shown doubled to a 6: it is told an error, and who asks then gets the whole', async () => {
    let errors = 0
    await fc.assert(
      fc.asyncProperty(anyReply, async (steps) => {
        const chunks = steps.flat()
        const message = { id: 'a1', ...foldOf(chunks) }
        const there = createUiStream(6)
        const told = there.started({ replyId: 'a1', base: [] })
        for (const chunk of chunks) told.push(...there.chunks([chunk], false))
        if (there.isOver) {
          errors++
          expect(told.at(-1)).toEqual({ type: 'error', errorText: writtenAgain })
        }
        const later = createUiStream(6)
        const whole = [...later.started({ replyId: 'a1', base: [] }), ...later.chunks(chunks, true)]
        whole.push(...later.complete(message))
        await valid(6, whole)
        const shown = await read(6, whole)
        expect(shown.error).toBeUndefined()
        expect(withoutLastMarker(essences(shown.parts))).toEqual(withoutLastMarker(essences(knownTo(6, message.parts))))
      }),
      { ...runs, examples: [[passingThenKept]] },
    )
    expect(errors).toBeGreaterThan(5)
  })

  it('is not run through a client tool again: a call that has its result is told without tool-input-available', () => {
    const chunks: Chunk[] = [
      { type: 'start-step' },
      { type: 'tool-input-available', toolCallId: 'k', toolName: 'look', input: { a: 1 } },
      { type: 'tool-output-available', toolCallId: 'k', output: 2 },
    ]
    const ui = createUiStream(7)
    ui.started({ replyId: 'a1', base: [] })
    const missed = ui.chunks(chunks, true)
    expect(missed.map(({ type }) => type)).toEqual([
      'start-step',
      'tool-input-start',
      'tool-input-delta',
      'tool-output-available',
    ])
    expect(isDeepStrictEqual(foldOf(missed), foldOf(chunks))).toBe(true)
  })

  it('knows a call by its id and its step: some providers number anew in each', () => {
    const step = (input: number): Chunk[] => [
      { type: 'start-step' },
      { type: 'tool-input-available', toolCallId: 'call_0', toolName: 'look', input },
      { type: 'tool-output-available', toolCallId: 'call_0', output: input },
      { type: 'finish-step' },
    ]
    const chunks = [...step(1), ...step(2)]
    const ui = createUiStream(7)
    ui.started({ replyId: 'a1', base: [] })
    expect(isDeepStrictEqual(foldOf(ui.chunks(chunks, true)), foldOf(chunks))).toBe(true)
    const { parts, metadata } = foldOf(chunks)
    expect(ui.complete({ id: 'a1', parts, metadata }).at(-1)?.type).toBe('finish')
  })

  it('of a message that was withdrawn before anything was written is no message', () => {
    expect(createUiStream(6).stopped({ id: 'a1', parts: [], metadata: null }, 'withdrawn')).toEqual([{ type: 'abort' }])
  })
})
