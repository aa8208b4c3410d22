/**
 * What a client promises of a session at every moment, looked at from the client's own place: the snapshots that its `fetch`
 * was answered, the frames that it took (`onFrame`), and each state that it showed.
 *
 *   snapshot ── cursor ──▶ frame ── after, cursor ──▶ frame … ── each `after` is the cursor before it (I5)
 *                             └── seq + 1, or the next index of its attempt
 */
import type { SessionHandle, SessionState, ShownMessage } from '../../../src/client/client.ts'
import { decodeCursor } from '../../../src/core/cursor.ts'
import { textOf } from '../../../src/core/parts.ts'
import { type EventFrame, isChunkFrame, type LogFrame, type Snapshot } from '../../../src/core/view.ts'

/** The whole text of a reply, of one attempt at it. `said`: what its message says. */
export type TextOf = (said: string, attempt: number) => string

export type Checker = {
  problems: string[]
  /** Snapshots that were answered whole, and how often one was due: each time that the session is begun. */
  counts: { snapshots: number; frames: number; states: number }
  /** Looks at each state from now on; ends when the handle is left. */
  attach(handle: SessionHandle): () => void
  /** The cursor of what was taken last. */
  cursor(): string | null
}

/** A message as it was shown last. */
type Seen = Pick<ShownMessage, 'status' | 'repliesTo'> & {
  text: string
  attempt: number
  rank: number
  isStored: boolean
}

const ranks: Record<string, number> = { waiting: 0, sending: 0, failed: 0, sent: 1, delivered: 2, read: 3 }

