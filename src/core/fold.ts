import type { Chunk, OtherChunk, Part } from './chunk.ts'
import type { Json, JsonObject } from './json.ts'
import { lastIndex } from './last-index.ts'
import { isCall } from './open-step.ts'
import { parsePartialJson } from './partial-json.ts'

/**
 * Folds the chunks of a reply into the parts of its message, as the AI SDK does in the browser: the same chunks give
 * the same parts and metadata as `readUIMessageStream` of majors 6 and 7, except that fields are absent instead of
 * undefined, and that
 * - where the majors differ, 7 is followed: a part stays open over `finish-step`, and the input of a `tool-input-error`
 *   stands in `input` (6 puts it in `rawInput`, which both still read);
 * - the id of a `start` is not looked at, because a reply's message id is fixed when its message is accepted;
 * - the `input` of a call whose arguments are still being written is parsed only when somebody looks.
 */
export type Fold = {
  /** False if the chunk has no place here (a delta of a text that was never started): the SDK fails, this ignores it. */
  push(chunk: Chunk): boolean
  /** The parts so far. Never changed afterwards; a part that did not change between two calls is the same object. */
  parts(): Part[]
  metadata(): JsonObject | null
}

type State = {
  slots: Slot[]
  /** The index of the first slot of the step that is being written. */
  stepStart: number
  texts: Map<string, Slot>
  reasonings: Map<string, Slot>
  calls: Map<Json | undefined, Call>
  metadata: JsonObject | null
}

/**
 * A part that was shown is copied before its next change, so a delta copies nothing unless somebody looked. Of a text
 * that is being written, `text` and then `added` is what the part says once somebody looks.
 */
type Slot = {
  part: Part
  text: string
  added: string[]
  textIsStale: boolean
  wasShown: boolean
  inputIsStale: boolean
}

/**
 * So many deltas become one string. A text put together one by one is a tree of as many strings as it has deltas, all
 * of which each garbage collection visits: of 500 replies at once a million, for 0.1 s every few seconds.
 */
const addedMax = 16

/** A tool call whose arguments are being written, and the slot it had in the step that starts at `stepStart`. */
type Call = { tool: Fields; text: string; slot: Slot; stepStart: number }

/** A chunk, a part or some of its fields, where which ones there are differs between the types or the majors. */
type Fields = { readonly [key: string]: Json | undefined }

/** Continues `base`, which is left as it is: a message's stored parts, cut between two steps. */
export function createFold(base?: { parts: Part[]; metadata?: JsonObject | null }): Fold {
  const slots = (base?.parts ?? []).map((part): Slot => ({ ...slotOf(part), wasShown: true }))
  const state: State = {
    slots,
    stepStart: lastIndex(slots, (slot) => slot.part.type === 'step-start') + 1,
    texts: new Map(),
    reasonings: new Map(),
    calls: new Map(),
    metadata: base?.metadata ?? null,
  }
  for (const slot of slots.slice(state.stepStart)) reopenCall(state, slot)
  return {
    push: (chunk) => apply(state, chunk),
    parts: () => state.slots.map(show),
    metadata: () => state.metadata,
  }
}

function apply(state: State, chunk: Chunk): boolean {
  switch (chunk.type) {
    case 'text-start':
    case 'reasoning-start':
      return openText(state, chunk)
    case 'text-delta':
    case 'reasoning-delta':
      return extendText(state, chunk)
    case 'text-end':
    case 'reasoning-end':
      return closeText(state, chunk)
    case 'tool-input-start':
      return startCall(state, chunk)
    case 'tool-input-delta':
      return extendCall(state, chunk.toolCallId, chunk.inputTextDelta)
    case 'tool-input-available':
      return writeTool(state, chunk, { state: 'input-available', input: chunk.input })
    case 'tool-input-error':
      return failInput(state, chunk)
    case 'start':
    case 'finish':
    case 'message-metadata':
      return mergeMetadata(state, chunk.messageMetadata)
    case 'start-step':
      state.stepStart = state.slots.push(slotOf({ type: 'step-start' }))
      return true
    case 'finish-step':
    case 'abort':
    case 'error':
      return true
    default:
      return applyOther(state, chunk)
  }
}

