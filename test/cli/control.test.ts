/** What an operator does to many turns at once, by the command line, beside servers that run. */

import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client } from 'pg'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { openTalk } from '../control/scene.ts'
import { ofType, outcomesOf } from '../faults/scene.ts'
import { apiOf } from '../support/client.ts'
import { endCommands, startCommand } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startServer } from '../support/server.ts'

afterEach(endCommands)

async function age(database: string, messageIds: string[], by: string): Promise<void> {
  const client = new Client(database)
  await client.connect()
  const { rowCount } = await client.query(
    'update holdfast.turns set updated_at = now() - $1::interval where message_id = any($2)',
    [by, messageIds],
  )
  await client.end()
  expect(rowCount).toBe(messageIds.length)
}

/** Holds a session's row, as a transition that takes too long would. */
async function holder(database: string, session: string) {
  const client = new Client(database)
  // Where a test failed it is still open when the database is dropped.
  client.on('error', () => undefined)
  await client.connect()
  await client.query('begin')
  await client.query('select from holdfast.sessions where id = $1 for update', [session])
  const { rows } = await client.query('select pg_backend_pid() as pid')
  const waiters = new Set<string>()
  return {
    /** Until so many statements have waited for it. */
    async waitedFor(count: number) {
      await eventually(async () => {
        // What is seen of others is kept for a transaction.
        await client.query('select pg_stat_clear_snapshot()')
        const found = await client.query(
          `select pid || ' ' || query_start as one from pg_stat_activity where $1 = any(pg_blocking_pids(pid))`,
          [rows[0].pid],
        )
        for (const { one } of found.rows) waiters.add(one)
        return waiters.size >= count
      })
    },
    async release() {
      await client.query('rollback')
      await client.end()
    },
  }
}

async function said(args: string[], env: Record<string, string>): Promise<{ code: number | null; text: string }> {
  const command = startCommand(args, { cwd: tmpdir(), env })
  const code = await command.ended
  return { code, text: command.printed() }
}