/** `name`: of the device, in what is said of it. */
export function createChecker(name: string, textOfAttempt: TextOf) {
  const problems: string[] = []
  const counts = { snapshots: 0, frames: 0, states: 0 }
  /** What is shown goes on from it as soon as the client follows. */
  let pending: Snapshot | null = null
  let cursor: string | null = null
  let seq = 0
  /** Of each reply that is being written. */
  const open = new Map<string, { attempt: number; next: number }>()
  /** The last one that began, also after its outcome. */
  const begun = new Map<string, number>()
  const ended = new Set<string>()
  const shown = new Map<string, Seen>()

  const wrong = (what: string) => {
    if (problems.length < 20) problems.push(`${name}: ${what}`)
  }

  const begin = (snapshot: Snapshot) => {
    pending = null
    cursor = snapshot.cursor
    const at = decodeCursor(cursor)!.seq
    if (at < seq) wrong(`a snapshot of seq ${at} after ${seq}`)
    seq = at
    open.clear()
    for (const { replyId, attempt, index } of snapshot.open) {
      open.set(replyId, { attempt, next: index })
      begun.set(replyId, attempt)
    }
  }

  const takeFrame = (frame: LogFrame) => {
    counts.frames++
    if (pending !== null && frame.after === pending.cursor) begin(pending)
    if (frame.after !== cursor) wrong(`gap: ${frame.type} ${frame.cursor} comes after ${frame.after}, not ${cursor}`)
    cursor = frame.cursor
    if (isChunkFrame(frame)) {
      const { messageId, attempt, index, n } = frame
      const reply = open.get(messageId)
      if (reply?.attempt !== attempt || reply.next !== index) {
        wrong(`chunk ${attempt}:${index} came where ${reply?.attempt}:${reply?.next} was expected`)
      }
      open.set(messageId, { attempt, next: index + n })
    } else takeEvent(frame)
  }
  const takeEvent = ({ type, seq: at, data }: EventFrame) => {
    if (at !== seq + 1) wrong(`event ${at} came after ${seq}`)
    seq = at
    if (type === 'attempt.started') {
      const { replyId, attempt } = data as { replyId: string; attempt: number }
      const before = open.get(replyId)?.attempt ?? 0
      if (attempt <= before) wrong(`attempt ${attempt} began after ${before}`)
      open.set(replyId, { attempt, next: 0 })
      begun.set(replyId, attempt)
    }
    if (!/^message\.(ai_response|error|stopped)$/.test(type)) return
    const { id } = data.message as { id: string }
    if (ended.has(id)) wrong(`a second outcome of ${id}`)
    ended.add(id)
    open.delete(id)
  }

  const look = (state: SessionState) => {
    counts.states++
    // It is shown by now: the client says that it follows from there.
    if (pending !== null && state.isLive) begin(pending)
    const now = new Set<string>()
    let before = 0
    let last = ''
    for (const message of state.messages) {
      if (now.has(message.id)) wrong(`${message.id} is shown twice`)
      now.add(message.id)
      if (message.role !== 'user') {
        if (message.repliesTo !== last) wrong(`reply ${message.id} does not stand behind its message`)
        lookAt(message, state)
        continue
      }
      last = message.id
      const at = message.seq === 0 ? Number.MAX_SAFE_INTEGER : message.seq
      if (at < before) wrong(`${message.id} (seq ${message.seq}) is shown behind seq ${before}`)
      before = at
      lookAt(message, state)
    }
    for (const [id, { repliesTo }] of [...shown]) {
      if (now.has(id)) continue
      shown.delete(id)
      // A new round's reply takes the old one's place.
      const isReplaced = repliesTo !== null && state.messages.some((message) => message.repliesTo === repliesTo)
      if (!isReplaced) wrong(`${id} was shown and is not any more`)
    }
  }

  const lookAt = (message: ShownMessage, { messages }: SessionState) => {
    const last = shown.get(message.id)
    const rank = ranks[message.delivery?.state ?? 'waiting']!
    const text = textOf(message.parts)
    const isStored = message.seq > 0
    let attempt = last?.attempt ?? 0
    if (last?.isStored && !isStored) wrong(`${message.id} was stored, and waits again`)
    if (message.role === 'user') {
      if (last && last.text !== text) wrong(`“${last.text}” became “${text}”`)
      if (last && rank < last.rank) wrong(`${message.id} was ${last.rank} of delivery and is ${rank}`)
    } else attempt = lookAtReply(message, text, last, messages)
    const { status, repliesTo } = message
    shown.set(message.id, { status, repliesTo, text, attempt, rank, isStored })
  }

  /** Answers the attempt whose text it is. */
  const lookAtReply = (
    { id, repliesTo, status }: ShownMessage,
    text: string,
    last: Seen | undefined,
    messages: readonly ShownMessage[],
  ): number => {
    const own = messages.find((each) => each.id === repliesTo)
    if (own === undefined) {
      wrong(`reply ${id} is shown without its message`)
      return 0
    }
    const present = pending === null ? begun.get(id) : undefined
    const told = /^\[.*?#(\d+)\]/s.exec(text)?.[1]
    // Of which attempt it is cannot be said: that of the snapshot, or still that before it.
    if (told === undefined && pending !== null) return last?.attempt ?? 0
    const written = Number(told ?? present ?? last?.attempt ?? 1)
    const whole = textOfAttempt(textOf(own.parts), written)
    if (!whole.startsWith(text)) wrong(`“${text}” is no beginning of “${whole}”`)
    if (present !== undefined && text !== '' && written !== present && status === 'streaming') {
      wrong(`${id} shows attempt ${written} in attempt ${present}`)
    }
    if (status === 'complete' && text !== whole) wrong(`${id} is complete with “${text}”`)
    if (last === undefined) return written
    if (written < last.attempt) wrong(`${id} shows attempt ${written} after ${last.attempt}`)
    const isSame = written === last.attempt && (present === undefined || present === last.attempt)
    if (isSame && !text.startsWith(last.text)) wrong(`“${last.text}” became “${text}”`)
    if (settled.has(last.status) && (status !== last.status || text !== last.text)) {
      wrong(`${id} was ${last.status} with “${last.text}” and is ${status} with “${text}”`)
    }
    return written
  }

  const checker: Checker = {
    problems,
    counts,
    attach(handle) {
      const deaf = handle.onFrame((frame) => {
        if ('cursor' in frame && 'after' in frame) takeFrame(frame as LogFrame)
      })
      const leave = handle.subscribe(() => look(handle.getSnapshot()))
      return () => {
        leave()
        deaf()
      }
    },
    cursor: () => (pending === null ? cursor : pending.cursor),
  }
  /** For the client: hears the snapshots of a session. */
  const fetchOf =
    (session: string): typeof fetch =>
    async (input, init) => {
      const response = await fetch(input, init)
      const { pathname } = new URL(String(input))
      if (!response.ok || (init?.method ?? 'GET') !== 'GET' || pathname !== `/v1/sessions/${session}`) return response
      const text = await response.text()
      counts.snapshots++
      pending = JSON.parse(text) as Snapshot
      return new Response(text, { status: response.status, headers: response.headers })
    }
  return { ...checker, fetchOf }
}

const settled: ReadonlySet<string> = new Set(['complete', 'failed', 'stopped'])
