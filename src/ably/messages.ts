/**
 * What is in the log as Ably's messages. An event is one message: its name and data are the event's own, so that an app's own
 * `channel.subscribe('message.ai_response', …)` has what it always had; where it stands in the log is in `extras.headers`.
 *
 * Chunks of an attempt are lines of JSON in one message, `holdfast.chunks`, which grows by appends. Ably may hand over several
 * appends as one, or all that was appended so far: a line says which chunks it holds, so that what came already is passed over.
 * Where the channel's namespace allows no appends, each publication is a message of its own with the same lines, less often.
 */
import type { ChunkRun, Event } from '../core/event.ts'
import type { Item } from '../core/following.ts'
import { AblyError, type AblyMessage, type AblyRest } from './rest.ts'

export type Messages = {
  publish(channels: string[], epoch: string, items: readonly Item[], signal: AbortSignal): Promise<void>
  reset(channel: string, reason: string, signal: AbortSignal): Promise<void>
  chunksEveryMs(): number
}

/** As often as Ably rolls appends up: https://ably.com/docs/ai-transport/token-streaming/token-rate-limits. */
const appendEveryMs = 40
/** Of the 50 messages a second that a channel takes, a fifth for one reply. */
const batchEveryMs = 100
/** Whether a namespace allows appends by now is tried again. */
const refusedForMs = 600_000
/** Messages that may grow. The oldest are forgotten: what comes begins another one. */
const growingMax = 5_000
/** Of a message beside its data: its name, its id, and where it stands. */
const envelopeBytes = 600
/** https://ably.com/docs/platform/errors/codes/93002-message-updates-not-enabled */
const appendsNotEnabled = 93_002

const chunksName = 'holdfast.chunks'

type Growing = { attempt: number; serial: string; bytes: number }

export function createMessages({ rest, bytesMax }: { rest: AblyRest; bytesMax: number }): Messages {
  const roomBytes = bytesMax - envelopeBytes
  /** By channel and turn. */
  const growing = new Map<string, Growing>()
  let noAppendsUntilMs = Number.NEGATIVE_INFINITY
  const mayAppend = () => performance.now() >= noAppendsUntilMs

  async function publishEvent(channel: string, epoch: string, event: Event, signal: AbortSignal): Promise<void> {
    if (event.position !== null && event.attempt !== null) growing.delete(growingKey(channel, event.position))
    const id = `${epoch}-${event.seq}`
    const extras = { headers: headersOf(epoch, event) }
    const whole = { id, name: event.type, data: event.json, encoding: 'json', extras }
    const fits = Buffer.byteLength(event.json) <= roomBytes
    if (fits && (await isTaken(channel, whole, signal))) return
    // Whoever can reads it from the server; who cannot knows of it. What Ably refuses of this, too, would hold all else up.
    const instead = {
      id: `${id}-too-large`,
      name: 'holdfast.too_large',
      data: tooLarge(event),
      encoding: 'json',
      extras,
    }
    await isTaken(channel, instead, signal)
  }

  /** False: Ably refuses it, now and later. */
  async function isTaken(channel: string, message: AblyMessage, signal: AbortSignal): Promise<boolean> {
    try {
      await rest.publish(channel, message, signal)
      return true
    } catch (error) {
      if (error instanceof AblyError && error.isRefused) return false
      throw error
    }
  }

  async function publishRuns(channel: string, epoch: string, runs: ChunkRun[], signal: AbortSignal): Promise<void> {
    for (const run of joined(epoch, runs, roomBytes)) await publishLines(channel, epoch, run, signal)
  }

  async function publishLines(
    channel: string,
    epoch: string,
    { first, text }: Lines,
    signal: AbortSignal,
  ): Promise<void> {
    const key = growingKey(channel, first.position)
    const grown = growing.get(key)
    const bytes = Buffer.byteLength(text)
    if (grown?.attempt === first.attempt && mayAppend() && grown.bytes + bytes <= roomBytes) {
      if (await isAppended(channel, grown.serial, text, signal)) {
        grown.bytes += bytes
        return
      }
    }
    growing.delete(key)
    const { position, attempt, index } = first
    const id = `${epoch}-${position}.${attempt}.${index}`
    let serial: string | null = null
    try {
      serial = await rest.publish(channel, { id, name: chunksName, data: text }, signal)
    } catch (error) {
      // The reply's outcome stands for them.
      if (!(error instanceof AblyError && error.isRefused)) throw error
    }
    if (serial === null || !mayAppend()) return
    growing.set(key, { attempt, serial, bytes })
    if (growing.size > growingMax) growing.delete(growing.keys().next().value!)
  }

  async function isAppended(channel: string, serial: string, text: string, signal: AbortSignal): Promise<boolean> {
    try {
      await rest.append(channel, serial, { name: chunksName, data: text }, signal)
      return true
    } catch (error) {
      if (!(error instanceof AblyError && error.isRefused)) throw error
      if (error.code === appendsNotEnabled) noAppendsUntilMs = performance.now() + refusedForMs
      return false
    }
  }

  return {
    async publish(channels, epoch, items, signal) {
      const runs = items.flatMap((item) => ('run' in item ? [item.run] : []))
      for (const channel of channels) {
        for (const item of items) if ('event' in item) await publishEvent(channel, epoch, item.event, signal)
        if (runs.length > 0) await publishRuns(channel, epoch, runs, signal)
      }
    },
    async reset(channel, reason, signal) {
      await rest.publish(
        channel,
        { name: 'holdfast.reset', data: JSON.stringify({ reason }), encoding: 'json' },
        signal,
      )
    },
    chunksEveryMs: () => (mayAppend() ? appendEveryMs : batchEveryMs),
  }
}

function growingKey(channel: string, position: number): string {
  return `${channel}\n${position}`
}

/** Strings: Ably's headers are, and clients read them as such. */
function headersOf(epoch: string, { seq, at, turnId, position, attempt }: Event): Record<string, string> {
  return {
    epoch,
    seq: String(seq),
    at,
    ...(turnId === null ? {} : { turnId }),
    ...(position === null || attempt === null ? {} : { position: String(position), attempt: String(attempt) }),
  }
}

function tooLarge({ type, seq }: Event): string {
  return JSON.stringify({ type, seq })
}

type Lines = { first: ChunkRun; text: string }

/** Lines of one attempt that fit into a message together. One that fits into none is left out: its outcome stands for it. */
function joined(epoch: string, runs: ChunkRun[], roomBytes: number): Lines[] {
  const groups: (Lines & { bytes: number })[] = []
  for (const run of runs) {
    const line = lineOf(epoch, run)
    const bytes = Buffer.byteLength(line)
    if (bytes > roomBytes) continue
    const group = groups.at(-1)
    const isSame = group?.first.position === run.position && group.first.attempt === run.attempt
    if (group && isSame && group.bytes + bytes <= roomBytes) {
      group.text += line
      group.bytes += bytes
    } else groups.push({ first: run, text: line, bytes })
  }
  return groups
}

function lineOf(epoch: string, { turnId, messageId, position, attempt, index, n, json }: ChunkRun): string {
  const head = JSON.stringify({ epoch, turnId, messageId, position, attempt, index, n })
  return `${head.slice(0, -1)},"chunks":${json}}\n`
}
