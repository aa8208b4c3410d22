/**
 * The same calls on Postgres, through src/store, and what both sides show: answers and state brought to one form, in
 * which times are "due or not" and JSON is what matters of it.
 */

import { failureOf } from '../../src/core/errors.ts'
import type { ChunkRun, Event } from '../../src/core/event.ts'
import type { Json } from '../../src/core/json.ts'
import type { Acceptor } from '../../src/store/accept.ts'
import { appendIfHeld, renewIfHeld } from '../../src/store/chunks.ts'
import { retry } from '../../src/store/control.ts'
import { type Database, DatabaseError } from '../../src/store/database.ts'
import { createSession, deleteSession } from '../../src/store/sessions.ts'
import * as turns from '../../src/store/turns.ts'
import { type Stored, tenantId } from '../support/stored.ts'
import { type Call, hourMs, leaseMs, owner } from './commands.ts'
import type { ClaimAsk } from './store.ts'
import * as store from './store.ts'

type Held = { stored: Stored; database: Database; acceptor: Acceptor }
const many = 100

/** What the store answers to a call, in the form of `toldByModel`. */
export async function performOnPostgres({ stored, database, acceptor }: Held, call: Call): Promise<unknown> {
  switch (call.type) {
    case 'create':
      return (await createSession(database, { tenantId, id: call.sessionId, userId: owner, title: null, metadata: {} }))
        .outcome
    case 'accept':
      return (await Promise.all(call.asks.map((ask) => acceptor.accept(acceptanceOf(ask))))).map(told)
    case 'claim': {
      const answer = await turns.claim(database, claimOf(call.ask))
      return toldClaim({ ...answer, failed: answer.failed.map(({ events }) => events) })
    }
    case 'append': {
      const rows = call.rows.map((row) => ({ ...row, tenantId, first: row.index === 0 }))
      return await appendIfHeld(database, rows, leaseMs).then(sorted, (error: unknown) => refused(database, error))
    }
    case 'renew':
      return sorted(await renewIfHeld(database, call.keys.map(keyed), leaseMs))
    case 'checkpoint':
      return await turns.checkpointIfHeld(database, keyed(call.key), {
        ...call.at,
        isOpen: false,
        metadata: null,
        told: [],
        forClients: [],
        tokens: 0,
      })
    case 'finish': {
      const { key, nextIndex, parts, usage } = call
      const reply = { nextIndex, parts, metadata: null, model: null, preview: store.textOf(parts) }
      return told(await turns.finishIfHeld(database, keyed(key), reply, reports(usage)))
    }
    case 'requeue':
      return told(await turns.requeueIfHeld(database, keyed(call.key), call.why, reports(call.usage)))
    case 'fail': {
      const reply = { parts: call.parts, metadata: null, model: null }
      return told(await turns.failIfHeld(database, keyed(call.key), failureOf(call.code), reply, reports(call.usage)))
    }
    case 'report':
      return await turns.reportUsageOfLost(database, keyed(call.key), owner, reports(call.usage))
    case 'stop': {
      const { round, isOpen, nextIndex, parts, by, reason, lastTry } = call.ask
      const folded = { isOpen, nextIndex, parts, metadata: null, preview: store.textOf(parts) }
      return told(await turns.stop(database, keyed(call.key), folded, { by, reason, lastTry, userId: null, round }))
    }
    case 'retry':
      return told(await retry(database, { tenantId, userId: owner, ...call.key }, { ...call.ask, sendsMax: 0 }))
    case 'expire':
      return (await turns.expire(database, call.limit, failureOf('expired'))).map(({ event }) => plainEvent(event))
    case 'sweep':
      return await turns.sweep(database, many)
    case 'delete':
      return (await deleteSession(database, tenantId, call.sessionId, call.userId)).outcome
    case 'advance':
      await stored.query(advanceStatement, [call.ms])
      return undefined
    default:
      throw new Error(`There is no SQL for ${call.type}.`)
  }
}

/** Time does not pass for a test; what lies ahead comes nearer instead. */
const advanceStatement = `
  update holdfast.turns set lease_until = lease_until - make_interval(secs => $1 / 1000.0),
    due_at = due_at - make_interval(secs => $1 / 1000.0), expires_at = expires_at - make_interval(secs => $1 / 1000.0),
    sweep_at = sweep_at - make_interval(secs => $1 / 1000.0)`

/** A statement that renews several leases does it in an order of its own; the model is told which it was. */
export async function inOrderOfLeases({ query }: Stored, call: Call): Promise<Call> {
  if (call.type !== 'append' && call.type !== 'renew') return call
  const rows = await query<{ id: string }>('select id from holdfast.turns order by lease_until nulls first')
  const place = ({ turnId }: store.Key) => rows.findIndex(({ id }) => id === turnId)
  const inOrder = <T extends store.Key>(some: T[]) => some.toSorted((a, b) => place(a) - place(b))
  return call.type === 'append' ? { ...call, rows: inOrder(call.rows) } : { ...call, keys: inOrder(call.keys) }
}

