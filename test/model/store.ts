/**
 * The store as plain objects: what the functions of `sql/` and the statements of `src/store` do, said a second time
 * and without SQL. test/model.test.ts holds the two together, so whoever simulates processes may use this one.
 *
 * Its clock stands still but for `advance`, and for a tick at each moment that SQL reads `clock_timestamp()`: so that
 * what was written earlier is earlier here, too.
 */
import type { Cursor } from '../../src/core/cursor.ts'
import type { ChunkRun, Event } from '../../src/core/event.ts'
import type { Page } from '../../src/core/following.ts'

export type Part = { type: 'text'; text: string }
export type Checkpoint = { attempt: number; step: number; nextIndex: number; parts: Part[] }
export type Outcome = 'complete' | 'failed' | 'stopped'
export type Turn = {
  readonly id: string
  readonly sessionId: string
  readonly messageId: string
  /** Of its round: each has a reply of its own. */
  replyId: string
  readonly userId: string
  readonly position: number
  readonly lane: string
  readonly audience: string | null
  readonly bodyHash: string
  state: 'queued' | 'running' | 'waiting' | Outcome
  attempt: number
  round: number
  open: boolean
  failures: number
  crashes: number
  bestSteps: number
  bestChunks: number
  /** Who asked for a stop that could not be completed at once, and why. */
  stopping: { by: string; reason: string | null } | null
  leaseUntilMs: number | null
  runner: string | null
  claim: number | null
  dueAtMs: number | null
  expiresAtMs: number | null
  sweepAtMs: number | null
  checkpoint: Checkpoint | null
  /** Of all attempts whose chunks were not swept. */
  runs: ChunkRun[]
  replyStatus: 'pending' | 'streaming' | Outcome
  replyParts: Part[]
  /** Of the user's message. */
  errorCode: string | null
}
export type Session = {
  readonly id: string
  readonly owner: string
  events: Event[]
  turns: Turn[]
  messageCount: number
  lastPreview: string | null
  inputTokens: number
  outputTokens: number
}
export type UsageRow = { turnId: string; attempt: number; step: number; outcome: string; inputTokens: number }
export type Model = {
  nowMs: number
  sessions: Map<string, Session>
  deleted: Set<string>
  usage: Map<string, UsageRow>
}

export type Key = { sessionId: string; turnId: string; attempt: number }
export type Usage = { inputTokens: number; outputTokens: number }
/** One step's report, or none. */
export type Report = Usage | null
export type Ended = { outcome: 'stored'; event: Event } | { outcome: 'lost' | 'mismatch' }

const sweepAfterMs = 60_000

export function createModel(): Model {
  return { nowMs: 0, sessions: new Map(), deleted: new Set(), usage: new Map() }
}

export function advance(model: Model, ms: number): void {
  model.nowMs += ms
}

function clock(model: Model): number {
  model.nowMs += 0.001
  return model.nowMs
}

export function createSession(model: Model, id: string, owner: string): 'created' | 'same' | 'conflict' {
  const there = model.sessions.get(id)
  if (there) return there.owner === owner ? 'same' : 'conflict'
  if (model.deleted.has(id)) return 'conflict'
  const counters = { messageCount: 0, lastPreview: null, inputTokens: 0, outputTokens: 0 }
  model.sessions.set(id, { id, owner, events: [], turns: [], ...counters })
  return 'created'
}

export function deleteSession(model: Model, id: string, userId: string): 'deleted' | 'not_found' {
  if (model.sessions.get(id)?.owner !== userId) return 'not_found'
  model.sessions.delete(id)
  model.deleted.add(id)
  return 'deleted'
}

/** Throws where there is none: for callers that have made it. */
export function sessionOf(model: Model, id: string): Session {
  const session = model.sessions.get(id)
  if (!session) throw new Error(`There is no session ${id}.`)
  return session
}

export function turnOf(model: Model, { sessionId, turnId }: Omit<Key, 'attempt'>): Turn | undefined {
  return model.sessions.get(sessionId)?.turns.find((turn) => turn.id === turnId)
}

export function turnsOf(model: Model): Turn[] {
  return [...model.sessions.values()].flatMap((session) => session.turns)
}

