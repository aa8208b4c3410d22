/**
 * The shared flush: chunks of all attempts of this process go to the database together. A flush starts as soon as the
 * one before was answered, but no sooner after its start than `flushMs`, with 250 attempts at most: each costs a row, and
 * a write to each of its readers. An attempt's first chunk goes at once. Only what came
 * back as held is shown to anybody, and only after the answer (I6).
 *
 * What an answer may be, for each attempt in the flush:
 *   held     stored: its index moves on, its chunks are told to followers
 *   busy     somebody else had the turn locked for a moment: the same chunks go with the next flush
 *   lost     the turn has another attempt, an outcome, or is being stopped: the attempt ends
 * and for the flush as a whole:
 *   unknown  no answer: ask where each attempt's chunks end in the log, then go on from there
 *   bad data one of the attempts cannot be stored: halve until it is alone; it fails, the others go on
 */
import { point } from '#points'
import type { Chunk } from '../core/chunk.ts'
import type { ChunkRun } from '../core/event.ts'
import { canJoin, join } from '../core/join.ts'
import { appendIfHeld, type ChunkRow, renewIfHeld, stillHeld, storedNextIndexes } from '../store/chunks.ts'
import { type Database, DatabaseError } from '../store/database.ts'

export type AppendTarget = {
  tenantId: string
  sessionId: string
  turnId: string
  replyId: string
  position: number
  audience: string | null
  attempt: number
}

/** One attempt's way into the log. */
export type AttemptLog = {
  /** Takes a chunk, already cleaned. It is stored with the next flush. */
  push(chunk: Chunk): void
  /** Null while there is room; else resolves when enough was stored. A provider that is faster than that waits. */
  room(): Promise<void> | null
  /** Resolves to how many chunks the log holds, when it holds all that was pushed; or when the attempt has ended. */
  flushed(): Promise<number>
  /** How many chunks of it the log holds now. */
  stored(): number
  /** Aborted when the attempt is not the turn's any more, or its chunks cannot be stored; `reason` is an `AppendEnd`. */
  readonly ended: AbortSignal
  /** Until this moment (monotonic) the lease may be trusted. Past it no provider is called. */
  trustedUntilMs(): number
  close(): void
}
export type AppendEnd = 'lost' | 'unstorable'

export type Appender = {
  open(target: AppendTarget, claimSentAtMs: number): AttemptLog
  /** Renews every lease now. Resolves when answered; rejects when the database does not answer. */
  renewAll(): Promise<void>
  stop(): void
}

const pendingBytesMax = 256 * 1024
/**
 * More attempts than that take turns. With 500 replies of 50 tokens/s each has a row each 30 ms, of one or two tokens:
 * a row costs a third of what a token does.
 */
const flushRowsMax = 250
/** Characters of JSON in one flush: beyond this the rest goes with the next. */
const flushCharactersMax = 8 * 1024 * 1024
const retryMs = 250
/** So much of a lease is trusted: the rest is for what a clock and an event loop may be late. */
export const trustOfLease = 0.8
/** A flush that held the turn leaves at least this part of the lease (it renews what has less). */
const leftAfterFlush = 2 / 3

type Open = AppendTarget & {
  pending: Chunk[]
  pendingBytes: number
  /** Sent and not answered, or to be sent again as it is. */
  inFlight: { json: string; n: number } | null
  nextIndex: number
  trustedUntilMs: number
  heldAtMs: number
  controller: AbortController
  roomWaiters: (() => void)[]
  flushWaiters: (() => void)[]
  closed: boolean
}

