/** Who is in a chat, in its heading; more of it is behind it. */
import type { Member, PresentMember } from 'holdfast/client'
import { useActivity, usePresence } from 'holdfast/react'
import { useState } from 'react'
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

/** Nobody is asked for who is there while one is alone. */
export const PeopleButton = (props: PeopleProps) =>
  props.members.length < 2 ? <Opener {...props} present={nobody} /> : <WithOthers {...props} />

const nobody: readonly PresentMember[] = []

const WithOthers = (props: PeopleProps) => <Opener {...props} present={usePresence(props.sessionId)} />

export const thereOf = (present: readonly PresentMember[], userId: string): There =>
  present.find((each) => each.userId === userId)?.state ?? 'gone'

const drawnMax = 3
const order: { [there in There]: number } = { here: 0, away: 1, gone: 2 }

function Opener({ present, ...props }: PeopleProps & { present: readonly PresentMember[] }) {
  const [isOpen, setOpen] = useState(false)
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
        aria-label={label}
        aria-haspopup="dialog"
        title={others.length === 0 ? 'People' : label}
        onClick={() => setOpen(true)}
      >
        {others.length === 0 ? (
          <PeopleIcon />
        ) : (
          others.slice(0, drawnMax).map((other) => <Avatar key={other.userId} {...other} />)
        )}
        {others.length > drawnMax && <span aria-hidden="true">+{others.length - drawnMax}</span>}
      </button>
      {isOpen && <PeoplePanel {...props} present={present} onClose={() => setOpen(false)} />}
    </>
  )
}

/** Below the title of a chat of several: what the assistant does, else how many are there. */
export function InChat({ sessionId, members }: Pick<PeopleProps, 'sessionId' | 'members'>) {
  const assistant = useActivity(sessionId).find((each) => 'assistant' in each)
  const here = usePresence(sessionId).filter(({ state }) => state === 'here').length
  const words =
    assistant !== undefined
      ? `The assistant is ${assistant.assistant}…`
      : `${members.length} people, ${here === 0 ? 'nobody else' : `${here + 1} of them`} here`
  return <p className="in-chat">{words}</p>
}