// Parts of transitions ----------------------------------------------------------------------------------------------

function writeEvent(model: Model, turn: Turn, type: string, data: object): Event {
  const { events } = model.sessions.get(turn.sessionId)!
  const { id: turnId, position, attempt, audience } = turn
  const at = String(model.nowMs)
  const event = { seq: events.length + 1, type, turnId, position, attempt, audience, at, json: JSON.stringify(data) }
  events.push(event)
  return event
}

const active = (turn: Turn) => turn.state === 'queued' || holdsLane(turn)
const holdsLane = (turn: Turn) => turn.state === 'running' || turn.state === 'waiting'

function laneOf(model: Model, { sessionId, lane }: Pick<Turn, 'sessionId' | 'lane'>): Turn[] {
  return model.sessions.get(sessionId)!.turns.filter((turn) => turn.lane === lane && active(turn))
}

function promote(model: Model, of: Turn): void {
  const lane = laneOf(model, of)
  const head = lane.some(holdsLane) ? undefined : lane[0]
  if (head && head.dueAtMs === null) head.dueAtMs = clock(model)
}

function isHead(model: Model, turn: Turn): boolean {
  const others = laneOf(model, turn).filter((other) => other !== turn)
  return !others.some((other) => holdsLane(other) || (turn.state === 'queued' && other.position < turn.position))
}

function isHeld(turn: Turn, attempt: number): boolean {
  return turn.attempt === attempt && turn.state === 'running' && turn.stopping === null
}

export function nextIndexOf(turn: Turn, attempt = turn.attempt): number {
  return turn.runs.filter((run) => run.attempt === attempt).reduce((sum, run) => sum + run.n, 0)
}

function settle(model: Model, turn: Turn, state: Outcome, parts: Part[]): void {
  Object.assign(turn, {
    state,
    open: false,
    leaseUntilMs: null,
    runner: null,
    dueAtMs: null,
    expiresAtMs: null,
    stopping: null,
    sweepAtMs: clock(model) + sweepAfterMs,
    replyStatus: state,
    replyParts: parts,
  })
  promote(model, turn)
}

function settleFailed(model: Model, turn: Turn, code: string, parts: Part[]): Event {
  settle(model, turn, 'failed', parts)
  turn.errorCode = code
  const { messageId: userMessageId, round } = turn
  return writeEvent(model, turn, 'message.error', { userMessageId, code, status: 'failed', round, parts })
}

function lastEvent(model: Model, turn: Turn, types: string[]): Event {
  const { events } = model.sessions.get(turn.sessionId)!
  return events.findLast((event) => event.turnId === turn.id && types.includes(event.type))!
}
export const outcomeTypes = ['message.ai_response', 'message.error', 'message.stopped']

function recordUsage(model: Model, key: Key, outcome: string, report: Report): void {
  const name = `${key.turnId} ${key.attempt} 0`
  if (report === null || model.usage.has(name)) return
  model.usage.set(name, { turnId: key.turnId, attempt: key.attempt, step: 0, outcome, inputTokens: report.inputTokens })
  const session = model.sessions.get(key.sessionId)
  if (!session) return
  session.inputTokens += report.inputTokens
  session.outputTokens += report.outputTokens
}

function lostTo(model: Model, turn: Turn | undefined, attempt: number): string {
  const events = model.sessions.get(turn?.sessionId ?? '')?.events ?? []
  // The first: what ends a later round before an attempt of it begins names the same attempt.
  const ended = events.find(
    (event) =>
      event.turnId === turn?.id && event.attempt === attempt && ['attempt.ended', ...outcomeTypes].includes(event.type),
  )
  if (ended) return namedAs[ended.type] ?? namedAs[(JSON.parse(ended.json) as { reason: string }).reason]!
  return turn?.attempt === attempt && turn.stopping !== null ? 'stopped' : 'lost'
}
/** By the event that ended an attempt, or the reason of its `attempt.ended`: what the ledger says. */
const namedAs: Record<string, string> = {
  ...{ 'message.ai_response': 'complete', 'message.error': 'failed', 'message.stopped': 'stopped' },
  ...{ error: 'failed', handover: 'handover', crashed: 'lost' },
}

