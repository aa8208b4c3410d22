/**
 * What a page shows of one session, as a pure function of what the server sent: a snapshot, and then each frame that
 * follows from its cursor. `takeFrame` answers `gap` where a frame does not come right after the last one: then the
 * snapshot is loaded again. The text shown of a reply is so always a prefix of its current attempt's (I7).
 */

import { type Ask, asksOf, type TurnAsk } from './asks.ts'
import { addCallChunk, withCallPart } from './tool-parts.ts'

export type Status = 'pending' | 'streaming' | 'complete' | 'failed' | 'stopped'
export type Failure = { code: string; error: string; canRetry: boolean; retryAfterMs?: number }
/** One of `count` alternatives; `previous` and `next` are the messages beside it. */
export type Branch = { index: number; count: number; previous: string | null; next: string | null }
export type Part = { type: string; text?: string; [key: string]: unknown }
export type Message = {
  id: string
  role: 'user' | 'assistant'
  parts: Part[]
  metadata: { [key: string]: unknown } | null
  status: Status
  error: Failure | null
  repliesTo: string | null
  branch: Branch | null
  round: number | null
  model: string | null
  createdAt: string
  updatedAt: string
}
export type Session = { id: string; title: string | null; updatedAt: string; lastPreview: string | null }
export type Turn = {
  id: string
  messageId: string
  replyId: string
  state: string
  attempt: number
  round: number
  dueAt?: string
  /** While it is `waiting`. */
  approvals?: TurnAsk[]
  toolCalls?: TurnAsk[]
}
export type Chunk = { type: string; id?: string; delta?: string; toolName?: string; [key: string]: unknown }

export type Snapshot = {
  session: Session
  messages: Message[]
  before: string | null
  turns: Turn[]
  open: { turnId: string; replyId: string; attempt: number; index: number; chunks: Chunk[] }[]
  cursor: string
}

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
  messageId: string
  attempt: number
  index: number
  n: number
  chunks: Chunk[]
}
export type Frame = EventFrame | ChunkFrame

/** One event of a turn's life, for its timeline. */
export type TurnEvent = {
  seq: number
  type: string
  at: string
  attempt: number | null
  reason: string | null
  code: string | null
  /** Of an answer. */
  approved: boolean | null
}
export type TurnView = {
  id: string
  messageId: string
  replyId: string
  isOpen: boolean
  /** In its present round: it is being answered, or waits to be tried again, and those behind it wait for it. */
  hasBegun: boolean
  attempt: number
  round: number
  /** While it waits to be tried again, or was handed over: when the next attempt is due. */
  retryAt: string | null
  /** What people are asked: nothing goes on before all is answered. */
  asks: readonly Ask[]
  events: readonly TurnEvent[]
}

export type View = {
  session: Session
  messages: readonly Message[]
  /** Where the page of messages before these ends, or null. */
  before: string | null
  turns: ReadonlyMap<string, TurnView>
  /** By reply: the attempt that is being written, and the index of its next chunk. */
  open: ReadonlyMap<string, { attempt: number; next: number }>
  cursor: string
}

const over = { isOpen: false, retryAt: null, asks: [] }

/** `known`: what was shown before it, whose turns keep their past. */
export function viewOf(snapshot: Snapshot, known: View | null = null): View {
  const { session, before, cursor } = snapshot
  const past = [...(known?.turns.values() ?? [])].map((turn): TurnView => ({ ...turn, ...over }))
  const turns = new Map(past.map((turn) => [turn.id, turn]))
  for (const turn of snapshot.turns) {
    turns.set(turn.id, { ...turnViewOf(turn), events: turns.get(turn.id)?.events ?? [] })
  }
  let view: View = {
    session,
    before,
    cursor,
    messages: snapshot.messages,
    turns,
    open: new Map(snapshot.open.map(({ replyId, attempt, index }) => [replyId, { attempt, next: index }])),
  }
  for (const { replyId, chunks } of snapshot.open) view = withReply(view, replyId, (reply) => extend(reply, chunks))
  return view
}

