/**
 * What other devices do in a session, for a page that shows it: told as the session's messages whenever something came
 * that this page's own streams do not show.
 */
import type { Chunk, Part } from '../core/chunk.ts'
import { createFold } from '../core/fold.ts'
import type { JsonObject } from '../core/json.ts'
import type { Message } from '../core/message.ts'
import { hasEnded } from '../core/ui-follower.ts'
import { type EventFrame, followLog, isChunks, type LogReader } from './log.ts'
import { readSnapshot, type Snapshot } from './tellings.ts'
import { backoffMs, HoldfastError, type Wire } from './wire.ts'

/** What of a session this page does by itself. */
export type Own = {
  /** So many sends were begun; what was refused is said at the end of the session's messages. */
  readonly begun: number
  readonly refused: readonly ShownMessage[]
  /** Resolves when each has its answer: until then its reply is not known as own. */
  settled(): Promise<void>
  /** Resolves when another one than those so many was begun and has its answer. Rejects when aborted. */
  sentAfter(begun: number, signal: AbortSignal): Promise<void>
  /** Was or is told here. */
  has(replyId: string): boolean
  tells(replyId: string): boolean
  readonly isTelling: boolean
  /** Resolves when nothing is being told any more. */
  idle(): Promise<void>
}

export type ShownMessage = { id: string; role: 'user' | 'assistant'; parts: Part[]; metadata?: JsonObject }
export type DevicesReader = (messages: ShownMessage[], isRunning: boolean) => void

/** Ends when aborted. Rejects where the server refuses. */
export async function followDevices(
  wire: Wire,
  sessionId: string,
  limit: number,
  own: Own,
  read: DevicesReader,
  signal: AbortSignal,
): Promise<void> {
  let wasThere = false
  for (let failures = 0; !signal.aborted; ) {
    await own.settled()
    const { begun } = own
    try {
      const snapshot = await readSnapshot(wire, sessionId, limit, signal)
      // What is being sent now is not in it, and would vanish from the page.
      if (own.begun !== begun) continue
      wasThere = true
      const others = snapshot.turns.some(({ replyId }) => !own.tells(replyId))
      read(shownOf(snapshot, own), others && !own.isTelling)
      const outcome = await untilOthers(wire, sessionId, snapshot.cursor, own, others && own.isTelling, signal)
      if (outcome === 'stale') await wire.pause(backoffMs(failures++), signal)
      else failures = 0
    } catch (error) {
      if (signal.aborted) return
      if (!(error instanceof HoldfastError)) throw error
      // A chat, and a guest, are made by the first message.
      const isToBeMade = error.code === 'not_found' || (error.code === 'unauthorized' && !wasThere)
      if (!isToBeMade) throw error
      if (wasThere) read([], false)
      wasThere = false
      await own.sentAfter(begun, signal).catch(() => undefined)
    }
  }
}

function shownOf({ messages, open }: Snapshot, own: Own): ShownMessage[] {
  const shown = messages.flatMap((message): ShownMessage[] => {
    const { id, role, metadata } = message
    const isOpen = role === 'assistant' && !hasEnded(message)
    // Who resumes it is told it from its beginning; what this page is being told keeps its place.
    if (isOpen && !own.tells(id)) return []
    const parts = isOpen ? partsOf(message, open.find(({ replyId }) => replyId === id)?.chunks ?? []) : message.parts
    if (role === 'assistant' && parts.length === 0) return []
    return [{ id, role, parts, ...(metadata === null ? {} : { metadata }) }]
  })
  return [...shown, ...own.refused.filter(({ id }) => !messages.some((message) => message.id === id))]
}

function partsOf(message: Message, chunks: readonly Chunk[]): Part[] {
  const fold = createFold({ parts: message.parts })
  for (const chunk of chunks) fold.push(chunk)
  return fold.parts()
}

/** Resolves when something came that this page does not show by itself; with `untilIdle`, also when it tells nothing more. */
async function untilOthers(
  wire: Wire,
  sessionId: string,
  cursor: string,
  own: Own,
  untilIdle: boolean,
  signal: AbortSignal,
): Promise<'others' | 'stale'> {
  const control = new AbortController()
  const abort = () => control.abort()
  signal.addEventListener('abort', abort)
  if (signal.aborted) abort()
  if (untilIdle) void own.idle().then(abort)
  const look = async (frame: EventFrame) => {
    await own.settled()
    const replyId = replyIn(frame)
    if (replyId === null || !own.has(replyId)) abort()
  }
  const reader: LogReader = {
    take(frame) {
      if (!isChunks(frame) && 'data' in frame && changesMessages(frame.type)) void look(frame)
      return false
    },
    onCut: () => undefined,
    onLive: () => undefined,
  }
  try {
    await followLog(wire, sessionId, cursor, reader, control.signal)
    return 'stale'
  } catch (error) {
    if (control.signal.aborted && !signal.aborted) return 'others'
    throw error
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

const changesMessages = (type: string): boolean =>
  /^(message\.(created|changed|ai_response|error|stopped)|turn\.queued|attempt\.started|branch\.selected)$/.test(type)

/** The reply that the event is about; null where it may be about several. */
function replyIn({ data }: EventFrame): string | null {
  return data.replyId ?? data.reply?.id ?? data.turn?.replyId ?? data.message?.id ?? null
}
