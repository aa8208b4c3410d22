/**
 * The app's tools, wrapped so that each call is stored before it runs and its result after: an attempt that takes over
 * answers finished calls from what is stored.
 */
import { cleanJson } from '../core/clean.ts'
import { isReplyError } from '../core/errors.ts'
import type { Json } from '../core/json.ts'

/**
 * Wraps the tools that a reply gives to its model; the answer is given to `streamText` in their place. Each tool keeps all
 * that it has of its own; only `execute` is replaced, and `needsApproval`, which is a function then. A reply that calls its
 * tools itself reads `needsApproval` of its own set.
 * `execute` finds `idempotencyKey` beside `toolCallId` in its second argument: the same whenever this call is run, for
 * services that take such a key.
 *
 * A tool that may be run twice says `idempotent: true`: then a call of which nobody knows whether it ran, because its
 * process died, runs again with the same key. (`{ ...tool({ … }), idempotent: true }`.)
 */
export type WrapTools = <Tools extends object>(tools: Tools) => Tools

/** `isNew`: it is surely none of the history that the reply was given, whatever id it has. */
export type ToolCall = { callId: string; name: string; input: Json; isNew: boolean }

/** To be run, with its key, and then said what came of it; or what came of it in an earlier attempt. */
export type BegunCall =
  | { output: Json }
  | { key: string; done(output: unknown): Promise<void>; failed(error: unknown): Promise<void> }

/** Who stores calls. Both reject where the attempt is over, and then nothing may be run. */
export type CallStore = {
  begin(call: ToolCall): Promise<BegunCall>
  /** It was called in an earlier attempt, has no result, and is to be run in this one before the model goes on. */
  isKept(call: ToolCall): boolean
  /** The reply's model was given such a tool. `isRunHere`: it has an `execute`. `isIdempotent`: it may run twice. */
  given(toolName: string, tool: { isRunHere: boolean; isIdempotent: boolean }): void
}

type Options = { toolCallId?: unknown; messages?: unknown }
type Execute = (input: unknown, options: object) => unknown
type Tool = {
  execute?: Execute
  idempotent?: unknown
  needsApproval?: unknown
}

/** The set and its tools keep their prototypes, their getters and what else they have: each may be an instance of a class. */
export function wrapTools<Tools extends object>(tools: Tools, store: CallStore): Tools {
  const wrapped: PropertyDescriptorMap = Object.getOwnPropertyDescriptors(tools)
  for (const name of namesIn(tools)) {
    const tool: unknown = Reflect.get(tools, name)
    if (typeof tool !== 'object' || tool === null) continue
    // What the set inherits is no more told to the model than before, but it cannot be run unstored either.
    const enumerable = Object.prototype.propertyIsEnumerable.call(tools, name)
    Object.defineProperty(wrapped, name, own({ value: wrap(name, tool, store), enumerable }))
  }
  return Object.create(Object.getPrototypeOf(tools) as object | null, wrapped) as Tools
}

/** A property's descriptor, as the property of a map of descriptors. `__proto__` may be a tool's name. */
const own = (descriptor: PropertyDescriptor): PropertyDescriptor => ({
  value: { writable: true, configurable: true, ...descriptor },
  enumerable: true,
  configurable: true,
})

/** Its own and those that it inherits. */
function namesIn(set: object): Set<string> {
  const names = new Set<string>()
  for (let at: object | null = set; at !== null && at !== Object.prototype; at = Object.getPrototypeOf(at) as object) {
    for (const name of Object.getOwnPropertyNames(at)) names.add(name)
  }
  return names
}

