import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { failureOf } from '../../src/core/errors.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { appendIfHeld, renewIfHeld, stillHeld } from '../../src/store/chunks.ts'
import type { Database } from '../../src/store/database.ts'
import { type Claimed, expire, repair, sweep } from '../../src/store/turns.ts'
import { eventually } from '../support/eventually.ts'
import { postgresVersions } from '../support/postgres.ts'
import { acceptanceOf, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { acceptTurns, claimAll, crashed, endLease, finish, partsOf, rowOf, stopAsk, untilAnswered } from './held.ts'

/**
 * A process that is stopped (SIGSTOP, a blocked event loop, a paused machine) in the middle of a transition. The naive
 * flush waits for the rows that it holds, and with it all attempts of all sessions: 1,000 turns froze.
 *
 * To be in the middle for certain the child's call meets, with its locks taken, a row that is about to be inserted
 * under the key that it writes, or (where it inserts nothing) a trigger that waits: it waits there, as if the server had
 * been slow at that point, and is stopped.
 */
const others = 30
const child = fileURLToPath(new URL('paused-child.mjs', import.meta.url))

type Scene = { claimed: Claimed; sessionId: string }
type Call = {
  name: string
  module: string
  /** What is to happen to the scene before. */
  before?: (stored: Stored, scene: Scene) => Promise<unknown>
  function: string
  arguments: (scene: Scene) => unknown[]
  /** What the call will insert, or `update`: the turn, which it changes. */
  blocks: 'event' | 'chunk' | 'usage' | 'deleted' | 'member' | 'update'
  /** Defaults to true. */
  holdsTurn?: boolean
  /** Whether the answer says that it was done. */
  done: (answer: never) => boolean
}

const stored = ({ outcome }: { outcome: string }) => outcome === 'stored'
const created = (all: { outcome: string }[]) => all.every(({ outcome }) => outcome === 'created')
/** Of the others' sessions: a paused batch has them locked, too. */
const batched = ['other0', 'other1', 'other2']
const newOf = ({ sessionId }: Scene) => `${sessionId}-new`
const setTurn =
  (what: string) =>
  async ({ query }: Stored, { claimed }: Scene) =>
    await query(`update holdfast.turns set ${what} where id = $1`, [claimed.turnId])
const message = { parts: partsOf(1, 1), metadata: null, model: null, preview: null }
const queued = (seconds: number) =>
  setTurn(`state = 'queued', due_at = now(), expires_at = now() + make_interval(secs => ${seconds})`)
const claimArguments = (scene: Scene) => [
  {
    ...{ runner: `late ${scene.sessionId}`, claim: 1, lost: [] },
    ...{ leaseMs: 60_000, limit: 100, takeExpired: true, crashesMax: 3, crashed },
  },
]
const calls: Call[] = [
  {
    name: 'accept',
    module: 'accept',
    function: 'createAcceptor',
    arguments: ({ sessionId }) => [acceptanceOf(sessionId)],
    blocks: 'event',
    holdsTurn: false,
    done: created,
  },
  {
    name: 'accept of a batch',
    module: 'accept',
    function: 'createAcceptor',
    arguments: ({ sessionId }) => [...batched, sessionId].map((id) => acceptanceOf(id)),
    blocks: 'event',
    holdsTurn: false,
    done: (all: { outcome: string }[]) => all.length === batched.length + 1 && created(all),
  },
  {
    name: 'create',
    module: 'sessions',
    function: 'createSession',
    arguments: (scene) => [{ tenantId, id: newOf(scene), userId, title: null, metadata: {} }],
    blocks: 'member',
    holdsTurn: false,
    done: ({ outcome }: { outcome: string }) => outcome === 'created',
  },
  {
    name: 'rename',
    module: 'sessions',
    function: 'renameSession',
    arguments: ({ sessionId }) => [{ tenantId, id: sessionId, userId, title: 'Another' }],
    blocks: 'event',
    holdsTurn: false,
    done: ({ outcome }: { outcome: string }) => outcome === 'updated',
  },
  {
    name: 'say',
    module: 'say',
    function: 'say',
    arguments: (scene) => {
      const { parts, metadata, bodyHash, preview } = acceptanceOf(scene.sessionId)
      const messageId = `${newOf(scene)}-said`
      return [{ tenantId, sessionId: scene.sessionId, messageId, parts, metadata, bodyHash, preview, lane: 'main' }]
    },
    blocks: 'event',
    holdsTurn: false,
    done: ({ outcome }: { outcome: string }) => outcome === 'said',
  },
  {
    name: 'update',
    module: 'sessions',
    function: 'updateSession',
    arguments: ({ sessionId }) => [tenantId, sessionId, { title: 'Another' }],
    blocks: 'event',
    holdsTurn: false,
    done: ({ outcome }: { outcome: string }) => outcome === 'updated',
  },
  {
    name: 'delete',
    module: 'sessions',
    function: 'deleteSession',
    arguments: ({ sessionId }) => [tenantId, sessionId, userId],
    blocks: 'deleted',
    done: ({ outcome }: { outcome: string }) => outcome === 'deleted',
  },
  {
    name: 'claim of a due turn',
    module: 'turns',
    before: queued(60),
    function: 'claim',
    arguments: claimArguments,
    blocks: 'event',
    done: ({ claimed }: { claimed: unknown[] }) => claimed.length === 1,
  },
  {
    name: 'takeover',
    module: 'turns',
    before: (store, { claimed }) => endLease(store, claimed.turnId),
    function: 'claim',
    arguments: claimArguments,
    blocks: 'event',
    done: ({ claimed }: { claimed: unknown[] }) => claimed.length === 1,
  },
  {
    name: 'append',
    module: 'chunks',
    // So that a claim of the others finds it, locked.
    before: (store, { claimed }) => endLease(store, claimed.turnId),
    function: 'appendIfHeld',
    arguments: ({ claimed }) => [[rowOf(claimed, 1)], 60_000],
    blocks: 'chunk',
    done: (held: string[]) => held.length === 1,
  },
  {
    name: 'renewal',
    module: 'chunks',
    before: setTurn(`lease_until = now() + interval '10 s'`),
    function: 'renewIfHeld',
    arguments: ({ claimed }) => [[claimed], 60_000],
    blocks: 'update',
    done: (held: string[]) => held.length === 1,
  },
  {
    name: 'checkpoint',
    module: 'turns',
    function: 'checkpointIfHeld',
    arguments: ({ claimed: { attempt, ...key } }) => [
      { ...key, attempt },
      { attempt, step: 1, nextIndex: 1, parts: [], metadata: null, told: [] },
    ],
    blocks: 'update',
    done: (held: boolean) => held,
  },
  {
    name: 'report',
    module: 'turns',
    function: 'reportUsageOfLost',
    arguments: ({ claimed }) => [claimed, userId, [{ step: 1, usage: { outputTokens: 1 } }]],
    blocks: 'usage',
    done: (answer: null) => answer === null,
  },
  {
    name: 'finish',
    module: 'turns',
    function: 'finishIfHeld',
    arguments: ({ claimed }) => [claimed, { nextIndex: 1, ...message }, []],
    blocks: 'event',
    done: stored,
  },
  {
    name: 'fail',
    module: 'turns',
    function: 'failIfHeld',
    arguments: ({ claimed }) => [claimed, failureOf('internal'), message, []],
    blocks: 'event',
    done: stored,
  },
  {
    name: 'requeue',
    module: 'turns',
    function: 'requeueIfHeld',
    arguments: ({ claimed }) => [claimed, { reason: 'error', code: null, retryMs: 60_000 }, []],
    blocks: 'event',
    done: stored,
  },
  {
    name: 'stop',
    module: 'turns',
    function: 'stop',
    arguments: ({ claimed }) => [
      claimed,
      { isOpen: true, nextIndex: 1, ...message },
      { by: userId, reason: null, lastTry: false, userId: null, round: 1 },
    ],
    blocks: 'event',
    done: ({ outcome }: { outcome: string }) => outcome === 'stopped',
  },
  {
    name: 'expire',
    module: 'turns',
    before: queued(-1),
    function: 'expire',
    arguments: () => [100, failureOf('expired')],
    blocks: 'event',
    done: (expired: unknown[]) => expired.length === 1,
  },
  {
    name: 'repair',
    module: 'turns',
    before: setTurn(`state = 'queued', due_at = null`),
    function: 'repair',
    arguments: () => [100],
    blocks: 'update',
    done: (repaired: number) => repaired === 1,
  },
  {
    name: 'sweep',
    module: 'turns',
    before: setTurn('sweep_at = now()'),
    function: 'sweep',
    arguments: () => [100],
    blocks: 'update',
    done: (swept: number) => swept === 1,
  },
]

describe.each(postgresVersions)('a process paused on PostgreSQL %i', (version) => {
  let store: Stored
  let owner: Database
  let other: Database
  let claimed: Claimed[]
  const index = new Map<string, number>()
  beforeAll(async () => {
    store = await openStored(version)
    owner = store.open()
    other = store.open()
    await acceptTurns(owner, await sessionsOf(owner, others, 'other'))
    claimed = (await claimAll(owner, 'a')).claimed
  })
  afterAll(() => store.close())

  test.each(calls)('in the middle of $name holds up no other session', async (call) => {
    const sessionId = (await sessionsOf(owner, 1, call.name.replaceAll(' ', '-')))[0]!
    await acceptTurns(owner, [sessionId])
    const due = (await claimAll(owner, 'a')).claimed
    const scene = { sessionId, claimed: due.find((each) => each.sessionId === sessionId)! }
    await appendIfHeld(owner, [rowOf(scene.claimed, 0)], 60_000)
    await call.before?.(store, scene)

    const blocker = await block(store, call, scene)
    const paused = pause(store, call, scene)
    try {
      await eventually(() => isWaiting(store))
      paused.process.kill('SIGSTOP')
      const { behind } = await othersGoOn(scene, call.holdsTurn ?? true)
      // It was in the middle all the while, or nothing was shown. It waits for 2 s at most.
      expect(await isWaiting(store)).toBe(true)

      // Its call ends without it.
      await blocker.query('rollback')
      await eventually(async () => !(await isWaiting(store)))
      paused.process.kill('SIGCONT')
      const told = await paused.told
      expect(told).toHaveProperty('answer')
      expect(call.done(told.answer as never)).toBe(true)
      // Who is of the same session waits for it, and alone.
      expect((await behind).outcome).toBe(call.name === 'delete' ? 'not_found' : 'created')
    } finally {
      paused.process.kill('SIGKILL')
      await blocker.end()
    }
    if (call.blocks === 'update') await store.query('drop trigger hold on holdfast.turns')
    await stopTurn(other, stopAsk(sessionId, `${sessionId}-m0`))
  })

  /**
   * All that serves many: each is done for all others, and leaves what is held by the paused one. A message to the same
   * session comes with those to others, which do not wait for it; answers what becomes of it.
   */
  async function othersGoOn(scene: Scene, holdsTurn: boolean): Promise<{ behind: Promise<{ outcome: string }> }> {
    const all = [scene.claimed, ...claimed]
    const rows = all.map((each) => rowOf(each, index.get(each.turnId) ?? 1))
    for (const each of claimed) {
      if (index.has(each.turnId)) continue
      rows.find(({ turnId }) => turnId === each.turnId)!.index = 0
    }
    const held = await appendIfHeld(owner, rows, 60_000)
    for (const { turnId, n, index: at } of rows.slice(1)) index.set(turnId, at + n)
    expect(claimed.filter(({ turnId }) => !held.has(turnId))).toEqual([])
    expect(held.has(scene.claimed.turnId)).toBe(!holdsTurn)
    expect((await renewIfHeld(owner, all, 60_000)).size).toBeGreaterThanOrEqual(others)
    expect((await stillHeld(owner, claimed)).size).toBe(others)

    const acceptor = createAcceptor(other)
    const fresh = await sessionsOf(other, 5, `${scene.sessionId}-fresh`)
    const late = acceptanceOf(scene.sessionId)
    const behind = untilAnswered(
      () => acceptor.accept(late),
      () => undefined,
    )
    const accepted = await Promise.all(fresh.map((id) => acceptor.accept(acceptanceOf(id))))
    expect(accepted.map(({ outcome }) => outcome)).toEqual(fresh.map(() => 'created'))
    const { claimed: taken } = await claimAll(other, 'b')
    expect(taken.map(({ sessionId }) => sessionId).toSorted()).toEqual(fresh.toSorted())
    expect(await expire(other, 9, crashed)).toEqual([])
    expect(await repair(other, 9)).toBe(0)
    await sweep(other, 9)
    for (const each of taken) expect((await finish(other, each, 0)).outcome).toBe('stored')
    return { behind }
  }
})

/** By what is blocked: the row that is about to be inserted under the key that the call will write. */
const rows = {
  event: `insert into holdfast.events (tenant_id, session_id, seq, type, data)
    select tenant_id, id, next_seq, 'x', '{}' from holdfast.sessions where id = $1`,
  chunk: `insert into holdfast.chunks (tenant_id, turn_id, attempt, index, n, data)
    select tenant_id, id, attempt, 1, 1, '[]' from holdfast.turns where message_id = $1 || '-m0'`,
  usage: `insert into holdfast.usage (tenant_id, turn_id, attempt, step, session_id, user_id, state)
    select tenant_id, id, attempt, 1, session_id, user_id, 'open' from holdfast.turns where message_id = $1 || '-m0'`,
  deleted: `insert into holdfast.deleted_sessions (tenant_id, id) select tenant_id, id from holdfast.sessions where id = $1`,
  member: `insert into holdfast.members (tenant_id, session_id, user_id, role)
    select tenant_id, session_id || '-new', user_id, role from holdfast.members where session_id = $1`,
}

/** A transaction that stays open, with what the call will wait for. */
async function block({ url, query }: Stored, { blocks }: Call, { claimed, sessionId }: Scene): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  if (blocks === 'update') {
    await query(`create or replace function hold() returns trigger language plpgsql as $$
      begin perform pg_advisory_xact_lock(1); return new; end $$`)
    await query(`create trigger hold before update on holdfast.turns for each row when (new.id = '${claimed.turnId}')
      execute function hold()`)
  }
  await client.query('begin')
  if (blocks === 'update') await client.query('select pg_advisory_xact_lock(1)')
  else expect((await client.query(rows[blocks], [sessionId])).rowCount).toBe(1)
  return client
}

function pause(
  { url }: Stored,
  call: Call,
  scene: Scene,
): { process: ChildProcess; told: Promise<{ answer?: unknown; error?: string }> } {
  const args = [child, url, call.module, call.function, JSON.stringify(call.arguments(scene))]
  const started = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  started.stdout.setEncoding('utf8').on('data', (more: string) => {
    text += more
  })
  return { process: started, told: once(started, 'close').then(() => JSON.parse(text || '{}')) }
}

async function isWaiting({ query }: Stored): Promise<boolean> {
  const rows = await query(
    `select from pg_stat_activity where datname = current_database() and application_name = 'holdfast'
       and wait_event_type = 'Lock' and wait_event in ('transactionid', 'advisory')`,
  )
  return rows.length > 0
}
