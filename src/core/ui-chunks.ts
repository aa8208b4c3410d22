/**
 * What a client on the AI SDK may be sent. One chunk that its version does not know ends its reply with a page of
 * schema errors, and versions differ: 6.0.1 refuses any field that it does not know, too, and nothing in an unmodified
 * request tells the version. So who does not say that it is 7 gets what 6.0.1 knows.
 */
import type { Chunk, Part } from './chunk.ts'
import type { Json } from './json.ts'
import { lastIndex } from './last-index.ts'

export type SdkMajor = 6 | 7

/** Of each type: the fields that every 6 knows, then those that 7 knows besides. */
const fields: { [type: string]: readonly [of6: readonly string[] | null, of7: readonly string[]] } = {
  start: [['messageId', 'messageMetadata'], []],
  finish: [['finishReason', 'messageMetadata'], []],
  abort: [[], ['reason']],
  error: [['errorText'], []],
  'message-metadata': [['messageMetadata'], []],
  'start-step': [[], []],
  'finish-step': [[], []],
  'reset-step': [null, []],
  'text-start': [['id', 'providerMetadata'], []],
  'text-delta': [['id', 'delta', 'providerMetadata'], []],
  'text-end': [['id', 'providerMetadata'], ['citations']],
  'reasoning-start': [['id', 'providerMetadata'], []],
  'reasoning-delta': [['id', 'delta', 'providerMetadata'], []],
  'reasoning-end': [['id', 'providerMetadata'], []],
  'reasoning-file': [null, ['url', 'mediaType', 'providerMetadata']],
  custom: [null, ['kind', 'providerMetadata']],
  'steering-message': [null, ['id', 'parts']],
  'source-url': [['sourceId', 'url', 'title', 'providerMetadata'], []],
  'source-document': [['sourceId', 'mediaType', 'title', 'filename', 'providerMetadata'], []],
  file: [['url', 'mediaType', 'providerMetadata'], []],
  'tool-input-start': [
    ['toolCallId', 'toolName', 'providerExecuted', 'dynamic', 'title'],
    ['inputEncoding', 'providerMetadata', 'toolMetadata'],
  ],
  'tool-input-delta': [['toolCallId', 'inputTextDelta'], []],
  'tool-input-available': [
    ['toolCallId', 'toolName', 'input', 'providerExecuted', 'providerMetadata', 'dynamic', 'title'],
    ['toolMetadata'],
  ],
  'tool-input-error': [
    ['toolCallId', 'toolName', 'input', 'errorText', 'providerExecuted', 'providerMetadata', 'dynamic', 'title'],
    ['toolMetadata'],
  ],
  'tool-output-available': [
    ['toolCallId', 'output', 'providerExecuted', 'dynamic', 'preliminary'],
    ['providerMetadata', 'toolMetadata'],
  ],
  'tool-output-error': [
    ['toolCallId', 'errorText', 'providerExecuted', 'dynamic'],
    ['providerMetadata', 'toolMetadata'],
  ],
  'tool-output-denied': [['toolCallId'], []],
  'tool-approval-request': [
    ['toolCallId', 'approvalId'],
    ['approvalDescriptor', 'inputSchemaInput', 'reason', 'isAutomatic', 'signature'],
  ],
  'tool-approval-response': [null, ['approvalId', 'approved', 'reason', 'providerExecuted', 'providerMetadata']],
}
const dataFields = ['id', 'data', 'transient']

/** The parts that this client can show. An approval that was answered is to a 6 a call that has begun. */
export function partsFor(parts: readonly Part[], major: SdkMajor): readonly Part[] {
  if (major === 7) return parts
  return parts.filter(({ type }) => !onlyOf7.has(type)).map(withoutResponse)
}

function withoutResponse(part: Part): Part {
  if (part.state !== 'approval-responded') return part
  const { approval: _approval, ...call } = part
  return { ...call, state: 'input-available' }
}
const onlyOf7 = new Set(['custom', 'reasoning-file', 'steering-message'])

/** Fields in which null is a value of the app's. Anywhere else it is fatal to a client. */
const mayBeNull = new Set(['input', 'output', 'data', 'messageMetadata', 'approvalDescriptor', 'inputSchemaInput'])
const finishReasons = new Set(['stop', 'length', 'content-filter', 'tool-calls', 'error', 'other'])

