/**
 * Random calls of the store. A command is three free numbers and says nothing by itself; what it refers to (a turn
 * that is running, the attempt before the latest one, the index that the log holds) is picked from the model when its
 * turn has come. So every sequence can be run, and still can when fast-check leaves commands out.
 */
import fc from 'fast-check'
import * as store from './store.ts'

export const hourMs = 3_600_000
export const leaseMs = 60 * hourMs
/** No sum of these steps is one of the spans below, so nothing ever falls due or runs out at the very moment. */
const stepMs = 21 * hourMs
const retryMs = 30 * hourMs
const expiresMs = 100 * hourMs

const sessions = ['s0', 's1', 's2']
const lanes = ['main', 'main', 'ann', 'bob']
export const runners = ['runner-a', 'runner-b']
export const owner = 'ann'

export type Call =
  | { type: 'create'; sessionId: string }
  | { type: 'accept'; asks: store.Acceptance[] }
  | { type: 'claim'; ask: store.ClaimAsk }
  | { type: 'append'; rows: store.AppendRow[] }
  | { type: 'renew'; keys: store.Key[] }
  | { type: 'checkpoint'; key: store.Key; at: store.Checkpoint }
  | { type: 'finish'; key: store.Key; nextIndex: number; parts: store.Part[]; usage: store.Report }
  | { type: 'requeue'; key: store.Key; why: store.RequeueReason; usage: store.Report }
  | { type: 'fail'; key: store.Key; code: 'internal' | 'provider_rejected'; parts: store.Part[]; usage: store.Report }
  | { type: 'report'; key: store.Key; usage: store.Usage }
  | { type: 'stop'; key: store.Key; ask: store.StopAsk }
  | { type: 'retry'; key: { sessionId: string; messageId: string }; ask: store.RetryAsk }
  | { type: 'expire'; limit: number }
  | { type: 'sweep' }
  | { type: 'delete'; sessionId: string; userId: string }
  | { type: 'advance'; ms: number }
  | { type: 'wait'; key: store.Key; parts: store.Part[] }
  | { type: 'answerWait'; key: store.Key }

export type Command = { type: Call['type']; a: number; b: number; c: number }

/** `weights`: how often each type comes, in proportion. */
export function anyCommand(weights: Partial<Record<Call['type'], number>>): fc.Arbitrary<Command> {
  const types = Object.entries(weights).flatMap(([type, weight]) =>
    Array<Call['type']>(weight).fill(type as Call['type']),
  )
  // Without bias: fast-check likes small numbers, and 0 picks the odd case everywhere.
  const number = fc.noBias(fc.nat(999))
  return fc.record({ type: fc.constantFrom(...types), a: number, b: number, c: number })
}

/** Null: there is nothing yet that it could refer to. */
export function callOf(model: store.Model, { type, a, b, c }: Command): Call | null {
  switch (type) {
    case 'create':
      return { type, sessionId: pick(sessions, a) }
    case 'delete':
      return { type, sessionId: pick(sessions, a), userId: b % 3 > 0 ? 'stranger' : owner }
    case 'accept':
      return { type, asks: acceptances(model, a, b, c) }
    case 'claim':
      return {
        type,
        ask: {
          runner: pick(runners, a),
          claim: claimsOf(model).length + 1 + c,
          lost: lostClaims(model, a, b),
          leaseMs,
          limit: 1 + (b % 3),
          takeExpired: c % 5 > 0,
          crashesMax: c % 4 === 0 ? 3 : 1,
        },
      }
    case 'expire':
      return { type, limit: 1 + (a % 3) }
    case 'sweep':
      return { type }
    case 'advance':
      return { type, ms: stepMs * (1 + (a % 5)) }
    case 'append':
    case 'renew':
      return callOfMany(model, type, a, b, c)
    case 'retry':
      return retryOf(model, a, b, c)
    default: {
      const turn = pickTurn(model, a)
      return turn ? callOfTurn(turn, type, b, c) : null
    }
  }
}

const claimsOf = (model: store.Model) => store.turnsOf(model).flatMap(({ claim }) => claim ?? [])

