/** What the signed-in user has used: totals, a chart by day, and tables by model, chat and day. */
import type { ReactNode } from 'react'
import { AlertIcon, ChartIcon, PlusIcon, ReloadIcon } from './icons.tsx'
import { changeUsageRange, usageRanges } from './place.ts'
import { useIsShown } from './shown.ts'
import { type Shown, tokensOf, type Usage, useUsage } from './usage.ts'
import { UsageChart } from './usage-chart.tsx'
import { dayWords, rangeWords, whenWords } from './usage-days.ts'
import { NotLoaded, type NotLoadedProps, type UsageProps } from './usage-place.tsx'
import { DaysTable, ModelsTable, SessionsTable } from './usage-tables.tsx'
import { costWords, countWords, manyWords, shortWords, usedWords } from './usage-words.ts'
import './usage.css'

export default function UsagePage({ range, chats, onOlder, onNew }: UsageProps) {
  const { shown, problem, isBusy, look } = useUsage(range, useIsShown())
  return (
    <div className="usage">
      <div className="usage-column">
        <fieldset className="usage-ranges">
          <legend className="sr-only">Usage of</legend>
          {usageRanges.map((each) => (
            <label key={each}>
              <input type="radio" name="range" checked={each === range} onChange={() => changeUsageRange(each)} />
              <span>
                <bdi>{rangeWords[each]}</bdi>
              </span>
            </label>
          ))}
        </fieldset>
        <p className="sr-only" role="status">
          {shown !== null && shown.range === range && statusOf(shown)}
        </p>
        {problem !== null && (shown === null || shown.range !== range) ? (
          <NotLoaded why={problem} isBusy={isBusy} onRetry={look} />
        ) : shown === null ? (
          <p className="is-late text-mute">What you used is being counted…</p>
        ) : (
          <div className="usage-shown" aria-busy={isBusy} data-range={shown.range}>
            {problem !== null && <NotNow why={problem} isBusy={isBusy} onRetry={look} />}
            {isNothing(shown) ? (
              <Empty when={whenWords[shown.range]} onNew={onNew} />
            ) : (
              <>
                <Totals {...shown.usage} />
                <Chart {...shown} />
                <ModelsTable parts={shown.usage.models} />
                <SessionsTable key={shown.range} parts={shown.usage.sessions} chats={chats} onOlder={onOlder} />
                <DaysTable parts={shown.usage.days} />
              </>
            )}
          </div>
        )}
      </div>
    </div>
  )
}

const isNothing = ({ usage }: Shown) => usage.days.length === 0

const statusOf = (shown: Shown) =>
  isNothing(shown)
    ? `Nothing was used ${whenWords[shown.range]}.`
    : `Used ${whenWords[shown.range]}: ${usedWords(shown.usage.total)}.`

const Empty = ({ when, onNew }: { when: string; onNew(): void }) => (
  <div className="usage-empty">
    <ChartIcon />
    <h2>Nothing was used {when}.</h2>
    <p>What each reply takes is counted as it is written, and shown here.</p>
    <button type="button" className="small-button" onClick={onNew}>
      <PlusIcon /> New chat
    </button>
  </div>
)

const NotNow = ({ why, isBusy, onRetry }: NotLoadedProps) => (
  <div className="usage-problem">
    <p className="failure" role="alert">
      <AlertIcon /> <span>These figures are from before. {why}</span>
    </p>
    <button type="button" className="small-button" aria-disabled={isBusy} onClick={onRetry}>
      <ReloadIcon /> Retry
    </button>
  </div>
)

function Totals({ total, sessions }: Usage) {
  const { messages, replies, attempts, inputTokens, outputTokens, cost, isCostPartial, estimated } = total
  return (
    <section aria-label="In all">
      <dl className="usage-totals">
        <Total
          name="Messages"
          figure={countWords(messages)}
          note={`in ${manyWords(sessions.length, 'chat', 'chats')}`}
        />
        <Total name="Replies" figure={countWords(replies)} note={manyWords(attempts, 'attempt', 'attempts')} />
        <Total
          name="Tokens"
          figure={countWords(tokensOf(total))}
          note={`${shortWords(inputTokens)} in · ${shortWords(outputTokens)} out`}
        />
        <Total
          name="Cost"
          figure={costWords(total)}
          note={cost === null ? 'no price is known' : isCostPartial ? 'some prices unknown' : 'by the app’s prices'}
        />
      </dl>
      {estimated > 0 && (
        <p className="usage-note">
          Partly estimated: what {manyWords(estimated, 'call', 'calls')} of the model used was not reported.
        </p>
      )}
    </section>
  )
}

const Total = ({ name, figure, note }: { name: string; figure: string; note: string }) => (
  <div>
    <dt>{name}</dt>
    <dd>{figure}</dd>
    <dd className="usage-total-note">
      <bdi>{note}</bdi>
    </dd>
  </div>
)

const Section = ({ title, aside, children }: { title: string; aside?: ReactNode; children: ReactNode }) => (
  <section className="usage-card">
    <div className="usage-head">
      <h2>{title}</h2>
      {aside}
    </div>
    {children}
  </section>
)

function Chart({ days, usage }: Shown) {
  const most = usage.days.reduce((a, b) => (tokensOf(b) > tokensOf(a) ? b : a))
  const without = days.length - usage.days.length
  return (
    <Section
      title="Tokens by day"
      aside={
        <p className="usage-legend" aria-hidden="true">
          <span className="is-input">Input</span>
          <span className="is-output">Output</span>
        </p>
      }
    >
      <p id="usage-sentence" className="sr-only">
        A chart of {days.length} days, from {dayWords(days[0]!)} to {dayWords(days.at(-1)!)}. Most were used on{' '}
        {dayWords(most.key)}: {countWords(tokensOf(most))}. {without > 0 && `On ${without} of the days none. `}
        The arrow keys go from day to day; the table of days says the same.
      </p>
      <UsageChart days={days} used={usage.days} />
    </Section>
  )
}
