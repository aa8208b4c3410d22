/**
 * Sends what is due, on every runner: takes notices (`sending`, committed), calls the service, and writes what it said. The
 * machine in core/pushing decides when; this shell performs it. A process that dies between two of these steps leaves
 * `sending` behind, which any process gives up after `sendingMs`: longer than any call lasts.
 */
import { createHash } from 'node:crypto'
import { point } from '#points'
import {
  afterDelivery,
  afterReceipt,
  createPushing,
  type Delivery,
  type Notice,
  type PushDevice,
  type PushEffect,
  type PushInput,
  type PushKind,
  type PushMark,
  type PushSender,
  pushingNext,
  textOf,
} from '../core/pushing.ts'
import { type Database, DatabaseError } from '../store/database.ts'
import { deviceHash } from '../store/devices.ts'
import {
  giveUpPushes,
  markPushes,
  type PushKey,
  spreadPush,
  type TakenPush,
  type TakenTicket,
  takePushes,
  takeTickets,
} from '../store/pushes.ts'
import { askText, type PushOptions } from './options.ts'

export type Pusher = {
  start(): void
  /** Takes nothing more, and waits a moment for what is being sent. */
  stop(): Promise<void>
}

const sendingMs = 60_000
/** A service that has not answered by then has perhaps taken it. */
const callMs = 20_000
const stopMs = 5_000
const markTries = 5
const markAgainMs = 1_000
/** As many as Expo answers at a time. */
const ticketsMax = 300
const devicesOfAppMax = 100
const tendEveryMsMax = 30_000

type Sending = TakenPush & { target: PushDevice }

