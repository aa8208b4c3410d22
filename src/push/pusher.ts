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
  stillPushing,
  type TakenPush,
  type TakenTicket,
  takePushes,
  takeTickets,
} from '../store/pushes.ts'
import { deviceOf } from './device-of.ts'
import { askText, type PushOptions } from './options.ts'

export type Pusher = {
  start(): void
  /** Takes nothing more, and waits a moment for what is being sent. */
  stop(withinMs?: number): Promise<void>
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
      const { taken, dueInMs } = await takePushes(database, limit, sendingMs, push().devices !== undefined)
      if (taken.length > 0) work(batch(taken, askedAtMs).finally(() => input({ type: 'batch-ended' })))
      input({ type: 'taken', count: taken.length, dueInMs })
    } catch (error) {
      if (!stopped) log('push: nothing could be taken', { error: String(error) })
      input({ type: 'take-failed' })
    }
  }

  async function batch(taken: TakenPush[], askedAtMs: number): Promise<void> {
    await point('push.taken')
    const late = taken.filter(({ state }) => state === 'failed').length
    if (late > 0) log('push: not delivered', { what: 'failed: nobody took it within a day', notices: late })
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
        const delivery = deliveries[at]!
        // The app knows, and perhaps who has it now.
        const push = delivery === notTheirs ? { ...each, target: null } : each
        return { push, delivery, mark: afterDelivery(delivery, each.tries, policy(), random()) }
      }),
    )
  }

  /** A device that the app keeps was perhaps given to somebody else since it was asked. */
  async function stillTheirs({ device, userId, tenantId }: Sending): Promise<Delivery | null> {
    try {
      const kept = await keptDevices(userId, tenantId)
      return kept.has(device) ? null : notTheirs
    } catch (error) {
      return { outcome: 'again', why: `push.devices could not be asked (${nameOf(error)})` }
    }
  }

  async function keptDevices(userId: string, tenantId: string): Promise<Map<string, PushDevice>> {
    const ask = push().devices
    if (ask === undefined) throw new NoDevices('This process has no push.devices.')
    const answered: readonly unknown[] = await inTime(Promise.resolve(ask(userId, { tenantId })))
    const devices = answered.slice(0, devicesOfAppMax).map(deviceOf)
    const kept = devices.filter((device) => device !== null)
    if (kept.length < devices.length) {
      const leftOut = devices.length - kept.length
      log('push.devices: some of what it answered is no device (see PushDevice), and is left out', { leftOut })
    }
    return new Map(kept.map((device) => [deviceHash(device), device]))
  }

  async function deliver(kind: PushKind, pushes: Sending[], askedAtMs: number): Promise<Delivery[]> {
    const all = (delivery: Delivery) => pushes.map(() => delivery)
    const sender = senderOf(kind)
    if (sender === undefined) return all({ outcome: 'again', why: `this process has no push.${kind}` })
    const checked = await Promise.all(pushes.map((each) => (each.isStale ? stillTheirs(each) : null)))
    // Given up by now, or soon: whoever takes them next sends them.
    if (performance.now() - askedAtMs > sendingMs - 2 * callMs) {
      return all({ outcome: 'again', why: 'this process was paused' })
    }
    const sent = await sendTo(
      sender,
      pushes.filter((_, at) => checked[at] === null),
    )
    return checked.map((delivery) => delivery ?? sent.shift() ?? unanswered)
  }

  async function sendTo(sender: PushSender, pushes: Sending[]): Promise<Delivery[]> {
    if (pushes.length === 0) return []
    try {
      return [...(await inTime(sender.send(pushes.map(noticeOf))))]
    } catch (error) {
      return pushes.map(() => ({ outcome: 'unknown', why: nameOf(error) }))
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
      const kept = await keptDevices(userId, tenantId)
      await spreadPush(
        database,
        taken,
        [...kept].map(([device, target]) => ({ device, target })),
      )
    } catch (error) {
      log('push.devices failed, it is asked again', { error: nameOf(error) })
    }
  }

  type Marked = { push: PushKey & { userId: string; target: PushDevice | null }; delivery?: Delivery; mark: PushMark }

  async function mark(marked: Marked[]): Promise<void> {
    tellFailed(marked)
    let left = marked.map(({ push, mark }) => ({ ...push, ...mark }))
    await surely(async () => {
      left = await markPushes(database, left)
      if (left.length > 0) throw new HeldElsewhere('Notices are held by another transaction.')
    })
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
        const isHeld = error instanceof HeldElsewhere
        const isAbandoned = error instanceof DatabaseError && error.kind === 'abandoned'
        const isOver = tries >= markTries || isAbandoned || (stopped && !isHeld)
        if (isOver) throw error
        await new Promise((resolve) => setTimeout(resolve, markAgainMs).unref())
      }
    }
  }

  /** What others left behind, and what became of what was sent. */
  async function tend(): Promise<void> {
    await stillPushing(database, { asksApp: push().devices !== undefined })
    const { resend } = policy()
    const given = await giveUpPushes(database, ticketsMax, resend)
    if (given > 0) log('push: whoever sent these has died', { notices: given, sentAgain: resend })
    if (resend && given > 0) input({ type: 'timer' })
    const sender = senderOf('expo')
    if (sender?.receipts === undefined) return
    for (let count = ticketsMax; count === ticketsMax && !stopped; ) {
      const tickets = await takeTickets(database, ticketsMax, sendingMs)
      count = tickets.length
      if (count > 0) await askReceipts(sender.receipts, tickets)
    }
  }

  async function askReceipts(ask: NonNullable<PushSender['receipts']>, tickets: TakenTicket[]): Promise<void> {
    const receipts = await inTime(ask(tickets.map(({ ticket }) => ticket))).catch((error: unknown) => {
      log('push: receipts could not be asked for', { error: nameOf(error) })
      return null
    })
    await mark(
      tickets.map((each) => {
        const delivery = receipts?.get(each.ticket)
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
    async stop(withinMs = stopMs) {
      stopped = true
      input({ type: 'drain' })
      clearTimeout(timer)
      clearTimeout(tendTimer)
      let waiting: NodeJS.Timeout | undefined
      const over = new Promise<void>((resolve) => {
        waiting = setTimeout(resolve, withinMs)
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

const notTheirs: Delivery = { outcome: 'gone', why: 'the app says that its user has it no more' }
const unanswered: Delivery = { outcome: 'unknown', why: 'the sender said nothing of it' }

/** Not its message: that may hold a token, or what the app says. */
function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error
}

/** By one that writes new events of their sessions: it ends soon. */
class HeldElsewhere extends Error {
  override readonly name = 'HeldElsewhere'
}

class NoDevices extends Error {
  override readonly name = 'NoDevices'
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
