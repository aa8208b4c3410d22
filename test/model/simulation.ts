/**
 * Processes in virtual time on the model of the store: the runner's and the follower's machines, each with a thin
 * shell, and everything that may go wrong between them. One seed is one schedule. Chaos lasts `chaosMs`; then nothing
 * fails any more, but wakeups stay lost if they were to be lost. What is wrong is collected in `problems`.
 *
 *   the database   refuses, or does what it was asked and is not heard (or only later), or does nothing and is not heard
 *   a process      dies and comes back with an empty memory, or is paused and goes on where it was
 *   a wakeup       is lost, doubled or late
 *   a client       retries what it saw fail or stop, several times and through any process, stops what it sees, and
 *                  interrupts it with the next message; each names the round that it saw
 */
import { afterError, retryPolicy } from '../../src/core/backoff.ts'
import { type ClaimInput, type Claiming, claimingNext, createClaiming } from '../../src/core/claiming.ts'
import { type Cursor, decodeCursor, encodeCursor } from '../../src/core/cursor.ts'
import { ReplyError } from '../../src/core/errors.ts'
import { type ChunkRun, type Event, maySee } from '../../src/core/event.ts'
import { createFollowing, type FollowInput, type Following, follow } from '../../src/core/following.ts'
import { numbersOf } from '../support/random.ts'
import { chunkOf } from './commands.ts'
import * as store from './store.ts'
import { missingAt, type Place, problemOf } from './witness.ts'

/** What a broken variant puts in the place of the real thing. */
export type Parts = {
  store: Pick<typeof store, 'claim' | 'append' | 'finish' | 'fail' | 'stop' | 'retry' | 'accept'>
  claimingNext: typeof claimingNext
  follow: typeof follow
  /** Where to go on after an append whose answer was lost. */
  nextIndexAfterUnknown: (stored: number, believed: number) => number
}
export const realParts: Parts = { store, claimingNext, follow, nextIndexAfterUnknown: (stored) => stored }

export type Plan = {
  seed: number
  processes: number
  turns: number
  chaosMs: number
  /** Out of 100, while chaos lasts. */
  databaseFails: number
  /** Of claims alone, which are carried out. */
  claimsLost: number
  deaths: number
  pauses: number
  wakeupsLost: number
  stops: number
  /** Messages that are sent to interrupt what runs. */
  interrupts: number
  /** The provider fails for an attempt. */
  errors: number
  /** A client that sees a failed or stopped reply asks for another one. */
  retries: number
}

type Note = { events: Event[]; runs: ChunkRun[] }
type Attempt = store.Key & { failures: number; nextIndex: number; chunks: number; fails: boolean; over: boolean }
type Process = {
  name: string
  /** Rises with each death: what was on its way to the one before does not arrive. */
  life: number
  isDown: boolean
  pausedUntilMs: number
  claiming: Claiming
  timer: number
  attempts: Set<Attempt>
  following: Following
  place: Place
  lastCursor: string
}
export type World = {
  plan: Plan
  parts: Parts
  random: () => number
  nowMs: number
  queue: { atMs: number; order: number; run: () => void }[]
  order: number
  model: store.Model
  processes: Process[]
  /** Until when the lease of (turn, attempt) cannot have run out, by what was answered as held. */
  leases: Map<string, number>
  acknowledged: Set<string>
  /** Attempts that some process runs or ran. */
  begun: Set<string>
  startedAtMs: Map<string, number>
  /** Rounds (message and number) that somebody asked the database to stop, or that an interrupt was to end; to retry. */
  stopsAsked: Set<string>
  interrupted: Set<string>
  retriesAsked: Set<string>
  problems: string[]
  count: Record<(typeof counted)[number], number>
}
const counted = [
  ...(['takeovers', 'again', 'unknown', 'refused', 'deaths', 'lost', 'stops', 'late', 'frames'] as const),
  ...(['failed', 'interrupts', 'retries', 'lateRetries'] as const),
]

