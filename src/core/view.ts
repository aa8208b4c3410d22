/**
 * What a client shows of one session, from what a server sent: a snapshot, and each frame that follows from its cursor
 * (PROTOCOL.md, P25, P46, P53–P55 and the table of events). The text of a reply is so always a prefix of its present
 * attempt's, and at the end what is stored (I7). Where a frame does not lead on, only the snapshot does: `take` says so.
 */
import type { Chunk, Part } from './chunk.ts'
import type { Failure } from './errors.ts'
import { createFold, type Fold } from './fold.ts'
import { lastIndex } from './last-index.ts'
import type { Message, Session, Turn } from './message.ts'
import { withCall } from './open-step.ts'

/** `delivered` and `read`: the seqs up to which this member has them. */
export type Member = { userId: string; role: string; delivered: number; read: number }

/** As `GET /v1/sessions/:sessionId` answers it. */
export type Snapshot = {
  session: Session
  members: readonly Member[]
  messages: readonly Message[]
  before: string | null
  turns: readonly Turn[]
  open: readonly { turnId: string; replyId: string; attempt: number; index: number; chunks: Chunk[] }[]
  cursor: string
}

export type LogFrame = EventFrame | ChunkFrame
export type EventFrame = {
  type: string
  cursor: string
  after: string
  seq: number
  at: string
  turnId?: string
  data: { [key: string]: unknown }
}
export type ChunkFrame = {
  type: 'chunk'
  cursor: string
  after: string
  turnId: string
  messageId: string
  attempt: number
  index: number
  n: number
  chunks: Chunk[]
}
export const isChunkFrame = (frame: LogFrame): frame is ChunkFrame => frame.type === 'chunk'

/** What is shown. Nothing of it is ever changed: what did not change between two looks is the same object. */
export type Shown = {
  session: Session
  members: readonly Member[]
  /** Oldest first. */
  messages: readonly Message[]
  /** Where the page of messages before these ends; null: these are all. */
  before: string | null
  /** Those without an outcome, in the order of their messages; of messages that are not shown at the end. */
  turns: readonly Turn[]
  cursor: string
}

export type View = {
  /** False: the frame does not come right after what was taken, or does not say what is shown from now on. */
  take(frame: LogFrame): boolean
  /** The page of messages before those shown (P24). */
  takeEarlier(page: { data: Message[]; before: string | null }): void
  /** A member's receipt has grown (P142). */
  takeReceipt(receipt: { userId: string; delivered: number; read: number }): void
  now(): Shown
}

/**
 * Of a reply that is being written. `metadata`: as it is stored, without what the attempt's chunks say. `fold` null: it is
 * not shown, and its chunks are counted only.
 */
type Open = { attempt: number; next: number; metadata: Message['metadata']; fold: Fold | null; isStale: boolean }