test('retry --failed tries again what failed lately and may be, and nothing else (R1.3)', async () => {
  const talk = await openTalk({ HOLDFAST_ATTEMPTS_MAX: '1' })
  const { ann, session, watcher, database } = talk
  await ann.send(session, 'overloaded', 'm1')
  await ann.send(session, 'fail for good', 'm2')
  await ann.send(session, 'hello', 'm3')
  await watcher.outcome('m3')
  talk.mend()
  const retried = await said(['retry', '--failed', '--since', '1h'], { DATABASE_URL: database })
  expect(retried).toEqual({ code: 0, text: '1 turn queued again.\n' })
  await watcher.until(() => outcomesOf(watcher, 'm1').length === 2)
  expect(await talk.shown()).toEqual([
    'user: overloaded',
    'assistant: Re overloaded (3) [2/2]',
    'user: fail for good',
    'assistant failed: ',
    'user: hello',
    'assistant: Re hello (2)',
  ])
  expect((await said(['retry', '--failed', '--since', '1h'], { DATABASE_URL: database })).text).toBe(
    '0 turns queued again.\n',
  )
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('retry --since takes what failed no longer ago than that', async () => {
  const { ann, session, watcher, database } = await openTalk({ HOLDFAST_ATTEMPTS_MAX: '1' })
  await ann.send(session, 'overloaded', 'm1')
  await ann.send(session, 'overloaded', 'm2')
  await watcher.outcome('m2')
  await age(database, ['m1'], '2 hours')
  const env = { DATABASE_URL: database }
  expect((await said(['retry', '--failed', '--since', '1h'], env)).text).toBe('1 turn queued again.\n')
  await watcher.until(() => outcomesOf(watcher, 'm2').length === 2)
  expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
  expect((await said(['retry', '--failed', '--since', '3h'], env)).text).toBe('2 turns queued again.\n')
  await watcher.close()
})

test('pause keeps every server from beginning turns, resume lets them; stop --queued ends what waits and keeps it', async () => {
  const talk = await openTalk()
  const { ann, session, watcher, database } = talk
  const other = await talk.start()
  const env = { DATABASE_URL: database }
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  expect(await said(['pause'], env)).toEqual({
    code: 0,
    text: 'Paused: no turn begins until "holdfast resume". 1 turn still runs and may end.\n',
  })
  await other.line(/paused: no turn begins/)
  expect((await said(['doctor'], env)).text).toMatch(/^note {2}turns {5}paused.*\n +.*holdfast resume/m)
  talk.goOn()
  await watcher.outcome('m1')
  await ann.send(session, 'second', 'm2')
  await ann.send(session, 'third', 'm3')
  const stopped = await said(['stop', '--queued', '--older=0s'], env)
  expect(stopped.text).toBe('2 turns stopped, whose messages stay and may be tried again.\n')
  expect((await watcher.outcome('m3')).data).toMatchObject({ reason: 'operator', by: 'operator' })
  expect(ofType(watcher, 'attempt.started')).toHaveLength(1)
  expect((await said(['resume'], env)).code).toBe(0)
  await other.line(/resumed: turns begin again/)
  expect((await said(['doctor'], env)).text).toMatch(/^ok {4}turns {5}begin/m)
  await talk.command('m2', 'retry')
  await watcher.until(() => outcomesOf(watcher, 'm2').length === 2)
  expect(await talk.shown()).toEqual([
    'user: wait',
    'assistant: Half of wait, whole.',
    'user: second',
    'assistant: Re second (1) [2/2]',
    'user: third',
    'assistant stopped: ',
  ])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('stop --queued makes nothing begin while it stops a whole lane, and leaves what is younger', async () => {
  const { ann, session, watcher, database, provider } = await openTalk({ HOLDFAST_POLL_MS: '100' })
  const later = { status: 503, headers: { 'retry-after': '60' } }
  provider.script((request) => (request.index === 0 ? [later] : [{ text: 'Hello.' }]))
  // It backs off at the head of its lane, so that the runner has room for whatever is next.
  await ann.send(session, 'hello', 'm0')
  await watcher.until(({ type }) => type === 'attempt.ended')
  const behind = Array.from({ length: 150 }, (_, at) => `m${at + 1}`)
  await Promise.all(behind.map((id) => ann.send(session, 'hello', id)))
  await ann.send(session, 'hello', 'young')
  await age(database, ['m0', ...behind], '2 hours')
  const env = { DATABASE_URL: database }
  expect((await said(['stop', '--queued', '--older', '3h'], env)).text).toMatch(/^0 turns stopped/)
  const { text } = await said(['stop', '--queued', '--older', '1h'], env)
  expect(text).toBe('151 turns stopped, whose messages stay and may be tried again.\n')
  const answered = await watcher.outcome('young')
  expect(answered.type).toBe('message.ai_response')
  expect(ofType(watcher, 'attempt.started').map(({ data }) => data.attempt)).toEqual([1, 1])
  await watcher.close()
})

test('a turn that somebody holds is asked again; one that stays held is counted, and keeps no other waiting', async () => {
  const talk = await openTalk({ HOLDFAST_ATTEMPTS_MAX: '1' })
  const { ann, database, watcher } = talk
  const sessions = [talk.session, await ann.createSession(), await ann.createSession()]
  const watchers = [watcher, ...sessions.slice(1).map((each) => ann.watch(each))]
  for (const [at, each] of sessions.entries()) {
    await ann.send(each, 'overloaded', `m${at}`)
    await watchers[at]!.outcome(`m${at}`)
  }
  const [brief, long] = await Promise.all([holder(database, sessions[0]!), holder(database, sessions[1]!)])
  const retrying = said(['retry', '--failed', '--since', '1h'], { DATABASE_URL: database })
  // The first try has given up by then.
  await brief.waitedFor(2)
  await brief.release()
  expect(await retrying).toEqual({
    code: 1,
    text: '2 turns queued again. 1 could not be asked (canceling statement due to lock timeout): give the command again.\n',
  })
  await long.release()
  expect((await said(['retry', '--failed', '--since', '1h'], { DATABASE_URL: database })).code).toBe(0)
  for (const each of watchers) await each.close()
})

test.each([['pause'], ['resume'], ['retry', '--failed', '--since', '1h'], ['stop', '--queued', '--older', '1h']])(
  '%s makes no database where there is none, and says which folder was meant',
  async (...args) => {
    const folder = await mkdtemp(join(tmpdir(), 'holdfast-control-'))
    onTestFinished(() => rm(folder, { recursive: true, force: true }))
    const command = startCommand(args, { cwd: folder })
    expect(await command.ended).toBe(1)
    expect(command.printed()).toMatch(/^There is no Holdfast in .*\.holdfast: go to the folder.*\n$/)
    expect(await readdir(folder)).toEqual([])
  },
)

test('pause says so where it has nothing to set, because no server has run there yet', async () => {
  const { url, drop } = await freshDatabase(18)
  onTestFinished(drop)
  expect((await said(['migrate'], { DATABASE_URL: url })).code).toBe(0)
  const { code, text } = await said(['pause'], { DATABASE_URL: url })
  expect({ code, text }).toMatchObject({ code: 1, text: expect.stringContaining('No server has run on this database') })
})

test('the commands join the embedded database of a server that runs, and start that of one that does not', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-control-'))
  onTestFinished(() => rm(dataDir, { recursive: true, force: true }))
  const env = { HOLDFAST_DATA_DIR: dataDir }
  const server = await startServer({ database: { dataDir } })
  expect((await said(['pause'], env)).text).toMatch(/^Paused/)
  const ann = await apiOf(server.url)
  const session = await ann.createSession()
  await ann.send(session, 'hello', 'm1')
  expect((await said(['resume'], env)).text).toMatch(/^Resumed/)
  const watcher = ann.watch(session)
  await watcher.outcome('m1')
  await watcher.close()
  expect(await server.stop()).toBe(0)
  expect((await said(['retry', '--failed', '--since', '1d'], env)).text).toBe('0 turns queued again.\n')
})

test.each([
  [['retry', '--failed', '--since', 'yesterday'], '--since: expected a time like 30m, 2h or 1d, got "yesterday".'],
  [['stop', '--queued', '--older', '-1h'], '--older: expected a time like 30m, 2h or 1d'],
  [['pause', '--now'], '"--now" is no option here'],
])('%j is refused with what was expected', async (args, sentence) => {
  const { code, text } = await said(args, { DATABASE_URL: 'postgres://nobody@127.0.0.1:9/none' })
  expect(text).toContain(sentence)
  expect(code).toBe(1)
})
