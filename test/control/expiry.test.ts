/** A turn that nobody began in time has failed, and says so: a message is never left waiting for ever. */
import { expect, test } from 'vitest'
import { ofType, outcomesOf } from '../faults/scene.ts'
import { apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { openTalk } from './scene.ts'

test('a message that no runner began in time fails as expired, is not answered late, and can be retried (I2)', async () => {
  const talk = await openTalk({ HOLDFAST_TURN_EXPIRES_MS: '1000', HOLDFAST_ROLES: 'http' })
  const { ann, session, watcher, provider, database } = talk
  const hasty = await apiOf(talk.url)
  await hasty.send(session, 'hello', 'm1')
  await eventually(async () => {
    const rows = await queryOnce<{ over: boolean }>(database, 'select expires_at < now() as over from holdfast.turns')
    return rows[0]!.over
  })
  // What is sent here has time.
  await talk.start()
  const other = await ann.createSession()
  const beside = ann.watch(other)
  await ann.send(other, 'wait', 'm1')
  await beside.until(({ type }) => type === 'chunk')
  await hasty.send(other, 'behind', 'm2')

  const expired = { type: 'message.error', data: { code: 'expired', canRetry: true } }
  expect(await watcher.outcome('m1')).toMatchObject(expired)
  expect(ofType(watcher, 'attempt.started')).toEqual([])
  // So does one that waits behind a reply which is still written; that one goes on.
  expect(await beside.outcome('m2')).toMatchObject(expired)
  expect(outcomesOf(beside, 'm1')).toEqual([])
  talk.goOn()
  expect((await beside.outcome('m1')).type).toBe('message.ai_response')
  expect(provider.requests).toHaveLength(1)

  expect((await talk.command('m1', 'retry', { round: 1 })).turn).toMatchObject({ round: 2 })
  await watcher.until(({ type }) => type === 'message.ai_response')
  expect(await talk.shown()).toEqual(['user: hello', 'assistant: Re hello (1) [2/2]'])
  await Promise.all([watcher.close(), beside.close()])
  expect([...watcher.problems, ...beside.problems]).toEqual([])
})