/** What the model answered, in the form of `performOnPostgres`. */
export function toldByModel(call: Call, answer: unknown): unknown {
  switch (call.type) {
    case 'accept':
      return (answer as store.Accepted[]).map(told)
    case 'claim':
      return toldClaim(answer as store.ClaimAnswer)
    case 'append':
      return answer === 'conflict' ? answer : sorted((answer as { run: ChunkRun }[]).map(({ run }) => run.turnId))
    case 'renew':
      return sorted(answer as string[])
    case 'expire':
      return (answer as Event[]).map(plainEvent)
    case 'finish':
    case 'requeue':
    case 'fail':
    case 'stop':
    case 'retry':
      return told(answer as store.Ended)
    default:
      return answer
  }
}

function acceptanceOf({ sessionId, userId, messageId, turnId, replyId, text, ...more }: store.Acceptance) {
  const { lane, expiresMs, whenBusy } = more
  const parts = JSON.stringify([{ type: 'text', text }])
  const ids = { tenantId, sessionId, userId, messageId, turnId, replyId }
  return {
    ...ids,
    parts,
    metadata: null,
    bodyHash: text,
    preview: text,
    lane,
    expiresMs,
    whenBusy,
    sendsMax: 0,
  }
}

function claimOf(ask: ClaimAsk) {
  return { ...ask, crashed: failureOf('crashed') }
}

function keyed(key: store.Key): turns.AttemptKey {
  return { tenantId, ...key }
}

function reports(usage: store.Report): turns.StepReport[] {
  return usage === null ? [] : [{ step: 0, usage: { provider: 'p', model: 'm', ...usage } }]
}

/**
 * The driver rejects when it is told of the error, which is before the server has rolled back and let go of the rows: a
 * claim on another connection may still pass over them. The next statement of this connection is answered after that.
 */
async function refused(database: Database, error: unknown): Promise<string> {
  if (!(error instanceof DatabaseError && error.code === '23505')) throw error
  await renewIfHeld(database, [], leaseMs)
  return 'conflict'
}

function told(answer: { outcome: string; event?: Event; seq?: number; interrupted?: store.Interrupted[] }): unknown {
  const { outcome, event, seq, interrupted } = answer
  const marked = interrupted && sorted(interrupted.map(({ messageId, round }) => `${messageId} ${round}`))
  return { outcome, seq, event: event && plainEvent(event), marked }
}

type AnyClaim = {
  claimed: (Omit<store.Claimed, 'turn' | 'checkpoint'> & { checkpoint: { step: number } | null })[]
  failed: Event[][]
  dueInMs: number | null
}

function toldClaim({ claimed, failed, dueInMs }: AnyClaim): unknown {
  return {
    claimed: claimed.map(({ turnId, attempt, round, failures, checkpoint, events }) => ({
      ...{ turnId, attempt, round, failures, step: checkpoint?.step ?? 0 },
      events: events.map(plainEvent),
    })),
    failed: failed.map((events) => events.map(plainEvent)),
    dueInHours: dueInMs === null ? null : Math.ceil(dueInMs / hourMs),
  }
}

function sorted(names: Iterable<string>): string[] {
  return [...names].sort()
}

// Events ------------------------------------------------------------------------------------------------------------

function plainEvent({ seq, type, turnId, position, attempt, json }: Event): unknown {
  return { seq, type, turnId, position, attempt, data: keyData(type, JSON.parse(json) as Data) }
}

type Data = Record<string, Json> & { message?: { id: string; status: string; round: number; parts: Json } }

/** Of an event's data what the model says, too. */
function keyData(type: string, data: Data): unknown {
  const message = data.message
  switch (type) {
    case 'message.created':
      if (!message) return data
      return { messageId: message.id, status: (data.reply as Data).status, state: (data.turn as Data).state }
    case 'attempt.started':
      return { attempt: data.attempt, base: data.base }
    case 'attempt.ended':
      return { attempt: data.attempt, reason: data.reason, ...(data.code && { code: data.code }) }
    case 'message.ai_response':
      return message
        ? { messageId: message.id, status: message.status, round: message.round, parts: message.parts }
        : data
    case 'message.error':
    case 'message.stopped': {
      const { userMessageId, code, by, reason } = data
      const { status, round, parts } = message ?? data
      return JSON.parse(JSON.stringify({ userMessageId, code, by, reason, status, round, parts })) as unknown
    }
    case 'turn.queued': {
      const { state, round, replyId } = (data.turn as Data | undefined) ?? data
      return { state, round, replyId }
    }
    default:
      return data
  }
}

/** The text of a run, however its deltas were joined. */
function runText({ json }: ChunkRun): string {
  return (JSON.parse(json) as { delta: string }[]).map(({ delta }) => delta).join('')
}

export function plainPage(page: { events: Event[]; runs: ChunkRun[]; more: boolean; lastSeq: number } | null): unknown {
  if (page === null) return null
  const { events, runs, more, lastSeq } = page
  return {
    ...{ more, lastSeq, events: events.map(plainEvent) },
    runs: runs.map((run) => {
      const { turnId, messageId, position, attempt, index, n } = run
      return { turnId, messageId, position, attempt, index, n, text: runText(run) }
    }),
  }
}

