/** A turn's life as steps to be drawn: the server's events, and the gaps in which this page could not reach it. */
import type { EventFrame, Turn } from 'holdfast/client'

/** Server time in ms; `to` is null while it lasts. `cut` and `killed`: by the page itself, the connection or the server. */
export type Absence = { from: number; to: number | null; reason: 'cut' | 'killed' | 'lost' }

/** One round of a turn, as its events tell it. */
export type Life = { replyId: string; attempt: number; isOpen: boolean; events: readonly EventFrame[] }

/** `lives`: by reply, as each round has its own. `replies`: of each turn, the reply that it owes now. */
export type Lives = { lives: ReadonlyMap<string, Life>; replies: ReadonlyMap<string, string> }
export const noLives: Lives = { lives: new Map(), replies: new Map() }

/** `events`: of one session, in their order, those that follow from what `told` was made of; else from its beginning. */
export function livesOf(events: readonly EventFrame[], told = noLives): Lives {
  const lives = new Map(told.lives)
  const replies = new Map(told.replies)
  for (const event of events) {
    const { turnId, type, data } = event
    if (turnId === undefined) continue
    const turn = data.turn as Turn | undefined
    const before = replies.get(turnId)
    const replyId = turn?.replyId ?? before
    if (replyId === undefined) continue
    replies.set(turnId, replyId)
    const begun = { replyId, attempt: lives.get(before ?? replyId)?.attempt ?? 0, isOpen: true, events: [] }
    const known = type === 'turn.queued' ? begun : (lives.get(replyId) ?? begun)
    const attempt = type === 'attempt.started' ? Number(data.attempt) : known.attempt
    const isOpen = turn === undefined ? known.isOpen && !(type in outcomes) : true
    lives.set(replyId, { replyId, attempt, isOpen, events: [...known.events, event] })
  }
  return { lives, replies }
}

/** What ends a turn's round, and how. */
const outcomes: { [type: string]: 'complete' | 'failed' | 'stopped' } = {
  'message.ai_response': 'complete',
  'message.error': 'failed',
  'message.stopped': 'stopped',
}

export type StepKind =
  | 'stored'
  | 'queued'
  | 'attempt'
  | 'away'
  | 'lost'
  | 'killed'
  | 'ended'
  | 'asked'
  | 'answered'
  | 'complete'
  | 'failed'
  | 'stopped'
export type Step = {
  kind: StepKind
  label: string
  /** Server time in ms; null where nobody knows. */
  at: number | null
  note?: string
}

const outcomeLabels = { complete: 'Complete', failed: 'Failed', stopped: 'Stopped' }

const endings: { [reason: string]: string } = { error: 'Broke off', handover: 'Handed over' }

export function stepsOf({ events }: Life, absences: readonly Absence[]): Step[] {
  const steps: Step[] = []
  let gaps = absences
  /** Of the attempt that is running: when it began. */
  let since: number | null = null
  for (const event of events) {
    const at = Date.parse(event.at)
    const begun = since ?? Number.POSITIVE_INFINITY
    const passed = gaps.filter(({ from }) => from >= begun && from <= at)
    gaps = gaps.filter((gap) => !passed.includes(gap))
    const wasKilled = since !== null && (event.type === 'attempt.started' || event.data.reason === 'crashed')
    const lost = wasKilled ? passed.findLast(({ reason }) => reason !== 'cut') : undefined
    steps.push(...passed.filter((gap) => gap !== lost).map(away))
    if (wasKilled) steps.push(killed(lost))
    if (!wasKilled || event.type === 'attempt.started') steps.push(...stepsOfEvent(event, at))
    if (event.type === 'attempt.started') since = at
    else if (event.type === 'attempt.ended' || event.type === 'turn.waiting' || outcomes[event.type]) since = null
  }
  const running = since ?? Number.POSITIVE_INFINITY
  return [...steps, ...gaps.filter(({ from }) => from >= running).map(away)]
}

/** The log tells that an attempt's runner died when another takes over; this page saw when it went. */
const killed = (lost: Absence | undefined): Step => ({
  kind: 'killed',
  label: 'Killed',
  at: lost?.from ?? null,
  note: 'until its lease runs out',
})

function away(absence: Absence): Step {
  const { from, to, reason } = absence
  if (reason === 'killed') return killed(absence)
  if (to === null) return { kind: 'lost', label: reason === 'cut' ? 'Connection cut' : 'Connection lost', at: from }
  const note = `back after ${((to - from) / 1000).toFixed(1)} s`
  return { kind: 'away', label: reason === 'cut' ? 'Connection cut' : 'Connection lost', at: from, note }
}

function stepsOfEvent({ type, data }: EventFrame, at: number): Step[] {
  const outcome = outcomes[type]
  if (outcome) return [{ kind: outcome, label: outcomeLabels[outcome], at }]
  if (type === 'message.created') {
    return [
      { kind: 'stored', label: 'Stored', at },
      { kind: 'queued', label: 'Queued', at },
    ]
  }
  if (type === 'turn.queued') return [{ kind: 'queued', label: 'Queued', at }]
  if (type === 'attempt.started') return [{ kind: 'attempt', label: `Attempt ${Number(data.attempt)}`, at }]
  if (type === 'turn.waiting') return [{ kind: 'asked', label: 'Waits', at }]
  if (type === 'approval.answered') return [{ kind: 'answered', label: data.approved ? 'Approved' : 'Refused', at }]
  if (type !== 'attempt.ended') return []
  const { reason, code } = data as { reason?: string; code?: string }
  return [{ kind: 'ended', label: endings[reason ?? ''] ?? 'Ended', at, ...(code ? { note: code } : {}) }]
}