/** The chunk as this client knows it. Null: it has no such chunk. */
export function forSdk(chunk: Chunk, major: SdkMajor): Chunk | null {
  const known = knownFields(chunk.type, major)
  if (known === null) return null
  const given = chunk as { type: string; [field: string]: Json | undefined }
  const kept: { type: string; [field: string]: Json | undefined } = { type: given.type }
  for (const name of known) {
    const value = given[name]
    if (value === undefined || (value === null && !mayBeNull.has(name))) continue
    kept[name] = value
  }
  if (kept.finishReason !== undefined && !finishReasons.has(String(kept.finishReason))) kept.finishReason = 'other'
  return kept as Chunk
}

function knownFields(type: string, major: SdkMajor): readonly string[] | null {
  if (type.startsWith('data-')) return dataFields
  const [of6, of7] = fields[type] ?? [null, null]
  if (of7 === null) return null
  if (major === 7) return of6 === null ? of7 : [...of6, ...of7]
  return of6
}

/**
 * The chunks that make these parts, for a client that comes when they are written. A call that has its result is told
 * without `tool-input-available`: for that a client runs its own tools, and would run them again. Steps but the last
 * are closed.
 */
export function chunksOf(parts: readonly Part[], major: SdkMajor): Chunk[] {
  const chunks: Chunk[] = []
  let isOpen = false
  for (const [at, part] of parts.entries()) {
    if (part.type === 'step-start') {
      if (isOpen) chunks.push({ type: 'finish-step' })
      isOpen = true
      chunks.push({ type: 'start-step' })
    } else chunks.push(...chunksOfPart(part, `part-${at}`, major))
  }
  return chunks
}

function chunksOfPart(part: Part, id: string, major: SdkMajor): Chunk[] {
  const { type, state: _state, ...rest } = part
  switch (type) {
    case 'text':
    case 'reasoning': {
      const { providerMetadata, citations, text } = part
      const start = { type: `${type}-start`, id, providerMetadata }
      const end = { type: `${type}-end`, id, citations }
      const delta = text === '' ? [] : [{ type: `${type}-delta`, id, delta: text }]
      return [start, ...delta, end] as Chunk[]
    }
    case 'source-url':
    case 'source-document':
    case 'file':
    case 'custom':
    case 'reasoning-file':
    case 'steering-message':
      return [{ type, ...rest } as Chunk]
    default:
      if (type.startsWith('data-')) return [{ type, id: part.id, data: part.data } as Chunk]
      if (type === 'dynamic-tool' || type.startsWith('tool-')) return callChunks(part, major)
      return []
  }
}

function callChunks(part: Part, major: SdkMajor): Chunk[] {
  const { type, toolCallId, state, input, rawInput, output, errorText, preliminary, approval } = part
  const dynamic = type === 'dynamic-tool' ? true : undefined
  const toolName = dynamic ? part.toolName : type.slice('tool-'.length)
  const { title, providerExecuted, toolMetadata, callProviderMetadata, resultProviderMetadata } = part
  const call = { toolCallId, toolName, dynamic, title, providerExecuted, toolMetadata }
  const named = { ...call, providerMetadata: callProviderMetadata }
  const told = [
    { type: 'tool-input-start', ...named },
    ...(input === undefined ? [] : [{ type: 'tool-input-delta', toolCallId, inputTextDelta: JSON.stringify(input) }]),
  ]
  const result = { toolCallId, dynamic, providerExecuted, toolMetadata, providerMetadata: resultProviderMetadata }
  const { id: approvalId, requestReason: reason } = (approval ?? {}) as { id?: Json; requestReason?: Json }
  const request = { type: 'tool-approval-request', toolCallId, approvalId, reason }
  switch (state) {
    case 'input-streaming':
      return told as Chunk[]
    case 'output-available':
      return [...told, { type: 'tool-output-available', ...result, output, preliminary }] as Chunk[]
    case 'output-error':
      return input === undefined
        ? ([{ type: 'tool-input-error', ...named, input: rawInput ?? null, errorText }] as Chunk[])
        : ([...told, { type: 'tool-output-error', ...result, errorText }] as Chunk[])
    case 'output-denied':
      return [...told, ...(approval ? [request] : []), { type: 'tool-output-denied', toolCallId }] as Chunk[]
    case 'approval-requested':
      return [{ type: 'tool-input-available', ...named, input: input ?? null }, request] as Chunk[]
    case 'approval-responded': {
      const { id: _id, requestReason: _reason, ...answer } = approval as { [field: string]: Json }
      const response = { type: 'tool-approval-response', approvalId, ...answer }
      // 6 knows no answer, and would ask again.
      const asked = major === 6 ? [] : [request, response]
      return [{ type: 'tool-input-available', ...named, input: input ?? null }, ...asked] as Chunk[]
    }
    default:
      return [{ type: 'tool-input-available', ...named, input: input ?? null }] as Chunk[]
  }
}

