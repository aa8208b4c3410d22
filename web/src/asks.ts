/** What a turn waits for people with, as the page shows and answers it. */
import type { Turn } from 'holdfast/client'

/**
 * `approval`: whether a call may run. `uncertain`: whether one that may have run is to run again. `budget`: whether a reply
 * that has reached its limit may go on. `tool`: the result of a call that a client runs, which this page does not.
 */
export type AskKind = 'approval' | 'uncertain' | 'budget' | 'tool'
/** `toolCallId` null: it is about no call, but about the reply. `attempt`: the one that asks it. */
export type Ask = {
  kind: AskKind
  id: string
  attempt: number
  toolCallId: string | null
  toolName: string | null
  expiresAt: string
  /** Of a budget: what is used up, and by how much. */
  spent: { what: string; used: number; max: number } | null
}

export function asksOf({ state, attempt, approvals = [], toolCalls = [] }: Turn): readonly Ask[] {
  if (state !== 'waiting') return []
  return [
    ...approvals.map((asked): Ask => {
      const { kind, id, expiresAt } = asked
      if (asked.kind !== 'budget') {
        const { toolCallId, toolName } = asked
        return { kind, id, attempt, toolCallId, toolName, expiresAt, spent: null }
      }
      const spent = { what: asked.budget, used: asked.used, max: asked.max }
      return { kind, id, attempt, toolCallId: null, toolName: null, expiresAt, spent }
    }),
    ...toolCalls.map((asked): Ask => ({ kind: 'tool', id: asked.toolCallId, attempt, ...asked, spent: null })),
  ]
}
export type Question = { title: string; yes: string; no: string }

export function questionOf({ kind, toolName, spent }: Ask): Question | null {
  switch (kind) {
    case 'approval':
      return { title: `May ${toolName} run?`, yes: 'Approve', no: 'Refuse' }
    case 'uncertain':
      return { title: 'It is not known whether this ran. Run it again?', yes: 'Run again', no: 'Do not run' }
    case 'budget':
      return { title: budgetTitle(spent), yes: 'Go on', no: 'End it' }
    case 'tool':
      return null
  }
}

function budgetTitle(spent: Ask['spent']): string {
  switch (spent?.what) {
    case 'steps':
      return `It has taken its ${spent.max} steps. Let it go on?`
    case 'tokens':
      return `It has used ${spent.used} tokens of ${spent.max}. Let it go on?`
    case 'progress':
      return `The model stopped answering, at the last of ${spent.max} attempts. Let it try again?`
    case 'limit':
      return 'A budget is used up. Let it go on?'
    default:
      return 'It reached its limit. Let it go on?'
  }
}

/** What is waited for, as the line under a message has it. */
export function waitWords(asks: readonly Ask[]): string {
  const kinds = new Set(asks.map(({ kind }) => kind))
  if (kinds.has('approval')) return 'Waits for approval'
  if (kinds.has('uncertain') || kinds.has('budget')) return 'Waits for an answer'
  return 'Waits for a device'
}
