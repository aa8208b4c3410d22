/** A `reply` that says what a test wrote, and tells what it was asked. */
import type { Chunk } from '../core/chunk.ts'
import { ReplyError, type TurnCode } from '../core/errors.ts'
import type { StepUsage } from '../core/message.ts'
import { textOf } from '../reply/message.ts'
import type { Reply, ReplyChunk, ReplyContext } from '../reply/reply.ts'
import { createGates } from './gates.ts'
import { callTools, goOnWithTools, type ToolPiece, type ToolSet, toolsOf } from './scripted-tools.ts'
import { createWriting } from './writing.ts'

/**
 * What a reply says, piece by piece:
 *
 * * a text, written as one delta of the text before it, or a chunk of the AI SDK (`{type: 'data-…'}`), written as it is
 * * `{wait: name}`: a gate that stays closed until `open(name)`, and then open
 * * `{fail}`: the attempt ends there by this code (PROTOCOL.md, P62) or error; with `times` only so often for each message
 * * `{tool}`: a call, see `ToolPiece`. Calls side by side are of one step, and what follows them is the next
 * * `{usage}`: reported there
 */
export type Piece =
  | string
  | Chunk
  | { wait: string }
  | { fail: TurnCode | Error; times?: number; retryAfterMs?: number }
  | ToolPiece
  | { usage: StepUsage }
export type Script = readonly Piece[]

/** The script of messages whose text is or matches `to`; of every message where there is none. The first that fits is taken. */
export type ScriptFor = { to?: string | RegExp | ((context: ReplyContext) => boolean); says: Script }

/** What the reply was asked with, once for each attempt. */
export type ScriptedCall = Pick<
  ReplyContext,
  'messages' | 'message' | 'session' | 'user' | 'turn' | 'attempt' | 'stepsDone' | 'replyId'
>

export type ScriptedReply = Reply & {
  /** The last 1,000. */
  readonly calls: readonly ScriptedCall[]
  /** Opens a gate, for who waits there and who comes. Throws where no script has it. */
  open(gate: string): void
  /** Resolves when attempts have come to the gate so often, also before it was asked for. Rejects after 20 s, or `withinMs`. */
  reached(gate: string, ask?: { times?: number; withinMs?: number }): Promise<void>
}

const callsMax = 1_000

/**
 * Makes a `reply` of a script that all messages get, of a list of scripts that new messages get in order, or of scripts
 * that say whose they are. Every attempt begins its message's script anew, behind the steps that were kept. `tools`: the
 * app's own, which `{tool}` pieces run.
 */
export function scriptedReply(
  scripts: Script | readonly Script[] | readonly ScriptFor[],
  { tools = {} }: { tools?: object } = {},
): ScriptedReply {
  const find = finderOf(scripts)
  const gates = createGates(
    allOf(scripts).flatMap((piece) => (isWait(piece) ? [piece.wait] : [])),
    () => calls.length,
  )
  const calls: ScriptedCall[] = []
  const failed = new Map<string, number>()

  async function* write(context: ReplyContext, script: Script): AsyncGenerator<ReplyChunk[]> {
    const steps = stepsOf(script)
    const writing = createWriting()
    const set = toolsOf(script.filter(isTool), tools as ToolSet)
    const wrapped = context.tools(set)
    if (context.stepsDone > 0) yield* goOnWithTools(context, wrapped)
    for (const [at, step] of steps.entries()) {
      if (at < context.stepsDone) continue
      yield [{ type: 'start-step' }]
      for (const piece of step.pieces) {
        if (typeof piece === 'string') yield writing.text(piece)
        else if ('type' in piece) yield [...writing.end(), piece]
        else if ('wait' in piece) await gates.pass(piece.wait, context.signal)
        else if ('fail' in piece) failAt(piece, keyOf(context, script.indexOf(piece)))
        else context.usage(piece.usage)
        // An attempt that is over counts no failure and reports nothing.
        if (context.signal.aborted) return
      }
      yield writing.end()
      const waits = yield* callTools(context, step.calls, set, wrapped, at)
      yield [{ type: 'finish-step' }]
      if (waits) break
    }
    yield [{ type: 'finish', finishReason: 'stop' }]
  }

  function failAt({ fail, times = Number.POSITIVE_INFINITY, retryAfterMs }: FailPiece, key: string): void {
    const before = failed.get(key) ?? 0
    if (before >= times) return
    failed.set(key, before + 1)
    throw typeof fail === 'string' ? new ReplyError(fail, 'as the script says', { retryAfterMs }) : fail
  }

  const reply: Reply = (context) => {
    const { messages, message, session, user, turn, attempt, stepsDone, replyId } = context
    calls.push({ messages, message, session, user, turn, attempt, stepsDone, replyId })
    if (calls.length > callsMax) calls.shift()
    return write(context, find(context))
  }
  return Object.assign(reply, { calls, open: gates.open, reached: gates.reached })
}

