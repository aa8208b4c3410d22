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
import type { PublishingLog } from '../log/publishing.ts'
import { AblyError, type AblyMessage, type AblyRest } from './rest.ts'

export type Messages = {
  publish(
    channels: string[],
    epoch: string,
    items: readonly Item[],
    signal: AbortSignal,
    log: PublishingLog,
  ): Promise<void>
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

/** Where something is published, and how that is told and ended. */
type Place = { channel: string; epoch: string; signal: AbortSignal; log: PublishingLog }
type Growing = { attempt: number; serial: string; bytes: number }

export function createMessages({ rest, bytesMax }: { rest: AblyRest; bytesMax: number }): Messages {
  const roomBytes = bytesMax - envelopeBytes
  /** By channel and turn. */
  const growing = new Map<string, Growing>()
  let noAppendsUntilMs = Number.NEGATIVE_INFINITY
  let isToldOfRight = false
  const mayAppend = () => performance.now() >= noAppendsUntilMs

  async function publishEvent(place: Place, event: Event): Promise<void> {
    const { channel, epoch, log } = place
    if (event.position !== null && event.attempt !== null) growing.delete(growingKey(channel, event.position))
    const id = `${epoch}-${event.seq}`
    const extras = { headers: headersOf(epoch, event) }
    const whole = { id, name: event.type, data: event.json, encoding: 'json', extras }
    const fits = Buffer.byteLength(event.json) <= roomBytes
    if (fits && (await isTaken(place, whole))) return
    // Whoever can reads it from the server; who cannot knows of it. What Ably refuses of this, too, would hold all else up.
    const instead = {
      id: `${id}-too-large`,
      name: 'holdfast.too_large',
      data: tooLarge(event),
      encoding: 'json',
      extras,
    }
    if (await isTaken(place, instead)) return
    log('Ably refuses an event, and word of it: clients read it from the server', { id, type: event.type })
  }

  /** False: Ably refuses it, now and later. */
  async function isTaken({ channel, signal }: Place, message: AblyMessage): Promise<boolean> {
    try {
      await rest.publish(channel, message, signal)
      return true
    } catch (error) {
      if (error instanceof AblyError && error.isRefused) return false
      throw error
    }
  }

  async function publishLines(place: Place, { first, end, text }: Lines): Promise<void> {
    const { channel, epoch, signal } = place
    const key = growingKey(channel, first.position)
    const grown = growing.get(key)
    const bytes = Buffer.byteLength(text)
    if (grown?.attempt === first.attempt && mayAppend() && grown.bytes + bytes <= roomBytes) {
      if (await isAppended(place, grown.serial, text)) {
        grown.bytes += bytes
        return
      }
    }
    growing.delete(key)
    const { position, attempt, index } = first
    // What is sent again may be cut otherwise. By its beginning alone it would be passed over with what was not sent before.
    const id = `${epoch}-${position}.${attempt}.${index}-${end}`
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

  /** False: Ably answers that it is not. The message may be gone, or the right to change it: another one is begun. */
  async function isAppended({ channel, signal, log }: Place, serial: string, text: string): Promise<boolean> {
    try {
      await rest.append(channel, serial, { name: chunksName, data: text }, signal)
      return true
    } catch (error) {
      if (!(error instanceof AblyError && error.isAnswered)) throw error
      const mayNot = error.status === 401 || error.status === 403
      if (mayNot || error.code === appendsNotEnabled) noAppendsUntilMs = performance.now() + refusedForMs
      if (mayNot && !isToldOfRight) {
        isToldOfRight = true
        log('Ably refuses appends, replies are published in pieces: give the key message-update-any', {
          code: error.code,
        })
      }
      return false
    }
  }

  return {
    async publish(channels, epoch, items, signal, log) {
      const runs = items.flatMap((item) => ('run' in item ? [item.run] : []))
      for (const channel of channels) {
        const place = { channel, epoch, signal, log }
        for (const item of items) if ('event' in item) await publishEvent(place, item.event)
        for (const lines of joined(epoch, runs, roomBytes)) await publishLines(place, lines)
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

type Lines = { first: ChunkRun; end: number; text: string }

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
      group.end = run.index + run.n
      group.text += line
      group.bytes += bytes
    } else groups.push({ first: run, end: run.index + run.n, text: line, bytes })
  }
  return groups
}

function lineOf(epoch: string, { turnId, messageId, position, attempt, index, n, json }: ChunkRun): string {
  const head = JSON.stringify({ epoch, turnId, messageId, position, attempt, index, n })
  return `${head.slice(0, -1)},"chunks":${json}}\n`
}
