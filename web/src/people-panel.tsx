/** The people of a chat: who they are, what they may do, and who else is to come. */
import type { Member, PresentMember } from 'holdfast/client'
import { useActivity } from 'holdfast/react'
import { type ReactNode, useEffect, useId, useMemo, useRef, useState } from 'react'
import { Avatar, thereWords } from './avatar.tsx'
import { useCommand } from './commands.ts'
import { CloseIcon, Mark } from './icons.tsx'
import { Invites } from './invites.tsx'
import { type Membership, membershipOf } from './members.ts'
import { calledOf, roleNames } from './people.ts'
import { thereOf } from './people-button.tsx'
import { Refused } from './refused.tsx'

type PanelProps = {
  sessionId: string
  members: readonly Member[]
  present: readonly PresentMember[]
  me: string | null
  isDemo: boolean
  onClose(): void
  onLeft(): void
}

export function PeoplePanel({ sessionId, members, present, me, isDemo, onClose, onLeft }: PanelProps) {
  const dialog = useRef<HTMLDialogElement>(null)
  const close = useRef<HTMLButtonElement>(null)
  const titleId = useId()
  const membership = useMemo(() => membershipOf(sessionId, isDemo), [sessionId, isDemo])
  const activity = useActivity(sessionId)
  const assistant = activity.find((each) => 'assistant' in each)?.assistant
  const typing = new Set(activity.flatMap((each) => ('userId' in each ? [each.userId] : [])))
  const own = members.find(({ userId }) => userId === me)
  const isOwner = own?.role === 'owner'
  useEffect(() => dialog.current?.showModal(), [])
  return (
    <dialog
      ref={dialog}
      className="people"
      aria-labelledby={titleId}
      onClose={onClose}
      onClick={({ target, currentTarget }) => {
        if (target === currentTarget) currentTarget.close()
      }}
      // Here it closes what is open, and stops no reply.
      onKeyDown={(event) => event.stopPropagation()}
    >
      <div className="people-inside">
        <div className="people-head">
          <h2 id={titleId}>People in this chat</h2>
          <button
            ref={close}
            type="button"
            className="quiet-button"
            aria-label="Close"
            onClick={() => dialog.current?.close()}
          >
            <CloseIcon />
          </button>
        </div>
        <ul className="people-list" aria-label="Members">
          {members.map((member) => (
            <PersonRow
              key={member.userId}
              member={member}
              isMe={member.userId === me}
              isOwner={isOwner}
              there={member.userId === me ? null : thereOf(present, member.userId)}
              isTyping={typing.has(member.userId)}
              membership={membership}
              onDone={() => close.current?.focus()}
            />
          ))}
          <li className="person">
            <span className="avatar is-assistant">
              <Mark />
            </span>
            <span className="person-name">
              <span>Assistant</span>
              <span className="person-state">{assistant === undefined ? 'answers everybody' : `${assistant}…`}</span>
            </span>
          </li>
        </ul>
        {isOwner ? (
          <Invites membership={membership} members={members} />
        ) : (
          <p className="people-note">An owner of this chat can invite others.</p>
        )}
        {own !== undefined && <Mute membership={membership} />}
        {own !== undefined && members.length > 1 && (
          <Leave
            onLeave={async () => {
              await membership.remove(own.userId)
              onLeft()
            }}
          />
        )}
      </div>
    </dialog>
  )
}

type RowProps = {
  member: Member
  isMe: boolean
  /** Who looks. */
  isOwner: boolean
  there: keyof typeof thereWords | null
  isTyping: boolean
  membership: Membership
  /** What had the keyboard is gone. */
  onDone(): void
}

