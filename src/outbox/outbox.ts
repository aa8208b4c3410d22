/**
 * Takes what is due in the outbox and does it, on every runner: each row under a lease that is renewed while it runs. A process
 * that dies leaves it to the next that looks when the lease has run out; so it is done at least once, and by two at a time only
 * where a process was paused for longer than its lease. Of one key one is done at a time (sql/0016). A wakeup starts it at
 * once; the poll finds what no wakeup told.
 */
import { point } from '#points'
import { type Ending, endingOf, type Outcome, type TryPolicy } from '../core/outbox.ts'
import type { Database } from '../store/database.ts'
import { endOutbox, renewOutbox, type Taken, takeOutbox, webhookSeen } from '../store/outbox.ts'
import { type AnyJobs, jobDefaults, runJob } from './jobs.ts'
import { topicOf, type Webhook } from './webhooks.ts'

export type Outbox = {
  /** Something was added, or a time has come: looks now. */
  look(): void
  /** Events of these types were stored; null: anything may have been. */
  hear(types: readonly string[] | null): void
  start(): void
  /** Takes nothing more, waits a moment for what is being done, and gives the rest back. */
  stop(withinMs?: number): Promise<void>
}

type Work = TryPolicy & { timeoutMs: number; run(taken: Taken, signal: AbortSignal): Promise<Outcome> }
type Running = { taken: Taken; lost: AbortController; trustedUntilMs: number }

/** Of each topic at a time in this process: a receiver that hangs takes no place from the others. */
const runningMax = 10
const takeAgainMs = 1_000
const stopMs = 5_000
const endTries = 5
const endAgainMs = 1_000
const seenEveryMs = 3_600_000
/** Of the lease as the database counts it, from when it was asked for. */
const trustedShare = 0.8
/** A webhook's own time is shorter. */
const webhookTimeoutMs = 120_000

