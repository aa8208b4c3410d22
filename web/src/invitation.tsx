/** What stands where the link of an invitation was opened: what it is, and one button. */
import { HoldfastError } from 'holdfast/client'
import { useChatSessions, useHoldfast } from 'holdfast/react'
import { useCallback, useEffect, useState } from 'react'
import { useCommand } from './commands.ts'
import { AlertIcon, MenuIcon, PeopleIcon, PlusIcon } from './icons.tsx'
import { acceptInvite, chatOfInvite } from './members.ts'
import { goInto } from './place.ts'
import { Refused } from './refused.tsx'

type InvitationProps = { token: string; isCovered: boolean; onMenu(): void; onNew(): void }

export function InvitationPage({ token, isCovered, onMenu, onNew }: InvitationProps) {
  const client = useHoldfast()
  const { isBusy, refusal, give } = useCommand()
  /** It is good for nobody any more, in the server's words. */
  const [over, setOver] = useState<string | null>(null)
  const { sessions } = useChatSessions()
  const known = chatOfInvite(token)
  const isIn = known !== null && sessions.some(({ id }) => id === known)
  // Who has been there since, and is there, is not asked.
  useEffect(() => {
    if (isIn) goInto(known)
  }, [isIn, known])
  useEffect(() => {
    document.title = 'Invitation · Holdfast'
  }, [])
  const join = useCallback(async () => {
    try {
      const sessionId = await acceptInvite(token)
      // Who was nobody is a guest now, and what was asked before may be refused still.
      client.wake()
      goInto(sessionId)
    } catch (error) {
      const isOver = error instanceof HoldfastError && (error.code === 'gone' || error.code === 'not_found')
      if (!isOver) throw error
      setOver(error.message)
    }
  }, [client, token])
  return (
    <main className="main" inert={isCovered}>
      <header className="header">
        <button type="button" className="quiet-button md:hidden" onClick={onMenu} aria-label="Show chats">
          <MenuIcon />
        </button>
        <h1 className="min-w-0 flex-1 truncate text-[0.9375rem] font-semibold">Invitation</h1>
      </header>
      <div className="welcome">
        <div className="column invitation">
          {over === null ? (
            <>
              <span className="invitation-sign">
                <PeopleIcon />
              </span>
              <h2>You are invited to a chat.</h2>
              <p>
                Several people and an assistant write in it. When you join you see all of it from its beginning, and the
                others see your name, when you are there, and what you have read.
              </p>
              <div className="invitation-answers">
                <button
                  type="button"
                  className="small-button is-main"
                  aria-disabled={isBusy}
                  onClick={() => void give(join)}
                >
                  Join
                </button>
                <button type="button" className="small-button" onClick={onNew}>
                  Not now
                </button>
              </div>
              <Refused refusal={refusal} />
            </>
          ) : (
            <>
              <span className="invitation-sign is-over">
                <AlertIcon />
              </span>
              <h2>This link opens no chat.</h2>
              <p role="alert">{over}</p>
              <p>Whoever sent it to you can make another one, in the chat’s list of people.</p>
              <div className="invitation-answers">
                <button type="button" className="small-button" onClick={onNew}>
                  <PlusIcon /> Begin a chat of your own
                </button>
              </div>
            </>
          )}
        </div>
      </div>
    </main>
  )
}
