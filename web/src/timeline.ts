/** A turn's life as steps to be drawn: the server's events, and the gaps in which this page could not reach it. */
import { outcomes, type TurnEvent, type TurnView } from './view.ts'

/** Server time in ms; `to` is null while it lasts. `cut` and `killed`: by the page itself, the connection or the server. */
export type Absence = { from: number; to: number | null; reason: 'cut' | 'killed' | 'lost' }

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

export function stepsOf(turn: TurnView, absences: readonly Absence[]): Step[] {
  const steps: Step[] = []
  let gaps = absences
  /** Of the attempt that is running: when it began. */
  let since: number | null = null
  // Of its latest round.
  const first = turn.events.findLastIndex(({ type }) => type === 'turn.queued')
  for (const event of turn.events.slice(Math.max(0, first))) {
    const at = Date.parse(event.at)
    const begun = since ?? Number.POSITIVE_INFINITY
    const passed = gaps.filter(({ from }) => from >= begun && from <= at)
    gaps = gaps.filter((gap) => !passed.includes(gap))
    const wasKilled = since !== null && (event.type === 'attempt.started' || event.reason === 'crashed')
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

function stepsOfEvent({ type, attempt, reason, code, approved }: TurnEvent, at: number): Step[] {
  const outcome = outcomes[type]
  if (outcome) return [{ kind: outcome, label: outcomeLabels[outcome], at }]
  if (type === 'message.created') {
    return [
      { kind: 'stored', label: 'Stored', at },
      { kind: 'queued', label: 'Queued', at },
    ]
  }
  if (type === 'turn.queued') return [{ kind: 'queued', label: 'Queued', at }]
  if (type === 'attempt.started') return [{ kind: 'attempt', label: `Attempt ${attempt}`, at }]
  if (type === 'turn.waiting') return [{ kind: 'asked', label: 'Waits', at }]
  if (type === 'approval.answered') return [{ kind: 'answered', label: approved ? 'Approved' : 'Refused', at }]
  if (type !== 'attempt.ended') return []
  return [{ kind: 'ended', label: endings[reason ?? ''] ?? 'Ended', at, ...(code ? { note: code } : {}) }]
}