export function createOutbox(options: {
  database: Database
  /** Looked up each time: a reloaded module's are used. */
  jobs: () => AnyJobs
  webhooks: readonly Webhook[]
  leaseMs: number
  pollMs: number
  log: (line: string, detail: object) => void
  random: () => number
}): Outbox {
  const { database, jobs, webhooks, leaseMs, pollMs, log, random } = options
  const running = new Set<Running>()
  const working = new Set<Promise<void>>()
  let looking: Promise<void> | undefined
  let lookAgain = false
  let stopping = false
  let timer: NodeJS.Timeout | undefined
  let timers: NodeJS.Timeout[] = []

  function workOf(topic: string): Work | undefined {
    const webhook = webhooks.find((each) => topicOf(each) === topic)
    if (webhook) {
      return { ...webhook, timeoutMs: webhookTimeoutMs, run: (taken, signal) => webhook.send(database, taken, signal) }
    }
    const all = jobs()
    const job = Object.hasOwn(all, topic) ? all[topic] : undefined
    return job && { ...jobDefaults, ...defined(job), run: (taken, signal) => runJob(job, taken, signal) }
  }

  const topics = () => [...Object.keys(jobs()), ...webhooks.map(topicOf)]

  function look(): void {
    if (stopping) return
    lookAgain = true
    looking ??= lookAll().finally(() => {
      looking = undefined
    })
  }

  async function lookAll(): Promise<void> {
    let nextMs = pollMs
    while (lookAgain && !stopping) {
      lookAgain = false
      try {
        nextMs = Math.min(pollMs, (await take()) ?? pollMs)
      } catch (error) {
        if (!stopping) log('outbox: nothing could be taken', { error: String(error) })
        nextMs = Math.max(takeAgainMs, pollMs)
      }
    }
    clearTimeout(timer)
    if (stopping) return
    timer = setTimeout(look, nextMs)
    timer.unref()
  }

  /** Answers when the next one is due. */
  async function take(): Promise<number | null> {
    const counts = new Map<string, number>()
    for (const { taken } of running) counts.set(taken.topic, (counts.get(taken.topic) ?? 0) + 1)
    const free = (topic: string) => runningMax - (counts.get(topic) ?? 0)
    // The end of one of the others looks again.
    const asked = topics().filter((topic) => free(topic) > 0)
    if (asked.length === 0) return null
    const sentMs = performance.now()
    const { taken, more, dueInMs } = await takeOutbox(database, { topics: asked, limits: asked.map(free), leaseMs })
    if (more) lookAgain = true
    for (const each of taken) {
      const one = { taken: each, lost: new AbortController(), trustedUntilMs: sentMs + leaseMs * trustedShare }
      running.add(one)
      const done = doOne(one)
        .catch((error: unknown) => log('outbox: what became of one could not be stored', { error: String(error) }))
        .finally(() => {
          running.delete(one)
          working.delete(done)
          // The next of its key.
          look()
        })
      working.add(done)
    }
    return dueInMs
  }

  async function doOne(one: Running): Promise<void> {
    const { taken } = one
    await point('outbox.taken')
    const work = workOf(taken.topic)
    // Of a module that was reloaded meanwhile.
    if (work === undefined) return await end(taken, { state: 'due', afterMs: pollMs, error: null, untried: true })
    const outcome =
      taken.tries > work.attemptsMax
        ? ({ outcome: 'never', why: `Each process that tried it has died (${work.attemptsMax} times).` } as const)
        : await within(work, one)
    await point('outbox.called')
    if (one.lost.signal.aborted && outcome.outcome !== 'done') {
      return await end(taken, { state: 'due', afterMs: 0, error: null, untried: true })
    }
    const ending = endingOf(outcome, taken.tries, work, random())
    await end(taken, ending)
    await point('outbox.ended')
    if (ending.state === 'dead') {
      const { n, topic, tries } = taken
      log('outbox: given up, it is a dead letter: see "holdfast outbox show"', { n, topic, tries })
    }
  }

  /** Its time is over for us, whether it goes on or not. */
  async function within({ run, timeoutMs }: Work, { taken, lost }: Running): Promise<Outcome> {
    const aborting = new AbortController()
    const signal = AbortSignal.any([aborting.signal, lost.signal])
    let giveUp: NodeJS.Timeout | undefined
    const late = new Promise<Outcome>((resolve) => {
      giveUp = setTimeout(() => {
        resolve({ outcome: 'again', why: `It took longer than ${timeoutMs} ms.` })
        aborting.abort()
      }, timeoutMs)
    })
    const cut = new Promise<Outcome>((resolve) => {
      const end = () => resolve({ outcome: 'again', why: 'Its process was ended, or had lost it.' })
      if (lost.signal.aborted) end()
      lost.signal.addEventListener('abort', end)
    })
    try {
      return await Promise.race([run(taken, signal), late, cut])
    } finally {
      clearTimeout(giveUp)
    }
  }

  /** What became of it is known here alone: without it, it is done once more. */
  async function end(taken: Taken, ending: Ending): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        return await endOutbox(database, taken, ending)
      } catch (error) {
        if (tries >= endTries || stopping) throw error
        await new Promise((resolve) => setTimeout(resolve, endAgainMs).unref())
      }
    }
  }

  async function renew(): Promise<void> {
    const held = [...running]
    if (held.length === 0) return
    const sentMs = performance.now()
    const renewed = await renewOutbox(
      database,
      held.map(({ taken }) => taken),
      leaseMs,
    ).catch(() => new Set<number>())
    for (const one of held) {
      if (renewed.has(one.taken.n)) one.trustedUntilMs = sentMs + leaseMs * trustedShare
      else if (performance.now() >= one.trustedUntilMs) one.lost.abort()
    }
  }

  async function seen(): Promise<void> {
    for (const { name, events } of webhooks) await webhookSeen(database, name, events)
  }

  return {
    look,
    hear(types) {
      const isWanted = (type: string) => webhooks.some(({ events }) => events === null || events.includes(type))
      if (types === null || types.some(isWanted)) look()
    },
    start() {
      look()
      timers = [
        setInterval(() => void renew(), leaseMs / 3),
        setInterval(() => void seen().catch(() => undefined), seenEveryMs),
      ]
      for (const each of timers) each.unref()
    },
    async stop(withinMs = stopMs) {
      stopping = true
      clearTimeout(timer)
      const late = setTimeout(() => {
        for (const { lost } of running) lost.abort()
      }, withinMs)
      await looking
      await Promise.all(working)
      clearTimeout(late)
      for (const each of timers) clearInterval(each)
    },
  }
}

/** What is given as undefined counts as not given. */
function defined<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, each]) => each !== undefined)) as T
}