function lost(model: Model, key: Key, report: Report): Ended {
  recordUsage(model, key, lostTo(model, turnOf(model, key), key.attempt), report)
  return { outcome: 'lost' }
}

// Transitions -------------------------------------------------------------------------------------------------------

export type Acceptance = {
  sessionId: string
  userId: string
  messageId: string
  turnId: string
  replyId: string
  text: string
  lane: string
  audience: string | null
  expiresMs: number
  whenBusy: 'queue' | 'interrupt' | 'reject'
}
/** A user's message, and the round that was marked: to be stopped now. */
export type Interrupted = { messageId: string; round: number }
export type Accepted =
  | { outcome: 'created'; event: Event; interrupted: Interrupted[] }
  | { outcome: 'same'; seq: number; interrupted: Interrupted[] }
  | { outcome: 'conflict' | 'busy' | 'not_found' }

export function accept(model: Model, ask: Acceptance): Accepted {
  const { sessionId, userId, messageId, turnId, replyId, lane, audience } = ask
  const session = model.sessions.get(sessionId)
  if (session?.owner !== userId) return { outcome: 'not_found' }
  const there = session.turns.find((turn) => turn.messageId === messageId)
  const inLane = laneOf(model, { sessionId, lane })
  if (there) {
    if (there.bodyHash !== ask.text) return { outcome: 'conflict' }
    // Those that are marked still, for the sender whose first answer was lost.
    const marked = inLane.filter(({ stopping }) => ask.whenBusy === 'interrupt' && stopping?.reason === 'interrupted')
    return { outcome: 'same', seq: there.position, interrupted: marked.map(interruptedOf) }
  }
  const isBehind = inLane.length > 0
  if (isBehind && ask.whenBusy === 'reject') return { outcome: 'busy' }
  const begun = ask.whenBusy === 'interrupt' ? begunIn(model, ask) : []
  for (const each of begun) each.stopping = { by: userId, reason: 'interrupted' }
  const turn: Turn = {
    id: turnId,
    ...{
      sessionId,
      messageId,
      replyId,
      userId,
      position: session.events.length + 1,
      lane,
      audience,
      bodyHash: ask.text,
    },
    ...{ state: 'queued', attempt: 0, round: 1, open: false, failures: 0, crashes: 0, bestSteps: 0, bestChunks: 0 },
    ...{ stopping: null, leaseUntilMs: null, runner: null, claim: null, sweepAtMs: null },
    ...{ checkpoint: null, runs: [] },
    ...{ replyStatus: 'pending', replyParts: [], errorCode: null },
    dueAtMs: isBehind ? null : clock(model),
    expiresAtMs: clock(model) + ask.expiresMs,
  }
  session.turns.push(turn)
  session.messageCount++
  session.lastPreview = ask.text
  return {
    outcome: 'created',
    event: writeEvent(model, turn, 'message.created', { messageId, status: 'pending', state: 'queued' }),
    interrupted: begun.map(interruptedOf),
  }
}

const interruptedOf = ({ messageId, round }: Turn): Interrupted => ({ messageId, round })

/** What an interrupt ends: all that have begun. What waits for a new round has not. */
export function begunIn(model: Model, of: Pick<Turn, 'sessionId' | 'lane'>): Turn[] {
  return laneOf(model, of).filter((turn) => turn.stopping === null && (turn.open || turn.state === 'waiting'))
}

export type Claimed = Key & {
  turn: Turn
  round: number
  failures: number
  checkpoint: Checkpoint | null
  events: Event[]
}
export type ClaimAnswer = { claimed: Claimed[]; failed: Event[][]; dueInMs: number | null }
export type ClaimAsk = {
  runner: string
  claim: number
  lost: number[]
  leaseMs: number
  limit: number
  takeExpired: boolean
  crashesMax: number
}