function turnViewOf(turn: Turn): TurnView {
  const { id, messageId, replyId, state, attempt, round, dueAt } = turn
  const retryAt = state === 'queued' ? (dueAt ?? null) : null
  const isRunning = state === 'running' || state === 'waiting'
  const isOpen = isRunning || state === 'queued'
  const hasBegun = isRunning || retryAt !== null
  return { id, messageId, replyId, isOpen, hasBegun, attempt, round, retryAt, asks: asksOf(turn), events: [] }
}

export function takeFrame(view: View, frame: Frame): View | 'gap' {
  if (frame.after !== view.cursor) return 'gap'
  const next = isChunk(frame) ? takeChunks(view, frame) : takeEvent(withEvent(view, frame), frame)
  return next === 'gap' ? next : { ...next, cursor: frame.cursor }
}

const isChunk = (frame: Frame): frame is ChunkFrame => frame.type === 'chunk'

function takeChunks(view: View, { messageId, attempt, index, n, chunks }: ChunkFrame): View | 'gap' {
  const open = view.open.get(messageId)
  if (open?.attempt !== attempt || open.next !== index) return 'gap'
  const written = withReply(view, messageId, (reply) => extend(reply, chunks))
  return { ...written, open: new Map(view.open).set(messageId, { attempt, next: index + n }) }
}

function takeEvent(view: View, { type, data }: EventFrame): View | 'gap' {
  switch (type) {
    case 'message.created':
      return created(view, data as { message: Message; reply: { id: string; status: Status }; turn: Turn })
    case 'attempt.started': {
      const { replyId, attempt, base } = data as { replyId: string; attempt: number; base: Part[] }
      const begun = withReply(view, replyId, (reply) => ({ ...reply, parts: base, status: 'pending', error: null }))
      return { ...begun, open: new Map(view.open).set(replyId, { attempt, next: 0 }) }
    }
    case 'message.said':
      return said(view, (data as { message: Message }).message)
    case 'turn.waiting':
    case 'message.ai_response':
      return settled(view, (data as { message: Message }).message)
    case 'message.stopped':
      return stopped(view, data as { message: Message; userMessageId: string; reason?: string })
    case 'message.error': {
      const { message, userMessageId, ...error } = data as unknown as Failure & {
        message: Message
        userMessageId: string
      }
      return settled(
        withReply(view, userMessageId, (own) => ({ ...own, error })),
        message,
      )
    }
    case 'message.changed': {
      const { message } = data as { message: Message }
      return withReply(view, message.id, () => message)
    }
    case 'approval.answered': {
      const { messageId, part } = data as { messageId: string; part?: Part }
      if (!part) return view
      return withReply(view, messageId, (reply) => ({ ...reply, parts: withCallPart(reply.parts, part) }))
    }
    case 'turn.queued':
      return queuedAgain(view, data as { turn: Turn; shown: boolean })
    // Which messages are shown from now on only the snapshot tells.
    case 'branch.selected':
      return 'gap'
    case 'session.updated':
      return { ...view, session: (data as { session: Session }).session }
    default:
      return view
  }
}

function created(
  view: View,
  { message, reply, turn }: { message: Message; reply: { id: string; status: Status }; turn: Turn },
): View | 'gap' {
  if (view.messages.some(({ id }) => id === message.id)) return view
  // It begins a branch: what was shown in its place is not shown any more.
  if (message.branch !== null) return 'gap'
  const known = view.turns.get(turn.id)
  const turns = new Map(view.turns).set(turn.id, { ...turnViewOf(turn), events: known?.events ?? [] })
  return { ...view, messages: [...view.messages, message, pendingReply(message, reply.id, turn.round)], turns }
}

/** By the assistant, to nobody: it stands after everything that is there. */
function said(view: View, message: Message): View {
  if (view.messages.some(({ id }) => id === message.id)) return view
  return { ...view, messages: [...view.messages, message] }
}

