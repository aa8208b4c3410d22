import { useChatSessions, useHoldfast, useUnsent } from 'holdfast/react'
import { useCallback, useEffect, useMemo, useState } from 'react'
import { chatsOf } from './chats.ts'
import { ConversationPage } from './conversation.tsx'
import { type DemoInfo, demoInfo } from './demo.ts'
import { useKeptFocus } from './focus.ts'
import { InvitationPage } from './invitation.tsx'
import { useClosed, useRegistered } from './notices.ts'
import { goTo, goToNew, restorePlace, usePlace } from './place.ts'
import { useRestWhenHidden } from './shown.ts'
import { Sidebar } from './sidebar.tsx'
import { UsagePlace } from './usage-place.tsx'

restorePlace()

export function App() {
  const { sessionId, isNew, invite, usage } = usePlace()
  const [demo, setDemo] = useState<DemoInfo | null>(null)
  const { phase, sessions, hasMore, error, loadMore } = useChatSessions()
  const { unsent } = useUnsent()
  const chats = useMemo(() => chatsOf(sessions, unsent), [sessions, unsent])
  const [isMenuOpen, setMenuOpen] = useState(false)
  useRestWhenHidden(useHoldfast())
  useKeptFocus()
  useRegistered(phase === 'ready')
  useClosed(sessions)
  useEffect(() => {
    void demoInfo().then(setDemo)
  }, [])

  const close = useCallback(() => setMenuOpen(false), [])
  return (
    <div className="app">
      <Sidebar
        chats={chats}
        currentId={sessionId}
        isUsage={usage !== null}
        isAwaited={phase === 'loading' && error === null}
        isOpen={isMenuOpen}
        onClose={close}
        onOlder={hasMore ? loadMore : null}
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
        }}
      />
      {usage !== null ? (
        <UsagePlace
          range={usage}
          chats={chats}
          onOlder={hasMore ? loadMore : null}
          isCovered={isMenuOpen}
          onMenu={() => setMenuOpen(true)}
          onNew={goToNew}
        />
      ) : invite === null ? (
        <ConversationPage
          key={sessionId}
          sessionId={sessionId}
          isNew={isNew}
          demo={demo}
          isCovered={isMenuOpen}
          title={sessions.find(({ id }) => id === sessionId)?.title ?? null}
          hasChats={chats.length > 0}
          onMenu={() => setMenuOpen(true)}
          onNew={goToNew}
        />
      ) : (
        <InvitationPage
          key={invite}
          token={invite}
          isCovered={isMenuOpen}
          onMenu={() => setMenuOpen(true)}
          onNew={goToNew}
        />
      )}
    </div>
  )
}