export const leaseMs = 3_000
export const pollMs = 1_000
const sessionId = 's0'
const userId = 'ann'
const latencyMs = 20
const retryMs = 250
const epoch = 'e1'
const expiresMs = 3_600_000
const roundsMax = 4
const policy = { ...retryPolicy, attemptsMax: 2 }

export function simulate(plan: Plan, parts: Parts = realParts, act?: (world: World) => void): World {
  const world: World = {
    ...{ plan, parts, random: randomOf(plan.seed), nowMs: 0, queue: [], order: 0, model: store.createModel() },
    ...{
      processes: [],
      leases: new Map(),
      acknowledged: new Set(),
      begun: new Set(),
      startedAtMs: new Map(),
      stopsAsked: new Set(),
      interrupted: new Set(),
      retriesAsked: new Set(),
      problems: [],
    },
    count: Object.fromEntries(counted.map((name) => [name, 0])) as World['count'],
  }
  store.createSession(world.model, sessionId, userId)
  for (let at = 0; at < plan.processes; at++) world.processes.push(born(`p${at}`))
  for (const process of world.processes) start(world, process)
  for (let turn = 0; turn < plan.turns; turn++) after(world, draw(world, plan.chaosMs), () => send(world, turn))
  act?.(world)
  // Long enough for several takeovers in a row.
  runUntil(world, plan.chaosMs + 60_000)
  judgeEnd(world)
  return world
}

// Time ----------------------------------------------------------------------------------------------------------------

function randomOf(seed: number): () => number {
  const next = numbersOf(seed)
  return () => next() / 2 ** 32
}

function draw({ random }: World, below: number): number {
  return Math.floor(random() * below)
}

function happens(world: World, percent: number): boolean {
  return world.nowMs < world.plan.chaosMs && draw(world, 100) < percent
}

function after(world: World, ms: number, run: () => void): void {
  world.queue.push({ atMs: world.nowMs + ms, order: world.order++, run })
}

/** For this life of the process only, and when it is not paused. */
function afterFor(world: World, process: Process, ms: number, run: () => void): void {
  const { life } = process
  const once = () => {
    if (process.life !== life || process.isDown) return
    if (process.pausedUntilMs > world.nowMs) after(world, process.pausedUntilMs - world.nowMs, once)
    else run()
  }
  after(world, ms, once)
}

function runUntil(world: World, endMs: number): void {
  while (world.problems.length === 0) {
    const next = world.queue.reduce((best, each) => (isBefore(each, best) ? each : best), world.queue[0]!)
    if (!next || next.atMs > endMs) return
    world.queue.splice(world.queue.indexOf(next), 1)
    world.nowMs = Math.max(world.nowMs, next.atMs)
    next.run()
  }
}

function isBefore(one: World['queue'][number], other: World['queue'][number]): boolean {
  return one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order)
}

// Processes -----------------------------------------------------------------------------------------------------------

function born(name: string): Process {
  const cursor: Cursor = { epoch, seq: 0, open: new Map() }
  return {
    ...{ name, life: 0, isDown: false, pausedUntilMs: 0, timer: 0, attempts: new Set() },
    claiming: createClaiming({ concurrency: 3, pollMs }),
    ...{ following: createFollowing(cursor), place: { seq: 0, next: new Map() }, lastCursor: encodeCursor(cursor) },
  }
}

/** Its memory is new; its client comes back with the cursor of the last frame that it got. */
function start(world: World, process: Process): void {
  process.isDown = false
  process.claiming = createClaiming({ concurrency: 3, pollMs })
  process.attempts = new Set()
  process.following = createFollowing(decodeCursor(process.lastCursor)!)
  claimInput(world, process, { type: 'start' })
  followInput(world, process, { type: 'start' })
  every(world, process, leaseMs / 6, () => renewAll(world, process, () => undefined))
  every(world, process, pollMs, () => followInput(world, process, { type: 'wake' }))
  every(world, process, 2_000, () => sweep(world, process))
  every(world, process, 500, () => {
    if (happens(world, world.plan.deaths)) kill(world, process)
    else if (happens(world, world.plan.pauses)) process.pausedUntilMs = world.nowMs + draw(world, 3 * leaseMs)
  })
}