export function claim(model: Model, ask: ClaimAsk): ClaimAnswer {
  const now = clock(model)
  const answer: ClaimAnswer = { claimed: takenByLost(model, ask), failed: [], dueInMs: null }
  for (const turn of claimable(model, ask, now)) {
    if (answer.claimed.length >= ask.limit) break
    if (!isHead(model, turn)) {
      if (turn.state === 'queued') turn.dueAtMs = null
      continue
    }
    const takeover = turn.state === 'running'
    const { attempt: before, checkpoint } = turn
    Object.assign(turn, { state: 'running', attempt: before + 1, open: true, runner: ask.runner, claim: ask.claim })
    Object.assign(turn, { leaseUntilMs: clock(model) + ask.leaseMs, dueAtMs: null, expiresAtMs: null })
    turn.sweepAtMs = before > 0 ? clock(model) + sweepAfterMs : null
    const events: Event[] = []
    if (takeover) {
      countCrash(turn, before)
      events.push(
        writeEvent(model, { ...turn, attempt: before }, 'attempt.ended', { attempt: before, reason: 'crashed' }),
      )
    }
    events.push(writeEvent(model, turn, 'attempt.started', { attempt: turn.attempt, base: checkpoint?.parts ?? [] }))
    if (turn.crashes >= ask.crashesMax) {
      answer.failed.push([...events, settleFailed(model, turn, 'crashed', checkpoint?.parts ?? [])])
      continue
    }
    answer.claimed.push(claimedOf(turn, events))
  }
  answer.dueInMs = dueInMs(model, ask.runner, now)
  return answer
}

function claimedOf(turn: Turn, events: Event[]): Claimed {
  const { sessionId, id: turnId, attempt, round, failures, checkpoint } = turn
  return { sessionId, turnId, attempt, turn, round, failures, checkpoint, events }
}

/** What claims took whose answers were lost, with what those had written. */
function takenByLost(model: Model, { runner, claim: number, lost: numbers, leaseMs }: ClaimAsk): Claimed[] {
  const taken = turnsOf(model).filter(
    (turn) => isHeld(turn, turn.attempt) && turn.runner === runner && numbers.includes(turn.claim!),
  )
  return taken
    .sort((a, b) => (a.id < b.id ? -1 : 1))
    .map((turn) => {
      Object.assign(turn, { claim: number, leaseUntilMs: clock(model) + leaseMs })
      const { events } = model.sessions.get(turn.sessionId)!
      const started = lastEvent(model, turn, ['attempt.started'])
      const before = events[started.seq - 2]
      const crash = before?.type === 'attempt.ended' && before.json.includes('"crashed"') ? [before] : []
      return claimedOf(turn, [...crash, started])
    })
}

export function tookOver({ events }: Claimed): boolean {
  return events.length > 1
}

function claimable(model: Model, { limit, takeExpired }: ClaimAsk, now: number): Turn[] {
  const turns = turnsOf(model).filter((turn) => turn.stopping === null)
  const due = turns.filter((turn) => isClaimable(turn) && turn.dueAtMs! <= now && !isExpired(turn, now))
  const expired = turns.filter((turn) => takeExpired && turn.state === 'running' && turn.leaseUntilMs! < now)
  const soonest = (some: Turn[]) => some.sort((a, b) => atOf(a) - atOf(b))
  return soonest([...soonest(due).slice(0, limit * 2), ...soonest(expired).slice(0, limit * 2)])
}

const isClaimable = (turn: Turn) => turn.state === 'queued' && turn.dueAtMs !== null
const isExpired = (turn: Turn, now: number) => turn.expiresAtMs !== null && turn.expiresAtMs <= now
const atOf = (turn: Turn) => (turn.state === 'running' ? turn.leaseUntilMs! : turn.dueAtMs!)

/** A takeover that got not twice as far in a step as an earlier attempt counts; `before` is the attempt that was taken over. */
function countCrash(turn: Turn, before: number): void {
  const steps = turn.checkpoint?.step ?? 0
  const since = turn.checkpoint?.attempt === before ? turn.checkpoint.nextIndex : 0
  const chunks = nextIndexOf(turn, before) - since
  if (steps > turn.bestSteps || (steps === turn.bestSteps && chunks > 2 * turn.bestChunks)) {
    Object.assign(turn, { crashes: 0, bestSteps: steps, bestChunks: chunks })
  } else {
    turn.crashes++
  }
}