function pendingReply({ id: repliesTo, createdAt, updatedAt }: Message, id: string, round: number): Message {
  const empty = { parts: [], metadata: null, error: null, branch: null, model: null }
  return { id, role: 'assistant', status: 'pending', repliesTo, round, createdAt, updatedAt, ...empty }
}

/** A new round: its reply takes the old one's place. What follows may stay (retry) or not (another reply). */
function queuedAgain(
  view: View,
  { turn: { messageId, replyId, round }, shown }: { turn: Turn; shown: boolean },
): View | 'gap' {
  if (!shown) return withAnother(view, messageId, replyId)
  const [own, old] = view.messages.slice(-2)
  // Which alternatives there are only the last one of them tells.
  if (own?.id !== messageId || old === undefined || (old.branch && old.branch.next !== null)) return 'gap'
  const index = old.branch?.count ?? 1
  const branch = { index, count: index + 1, previous: old.id, next: null }
  const reply = { ...pendingReply(own, replyId, round), branch }
  return { ...view, messages: [...view.messages.slice(0, -2), { ...own, error: null }, reply] }
}

/** Of the replies to a message another one was selected since, which stays, with the new one behind it. */
function withAnother(view: View, messageId: string, replyId: string): View {
  const messages = view.messages.map((each) => {
    if (each.id === messageId) return { ...each, error: null }
    if (each.repliesTo !== messageId) return each
    const { index, count, previous, next } = each.branch ?? { index: 0, count: 1, previous: null, next: null }
    return { ...each, branch: { index, count: count + 1, previous, next: next ?? replyId } }
  })
  return { ...view, messages }
}

function stopped(
  view: View,
  { message, userMessageId, reason }: { message: Message; userMessageId: string; reason?: string },
): View | 'gap' {
  if (reason !== 'withdrawn' && reason !== 'steered') return settled(view, message)
  const own = view.messages.find(({ id }) => id === userMessageId)
  // It was the edit of another one, which is shown again.
  if (reason === 'withdrawn' && own?.branch) return 'gap'
  const messages = view.messages.filter(({ id }) => id !== message.id && (reason === 'steered' || id !== userMessageId))
  return { ...view, messages }
}

function settled(view: View, message: Message): View {
  const open = new Map(view.open)
  open.delete(message.id)
  return { ...withReply(view, message.id, () => message), open }
}

/** Messages that do not change keep their identity, so only the one that does is drawn again. */
function withReply(view: View, id: string, change: (message: Message) => Message): View {
  return { ...view, messages: view.messages.map((each) => (each.id === id ? change(each) : each)) }
}

// Chunks into parts: what this page shows of them. The outcome's message, with all of them, replaces it.

function extend(reply: Message, chunks: readonly Chunk[]): Message {
  const parts = [...reply.parts]
  for (const chunk of chunks) addChunk(parts, chunk)
  return { ...reply, parts, status: 'streaming' }
}

function addChunk(parts: Part[], chunk: Chunk): void {
  switch (chunk.type) {
    case 'start-step':
      parts.push({ type: 'step-start' })
      return
    case 'text-start':
    case 'reasoning-start':
      parts.push({ type: chunk.type.slice(0, -6), text: '', chunkId: chunk.id })
      return
    case 'text-delta':
    case 'reasoning-delta': {
      const type = chunk.type.slice(0, -6)
      const at = parts.findLastIndex((part) => part.type === type && part.chunkId === chunk.id)
      const part = parts[at]
      if (part) parts[at] = { ...part, text: (part.text ?? '') + (chunk.delta ?? '') }
      return
    }
    case 'reset-step':
      parts.length = parts.findLastIndex(({ type }) => type === 'step-start') + 1
      return
    default:
      addCallChunk(parts, chunk)
  }
}

/** What a message says: texts with something else between them are set apart by a blank line. */
export function textOf(parts: readonly Part[]): string {
  let text = ''
  let isApart = false
  for (const part of parts) {
    if (part.type === 'text' && part.text) {
      text += (isApart && text ? '\n\n' : '') + part.text
      isApart = false
    } else if (part.type !== 'text' && !part.type.startsWith('source-')) isApart = true
  }
  return text
}

