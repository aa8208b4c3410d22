import { memo } from 'react'
import { CopyButton } from './code-block.tsx'
import { AlertIcon, CheckIcon, ClockIcon } from './icons.tsx'
import { ReplyText } from './reply-text.tsx'
import { clockOf, useNow } from './times.ts'
import { type Failure, type Message, type TurnView, textOf } from './view.ts'

type OwnProps = { text: string; state: 'sending' | 'sent'; at: string }

export const OwnMessage = memo(({ text, state, at }: OwnProps) => (
  <article className="own" aria-label="You">
    <p className="own-text" dir="auto">
      {text}
    </p>
    <p className="status">
      {state === 'sending' ? (
        <>
          <ClockIcon /> Sending…
        </>
      ) : (
        <>
          <CheckIcon /> Sent <time dateTime={at}>{clockOf(at)}</time>
        </>
      )}
    </p>
  </article>
))

type ReplyProps = {
  message: Message
  turn: TurnView | undefined
  /** Another reply is written first. */
  isBehind: boolean
  failure: Failure | null
  clockAheadMs: number
}

export const Reply = memo(({ message, turn, isBehind, failure, clockAheadMs }: ReplyProps) => {
  const text = textOf(message.parts)
  const { status } = message
  const isOpen = status === 'pending' || status === 'streaming'
  const reasoning = message.parts.filter(({ type, text: said }) => type === 'reasoning' && said)
  return (
    <article className="reply" aria-label="Reply" aria-busy={isOpen} data-status={status} data-reply={message.id}>
      {reasoning.length > 0 && (
        <details className="reasoning">
          <summary>Thoughts</summary>
          <p className="whitespace-pre-wrap">{reasoning.map((part) => part.text).join('\n\n')}</p>
        </details>
      )}
      {text !== '' && <ReplyText text={text} isStreaming={isOpen} />}
      {isOpen && text === '' && <Dots />}
      {status === 'failed' && <Failed failure={failure} hasText={text !== ''} />}
      <div className="status">
        <ReplyStatus message={message} turn={turn} isBehind={isBehind} clockAheadMs={clockAheadMs} />
        {!isOpen && text !== '' && <CopyButton text={text} label="Copy reply" />}
      </div>
    </article>
  )
})

/** They are drawn wherever the server says that a reply is owed: after a reload, on another device, in a new tab. */
const Dots = () => (
  <p className="dots" role="img" aria-label="A reply is on its way">
    <span />
    <span />
    <span />
  </p>
)

type StatusProps = Omit<ReplyProps, 'failure'>

function ReplyStatus({ message, turn, isBehind, clockAheadMs }: StatusProps) {
  const retryAt = turn?.retryAt ?? null
  const { status, createdAt, model } = message
  if (retryAt !== null) return <Again atMs={Date.parse(retryAt) + clockAheadMs} attempt={turn?.attempt ?? 0} />
  const attempt = turn && turn.attempt > 1 ? `, attempt ${turn.attempt}` : ''
  switch (status) {
    case 'pending':
      return <span>{isBehind ? 'Waits for its turn' : `Pending${attempt}`}</span>
    case 'streaming':
      return <span className="text-kelp">Streaming{attempt}</span>
    case 'stopped':
      return <span>Stopped. What was written is kept.</span>
    case 'failed':
      return <span>Failed</span>
    case 'complete':
      return (
        <>
          <CheckIcon />
          <span>
            Complete <time dateTime={createdAt}>{clockOf(createdAt)}</time>
            {model ? ` · ${model}` : ''}
          </span>
        </>
      )
  }
}

function Again({ atMs, attempt }: { atMs: number; attempt: number }) {
  const now = useNow(250, true)
  const seconds = Math.ceil((atMs - now) / 1000)
  return (
    <span className="text-amber">
      Attempt {attempt} failed, {seconds > 0 ? `again in ${seconds} s` : 'again now'}
    </span>
  )
}

function Failed({ failure, hasText }: { failure: Failure | null; hasText: boolean }) {
  return (
    <div className="failure" role="note">
      <AlertIcon />
      <div>
        <p className="font-medium">{hasText ? 'The reply broke off.' : 'There is no reply to this.'}</p>
        <p className="failure-detail">{failure?.error ?? 'It failed.'} Your message is kept.</p>
      </div>
    </div>
  )
}
