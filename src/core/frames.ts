/**
 * What goes over the wire. A frame of the log is `{cursor, after, …}`: the two cursors differ from follower to
 * follower, the rest is encoded once for all of them.
 */

import type { ChunkRun, Event } from './event.ts'
import type { Item } from './following.ts'

export type ControlWord =
  | { type: 'caught-up' }
  | { type: 'reset'; reason: string }
  | { type: 'reconnect'; afterMs: number }

/** What is told in passing: it has no cursor and is not stored, so it may be lost. Seqs are those of receipts. */
export type PassingFrame =
  | { type: 'receipt'; data: { userId: string; delivered: number; read: number } }
  | { type: 'typing'; data: { userId: string; isTyping: boolean; lastsMs: number } }
  | { type: 'presence'; data: { userId: string; state: 'here' | 'away' | 'gone' } }
  /** To lists of sessions. `updatedAt` is null where the session was deleted. */
  | { type: 'session.changed'; data: { sessionId: string; updatedAt: string | null } }

/** A frame of the log for one follower: its cursor, the frame as JSON text, and what it tells. */
export type Frame = { cursor: string; json: string; item: Item }

const encoded = new WeakMap<Event | ChunkRun, string>()

/** `after` is the cursor of the frame sent before on this stream. */
export function frameOf(item: Item, after: string): Frame {
  return { cursor: item.cursor, json: `{"cursor":"${item.cursor}","after":"${after}",${restOf(item)}`, item }
}

/** On a connection that follows many: the same frame, with its session before all else. Ids and refs here need no escapes. */
export function inSession(sessionId: string, json: string, ref?: string): string {
  const named = ref === undefined ? '' : `"ref":"${ref}",`
  return `{"sessionId":"${sessionId}",${named}${json.slice(1)}`
}

function restOf(item: Item): string {
  const source = 'event' in item ? item.event : item.run
  let rest = encoded.get(source)
  if (rest === undefined) {
    rest = 'event' in item ? eventRest(item.event) : runRest(item.run)
    encoded.set(source, rest)
  }
  return rest
}

function eventRest(event: Event): string {
  const turn = event.turnId === null ? '' : `"turnId":"${event.turnId}",`
  return `"type":${JSON.stringify(event.type)},"seq":${event.seq},"at":"${event.at}",${turn}"data":${event.json}}`
}

function runRest(run: ChunkRun): string {
  return `"type":"chunk","turnId":"${run.turnId}","messageId":${JSON.stringify(run.messageId)},"attempt":${run.attempt},"index":${run.index},"n":${run.n},"chunks":${run.json}}`
}