function dueInMs(model: Model, runner: string, now: number): number | null {
  const turns = turnsOf(model).filter((turn) => turn.stopping === null)
  const next = turns.filter(
    (turn) => (isClaimable(turn) && !isExpired(turn, now)) || (turn.state === 'running' && turn.runner !== runner),
  )
  return next.length === 0 ? null : Math.max(0, Math.min(...next.map(atOf)) - clock(model))
}

export type AppendRow = Key & { index: number; n: number; json: string }

/** `conflict`: an index is there already; nothing of the statement is stored. Else the turns that were held. */
export function append(model: Model, rows: AppendRow[], leaseMs: number): { run: ChunkRun }[] | 'conflict' {
  const held = rows.flatMap((row) => {
    const turn = turnOf(model, row)
    return turn && isHeld(turn, row.attempt) ? [{ turn, row }] : []
  })
  if (held.some(({ turn, row }) => turn.runs.some((run) => run.attempt === row.attempt && run.index === row.index))) {
    return 'conflict'
  }
  return held.map(({ turn, row: { turnId, attempt, index, n, json } }) => {
    renewLease(model, turn, leaseMs)
    if (index === 0 && turn.replyStatus === 'pending') turn.replyStatus = 'streaming'
    const { replyId: messageId, position, audience } = turn
    const run = { turnId, messageId, position, audience, attempt, index, n, json }
    turn.runs.push(run)
    return { run }
  })
}

function renewLease(model: Model, turn: Turn, leaseMs: number): void {
  if (turn.leaseUntilMs! < clock(model) + (leaseMs * 2) / 3) turn.leaseUntilMs = clock(model) + leaseMs
}

export function renew(model: Model, keys: Key[], leaseMs: number): string[] {
  const held = keys.flatMap((key) => {
    const turn = turnOf(model, key)
    return turn && isHeld(turn, key.attempt) ? [turn] : []
  })
  for (const turn of held) renewLease(model, turn, leaseMs)
  return held.map((turn) => turn.id)
}

export function checkpoint(model: Model, key: Key, at: Checkpoint): boolean {
  const turn = turnOf(model, key)
  if (!turn || !isHeld(turn, key.attempt)) return false
  turn.checkpoint = at
  return true
}

export function finish(model: Model, key: Key, nextIndex: number, parts: Part[], report: Report): Ended {
  const turn = turnOf(model, key)
  if (!turn) return { outcome: 'lost' }
  if (turn.attempt === key.attempt && turn.state === 'complete') {
    return { outcome: 'stored', event: lastEvent(model, turn, outcomeTypes) }
  }
  if (!isHeld(turn, key.attempt)) return lost(model, key, report)
  if (nextIndexOf(turn) !== nextIndex) return { outcome: 'mismatch' }
  recordUsage(model, key, 'complete', report)
  settle(model, turn, 'complete', parts)
  countReply(model, turn, textOf(parts))
  const { replyId: messageId, round } = turn
  const event = writeEvent(model, turn, 'message.ai_response', { messageId, status: 'complete', round, parts })
  return { outcome: 'stored', event }
}

function countReply(model: Model, turn: Turn, preview: string): void {
  const session = model.sessions.get(turn.sessionId)!
  session.messageCount++
  session.lastPreview = preview
}

export function textOf(parts: Part[]): string {
  return parts.map((part) => part.text).join('')
}

export type RequeueReason = { reason: 'error' | 'handover'; code: string | null; retryMs: number }

export function requeue(model: Model, key: Key, why: RequeueReason, report: Report): Ended {
  const turn = turnOf(model, key)
  if (!turn) return { outcome: 'lost' }
  // Not open: another round, which this attempt knows nothing of.
  if (turn.attempt === key.attempt && turn.state === 'queued' && turn.open) {
    return { outcome: 'stored', event: lastEvent(model, turn, ['attempt.ended']) }
  }
  if (!isHeld(turn, key.attempt)) return lost(model, key, report)
  recordUsage(model, key, why.reason === 'handover' ? 'handover' : 'failed', report)
  Object.assign(turn, { state: 'queued', leaseUntilMs: null, runner: null, dueAtMs: clock(model) + why.retryMs })
  if (why.reason === 'error') {
    turn.failures++
    turn.crashes = 0
  }
  // An earlier turn that is retried goes first.
  promote(model, turn)
  const { reason, code } = why
  const event = writeEvent(model, turn, 'attempt.ended', { attempt: key.attempt, reason, ...(code && { code }) })
  return { outcome: 'stored', event }
}