function every(world: World, process: Process, ms: number, run: () => void): void {
  afterFor(world, process, ms, () => {
    every(world, process, ms, run)
    run()
  })
}

export function kill(world: World, process: Process, backAfterMs = draw(world, 4_000)): void {
  world.count.deaths++
  process.life++
  process.isDown = true
  process.pausedUntilMs = 0
  after(world, backAfterMs, () => start(world, process))
}

type Answer<T> = { ok: T } | { error: 'refused' | 'unknown' }

/** Asks the database. The answer is not heard by a process that has died meanwhile. */
function ask<T>(
  world: World,
  process: Process,
  work: () => T,
  hear: (answer: Answer<T>) => void,
  fate: Fate = fateOf(world, world.plan.databaseFails),
): void {
  if (fate === 'late') after(world, latencyMs + draw(world, 1_500), () => performed(world, work))
  afterFor(world, process, draw(world, latencyMs), () => {
    let answer: Answer<T> = { error: fate === 'refused' ? 'refused' : 'unknown' }
    if (fate === 'well' || fate === 'unheard') {
      const ok = performed(world, work)
      if (fate === 'well') answer = { ok }
    }
    if ('error' in answer) world.count[answer.error]++
    afterFor(world, process, draw(world, latencyMs), () => hear(answer))
  })
}

/** `late`: the database carries it out when its asker has given it up. */
type Fate = 'well' | 'refused' | 'unheard' | 'gone' | 'late'

function fateOf(world: World, percent: number): Fate {
  return happens(world, percent) ? (['refused', 'unheard', 'gone', 'late'] as const)[draw(world, 4)]! : 'well'
}

function performed<T>(world: World, work: () => T): T {
  world.model.nowMs = Math.max(world.model.nowMs, world.nowMs)
  return work()
}

/** Asks until there is an answer. */
function askAgain<T>(world: World, process: Process, work: () => T, hear: (ok: T) => void): void {
  ask(world, process, work, (answer) => {
    if ('ok' in answer) hear(answer.ok)
    else {
      claimInput(world, process, { type: 'database-failed' })
      afterFor(world, process, retryMs, () => askAgain(world, process, work, hear))
    }
  })
}

function tell(world: World, from: Process, note: Note): void {
  for (const process of world.processes) {
    const isLost = process !== from && draw(world, 100) < world.plan.wakeupsLost
    if (isLost) world.count.lost++
    const times = isLost ? 0 : 1 + (draw(world, 10) === 0 ? 1 : 0)
    for (let time = 0; time < times; time++) {
      afterFor(world, process, process === from ? 0 : draw(world, draw(world, 5) === 0 ? 2_000 : 10), () => {
        followInput(world, process, { type: 'offer', ...note })
        if (note.events.length > 0) claimInput(world, process, { type: 'wake' })
      })
    }
  }
}

// Clients -------------------------------------------------------------------------------------------------------------

