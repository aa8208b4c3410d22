import type { UserOrAssistantMessage } from './message.ts'
import type { ReplyContext } from './reply.ts'

/**
 * Steers `streamText`: as its `prepareStep` it takes what was sent to steer the reply before each step, and tells it to
 * that step and all after it, at the place where it was said.
 *
 * ```ts
 * streamText({ model, tools, stopWhen, prepareStep: steerSteps(steering, convertToModelMessages), … })
 * ```
 *
 * A `streamText` without tools and `stopWhen` has one step: it takes only what is there when it begins, and what comes
 * later has a turn of its own. `toModel` is the AI SDK's own function, of the major that `streamText` is of.
 *
 * AI SDK 6 makes each step's messages anew and has forgotten those of the step before; 7 goes on with them, as the same
 * objects.
 */
export function steerSteps<ModelMessage>(
  steering: ReplyContext['steering'],
  toModel: (messages: UserOrAssistantMessage[]) => ModelMessage[] | Promise<ModelMessage[]>,
): (step: { messages: ModelMessage[] }) => Promise<{ messages: ModelMessage[] } | undefined> {
  const taken: { at: number; messages: ModelMessage[] }[] = []
  return async ({ messages }) => {
    const ours = new Set(taken.flatMap((each) => each.messages))
    const others = messages.filter((each) => !ours.has(each))
    const fresh = await steering()
    if (fresh.length > 0) taken.push({ at: others.length, messages: await toModel(fresh) })
    if (taken.length === 0) return undefined
    const told: ModelMessage[] = []
    let from = 0
    for (const { at, messages: steered } of taken) {
      told.push(...others.slice(from, at), ...steered)
      from = at
    }
    return { messages: [...told, ...others.slice(from)] }
  }
}
