/** A reply: what it says and asks, where it stands, and what may be done with it. */
import { type Part, type Turn, textOf } from 'holdfast/client'
import { memo, type ReactNode } from 'react'
import { type Ask, asksOf, waitWords } from './asks.ts'
import { Branches } from './branches.tsx'
import { CopyButton } from './code-block.tsx'
import { useCommand } from './commands.ts'
import { FileList } from './file-list.tsx'
import { WhatHappened } from './happened.tsx'
import { AlertIcon, CheckIcon, ReloadIcon } from './icons.tsx'
import { OnlyYou } from './own-message.tsx'
import { isPrivate, useRights } from './people.ts'
import type { Failure } from './possible.ts'
import { Refused } from './refused.tsx'
import { ReplyText } from './reply-text.tsx'
import { isSame, type Shared } from './shared.ts'
import { Sources } from './sources.tsx'
import { clockOf, untilOf, useNow } from './times.ts'
import { type AnswerTo, Question, ToolCall } from './tool-call.tsx'
import { type CallPart, isCall } from './tool-parts.ts'
import { retryAtOf } from './turns.ts'

type ReplyProps = Shared & {
  /** Its own, while it has no outcome. */
  turn: Turn | undefined
  clockAheadMs: number
}

export const Reply = memo(({ message, turn, commands, clockAheadMs, onDone, onSelect, ...props }: ReplyProps) => {
  const can = useRights(props.can, true)
  const { isBusy: isGiving, refusal, give } = useCommand()
  const text = textOf(message.parts)
  const { status } = message
  const isOpen = status === 'pending' || status === 'streaming'
  /** Its message says that it waits behind another. */
  const isWaiting = status === 'pending' && !can.isUnderWay && can.place !== null && can.place > 0
  if (isWaiting && !can.switch) return null
  const asks = turn ? asksOf(turn) : noAsks
  const reasoning = message.parts.filter(({ type, text: said }) => type === 'reasoning' && said)
  const run = async (ask: () => Promise<unknown>) => {
    if (!isGiving && (await give(ask))) onDone()
  }
  const retry = (
    <button
      type="button"
      className="small-button"
      aria-disabled={isGiving}
      onClick={() => void run(() => commands.retry(message))}
    >
      <ReloadIcon /> Retry
    </button>
  )
  return (
    <article className="reply" aria-label="Reply" aria-busy={isOpen} data-status={status} data-reply={message.id}>
      {reasoning.length > 0 && (
        <details className="reasoning">
          <summary>Thoughts</summary>
          <p className="whitespace-pre-wrap">{reasoning.map((part) => String(part.text)).join('\n\n')}</p>
        </details>
      )}
      <Said
        message={message}
        asks={asks}
        isAnswering={isGiving}
        onAnswer={(ask, answer) =>
          void run(() => commands.answer(ask.id, { ...answer, turnId: turn?.id ?? '', attempt: ask.attempt }))
        }
      />
      <FileList parts={message.parts} />
      <Sources parts={message.parts} />
      {isOpen && !isWaiting && text === '' && !message.parts.some(isCall) && <Dots />}
      {status === 'failed' && (
        <Failed failure={can.failure} message={message} hasText={text !== ''}>
          {can.retry && retry}
        </Failed>
      )}
      <div className="status">
        {!isWaiting && <ReplyStatus message={message} turn={turn} hasText={text !== ''} clockAheadMs={clockAheadMs} />}
        {isPrivate(message) && <OnlyYou />}
        {!isOpen && text !== '' && <CopyButton text={text} label="Copy reply" />}
        {can.another && (
          <button
            type="button"
            className="quiet-button"
            aria-label="Another reply"
            title="Another reply"
            aria-disabled={isGiving}
            onClick={() => void run(() => commands.regenerate(message))}
          >
            <ReloadIcon />
          </button>
        )}
        {status === 'stopped' && can.retry && retry}
        {can.switch && (
          <Branches message={message} noun="reply" onSelect={(id, by) => void give(() => onSelect(id, by))} />
        )}
        {message.repliesTo !== null && <WhatHappened replyId={message.id} />}
      </div>
      <Refused refusal={refusal} />
    </article>
  )
}, isSame)

const noAsks: readonly Ask[] = []

type SaidProps = { message: Shared['message']; asks: readonly Ask[]; isAnswering: boolean; onAnswer: AnswerTo }

