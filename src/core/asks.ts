/**
 * What a reply cannot go on without: calls of its last step that a person approves, also to run again where nobody knows
 * whether they ran, or that a client runs; and a person's word where a budget of it is used up.
 */
import type { Part } from './chunk.ts'
import type { Json } from './json.ts'
import { isCall, lastStep } from './open-step.ts'

/** `id`: what an answer names, the approval's or the call's. */
export type Ask = { kind: 'approval' | 'tool' | 'uncertain'; id: string; callId: string; name: string; input: Json }

/** What a round may use before somebody is asked, and how much of it was used. */
export type Budget =
  | { budget: 'steps' | 'tokens' | 'progress'; used: number; max: number }
  | ({ budget: 'limit'; used: number; max: number } & SpendRule)

/**
 * A budget of the app's, over more than this round. `every`: null where it is never renewed, else `renewsAt` says when next.
 * `mayGoOn`: who may let a reply go on beyond it: whoever may write, an owner of the session, or the app's server alone.
 */
export type SpendRule = {
  per: 'turn' | 'session' | 'user' | 'tenant'
  every: 'hour' | 'day' | 'month' | null
  measure: 'tokens' | 'cost'
  mayGoOn: 'member' | 'owner' | 'server' | 'nobody'
  renewsAt: string | null
}

/** What is said of it where nothing can be answered but by asking for the reply again. */
export function budgetSentence(budget: Budget): string {
  if (budget.budget === 'limit') return spendSentence(budget)
  return `${budgetHappened(budget.budget, budget.used, budget.max)} Regenerate lets it go on from where it stands.`
}

/** What was reached, and when or by whom that ends. */
export function spendSentence({
  used,
  max,
  per,
  every,
  measure,
  mayGoOn,
  renewsAt,
}: { used: number; max: number } & SpendRule): string {
  const of = {
    turn: 'of this reply',
    session: 'of this conversation',
    user: 'of yours',
    tenant: 'of your organization',
  }[per]
  const what = measure === 'tokens' ? `${max} tokens` : `${max}`
  const happened = `The budget ${of}, ${what}${every === null ? '' : ` a ${every}`}, is used up: ${used} are.`
  const renewed = renewsAt === null ? '' : ` It is renewed at ${renewsAt}.`
  const who = {
    member: ' Somebody here may let it go on.',
    owner: ' An owner of the conversation may let it go on.',
    server: ' Who runs this service may let it go on.',
    nobody: '',
  }[mayGoOn]
  return `${happened}${renewed}${who}`
}

function budgetHappened(budget: Exclude<Budget['budget'], 'limit'>, used: number, max: number): string {
  switch (budget) {
    case 'steps':
      return `The reply has used the ${max === 1 ? 'one step' : `${max} steps`} that it may have.`
    case 'tokens':
      return `The reply has used ${used} tokens, and may have ${max}.`
    case 'progress':
      return `The model stopped answering, at the last of ${max} attempts.`
  }
}

/** `isForClient`: of a call that may run and has no result, whether it is a client's to run. */
export function asksOf(parts: readonly Part[], isForClient: (callId: string) => boolean): Ask[] {
  const asks = new Map<string, Ask>()
  for (const part of lastStep(parts)) {
    const kind = kindOf(part, isForClient)
    if (kind === null) continue
    const callId = String(part.toolCallId)
    const id = kind === 'approval' ? String((part.approval as { id?: Json }).id) : callId
    asks.set(callId, { kind, id, callId, name: toolNameOf(part), input: part.input ?? null })
  }
  return [...asks.values()]
}

function kindOf(part: Part, isForClient: (callId: string) => boolean): Ask['kind'] | null {
  if (!isCall(part)) return null
  if (part.state === 'approval-requested') return 'approval'
  // A client's call that needs approval is asked about first, and for its result then.
  const mayRun = part.state === 'input-available' || isApproved(part)
  return mayRun && part.providerExecuted !== true && isForClient(String(part.toolCallId)) ? 'tool' : null
}

function isApproved({ state, approval }: Part): boolean {
  return state === 'approval-responded' && (approval as { approved?: Json }).approved === true
}

/**
 * The parts with a question about each of these calls of their last step, in the form in which the AI SDK asks: so its
 * pages ask, and answer, without knowing of it. 7 shows the reason.
 */
export function withUncertainAsked(parts: readonly Part[], ids: ReadonlyMap<string, string>): Part[] {
  const step = new Set(lastStep(parts))
  return parts.map((part) => {
    const id = step.has(part) && isCall(part) ? ids.get(String(part.toolCallId)) : undefined
    return id === undefined ? part : { ...part, state: 'approval-requested', approval: { id, requestReason } }
  })
}
const requestReason = 'It was interrupted, and it is not known whether it ran. Approved, it runs again.'

export function toolNameOf({ type, toolName }: Part): string {
  return type === 'dynamic-tool' ? String(toolName) : type.slice('tool-'.length)
}

/** What is said of a question that nobody answered in time: to the model, and to followers. */
export const expiredAnswers = {
  approval: { approved: false, reason: 'expired' },
  tool: { errorText: 'No result came in time.' },
} as const