/** One without `execute` is the client's or the provider's. */
function wrap(name: string, tool: Tool, store: CallStore): Tool {
  store.given(name, { isRunHere: typeof tool.execute === 'function', isIdempotent: tool.idempotent === true })
  if (typeof tool.execute !== 'function') return tool
  const execute = tool.execute.bind(tool)
  const callOf = (input: unknown, options: object | undefined): ToolCall => {
    const { toolCallId: callId, messages } = (options ?? {}) as Options
    if (typeof callId !== 'string') throw new Error(`${name}.execute: expected {toolCallId} as the second argument.`)
    return { callId, name, input: (input ?? null) as Json, isNew: isNewIn(messages, callId) }
  }
  const running = isGenerator(tool.execute) ? streamed(execute, callOf, store) : whole(execute, callOf, store)
  return Object.create(Object.getPrototypeOf(tool) as object | null, {
    ...Object.getOwnPropertyDescriptors(tool),
    execute: { value: running, enumerable: true, writable: true, configurable: true },
    needsApproval: {
      value: granting(tool, callOf, store),
      enumerable: true,
      writable: true,
      configurable: true,
    },
  }) as Tool
}

type CallOf = (input: unknown, options: object) => ToolCall

function whole(execute: Execute, callOf: CallOf, store: CallStore): Execute {
  return async (input, options) => {
    const call = callOf(input, options)
    const begun = await store.begin(call)
    if ('output' in begun) return begun.output
    let output: unknown
    try {
      output = storable(await lastOf(await execute(input, { ...options, idempotencyKey: begun.key })), call)
    } catch (error) {
      await begun.failed(error)
      throw error
    }
    // That it cannot be stored is no failure of the tool's: it has run.
    await begun.done(output)
    return output
  }
}

/** Its values are shown as they come, and the last one is the result once it is stored. */
function streamed(execute: Execute, callOf: CallOf, store: CallStore): Execute {
  return async function* (input, options) {
    const call = callOf(input, options)
    const begun = await store.begin(call)
    if ('output' in begun) {
      yield begun.output
      return
    }
    let last: unknown
    try {
      for await (const value of execute(input, { ...options, idempotencyKey: begun.key }) as AsyncIterable<unknown>) {
        last = storable(value, call)
        yield last
      }
    } catch (error) {
      await begun.failed(error)
      throw error
    }
    await begun.done(last)
  }
}

/**
 * As it is, or (what `JSON.stringify` refuses, and then the SDK) as it is stored. What cannot be stored at all ends the call
 * with an error that says so, also to the model: it has run, and is not to run again.
 */
function storable(output: unknown, { name }: ToolCall): unknown {
  let json: Json | undefined
  try {
    json = cleanJson(output)
  } catch (error) {
    const why = isReplyError(error) ? `: ${error.message}` : '.'
    throw new Error(`${name} has run, but its result cannot be stored${why}`, { cause: error })
  }
  try {
    JSON.stringify(output)
    return output
  } catch {
    return json
  }
}

/** A plain function may answer a stream, too: of that the last value is the result. */
async function lastOf(value: unknown): Promise<unknown> {
  if (typeof (value as AsyncIterable<unknown> | null | undefined)?.[Symbol.asyncIterator] !== 'function') return value
  let last: unknown
  for await (const each of value as AsyncIterable<unknown>) last = each
  return last
}

function isGenerator(execute: Execute): boolean {
  return execute.constructor.name === 'AsyncGeneratorFunction'
}

/**
 * What was called in an earlier attempt is given to the AI SDK as a call that was approved, for it runs those before it asks
 * the model; 6 runs none of them whose tool needs no approval.
 */
function granting(tool: Tool, callOf: CallOf, store: CallStore): unknown {
  const { needsApproval } = tool
  return (input: unknown, options: object) => {
    if (store.isKept(callOf(input, options))) return true
    if (typeof needsApproval !== 'function') return needsApproval === true
    return needsApproval.call(tool, input, options) as unknown
  }
}

type Said = { role: string; content: string | { type: string; toolCallId?: string }[] }

/**
 * The AI SDK says with each call what the model was told before it. A call of the history is in there, without a result;
 * what the model calls now is not, also where its provider uses an id again. Other callers say nothing.
 */
function isNewIn(messages: unknown, callId: string): boolean {
  if (!Array.isArray(messages)) return false
  const said = (messages as Said[]).flatMap(({ content }) => (typeof content === 'string' ? [] : content))
  const last = said.findLast(
    (part) => part.toolCallId === callId && (part.type === 'tool-call' || part.type === 'tool-result'),
  )
  return last?.type !== 'tool-call'
}
