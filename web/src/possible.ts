/**
 * What may be done with each message that is shown, as the server will answer it (PROTOCOL.md, Control). Decided here and
 * nowhere else: a command that is always refused is not offered, and one that helps is.
 *
 * The server knows two things more: how often a turn may be answered, and what is still to be written in branches that
 * are not shown. Where one of them matters it refuses what is offered here, and says why.
 */
import type { Message, SessionState, Turn } from 'holdfast/client'
import { hasBegun, isUnderWay, lineOf } from './turns.ts'

export type Failure = NonNullable<Message['error']>

export type Possible = {
  /** Its turn has no outcome yet: how many others are answered before it. */
  place: number | null
  /** It waits for none of them: its reply is being written, or waits for people. */
  isUnderWay: boolean
  /** People are asked: nothing is written until they have answered. */
  isAsking: boolean
  /** `in place`: nobody has begun to answer it. `beside`: the new text begins a branch, the old one stays. */
  edit: 'in place' | 'beside' | null
  /** To take it back: nobody has begun to answer it. */
  withdraw: boolean
  stop: boolean
  retry: boolean
  /** Another reply beside this one. */
  another: boolean
  /** It has alternatives, which may be shown at any time. */
  switch: boolean
  /** Why there is no reply: known of the latest round only. */
  failure: Failure | null
  /** It was taken into a reply before it, and has none of its own. */
  isSteered: boolean
}

const nothing: Possible = {
  place: null,
  isUnderWay: false,
  isAsking: false,
  edit: null,
  withdraw: false,
  stop: false,
  retry: false,
  another: false,
  switch: false,
  failure: null,
  isSteered: false,
}

/** Of what somebody else wrote the text is not one's own to change or to take back; a reader can do nothing. */
export function possibleOnOthers(can: Possible, mayWrite: boolean): Possible {
  const left = { ...can, edit: null, withdraw: false }
  return mayWrite ? left : { ...left, stop: false, retry: false, another: false, switch: false }
}

type Shown = Pick<SessionState, 'messages' | 'turns'>

/** For all messages that are shown. */
export function possibleIn({ messages, turns }: Shown): (message: Message) => Possible {
  const line = lineOf(turns, messages)
  const placeOf = new Map(line.map(({ messageId }, place) => [messageId, place]))
  const indexOf = new Map(messages.map(({ id }, index) => [id, index]))
  const lastOpen = messages.findLastIndex(({ id }) => placeOf.has(id))
  const answered = new Set(messages.map(({ repliesTo }) => repliesTo))
  return (message) => {
    const ownId = message.repliesTo ?? message.id
    const own = messages[indexOf.get(ownId) ?? -1]
    const place = placeOf.get(ownId) ?? null
    const turn = place === null ? undefined : line[place]
    const asked = {
      isUnderWay: turn !== undefined && isUnderWay(turn),
      isAsking: turn?.state === 'waiting',
    }
    const shared = { ...nothing, ...asked, place, switch: message.branch !== null }
    // Said by the assistant to nobody: it has no turn that could be answered again.
    if (message.role === 'assistant' && message.repliesTo === null) return shared
    // It, or something after it, is still to be answered: then nothing can be put beside it.
    const isBusy = place !== null || (indexOf.get(ownId) ?? indexOf.get(message.id) ?? 0) <= lastOpen
    return message.role === 'user'
      ? { ...shared, ...ofOwn(turn, isBusy, answered.has(message.id)) }
      : { ...shared, ...ofReply(message, own, turn, isBusy) }
  }
}

function ofOwn(turn: Turn | undefined, isBusy: boolean, hasReply: boolean): Partial<Possible> {
  const isUntouched = turn !== undefined && !hasBegun(turn) && turn.attempt === 0 && turn.round === 1
  const isSteered = turn === undefined && !hasReply
  return {
    edit: isUntouched ? 'in place' : isBusy || isSteered ? null : 'beside',
    withdraw: isUntouched,
    stop: turn !== undefined && !isUntouched,
    isSteered,
  }
}

function ofReply(
  { status, branch }: Message,
  own: Message | undefined,
  turn: Turn | undefined,
  isBusy: boolean,
): Partial<Possible> {
  // Of several replies the last is its turn's, the others are over.
  const isLatest = branch === null || branch.next === null
  const failure = status === 'failed' && isLatest ? (own?.error ?? null) : null
  const isOver = status !== 'pending' && status !== 'streaming'
  return {
    failure,
    // What was said after it stays, so that it does not matter whether that is still to be answered.
    retry: isLatest && turn === undefined && (status === 'stopped' || failure?.canRetry === true),
    another: isOver && !isBusy && (status === 'complete' || !isLatest),
  }
}