type FailPiece = Extract<Piece, { fail: unknown }>

function isWait(piece: Piece): piece is { wait: string } {
  return typeof piece === 'object' && !('type' in piece) && 'wait' in piece
}

function isTool(piece: Piece): piece is ToolPiece {
  return typeof piece === 'object' && !('type' in piece) && 'tool' in piece
}

function isFor(one: Piece | Script | ScriptFor): one is ScriptFor {
  return typeof one === 'object' && 'says' in one
}

function allOf(scripts: readonly (Piece | Script | ScriptFor)[]): Piece[] {
  return scripts.flatMap((one) => (isFor(one) ? [...one.says] : one))
}

function finderOf(scripts: Script | readonly Script[] | readonly ScriptFor[]): (context: ReplyContext) => Script {
  const all: readonly (Piece | Script | ScriptFor)[] = scripts
  if (all.length > 0 && all.every(isFor)) return (context) => forMessage(all, context)
  if (all.length > 0 && all.every((one) => Array.isArray(one))) return inOrder(all as readonly Script[])
  return () => scripts as Script
}

function forMessage(all: readonly ScriptFor[], context: ReplyContext): Script {
  const found = all.find(({ to }) => to === undefined || fits(to, context))
  return found?.says ?? nothing(`no script is for "${textOf(context.message)}". Add one without "to" for all others.`)
}

function fits(to: NonNullable<ScriptFor['to']>, context: ReplyContext): boolean {
  if (typeof to === 'function') return to(context)
  const text = textOf(context.message)
  return typeof to === 'string' ? text === to : text.search(to) !== -1
}

function inOrder(all: readonly Script[]): (context: ReplyContext) => Script {
  const given = new Map<string, Script>()
  return (context) => {
    const key = keyOf(context)
    const script = given.get(key) ?? all[given.size]
    if (script === undefined) return nothing(`there are ${all.length} scripts, and this is message ${given.size + 1}.`)
    given.set(key, script)
    return script
  }
}

/** Of a message: clients make their ids, which are unique in a session. */
function keyOf({ message, session, user }: ReplyContext, ...more: number[]): string {
  return JSON.stringify([user.tenantId, session.id, message.id, ...more])
}

/** It is not tried again, and the server's log says why. */
function nothing(why: string): never {
  throw new ReplyError('internal', `scriptedReply: ${why}`)
}

type Step = { pieces: Exclude<Piece, ToolPiece>[]; calls: ToolPiece[] }

function stepsOf(script: Script): Step[] {
  const steps: Step[] = [{ pieces: [], calls: [] }]
  for (const piece of script) {
    const last = steps.at(-1)!
    if (isTool(piece)) last.calls.push(piece)
    else if (last.calls.length === 0) last.pieces.push(piece)
    else steps.push({ pieces: [piece], calls: [] })
  }
  return steps
}