function send(world: World, turn: number): void {
  const process = world.processes[draw(world, world.processes.length)]!
  const name = String(turn).padStart(12, '0')
  const acceptance: store.Acceptance = {
    ...{ sessionId, userId, messageId: `m${turn}`, turnId: `00000000-0000-4000-8000-${name}`, replyId: `r${turn}` },
    ...{ text: 'hi', lane: turn % 3 === 0 ? 'ann' : 'main', audience: null, expiresMs },
    // The same each time that it is sent.
    whenBusy: (turn * 37 + world.plan.seed) % 100 < world.plan.interrupts ? 'interrupt' : 'queue',
  }
  const work = () => {
    const begun = acceptance.whenBusy === 'interrupt' ? store.begunIn(world.model, acceptance).map(roundName) : []
    const answer = world.parts.store.accept(world.model, acceptance)
    if (answer.outcome === 'created') {
      for (const round of begun) world.interrupted.add(round)
      world.count.interrupts += begun.length
    }
    return answer
  }
  ask(world, process, work, (answer) => {
    if (!('ok' in answer)) return after(world, retryMs, () => send(world, turn))
    world.acknowledged.add(acceptance.messageId)
    if (answer.ok.outcome === 'created') tell(world, process, { events: [answer.ok.event], runs: [] })
    if ('interrupted' in answer.ok) {
      for (const { messageId, round } of answer.ok.interrupted) stop(world, process, messageId, round, 1)
    }
    if (happens(world, world.plan.stops)) {
      const round = draw(world, 3) > 0 ? 1 : null
      after(world, draw(world, 3_000), () => stop(world, process, acceptance.messageId, round, 1))
    }
  })
  // Whoever gets no answer sends again, with the same id.
  after(world, 1_000, () => {
    if (!world.acknowledged.has(acceptance.messageId)) send(world, turn)
  })
}

const roundIn = ({ json }: Event) => (JSON.parse(json) as { round: number }).round
const roundName = ({ messageId, round }: { messageId: string; round: number }) => `${messageId} ${round}`

/** As src/log/stop.ts does it. `round`: only that one; null: whichever it is in. */
function stop(world: World, process: Process, messageId: string, round: number | null, tries: number): void {
  const read = () => {
    const there = store.sessionOf(world.model, sessionId).turns.find((each) => each.messageId === messageId)!
    const nextIndex = there.open ? store.nextIndexOf(there) : 0
    return { turnId: there.id, attempt: there.attempt, round: there.round, isOpen: there.open, nextIndex }
  }
  askAgain(world, process, read, ({ turnId, attempt, round: present, ...seen }) => {
    if (round !== null && round !== present) return
    const key = { sessionId, turnId, attempt }
    const asked = { round: present, ...seen, parts: [], by: userId, reason: null, lastTry: tries >= 3 }
    const work = () => {
      world.stopsAsked.add(roundName({ messageId, round: present }))
      return world.parts.store.stop(world.model, key, asked)
    }
    askAgain(world, process, work, (answer) => {
      if (answer.outcome === 'again' || (answer.outcome === 'stopping' && tries < 4))
        stop(world, process, messageId, round, tries + 1)
      if (answer.outcome === 'stopped') {
        world.count.stops++
        tell(world, process, { events: [answer.event], runs: [] })
      }
    })
  })
}

function sweep(world: World, process: Process): void {
  for (const { messageId, round, stopping } of store.sessionOf(world.model, sessionId).turns) {
    if (stopping !== null) stop(world, process, messageId, round, 3)
  }
}

/** A client that sees a reply fail or stop asks for another, up to three times, each time through any process. */
function retrySome(world: World, event: Event): void {
  const { type, turnId } = event
  if ((type !== 'message.error' && type !== 'message.stopped') || !happens(world, world.plan.retries)) return
  const { messageId } = store.turnOf(world.model, { sessionId, turnId: turnId! })!
  const round = roundIn(event)
  for (let times = 1 + draw(world, 3); times > 0; times--) {
    after(world, draw(world, 3_000), () => retry(world, messageId, round))
  }
}

