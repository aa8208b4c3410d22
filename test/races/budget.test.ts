import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { cleanUsage } from '../../src/core/clean.ts'
import { failureOf } from '../../src/core/errors.ts'
import type { Event } from '../../src/core/event.ts'
import { readSnapshot } from '../../src/log/snapshot.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { answerAsk, waitIfHeld } from '../../src/store/asks.ts'
import { appendIfHeld } from '../../src/store/chunks.ts'
import { retry } from '../../src/store/control.ts'
import type { Database } from '../../src/store/database.ts'
import { deleteSession } from '../../src/store/sessions.ts'
import { beginCallIfHeld, endCallIfHeld } from '../../src/store/tool-calls.ts'
import {
  type Checkpoint,
  type Claimed,
  checkpointIfHeld,
  expire,
  failIfHeld,
  repair,
  reportUsageOfLost,
  requeueIfHeld,
  sweep,
} from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { acceptanceOf, disorder, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { acceptTurns, claimAll, claimOne, endLease, finish, rowOf, stopAsk, tookOver, writeText } from './held.ts'

/**
 * The naive budget counts attempts: a turn that makes progress but meets three deploys fails, and one that brings
 * every process down never ends.
 */
describe.each(postgresVersions)('budget, ledger and sweeps on PostgreSQL %i', (version) => {
  let stored: Stored
  let database: Database
  beforeAll(async () => {
    stored = await openStored(version)
    database = stored.open()
  })
  afterAll(() => stored.close())

  async function session(name: string, messages = 1): Promise<string> {
    const [id] = await sessionsOf(database, 1, name)
    await acceptTurns(database, [id!], messages)
    return id!
  }

  /** The owner dies; whoever claims next takes the turn over, or ends it. */
  async function crash(claimed: Claimed): Promise<Claimed | Event> {
    await endLease(stored, claimed.turnId)
    const answer = await claimAll(database, 'next')
    const [next] = answer.claimed
    return next ?? answer.failed[0]!.events.at(-1)!
  }

  const crashed = (next: Claimed | Event): next is Event => 'json' in next
  const messageOf = async (id: string) =>
    (await stored.query<{ error: unknown; status: string; output_tokens: number | null; input_tokens: number | null }>(
      `select error, status, input_tokens, output_tokens::float8 from holdfast.messages where session_id = $1
        order by position, role desc`,
      [id],
    ))!
  const ledgerOf = (id: string) =>
    stored.query(
      'select attempt, step, input_tokens, output_tokens, outcome from holdfast.usage where session_id = $1 order by attempt, step',
      [id],
    )
  const countersOf = async (id: string) =>
    (
      await stored.query<{ input: number; output: number; messages: number }>(
        'select input_tokens::int as input, output_tokens::int as output, message_count as messages from holdfast.sessions where id = $1',
        [id],
      )
    )[0]!

  async function finishRest(): Promise<void> {
    const { claimed } = await claimAll(database, 'rest')
    for (const each of claimed) await finish(database, each, 0)
  }

  test('three crashes in a row without progress end the turn as failed, crashed, and tell the sender (I2)', async () => {
    const id = await session('crash', 2)
    let next: Claimed | Event = await claimOne(database)
    const attempts: number[] = []
    while (!crashed(next)) {
      attempts.push(next.attempt)
      next = await crash(next)
    }
    expect(attempts).toEqual([1, 2, 3])
    expect(next.type).toBe('message.error')
    expect(JSON.parse(next.json)).toMatchObject({ userMessageId: `${id}-m0`, code: 'crashed' })
    const [user, reply] = await messageOf(id)
    expect(user!.error).toMatchObject({ code: 'crashed' })
    expect(user!.status).toBe('complete')
    expect(reply!.status).toBe('failed')
    expect((await claimOne(database)).messageId).toBe(`${id}-m1`)
    await stopTurn(database, stopAsk(id, `${id}-m1`))
  })

  test('a crash that got clearly further, by chunks or by steps, starts the count anew', async () => {
    const id = await session('further')
    let claimed = await claimOne(database)
    // More than twice as far each time: five crashes, and it still runs.
    for (const [at, chunks] of [1, 3, 7, 15, 31].entries()) {
      await writeText(database, claimed, chunks)
      claimed = (await crash(claimed)) as Claimed
      expect(claimed.attempt).toBe(at + 2)
    }
    // Twice no further, then a step, then two chunks of the next one, then no further than that.
    for (const steps of [0, 0, 1, 1, 1]) {
      await writeText(database, claimed, 2)
      if (steps > (claimed.checkpoint?.step ?? 0)) {
        const checkpoint = {
          attempt: claimed.attempt,
          step: 1,
          isOpen: false,
          nextIndex: 2,
          parts: [],
          metadata: null,
          told: [],
          forClients: [],
          tokens: 0,
        }
        await checkpointIfHeld(database, claimed, checkpoint)
      }
      claimed = (await crash(claimed)) as Claimed
      expect(claimed.checkpoint?.step ?? 0).toBe(steps)
    }
    const [row] = await stored.query(
      'select crashes, failures, best_steps, best_chunks from holdfast.turns where id = $1',
      [claimed.turnId],
    )
    expect(row).toEqual({ crashes: 1, failures: 0, best_steps: 1, best_chunks: 2 })
    expect(claimed.attempt).toBe(11)
    await stopTurn(database, stopAsk(id, `${id}-m0`))
  })

  test('a reply that kills at the same place ends as crashed, however much was flushed before it did (I2)', async () => {
    const id = await session('jitter')
    let next: Claimed | Event = await claimOne(database)
    let attempts = 0
    // The farthest so far each time, as jitter may have it.
    while (!crashed(next) && attempts < 10) {
      await writeText(database, next, 20 + attempts++)
      next = await crash(next)
    }
    expect([attempts, crashed(next) && JSON.parse(next.json).code]).toEqual([4, 'crashed'])
    await stopTurn(database, stopAsk(id, `${id}-m0`))
  })

  test('failures are not crashes, handovers are neither, and no attempt number comes twice (I2)', async () => {
    const id = await session('kinds')
    let claimed = await claimOne(database)
    claimed = (await crash(claimed)) as Claimed
    claimed = (await crash(claimed)) as Claimed
    await requeueIfHeld(database, claimed, { reason: 'handover', code: null, retryMs: 0 }, [])
    claimed = await claimOne(database)
    expect(claimed.failures).toBe(0)
    expect(tookOver(claimed)).toBe(false)
    await requeueIfHeld(database, claimed, { reason: 'error', code: 'internal', retryMs: 0 }, [])
    claimed = await claimOne(database)
    expect(claimed).toMatchObject({ failures: 1, attempt: 5 })
    const [row] = await stored.query('select crashes from holdfast.turns where id = $1', [claimed.turnId])
    expect(row).toEqual({ crashes: 0 })
    const failed = await failIfHeld(
      database,
      claimed,
      failureOf('internal'),
      { parts: [], metadata: null, model: null },
      [],
    )
    expect(failed.outcome).toBe('stored')
    expect(
      await failIfHeld(database, claimed, failureOf('internal'), { parts: [], metadata: null, model: null }, []),
    ).toEqual(failed)
    expect((await messageOf(id))[0]!.error).toMatchObject({ code: 'internal' })
    const started = await stored.query<{ attempt: number }>(
      `select attempt from holdfast.events where session_id = $1 and type = 'attempt.started' order by seq`,
      [id],
    )
    expect(started.map(({ attempt }) => attempt)).toEqual([1, 2, 3, 4, 5])
  })

  test('only turns that were never begun in time expire, and their lane goes on (I2)', async () => {
    const id = await session('expire', 3)
    const begun = await claimOne(database)
    await requeueIfHeld(database, begun, { reason: 'error', code: 'internal', retryMs: 0 }, [])
    await stored.query(
      `update holdfast.turns set expires_at = now() - interval '1 s' where session_id = $1 and expires_at is not null and message_id = $2`,
      [id, `${id}-m1`],
    )
    const expired = await expire(database, 9, failureOf('expired'))
    expect(expired.map(({ event }) => [event.type, JSON.parse(event.json).userMessageId])).toEqual([
      ['message.error', `${id}-m1`],
    ])
    expect(await expire(database, 9, failureOf('expired'))).toEqual([])
    const again = await claimOne(database)
    expect(again.messageId).toBe(`${id}-m0`)
    await finish(database, again, 0)
    expect((await claimOne(database)).messageId).toBe(`${id}-m2`)
    await stopTurn(database, stopAsk(id, `${id}-m2`))
  })

  test('a turn that has expired is not run in the moment before it is swept', async () => {
    const id = await session('late')
    await stored.query(`update holdfast.turns set expires_at = now() - interval '1 s' where session_id = $1`, [id])
    const answer = await claimAll(database, 'a')
    expect(answer.claimed).toEqual([])
    expect(answer.dueInMs).toBe(null)
    expect(await expire(database, 9, failureOf('expired'))).toHaveLength(1)
  })

  test('a head that nobody made due is made due, and nothing behind it', async () => {
    const id = await session('repair', 2)
    await stored.query('update holdfast.turns set due_at = null where session_id = $1', [id])
    expect((await claimAll(database, 'a')).claimed).toEqual([])
    expect(await repair(database, 9)).toBe(1)
    expect(await repair(database, 9)).toBe(0)
    expect((await claimOne(database)).messageId).toBe(`${id}-m0`)
    await stopTurn(database, stopAsk(id, `${id}-m0`))
    await finishRest()
  })

  test('chunks go a minute after a later attempt or the outcome stands for them, and not before (I5)', async () => {
    const id = await session('sweep')
    const first = await claimOne(database)
    await writeText(database, first, 2)
    const second = (await crash(first)) as Claimed
    await writeText(database, second, 3)
    const chunksOf = async () =>
      (
        await stored.query<{ attempt: number }>('select attempt from holdfast.chunks where turn_id = $1 order by 1', [
          first.turnId,
        ])
      ).map(({ attempt }) => attempt)
    const aMinuteLater = () =>
      stored.query('update holdfast.turns set sweep_at = now() where turns.id = $1 and sweep_at is not null', [
        first.turnId,
      ])
    await sweep(database, 100)
    expect(await chunksOf()).toEqual([1, 2])
    await aMinuteLater()
    expect(await sweep(database, 100)).toBe(1)
    expect(await chunksOf()).toEqual([2])
    expect((await finish(database, second, 3)).outcome).toBe('stored')
    await sweep(database, 100)
    expect(await chunksOf()).toEqual([2])
    await aMinuteLater()
    await sweep(database, 100)
    expect(await chunksOf()).toEqual([])
    expect(id).toBe('sweep0')
  })

  test('what an attempt would go on from is kept until the outcome, and swept after it; that a call ran is kept', async () => {
    await session('kept')
    const claimed = await claimOne(database)
    const checkpoint: Checkpoint = {
      ...{ attempt: 1, step: 0, isOpen: true, nextIndex: 0, parts: [{ type: 'step-start' }] },
      ...{ metadata: null, told: [], forClients: [], tokens: 0 },
    }
    const call = { name: 'book', inputHash: 'h', again: false, leaseMs: 60_000 }
    const place = (key: Claimed, callId: string) => ({ ...key, step: 0, callId })
    const run = async (key: Claimed, callId: string) => {
      expect((await beginCallIfHeld(database, place(key, callId), call, checkpoint)).outcome).toBe('begun')
      await endCallIfHeld(database, place(key, callId), { state: 'done', output: { of: callId } }, checkpoint)
    }
    const sweepNow = async () => {
      await stored.query('update holdfast.turns set sweep_at = now() where id = $1', [claimed.turnId])
      await sweep(database, 100)
    }
    const kept = async () => {
      const calls = 'select call_id, state, output from holdfast.tool_calls where turn_id = $1 order by call_id'
      const turn = 'select checkpoint is not null as has from holdfast.turns where id = $1'
      const [row] = await stored.query<{ has: boolean }>(turn, [claimed.turnId])
      const rows = await stored.query<{ call_id: string; state: string; output: unknown }>(calls, [claimed.turnId])
      return { checkpoint: row!.has, calls: rows.map(({ call_id, state, output }) => [call_id, state, output]) }
    }
    await run(claimed, 'k1')
    const asked = { nextIndex: 0, checkpoint, model: null, expiresMs: 60_000, holdsLane: true }
    const ask = { kind: 'budget', id: 'b', callId: '', name: 'steps', inputHash: '', used: 1, max: 1 } as const
    const { tenantId: tenant, sessionId, messageId } = claimed
    const who = { tenantId: tenant, sessionId, userId }
    await waitIfHeld(database, claimed, { ...asked, asks: [ask] }, [])
    await sweepNow()
    expect(await kept()).toEqual({ checkpoint: true, calls: [['k1', 'done', { of: 'k1' }]] })
    const yes = { kind: 'approval', id: 'b', answer: { approved: true } } as const
    await answerAsk(database, who, yes, { turnId: null, by: userId })
    const next = await claimOne(database)
    await sweepNow()
    expect((await beginCallIfHeld(database, place(next, 'k1'), call, checkpoint)).outcome).toBe('done')
    expect((await stopTurn(database, stopAsk(sessionId, messageId))).outcome).toBe('stopped')
    await sweepNow()
    expect(await kept()).toEqual({ checkpoint: false, calls: [['k1', 'done', null]] })

    // Begun anew before the sweep: of the round before nothing is kept, of this one all.
    const again = { round: 1, replyId: randomUUID(), roundsMax: 10, expiresMs: 60_000, sendsMax: 0 }
    expect((await retry(database, { ...who, messageId }, again)).outcome).toBe('done')
    const anew = await claimOne(database)
    await run(anew, 'k2')
    await stored.query(`update holdfast.tool_calls set output = '1' where call_id = 'k1'`)
    await sweepNow()
    expect(await kept()).toEqual({
      checkpoint: true,
      calls: [
        ['k1', 'done', null],
        ['k2', 'done', { of: 'k2' }],
      ],
    })
    await finish(database, anew, 0)
  })

  test('each reported step is one row of the ledger, whoever reports it and however often (I12)', async () => {
    const id = await session('ledger')
    const first = await claimOne(database)
    await writeText(database, first, 1)
    const second = (await crash(first)) as Claimed
    const report = (step: number, inputTokens: number, outputTokens: number) => ({
      step,
      usage: { model: 'm1', provider: 'p', inputTokens, outputTokens },
    })
    // The first attempt lost its turn; what it says late is kept, and its own finish is refused.
    expect(await finish(database, first, 1, [report(0, 10, 1)])).toEqual({ outcome: 'lost' })
    await reportUsageOfLost(database, first, userId, [report(0, 99, 99), report(1, 20, 2)])
    const told = [report(0, 30, 3), report(1, 40, 4), { step: 2, usage: null }]
    const finished = await finish(database, second, 0, told)
    expect(finished.outcome).toBe('stored')
    expect(await finish(database, second, 0, told)).toEqual(finished)
    await reportUsageOfLost(database, second, userId, [report(0, 5, 5)])
    expect(await ledgerOf(id)).toEqual([
      { attempt: 1, step: 0, input_tokens: 10, output_tokens: 1, outcome: 'lost' },
      { attempt: 1, step: 1, input_tokens: 20, output_tokens: 2, outcome: 'lost' },
      { attempt: 2, step: 0, input_tokens: 30, output_tokens: 3, outcome: 'complete' },
      { attempt: 2, step: 1, input_tokens: 40, output_tokens: 4, outcome: 'complete' },
    ])
    const [user, reply] = await messageOf(id)
    expect(user).toMatchObject({ input_tokens: 10, output_tokens: null })
    expect(reply).toMatchObject({ input_tokens: null, output_tokens: 7 })
    expect(await countersOf(id)).toEqual({ input: 100, output: 10, messages: 2 })
  })

  test('a reply whose steps together used more tokens than an int holds is stored, and so is what comes late (I2, I12)', async () => {
    const tokens = cleanUsage({ inputTokens: 10_000_000, outputTokens: 10_000_000 })
    const reports = Array.from({ length: 300 }, (_, step) => ({ step, usage: tokens }))
    const id = await session('much', 2)
    expect((await finish(database, await claimOne(database), 0, reports)).outcome).toBe('stored')
    const stopped = await claimOne(database)
    await stopTurn(database, stopAsk(id, `${id}-m1`))
    await reportUsageOfLost(database, stopped, userId, reports)
    const [, reply, , second] = await messageOf(id)
    expect([reply, second]).toMatchObject([
      { status: 'complete', output_tokens: 3e9 },
      { status: 'stopped', output_tokens: 3e9 },
    ])
    const snapshot = await readSnapshot(database, 'e', { tenantId, sessionId: id, userId, limit: 9 })
    expect(snapshot!.messages[1]).toMatchObject({ outputTokens: 3e9 })
    expect(snapshot!.session).toMatchObject({ totalTokens: 12e9 })
  })

  test('what a stopped attempt reports late is counted, on the reply too (I12)', async () => {
    const id = await session('stopped')
    const claimed = await claimOne(database)
    await writeText(database, claimed, 2)
    await stopTurn(database, stopAsk(id, `${id}-m0`))
    await reportUsageOfLost(database, claimed, userId, [{ step: 0, usage: { inputTokens: 7, outputTokens: 5 } }])
    await reportUsageOfLost(database, claimed, userId, [{ step: 0, usage: { inputTokens: 7, outputTokens: 5 } }])
    expect(await ledgerOf(id)).toEqual([{ attempt: 1, step: 0, input_tokens: 7, output_tokens: 5, outcome: 'stopped' }])
    expect((await messageOf(id))[1]).toMatchObject({ status: 'stopped', output_tokens: 5 })
    expect(await countersOf(id)).toEqual({ input: 7, output: 5, messages: 2 })
  })

  test('a finish that does not name every stored chunk is refused, and leaves no trace in the ledger', async () => {
    const id = await session('mismatch')
    const claimed = await claimOne(database)
    await writeText(database, claimed, 2)
    const usage = [{ step: 0, usage: { outputTokens: 1 } }]
    expect(await finish(database, claimed, 1, usage)).toEqual({ outcome: 'mismatch' })
    expect(await ledgerOf(id)).toMatchObject([{ output_tokens: null, outcome: null }])
    await failIfHeld(database, claimed, failureOf('internal'), { parts: [], metadata: null, model: null }, usage)
    expect(await ledgerOf(id)).toMatchObject([{ outcome: 'failed' }])
  })

  test('only user rows carry input tokens, only assistant rows output tokens', async () => {
    const set = (what: string) => stored.query(`update holdfast.messages set ${what}`)
    await expect(set(`output_tokens = 1 where role = 'user'`)).rejects.toMatchObject({ code: '23514' })
    await expect(set(`input_tokens = 1 where role = 'assistant'`)).rejects.toMatchObject({ code: '23514' })
    await expect(set(`status = 'failed' where role = 'user'`)).rejects.toMatchObject({ code: '23514' })
  })

  test('a deleted session leaves nothing that was said; its ledger stays, and its attempt is refused (I3, I12)', async () => {
    const id = await session('deleted', 2)
    const claimed = await claimOne(database)
    await writeText(database, claimed, 2)
    expect((await deleteSession(database, tenantId, id, userId)).outcome).toBe('deleted')
    expect(await appendIfHeld(database, [rowOf(claimed, 2)], 60_000)).toEqual(new Set())
    expect(await finish(database, claimed, 2)).toEqual({ outcome: 'lost' })
    await reportUsageOfLost(database, claimed, userId, [{ step: 0, usage: { outputTokens: 3 } }])
    expect(await ledgerOf(id)).toHaveLength(1)
    for (const table of ['sessions', 'members', 'messages', 'turns', 'events']) {
      const key = table === 'sessions' ? 'id' : 'session_id'
      expect(await stored.query(`select from holdfast.${table} where ${key} = $1`, [id]), table).toEqual([])
    }
    expect(await stored.query('select from holdfast.chunks where turn_id = $1', [claimed.turnId])).toEqual([])
    expect((await createAcceptor(database).accept(acceptanceOf(id))).outcome).toBe('not_found')
    expect(await disorder(stored)).toEqual([])
  })
})
