/** Who is in a chat, in its heading; more of it is behind it. */
import { type Member, type PresentMember, presenceOf } from 'holdfast/client'
import { useActivity, useHoldfast, usePresence } from 'holdfast/react'
import { useMemo, useState, useSyncExternalStore } from 'react'
import { Avatar, type There, thereWords } from './avatar.tsx'
import { PeopleIcon } from './icons.tsx'
import { calledOf } from './people.ts'
import { PeoplePanel } from './people-panel.tsx'

type PeopleProps = {
  sessionId: string
  members: readonly Member[]
  me: string | null
  isDemo: boolean
  /** Oneself. */
  onLeft(): void
}

const nobody: readonly PresentMember[] = []
const unsubscribed = () => () => undefined

/** As `usePresence`; while one is alone nobody is asked for. */
function useOthers(sessionId: string, isAlone: boolean): readonly PresentMember[] {
  const client = useHoldfast()
  const present = useMemo(() => (isAlone ? null : presenceOf(client, sessionId)), [client, sessionId, isAlone])
  return useSyncExternalStore(present?.subscribe ?? unsubscribed, present?.getSnapshot ?? (() => nobody))
}

export const thereOf = (present: readonly PresentMember[], userId: string): There =>
  present.find((each) => each.userId === userId)?.state ?? 'gone'

const drawnMax = 3
const order: { [there in There]: number } = { here: 0, away: 1, gone: 2 }

export function PeopleButton(props: PeopleProps) {
  const [isOpen, setOpen] = useState(false)
  const present = useOthers(props.sessionId, props.members.length < 2)
  const others = props.members
    .filter(({ userId }) => userId !== props.me)
    .map(({ userId }) => ({ userId, there: thereOf(present, userId) }))
    .sort((a, b) => order[a.there] - order[b.there])
  const label =
    others.length === 0
      ? 'People: only you'
      : `People: you, ${others.map(({ userId, there }) => `${calledOf(userId)} (${thereWords[there]})`).join(', ')}`
  return (
    <>
      <button
        type="button"
        className={others.length === 0 ? 'quiet-button' : 'people-button'}
        aria-haspopup="dialog"
        title={others.length === 0 ? 'People' : label}
        onClick={() => setOpen(true)}
      >
        <span className="sr-only">{label}</span>
        {others.length === 0 ? (
          <PeopleIcon />
        ) : (
          others.slice(0, drawnMax).map((other) => <Avatar key={other.userId} {...other} />)
        )}
        {others.length > drawnMax && (
          <span className="people-more" aria-hidden="true">
            +{others.length - drawnMax}
          </span>
        )}
      </button>
      {isOpen && <PeoplePanel {...props} present={present} onClose={() => setOpen(false)} />}
    </>
  )
}

const hereWords = (count: number, others: number) =>
  count === 0 ? 'nobody else' : count >= others ? 'all' : `${count + 1} of them`

/** Below the title of a chat of several: what the assistant does, else how many are there. */
export function InChat({ sessionId, members }: Pick<PeopleProps, 'sessionId' | 'members'>) {
  const assistant = useActivity(sessionId).find((each) => 'assistant' in each)
  const here = usePresence(sessionId).filter(({ state }) => state === 'here').length
  const words =
    assistant !== undefined
      ? `The assistant is ${assistant.assistant}…`
      : `${members.length} people, ${hereWords(here, members.length - 1)} here`
  return <p className="in-chat">{words}</p>
}