/** Mostly none; else some that this runner or the other one made. */
function lostClaims(model: store.Model, a: number, b: number): number[] {
  if (a % 3 > 0) return []
  return claimsOf(model).filter((claim) => (claim + b) % 3 > 0)
}

function callOfMany(model: store.Model, type: 'append' | 'renew', a: number, b: number, c: number): Call | null {
  const turns = new Set([a, a + 1, a + 2].slice(0, 1 + (b % 3)).flatMap((at) => pickTurn(model, at) ?? []))
  if (turns.size === 0) return null
  if (type === 'renew') return { type, keys: [...turns].map((turn) => keyOf(turn, c)) }
  return { type, rows: [...turns].map((turn) => rowOf(turn, b, c)) }
}

function rowOf(turn: store.Turn, b: number, c: number): store.AppendRow {
  const key = keyOf(turn, c)
  const stored = store.nextIndexOf(turn, key.attempt)
  // An index that the log holds already must be refused.
  const index = b % 7 === 0 ? 0 : stored
  const n = 1 + (c % 3)
  const chunks = Array.from({ length: n }, (_, at) => chunkOf(`${key.attempt}/${index + at} `))
  return { ...key, index, n, json: JSON.stringify(chunks) }
}

export function chunkOf(delta: string): { type: 'text-delta'; id: string; delta: string } {
  return { type: 'text-delta', id: 't', delta }
}

type OfTurn = 'checkpoint' | 'finish' | 'requeue' | 'fail' | 'report' | 'stop' | 'wait' | 'answerWait'

function callOfTurn(turn: store.Turn, type: OfTurn, b: number, c: number): Call {
  const key = keyOf(turn, c)
  const usage = b % 3 === 0 ? null : { inputTokens: 1 + (b % 50), outputTokens: 1 + (c % 50) }
  const stored = store.nextIndexOf(turn, key.attempt)
  const nextIndex = b % 5 === 0 ? stored + 1 : stored
  const step = (turn.checkpoint?.step ?? 0) + 1
  const parts: store.Part[] = b % 5 === 0 ? [] : [{ type: 'text', text: `${type} ${key.attempt} ${b}` }]
  switch (type) {
    case 'checkpoint':
      return { type, key, at: { attempt: key.attempt, step, nextIndex: stored, parts } }
    case 'finish':
      return { type, key, nextIndex, parts, usage }
    case 'requeue':
      return { type, key, usage, why: pick(requeueReasons, b) }
    case 'fail':
      return { type, key, code: b % 2 ? 'internal' : 'provider_rejected', parts, usage }
    case 'report':
      return { type, key, usage: usage ?? { inputTokens: 1, outputTokens: 1 } }
    case 'stop':
      return {
        type,
        // A turn that was never claimed is stopped as attempt 0.
        key: turn.attempt === 0 ? { ...key, attempt: 0 } : key,
        ask: {
          round: roundOf(turn, c),
          isOpen: c % 7 === 0 ? !turn.open : turn.open,
          nextIndex: turn.open ? stored + (b % 3 === 0 ? 1 : 0) : 0,
          parts,
          by: pick(['ann', 'bob'], b),
          reason: pick([null, 'wrong', 'enough'], c),
          lastTry: b % 2 === 0,
        },
      }
    case 'wait':
      return { type, key, parts }
    case 'answerWait':
      return { type, key }
  }
}

/** Mostly of one that failed or was stopped; now and then of a message that is not there. */
function retryOf(model: store.Model, a: number, b: number, c: number): Call | null {
  const all = store.turnsOf(model)
  const over = all.filter(({ state }) => state === 'failed' || state === 'stopped')
  const turn = pick(a % 5 > 0 && over.length > 0 ? over : all, a)
  if (!turn) return null
  const { sessionId } = turn
  const messageId = b % 17 === 0 ? 'none' : turn.messageId
  const round = b % 3 === 0 ? null : roundOf(turn, c)
  // Its own for each round, as the server makes it.
  const replyId = `${turn.replyId.split('.')[0]}.${turn.round + 1}`
  const roundsMax = b % 4 === 0 ? turn.round : turn.round + 1
  return { type: 'retry', key: { sessionId, messageId }, ask: { round, replyId, roundsMax, expiresMs } }
}

