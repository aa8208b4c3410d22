import type { Json, JsonObject } from '../core/json.ts'

/**
 * The app's function that decides about a tool call that was begun by a process which died, so that nobody knows whether
 * it ran; asked only for tools that are not `idempotent`. `idempotencyKey` is the one that the call was given.
 *
 * It may ask the service that the tool uses. `run`: it did not run, or may run again. `{output}`: it did, and this came of
 * it. `ask`: a person decides, as where there is no such function. `fail`: the turn fails as `tool_uncertain`, and a person
 * may retry it. Where it throws, or answers something else, the same.
 */
export type OnUncertain = (call: UncertainCall) => Uncertainty | Promise<Uncertainty>

export type Uncertainty = 'run' | 'ask' | 'fail' | { output: Json }

export type UncertainCall = {
  tool: string
  input: Json
  idempotencyKey: string
  session: { id: string; title: string | null; metadata: JsonObject | null }
  user: { id: string; tenantId: string }
  turn: { id: string; round: number }
}
