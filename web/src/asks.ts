/** What a turn waits for people with, as the page shows and answers it. */
import type { Turn } from 'holdfast/client'
import { untilOf } from './times.ts'

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
  spent: Spent | null
}
type Spent = Extract<NonNullable<Turn['approvals']>[number], { kind: 'budget' }>
type Limit = Extract<Spent, { budget: 'limit' }>

export function asksOf({ state, attempt, approvals = [], toolCalls = [] }: Turn): readonly Ask[] {
  if (state !== 'waiting') return []
  return [
    ...approvals.map((asked): Ask => {
      const { kind, id, expiresAt } = asked
      if (asked.kind !== 'budget') {
        const { toolCallId, toolName } = asked
        return { kind, id, attempt, toolCallId, toolName, expiresAt, spent: null }
      }
      return { kind, id, attempt, toolCallId: null, toolName: null, expiresAt, spent: asked }
    }),
    ...toolCalls.map((asked): Ask => ({ kind: 'tool', id: asked.toolCallId, attempt, ...asked, spent: null })),
  ]
}
/** `yes` null: it is not this user's to say. `note`: what ends it without an answer here. */
export type Question = { title: string; yes: string | null; no: string; note: string | null }

export function questionOf(ask: Ask, isOwner = false): Question | null {
  if (ask.spent?.budget === 'limit') return limitQuestion(ask.spent, isOwner)
  const words = wordsOf(ask)
  return words && { ...words, note: null }
}

function wordsOf({ kind, toolName, spent }: Ask): Omit<Question, 'note'> | null {
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

/** Of a budget that the app has set: who may let it go on is not everybody. */
function limitQuestion({ used, max, per, every, measure, mayGoOn, renewsAt }: Limit, isOwner: boolean): Question {
  const whose = { turn: 'of this reply', session: 'of this chat', user: 'of who asked', tenant: 'of all' }[per]
  const amount = measure === 'tokens' ? `${used} tokens of ${max}` : `${used} of ${max}`
  const title = `The ${every === null ? '' : `${every}’s `}budget ${whose} is used up: ${amount}.`
  const mayAnswer = mayGoOn === 'member' || (mayGoOn === 'owner' && isOwner)
  const who = mayGoOn === 'owner' ? 'An owner of this chat' : 'Who runs this service'
  const notes = [
    mayAnswer ? '' : `${who} may let it go on.`,
    renewsAt === null ? '' : `It goes on by itself at ${untilOf(renewsAt)}.`,
  ].filter(Boolean)
  return {
    title: mayAnswer ? `${title} Let it go on?` : title,
    yes: mayAnswer ? 'Go on' : null,
    no: 'End it',
    note: notes.length === 0 ? null : notes.join(' '),
  }
}

function budgetTitle(spent: Ask['spent']): string {
  switch (spent?.budget) {
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