export function createPusher(options: {
  database: Database
  pollMs: number
  receiptsAfterMs: number
  /** Looked up each time: a reloaded module's is used. */
  push: () => PushOptions
  log: (line: string, detail: object) => void
  random: () => number
}): Pusher {
  const { database, pollMs, receiptsAfterMs, push, log, random } = options
  const state = createPushing(pollMs)
  const working = new Set<Promise<void>>()
  let timer: NodeJS.Timeout | undefined
  let tendTimer: NodeJS.Timeout | undefined
  let stopped = false

  const policy = () => ({ resend: push().resend ?? false, receiptsAfterMs })
  const senderOf = (kind: PushKind): PushSender | undefined => push()[kind]

  function input(what: PushInput): void {
    for (const effect of pushingNext(state, what)) perform(effect)
  }

  function perform(effect: PushEffect): void {
    if (effect.type === 'take') {
      work(take(effect.limit))
      return
    }
    clearTimeout(timer)
    timer = setTimeout(() => input({ type: 'timer' }), effect.ms)
    timer.unref()
  }

  function work(doing: Promise<void>): void {
    const done = doing
      .catch((error: unknown) =>
        log('push: failed', { error: error instanceof DatabaseError ? String(error) : nameOf(error) }),
      )
      .finally(() => working.delete(done))
    working.add(done)
  }

  async function take(limit: number): Promise<void> {
    const askedAtMs = performance.now()
    try {
      const { taken, dueInMs } = await takePushes(database, limit, sendingMs)
      if (taken.length > 0) work(batch(taken, askedAtMs).finally(() => input({ type: 'batch-ended' })))
      input({ type: 'taken', count: taken.length, dueInMs })
    } catch (error) {
      if (!stopped) log('push: nothing could be taken', { error: String(error) })
      input({ type: 'take-failed' })
    }
  }

  async function batch(taken: TakenPush[], askedAtMs: number): Promise<void> {
    await point('push.taken')
    const sending = taken.filter((each): each is Sending => each.state === 'sending' && each.target !== null)
    await Promise.all([
      ...taken.filter(({ state }) => state === 'due').map(spread),
      ...(['expo', 'web'] as const).map((kind) =>
        sendAll(
          kind,
          sending.filter(({ target }) => target.kind === kind),
          askedAtMs,
        ),
      ),
    ])
  }

  async function sendAll(kind: PushKind, pushes: Sending[], askedAtMs: number): Promise<void> {
    if (pushes.length === 0) return
    const deliveries = await deliver(kind, pushes, askedAtMs)
    await point('push.called')
    await mark(
      pushes.map((each, at) => {
        const delivery = deliveries[at] ?? { outcome: 'unknown', why: 'the sender said nothing of it' }
        return { push: each, delivery, mark: afterDelivery(delivery, each.tries, policy(), random()) }
      }),
    )
  }

  async function deliver(kind: PushKind, pushes: Sending[], askedAtMs: number): Promise<Delivery[]> {
    const all = (delivery: Delivery) => pushes.map(() => delivery)
    const sender = senderOf(kind)
    if (sender === undefined) return all({ outcome: 'again', why: `this process has no push.${kind}` })
    // Given up by now, or soon: whoever takes them next sends them.
    if (performance.now() - askedAtMs > sendingMs - 2 * callMs) {
      return all({ outcome: 'again', why: 'this process was paused' })
    }
    try {
      return await inTime(sender.send(pushes.map(noticeOf)))
    } catch (error) {
      return all({ outcome: 'unknown', why: nameOf(error) })
    }
  }

  function noticeOf(each: Sending): Notice {
    const { sessionId, userId, tenantId, event, seq, turnId, messageId, data } = each
    const own = turnId === null ? {} : { turnId, ...(messageId === null ? {} : { messageId }) }
    return {
      to: each.target,
      tag: tagOf(each),
      ...textFor(each, { sessionId, userId, tenantId, data }),
      data: { ...data, sessionId, event, seq, ...own },
    }
  }

  function textFor({ event, target }: Sending, about: Parameters<typeof askText>[3]) {
    try {
      return textOf(event, askText(push().texts, event, target.locale ?? null, about))
    } catch (error) {
      log('push.texts failed, the default is taken', { event, error: nameOf(error) })
      return textOf(event, null)
    }
  }

  /** Each of the devices that the app keeps gets a notice of its own. Where the app fails it is asked again later. */
  async function spread(taken: TakenPush): Promise<void> {
    const { userId, tenantId } = taken
    try {
      const devices = await inTime(Promise.resolve(push().devices?.(userId, { tenantId }) ?? []))
      const own = devices.slice(0, devicesOfAppMax).map((target) => ({ device: deviceHash(target), target }))
      await spreadPush(database, taken, [...new Map(own.map((each) => [each.device, each])).values()])
    } catch (error) {
      log('push.devices failed, it is asked again', { error: nameOf(error) })
    }
  }

  type Marked = { push: PushKey & { userId: string; target: PushDevice | null }; delivery?: Delivery; mark: PushMark }

  async function mark(marked: Marked[]): Promise<void> {
    tellFailed(marked)
    await surely(() =>
      markPushes(
        database,
        marked.map(({ push, mark }) => ({ ...push, ...mark })),
      ),
    )
    for (const { push: gone, mark } of marked) if (mark.state === 'gone' && gone.target) await forget(gone, gone.target)
  }

  async function forget({ userId, tenantId }: Marked['push'], device: PushDevice): Promise<void> {
    try {
      await push().forget?.(device, { userId, tenantId })
    } catch (error) {
      log('push.forget failed', { error: nameOf(error) })
    }
  }

  /** By what went wrong, one line each. */
  function tellFailed(marked: Marked[]): void {
    const counts = new Map<string, number>()
    for (const { delivery, mark } of marked) {
      if (delivery === undefined || delivery.outcome === 'sent') continue
      const what = `${mark.state}: ${delivery.why}`
      counts.set(what, (counts.get(what) ?? 0) + 1)
    }
    for (const [what, notices] of counts) log('push: not delivered', { what, notices })
  }

  /** What the service said is known here alone: without it nobody knows whether they were sent. */
  async function surely(ask: () => Promise<void>): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        return await ask()
      } catch (error) {
        const isOver = stopped || tries >= markTries || (error instanceof DatabaseError && error.kind === 'abandoned')
        if (isOver) throw error
        await new Promise((resolve) => setTimeout(resolve, markAgainMs).unref())
      }
    }
  }

  /** What others left behind, and what became of what was sent. */
  async function tend(): Promise<void> {
    const { resend } = policy()
    const given = await giveUpPushes(database, ticketsMax, resend)
    if (given > 0) log('push: whoever sent these has died', { notices: given, sentAgain: resend })
    if (resend && given > 0) input({ type: 'timer' })
    const sender = senderOf('expo')
    if (sender?.receipts === undefined) return
    const tickets = await takeTickets(database, ticketsMax, sendingMs)
    if (tickets.length > 0) await askReceipts(sender.receipts, tickets)
  }

  async function askReceipts(ask: NonNullable<PushSender['receipts']>, tickets: TakenTicket[]): Promise<void> {
    const receipts = await inTime(ask(tickets.map(({ ticket }) => ticket)))
    await mark(
      tickets.map((each) => {
        const delivery = receipts.get(each.ticket)
        const mark = afterReceipt(delivery, each, policy(), random())
        return { push: each, ...(delivery === undefined ? {} : { delivery }), mark }
      }),
    )
  }

  function scheduleTending(): void {
    const everyMs = Math.min(tendEveryMsMax, Math.max(pollMs, receiptsAfterMs / 2))
    tendTimer = setTimeout(() => {
      work(tend().finally(() => stopped || scheduleTending()))
    }, everyMs)
    tendTimer.unref()
  }

  return {
    start() {
      input({ type: 'start' })
      scheduleTending()
    },
    async stop() {
      stopped = true
      input({ type: 'drain' })
      clearTimeout(timer)
      clearTimeout(tendTimer)
      let waiting: NodeJS.Timeout | undefined
      const over = new Promise<void>((resolve) => {
        waiting = setTimeout(resolve, stopMs)
      })
      // What is taken at this moment is sent, too.
      const idle = async () => {
        while (working.size > 0) await Promise.all(working)
      }
      await Promise.race([over, idle()])
      clearTimeout(waiting)
    },
  }
}

/** The same for all that may be said of one turn, and on every device: a later one takes its place. */
function tagOf({ tenantId, sessionId, about, turnId }: TakenPush): string {
  if (turnId !== null) return turnId.replaceAll('-', '')
  const all = JSON.stringify([tenantId, sessionId, about])
  return createHash('sha256').update(all).digest('base64url').slice(0, 32)
}

/** Not its message: that may hold a token, or what the app says. */
function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error
}

class NoAnswer extends Error {
  override readonly name = 'NoAnswer'
}

function inTime<T>(work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new NoAnswer(`no answer within ${callMs} ms`)), callMs)
    work.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}
