/** What a turn waits for people with, as the page shows and answers it. */
import type { Turn } from './view.ts'

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
/** As a turn has it: without a kind it is about whether a call may run. */
export type TurnAsk = {
  id?: string
  kind?: string
  toolCallId?: string | null
  toolName?: string | null
  expiresAt: string
  budget?: string
  used?: number
  max?: number
}

export function asksOf({ state, attempt, approvals = [], toolCalls = [] }: Turn): Ask[] {
  if (state !== 'waiting') return []
  return [
    ...approvals.map((ask) => askOf(ask, kindOf(ask), attempt)),
    ...toolCalls.map((ask) => askOf(ask, 'tool', attempt)),
  ]
}

function askOf(asked: TurnAsk, kind: AskKind, attempt: number): Ask {
  const { id, toolCallId = null, toolName = null, expiresAt, ...of } = asked
  const spent = of.budget === undefined ? null : { what: of.budget, used: of.used ?? 0, max: of.max ?? 0 }
  return { kind, id: id ?? toolCallId ?? '', attempt, toolCallId, toolName, expiresAt, spent }
}

const kindOf = ({ kind }: TurnAsk): AskKind => (kind === 'uncertain' || kind === 'budget' ? kind : 'approval')

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
