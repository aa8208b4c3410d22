/**
 * One reply followed for `useChat`: the things of the session's log go in as they come, chunks for one client come out.
 * The server follows so for who has only the AI SDK's own transport, and our transport in the client itself.
 *
 * What is in the log already when a page comes (up to the first `caughtUp`) is told as missed: joined, and without what
 * was only of the moment. A page that was cut off and comes back by its cursor has not missed it in that sense: for it
 * the reply just goes on.
 *
 * A reply that waits for people ends its stream; when it is answered it goes on in another one, which begins with the
 * `turn.waiting` that the client has answered, and tells only what is new after that.
 */
import { type Budget, budgetSentence } from './asks.ts'
import type { Chunk, Part } from './chunk.ts'
import { type Failure, failureOf } from './errors.ts'
import type { Approval, Message } from './message.ts'
import { withCall } from './open-step.ts'
import type { SdkMajor } from './ui-chunks.ts'
import { createUiStream, writtenAgain } from './ui-stream.ts'

/** Of an event's data what says something of a reply. */
export type ReplyEventData = {
  kind?: string
  messageId?: string
  turn?: WaitingTurn
  part?: Part
  replyId?: string
  attempt?: number
  base?: Part[]
  message?: Message
  error?: string
  reason?: string
}
/** As much of a turn as says whether it waits, and for what. */
export type WaitingTurn = { state?: string; approvals?: readonly (Pick<Approval, 'kind'> & Partial<Budget>)[] }
/** The chunks of a reply without an outcome in a snapshot, after the parts of its message. */
export type OpenReply = { attempt: number; chunks: readonly Chunk[] }

export type UiFollower = {
  /** An event of the reply's turn. */
  event(type: string, data: ReplyEventData): Chunk[]
  /** Chunks of the reply's attempt that follow those before. */
  chunks(chunks: readonly Chunk[]): Chunk[]
  caughtUp(): Chunk[]
  /** How the reply stands as of a read, which need not lead on from what was told. `open`: of that same read. */
  stands(message: { error: Failure | null }, reply: Message, open?: OpenReply | WaitingTurn): Chunk[]
  /** Nothing follows. */
  readonly isOver: boolean
  /** It ended with an error because the reply waits beyond a budget: asked for again it goes on. */
  readonly isCutOff: boolean
}

export const hasEnded = ({ status }: Pick<Message, 'status'>): boolean =>
  status === 'complete' || status === 'failed' || status === 'stopped'

/** The client cannot be asked about a budget: it is told so as an error. Null: it is asked about something else. */
function budgetSaid({ approvals = [] }: WaitingTurn): string | null {
  const asked = approvals.find(({ kind }) => kind === 'budget')
  return asked === undefined ? null : budgetSentence(asked as Budget)
}

/**
 * `goesOn`: the client has been told the reply up to the `turn.waiting` which is the first event that goes in. `gave`: the
 * calls that it shows answered, because it answered them. What others answered it is told with what follows.
 */
