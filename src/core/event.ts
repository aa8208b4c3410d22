/** A durable record of a session's log, as the store answers it. */
export type Event = {
  seq: number
  type: string
  turnId: string | null
  /** Of the turn that it is about: its position and the attempt that it had then. */
  position: number | null
  attempt: number | null
  /** Null: everyone. `user:ID`: only this user. `not:ID`: all but this user. */
  audience: string | null
  at: string
  /** The event's own data as JSON text, encoded once for all followers. */
  json: string
}

/** Chunks `index` to `index + n - 1` of an attempt; adjacent deltas may be joined, so there may be fewer than n. */
export type ChunkRun = {
  turnId: string
  messageId: string
  position: number
  audience: string | null
  attempt: number
  index: number
  n: number
  /** The chunks as JSON text (an array), encoded once for all followers. */
  json: string
}

/** After these the turn's chunks are no part of the log any more: the event's message stands for them. */
const closing = new Set(['message.ai_response', 'message.error', 'message.stopped', 'turn.waiting'])

export function closesAttempt(event: Event): boolean {
  return closing.has(event.type)
}

/** The beginning of the lane in which a user talks with the assistant alone: its audience is that user. */
export const privateLane = 'private:'

/** As `holdfast.audience_of`. */
export function audienceOf(lane: string): string | null {
  return lane.startsWith(privateLane) ? `user:${lane.slice(privateLane.length)}` : null
}

export function maySee(audience: string | null, userId: string): boolean {
  if (audience === null) return true
  if (audience.startsWith('user:')) return audience.slice(5) === userId
  return audience.startsWith('not:') && audience.slice(4) !== userId
}