export function fail(model: Model, key: Key, code: string, parts: Part[], report: Report): Ended {
  const turn = turnOf(model, key)
  if (!turn) return { outcome: 'lost' }
  if (turn.attempt === key.attempt && turn.state === 'failed') {
    return { outcome: 'stored', event: lastEvent(model, turn, outcomeTypes) }
  }
  if (!isHeld(turn, key.attempt)) return lost(model, key, report)
  recordUsage(model, key, 'failed', report)
  return { outcome: 'stored', event: settleFailed(model, turn, code, parts) }
}

export function report(model: Model, key: Key, usage: Usage): void {
  recordUsage(model, key, lostTo(model, turnOf(model, key), key.attempt), usage)
}

export type StopAsk = {
  /** The one that was read: a retry keeps the attempt's number until it begins. */
  round: number
  isOpen: boolean
  nextIndex: number
  parts: Part[]
  by: string
  reason: string | null
  lastTry: boolean
}
export type StopAnswer = { outcome: 'stopped' | 'late'; event: Event } | { outcome: 'again' | 'stopping' | 'not_found' }

export function stop(model: Model, key: Key, ask: StopAsk): StopAnswer {
  const { round, isOpen, nextIndex, parts, by, reason, lastTry } = ask
  const turn = turnOf(model, key)
  if (!turn) return { outcome: 'not_found' }
  if (turn.round !== round) return { outcome: 'again' }
  if (!active(turn)) return { outcome: 'late', event: lastEvent(model, turn, outcomeTypes) }
  const index = turn.open ? nextIndexOf(turn) : 0
  if (turn.attempt !== key.attempt || turn.open !== isOpen || index !== nextIndex) {
    if (!lastTry) return { outcome: 'again' }
    turn.stopping ??= { by, reason }
    return { outcome: 'stopping' }
  }
  const asked = turn.stopping ?? { by, reason }
  settle(model, turn, 'stopped', parts)
  if (parts.length > 0) countReply(model, turn, textOf(parts))
  const why = asked.reason === null ? {} : { reason: asked.reason }
  const data = { userMessageId: turn.messageId, by: asked.by, ...why, status: 'stopped', round, parts }
  return { outcome: 'stopped', event: writeEvent(model, turn, 'message.stopped', data) }
}

export type RetryAsk = { round: number | null; replyId: string; roundsMax: number; expiresMs: number }
/** `same`: it changes nothing. `rounds`: no more are allowed. */
export type RetryAnswer = { outcome: 'done'; event: Event } | { outcome: 'same' | 'rounds' | 'not_found' }

/** A turn that failed or was stopped is tried again, in its place, as a new round. `round`: only if that is its round. */
export function retry(
  model: Model,
  { sessionId, messageId }: { sessionId: string; messageId: string },
  { round, replyId, roundsMax, expiresMs }: RetryAsk,
): RetryAnswer {
  const turn = model.sessions.get(sessionId)?.turns.find((each) => each.messageId === messageId)
  if (!turn) return { outcome: 'not_found' }
  if ((turn.state !== 'failed' && turn.state !== 'stopped') || (round !== null && round !== turn.round)) {
    return { outcome: 'same' }
  }
  if (turn.round >= roundsMax) return { outcome: 'rounds' }
  Object.assign(turn, {
    ...{ state: 'queued', round: turn.round + 1, replyId, replyStatus: 'pending', replyParts: [], errorCode: null },
    ...{ failures: 0, crashes: 0, bestSteps: 0, bestChunks: 0, checkpoint: null, dueAtMs: null, stopping: null },
    expiresAtMs: clock(model) + expiresMs,
  })
  renewPreview(model.sessions.get(sessionId)!)
  promote(model, turn)
  return {
    outcome: 'done',
    event: writeEvent(model, turn, 'turn.queued', { state: 'queued', round: turn.round, replyId }),
  }
}

/** What is to be seen last. (A turn's old replies are not shown, nor are other branches known here.) */
function renewPreview(session: Session): void {
  const { replyParts, bodyHash: said } = session.turns.at(-1)!
  session.lastPreview = replyParts.length > 0 ? textOf(replyParts) : said
}

