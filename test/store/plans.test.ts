/**
 * The hot statements keep to indexes, on the empty database of a first start as on a full one: their plans are generic
 * and made once per connection, so a plan that suits three rows is kept for three million.
 */
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { failureOf } from '../../src/core/errors.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { closedAsks, openAsks } from '../../src/store/asks.ts'
import { renewBudgets, reserveIfHeld, type Spending } from '../../src/store/budgets.ts'
import { appendIfHeld, renewIfHeld, stillHeld } from '../../src/store/chunks.ts'
import { type Database, hotSettings, type Statement } from '../../src/store/database.ts'
import {
  fileOfMember,
  fileSlice,
  fileSliceOfMember,
  filesThere,
  listFiles,
  promptFiles,
  storeFile,
} from '../../src/store/files.ts'
import { pollFollowed, readNow, readPage, snapshotRow } from '../../src/store/log.ts'
import { messagePage, messagePair, promptMessages } from '../../src/store/messages.ts'
import { failedTurns, isPaused, queuedTurns, setPaused } from '../../src/store/operate.ts'
import { storeReceipt } from '../../src/store/receipts.ts'
import { isFirstUntitledReply, listSessions, roleOf, stillMembers } from '../../src/store/sessions.ts'
import {
  type AttemptKey,
  type Claimed,
  checkpointIfHeld,
  failIfHeld,
  finishIfHeld,
  repair,
  reportUsageOfLost,
  stoppable,
  sweep,
  turnsStopping,
} from '../../src/store/turns.ts'
import { priceSteps, unpricedSteps } from '../../src/store/usage.ts'
import { usageReport } from '../../src/store/usage-report.ts'
import { claimAll } from '../races/held.ts'
import { postgresVersions } from '../support/postgres.ts'
import { acceptanceOf, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { fillOutbox, outboxRows, sendOutboxStatements } from './outbox-statements.ts'
import { fillPeople, sendPeopleStatements } from './people-statements.ts'

const perSession = 5
const sizes = [
  { size: 'an empty database', sessions: 0 },
  { size: 'one of 20,000 sessions and 100,000 turns', sessions: 20_000 },
]

describe.each(postgresVersions)('on Postgres %i', (version) => {
  describe.each(sizes)('in $size', ({ sessions }) => {
    let stored: Stored
    let plans: Map<string, string>
    beforeAll(async () => {
      stored = await openStored(version)
      await fill(stored, sessions)
      plans = await plansOfAll(stored)
    })
    afterAll(() => stored.close())

    test('no statement of the hot paths scans a table that grows', () => {
      expect([...plans.keys()]).toEqual(expect.arrayContaining(hot))
      const scans = [...plans].flatMap(([name, plan]) =>
        [...plan.matchAll(/Seq Scan on (\w+)/g)].flatMap(([, table]) =>
          small.includes(table!) ? [] : [`${name}: ${table}`],
        ),
      )
      expect(scans).toEqual([])
    })

    test('no function that is a transition does either', async () => {
      expect(await scansInFunctions(stored)).toEqual([])
    })

    test('a scan would be seen', async () => {
      const client = await hotClient(stored)
      await client.query('begin')
      await client.query(`do $$ begin perform count(*) from holdfast.turns where user_id = 'x'; end $$`)
      expect(await scanned(client)).toEqual(['turns'])
      await client.end()
    })
  })
})

/** What must be among the statements that were seen: the paths that every message takes, and an operator's. */
const hot = [
  'accept-many',
  'append',
  'append-first',
  'renew',
  'read-holders',
  'read-after',
  'read-head',
  'poll-log',
  'prompt',
  'open-asks',
  'closed-asks',
  'failed-turns',
  'queued-turns',
  'set-paused',
  'take-pushes',
  'take-tickets',
  'keep-presence',
  'presences-changed',
  'left-of-late',
  'reserve',
  'report',
  'checkpoint',
  'renew-budgets',
  'read-unpriced',
  'price-usage',
  'usage-of-user',
  'usage-of-all',
  'usage-of-user-by-session',
  'usage-of-all-by-session',
  'claim-publishing',
  'move-publishing',
  'outbox-add',
  'take-outbox',
  'renew-outbox',
  'end-outbox',
  'event-of-webhook',
  'is-webhook-disabled',
  'sweep-outbox',
]

/** Sessions with five settled turns each, written by SQL. */
async function fill(stored: Stored, sessions: number): Promise<void> {
  const { query } = stored
  if (sessions === 0) return
  await query(`insert into holdfast.sessions (tenant_id, id, next_seq, message_count)
    select 'default', 'f' || n, ${perSession * 3 + 1}, ${perSession * 2} from generate_series(1, ${sessions}) n`)
  await query(`insert into holdfast.members (tenant_id, session_id, user_id, role)
    select 'default', 'f' || n, 'u' || n % 1000, 'owner' from generate_series(1, ${sessions}) n`)
  await query(`insert into holdfast.turns (tenant_id, id, session_id, message_id, reply_id, user_id, position, state, attempt)
    select 'default', gen_random_uuid(), 'f' || n, 'm' || k, 'r' || k, 'u' || n % 1000, k * 3 + 1, 'complete', 1
    from generate_series(1, ${sessions}) n, generate_series(0, ${perSession - 1}) k`)
  await query(`insert into holdfast.messages (tenant_id, session_id, id, seq, position, role, author, parts, status, turn_id,
      parent)
    select t.tenant_id, t.session_id, case role when 'user' then message_id else reply_id end, position, position, role,
      case role when 'user' then user_id end, '[]', 'complete', t.id,
      case when role = 'assistant' then message_id when position = 1 then '' else 'r' || position / 3 - 1 end
    from holdfast.turns t, unnest(array['user', 'assistant']) role`)
  await query(`insert into holdfast.events (tenant_id, session_id, seq, type, turn_id, position, attempt, data)
    select tenant_id, session_id, position + k, 'x', id, position, 1, '{}' from holdfast.turns, generate_series(0, 2) k`)
  await query(`insert into holdfast.chunks (tenant_id, turn_id, attempt, index, n, data)
    select tenant_id, id, 1, k, 1, '[]' from holdfast.turns, generate_series(0, 1) k`)
  await query(`insert into holdfast.files (tenant_id, session_id, id, media_type, bytes, author)
    select tenant_id, id, 'f', 'text/plain', 'f', 'u1' from holdfast.sessions`)
  await query(`insert into holdfast.usage (tenant_id, turn_id, attempt, step, session_id, user_id, state, model, input_tokens,
      output_tokens, cost, outcome, ended_at)
    select tenant_id, id, 1, 0, session_id, user_id, 'reported', 'm', 1, 1, 1, 'complete', now() - interval '1 min' * position
    from holdfast.turns where session_id like '%7'`)
  await query(`insert into holdfast.usage_daily_parts (tenant_id, user_id, day, model)
    select 'default', 'u' || n, current_date - k, 'm' from generate_series(1, 300) n, generate_series(0, 30) k`)
  await query(`insert into holdfast.usage_of_tenants (tenant_id, day)
    select 't' || n, current_date - k from generate_series(1, 300) n, generate_series(0, 30) k`)
  await fillPeople(stored)
  await fillOutbox(stored)
  await query('analyze')
}

/** Runs every hot path once and explains each statement that it sent, as its connections would plan it. */
async function plansOfAll(stored: Stored): Promise<Map<string, string>> {
  const statements = await sentStatements(stored.open())
  const client = await hotClient(stored)
  const plans = new Map<string, string>()
  for (const statement of statements.values()) plans.set(statement.name, await genericPlan(client, statement))
  await client.end()
  return plans
}

async function sentStatements(database: Database): Promise<Map<string, Statement>> {
  const statements = new Map<string, Statement>()
  const spy: Database = {
    ...database,
    query(lane, statement, values) {
      statements.set(statement.name, statement)
      return database.query(lane, statement, values)
    },
  }
  const [session] = await sessionsOf(spy, 2, 'p')
  const acceptor = createAcceptor(spy)
  const [first] = await Promise.all(['p0', 'p1'].map((each) => acceptor.accept(acceptanceOf(each))))
  expect(first!.outcome).toBe('created')
  const { claimed } = await claimAll(spy, 'a runner')
  const [held] = claimed
  const row = { ...held!, n: 1, json: '[]' }
  await appendIfHeld(spy, [{ ...row, index: 0, first: true }], 5_000)
  await appendIfHeld(spy, [{ ...row, index: 1, first: false }], 5_000)
  await renewIfHeld(spy, [held!], 5_000)
  await stillHeld(spy, [held!])
  const place = { tenantId, sessionId: session!, userId, limit: 50 }
  const open = new Map([[1, { attempt: 1, index: 0 }]])
  await readPage(spy, tenantId, session!, { seq: 0, open }, userId)
  await readNow(spy, tenantId, session!)
  await pollFollowed(spy, [{ tenantId, sessionId: session!, seq: 0, position: 1, attempt: 1, index: 0 }])
  await snapshotRow(spy, tenantId, session!, userId, 50)
  await promptMessages(spy, { ...place, position: 1, messageId: held!.messageId })
  await messagePage(spy, { ...place, from: null })
  await messagePage(spy, { ...place, from: { side: 'before', place: { position: 9, role: 'user' } } })
  await messagePage(spy, { ...place, from: { side: 'after', place: { position: 0, role: 'user' } } })
  await messagePair(spy, tenantId, session!, held!.messageId, userId)
  await stoppable(spy, tenantId, session!, held!.messageId, userId)
  await openAsks(spy, place)
  await closedAsks(spy, place, { replyId: held!.replyId, step: 1 })
  await roleOf(spy, tenantId, session!, userId)
  await stillMembers(spy, [place])
  await listSessions(spy, { ...place, changedSince: null, before: null })
  await storeReceipt(spy, { ...place, delivered: 1, read: 1 })
  await isFirstUntitledReply(spy, { ...place, seq: 3 })
  const file = {
    ...place,
    audience: null,
    fileId: 'a',
    mediaType: 'text/plain',
    filename: null,
    bytes: Buffer.from('a'),
  }
  await storeFile(spy, { ...file, filesMax: 10, bytesMax: 10 })
  await filesThere(spy, { ...place, audience: null, fileIds: ['a'] })
  await fileOfMember(spy, file)
  await fileSliceOfMember(spy, { ...file, from: 0 })
  await listFiles(spy, place)
  await promptFiles(spy, place, ['a'])
  await fileSlice(spy, place, 'a', 0)
  await turnsStopping(spy, 10)
  await repair(spy, 10)
  await sweep(spy, 10)
  await sendPeopleStatements(spy, place)
  await sendOutboxStatements(spy, place)
  for await (const page of failedTurns(spy, 60)) expect(page).toEqual([])
  for await (const page of queuedTurns(spy, 60)) expect(page).toEqual([])
  await setPaused(spy, false)
  await isPaused(spy)
  await sendUsageStatements(spy, held!)
  const whole = { nextIndex: 2, parts: [], metadata: null, model: null, preview: null }
  expect((await finishIfHeld(spy, held!, whole, [])).outcome).toBe('stored')
  return statements
}

const budgets = (['session', 'user', 'tenant'] as const).flatMap((per) =>
  (['hour', 'month'] as const).map((every): Spending => {
    const key = { session: 'p0', user: userId, tenant: tenantId }[per]
    return { id: `limit-${per}-${every}-tokens`, per, key, every, measure: 'tokens', mayGoOn: 'nobody', max: 1e9 }
  }),
)

async function sendUsageStatements(database: Database, held: Claimed): Promise<void> {
  await reserveIfHeld(database, held, { step: 0, tokens: 1, budgets })
  const checkpoint = { attempt: 1, step: 0, isOpen: false, nextIndex: 2, parts: [], metadata: null }
  await checkpointIfHeld(database, held, { ...checkpoint, told: [], forClients: [], tokens: 0 })
  await reportUsageOfLost(database, { ...held, attempt: 0 }, userId, [
    { step: 0, usage: { inputTokens: 1 }, cost: null },
  ])
  await renewBudgets(database, 10)
  await unpricedSteps(database, 10)
  await priceSteps(database, [{ ...held, step: 0, cost: null }])
  const ask = { tenantId, from: '2020-01-01', to: '2020-01-02', rowsMax: 1 }
  for (const by of [['day'], ['session']] as const) {
    for (const who of [userId, null]) await usageReport(database, { ...ask, userId: who, by })
  }
}

/** Values do not matter to a generic plan. (`explain` before a statement with values would show one made for them.) */
async function genericPlan(client: pg.Client, { text }: Statement): Promise<string> {
  const slots = Math.max(0, ...[...text.matchAll(/\$(\d+)/g)].map(([, n]) => Number(n)))
  await client.query(`prepare hot as ${text}`)
  const values = slots === 0 ? '' : `(${Array(slots).fill('null').join(', ')})`
  const { rows } = await client.query<{ 'QUERY PLAN': string }>(`explain execute hot${values}`)
  await client.query('deallocate hot')
  return rows.map((row) => row['QUERY PLAN']).join('\n')
}

/** Calls each function as the runner would and answers the tables that it has scanned; all of it is undone. */
async function scansInFunctions(stored: Stored): Promise<string[]> {
  const accepting = createAcceptor(stored.open())
  await sessionsOf(stored.open(), 2, 'q')
  await accepting.accept(acceptanceOf('q0'))
  const { claimed } = await claimAll(stored.open(), 'a runner')
  const keyOf = ({ tenantId, sessionId, turnId, attempt }: AttemptKey) => [tenantId, sessionId, turnId, attempt]
  const key = keyOf(claimed[0]!)
  const waiting = acceptanceOf('q0')
  await accepting.accept({ ...waiting, whenBusy: 'steer' })
  const failed = acceptanceOf('q1')
  await accepting.accept(failed)
  const [toFail] = (await claimAll(stored.open(), 'a runner')).claimed
  await failIfHeld(stored.open(), toFail!, failureOf('internal'), { parts: [], metadata: null, model: null }, [])
  const client = await hotClient(stored)
  const found: string[] = []
  const call = async (name: string, values: unknown[]) => {
    await client.query('begin')
    const slots = values.map((_, at) => `$${at + 1}`).join(', ')
    await client.query(`select holdfast.${name}(${slots})`, values)
    found.push(...(await scanned(client)).map((table) => `${name}: ${table}`))
    await client.query('rollback')
  }
  const a = acceptanceOf('q0')
  const body = [a.parts, a.metadata, a.bodyHash, a.preview, a.lane, a.expiresMs, 30]
  await call('accept', [tenantId, 'q0', userId, a.messageId, a.turnId, a.replyId, ...body])
  await call('claim', ['another', 5_000, 20, true, 3, '{}'])
  await call('finish', [...key, 0, '[]', null, null, null, '[{"step":0,"inputTokens":1}]'])
  await call('requeue', [...key, 'error', null, 0, '[]'])
  await call('fail', [...key, '{}', '[]', null, null, '[]'])
  const more = JSON.stringify({ openTurns: 3, plan: 'pro', budgets })
  await call('take_send', [tenantId, userId, 30, more])
  await call('reserve', [...key, 0, 1, JSON.stringify(budgets)])
  const costs = budgets.map((each) => ({ ...each, measure: 'cost' }))
  await call('reserve', [...key, 0, 1, JSON.stringify(costs)])
  await call('checkpoint', [...key, '{"nextIndex":0}', '[{"step":0,"inputTokens":1}]', 1])
  await call('renew_budgets', [20])
  await call('price_usage', [JSON.stringify([{ tenantId, turnId: key[2], attempt: 1, step: 0, cost: 1 }])])
  await call('report', [key[0], key[1], userId, key[2], key[3], '[]'])
  await call('store_file', [tenantId, 'q0', userId, 'a', 'text/plain', null, Buffer.from('a'), 10, 10, null])
  await call('publish', [tenantId, 'q0', 'a.b', `user:${userId}`, '{}', 'e1', 'hash'])
  await call('add_member', [tenantId, 'q0', userId, 'another', 'member', 100])
  await call('change_member', [tenantId, 'q0', userId, userId, 'owner'])
  await call('remove_member', [tenantId, 'q0', null, userId])
  await call('invite', [tenantId, 'q0', userId, key[2], Buffer.from('h'), 'member', 1, 1_000, 100])
  await call('accept_invite', [tenantId, 'another', Buffer.from('h'), 100])
  const inPrivate = [a.parts, a.metadata, a.bodyHash, a.preview, `private:${userId}`, a.expiresMs, 30]
  await call('accept', [tenantId, 'q0', userId, a.messageId, a.turnId, a.replyId, ...inPrivate])
  await call('delete_session', [tenantId, 'q1', userId])
  await call('receive', [tenantId, 'q0', userId, 1, 1])
  await call('give_title', [tenantId, 'q0', 'a title'])
  await call('stop', [...key, 0, '[]', null, null, userId, null, true, null, 1, true])
  const toWithdraw = keyOf({ ...waiting, attempt: 0 })
  await call('stop', [...toWithdraw, 0, '[]', null, null, userId, null, true, userId, 1, false])
  const ofFailed = [tenantId, 'q1', userId, failed.messageId]
  await call('retry', [...ofFailed, 1, a.replyId, 10, a.expiresMs, 30])
  await call('regenerate', [...ofFailed, a.replyId, 10, a.expiresMs, 30])
  const edited = [a.parts, a.metadata, a.bodyHash, a.preview, a.expiresMs, 64, 30]
  await call('edit', [...ofFailed, a.messageId, a.turnId, a.replyId, ...edited])
  await call('edit', [tenantId, 'q0', userId, waiting.messageId, a.messageId, a.turnId, a.replyId, ...edited])
  await call('select_branch', ofFailed)
  await call('take_steering', key)
  await call('answer_ask', [tenantId, 'q0', userId, 'approval', 'p1', null, null, '{"approved":true}', userId, 5])
  await call('expire', [20, '{}'])
  await call('repair_lanes', [20])
  await call('sweep_chunks', [20])
  await call('register_device', [tenantId, userId, 'tablet', 'expo', '{}', 'another hash', null, 20])
  await call('notify', [tenantId, 'q0', userId, 'a.b', '{}', 'n1', 'hash'])
  await call('push_due', [tenantId, 'q0', 'about', null, 'a.b', 1, null, null])
  await call('take_pushes', [20, 60_000, true])
  await call('spread_push', [tenantId, 'q0', 'about', 'hash', 1, '[{"device":"a","target":{}}]'])
  const mark = {
    tenantId,
    sessionId: 'q0',
    about: 'about',
    device: 'hash',
    seq: 1,
    tries: 1,
    state: 'gone',
    afterMs: 1,
  }
  await call('mark_pushes', [JSON.stringify([mark])])
  await call('take_tickets', [20, 60_000])
  await call('give_up_pushes', [20, true])
  await call('sweep_pushes', [20])
  await call('keep_presence', ['this', 1_000, [tenantId], ['q0'], [userId], ['here']])
  await call('present_in', [tenantId, 'q0'])
  const [running, , dead] = await outboxRows(stored)
  await call('outbox_add', ['q', '1', 'k', 'another', 0, tenantId])
  await call('take_outbox', ['{q}', '{10}', 60_000])
  await call('end_outbox', [running, 1, 'done', 0, null, false])
  await call('retry_outbox', [dead])
  await call('repair_outbox', ['{"","",""}', 20])
  await call('stored_chunks', [[key[0]], [key[2]], [key[3]]])
  await client.end()
  return found
}

async function hotClient({ url }: Stored): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, options: hotSettings })
  // Where a test failed it is still open when the database is dropped.
  client.on('error', () => undefined)
  await client.connect()
  return client
}

/** One row, and one for each process. */
const small = ['meta', 'processes', 'publishers', 'webhooks']

/** Tables that this transaction has read from end to end. */
async function scanned(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query<{ relname: string }>(
    `select relname from pg_stat_xact_user_tables where schemaname = 'holdfast' and seq_scan > 0 order by 1`,
  )
  return rows.map(({ relname }) => relname).filter((table) => !small.includes(table))
}
