/** Some messages one after the other: drawn whole where the reader is near, else their text alone. */
import { type ShownMessage, type Turn, textOf } from 'holdfast/client'
import { Fragment, memo } from 'react'
import { Comings } from './comings.tsx'
import type { Group } from './groups.ts'
import { OwnMessage } from './own-message.tsx'
import { useWriter } from './people.ts'
import type { Possible } from './possible.ts'
import { Reply } from './reply.tsx'
import type { Shared } from './shared.ts'

type GroupProps = Omit<Shared, 'message' | 'can'> & {
  group: Group
  isNear: boolean
  /** In px, where it is not near: as it was, or about. */
  height: number
  possible(message: ShownMessage): Possible
  line: readonly Turn[]
  clockAheadMs: number
  firstThatCame: string | null
  /** Of those that are not sent so far. */
  outlook: { isHeld: boolean; retryAt: string | null; isLimited: boolean }
}

export const MessageGroup = memo((props: GroupProps) => {
  const { group, isNear, height, possible, line, clockAheadMs, firstThatCame, outlook, ...rest } = props
  if (!isNear) {
    return (
      <div className="group is-far" data-group={group.key} style={{ height }}>
        {group.messages.map((message) => (
          <Far key={message.id} message={message} />
        ))}
      </div>
    )
  }
  return (
    <div className="group" data-group={group.key}>
      {group.messages.map((message) => {
        const can = possible(message)
        const turn = can.place === null ? undefined : line[can.place]
        const shared = { message, can, ...rest }
        return message.role === 'user' ? (
          <Fragment key={message.id}>
            <OwnMessage {...shared} turn={turn} {...(message.seq === 0 ? outlook : settled)} />
            <Comings after={message.id} />
          </Fragment>
        ) : (
          <Fragment key={message.id}>
            {message.id === firstThatCame && <p className="came">You were away: here is what came</p>}
            <Reply {...shared} turn={turn?.replyId === message.id ? turn : undefined} clockAheadMs={clockAheadMs} />
            <Comings after={message.id} />
          </Fragment>
        )
      })}
    </div>
  )
}, isSameGroup)

const settled = { isHeld: false, retryAt: null, isLimited: false }

/** Of one that is far only its text is shown, whatever else may be done with it. */
function isSameGroup(before: GroupProps, now: GroupProps): boolean {
  if (!before.isNear && !now.isNear) return before.group === now.group && before.height === now.height
  return (Object.keys(now) as (keyof GroupProps)[]).every((key) => key === 'height' || Object.is(before[key], now[key]))
}

/** As the message that it stands for, to who searches the page or has it read out. */
function Far({ message }: { message: ShownMessage }) {
  const { id, role, status, parts } = message
  const writer = useWriter(message)
  const text = textOf(parts)
  return role === 'user' ? (
    <article className={writer === null ? 'own' : 'own is-others'} aria-label={writer ?? 'You'} data-message={id}>
      <p className="own-text" dir="auto">
        {text}
      </p>
    </article>
  ) : (
    <article className="reply" aria-label="Reply" data-status={status} data-reply={id}>
      <div className="reply-text whitespace-pre-wrap" dir="auto">
        {text}
      </div>
    </article>
  )
}
