import { useCallback, useEffect, useState } from 'react'
import { ConversationPage } from './conversation.tsx'
import { goTo, goToNew, restorePlace, usePlace } from './place.ts'
import { type DemoInfo, demoInfo } from './session.ts'
import { useSessions } from './sessions.ts'
import { Sidebar } from './sidebar.tsx'
import { unsent } from './unsent.ts'

restorePlace()

export function App() {
  const { sessionId, isNew } = usePlace()
  const [demo, setDemo] = useState<DemoInfo | null>(null)
  const { sessions, loadOlder, refresh } = useSessions()
  const [isMenuOpen, setMenuOpen] = useState(false)

  useEffect(() => {
    void demoInfo().then((answer) => answer.ok && setDemo(answer.value))
    unsent.resume()
    window.addEventListener('online', unsent.resume)
    window.addEventListener('focus', unsent.resume)
    return () => {
      window.removeEventListener('online', unsent.resume)
      window.removeEventListener('focus', unsent.resume)
    }
  }, [])

  const close = useCallback(() => setMenuOpen(false), [])
  return (
    <div className="app">
      <Sidebar
        sessions={sessions}
        currentId={sessionId}
        isOpen={isMenuOpen}
        onClose={close}
        onOlder={loadOlder}
        onChanged={refresh}
        onNew={() => {
          goToNew()
          close()
        }}
        onOpen={(id) => {
          goTo(id)
          close()
        }}
        onDeleted={(id) => {
          if (id === sessionId) goToNew()
          void refresh()
        }}
      />
      <ConversationPage
        key={sessionId}
        sessionId={sessionId}
        isNew={isNew}
        demo={demo}
        isCovered={isMenuOpen}
        title={sessions.find(({ id }) => id === sessionId)?.title ?? null}
        onMenu={() => setMenuOpen(true)}
        onChanged={refresh}
      />
    </div>
  )
}