/** Mostly the present one, else one that is over or not yet. */
const roundOf = ({ round }: store.Turn, c: number) => (c % 4 > 0 ? round : c % 8 > 0 ? round - 1 : round + 1)

const requeueReasons: store.RequeueReason[] = [
  { reason: 'error', code: 'provider_overloaded', retryMs },
  { reason: 'error', code: 'provider_timeout', retryMs: 0 },
  { reason: 'handover', code: null, retryMs: 0 },
]

/** One, or up to three at once for one lane; ids come back, sometimes with another text. */
function acceptances(model: store.Model, a: number, b: number, c: number): store.Acceptance[] {
  const sessionId = pick(a % 11 > 0 && model.sessions.size > 0 ? [...model.sessions.keys()] : sessions, a)
  const userId = a % 17 === 0 ? 'stranger' : owner
  const lane = pick(lanes, b)
  const count = 1 + (c % 5 === 0 ? c % 3 : 0)
  // Of several at once those that wait go first, whatever their order was.
  const whenBusy = count > 1 ? 'queue' : pick(busyWords, c)
  return Array.from({ length: count }, (_, ord) => {
    const messageId = `m${(b + ord * (a % 2)) % 12}`
    const name = `${sessionId.slice(1)}${messageId.slice(1).padStart(2, '0')}${ord}`.padStart(12, '0')
    const text = (c + ord) % 7 === 0 ? 'something else' : `text of ${messageId}`
    return {
      ...{ sessionId, userId, messageId, lane, text, expiresMs, whenBusy },
      turnId: `00000000-0000-4000-8000-${name}`,
      replyId: `reply-${name}`,
      audience: pick([null, null, 'user:ann', 'not:ann'], a + b),
    }
  })
}

const busyWords: store.Acceptance['whenBusy'][] = [
  'queue',
  'queue',
  'queue',
  'interrupt',
  'interrupt',
  'reject',
  'queue',
]

/** Mostly one that is running, for most calls are about those. */
function pickTurn(model: store.Model, a: number): store.Turn | undefined {
  const all = store.turnsOf(model)
  const running = all.filter((turn) => turn.state === 'running')
  return pick(a % 4 > 0 && running.length > 0 ? running : all, a)
}

/** Mostly the latest attempt, else the one before. */
function keyOf(turn: store.Turn, c: number): store.Key {
  const { sessionId, id: turnId } = turn
  return { sessionId, turnId, attempt: Math.max(1, turn.attempt - (c % 6 === 0 ? 1 : 0)) }
}

function pick<T>(from: T[], at: number): T {
  return from[at % from.length]!
}

/** What the store answers, as far as the model and Postgres are to agree on it. */
export function perform(model: store.Model, call: Call): unknown {
  switch (call.type) {
    case 'create':
      return store.createSession(model, call.sessionId, owner)
    case 'accept':
      return call.asks.map((ask) => store.accept(model, ask))
    case 'claim':
      return store.claim(model, call.ask)
    case 'append':
      return store.append(model, call.rows, leaseMs)
    case 'renew':
      return store.renew(model, call.keys, leaseMs)
    case 'checkpoint':
      return store.checkpoint(model, call.key, call.at)
    case 'finish':
      return store.finish(model, call.key, call.nextIndex, call.parts, call.usage)
    case 'requeue':
      return store.requeue(model, call.key, call.why, call.usage)
    case 'fail':
      return store.fail(model, call.key, call.code, call.parts, call.usage)
    case 'report':
      return store.report(model, call.key, call.usage)
    case 'stop':
      return store.stop(model, call.key, call.ask)
    case 'retry':
      return store.retry(model, call.key, call.ask)
    case 'expire':
      return store.expire(model, call.limit)
    case 'sweep':
      return store.sweep(model)
    case 'delete':
      return store.deleteSession(model, call.sessionId, call.userId)
    case 'advance':
      return store.advance(model, call.ms)
    case 'wait':
      return store.wait(model, call.key, call.parts)
    case 'answerWait':
      return store.answerWait(model, call.key)
  }
}
