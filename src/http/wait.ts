/**
 * Waiting for a turn's outcome, or for it to wait for people: for clients that want a message's reply, or what it asks, in
 * one answer. Who waits is a follower like any other (so wakeups wake it, and the poll where they do not), and holds a
 * connection and nothing of the turn: when the client goes away, the time is over or the server drains, only the waiting
 * ends.
 *
 * An event says only that there may be an outcome: what is answered is read afterwards, because the turn may have begun
 * another round, or its message may have been handed to another turn, whose reply is then waited for.
 */
import type { Cursor } from '../core/cursor.ts'
import type { Frame } from '../core/frames.ts'
import type { Hub, Sink } from '../log/hub.ts'
import type { Database } from '../store/database.ts'
import { messagePair, type Pair } from '../store/messages.ts'

export type WaitFor = {
  tenantId: string
  sessionId: string
  userId: string
  messageId: string
  /** The turn was made now, by the event of this seq. Null: it was there before, and may have an outcome already. */
  created: { turnId: string; seq: number } | null
}

export type Waiting = {
  /**
   * Resolves to the message with its reply as soon as the turn has an outcome (`hasOutcome`), or waits for people. Null:
   * neither within `waitMs`, or nobody can or may wait any longer. Never rejects: the message is stored, whatever becomes
   * of the waiting.
   */
  outcome(what: WaitFor, waitMs: number, signal: AbortSignal): Promise<Pair | null>
}

const outcomes = new Set(['complete', 'failed', 'stopped'])

/** Of the reply, too: it may be another turn's. */
export const hasOutcome = ({ turn, reply }: Pair) => outcomes.has(turn.state) && outcomes.has(reply.status)

/** Who comes when `waitersMax` wait does not wait, and is answered at once. */
export function createWaiting(hub: Hub, database: Database, waitersMax = 1_000): Waiting {
  let waiters = 0

  async function waited(what: WaitFor, waitMs: number, signal: AbortSignal): Promise<Pair | null> {
    const untilMs = performance.now() + waitMs
    let turn = what.created
    for (;;) {
      if (turn === null) {
        const pair = await messagePair(database, what.tenantId, what.sessionId, what.messageId, what.userId)
        if (pair === null || hasOutcome(pair)) return pair
        const wasHandedOver = outcomes.has(pair.turn.state)
        if ((wasHandedOver ? await stateOfReply(what, pair) : pair.turn.state) === 'waiting') return pair
        turn = { turnId: wasHandedOver ? pair.replyTurnId : pair.turn.id, seq: pair.seq }
      }
      if (!(await comesToSomething(hub, { ...what, ...turn }, untilMs - performance.now(), signal))) return null
      turn = null
    }
  }

  /** Of the turn that the message was handed to. */
  async function stateOfReply({ tenantId, sessionId, userId }: WaitFor, { reply }: Pair): Promise<string | undefined> {
    const pair = await messagePair(database, tenantId, sessionId, reply.id, userId)
    return pair?.turn.state
  }

  return {
    async outcome(what, waitMs, signal) {
      if (waitMs <= 0 || waiters >= waitersMax) return null
      waiters++
      try {
        return await waited(what, waitMs, signal)
      } catch {
        // The database or the log cannot be read now. The client reads later what became of its message.
        return null
      } finally {
        waiters--
      }
    },
  }
}

/** Resolves when the turn has an outcome or waits for people after `seq`. False: there is nothing to wait for any more. */
async function comesToSomething(
  hub: Hub,
  { tenantId, sessionId, userId, turnId, seq }: WaitFor & { turnId: string; seq: number },
  waitMs: number,
  signal: AbortSignal,
): Promise<boolean> {
  const cursor: Cursor = { epoch: hub.epoch(), seq, open: new Map() }
  let end!: (isThere: boolean) => void
  const ended = new Promise<boolean>((resolve) => {
    end = resolve
  })
  const giveUp = () => end(false)
  const sink: Sink = {
    send(frames) {
      if (frames.some((frame) => comesIn(frame, turnId))) end(true)
    },
    control(word) {
      if (word.type !== 'caught-up') giveUp()
    },
    room: () => null,
    end: giveUp,
  }
  const timer = setTimeout(giveUp, Math.max(0, waitMs))
  signal.addEventListener('abort', giveUp)
  if (signal.aborted) giveUp()
  const following = hub.follow({ tenantId, sessionId, userId, cursor }, sink)
  // Also where it cannot begin: then there is nothing to wait for.
  following.then((follow) => follow === null && giveUp(), giveUp)
  const isThere = await ended
  clearTimeout(timer)
  signal.removeEventListener('abort', giveUp)
  following.then(
    (follow) => follow?.stop(),
    () => undefined,
  )
  return isThere
}

/** Frames are text by now, encoded once for all followers; their head is as `core/frames` writes it. */
function comesIn({ json }: Frame, turnId: string): boolean {
  return headPattern.exec(json)?.[0].includes(`"turnId":"${turnId}"`) === true
}
const headPattern =
  /^\{"cursor":"[^"]*","after":"[^"]*","type":"(?:message\.(?:ai_response|error|stopped)|turn\.waiting)",[^{]*/