function applyOther(state: State, chunk: OtherChunk): boolean {
  switch (chunk.type) {
    case 'tool-output-available':
      return answerTool(state, chunk, { state: 'output-available', ...pick(chunk, ['output', 'preliminary']) })
    case 'tool-output-error':
      return answerTool(state, chunk, { state: 'output-error', errorText: chunk.errorText })
    case 'tool-output-denied':
      return write(callSlot(state, chunk.toolCallId), { state: 'output-denied' })
    case 'tool-approval-request':
      return write(callSlot(state, chunk.toolCallId), { state: 'approval-requested', approval: approvalOf(chunk) })
    case 'tool-approval-response':
      return respond(state, chunk)
    case 'reset-step':
      return resetStep(state)
    default:
      return chunk.type.startsWith('data-') ? putData(state, chunk) : appendWhole(state, chunk)
  }
}

// Text and reasoning. A closed one is forgotten, so its id may be used again.

type TextChunk = Extract<Chunk, { type: `${'text' | 'reasoning'}-${'start' | 'delta' | 'end'}` }>

const openTexts = (state: State, chunk: TextChunk) => (chunk.type.startsWith('text') ? state.texts : state.reasonings)

function openText(state: State, chunk: Extract<TextChunk, { type: `${string}-start` }>): boolean {
  const kind = chunk.type === 'text-start' ? { type: 'text' } : { type: 'reasoning', id: chunk.id }
  const slot = slotOf({ ...kind, text: '', ...pick(chunk, ['providerMetadata']), state: 'streaming' })
  state.slots.push(slot)
  openTexts(state, chunk).set(chunk.id, slot)
  return true
}

function extendText(state: State, chunk: Extract<TextChunk, { type: `${string}-delta` }>): boolean {
  const slot = openTexts(state, chunk).get(chunk.id)
  if (slot === undefined) return false
  slot.added.push(chunk.delta)
  slot.textIsStale = true
  if (slot.added.length >= addedMax) gather(slot)
  if (chunk.providerMetadata !== undefined) writable(slot).providerMetadata = chunk.providerMetadata
  return true
}

function closeText(state: State, chunk: Extract<TextChunk, { type: `${string}-end` }>): boolean {
  const open = openTexts(state, chunk)
  const slot = open.get(chunk.id)
  open.delete(chunk.id)
  const names = chunk.type === 'text-end' ? ['providerMetadata', 'citations'] : ['providerMetadata']
  return write(slot, { state: 'done', ...pick(chunk, names) })
}

// Tools. A call's chunks find its part by the call's id and by its kind, static (`tool-NAME`) or `dynamic-tool`.

/** What each new state of a call says anew: what it does not say is gone. */
const saidAnew = ['input', 'rawInput', 'inputEncoding', 'output', 'errorText', 'preliminary']
/** What a call keeps until it is said again. */
const keptUnlessSaid = ['title', 'toolMetadata', 'providerExecuted']

const isDynamic = (part: Part) => part.type === 'dynamic-tool'

function startCall(state: State, chunk: Fields): boolean {
  const tool = pick(chunk, ['toolCallId', 'toolName', 'dynamic', 'title', 'toolMetadata', 'inputEncoding'])
  const slot = ownSlot(state, chunk)
  setTool(slot, chunk, { state: 'input-streaming', ...pick(chunk, ['inputEncoding']) })
  state.calls.set(chunk.toolCallId, { tool, text: '', slot, stepStart: state.stepStart })
  return true
}

function reopenCall(state: State, slot: Slot) {
  const { part } = slot
  if (!isCall(part) || part.state !== 'input-streaming') return
  const toolName = isDynamic(part) ? part.toolName : part.type.slice('tool-'.length)
  const tool = { ...part, toolName, dynamic: isDynamic(part), providerExecuted: undefined }
  const text = typeof part.rawInput === 'string' ? part.rawInput : ''
  state.calls.set(part.toolCallId, { tool, text, slot, stepStart: state.stepStart })
}

