/** What the signed-in user has used, as the server counts it (PROTOCOL.md, P210), summed for what the page shows. */
import { useCallback, useEffect, useRef, useState } from 'react'
import type { UsageRange } from './place.ts'
import { daysOf } from './usage-days.ts'

/**
 * `cost`: of what has a known price; null where nothing has. `isCostPartial`: there is more, of which nobody knows the price.
 * `estimated`: so many calls of the model whose figures were not reported.
 */
export type Figures = {
  messages: number
  replies: number
  attempts: number
  inputTokens: number
  outputTokens: number
  cost: number | null
  isCostPartial: boolean
  estimated: number
}

/** Of one day, model or chat. */
export type Part = Figures & { key: string }

/** Each in the order in which it is shown: days as they were, the others by how much they used. */
export type Usage = {
  total: Figures
  days: readonly Part[]
  models: readonly Part[]
  sessions: readonly Part[]
}

export const tokensOf = ({ inputTokens, outputTokens }: Figures) => inputTokens + outputTokens

type Row = Omit<Figures, 'cost' | 'isCostPartial'> & {
  /** A decimal number. Null: of some of it nobody knows the price. */
  cost: string | null
  day?: string
  model?: string | null
  sessionId?: string
}

const nothing: Figures = {
  ...{ messages: 0, replies: 0, attempts: 0, inputTokens: 0, outputTokens: 0 },
  ...{ cost: null, isCostPartial: false, estimated: 0 },
}

const add = (to: Figures, row: Row): Figures => ({
  messages: to.messages + row.messages,
  replies: to.replies + row.replies,
  attempts: to.attempts + row.attempts,
  inputTokens: to.inputTokens + row.inputTokens,
  outputTokens: to.outputTokens + row.outputTokens,
  cost: row.cost === null ? to.cost : (to.cost ?? 0) + Number(row.cost),
  isCostPartial: to.isCostPartial || row.cost === null,
  estimated: to.estimated + row.estimated,
})

function partsOf(rows: readonly Row[], keyOf: (row: Row) => string): Part[] {
  const parts = new Map<string, Part>()
  for (const row of rows) {
    const key = keyOf(row)
    parts.set(key, { ...add(parts.get(key) ?? nothing, row), key })
  }
  return [...parts.values()]
}

const byUse = (a: Part, b: Part) => tokensOf(b) - tokensOf(a)

/** The days and the models are of one answer: their sums are the same. */
async function readUsage(from: string, to: string, signal: AbortSignal): Promise<Usage> {
  const [daily, bySession] = await Promise.all([ask(from, to, 'day,model', signal), ask(from, to, 'session', signal)])
  return {
    total: daily.reduce(add, nothing),
    days: partsOf(daily, ({ day = '' }) => day).sort((a, b) => a.key.localeCompare(b.key)),
    models: partsOf(daily, ({ model }) => model ?? '').sort(byUse),
    sessions: partsOf(bySession, ({ sessionId = '' }) => sessionId).sort(byUse),
  }
}

const answerMs = 10_000

async function ask(from: string, to: string, by: string, signal: AbortSignal): Promise<Row[]> {
  const answer = await fetch(`/v1/usage?${new URLSearchParams({ from, to, by })}`, {
    headers: { accept: 'application/json' },
    signal: AbortSignal.any([signal, AbortSignal.timeout(answerMs)]),
  }).catch(() => null)
  // A guest who has not written anything is nobody, and has used nothing.
  if (answer?.status === 401) return []
  const said = (await answer?.json().catch(() => null)) as { data?: Row[]; detail?: string } | null | undefined
  if (answer?.ok === true && said?.data) return said.data
  throw new Error(said?.detail ?? 'The server does not answer. What you used is kept there.')
}

/** What is known of a range, and of which days that is. */
export type Shown = { range: UsageRange; days: readonly string[]; usage: Usage }

type UsageState = { shown: Shown | null; problem: string | null; isBusy: boolean }

/**
 * Asked for at once, when the range changes, and whenever somebody looks at the page again. What was shown stays until there
 * is an answer.
 */
export function useUsage(range: UsageRange, isLookedAt: boolean): UsageState & { look(): void } {
  const [state, setState] = useState<UsageState>({ shown: null, problem: null, isBusy: true })
  const asked = useRef<AbortController>(null)
  const look = useCallback(async () => {
    asked.current?.abort()
    const control = new AbortController()
    asked.current = control
    setState((last) => ({ ...last, isBusy: true }))
    const days = daysOf(range, Date.now())
    const next = await readUsage(days[0]!, days.at(-1)!, control.signal).then(
      (usage) => ({ shown: { range, days, usage }, problem: null }),
      (error: unknown) => ({ problem: error instanceof Error ? error.message : String(error) }),
    )
    if (!control.signal.aborted) setState((last) => ({ ...last, ...next, isBusy: false }))
  }, [range])
  useEffect(() => {
    if (isLookedAt) void look()
    return () => asked.current?.abort()
  }, [look, isLookedAt])
  return { ...state, look: () => void look() }
}