// The sweeper's jobs ------------------------------------------------------------------------------------------------

export function expire(model: Model, limit: number): Event[] {
  const now = clock(model)
  const expiring = turnsOf(model)
    .filter((turn) => isExpired(turn, now))
    .sort((a, b) => a.expiresAtMs! - b.expiresAtMs!)
    .slice(0, limit)
  return expiring
    .filter((turn) => (turn.state === 'queued' || turn.state === 'waiting') && turn.stopping === null)
    .map((turn) => settleFailed(model, turn, 'expired', turn.checkpoint?.parts ?? []))
}

/** How many turns were swept. */
export function sweep(model: Model): number {
  const now = clock(model)
  const due = turnsOf(model).filter((turn) => turn.sweepAtMs !== null && turn.sweepAtMs <= now)
  for (const turn of due) {
    turn.runs = turn.runs.filter((run) => turn.open && run.attempt >= turn.attempt)
    turn.sweepAtMs = null
    if (['complete', 'failed', 'stopped'].includes(turn.state)) turn.checkpoint = null
  }
  return due.length
}

// What is not in SQL yet. Followers meet its events, so it is here for them; the store's test leaves it out. ----------

/** The attempt ends because a person is asked: the turn holds its lane, and its chunks leave the log. */
export function wait(model: Model, key: Key, parts: Part[]): Ended {
  const turn = turnOf(model, key)
  if (!turn || !isHeld(turn, key.attempt)) return { outcome: 'lost' }
  Object.assign(turn, { state: 'waiting', open: false, leaseUntilMs: null, runner: null, replyParts: parts })
  return { outcome: 'stored', event: writeEvent(model, turn, 'turn.waiting', { parts }) }
}

/** That person has answered. */
export function answerWait(model: Model, { sessionId, turnId }: Omit<Key, 'attempt'>): Event | null {
  const turn = turnOf(model, { sessionId, turnId })
  if (turn?.state !== 'waiting') return null
  turn.state = 'queued'
  promote(model, turn)
  return writeEvent(model, turn, 'turn.queued', { state: 'queued' })
}

// Reading -----------------------------------------------------------------------------------------------------------

/** Events after the cursor and, if they are all, what it lacks of the open attempts' chunks. Null: no such session. */
export function readPage(
  model: Model,
  sessionId: string,
  cursor: Pick<Cursor, 'seq' | 'open'>,
  { eventsMax, runsMax }: { eventsMax: number; runsMax: number },
): Page | null {
  const session = model.sessions.get(sessionId)
  if (!session) return null
  const events = session.events.slice(cursor.seq, cursor.seq + eventsMax)
  const open = events.length < eventsMax ? session.turns.filter((turn) => turn.open) : []
  const runs = open.map((turn) => runsAfter(turn, cursor).slice(0, runsMax))
  const more = events.length === eventsMax || runs.flat().length >= runsMax
  return { events, runs: runs.flatMap(joinRuns), more, lastSeq: session.events.length }
}

function runsAfter(turn: Turn, { open }: Pick<Cursor, 'open'>): ChunkRun[] {
  const mine = open.get(turn.position)
  const index = mine?.attempt === turn.attempt ? mine.index : 0
  return turn.runs.filter((run) => run.attempt === turn.attempt && run.index >= index)
}

function joinRuns(runs: ChunkRun[]): ChunkRun[] {
  if (runs.length < 2) return runs
  const json = JSON.stringify(runs.flatMap((run) => JSON.parse(run.json) as unknown[]))
  return [{ ...runs[0]!, n: runs.reduce((sum, run) => sum + run.n, 0), json }]
}

/** The cursor after everything that is stored now. */
export function readNow(model: Model, sessionId: string): Pick<Cursor, 'seq' | 'open'> | null {
  const session = model.sessions.get(sessionId)
  if (!session) return null
  const open = session.turns.filter((turn) => turn.open)
  return {
    seq: session.events.length,
    open: new Map(open.map((turn) => [turn.position, { attempt: turn.attempt, index: nextIndexOf(turn) }])),
  }
}
