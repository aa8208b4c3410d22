/**
 * What other devices do in a session, for a page that shows it: told as the session's messages whenever something came
 * that this page's own streams do not show.
 */

import { backoffMs, HoldfastError, type Wire } from '../client/wire.ts'
import type { Part } from '../core/chunk.ts'
import type { JsonObject } from '../core/json.ts'
import type { Message } from '../core/message.ts'
import { hasEnded } from '../core/ui-follower.ts'
import { type EventFrame, followLog, isChunks, type LogReader } from './log.ts'
import { readSnapshot, type Snapshot } from './tellings.ts'

/** What of a session this page does by itself. */
export type Own = {
  /** So many sends were begun; what was refused is said at the end of the session's messages. */
  readonly begun: number
  /** So often what is shown came not to be what is stored: an error ended a reply, or several came in another order. */
  readonly strayed: number
  readonly refused: readonly ShownMessage[]
  /** Resolves when each has its answer: until then its reply is not known as own. */
  settled(): Promise<void>
  /** Resolves when another one than those so many was begun and has its answer. Rejects when aborted. */
  sentAfter(begun: number, signal: AbortSignal): Promise<void>
  /** Was or is told here. */
  has(replyId: string): boolean
  tells(replyId: string): boolean
  /** Of what is being told here, as it was told so far; null: it is not. */
  told(replyId: string): Part[] | null
  /** Ended here with an error, and was not asked for since. */
  broke(replyId: string): boolean
  readonly isTelling: boolean
  /** Resolves when nothing is being told any more. */
  idle(): Promise<void>
  /** Answers what ends it. */
  onStrayed(hear: () => void): () => void
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
    const { begun, strayed } = own
    try {
      const snapshot = await readSnapshot(wire, sessionId, limit, signal)
      // What is being sent now is not in it, and would vanish from the page.
      if (own.begun !== begun) continue
      wasThere = true
      const others =
        snapshot.turns.some(({ replyId, state }) => state !== 'waiting' && !own.tells(replyId)) ||
        snapshot.messages.some(isToBeResumed(own))
      read(shownOf(snapshot, own), others && !own.isTelling)
      const from = { cursor: snapshot.cursor, strayed, untilIdle: others && own.isTelling }
      const outcome = await untilOthers(wire, sessionId, from, own, signal)
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
      await untilMade(wire, own, begun, signal)
    }
  }
}

/** Resolves when this page sent, or is looked at again: another device may have. And when aborted. */
async function untilMade(wire: Wire, own: Own, begun: number, signal: AbortSignal): Promise<void> {
  const control = new AbortController()
  const end = () => control.abort()
  const wakesNoMore = wire.onWake(end)
  signal.addEventListener('abort', end)
  if (signal.aborted) end()
  await own.sentAfter(begun, control.signal).catch(() => undefined)
  wakesNoMore()
  signal.removeEventListener('abort', end)
}

function shownOf({ messages, turns }: Snapshot, own: Own): ShownMessage[] {
  const waiting = new Set(turns.flatMap(({ state, replyId }) => (state === 'waiting' ? [replyId] : [])))
  const shown = messages.flatMap((message): ShownMessage[] => {
    const { id, role, metadata } = message
    const isOpen = role === 'assistant' && !hasEnded(message) && !waiting.has(id)
    const told = isOpen ? own.told(id) : null
    // Who resumes it is told it from its beginning; what this page is being told keeps its place, and may be ahead.
    if ((isOpen && told === null) || isToBeResumed(own)(message)) return []
    const parts = told ?? message.parts
    if (role === 'assistant' && parts.length === 0) return []
    return [{ id, role, parts, ...(metadata === null ? {} : { metadata }) }]
  })
  return [...shown, ...own.refused.filter(({ id }) => !messages.some((message) => message.id === id))]
}

/** It went on after its error here, to its end: only a stream that ends well takes the error away. */
const isToBeResumed =
  (own: Own) =>
  ({ id, status }: Message): boolean =>
    own.broke(id) && (status === 'complete' || status === 'stopped')

type From = { cursor: string; strayed: number; untilIdle: boolean }

/**
 * Resolves when something came that this page does not show by itself, or what it shows strayed from what is stored; with
 * `untilIdle`, also when it tells nothing more.
 */
async function untilOthers(
  wire: Wire,
  sessionId: string,
  { cursor, strayed, untilIdle }: From,
  own: Own,
  signal: AbortSignal,
): Promise<'others' | 'stale'> {
  const control = new AbortController()
  const abort = () => control.abort()
  signal.addEventListener('abort', abort)
  if (signal.aborted) abort()
  if (untilIdle) void own.idle().then(abort)
  const straysNoMore = own.onStrayed(abort)
  if (own.strayed !== strayed) abort()
  const look = async (frame: EventFrame) => {
    await own.settled()
    const replyId = replyIn(frame)
    // What was told here to where it waits, and goes on because another device has answered, is told there.
    const isShown = waits.test(frame.type) ? own.tells : own.has
    if (replyId === null || !isShown(replyId)) abort()
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
    straysNoMore()
    signal.removeEventListener('abort', abort)
  }
}

const changesMessages = (type: string): boolean =>
  /^(message\.(created|changed|ai_response|error|stopped)|turn\.queued|attempt\.started|branch\.selected)$/.test(
    type,
  ) || waits.test(type)
const waits = /^(turn\.waiting|approval\.answered)$/

/** The reply that the event is about; null where it may be about several. */
function replyIn({ data }: EventFrame): string | null {
  return data.replyId ?? data.reply?.id ?? data.turn?.replyId ?? data.message?.id ?? null
}
