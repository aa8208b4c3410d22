import fc from 'fast-check'
import type { Chunk } from '../../src/core/chunk.ts'
import type { Json, JsonObject } from '../../src/core/json.ts'

/**
 * Replies as a model and its tools may write them, as fast-check arbitraries: valid for the AI SDK of the given major,
 * so that every chunk has a place. A reply is a list of steps, and the reply may be cut between any two of them.
 */
export type AiMajor = 6 | 7

/** The chunks of a reply, step by step. The last list always ends with a `finish` that carries metadata. */
export const replySteps = (major: AiMajor): fc.Arbitrary<Chunk[][]> =>
  fc
    .array(step(major), { minLength: 1, maxLength: 4 })
    .chain((steps) => fc.tuple(fc.constant(steps), fc.option(metadata, { nil: undefined }), metadata))
    .map(([steps, first, last]) => {
      const [opening = [], ...others] = steps.map((threads, at) => named(threads, at))
      const start: Chunk = { type: 'start', messageId: 'a1', ...(first && { messageMetadata: first }) }
      const finish: Chunk = { type: 'finish', finishReason: 'stop', messageMetadata: last }
      const parts = [[start, ...opening], ...others]
      return parts.map((chunks, at) => (at === parts.length - 1 ? [...chunks, finish] : chunks))
    })

/** Chunks that come in this order, with those of other threads between them. `at` makes ids differ where they must. */
type Thread = (at: number) => Chunk[]

const words = fc.string({ maxLength: 6, unit: 'grapheme' })
/** As it comes out of the log: what is written there has no -0, though JSON could carry one. */
const json = fc
  .jsonValue({ maxDepth: 2, stringUnit: 'grapheme' })
  .map((value) => JSON.parse(JSON.stringify(value)) as Json)
const record = fc.dictionary(fc.constantFrom('a', 'b', 'c'), json, {
  maxKeys: 2,
  noNullPrototype: true,
}) as fc.Arbitrary<JsonObject>
/** By provider, as the SDK's schema wants it. */
const providerMetadata = record.map((fields): JsonObject => ({ acme: fields }))
const metadata: fc.Arbitrary<JsonObject> = fc.dictionary(
  fc.constantFrom('a', 'b', 'c', 'constructor'),
  fc.oneof(json, record, fc.array(json, { maxLength: 2 })),
  { maxKeys: 3, noNullPrototype: true },
) as fc.Arbitrary<JsonObject>
const optional = <Value>(value: fc.Arbitrary<Value>) => fc.option(value, { nil: undefined, freq: 3 })

/** Without the fields that are undefined: on the wire they are absent. */
const chunk = (fields: object) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Chunk

const citation = words.map((title) => ({
  source: { type: 'source', sourceType: 'url', id: 's1', url: 'https://example.com', title },
  citedText: title,
}))

const prose = (kind: 'text' | 'reasoning', major: AiMajor): fc.Arbitrary<Thread> =>
  fc
    .record({
      deltas: fc.array(fc.tuple(words, optional(providerMetadata)), { maxLength: 4 }),
      startMetadata: optional(providerMetadata),
      endMetadata: optional(providerMetadata),
      citations:
        major === 7 && kind === 'text' ? optional(fc.array(citation, { maxLength: 1 })) : fc.constant(undefined),
      ends: fc.boolean(),
    })
    .map(({ deltas, startMetadata, endMetadata, citations, ends }) => (at) => {
      const id = `${at % 5}`
      return [
        chunk({ type: `${kind}-start`, id, providerMetadata: startMetadata }),
        ...deltas.map(([delta, providerMetadata]) => chunk({ type: `${kind}-delta`, id, delta, providerMetadata })),
        ...(ends ? [chunk({ type: `${kind}-end`, id, providerMetadata: endMetadata, citations })] : []),
      ]
    })

/** How a call ends. `typed` ones end while their input is still being written. */
const fates = [
  'typed',
  'called',
  'output',
  'preliminary',
  'error',
  'input-error',
  'asked',
  'typed-output',
  'typed-error',
]
/** Only 7 has a chunk for the answer to an approval; in 6 a refusal is only seen in its result. */
const fates6 = ['denied']
const fates7 = ['approved', 'refused']