// Turns

/** What ends a turn's round, and how. */
export const outcomes: { [type: string]: 'complete' | 'failed' | 'stopped' } = {
  'message.ai_response': 'complete',
  'message.error': 'failed',
  'message.stopped': 'stopped',
}

function withEvent(view: View, frame: EventFrame): View {
  const { turnId, seq, type, at, data } = frame
  if (turnId === undefined) return view
  const known = view.turns.get(turnId) ?? strangerOf(turnId, frame)
  if (known === null) return view
  const { attempt = null, reason = null, code = null, approved = null } = data as { [key: string]: never }
  // The log may have been read further than the stream has come: then the event is known, and what it changes is not.
  const others = known.events.filter((event) => event.seq !== seq)
  const events = [...others, { seq, type, at, attempt, reason, code, approved }].sort((a, b) => a.seq - b.seq)
  const turn: TurnView = { ...known, events, ...changeOf(frame) }
  return { ...view, turns: new Map(view.turns).set(turnId, turn) }
}

function changeOf({ type, at, data }: EventFrame): Partial<TurnView> {
  if (outcomes[type]) return over
  switch (type) {
    case 'attempt.started':
      return { hasBegun: true, retryAt: null, asks: [], attempt: data.attempt as number }
    case 'attempt.ended':
      return { retryAt: (data.retryAt as string | undefined) ?? (data.reason === 'handover' ? at : null) }
    case 'turn.queued': {
      const { replyId, round } = (data as { turn: Turn }).turn
      return { isOpen: true, hasBegun: false, retryAt: null, asks: [], replyId, round }
    }
    case 'turn.waiting':
    case 'approval.answered': {
      const { turn } = data as { turn: Turn }
      // It has been begun, also when all is answered and it waits for somebody to go on with it.
      return { isOpen: true, hasBegun: true, retryAt: null, asks: asksOf(turn) }
    }
    default:
      return {}
  }
}

function strangerOf(turnId: string, { type, data }: EventFrame): TurnView | null {
  if (type !== 'message.created' && type !== 'turn.queued') return null
  return { ...turnViewOf((data as { turn: Turn }).turn), id: turnId, isOpen: true }
}

/** The events of turns that had passed before the snapshot: for the timeline, they change nothing else. */
export function takePast(view: View, frames: readonly Frame[]): View {
  let past = view
  for (const frame of frames) if (!isChunk(frame)) past = withEvent(past, frame)
  // Whether a turn is open, and when it goes on, the snapshot and what followed it know better.
  const turns = new Map(past.turns)
  for (const [id, turn] of turns) {
    const now = view.turns.get(id)
    if (now && now.round >= turn.round) turns.set(id, { ...now, events: turn.events })
  }
  return { ...view, turns }
}

export function takeEarlier(view: View, page: { data: Message[]; before: string | null }): View {
  const known = new Set(view.messages.map(({ id }) => id))
  return { ...view, messages: [...page.data.filter(({ id }) => !known.has(id)), ...view.messages], before: page.before }
}

/** Its reply is being written, or waits for people, and so for no other turn. */
export const isUnderWay = ({ hasBegun, retryAt }: TurnView) => hasBegun && retryAt === null

/**
 * The turns without an outcome in the order in which they are answered: the first is being answered, or backs off, or
 * is about to begin. One that is retried stands where its message does, also before one that backs off. Where
 * messages are answered while a reply waits for people, that one stands behind the one being written.
 */
export function lineOf(view: View): TurnView[] {
  const placeOf = new Map(view.messages.map(({ id }, at) => [id, at]))
  const rank = (turn: TurnView) => {
    if (!isUnderWay(turn)) return placeOf.get(turn.messageId) ?? 0
    return turn.asks.length > 0 ? -1 : -2
  }
  return [...view.turns.values()].filter(({ isOpen }) => isOpen).sort((a, b) => rank(a) - rank(b))
}

export const turnOfReply = (view: View, replyId: string): TurnView | undefined =>
  [...view.turns.values()].find((turn) => turn.replyId === replyId)
