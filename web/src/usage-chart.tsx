/**
 * Tokens by day. The drawing is for the eye; for everybody else it is a slider from day to day that tells each day's figures,
 * a sentence, and the table below it. Days go the way the page is read: the style sheet mirrors the drawing.
 */
import { type KeyboardEvent, type PointerEvent, useEffect, useRef, useState } from 'react'
import { type Part, tokensOf } from './usage.ts'
import { dateWords, dayWords, shortDayWords } from './usage-days.ts'
import { labelledDays, ticksOf } from './usage-scale.ts'
import { costWords, countWords, shortWords, usedWords } from './usage-words.ts'

type ChartProps = { days: readonly string[]; used: readonly Part[] }

const height = 232
const top = 10
const floor = height - 24
const gutter = 44
const labelWidth = 58
const tail = 18
const tipWidth = 172
const tipGap = 6

export function UsageChart({ days, used }: ChartProps) {
  const plot = useRef<HTMLDivElement>(null)
  const width = useWidth(plot)
  const [at, setAt] = useState<number | null>(null)
  const byDay = new Map(used.map((part) => [part.key, part]))
  const ticks = ticksOf(Math.max(0, ...used.map(tokensOf)))
  const most = ticks.at(-1)!
  const end = Math.max(gutter, width - tail)
  const band = (end - gutter) / days.length
  const y = (tokens: number) => floor - ((floor - top) * tokens) / most
  const middle = (index: number) => gutter + (index + 0.5) * band
  const last = days.findLastIndex((day) => byDay.has(day))
  const told = Math.min(days.length - 1, at ?? Math.max(0, last))
  const toldDay = days[told]!

  const onKey = (event: KeyboardEvent) => {
    if (event.key === 'Escape' && at !== null) {
      event.preventDefault()
      return setAt(null)
    }
    const to = dayAfterKey(event, told, days.length)
    if (to === null) return
    event.preventDefault()
    setAt(to)
  }
  const onPoint = ({ currentTarget, clientX }: PointerEvent) => {
    const { left, right } = currentTarget.getBoundingClientRect()
    const from = isRightToLeft(currentTarget) ? right - clientX : clientX - left
    const index = Math.floor((from - gutter) / band)
    setAt(index >= 0 && index < days.length ? index : null)
  }
  return (
    <div
      ref={plot}
      className="usage-plot"
      role="slider"
      tabIndex={0}
      aria-label="Tokens of a day"
      aria-describedby="usage-sentence"
      aria-valuemin={1}
      aria-valuemax={days.length}
      aria-valuenow={told + 1}
      aria-valuetext={`${dayWords(toldDay)}: ${wordsOf(byDay.get(toldDay))}`}
      onFocus={({ currentTarget }) => currentTarget.matches(':focus-visible') && setAt(told)}
      onBlur={() => setAt(null)}
      onKeyDown={onKey}
      onPointerDown={onPoint}
      onPointerMove={onPoint}
      onPointerLeave={({ currentTarget, pointerType }) => {
        if (pointerType === 'mouse' && !currentTarget.matches(':focus-visible')) setAt(null)
      }}
    >
      <svg width={width} height={height} aria-hidden="true">
        {at !== null && (
          <rect className="usage-band" x={gutter + told * band} y={top} width={band} height={floor - top} />
        )}
        {ticks.map((tick) => (
          <g key={tick}>
            <line className={tick === 0 ? 'usage-zero' : 'usage-grid'} x1={gutter} x2={end} y1={y(tick)} y2={y(tick)} />
            <text x={gutter - 8} y={y(tick)} dy="0.32em" textAnchor="end">
              {shortWords(tick)}
            </text>
          </g>
        ))}
        {days.map((day, index) => {
          const part = byDay.get(day)
          return part && tokensOf(part) > 0 && <Bar key={day} part={part} middle={middle(index)} band={band} y={y} />
        })}
        {labelledDays(days.length, end - gutter, labelWidth).map((index) => (
          <text key={days[index]} x={middle(index)} y={height - 6} textAnchor="middle">
            {shortDayWords(days[index]!)}
          </text>
        ))}
      </svg>
      {at !== null && <Tip day={toldDay} part={byDay.get(toldDay)} from={tipAt(middle(told), band, width)} />}
    </div>
  )
}

