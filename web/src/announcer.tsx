import { type Message, type Turn, textOf } from 'holdfast/client'
import { useEffect, useRef, useState } from 'react'
import { type Ask, asksOf, questionOf } from './asks.ts'
import { placeWords } from './own-message.tsx'
import { plainText } from './plain-text.ts'
import { retryAtOf } from './turns.ts'

type AnnouncerProps = {
  /** None before the server has answered. */
  messages: readonly Message[]
  /** The reply that is being written, or was last. */
  replyId: string | null
  line: readonly Turn[]
  clockAheadMs: number
  /** How often the text of a message was put back into the composer. */
  givenBack: number
}

/**
 * Reads a reply to a screen reader as it is written, without babble: each paragraph once, when it is finished, and the
 * last one with the outcome. The text on screen changes many times a second, so it is no live region itself.
 */
export function Announcer({ messages, replyId, line, clockAheadMs, givenBack }: AnnouncerProps) {
  const [said, setSaid] = useState<readonly { id: number; text: string }[]>([])
  /** Of the reply that is read. */
  const progress = useRef({ replyId: null as string | null, paragraphs: 0, ends: -2, next: 0 })
  /** Of each turn that waits: what was last said of it. */
  const waits = useRef<Map<string, string> | null>(null)
  const lastGivenBack = useRef(givenBack)

  useEffect(() => {
    const { current } = progress
    const lines: string[] = []
    if (messages.length > 0) {
      // What was there before the page came is not said, and who moves up in the line is not either.
      const said = waits.current
      waits.current = new Map(line.map((turn, place) => [turn.id, waitOf(turn, place)]))
      for (const [place, turn] of line.entries()) {
        const wait = waitOf(turn, place)
        if (said && wait !== said.get(turn.id)) lines.push(...wordsOf(turn, place, !said.has(turn.id), clockAheadMs))
      }
    }
    if (givenBack > lastGivenBack.current) lines.push('Its text is back in the field.')
    lastGivenBack.current = givenBack
    const read = (reply: Message) => {
      const text = textOf(reply.parts)
      const outcome = outcomeOf(reply, messages)
      // Most of what comes ends no paragraph.
      const ends = Math.max(text.lastIndexOf('\n\n'), text.lastIndexOf('\n```'))
      if (outcome === null && ends === current.ends && reply.id === current.replyId) return
      current.ends = ends
      const paragraphs = spokenParagraphs(text)
      const finished = outcome === null ? paragraphs.slice(0, -1) : paragraphs
      // A later attempt may begin again: then it is read from its beginning.
      if (finished.length < current.paragraphs) current.paragraphs = 0
      lines.push(...finished.slice(current.paragraphs).filter(Boolean))
      current.paragraphs = finished.length
      if (outcome === null) return
      current.replyId = null
      lines.push(outcome)
    }
    // To its end, before the one that waited behind it.
    const reading = messages.findLast(({ id }) => id === current.replyId)
    if (reading) read(reading)
    const reply = messages.findLast(({ id }) => id === replyId)
    // What was there before the page came is read when the reader goes there.
    if (reply && reply.id !== current.replyId && outcomeOf(reply, messages) === null) {
      current.replyId = reply.id
      current.paragraphs = 0
      current.ends = -2
      lines.push('A reply is on its way.')
      read(reply)
    }
    if (lines.length === 0) return
    const fresh = lines.map((text) => ({ id: current.next++, text }))
    setSaid((before) => [...before, ...fresh].slice(-linesMax))
  }, [messages, replyId, line, clockAheadMs, givenBack])

  return (
    <div className="sr-only" role="log" aria-label="New in this chat" aria-live="polite" aria-relevant="additions">
      {said.map(({ id, text: line }) => (
        <p key={id}>{line}</p>
      ))}
    </div>
  )
}

const linesMax = 12

const waitOf = (turn: Turn, place: number) =>
  retryAtOf(turn) ??
  (turn.state === 'waiting'
    ? asksOf(turn)
        .map(({ id }) => id)
        .join(' ')
    : place > 0
      ? 'queued'
      : 'begun')

function wordsOf(turn: Turn, place: number, isNew: boolean, clockAheadMs: number): string[] {
  const { attempt } = turn
  const [retryAt, asks] = [retryAtOf(turn), asksOf(turn)]
  const seconds = retryAt === null ? 0 : Math.ceil((Date.parse(retryAt) + clockAheadMs - Date.now()) / 1000)
  if (seconds > 0) return [`Attempt ${attempt} failed, again in ${seconds} s.`]
  if (asks.length > 0) return asks.map(questionWords)
  return isNew && place > 0 ? [`${placeWords(place)}.`] : []
}

function questionWords(ask: Ask): string {
  return questionOf(ask)?.title ?? `${ask.toolName} waits for a device.`
}

function outcomeOf({ status, repliesTo }: Message, messages: readonly Message[]): string | null {
  switch (status) {
    case 'pending':
    case 'streaming':
      return null
    case 'complete':
      return 'The reply is complete.'
    case 'stopped':
      return 'The reply was stopped.'
    case 'failed': {
      const why = messages.find(({ id }) => id === repliesTo)?.error?.error
      return why ? `The reply failed. ${why}` : 'The reply failed.'
    }
  }
}

/** With a word in place of code, which nobody wants read out. */
function spokenParagraphs(text: string): string[] {
  return text
    .replace(/^```[^\n]*\n[\s\S]*?(?:^```[^\n]*$|$(?![\s\S]))/gm, 'A block of code.\n\n')
    .split(/\n\s*\n/)
    .map(plainText)
    .filter((paragraph, at, all) => paragraph !== '' || at === all.length - 1)
}