export function createView(snapshot: Snapshot): View {
  let { session, before, cursor } = snapshot
  let { members } = snapshot
  let messages: readonly Message[] = snapshot.messages
  const turns = new Map(snapshot.turns.map((turn) => [turn.id, turn]))
  const open = new Map<string, Open>()
  let shown: Shown | null = null
  /** The turns in their order, until an event changes them: no chunk does. */
  let line: readonly Turn[] | null = null

  // What changes stands at the end: of many messages the others are not looked at.
  const change = (id: string, to: (message: Message) => Message) => {
    const at = lastIndex(messages, (each) => each.id === id)
    if (at < 0) return
    const next = messages.slice()
    next[at] = to(next[at]!)
    messages = next
  }
  const changeMember = (id: string, to: (member: Member) => Member) => {
    members = members.map((each) => (each.userId === id ? to(each) : each))
  }
  const has = (id: string) => messages.some((each) => each.id === id)
  const settle = (message: Message) => {
    open.delete(message.id)
    change(message.id, () => message)
  }

  const begin = (replyId: string, attempt: number, base: Part[]) => {
    const reply = messages.find(({ id }) => id === replyId)
    const before = open.get(replyId)
    const metadata = before === undefined ? (reply?.metadata ?? null) : before.metadata
    // It stays what its chunks have made it, also where nobody has looked since.
    const hasBegun = before?.isStale === true
    change(replyId, (each) => ({ ...each, parts: base, metadata, status: hasBegun ? 'streaming' : each.status }))
    const fold = reply === undefined ? null : createFold({ parts: base, metadata })
    open.set(replyId, { attempt, next: 0, metadata, fold, isStale: false })
  }

  const takeChunks = ({ messageId, attempt, index, n, chunks }: Omit<ChunkFrame, 'type' | keyof Ends>): boolean => {
    const reply = open.get(messageId)
    if (reply?.attempt !== attempt || reply.next !== index) return false
    for (const chunk of chunks) reply.fold?.push(chunk)
    reply.next += n
    reply.isStale = true
    return true
  }

  const takeEvent = (frame: EventFrame): boolean => {
    const { type, turnId, data } = frame
    line = null
    if (turnId !== undefined) takeTurn(turnId, type, data)
    switch (type) {
      case 'message.created':
        return created(data as unknown as Created, frame)
      case 'message.said': {
        const { message } = data as unknown as { message: Message }
        if (!has(message.id)) messages = [...messages, message]
        return true
      }
      case 'attempt.started': {
        const { replyId, attempt, base } = data as unknown as { replyId: string; attempt: number; base: Part[] }
        begin(replyId, attempt, base)
        return true
      }
      case 'turn.waiting':
      case 'message.ai_response':
        settle(data.message as Message)
        return true
      case 'message.error': {
        const { message, userMessageId, ...error } = data as unknown as Failed
        change(userMessageId, (own) => ({ ...own, error: failureOf(error) }))
        settle(message)
        return true
      }
      case 'message.stopped':
        return stopped(data as unknown as Stopped)
      case 'message.changed': {
        const message = data.message as Message
        change(message.id, () => message)
        return true
      }
      case 'approval.answered': {
        const { messageId, part } = data as unknown as { messageId: string; part?: Part }
        if (part !== undefined) change(messageId, (reply) => ({ ...reply, parts: withCall(reply.parts, part) }))
        return true
      }
      case 'turn.queued':
        return queued(data as unknown as Queued, frame)
      // Which messages are shown from now on only the snapshot tells.
      case 'branch.selected':
        return false
      case 'session.updated': {
        const { title, metadata, updatedAt } = data.session as Session
        session = { ...session, title, metadata, updatedAt }
        return true
      }
      case 'member.joined':
        members = [...members, data.member as Member]
        return true
      case 'member.changed': {
        const { userId, role } = data.member as Member
        changeMember(userId, (member) => ({ ...member, role }))
        return true
      }
      case 'member.left':
        members = members.filter(({ userId }) => userId !== data.userId)
        return true
      default:
        return true
    }
  }

  const takeTurn = (turnId: string, type: string, data: EventFrame['data']) => {
    const turn = (data.turn as Turn | undefined) ?? turns.get(turnId)
    if (turn === undefined) return
    if (outcomes.has(type)) turns.delete(turnId)
    else if (type === 'attempt.started') {
      turns.set(turnId, { ...plain(turn), state: 'running', attempt: data.attempt as number })
    } else if (type === 'attempt.ended') {
      const due = typeof data.retryAt === 'string' ? { dueAt: data.retryAt } : {}
      turns.set(turnId, { ...plain(turn), state: 'queued', ...due })
    } else if (data.turn !== undefined) turns.set(turnId, turn)
  }

  const created = ({ message, reply, turn }: Created, frame: EventFrame): boolean => {
    if (has(message.id)) return true
    // It begins a branch: what was shown in its place is not shown any more.
    if (message.branch !== null) return false
    messages = [...messages, message, pendingReply(message, reply.id, turn.round, frame)]
    return true
  }

  /** A new round: its reply takes the old one's place. */
  const queued = ({ turn: { messageId, replyId, round }, shown: isShown }: Queued, frame: EventFrame): boolean => {
    if (!isShown) {
      messages = withAnother(messages, messageId, replyId)
      return true
    }
    const [own, old] = messages.slice(-2)
    // What follows it may stay (retry) or not (another reply); and the last of the alternatives tells how many there are.
    if (own?.id !== messageId || old === undefined || (old.branch && old.branch.next !== null)) return false
    const index = old.branch?.count ?? 1
    const branch = { index, count: index + 1, previous: old.id, next: null }
    messages = [
      ...messages.slice(0, -2),
      { ...own, error: null },
      { ...pendingReply(own, replyId, round, frame), branch },
    ]
    return true
  }

  const stopped = ({ message, userMessageId, reason }: Stopped): boolean => {
    if (reason !== 'withdrawn' && reason !== 'steered') {
      settle(message)
      return true
    }
    open.delete(message.id)
    const own = messages.find(({ id }) => id === userMessageId)
    // It was the edit of another one, which is shown again.
    if (reason === 'withdrawn' && own?.branch) return false
    messages = messages.filter(({ id }) => id !== message.id && (reason === 'steered' || id !== userMessageId))
    return true
  }

  const settleFolds = () => {
    for (const [id, reply] of open) {
      const { fold } = reply
      if (!reply.isStale || fold === null) continue
      change(id, (each) => ({ ...each, parts: fold.parts(), metadata: fold.metadata(), status: 'streaming' }))
      reply.isStale = false
    }
  }

  for (const { turnId, replyId: messageId, attempt, index, chunks } of snapshot.open) {
    const reply = messages.find(({ id }) => id === messageId)
    const fold = reply === undefined ? null : createFold(reply)
    open.set(messageId, { attempt, next: 0, metadata: reply?.metadata ?? null, fold, isStale: false })
    takeChunks({ turnId, messageId, attempt, index: 0, n: index, chunks })
    open.get(messageId)!.isStale = chunks.length > 0
  }
  return {
    take(frame) {
      if (frame.after !== cursor) return false
      const isTaken = isChunkFrame(frame) ? takeChunks(frame) : takeEvent(frame)
      if (isTaken) cursor = frame.cursor
      shown = null
      return isTaken
    },
    takeEarlier(page) {
      const known = new Set(messages.map(({ id }) => id))
      messages = [...page.data.filter(({ id }) => !known.has(id)), ...messages]
      before = page.before
      shown = line = null
    },
    takeReceipt({ userId, delivered, read }) {
      changeMember(userId, (member) => ({
        ...member,
        delivered: Math.max(member.delivered, delivered),
        read: Math.max(member.read, read),
      }))
      shown = null
    },
    now() {
      settleFolds()
      line ??= inOrder([...turns.values()], messages)
      shown ??= { session, members, messages, before, turns: line, cursor }
      return shown
    },
  }
}