/**
 * Chunks that a client missed, for one that has nothing of them: passing data is over, what a step said before it was
 * begun again is gone, and a call whose result is among them is told as `chunksOf` tells it.
 */
export function compacted(missed: readonly Chunk[]): Chunk[] {
  // First, because it leaves nothing that data with its id could take the place of.
  const chunks = withoutDiscarded(missed.filter((chunk) => !('transient' in chunk && chunk.transient === true)))
  const calls = callsOf(chunks)
  const begun = new Set<Call>()
  return chunks.flatMap((chunk, at): Chunk[] => {
    const call = calls[at]
    if (!call?.isAnswered || call.input === undefined || !isInput(chunk)) return [chunk]
    if (begun.has(call) || !('toolName' in chunk)) return []
    begun.add(call)
    const { type: _type, inputEncoding: _encoding, input: _input, ...named } = chunk as { [field: string]: Json }
    return [
      { type: 'tool-input-start', ...named } as Chunk,
      { type: 'tool-input-delta', toolCallId: chunk.toolCallId, inputTextDelta: JSON.stringify(call.input) },
    ]
  })
}

/** A `reset-step` takes away what its step began; what it said of something earlier stands. */
function withoutDiscarded(chunks: readonly Chunk[]): Chunk[] {
  const kept: Chunk[] = []
  for (const chunk of chunks) {
    const at = chunk.type === 'reset-step' ? lastIndex(kept, ({ type }) => type === 'start-step') : -1
    if (at < 0) kept.push(chunk)
    else {
      const ofStep = kept.splice(at + 1)
      kept.push(...ofStep.filter((said) => isOfEarlier(said, ofStep, kept)))
    }
  }
  return kept
}

const ofMessage = new Set(['start', 'finish', 'message-metadata'])

function isOfEarlier(chunk: Chunk, ofStep: readonly Chunk[], before: readonly Chunk[]): boolean {
  if (ofMessage.has(chunk.type)) return true
  if (isResult(chunk)) return !ofStep.some((each) => isInput(each) && each.toolCallId === chunk.toolCallId)
  const { type, id } = chunk as { type: string; id?: Json }
  return (
    type.startsWith('data-') &&
    id !== undefined &&
    before.some((each) => each.type === type && 'id' in each && each.id === id)
  )
}

type Call = { input: Json | undefined; isAnswered: boolean }

/** By chunk, the call that it is of. Providers that number the calls of a step use an id again in the next. */
function callsOf(chunks: readonly Chunk[]): (Call | undefined)[] {
  const latest = new Map<Json, Call>()
  return chunks.map((chunk) => {
    const isResulting = isResult(chunk)
    if (!isResulting && !isInput(chunk)) return undefined
    const there = latest.get(chunk.toolCallId)
    const call = there && (isResulting || !there.isAnswered) ? there : { input: undefined, isAnswered: false }
    latest.set(chunk.toolCallId, call)
    if (isResulting) call.isAnswered = true
    if (chunk.type === 'tool-input-available') call.input = chunk.input
    return call
  })
}

type InputChunk = Extract<Chunk, { type: 'tool-input-start' | 'tool-input-delta' | 'tool-input-available' }>

function isInput(chunk: Chunk): chunk is InputChunk {
  return ['tool-input-start', 'tool-input-delta', 'tool-input-available'].includes(chunk.type)
}

function isResult(chunk: Chunk): chunk is Chunk & { toolCallId: Json } {
  return ['tool-output-available', 'tool-output-error', 'tool-output-denied'].includes(chunk.type)
}