function extendCall(state: State, toolCallId: string, delta: string): boolean {
  const call = state.calls.get(toolCallId)
  if (call === undefined) return false
  call.text += delta
  if (call.stepStart !== state.stepStart) {
    call.slot = ownSlot(state, call.tool)
    call.stepStart = state.stepStart
  }
  const { slot, tool, text } = call
  const { inputEncoding } = tool
  const input = inputEncoding === 'text' ? text : undefined
  slot.inputIsStale = false
  setTool(slot, tool, { state: 'input-streaming', input, rawInput: text, inputEncoding })
  slot.inputIsStale = input === undefined
  return true
}

const writeTool = (state: State, tool: Fields, next: Fields) => setTool(ownSlot(state, tool), tool, next)

function failInput(state: State, chunk: Extract<Chunk, { type: 'tool-input-error' }>): boolean {
  const started = inStep(state, (part) => isCall(part) && part.toolCallId === chunk.toolCallId)
  const dynamic = started === undefined ? chunk.dynamic : isDynamic(started.part)
  const { input, errorText } = chunk
  return writeTool(state, { ...chunk, dynamic, title: undefined }, { state: 'output-error', input, errorText })
}

function answerTool(state: State, chunk: Fields, next: Fields): boolean {
  const slot = callSlot(state, chunk.toolCallId)
  if (slot === undefined) return false
  const { input, rawInput } = writable(slot)
  const keepsText = next.state === 'output-error' && !isDynamic(slot.part)
  const tool = pick(chunk, ['toolMetadata', 'providerExecuted', 'providerMetadata'])
  return setTool(slot, tool, { ...next, input, rawInput: keepsText ? rawInput : undefined })
}

function setTool(slot: Slot, tool: Fields, next: Fields): boolean {
  const part = writable(slot)
  if (tool.toolName !== undefined) nameTool(part, String(tool.toolName))
  part.state = next.state
  for (const name of saidAnew) put(part, name, next[name])
  for (const name of keptUnlessSaid) if (tool[name] !== undefined) part[name] = tool[name]
  const isResult = next.state === 'output-available' || next.state === 'output-error'
  const metadataName = isResult ? 'resultProviderMetadata' : 'callProviderMetadata'
  if (tool.providerMetadata !== undefined) part[metadataName] = tool.providerMetadata
  return true
}

function nameTool(part: Part, toolName: string) {
  if (isDynamic(part)) part.toolName = toolName
  else part.type = `tool-${toolName}`
}

/** The slot of this call and kind in the present step; a new one if the step has none. */
function ownSlot(state: State, { toolCallId, toolName, dynamic }: Fields): Slot {
  const isOwn = (part: Part) => isCall(part) && part.toolCallId === toolCallId && isDynamic(part) === (dynamic === true)
  const type = dynamic === true ? 'dynamic-tool' : `tool-${toolName}`
  return inStep(state, isOwn) ?? append(state, { type, toolCallId })
}

/** The slot that an answer to this call belongs to: in the present step, else the last one anywhere. */
function callSlot(state: State, toolCallId: Json | undefined): Slot | undefined {
  const isIt = (part: Part) => isCall(part) && part.toolCallId === toolCallId
  return inStep(state, isIt) ?? state.slots[lastIndex(state.slots, (slot) => isIt(slot.part))]
}

function inStep(state: State, test: (part: Part) => boolean): Slot | undefined {
  for (let at = state.stepStart; at < state.slots.length; at++) {
    const slot = state.slots[at]
    if (slot !== undefined && test(slot.part)) return slot
  }
  return undefined
}

function approvalOf(chunk: Fields): JsonObject {
  return {
    id: chunk.approvalId ?? null,
    ...(chunk.approvalDescriptor === undefined ? {} : { descriptor: chunk.approvalDescriptor }),
    ...pick(chunk, ['inputSchemaInput', 'signature']),
    ...(chunk.reason === undefined ? {} : { requestReason: chunk.reason }),
    ...(chunk.isAutomatic === true ? { isAutomatic: true } : {}),
  }
}

function respond(state: State, chunk: Fields): boolean {
  const slot = state.slots.find(({ part }) => isCall(part) && approvalIn(part).id === chunk.approvalId)
  if (slot === undefined) return false
  const approval = { ...approvalIn(slot.part), ...pick(chunk, ['approved', 'reason']) }
  const said = pick(chunk, ['providerExecuted'])
  if (chunk.providerMetadata !== undefined) said.callProviderMetadata = chunk.providerMetadata
  return write(slot, { state: 'approval-responded', approval, ...said })
}

