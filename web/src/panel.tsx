import { type ReactNode, useState } from 'react'
import { type DemoInfo, isDemoModel } from './demo.ts'
import { BoltIcon, CutIcon, ReloadIcon } from './icons.tsx'
import { Timeline } from './knots.tsx'
import type { Absence, Life } from './timeline.ts'

type PanelProps = {
  demo: DemoInfo
  isCovered: boolean
  life: Life | undefined
  absences: readonly Absence[]
  clockAheadMs: number
  onCut(): void
  onKill(): Promise<void>
}

/** For trying what the server promises, and for seeing it keep it. */
export function Panel({ demo, isCovered, life, absences, clockAheadMs, onCut, onKill }: PanelProps) {
  const [isKilling, setKilling] = useState(false)
  const kill = async () => {
    setKilling(true)
    await onKill()
    setKilling(false)
  }
  return (
    <aside className="panel" aria-label="Try it" inert={isCovered}>
      <h2 className="panel-title">Try to lose the reply</h2>
      <p className="panel-note">Send a message, and while the reply is being written:</p>
      <div className="panel-buttons">
        <TryButton onClick={() => location.reload()} icon={<ReloadIcon />} label="Reload" />
        <TryButton onClick={onCut} icon={<CutIcon />} label="Cut the connection" />
        <TryButton
          onClick={() => void kill()}
          icon={<BoltIcon />}
          label="Kill the server"
          isBusy={isKilling}
          isDanger
        />
      </div>
      {life ? (
        <Timeline
          life={life}
          absences={absences}
          clockAheadMs={clockAheadMs}
          className="timeline"
          label="What happened to the last message"
        />
      ) : (
        <p className="timeline-empty">The life of the next message is drawn here, step by step.</p>
      )}
      <p className="panel-hint">
        {isDemoModel(demo) ? (
          <>
            The demo model answers. Ask it for <q>slow</q>, <q>long</q>, <q>fail</q>, <q>fail once</q>,{' '}
            <q>roll the dice</q>, <q>send an email</q>.
          </>
        ) : (
          <>
            <q>{demo.model}</q> answers.
          </>
        )}
      </p>
      <dl className="panel-facts">
        <dt>Model</dt>
        <dd>{demo.model}</dd>
        <dt>Store</dt>
        <dd>{demo.store}</dd>
      </dl>
    </aside>
  )
}

type TryProps = { onClick(): void; icon: ReactNode; label: string; isBusy?: boolean; isDanger?: boolean }

const TryButton = ({ onClick, icon, label, isBusy = false, isDanger = false }: TryProps) => (
  <button
    type="button"
    className={isDanger ? 'try-button is-danger' : 'try-button'}
    onClick={isBusy ? undefined : onClick}
    aria-disabled={isBusy}
  >
    {icon}
    <span>{label}</span>
  </button>
)
