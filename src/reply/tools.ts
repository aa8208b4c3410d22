/**
 * The app's tools, wrapped so that each call is stored before it runs and its result after: an attempt that takes over
 * answers finished calls from what is stored.
 */
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

export type ToolCall = { callId: string; name: string; input: Json }

/** To be run, with its key, and then said what came of it; or what came of it in an earlier attempt. */
export type BegunCall =
  | { output: Json }
  | { key: string; done(output: unknown): Promise<void>; failed(error: unknown): Promise<void> }

/** Who stores calls. Both reject where the attempt is over, and then nothing may be run. */
export type CallStore = {
  begin(call: ToolCall): Promise<BegunCall>
  /** It was called in an earlier attempt, has no result, and is to be run in this one before the model goes on. */
  isKept(callId: string): boolean
  /** The reply's model was given such a tool. `isRunHere`: it has an `execute`. `isIdempotent`: it may run twice. */
  given(toolName: string, tool: { isRunHere: boolean; isIdempotent: boolean }): void
}

type Options = { toolCallId?: unknown }
type Execute = (input: unknown, options: object) => unknown
type Tool = {
  execute?: Execute
  idempotent?: unknown
  needsApproval?: unknown
}

export function wrapTools<Tools extends object>(tools: Tools, store: CallStore): Tools {
  const wrapped = Object.entries(tools as Record<string, Tool>).map(([name, tool]) => [name, wrap(name, tool, store)])
  return Object.fromEntries(wrapped) as Tools
}

/** One without `execute` is the client's or the provider's. */
function wrap(name: string, tool: Tool, store: CallStore): Tool {
  store.given(name, { isRunHere: typeof tool.execute === 'function', isIdempotent: tool.idempotent === true })
  if (typeof tool.execute !== 'function') return tool
  const execute = tool.execute.bind(tool)
  const callOf = (input: unknown, options: object | undefined): ToolCall => {
    const callId = (options as Options | undefined)?.toolCallId
    if (typeof callId !== 'string') throw new Error(`${name}.execute: expected {toolCallId} as the second argument.`)
    return { callId, name, input: (input ?? null) as Json }
  }
  const running = isGenerator(tool.execute) ? streamed(execute, callOf, store) : whole(execute, callOf, store)
  return { ...tool, execute: running, needsApproval: granting(tool.needsApproval, store) }
}

type CallOf = (input: unknown, options: object) => ToolCall

function whole(execute: Execute, callOf: CallOf, store: CallStore): Execute {
  return async (input, options) => {
    const begun = await store.begin(callOf(input, options))
    if ('output' in begun) return begun.output
    try {
      const output = await lastOf(await execute(input, { ...options, idempotencyKey: begun.key }))
      await begun.done(output)
      return output
    } catch (error) {
      await begun.failed(error)
      throw error
    }
  }
}

/** Its values are shown as they come, and the last one is the result once it is stored. */
function streamed(execute: Execute, callOf: CallOf, store: CallStore): Execute {
  return async function* (input, options) {
    const begun = await store.begin(callOf(input, options))
    if ('output' in begun) {
      yield begun.output
      return
    }
    let last: unknown
    try {
      for await (const value of execute(input, { ...options, idempotencyKey: begun.key }) as AsyncIterable<unknown>) {
        last = value
        yield value
      }
      await begun.done(last)
    } catch (error) {
      await begun.failed(error)
      throw error
    }
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
function granting(needsApproval: unknown, store: CallStore): unknown {
  return (input: unknown, options: { toolCallId: string }) => {
    if (store.isKept(options.toolCallId)) return true
    return typeof needsApproval === 'function' ? (needsApproval(input, options) as unknown) : needsApproval === true
  }
}