const approvalIn = (part: Part): JsonObject => (isObject(part.approval) ? part.approval : {})

// Everything that comes as one chunk

/** The fields that the part of such a chunk has, beside its type. */
const wholeParts: { [type: string]: string[] } = {
  'source-url': ['sourceId', 'url', 'title', 'providerMetadata'],
  'source-document': ['sourceId', 'mediaType', 'title', 'filename', 'providerMetadata'],
  file: ['mediaType', 'url', 'providerMetadata'],
  'reasoning-file': ['mediaType', 'url', 'providerMetadata'],
  custom: ['kind', 'providerMetadata'],
  'steering-message': ['id', 'parts'],
}

function appendWhole(state: State, chunk: OtherChunk): boolean {
  const names = wholeParts[chunk.type]
  // A type of some later major has no part that we know of, but it is no mistake either.
  if (names !== undefined) append(state, { type: chunk.type, ...pick(chunk, names) })
  return true
}

/** Data with an id replaces what stands under that id; transient data is not kept at all. */
function putData(state: State, chunk: OtherChunk): boolean {
  if (chunk.transient === true) return true
  const isSame = ({ part }: Slot) => part.type === chunk.type && part.id === chunk.id
  const slot = chunk.id === undefined ? undefined : state.slots.find(isSame)
  if (slot === undefined) append(state, { ...chunk })
  else put(writable(slot), 'data', chunk.data)
  return true
}

/** Forgets the unfinished step. Its marker and the metadata stay. */
function resetStep(state: State): boolean {
  state.slots.length = state.stepStart
  state.texts.clear()
  state.reasonings.clear()
  state.calls.clear()
  return true
}

function mergeMetadata(state: State, metadata: JsonObject | undefined): boolean {
  if (metadata !== undefined && metadata !== null) {
    state.metadata = state.metadata === null ? metadata : merge(state.metadata, metadata)
  }
  return true
}

/** `Object.hasOwn`, which not every engine of a phone has. */
const own = Object.prototype.hasOwnProperty

/** Objects are merged at every depth; anything else, arrays included, is replaced. */
function merge(base: JsonObject, over: JsonObject): JsonObject {
  const merged = { ...base }
  for (const [key, value] of Object.entries(over)) {
    if (key === '__proto__' || key === 'constructor' || key === 'prototype') continue
    const before = own.call(base, key) ? base[key] : undefined
    merged[key] = isObject(before) && isObject(value) ? merge(before, value) : value
  }
  return merged
}

const isObject = (value: Json | undefined): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

// Slots

const slotOf = (part: Part): Slot => ({
  part,
  text: '',
  added: [],
  textIsStale: false,
  wasShown: false,
  inputIsStale: false,
})

function gather(slot: Slot): void {
  slot.text += slot.added.join('')
  slot.added = []
}

function append(state: State, part: Part): Slot {
  const slot = slotOf(part)
  state.slots.push(slot)
  return slot
}

function show(slot: Slot): Part {
  const part = slot.textIsStale || slot.inputIsStale ? writable(slot) : slot.part
  slot.wasShown = true
  return part
}

/** The slot's part, to be changed by the caller. */
function writable(slot: Slot): Part {
  if (slot.wasShown) slot.part = { ...slot.part }
  slot.wasShown = false
  if (slot.textIsStale) {
    gather(slot)
    slot.part.text = slot.text
  }
  slot.textIsStale = false
  if (slot.inputIsStale) put(slot.part, 'input', parsePartialJson(String(slot.part.rawInput)))
  slot.inputIsStale = false
  return slot.part
}

function write(slot: Slot | undefined, fields: Fields): boolean {
  if (slot === undefined) return false
  Object.assign(writable(slot), fields)
  return true
}

function put(part: Part, name: string, value: Json | undefined) {
  if (value !== undefined) part[name] = value
  else if (name in part) delete part[name]
}

/** The named fields that are there. */
function pick(fields: Fields, names: readonly string[]): JsonObject {
  const picked: JsonObject = {}
  for (const name of names) {
    const value = fields[name]
    if (value !== undefined) picked[name] = value
  }
  return picked
}
