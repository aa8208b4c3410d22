/** Where what was used is shown. All but its heading is loaded when it is first opened: the page of chats is without it. */
import { type ComponentType, useEffect, useState } from 'react'
import type { Chat } from './chats.ts'
import { AlertIcon, MenuIcon, ReloadIcon } from './icons.tsx'
import type { UsageRange } from './place.ts'

export type UsageProps = {
  range: UsageRange
  chats: readonly Chat[]
  /** Null: all are in the list. */
  onOlder: (() => Promise<unknown>) | null
  onNew(): void
}

type PlaceProps = UsageProps & { isCovered: boolean; onMenu(): void }

export function UsagePlace({ isCovered, onMenu, ...props }: PlaceProps) {
  const { Page, hasFailed, isBusy, load } = usePage()
  useEffect(() => {
    document.title = 'Usage · Holdfast'
  }, [])
  return (
    <main className="main" inert={isCovered}>
      <header className="header">
        <button type="button" className="quiet-button md:hidden" onClick={onMenu} aria-label="Show chats">
          <MenuIcon />
        </button>
        <h1 className="min-w-0 flex-1 truncate text-[0.9375rem] font-semibold">Usage</h1>
      </header>
      {Page ? (
        <Page {...props} />
      ) : (
        hasFailed && (
          <div className="column pt-5">
            <NotLoaded why="This part of the page did not load." isBusy={isBusy} onRetry={load} />
          </div>
        )
      )}
    </main>
  )
}

export type NotLoadedProps = { why: string; isBusy: boolean; onRetry(): void }

/** Nothing can be shown, and it may be asked for again. */
export const NotLoaded = ({ why, isBusy, onRetry }: NotLoadedProps) => (
  <div>
    <p className="failure" role="alert">
      <AlertIcon /> <span>{why}</span>
    </p>
    <button type="button" className="small-button mt-3" aria-disabled={isBusy} onClick={onRetry}>
      <ReloadIcon /> Retry
    </button>
  </div>
)

let loaded: ComponentType<UsageProps> | null = null

function usePage() {
  const [Page, setPage] = useState<ComponentType<UsageProps> | null>(() => loaded)
  const [hasFailed, setFailed] = useState(false)
  const [isBusy, setBusy] = useState(false)
  /** Until it is there the button that asks for it stays, and keeps the keyboard. */
  const load = () => {
    setBusy(true)
    void import('./usage-page.tsx')
      .then(
        (module) => {
          loaded = module.default
          setPage(() => loaded)
        },
        () => setFailed(true),
      )
      .finally(() => setBusy(false))
  }
  // biome-ignore lint/correctness/useExhaustiveDependencies: once; after that whoever looks asks for it
  useEffect(() => {
    if (loaded === null) load()
  }, [])
  return { Page, hasFailed, isBusy, load }
}
