/**
 * What a page shows of one session, as a pure function of what the server sent: a snapshot, and then each frame that
 * follows from its cursor. `takeFrame` answers `gap` where a frame does not come right after the last one: then the
 * snapshot is loaded again. The text shown of a reply is so always a prefix of its current attempt's (I7).
 */

export type Status = 'pending' | 'streaming' | 'complete' | 'failed' | 'stopped'
export type Failure = { code: string; error: string; canRetry: boolean }
export type Part = { type: string; text?: string; [key: string]: unknown }
export type Message = {
  id: string
  role: 'user' | 'assistant'
  parts: Part[]
  status: Status
  error: Failure | null
  repliesTo: string | null
  model: string | null
  createdAt: string
}
export type Session = { id: string; title: string | null; updatedAt: string; lastPreview: string | null }
export type Turn = { id: string; messageId: string; replyId: string; state: string; attempt: number; dueAt?: string }
export type Chunk = { type: string; id?: string; delta?: string; toolName?: string }

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
}
export type TurnView = {
  id: string
  messageId: string
  replyId: string
  isOpen: boolean
  attempt: number
  /** While it backs off: when the next attempt is due. */
  retryAt: string | null
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

export function viewOf(snapshot: Snapshot): View {
  const { session, before, cursor } = snapshot
  let view: View = {
    session,
    before,
    cursor,
    messages: snapshot.messages,
    turns: new Map(snapshot.turns.map((turn) => [turn.id, turnViewOf(turn)])),
    open: new Map(snapshot.open.map(({ replyId, attempt, index }) => [replyId, { attempt, next: index }])),
  }
  for (const { replyId, chunks } of snapshot.open) view = withReply(view, replyId, (reply) => extend(reply, chunks))
  return view
}

function turnViewOf({ id, messageId, replyId, state, attempt, dueAt }: Turn): TurnView {
  const retryAt = state === 'queued' && attempt > 0 ? (dueAt ?? null) : null
  const isOpen = state === 'queued' || state === 'running' || state === 'waiting'
  return { id, messageId, replyId, isOpen, attempt, retryAt, events: [] }
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

function takeEvent(view: View, { type, data }: EventFrame): View {
  switch (type) {
    case 'message.created':
      return created(view, data as { message: Message; reply: { id: string; status: Status }; turn: Turn })
    case 'attempt.started': {
      const { replyId, attempt, base } = data as { replyId: string; attempt: number; base: Part[] }
      const begun = withReply(view, replyId, (reply) => ({ ...reply, parts: base, status: 'pending', error: null }))
      return { ...begun, open: new Map(view.open).set(replyId, { attempt, next: 0 }) }
    }
    case 'message.ai_response':
    case 'message.stopped':
      return settled(view, (data as { message: Message }).message)
    case 'message.error': {
      const { message, userMessageId, code, error, canRetry } = data as unknown as Failure & {
        message: Message
        userMessageId: string
      }
      const marked = withReply(view, userMessageId, (own) => ({ ...own, error: { code, error, canRetry } }))
      return settled(marked, message)
    }
    case 'session.updated':
      return { ...view, session: (data as { session: Session }).session }
    default:
      return view
  }
}

function created(
  view: View,
  { message, reply, turn }: { message: Message; reply: { id: string; status: Status }; turn: Turn },
): View {
  if (view.messages.some(({ id }) => id === message.id)) return view
  const { createdAt } = message
  const pending: Message = {
    id: reply.id,
    role: 'assistant',
    parts: [],
    status: reply.status,
    error: null,
    repliesTo: message.id,
    model: null,
    createdAt,
  }
  const known = view.turns.get(turn.id)
  const turns = new Map(view.turns).set(turn.id, { ...turnViewOf(turn), events: known?.events ?? [] })
  return { ...view, messages: [...view.messages, message, pending], turns }
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
    case 'tool-input-start':
    case 'tool-input-available':
      if (parts.at(-1)?.type !== `tool-${chunk.toolName}`) parts.push({ type: `tool-${chunk.toolName}` })
      return
    case 'reset-step':
      parts.length = parts.findLastIndex(({ type }) => type === 'step-start') + 1
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

const outcomes = new Set(['message.ai_response', 'message.error', 'message.stopped'])

function withEvent(view: View, frame: EventFrame): View {
  const { turnId, seq, type, at, data } = frame
  if (turnId === undefined) return view
  const known = view.turns.get(turnId) ?? strangerOf(turnId, frame)
  if (known === null || known.events.some((event) => event.seq === seq)) return view
  const { attempt = null, reason = null, code = null, retryAt = null } = data as { [key: string]: never }
  const events = [...known.events, { seq, type, at, attempt, reason, code }].sort((a, b) => a.seq - b.seq)
  const turn: TurnView = {
    ...known,
    events,
    isOpen: known.isOpen && !outcomes.has(type),
    attempt: Math.max(known.attempt, attempt ?? 0),
    retryAt: type === 'attempt.ended' ? retryAt : type === 'attempt.started' ? null : known.retryAt,
  }
  return { ...view, turns: new Map(view.turns).set(turnId, turn) }
}

function strangerOf(turnId: string, { type, data }: EventFrame): TurnView | null {
  if (type !== 'message.created') return null
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
    if (now) turns.set(id, { ...turn, isOpen: now.isOpen, attempt: now.attempt, retryAt: now.retryAt })
  }
  return { ...view, turns }
}

export function takeEarlier(view: View, page: { data: Message[]; before: string | null }): View {
  const known = new Set(view.messages.map(({ id }) => id))
  return { ...view, messages: [...page.data.filter(({ id }) => !known.has(id)), ...view.messages], before: page.before }
}

export const turnOfReply = (view: View, replyId: string): TurnView | undefined =>
  [...view.turns.values()].find((turn) => turn.replyId === replyId)