function retry(world: World, messageId: string, round: number): void {
  const process = world.processes[draw(world, world.processes.length)]!
  const work = () => {
    world.retriesAsked.add(roundName({ messageId, round }))
    const replyId = `${messageId}.${world.order++}`
    const asked = { round, replyId, roundsMax, expiresMs }
    const answer = world.parts.store.retry(world.model, { sessionId, messageId }, asked)
    if (answer.outcome === 'done' && roundIn(answer.event) !== round + 1) {
      world.problems.push(`I10: a retry of ${messageId} ${round} made round ${roundIn(answer.event)}`)
    }
    return answer
  }
  ask(world, process, work, (answer) => {
    if (!('ok' in answer)) return after(world, retryMs, () => retry(world, messageId, round))
    if (answer.ok.outcome !== 'done') {
      world.count.lateRetries++
      return
    }
    world.count.retries++
    tell(world, process, { events: [answer.ok.event], runs: [] })
  })
}

function followInput(world: World, process: Process, input: FollowInput): void {
  for (const effect of world.parts.follow(process.following, input)) {
    if (effect.type === 'reset') world.problems.push(`I5: reset, ${effect.reason}`)
    if (effect.type === 'read') {
      const { following } = process
      const bounds = { eventsMax: 1 + draw(world, 20), runsMax: 1 + draw(world, 20) }
      ask(
        world,
        process,
        () => store.readPage(world.model, sessionId, following, bounds)!,
        (answer) => {
          followInput(world, process, 'ok' in answer ? { type: 'page', page: answer.ok } : { type: 'read-failed' })
        },
      )
    }
    if (effect.type !== 'show') continue
    for (const item of effect.items) {
      if (!maySee('event' in item ? item.event.audience : item.run.audience, userId)) continue
      const problem = problemOf(process.place, store.sessionOf(world.model, sessionId), userId, item)
      if (problem) world.problems.push(`I5: ${process.name}: ${problem}`)
      world.count.frames++
      process.lastCursor = item.cursor
      if ('event' in item) retrySome(world, item.event)
    }
  }
}

// The runner ----------------------------------------------------------------------------------------------------------

function claimInput(world: World, process: Process, input: ClaimInput): void {
  for (const effect of world.parts.claimingNext(process.claiming, input, world.nowMs)) {
    if (effect.type === 'timer') {
      const timer = ++process.timer
      afterFor(world, process, Math.max(0, effect.atMs - world.nowMs), () => {
        if (process.timer === timer) claimInput(world, process, { type: 'timer' })
      })
      continue
    }
    const { claim: number, lost, limit, takeExpired, renewFirst } = effect
    const runner = `${process.name} ${process.life}`
    const asked = { runner, claim: number, lost, leaseMs, limit, takeExpired, crashesMax: 1_000 }
    const claim = () => claimSome(world, process, asked)
    if (renewFirst) renewAll(world, process, claim, () => claimInput(world, process, { type: 'claim-failed' }))
    else claim()
  }
}

function claimSome(world: World, process: Process, asked: store.ClaimAsk): void {
  const work = () => {
    const answer = world.parts.store.claim(world.model, asked)
    for (const claimed of answer.claimed) judgeClaim(world, claimed)
    return answer
  }
  const isLost = happens(world, world.plan.claimsLost)
  const fate = isLost ? (['unheard', 'late'] as const)[draw(world, 2)]! : fateOf(world, world.plan.databaseFails)
  const hear = (answer: Answer<store.ClaimAnswer>) => {
    if (!('ok' in answer)) {
      claimInput(world, process, { type: answer.error === 'unknown' ? 'claim-lost' : 'claim-failed' })
      return
    }
    for (const claimed of answer.ok.claimed) {
      tell(world, process, { events: claimed.events, runs: [] })
      begin(world, process, claimed)
    }
    claimInput(world, process, { type: 'claimed', taken: answer.ok.claimed.length, dueInMs: answer.ok.dueInMs })
  }
  ask(world, process, work, hear, fate)
}