type BarProps = { part: Part; middle: number; band: number; y(tokens: number): number }

/** What was read, from the zero line, and what was written upon it. Of the smallest use there is something to be seen. */
function Bar({ part, middle, band, y }: BarProps) {
  const width = Math.min(30, Math.max(1.5, band * 0.66))
  const x = middle - width / 2
  const all = Math.max(2, floor - y(tokensOf(part)))
  const output = (all * part.outputTokens) / tokensOf(part)
  const input = all - output
  const gap = output > 4 && input > 4 ? 1.5 : 0
  return (
    <g>
      {input > 0 && <path className="usage-input" d={barPath(x, floor - input, width, input, output > 0 ? 0 : 3)} />}
      {output > 0 && <path className="usage-output" d={barPath(x, floor - all, width, output - gap, 3)} />}
    </g>
  )
}

/** Round at its upper corners, as far as it is high and wide enough. */
function barPath(x: number, y: number, width: number, height: number, radius: number): string {
  const r = Math.min(radius, width / 2, height)
  return `M${x} ${y + height}v${r - height}q0 ${-r} ${r} ${-r}h${width - 2 * r}q${r} 0 ${r} ${r}v${height - r}z`
}

/** Beside its day, towards where there is more room. */
const tipAt = (middle: number, band: number, width: number) =>
  middle < width / 2
    ? Math.min(width - tipWidth, middle + band / 2 + tipGap)
    : Math.max(0, middle - band / 2 - tipGap - tipWidth)

function Tip({ day, part, from }: { day: string; part: Part | undefined; from: number }) {
  return (
    <div className="usage-tip" style={{ insetInlineStart: from, width: tipWidth }} aria-hidden="true">
      <p>
        <bdi>{dateWords(day)}</bdi>
      </p>
      {part ? (
        <dl>
          <dt className="is-output">Output</dt>
          <dd>{countWords(part.outputTokens)}</dd>
          <dt className="is-input">Input</dt>
          <dd>{countWords(part.inputTokens)}</dd>
          <dt>Messages</dt>
          <dd>{countWords(part.messages)}</dd>
          {part.cost !== null && (
            <>
              <dt>Cost</dt>
              <dd>{costWords(part)}</dd>
            </>
          )}
        </dl>
      ) : (
        <p className="text-mute">Nothing used</p>
      )}
      {part && part.estimated > 0 && <p className="text-mute">Partly estimated</p>}
    </div>
  )
}

const wordsOf = (part: Part | undefined) => (part ? usedWords(part) : 'nothing used')

const isRightToLeft = (element: Element) => getComputedStyle(element).direction === 'rtl'

/** Null: the key means nothing here. */
function dayAfterKey({ key, currentTarget }: KeyboardEvent, from: number, count: number): number | null {
  const onward = isRightToLeft(currentTarget) ? -1 : 1
  const steps: { [key: string]: number } = {
    ...{ ArrowRight: onward, ArrowLeft: -onward, ArrowUp: 1, ArrowDown: -1 },
    ...{ PageUp: 7, PageDown: -7, Home: -count, End: count },
  }
  const step = steps[key]
  return step === undefined ? null : Math.max(0, Math.min(count - 1, from + step))
}

function useWidth(of: React.RefObject<HTMLElement | null>): number {
  const [width, setWidth] = useState(0)
  useEffect(() => {
    const element = of.current!
    const watcher = new ResizeObserver(() => setWidth(element.clientWidth))
    watcher.observe(element)
    return () => watcher.disconnect()
  }, [of])
  return width
}