export function createUiFollower(
  replyId: string,
  major: SdkMajor,
  { goesOn = false, gave = [] }: { goesOn?: boolean; gave?: readonly string[] | undefined } = {},
): UiFollower {
  const ui = createUiStream(major)
  /** What the client shows already, with its own answers. Null: nothing, or what came after it was told. */
  let shows: readonly Part[] | null = null
  let isToBeShown = goesOn
  /** It waits, as far as is known of what was missed. */
  let waits: { own: Message; turn: WaitingTurn } | null = null
  let attempt = 0
  /** What was stored before the client came, until all of it is here. Null: it is. */
  let missed: Chunk[] | null = []
  /** Of what was missed, the last attempt that began: those before it are not told, whose questions are answered by now. */
  let missedAttempt: { attempt: number; base: readonly Part[] } | null = null
  /** What was told of this attempt cannot be continued chunk by chunk: what comes next of its events stands for it. */
  let isSilent = false
  let isCutOff = false

  const tellMissed = (goesOn: boolean): Chunk[] => {
    const since = missedAttempt
    const begun = since === null ? [] : adopted(() => begin(since.attempt, since.base))
    const told = missed !== null && missed.length > 0 ? ui.chunks(missed, true) : []
    missed = goesOn ? [] : null
    missedAttempt = null
    return [...begun, ...told]
  }

  /** What asks and answers; told once it is known that nothing has come of it yet. */
  const wait = (own: Message, turn: WaitingTurn): Chunk[] => {
    if (isToBeShown) shows = own.parts
    isToBeShown = false
    if (missed === null) return waiting({ own, turn })
    missed = []
    missedAttempt = null
    waits = { own, turn }
    return []
  }

  const answered = ({ turn, part, kind }: ReplyEventData): Chunk[] => {
    if (shows !== null && part !== undefined && gave.includes(String(part.toolCallId))) {
      // The client has said no, and has still to be told what came of the call.
      const isRefused = kind === 'uncertain' && part.state === 'output-error'
      shows = withCall(shows, isRefused ? { ...part, state: 'approval-responded' } : part)
    }
    if (turn?.state !== 'waiting') waits = null
    else if (waits !== null && part !== undefined) {
      waits = { ...waits, own: { ...waits.own, parts: withCall(waits.own.parts, part) } }
    }
    return []
  }

  const waiting = ({ own, turn }: { own: Message; turn: WaitingTurn }): Chunk[] => {
    waits = null
    const sentence = budgetSaid(turn)
    isCutOff = sentence !== null
    return adopted(() => (sentence === null ? ui.waiting(own) : ui.cutOff(own, sentence)))
  }

  /** What follows is told after what the client shows. */
  const adopted = (say: () => Chunk[]): Chunk[] => {
    if (shows !== null) ui.shows(shows)
    shows = null
    return say()
  }

  const begin = (of: number, base: readonly Part[]): Chunk[] => {
    attempt = of
    isSilent = false
    return ui.started({ replyId, base })
  }

  /** What an event says of this reply, or null. The turn may have had other rounds, and get others. */
  const saidBy = (type: string, data: ReplyEventData): (() => Chunk[]) | null => {
    const own = data.message?.id === replyId ? data.message : null
    switch (type) {
      case 'attempt.started':
        return data.replyId === replyId ? () => begin(data.attempt ?? 0, data.base ?? []) : null
      case 'message.ai_response':
        return own && (() => ui.complete(own))
      case 'message.stopped':
        // One that was handed to another reply has no message of its own any more.
        return () => ui.stopped(own ?? { id: replyId, parts: [], metadata: null }, data.reason)
      case 'message.error':
        return own && (() => ui.failed(data.error ?? failureOf('internal').error))
      default:
        return null
    }
  }

  const whole = (message: { error: Failure | null }, reply: Message): Chunk[] => {
    const { parts, metadata, status } = reply
    if (status === 'stopped') return ui.stopped(reply)
    const chunks = ui.started({ replyId, base: parts, metadata })
    if (status === 'complete') return [...chunks, ...ui.complete(reply)]
    return [...chunks, ...ui.failed(message.error?.error ?? failureOf('internal').error)]
  }

  return {
    get isOver() {
      return ui.isOver
    },
    get isCutOff() {
      return isCutOff
    },
    event(type, data) {
      if (type === 'turn.waiting' && data.message?.id === replyId) return wait(data.message, data.turn ?? {})
      if (type === 'approval.answered' && data.messageId === replyId) return answered(data)
      const say = saidBy(type, data)
      if (say === null) return []
      waits = null
      if (type === 'attempt.started' && missed !== null) {
        missedAttempt = { attempt: data.attempt ?? 0, base: data.base ?? [] }
        missed = []
        return []
      }
      return [...tellMissed(missed !== null), ...adopted(say)]
    },
    chunks(chunks) {
      if (isSilent) return []
      if (missed === null) return ui.chunks(chunks, false)
      missed.push(...chunks)
      return []
    },
    caughtUp() {
      const told = tellMissed(false)
      return waits === null ? told : [...told, ...waiting(waits)]
    },
    stands(message, reply, open) {
      missed = null
      missedAttempt = null
      // What it shows was to be heard of first.
      if (isToBeShown) return ui.failed(writtenAgain)
      if (hasEnded(reply)) return adopted(() => whole(message, reply))
      if (open === undefined) return []
      if (!('chunks' in open)) return waiting({ own: reply, turn: open })
      // Some of its chunks were told, and which cannot be seen of joined ones: its end brings the rest.
      isSilent = open.attempt === attempt
      return isSilent ? [] : [...begin(open.attempt, reply.parts), ...ui.chunks(open.chunks, true)]
    },
  }
}