function judgeClaim(world: World, claimed: store.Claimed): void {
  const { turnId, attempt, turn } = claimed
  // Answered again, since the answer of the claim that took it was lost.
  const isAgain = world.startedAtMs.has(`${turnId} ${attempt}`)
  if (isAgain) world.count.again++
  else world.startedAtMs.set(`${turnId} ${attempt}`, world.nowMs)
  if (!isAgain && store.tookOver(claimed)) {
    world.count.takeovers++
    const until = world.leases.get(`${turnId} ${attempt - 1}`) ?? 0
    if (world.nowMs < until)
      world.problems.push(`I9: ${turn.position}:${attempt - 1} was taken over while it was leased`)
  }
  world.leases.set(`${turnId} ${attempt}`, world.nowMs + leaseMs)
  const { turns } = store.sessionOf(world.model, sessionId)
  const running = turns.filter((each) => each.lane === turn.lane && each.state === 'running')
  if (running.length > 1) world.problems.push(`two turns of lane ${turn.lane} run at once`)
}

/** What is held keeps at least two thirds of its lease. */
function held(world: World, turnId: string, attempt: number): void {
  const key = `${turnId} ${attempt}`
  world.leases.set(key, Math.max(world.leases.get(key) ?? 0, world.nowMs + (leaseMs * 2) / 3 - 1))
}

function begin(world: World, process: Process, { turnId, attempt, turn, failures }: store.Claimed): void {
  const name = `${turnId} ${attempt}`
  if (world.begun.has(name)) world.problems.push(`${turn.position}:${attempt} was begun twice`)
  world.begun.add(name)
  const fails = happens(world, world.plan.errors)
  const whole = 2 + (turn.position % 5)
  const chunks = fails ? draw(world, whole + 1) : whole
  const begun: Attempt = { sessionId, turnId, attempt, failures, nextIndex: 0, chunks, fails, over: false }
  process.attempts.add(begun)
  write(world, process, begun)
}

/** One chunk after the other; an append whose answer is lost goes on from what the log holds. */
function write(world: World, process: Process, attempt: Attempt): void {
  if (attempt.over) return
  if (attempt.nextIndex >= attempt.chunks) {
    end(world, process, attempt)
    return
  }
  const { turnId, attempt: number, nextIndex: index } = attempt
  const row = { ...attempt, index, n: 1, json: JSON.stringify([chunkOf(`${number}/${index} `)]) }
  const again = (ms: number) => afterFor(world, process, ms, () => write(world, process, attempt))
  const work = () => {
    const stored = world.parts.store.append(world.model, [row], leaseMs)
    if (stored !== 'conflict' && stored.length > 0) {
      judgeAppend(world, attempt)
      held(world, turnId, number)
    }
    return stored
  }
  ask(world, process, work, (answer) => {
    if (!('ok' in answer) || answer.ok === 'conflict') {
      claimInput(world, process, { type: 'database-failed' })
      const read = () => store.nextIndexOf(store.turnOf(world.model, attempt)!, number)
      return askAgain(world, process, read, (stored) => {
        attempt.nextIndex = world.parts.nextIndexAfterUnknown(stored, attempt.nextIndex)
        again(0)
      })
    }
    if (answer.ok.length === 0) return over(world, process, attempt)
    attempt.nextIndex++
    tell(world, process, { events: [], runs: answer.ok.map(({ run }) => run) })
    again(draw(world, 600))
  })
}

function judgeAppend(world: World, { turnId, attempt }: Attempt): void {
  const turn = store.turnOf(world.model, { sessionId, turnId })!
  if (turn.attempt !== attempt || turn.state !== 'running') {
    world.problems.push(
      `I3: a chunk of ${turn.position}:${attempt} was stored, the turn is ${turn.state} at ${turn.attempt}`,
    )
  }
}

function end(world: World, process: Process, attempt: Attempt): void {
  const work = workOfEnd(world, attempt)
  askAgain(world, process, work, (answer) => {
    if (answer.outcome === 'stored') tell(world, process, { events: [answer.event], runs: [] })
    if (answer.outcome === 'stored' && answer.event.type === 'message.error') world.count.failed++
    if (answer.outcome === 'mismatch') world.problems.push('the log does not hold what was sent')
    if (answer.outcome === 'lost') world.count.late++
    over(world, process, attempt)
  })
}

