/** What an operator does to many turns at once, by the command line, beside servers that run. */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { openTalk } from '../control/scene.ts'
import { ofType, outcomesOf } from '../faults/scene.ts'
import { apiOf } from '../support/client.ts'
import { endCommands, startCommand } from '../support/command.ts'
import { startServer } from '../support/server.ts'

afterEach(endCommands)

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

test('pause keeps every server from beginning turns, resume lets them; stop --queued ends what waits and keeps it', async () => {
  const talk = await openTalk()
  const { ann, session, watcher, database } = talk
  const env = { DATABASE_URL: database }
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  expect(await said(['pause'], env)).toEqual({
    code: 0,
    text: 'Paused: no turn begins until "holdfast resume". 1 turn still runs and may end.\n',
  })
  talk.goOn()
  await watcher.outcome('m1')
  await ann.send(session, 'second', 'm2')
  await ann.send(session, 'third', 'm3')
  const stopped = await said(['stop', '--queued', '--older=0s'], env)
  expect(stopped.text).toBe('2 turns stopped. Their messages stay, and may be tried again.\n')
  expect((await watcher.outcome('m3')).data).toMatchObject({ reason: 'operator', by: 'operator' })
  expect(ofType(watcher, 'attempt.started')).toHaveLength(1)
  expect((await said(['resume'], env)).code).toBe(0)
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