// State -------------------------------------------------------------------------------------------------------------

const stateStatement = `
  select
    (select json_agg(json_build_object('id', s.id, 'nextSeq', s.next_seq, 'messageCount', s.message_count,
        'lastPreview', s.last_preview, 'inputTokens', s.input_tokens, 'outputTokens', s.output_tokens) order by s.id)
      from holdfast.sessions s) as sessions,
    (select json_agg(json_build_object('id', t.id, 'state', t.state, 'attempt', t.attempt, 'round', t.round,
        'open', t.open, 'failures', t.failures, 'crashes', t.crashes, 'bestSteps', t.best_steps,
        'bestChunks', t.best_chunks, 'stopping', t.stopping, 'stoppingReason', t.stopping_reason, 'runner', t.runner, 'claim', t.claim, 'position', t.position,
        'due', t.due_at <= now(), 'leaseOver', t.lease_until <= now(), 'expired', t.expires_at <= now(),
        'step', t.checkpoint ->> 'step', 'swept', t.sweep_at is null, 'replyStatus', r.status, 'replyParts', r.parts,
        'errorCode', m.error ->> 'code',
        'runs', (select json_agg(json_build_array(c.attempt, c.index, c.n) order by c.attempt, c.index)
          from holdfast.chunks c where c.tenant_id = t.tenant_id and c.turn_id = t.id)) order by t.session_id, t.position)
      from holdfast.turns t
      join holdfast.messages r on (r.tenant_id, r.session_id, r.id) = (t.tenant_id, t.session_id, t.reply_id)
      join holdfast.messages m on (m.tenant_id, m.session_id, m.id) = (t.tenant_id, t.session_id, t.message_id)) as turns,
    (select json_agg(json_build_object('turnId', u.turn_id, 'attempt', u.attempt, 'outcome', u.outcome,
        'inputTokens', u.input_tokens)
        order by u.turn_id, u.attempt, u.step) from holdfast.usage u
      where u.state = 'reported' and u.ended_at is not null) as usage,
    (select count(*)::int from holdfast.messages) as messages,
    (select count(*)::int from holdfast.members) as members,
    (select count(*)::int from holdfast.events) as events,
    (select count(*)::int from holdfast.chunks) as chunks`

export async function stateOfPostgres({ query }: Stored): Promise<unknown> {
  return (await query(stateStatement))[0]
}

/** Deletes every row, so that the next sequence has the database for itself. */
export async function emptyPostgres({ query }: Stored): Promise<void> {
  await query(`do $$ begin
    delete from holdfast.sessions; delete from holdfast.members; delete from holdfast.messages;
    delete from holdfast.deleted_sessions; delete from holdfast.turns; delete from holdfast.chunks; delete from holdfast.events; delete from holdfast.usage;
  end $$`)
}

export function stateOfModel(model: store.Model): unknown {
  const sessions = [...model.sessions.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  const all = sessions.flatMap((session) => session.turns)
  const usage = [...model.usage.values()].sort((a, b) =>
    a.turnId === b.turnId ? a.attempt - b.attempt : a.turnId < b.turnId ? -1 : 1,
  )
  return {
    sessions: orNull(
      sessions.map(({ id, events, messageCount, lastPreview, inputTokens, outputTokens }) => ({
        ...{ id, nextSeq: events.length + 1, messageCount, lastPreview, inputTokens, outputTokens },
      })),
    ),
    turns: orNull(all.map((turn) => turnState(turn, model.nowMs))),
    usage: orNull(
      usage.map(({ turnId, attempt, outcome, inputTokens }) => ({ turnId, attempt, outcome, inputTokens })),
    ),
    // Of each turn the user's, and a reply for each round.
    messages: all.reduce((sum, { round }) => sum + 1 + round, 0),
    members: sessions.length,
    events: sessions.reduce((sum, { events }) => sum + events.length, 0),
    chunks: all.reduce((sum, { runs }) => sum + runs.length, 0),
  }
}

function turnState(turn: store.Turn, nowMs: number): unknown {
  const { id, state, attempt, round, open, failures, crashes, bestSteps, bestChunks, runner, claim, position } = turn
  const { by: stopping, reason: stoppingReason } = turn.stopping ?? { by: null, reason: null }
  const over = (atMs: number | null) => (atMs === null ? null : atMs <= nowMs)
  const runs = turn.runs.map((run) => [run.attempt, run.index, run.n])
  return {
    ...{ id, state, attempt, round, open, failures, crashes, bestSteps, bestChunks, runner, claim, position },
    ...{ stopping, stoppingReason },
    ...{ due: over(turn.dueAtMs), leaseOver: over(turn.leaseUntilMs), expired: over(turn.expiresAtMs) },
    ...{ step: turn.checkpoint && String(turn.checkpoint.step), swept: turn.sweepAtMs === null },
    ...{ replyStatus: turn.replyStatus, replyParts: turn.replyParts, errorCode: turn.errorCode, runs: orNull(runs) },
  }
}

/** As `json_agg` says "none". */
function orNull<T>(rows: T[]): T[] | null {
  return rows.length > 0 ? rows : null
}