/** As src/runner/attempt-end.ts decides it, and asked again with the same arguments. */
function workOfEnd(world: World, attempt: Attempt): () => store.Ended {
  const { model, parts, random } = world
  const { nextIndex, failures } = attempt
  if (!attempt.fails) {
    return () => parts.store.finish(model, attempt, nextIndex, [{ type: 'text', text: 'done' }], null)
  }
  const next = afterError(new ReplyError('provider_overloaded', 'on purpose'), failures, policy, random())
  if ('failure' in next) return () => parts.store.fail(model, attempt, next.failure.code, [], null)
  const why: store.RequeueReason = { reason: 'error', code: 'provider_overloaded', retryMs: next.retryMs }
  return () => store.requeue(model, attempt, why, null)
}

function over(world: World, process: Process, attempt: Attempt): void {
  if (attempt.over) return
  attempt.over = true
  process.attempts.delete(attempt)
  claimInput(world, process, { type: 'attempt-ended' })
}

function renewAll(world: World, process: Process, done: () => void, failed: () => void = () => undefined): void {
  const attempts = [...process.attempts]
  if (attempts.length === 0) {
    done()
    return
  }
  const work = () => {
    const renewed = store.renew(world.model, attempts, leaseMs)
    for (const each of attempts) if (renewed.includes(each.turnId)) held(world, each.turnId, each.attempt)
    return renewed
  }
  ask(world, process, work, (answer) => {
    if (!('ok' in answer)) {
      claimInput(world, process, { type: 'database-failed' })
      return failed()
    }
    for (const each of attempts) if (!answer.ok.includes(each.turnId)) over(world, process, each)
    done()
  })
}

// The end -------------------------------------------------------------------------------------------------------------

function judgeEnd(world: World): void {
  const session = store.sessionOf(world.model, sessionId)
  for (const messageId of world.acknowledged) {
    if (!session.turns.some((turn) => turn.messageId === messageId)) world.problems.push(`I1: ${messageId} is gone`)
  }
  for (const turn of session.turns) {
    const events = session.events.filter((event) => event.turnId === turn.id)
    for (const [at, ofRound] of roundsOf(events).entries()) judgeRound(world, turn, at + 1, ofRound)
  }
  for (const { name, place } of world.processes) {
    const missing = missingAt(place, session, userId)
    if (missing) world.problems.push(`I8: ${name}: ${missing}`)
  }
}

/** A turn's events, split where each of its rounds begins. */
function roundsOf(events: Event[]): Event[][] {
  const rounds: Event[][] = [[]]
  for (const event of events) {
    if (event.type === 'turn.queued') rounds.push([])
    rounds.at(-1)!.push(event)
  }
  return rounds
}

function judgeRound(world: World, turn: store.Turn, round: number, events: Event[]): void {
  const { messageId, state, attempt } = turn
  const name = roundName({ messageId, round })
  const problem = (text: string) => world.problems.push(`${text} (round ${name}, ${state} at ${attempt})`)
  const [outcome, ...others] = events.filter(({ type }) => store.outcomeTypes.includes(type))
  if (!outcome || others.length > 0) problem(`I2: ${outcome ? others.length + 1 : 'no'} outcomes`)
  if (outcome && roundIn(outcome) !== round) problem('I2: the outcome is of another')
  if (round > 1 && roundIn(events[0]!) !== round) problem('I10: it is not the next')
  if (round > 1 && !world.retriesAsked.has(roundName({ messageId, round: round - 1 }))) {
    problem('I10: nobody has asked for it')
  }
  const isStopped = outcome?.type === 'message.stopped'
  if (isStopped && !world.stopsAsked.has(name)) problem('I11: nobody has asked to stop it')
  if (!isStopped && world.interrupted.has(name)) problem('I11: it was interrupted, and is not stopped')
}