type Ends = { cursor: string; after: string }
type Created = { message: Message; reply: { id: string }; turn: Turn }
type Queued = { turn: Turn; shown: boolean }
type Stopped = { message: Message; userMessageId: string; reason?: string }
type Failed = Failure & { message: Message; userMessageId: string }

/** What ends a turn's round. */
const outcomes: ReadonlySet<string> = new Set(['message.ai_response', 'message.error', 'message.stopped'])

function inOrder(turns: Turn[], messages: readonly Message[]): Turn[] {
  if (turns.length < 2) return turns
  const seqs = new Map(messages.map(({ id, seq }) => [id, seq]))
  const seqOf = ({ messageId }: Turn) => seqs.get(messageId) ?? Number.MAX_SAFE_INTEGER
  return turns.sort((a, b) => seqOf(a) - seqOf(b))
}

/** Without what it waited for. */
function plain({ id, messageId, replyId, state, attempt, round }: Turn): Turn {
  return { id, messageId, replyId, state, attempt, round }
}

function failureOf({ code, error, canRetry, retryAfterMs }: Failure): Failure {
  return { code, error, canRetry, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) }
}

/** As the server has stored it with this event; what its message says of its times comes with its outcome. */
function pendingReply(
  { id: repliesTo, sessionId, lane }: Message,
  id: string,
  round: number,
  frame: EventFrame,
): Message {
  const { seq, at } = frame
  return {
    ...newMessage({ id, sessionId, seq, role: 'assistant', lane, at }),
    ...{ status: 'pending', repliesTo, round },
  }
}

type NewMessage = Pick<Message, 'id' | 'sessionId' | 'seq' | 'role' | 'lane'> & { at: string }

/** With nothing in it, and nothing known of it. */
export function newMessage({ at, ...about }: NewMessage): Message {
  const empty = { parts: [], metadata: null, error: null, author: null, repliesTo: null, branch: null, round: null }
  const counts = { model: null, inputTokens: null, outputTokens: null, createdAt: at, updatedAt: at }
  return { ...about, status: 'complete', ...empty, ...counts }
}

/** Of the replies to a message another one was selected since, which stays, with the new one behind it. */
function withAnother(messages: readonly Message[], messageId: string, replyId: string): Message[] {
  return messages.map((each) => {
    if (each.id === messageId) return { ...each, error: null }
    if (each.repliesTo !== messageId) return each
    const { index, count, previous, next } = each.branch ?? { index: 0, count: 1, previous: null, next: null }
    return { ...each, branch: { index, count: count + 1, previous, next: next ?? replyId } }
  })
}