export function createAppender(options: {
  database: Database
  leaseMs: number
  flushMs: number
  /** Called once for each answered flush, with what was stored. */
  onStored: (stored: { target: AppendTarget; run: ChunkRun }[]) => void
  /** Called when a write of an attempt that has lost its turn touched no row (I3). */
  onRefused: (target: AppendTarget, write: 'append' | 'renewal') => void
  onDatabaseError: (error: unknown) => void
}): Appender {
  const { database, leaseMs, flushMs, onStored, onRefused, onDatabaseError } = options
  const opens = new Map<string, Open>()
  let flying = false
  /** Not before this moment (monotonic), unless an attempt's first chunk asks for it. */
  let nextFlushMs = Number.NEGATIVE_INFINITY
  let flushTimer: NodeJS.Timeout | undefined
  let flushAtMs = Number.POSITIVE_INFINITY
  let recovering = false
  let stopped = false
  const renewEveryMs = Math.min(leaseMs / 3, 1_000)
  const renewTimer = setInterval(() => {
    renewSilent().catch(onDatabaseError)
  }, renewEveryMs / 2)
  renewTimer.unref()

  function schedule(first: boolean): void {
    // Nearly every token comes while the next flush is set already.
    if (flying || stopped || (!first && flushAtMs !== Number.POSITIVE_INFINITY)) return
    const now = performance.now()
    const at = first ? now : Math.max(now, nextFlushMs)
    if (at >= flushAtMs) return
    clearTimeout(flushTimer)
    flushAtMs = at
    flushTimer = setTimeout(() => void flush(), at - now)
  }

  async function flush(): Promise<void> {
    flushAtMs = Number.POSITIVE_INFINITY
    if (flying || stopped) return
    flying = true
    try {
      if (recovering) await recover()
      const batch = takeBatch()
      nextFlushMs = performance.now() + flushMs
      if (batch.length > 0) await send(batch)
    } catch (error) {
      onDatabaseError(error)
      nextFlushMs = performance.now() + retryMs
    }
    flying = false
    if (recovering || [...opens.values()].some(hasWork)) schedule(false)
  }

  function takeBatch(): Open[] {
    const batch: Open[] = []
    let characters = 0
    let isCut = false
    for (const open of opens.values()) {
      if (!hasWork(open)) continue
      isCut = batch.length >= flushRowsMax || characters >= flushCharactersMax
      if (isCut) break
      if (open.inFlight === null) {
        open.inFlight = { json: JSON.stringify(open.pending), n: open.pending.length }
        open.pending = []
        open.pendingBytes = 0
        wake(open.roomWaiters)
      }
      batch.push(open)
      characters += open.inFlight.json.length
    }
    // To the end of the line: it is not always the same ones who wait.
    if (isCut) for (const open of batch) if (opens.delete(open.turnId)) opens.set(open.turnId, open)
    return batch
  }

  async function send(batch: Open[]): Promise<void> {
    const sentAtMs = performance.now()
    await point('append.send')
    let held: Set<string>
    try {
      held = await appendIfHeld(database, batch.map(rowOf), leaseMs)
    } catch (error) {
      return await sendFailed(batch, error)
    }
    await point('append.answered')
    settle(batch, held, sentAtMs)
    const skipped = batch.filter((open) => !held.has(open.turnId))
    if (skipped.length > 0) await judge(skipped, 'append')
  }

  function settle(batch: Open[], held: Set<string>, sentAtMs: number): void {
    const stored: { target: AppendTarget; run: ChunkRun }[] = []
    for (const open of batch) {
      if (!held.has(open.turnId)) continue
      trusted(open, sentAtMs)
      stored.push({ target: open, run: runOf(open) })
      accepted(open)
    }
    onStored(stored)
  }

  /** Which of those that were skipped are only busy. */
  async function judge(skipped: Open[], write: 'append' | 'renewal'): Promise<void> {
    const mine = await stillHeld(database, skipped)
    for (const open of skipped) {
      if (mine.has(open.turnId) || open.closed) continue
      onRefused(open, write)
      end(open, 'lost')
    }
  }

  async function sendFailed(batch: Open[], error: unknown): Promise<void> {
    const kind = error instanceof DatabaseError ? error.kind : 'bug'
    // 23505: an append whose answer was lost has landed after we had asked where the log ends.
    if (kind === 'unknown' || (error instanceof DatabaseError && error.code === '23505')) recovering = true
    else if (kind === 'bad_data' || kind === 'bug') return await halve(batch)
    throw error
  }

  async function halve(batch: Open[]): Promise<void> {
    if (batch.length === 1) return end(batch[0]!, 'unstorable')
    const middle = batch.length >> 1
    await send(batch.slice(0, middle))
    await send(batch.slice(middle))
  }

  async function recover(): Promise<void> {
    const unanswered = [...opens.values()].filter((open) => open.inFlight !== null)
    const ends = await storedNextIndexes(database, unanswered)
    recovering = false
    const stored: { target: AppendTarget; run: ChunkRun }[] = []
    for (const open of unanswered) {
      const ahead = (ends.get(open.turnId) ?? 0) - open.nextIndex
      if (ahead === 0) continue
      // The log holds what this attempt did not send under this number: whoever wrote it, it is not ours to go on.
      if (ahead !== open.inFlight!.n) {
        end(open, 'lost')
        continue
      }
      stored.push({ target: open, run: runOf(open) })
      accepted(open)
    }
    onStored(stored)
  }

  async function renewSilent(): Promise<void> {
    const before = performance.now() - renewEveryMs
    const silent = [...opens.values()].filter((open) => open.heldAtMs < before)
    if (silent.length > 0) await renew(silent)
  }

  async function renew(some: Open[]): Promise<void> {
    const sentAtMs = performance.now()
    // Not again before this one is answered, or has failed.
    for (const open of some) open.heldAtMs = sentAtMs
    const held = await renewIfHeld(database, some, leaseMs)
    for (const open of some) if (held.has(open.turnId)) trusted(open, sentAtMs)
    const skipped = some.filter((open) => !held.has(open.turnId))
    if (skipped.length > 0) await judge(skipped, 'renewal')
  }

  function trusted(open: Open, sentAtMs: number): void {
    open.heldAtMs = Math.max(open.heldAtMs, sentAtMs)
    open.trustedUntilMs = Math.max(open.trustedUntilMs, sentAtMs + leaseMs * leftAfterFlush * trustOfLease)
  }

  function accepted(open: Open): void {
    open.nextIndex += open.inFlight!.n
    open.inFlight = null
    if (!hasWork(open)) wake(open.flushWaiters)
  }

  function end(open: Open, why: AppendEnd): void {
    forget(open)
    open.closed = true
    open.controller.abort(why)
    wake(open.roomWaiters)
    wake(open.flushWaiters)
  }

  /** A later attempt of the same turn may have its place by now, in this very process. */
  function forget(open: Open): void {
    if (opens.get(open.turnId) === open) opens.delete(open.turnId)
  }

  return {
    open(target, claimSentAtMs) {
      const { tenantId, sessionId, turnId, replyId, position, audience, attempt } = target
      // Field by field, and nothing else that the target has: what each token looks at has one shape.
      const open: Open = {
        tenantId,
        sessionId,
        turnId,
        replyId,
        position,
        audience,
        attempt,
        pending: [],
        pendingBytes: 0,
        inFlight: null,
        nextIndex: 0,
        trustedUntilMs: claimSentAtMs + leaseMs * trustOfLease,
        heldAtMs: claimSentAtMs,
        controller: new AbortController(),
        roomWaiters: [],
        flushWaiters: [],
        closed: false,
      }
      // An older attempt of the same turn, if this process ran it, has lost.
      const older = opens.get(target.turnId)
      if (older) end(older, 'lost')
      opens.set(target.turnId, open)
      return {
        ended: open.controller.signal,
        push(chunk) {
          if (open.closed) return
          const last = open.pending.at(-1)
          if (last && canJoin(last, chunk)) open.pending[open.pending.length - 1] = join(last, chunk)
          else open.pending.push(chunk)
          open.pendingBytes += bytesOf(chunk)
          schedule(open.nextIndex === 0 && open.inFlight === null)
        },
        room() {
          if (open.closed || open.pendingBytes < pendingBytesMax) return null
          return new Promise((resolve) => open.roomWaiters.push(resolve))
        },
        async flushed() {
          while (!open.closed && hasWork(open)) await new Promise<void>((resolve) => open.flushWaiters.push(resolve))
          return open.nextIndex
        },
        stored: () => open.nextIndex,
        trustedUntilMs: () => open.trustedUntilMs,
        close() {
          open.closed = true
          forget(open)
        },
      }
    },
    async renewAll() {
      const all = [...opens.values()]
      if (all.length > 0) await renew(all)
    },
    stop() {
      stopped = true
      clearTimeout(flushTimer)
      clearInterval(renewTimer)
      for (const open of [...opens.values()]) end(open, 'lost')
    },
  }
}

function hasWork(open: Open): boolean {
  return open.inFlight !== null || open.pending.length > 0
}

function rowOf(open: Open): ChunkRow {
  const { tenantId, turnId, attempt, nextIndex: index, inFlight } = open
  return { tenantId, turnId, attempt, index, n: inFlight!.n, json: inFlight!.json, first: index === 0 }
}

function runOf(open: Open): ChunkRun {
  const { turnId, replyId: messageId, position, audience, attempt, nextIndex: index, inFlight } = open
  return { turnId, messageId, position, audience, attempt, index, n: inFlight!.n, json: inFlight!.json }
}

function wake(waiters: (() => void)[]): void {
  for (const resolve of waiters.splice(0)) resolve()
}

/** Roughly: it bounds memory, nothing is counted by it. */
function bytesOf(chunk: Chunk): number {
  if ('delta' in chunk && typeof chunk.delta === 'string') return chunk.delta.length + 60
  if ('inputTextDelta' in chunk && typeof chunk.inputTextDelta === 'string') return chunk.inputTextDelta.length + 60
  return JSON.stringify(chunk).length
}
