/**
 * The ledger against a provider's meter, over any interleaving of sends, repeated sends, retries, other replies, edits, imports,
 * waits for a budget, stops, deaths, takeovers and late reports of several processes. What a process says of its calls is made by the runner's own
 * `createAttemptLedger`. A run that fails prints its seed and path: give them to `fc.assert` to see it again.
 */
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { failureOf } from '../../src/core/errors.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { type Waiting, waitIfHeld } from '../../src/store/asks.ts'
import { renewBudgets } from '../../src/store/budgets.ts'
import { edit, regenerate, retry } from '../../src/store/control.ts'
import type { Database } from '../../src/store/database.ts'
import { importRows } from '../../src/store/imports.ts'
import { deleteSession } from '../../src/store/sessions.ts'
import { type Claimed, checkpointIfHeld, failIfHeld, reportUsageOfLost, requeueIfHeld } from '../../src/store/turns.ts'
import { type AttemptLedger, createAttemptLedger } from '../../src/usage/ledger.ts'
import { claimAll, endLease, finish, stopAsk, writeText } from '../races/held.ts'
import { acceptanceOf, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'

let stored: Stored
let database: Database
beforeAll(async () => {
  stored = await openStored(18)
  database = stored.open()
  // What was reported never changes, whatever else is true at the end of a run.
  await stored.query(`create function reported_stays() returns trigger language plpgsql as $$
    begin
      if tg_op = 'DELETE' or (old.state, old.provider, old.model, old.input_tokens, old.output_tokens, old.cost)
            is distinct from (new.state, new.provider, new.model, new.input_tokens, new.output_tokens, new.cost)
          or old.ended_at is not null and (old.ended_at, old.outcome) is distinct from (new.ended_at, new.outcome) then
        raise exception 'a row that was reported was changed';
      end if;
      return null;
    end $$`)
  await stored.query(`create trigger reported_stays after update or delete on holdfast.usage for each row
    when (old.state = 'reported') execute function reported_stays()`)
})
afterAll(() => stored.close())

type Tokens = { inputTokens: number; outputTokens: number }
/** An attempt as its process knows it. */
type Process = {
  claimed: Claimed
  ledger: AttemptLedger
  isAlive: boolean
  isAsked: boolean
  /** A checkpoint was refused, after which it asks nothing more of the model. */
  isLost: boolean
  hasEnded: boolean
  n: number
}
/** A call as the provider knows it. `isHeard`: somebody who lived to tell it was told what it used. */
type Metered = { process: Process; step: number; tokens: Tokens; isHeard: boolean; isOver: boolean }

const actions = [
  'send',
  'claim',
  'call',
  'hear',
  'write',
  'step',
  'finish',
  'fail',
  'requeue',
  'wait',
  'renew',
  'stop',
  'retry',
  'regenerate',
  'edit',
  'import',
  'die',
  'late',
  'delete',
] as const
const anyAction = fc.record({
  type: fc.oneof(
    { weight: 12, arbitrary: fc.constantFrom('send', 'claim', 'call', 'call', 'hear', 'step' as const) },
    { weight: 6, arbitrary: fc.constantFrom(...actions) },
  ),
  pick: fc.nat(1_000),
})

/** For a budget that is used up, or has room: then it goes on when that is noticed. */
function waitingFor(nextIndex: number, pick: number): Waiting {
  const max = pick % 3 ? 1e12 : 1
  const rule = {
    id: 'limit-tenant-month-tokens',
    per: 'tenant',
    key: tenantId,
    every: 'month',
    measure: 'tokens',
  } as const
  const ask = { kind: 'budget', id: 'b', callId: '', name: rule.id, inputHash: '', used: max, max } as const
  const asks = [{ ...ask, rule: { ...rule, max, mayGoOn: 'member', renewsAt: null } as const }]
  return { nextIndex, checkpoint: null, model: null, shown: [], asks, expiresMs: 1e8, holdsLane: true }
}

let runs = 0
async function play(todo: { type: (typeof actions)[number]; pick: number }[]): Promise<void> {
  const run = `w${++runs}`
  const sessions = await sessionsOf(database, 2, `${run}-`)
  const acceptor = createAcceptor(database)
  const processes: Process[] = []
  const meter: Metered[] = []
  const completed = new Set<string>()
  const messages: { sessionId: string; messageId: string }[] = []
  const deleted = new Set<string>()

  const of = <T>(all: readonly T[], pick: number): T | undefined => all[pick % Math.max(1, all.length)]
  const callOf = (process: Process) => meter.findLast((each) => each.process === process)
  const alive = () => processes.filter(({ isAlive, hasEnded }) => isAlive && !hasEnded)

  async function claim() {
    for (const claimed of (await claimAll(database, run, { limit: 1, crashesMax: 99 })).claimed) {
      const ledger = createAttemptLedger(() => '0.1')
      processes.push({ claimed, ledger, isAlive: true, isAsked: false, isLost: false, hasEnded: false, n: 0 })
    }
  }

  /** Asks the model: the provider counts from here on. */
  function call(process: Process, pick: number) {
    const last = callOf(process)
    if (process.isLost || (last && !last.isOver)) return
    if (!process.isAsked) process.ledger.replyAsked(() => 40, { keepsStep: false, bytes: 0 })
    process.isAsked = true
    process.ledger.taken({ type: 'start-step' }, { isKept: false, bytes: 0 })
    const tokens = { inputTokens: 100 + (pick % 50), outputTokens: 10 + (pick % 7) }
    meter.push({ process, step: last ? last.step + 1 : 0, tokens, isHeard: false, isOver: false })
  }

  function hear(process: Process) {
    const last = callOf(process)
    // Reports come in order: after a call that was silent nothing is heard any more.
    if (!last || process.ledger.reports.length !== last.step) return
    process.ledger.report({ provider: 'p', model: 'm', ...last.tokens })
  }

  async function step(process: Process) {
    const last = callOf(process)
    if (!last || last.isOver) return
    process.ledger.taken({ type: 'finish-step' }, { isKept: false, bytes: 0 })
    last.isOver = true
    const nextStep = process.ledger.nextStep()
    const checkpoint = { attempt: process.claimed.attempt, step: 1, isOpen: false, nextIndex: process.n, parts: [] }
    const rest = { metadata: null, told: [], forClients: [], tokens: 0 }
    const usage = process.ledger.atCheckpoint()
    const held = await checkpointIfHeld(database, process.claimed, { ...checkpoint, ...rest }, { usage, nextStep })
    if (held) told(process)
    else process.isLost = true
  }

  /** What it has heard so far the ledger knows by now. */
  function told(process: Process) {
    for (const each of meter) {
      if (each.process === process && process.ledger.reports[each.step]) each.isHeard = true
    }
  }

  async function end(process: Process, how: 'finish' | 'fail' | 'requeue' | 'wait', pick = 0) {
    const { claimed, ledger } = process
    const usage = ledger.atEnd({ mayHaveGoneOn: false })
    const ended = await {
      finish: () => finish(database, claimed, process.n, usage),
      fail: () =>
        failIfHeld(database, claimed, failureOf('internal'), { parts: [], metadata: null, model: null }, usage),
      requeue: () => {
        const reason = pick % 2 ? 'handover' : 'error'
        return requeueIfHeld(database, claimed, { reason, code: null, retryMs: 0 }, usage)
      },
      wait: () => waitIfHeld(database, claimed, waitingFor(process.n, pick), usage),
    }[how]()
    if (ended.outcome === 'stored' && how === 'finish') completed.add(claimed.turnId)
    if (ended.outcome === 'lost') await reportUsageOfLost(database, claimed, userId, ledger.atLoss())
    told(process)
    process.hasEnded = true
  }

  async function late(process: Process) {
    await reportUsageOfLost(database, process.claimed, userId, process.ledger.reports)
    if (process.ledger.reports.length > 0) told(process)
  }

  /** Rows of the ledger and of the days, as they are. */
  const figures = () =>
    stored.query(
      `select (select json_agg(u order by turn_id, attempt, step) from holdfast.usage u
        where u.session_id = any($1)) as ledger, (select json_agg(d order by day, model) from holdfast.usage_daily d) as days`,
      [sessions],
    )

  /** A pair from elsewhere, now and then one that is there; what was said here keeps its id. */
  async function importPair(sessionId: string, pick: number) {
    const before = await figures()
    const message = {
      parts: [{ type: 'text', text: 'hi' }],
      metadata: {},
      createdAt: '2020-01-01T00:00:00Z',
      hash: 'h',
    }
    const id = pick % 3 === 0 ? (of(messages, pick)?.messageId ?? 'i') : `i${pick % 9}`
    const answer = await importRows(database, {
      ...{ tenantId, userId, sessionId, session: null, messagesMax: 1_000, dayMax: null, since: null },
      messages: [
        { ...message, line: 1, id, role: 'user', repliesTo: null, model: null },
        { ...message, line: 2, id: `${id}-r`, role: 'assistant', repliesTo: id, model: 'm' },
      ],
    })
    expect(answer.outcome).toBe('imported')
    if (answer.outcome === 'imported' && answer.new > 0) messages.push({ sessionId, messageId: id })
    expect(await figures()).toEqual(before)
  }

  async function act({ type, pick }: (typeof todo)[number]) {
    const process = of(alive(), pick)
    const sessionId = of(sessions, pick)!
    switch (type) {
      case 'send': {
        // Now and then one that was sent before.
        const again = pick % 4 === 0 ? of(messages, pick) : undefined
        const sent = again ?? { sessionId, messageId: `m${messages.length}` }
        if (deleted.has(sent.sessionId)) return
        if (!again) messages.push(sent)
        await acceptor.accept(acceptanceOf(sent.sessionId, sent.messageId))
        return
      }
      case 'claim':
        return await claim()
      case 'call':
        return process && call(process, pick)
      case 'hear':
        return process && hear(process)
      case 'step':
        return process && (await step(process))
      case 'finish':
        // A reply is complete only where it was asked for.
        return process?.isAsked && (await end(process, type))
      case 'fail':
      case 'requeue':
      case 'wait':
        return process && (await end(process, type, pick))
      case 'renew':
        return void (await renewBudgets(database, 100))
      case 'write':
        if (!process || process.n > 0) return
        await writeText(database, process.claimed, 3).then(
          () => {
            process.n = 3
          },
          // It is not its turn any more.
          () => undefined,
        )
        return
      case 'stop': {
        const message = of(messages, pick)
        if (message) await stopTurn(database, stopAsk(message.sessionId, message.messageId))
        return
      }
      case 'retry': {
        const message = of(messages, pick)
        const ask = { round: null, replyId: `r${pick}-${messages.length}`, roundsMax: 9, expiresMs: 1e8, sendsMax: 0 }
        if (message) await retry(database, { tenantId, userId, ...message }, ask)
        return
      }
      case 'regenerate': {
        const message = of(messages, pick)
        const ask = { replyId: `o${pick}-${messages.length}`, roundsMax: 9, expiresMs: 1e8, sendsMax: 0 }
        if (message) await regenerate(database, { tenantId, userId, ...message }, ask)
        return
      }
      case 'edit': {
        const message = of(messages, pick)
        if (!message) return
        // Now and then one that was made before.
        const { parts, bodyHash, preview } = acceptanceOf(message.sessionId, '', `text ${pick}`)
        const ids = { id: `e${pick}`, turnId: randomUUID(), replyId: randomUUID() }
        const ask = { ...ids, parts, bodyHash, preview, metadata: null, expiresMs: 1e8, sendsMax: 0 }
        const edited = await edit(database, { tenantId, userId, ...message }, ask)
        if (edited.outcome === 'done' && edited.messageId === ids.id) {
          messages.push({ sessionId: message.sessionId, messageId: ids.id })
        }
        return
      }
      case 'import':
        return deleted.has(sessionId) ? undefined : await importPair(sessionId, pick)
      case 'die':
        if (!process) return
        process.isAlive = false
        return await endLease(stored, process.claimed.turnId)
      case 'late': {
        // Also of one that lost its turn, or has ended it long ago.
        const living = of(
          processes.filter(({ isAlive }) => isAlive),
          pick,
        )
        if (living && (living.hasEnded || pick % 2 === 0)) await late(living)
        return
      }
      case 'delete':
        // Of one of the two, seldom.
        if (pick % 3 > 0) return
        deleted.add(sessions[1]!)
        await deleteSession(database, tenantId, sessions[1]!, userId)
    }
  }

  for (const action of todo) await act(action)
  // Whoever lives comes to an end, and nobody else's attempt stays.
  for (const process of alive()) await end(process, 'requeue')
  for (const { sessionId, messageId } of messages) await stopTurn(database, stopAsk(sessionId, messageId))

  const rows = await stored.query<{ key: string; state: string; input: number; output: number }>(
    `select turn_id || ' ' || attempt || ' ' || step as key, state, input_tokens as input, output_tokens as output
      from holdfast.usage where session_id = any($1)`,
    [sessions],
  )
  const keyOf = ({ claimed }: Process, at: number) => `${claimed.turnId} ${claimed.attempt} ${at}`
  const byKey = new Map(rows.map((row) => [row.key, row]))
  let reported = 0
  let metered = 0
  for (const { process, step: at, tokens, isHeard } of meter) {
    const row = byKey.get(keyOf(process, at))
    byKey.delete(keyOf(process, at))
    const whole = tokens.inputTokens + tokens.outputTokens
    metered += whole
    expect(row?.state).toBe(isHeard ? 'reported' : 'estimated')
    reported += isHeard ? row!.input + row!.output : whole
    if (isHeard) expect([row!.input, row!.output]).toEqual([tokens.inputTokens, tokens.outputTokens])
  }
  expect(reported).toBe(metered)
  // Of a process that died, or was taken its turn, nobody knows whether it has called the model by then.
  for (const { key, state } of byKey.values()) expect([key, state]).toEqual([key, 'estimated'])
  const known = processes.filter(({ isAlive, isAsked }) => isAlive && !isAsked)
  for (const process of known) expect(byKey.has(keyOf(process, 0))).toBe(false)
  expect(await stored.query('select * from holdfast.usage_differences()')).toEqual([])
  const [counted] = await stored.query<{ n: number }>(
    'select count(*)::int as n from holdfast.usage where session_id = any($1) and succeeded_on is not null',
    [sessions],
  )
  expect(counted!.n).toBe(completed.size)
}

test('each call is one row, as its provider’s meter where that was heard, else an estimate; the days are its fold (I12, R4.2)', async () => {
  await fc.assert(fc.asyncProperty(fc.array(anyAction, { minLength: 12, maxLength: 45 }), play), {
    numRuns: 35,
    endOnFailure: false,
  })
}, 60_000)