function PersonRow({ member: { userId, role }, isMe, isOwner, there, isTyping, membership, onDone }: RowProps) {
  const { isBusy, refusal, give } = useCommand()
  const [isAsking, setAsking] = useState(false)
  const remove = useRef<HTMLButtonElement>(null)
  const name = calledOf(userId)
  return (
    <li className="person">
      <Avatar userId={userId} there={there} />
      <span className="person-name">
        <bdi>
          {name}
          {isMe && <span className="text-mute"> (you)</span>}
        </bdi>
        {there !== null && (
          <span className={isTyping ? 'person-state is-typing' : 'person-state'}>
            {isTyping ? 'writing…' : thereWords[there]}
          </span>
        )}
      </span>
      {isOwner ? (
        <select
          className="choice"
          aria-label={isMe ? 'Your role' : `Role of ${name}`}
          value={role}
          aria-busy={isBusy}
          onChange={({ currentTarget }) => void give(() => membership.change(userId, currentTarget.value))}
        >
          {Object.entries(roleNames).map(([value, words]) => (
            <option key={value} value={value}>
              {words}
            </option>
          ))}
        </select>
      ) : (
        <span className="person-role">{roleNames[role] ?? role}</span>
      )}
      {isOwner && !isMe && (
        <button
          ref={remove}
          type="button"
          className="text-button"
          aria-label={`Remove ${name}`}
          aria-expanded={isAsking}
          onClick={() => setAsking(!isAsking)}
        >
          Remove
        </button>
      )}
      {isAsking && (
        <Asked
          question={
            <>
              Remove <bdi>{name}</bdi>? They see nothing of this chat any more, and what they asked for is stopped.
              Their messages stay.
            </>
          }
          yes="Remove"
          no="Keep"
          isBusy={isBusy}
          onYes={() =>
            void give(() => membership.remove(userId)).then((isDone) => {
              if (isDone) onDone()
            })
          }
          onNo={() => {
            setAsking(false)
            remove.current?.focus()
          }}
        />
      )}
      <Refused refusal={refusal} />
    </li>
  )
}

/** Of this chat alone, on all of one's devices. Absent until the server has said how it is. */
function Mute({ membership }: { membership: Membership }) {
  const { isBusy, refusal, give } = useCommand()
  const [isMuted, setMuted] = useState<boolean | null>(null)
  const wordsId = useId()
  useEffect(() => {
    let isOver = false
    membership.isMuted().then(
      (now) => {
        if (!isOver) setMuted(now)
      },
      // It is not offered.
      () => undefined,
    )
    return () => {
      isOver = true
    }
  }, [membership])
  if (isMuted === null) return null
  const turn = () =>
    give(async () => {
      await membership.mute(!isMuted)
      setMuted(!isMuted)
    })
  return (
    <section className="people-part people-switch">
      <button
        type="button"
        role="switch"
        aria-checked={isMuted}
        aria-disabled={isBusy}
        aria-describedby={wordsId}
        onClick={() => void turn()}
      >
        <span>Mute this chat</span>
        <span className="notices-knob" aria-hidden="true" />
      </button>
      <p id={wordsId} role="status">
        {isMuted ? 'None of your devices is told of it.' : ''}
      </p>
      <Refused refusal={refusal} />
    </section>
  )
}

/** Everybody may; the only owner is told by the server why not. */
function Leave({ onLeave }: { onLeave(): Promise<void> }) {
  const { isBusy, refusal, give } = useCommand()
  const [isAsking, setAsking] = useState(false)
  const leave = useRef<HTMLButtonElement>(null)
  return (
    <section className="people-part">
      {!isAsking && (
        <button ref={leave} type="button" className="small-button" onClick={() => setAsking(true)}>
          Leave this chat
        </button>
      )}
      {isAsking && (
        <Asked
          question="Leave this chat? To come back you need a new invitation. What you have written stays with the others."
          yes="Leave"
          no="Stay"
          isBusy={isBusy}
          onYes={() => void give(onLeave)}
          onNo={() => {
            setAsking(false)
            requestAnimationFrame(() => leave.current?.focus())
          }}
        />
      )}
      <Refused refusal={refusal} />
    </section>
  )
}

type AskedProps = { question: ReactNode; yes: string; no: string; isBusy: boolean; onYes(): void; onNo(): void }

const Asked = ({ question, yes, no, isBusy, onYes, onNo }: AskedProps) => (
  <fieldset
    className="asked"
    onKeyDown={(event) => {
      if (event.key !== 'Escape') return
      // It is the question that is closed.
      event.preventDefault()
      onNo()
    }}
  >
    <p>{question}</p>
    <div className="asked-answers">
      <button
        type="button"
        className="small-button is-danger"
        aria-disabled={isBusy}
        onClick={isBusy ? undefined : onYes}
      >
        {yes}
      </button>
      <button
        type="button"
        className="small-button"
        // biome-ignore lint/a11y/noAutofocus: the question was just asked for, and its safe answer is this
        autoFocus
        onClick={onNo}
      >
        {no}
      </button>
    </div>
  </fieldset>
)