const call = (major: AiMajor): fc.Arbitrary<Thread> =>
  fc
    .record({
      fate: fc.constantFrom(...fates, ...(major === 7 ? fates7 : fates6)),
      input: fc.oneof(record, json),
      cuts: fc.array(fc.nat(20), { maxLength: 3 }),
      streams: fc.boolean(),
      answer: json,
      start: optional(fc.record({ providerMetadata, toolMetadata: record, title: words })),
      about: optional(fc.record({ providerMetadata, toolMetadata: record, providerExecuted: fc.boolean() })),
      dynamic: optional(fc.constant(true)),
      inputEncoding: optional(fc.constantFrom('json', 'text')),
    })
    .map(({ fate, input, cuts, streams, answer, start, about, dynamic, inputEncoding }) => (at) => {
      const toolCallId = `call-${at}`
      const named = { toolCallId, toolName: 'look-up', dynamic }
      const texts = pieces(JSON.stringify(input), fate === 'typed' ? cuts : cuts.slice(0, 1))
      const typed =
        streams || fate.startsWith('typed')
          ? [
              chunk({ type: 'tool-input-start', ...named, inputEncoding, ...start }),
              ...texts.map((inputTextDelta) => chunk({ type: 'tool-input-delta', toolCallId, inputTextDelta })),
            ]
          : []
      const called = chunk({ type: 'tool-input-available', ...named, input, ...about })
      const request = chunk({ type: 'tool-approval-request', toolCallId, approvalId: `approval-${at}`, signature: 's' })
      const respond = (approved: boolean) =>
        chunk({ type: 'tool-approval-response', approvalId: `approval-${at}`, approved, reason: 'because' })
      const output = chunk({ type: 'tool-output-available', toolCallId, output: answer, ...about })
      const early = chunk({ type: 'tool-output-available', toolCallId, output: 0, preliminary: true })
      const failed = chunk({ type: 'tool-output-error', toolCallId, errorText: 'It broke.', ...about })
      const denied = chunk({ type: 'tool-output-denied', toolCallId })
      const misread = chunk({ type: 'tool-input-error', ...named, input, errorText: 'No such field.', ...about })
      const ends: Record<string, Chunk[]> = {
        typed: typed.slice(0, -1),
        'typed-output': [...typed, output],
        'typed-error': [...typed, failed],
        called: [...typed, called],
        output: [...typed, called, output],
        preliminary: [...typed, called, early, early, output],
        error: [...typed, called, failed],
        'input-error': [...typed, misread],
        asked: [...typed, called, request],
        denied: [...typed, called, request, denied],
        approved: [...typed, called, request, respond(true), output],
        refused: [...typed, called, request, respond(false), denied],
      }
      return ends[fate]!
    })

/**
 * The text cut at these places, but never inside a pair (what comes to the fold is clean), nor where the SDK's reading of
 * a beginning trips: behind the sign or in the exponent of a number (see test/core/partial-json.test.ts).
 */
function pieces(text: string, cuts: number[]): string[] {
  const isInside = (at: number) =>
    /^[\uDC00-\uDFFF]/.test(text.slice(at)) || /-$|\d[eE][+-]?\d*$/.test(text.slice(0, at))
  const places = cuts.map((cut) => cut % (text.length + 1)).filter((at) => !isInside(at))
  const at = [...new Set(places)].sort((a, b) => a - b)
  return [0, ...at].map((from, i) => text.slice(from, at[i] ?? text.length))
}

const single = (major: AiMajor): fc.Arbitrary<Thread> => {
  const kinds = [
    fc.record({ type: fc.constant('source-url'), sourceId: words, url: words, title: optional(words) }),
    fc.record({ type: fc.constant('source-document'), sourceId: words, mediaType: words, title: words }),
    fc.record({
      type: fc.constant('file'),
      url: words,
      mediaType: words,
      providerMetadata: optional(providerMetadata),
    }),
    fc.record({
      type: fc.constantFrom('data-weather', 'data-note'),
      id: optional(fc.constantFrom('x', 'y')),
      data: json,
      transient: optional(fc.boolean()),
    }),
    fc.record({ type: fc.constant('message-metadata'), messageMetadata: metadata }),
  ]
  const kinds7 = [
    fc.record({
      type: fc.constant('custom'),
      kind: fc.constant('acme.note'),
      providerMetadata: optional(providerMetadata),
    }),
    fc.record({ type: fc.constant('reasoning-file'), url: words, mediaType: words }),
    fc.record({
      type: fc.constant('steering-message'),
      id: words,
      parts: fc.constant([{ type: 'text', text: 'Go.' }]),
    }),
  ]
  return fc.oneof(...kinds, ...(major === 7 ? kinds7 : [])).map((fields) => () => [chunk(fields)])
}

type Step = {
  threads: Thread[]
  order: number[]
  resets: { threads: Thread[]; keep: number } | undefined
  ends: boolean
}

const step = (major: AiMajor): fc.Arbitrary<Step> => {
  const thread = fc.oneof(prose('text', major), prose('reasoning', major), call(major), call(major), single(major))
  return fc.record({
    threads: fc.array(thread, { maxLength: 4 }),
    order: fc.array(fc.nat(11), { minLength: 1, maxLength: 8 }),
    resets:
      major === 7
        ? optional(fc.record({ threads: fc.array(thread, { maxLength: 3 }), keep: fc.nat(12) }))
        : fc.constant(undefined),
    ends: fc.boolean(),
  })
}

function named({ threads, order, resets, ends }: Step, stepAt: number): Chunk[] {
  const write = (some: Thread[], from: number) =>
    interleave(
      some.map((thread, at) => thread(stepAt * 10 + from + at)),
      order,
    )
  const discarded: Chunk[] = resets === undefined ? [] : write(resets.threads, 5).slice(0, resets.keep)
  return [
    { type: 'start-step' },
    ...(resets === undefined ? [] : [...discarded, { type: 'reset-step' as const }]),
    ...write(threads, 0),
    ...(ends ? [{ type: 'finish-step' as const }] : []),
  ]
}

function interleave(threads: Chunk[][], order: number[]): Chunk[] {
  const left = threads.map((thread) => [...thread])
  const all: Chunk[] = []
  for (let turn = 0; left.some((thread) => thread.length > 0); turn++) {
    const open = left.filter((thread) => thread.length > 0)
    const pick = order[turn % order.length] ?? 0
    all.push(open[pick % open.length]!.shift()!)
  }
  return all
}
