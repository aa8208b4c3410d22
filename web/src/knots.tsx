/** A turn's life, drawn: in the panel, and below any reply that is asked what happened to it. */
import { type CSSProperties, useEffect, useRef } from 'react'
import { type Absence, type Life, type Step, type StepKind, stepsOf } from './timeline.ts'
import { momentOf, useNow } from './times.ts'

type TimelineProps = {
  life: Life
  absences: readonly Absence[]
  clockAheadMs: number
  className: string
  label: string
}

/** Each step a knot on a rope; the rope between two is longer the more time passed. The picture is its own list. */
export function Timeline({ life, absences, clockAheadMs, className, label }: TimelineProps) {
  const isRunning = life.isOpen
  const now = useNow(100, isRunning) - clockAheadMs
  const steps = stepsOf(life, absences)
  const origin = steps[0]?.at ?? 0
  const list = useRef<HTMLOListElement>(null)
  // Where it lies on its side, its end is what is looked for.
  // biome-ignore lint/correctness/useExhaustiveDependencies: it grows by a step
  useEffect(() => {
    const toEnd = () => list.current?.scrollTo({ left: list.current.scrollWidth })
    toEnd()
    window.addEventListener('resize', toEnd)
    return () => window.removeEventListener('resize', toEnd)
  }, [steps.length, isRunning])
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: on a phone it scrolls, and what scrolls must be reachable by keyboard
    <ol ref={list} className={className} aria-label={label} tabIndex={0}>
      {steps.map((step, at) => (
        <Knot
          // biome-ignore lint/suspicious/noArrayIndexKey: steps are only ever added at the end, or become another kind
          key={at}
          step={step}
          origin={origin}
          until={steps[at + 1]?.at ?? (isRunning ? now : null)}
          isLast={at === steps.length - 1}
          isRunning={isRunning}
        />
      ))}
      {isRunning && (
        <li className="knot is-now" aria-hidden="true">
          <span className="knot-mark" />
          <span className="knot-label">now</span>
          <span className="knot-time">{sinceOf(now, origin)}</span>
        </li>
      )}
    </ol>
  )
}

type KnotProps = { step: Step; origin: number; until: number | null; isLast: boolean; isRunning: boolean }

function Knot({ step, origin, until, isLast, isRunning }: KnotProps) {
  const seconds = step.at !== null && until !== null ? Math.max(0, (until - step.at) / 1000) : 0
  const isRope = !isLast || isRunning
  return (
    <li
      className={`knot is-${step.kind}${isRope ? ' has-rope' : ''}${isLast && isRunning ? ' is-running' : ''}`}
      style={{ '--rope': Math.min(4, Math.sqrt(seconds)) } as CSSProperties}
    >
      <span className="knot-mark">
        <KnotSign kind={step.kind} />
      </span>
      <span className="knot-label">{step.label}</span>
      <span className="knot-time" title={step.at === null ? undefined : momentOf(step.at)}>
        {step.at === null ? '' : sinceOf(step.at, origin)}
      </span>
      {step.note && <span className="knot-note">{step.note}</span>}
    </li>
  )
}

const signs: { [kind in StepKind]?: string } = {
  complete: 'M4.5 8.3l2.4 2.4 4.6-5',
  killed: 'M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6',
  failed: 'M8 4.6v4M8 11.3v.01',
  ended: 'M8 4.6v4M8 11.3v.01',
  asked: 'M6.6 5.2v5.6M9.4 5.2v5.6',
  answered: 'M4.5 8.3l2.4 2.4 4.6-5',
  lost: 'M5 8h1M10 8h1',
  away: 'M5 8h1M10 8h1',
  stopped: 'M6 6h4v4H6z',
}

function KnotSign({ kind }: { kind: StepKind }) {
  const sign = signs[kind]
  return (
    <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
      <circle cx="8" cy="8" r={sign ? 7.25 : kind === 'attempt' ? 5 : 3.5} className="knot-ring" />
      {sign && <path d={sign} className="knot-sign" />}
    </svg>
  )
}

function sinceOf(at: number, origin: number): string {
  const ms = Math.max(0, at - origin)
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`
}
