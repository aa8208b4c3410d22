import type { ChunkRun, Event } from '../core/event.ts'

/** An event as `holdfast.answer` puts it into a transition's answer. */
export type EventJson = Omit<Event, 'json'> & { data: unknown }

export function eventOf({ data, ...event }: EventJson): Event {
  return { ...event, json: JSON.stringify(data) }
}

/** One row of a read of the log: an event, or a run of chunks (`turnId` and `index` set). */
export type LogRow = {
  seq: number | null
  type: string
  turn_id: string | null
  position: number | null
  attempt: number | null
  audience: string | null
  at: string
  message_id: string
  index: number
  n: number
  data: string
}

export function eventOfRow(row: LogRow): Event {
  return {
    seq: row.seq as number,
    type: row.type,
    turnId: row.turn_id,
    position: row.position,
    attempt: row.attempt,
    audience: row.audience,
    at: row.at,
    json: row.data,
  }
}

export function runOfRow(row: LogRow): ChunkRun {
  return {
    turnId: row.turn_id as string,
    messageId: row.message_id,
    position: row.position as number,
    audience: row.audience,
    attempt: row.attempt as number,
    index: row.index,
    n: row.n,
    json: row.data,
  }
}