/** Texts and calls in the order in which they were written, and what is asked that is about no call of them. */
function Said({ message: { parts, status }, asks, isAnswering, onAnswer }: SaidProps) {
  const isOpen = status === 'pending' || status === 'streaming'
  const pieces = piecesOf(parts)
  const last = parts.findLastIndex(({ type }) => type === 'step-start')
  const asked = new Set(parts.slice(last + 1).map(({ toolCallId }) => toolCallId))
  return (
    <>
      {pieces.map((piece, at) => {
        const key = `${at}`
        if (Array.isArray(piece)) {
          const text = textOf(piece)
          return text === '' ? null : (
            <ReplyText key={key} text={text} isStreaming={isOpen && at === pieces.length - 1} />
          )
        }
        const isOfLastStep = parts.indexOf(piece) > last
        const ask = isOfLastStep ? asks.find(({ toolCallId }) => toolCallId === piece.toolCallId) : undefined
        return <ToolCall key={key} part={piece} {...{ isOpen, ask, isAnswering, onAnswer }} />
      })}
      {asks
        .filter(({ toolCallId }) => !asked.has(toolCallId))
        .map((ask) => (
          <section key={ask.id} className="tool-call is-asking is-asked" aria-label="Question">
            <Question {...{ ask, isAnswering, onAnswer }} />
          </section>
        ))}
    </>
  )
}

/** A call by itself, and what stands between two of them together. */
function piecesOf(parts: readonly Part[]): (Part[] | CallPart)[] {
  const pieces: (Part[] | CallPart)[] = []
  for (const part of parts) {
    const last = pieces.at(-1)
    if (isCall(part)) pieces.push(part)
    else if (Array.isArray(last)) last.push(part)
    else pieces.push([part])
  }
  return pieces
}

/** They are drawn wherever the server says that a reply is owed: after a reload, on another device, in a new tab. */
const Dots = () => (
  <p className="dots" role="img" aria-label="A reply is on its way">
    <span />
    <span />
    <span />
  </p>
)

type StatusProps = Pick<ReplyProps, 'message' | 'turn' | 'clockAheadMs'> & { hasText: boolean }

function ReplyStatus({ message, turn, hasText, clockAheadMs }: StatusProps) {
  const retryAt = turn ? retryAtOf(turn) : null
  const { status, createdAt, model } = message
  const asks = turn ? asksOf(turn) : noAsks
  if (asks.length > 0) return <Waits asks={asks} />
  if (retryAt !== null) return <Again atMs={Date.parse(retryAt) + clockAheadMs} attempt={turn?.attempt ?? 0} />
  const attempt = turn && turn.attempt > 1 ? `, attempt ${turn.attempt}` : ''
  switch (status) {
    case 'pending':
      return <span>Pending{attempt}</span>
    case 'streaming':
      return <span className="text-kelp">Streaming{attempt}</span>
    case 'stopped':
      return <span>{hasText ? 'Stopped. What was written is kept.' : 'Stopped before anything was written.'}</span>
    case 'failed':
      return null
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

function Waits({ asks }: { asks: readonly Ask[] }) {
  const first = asks.map(({ expiresAt }) => expiresAt).sort()[0] ?? ''
  return (
    <span className="text-amber">
      {waitWords(asks)} until <time dateTime={first}>{untilOf(first)}</time>
    </span>
  )
}

function Again({ atMs, attempt }: { atMs: number; attempt: number }) {
  const now = useNow(250, true)
  const seconds = Math.ceil((atMs - now) / 1000)
  return (
    <span className="text-amber">
      {/* One that was handed over is due at once: it did not fail. */}
      Attempt {attempt} {seconds > 0 ? `failed, again in ${seconds} s` : 'ended, the next one begins'}
    </span>
  )
}

type FailedProps = { failure: Failure | null; message: Shared['message']; hasText: boolean; children: ReactNode }

function Failed({ failure, message, hasText, children }: FailedProps) {
  const waitMs = failure?.retryAfterMs
  const from = waitMs && new Date(Date.parse(message.updatedAt) + waitMs).toISOString()
  return (
    <div className="failure" role="note">
      <AlertIcon />
      <div className="flex-1">
        <p className="font-medium">{hasText ? 'The reply broke off.' : 'There is no reply to this.'}</p>
        <p className="failure-detail">
          {failure?.error ?? 'It failed.'} Your message is kept.
          {from && ` The model asks to be left alone until ${clockOf(from)}.`}
        </p>
        {children}
      </div>
    </div>
  )
}
