/** Who may give which command about whose message, as judged at the moment at which it is carried out (I15). */
import pg from 'pg'
import { expect, test } from 'vitest'
import { messagePair } from '../../src/store/messages.ts'
import { stoppable } from '../../src/store/turns.ts'
import { claimOne } from '../races/held.ts'
import { apiOf } from '../support/client.ts'
import { tenantId, userId } from '../support/stored.ts'
import { openTalk } from './scene.ts'
import { openStoredTalk } from './stored-talk.ts'

test('a message that waits is withdrawn by its author; by anybody else it is only stopped, and stays (P34, I11)', async () => {
  const talk = await openTalk()
  const { ann, session, watcher, database, url } = talk
  const client = new pg.Client(database)
  await client.connect()
  await client.query(
    `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, 'bob', 'member')`,
    [session],
  )
  await client.end()
  const bob = await apiOf(url, 'bob')
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await ann.send(session, 'of ann', 'm2')
  await ann.send(session, 'a slip', 'm3')
  expect(await bob.command(session, 'm2', 'stop')).toMatchObject({ withdrawn: false, turn: { state: 'stopped' } })
  expect((await watcher.outcome('m2')).data).toMatchObject({ by: 'bob', message: { status: 'stopped' } })
  expect((await watcher.outcome('m2')).data.reason).toBeUndefined()
  expect(await ann.command(session, 'm3', 'stop')).toMatchObject({ withdrawn: true, turn: { state: 'stopped' } })
  expect((await watcher.outcome('m3')).data).toMatchObject({ by: 'ann', reason: 'withdrawn' })
  // Asked again it says so again, to nobody else, and of nothing else.
  expect(await ann.command(session, 'm3', 'stop')).toMatchObject({ withdrawn: true })
  expect(await bob.command(session, 'm3', 'stop')).toMatchObject({ withdrawn: false })
  expect(await ann.command(session, 'm1', 'stop')).toMatchObject({ withdrawn: false })
  expect(await ann.command(session, 'm2', 'retry')).not.toHaveProperty('withdrawn')
  await watcher.until(({ type }) => type === 'message.ai_response')
  expect(await talk.shown()).toEqual([
    ...['user: wait', 'assistant stopped: Half of wait'],
    ...['user: of ann', 'assistant: Re of ann (1) [2/2]'],
  ])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a command that waited for the session is refused to who has lost the right meanwhile, and changes nothing (I15)', async () => {
  const talk = await openStoredTalk()
  await talk.say('m1')
  await talk.change('m1', 'm1b')
  await talk.complete('Re m1b')
  await talk.send('m2', { by: 'bob' })
  await talk.fail()
  await talk.send('m3', { by: 'bob' })
  const commands: Record<string, () => Promise<{ outcome: string }>> = {
    retry: () => talk.again('m2', 'r', { by: 'bob' }),
    regenerate: () => talk.another('m2', 'r', { by: 'bob' }),
    edit: () => talk.change('m2', 'm4', { by: 'bob' }),
    'edit in its place': () => talk.change('m3', 'm4', { by: 'bob' }),
    select: () => talk.select('m1', 'bob'),
    stop: () => talk.halt('m3', 'bob'),
  }
  const before = await talk.rows()
  for (const [name, ask] of Object.entries(commands)) {
    await talk.setRole('bob', 'member')
    const reading = `update holdfast.members set role = 'reader' where user_id = 'bob'`
    expect([name, (await talk.holding(ask, reading)).outcome]).toEqual([name, 'forbidden'])
    await talk.setRole('bob', 'member')
    const leaving = `delete from holdfast.members where user_id = 'bob'`
    expect([name, (await talk.holding(ask, leaving)).outcome]).toEqual([name, 'not_found'])
  }
  expect(await talk.rows()).toEqual(before)
  // Who stops for the server itself is nobody's member.
  expect((await talk.halt('m3', null)).outcome).toBe('stopped')
})

test('no command and no answer shows a turn to who may not see it; the operator sees it (I15)', async () => {
  const talk = await openStoredTalk()
  const { database, session } = talk
  await talk.send('m1')
  await talk.stored.query(`update holdfast.turns set audience = 'user:ann'`)
  const claimed = await claimOne(database)
  for (const outcome of [
    (await talk.again('m1', 'r', { by: 'bob' })).outcome,
    (await talk.another('m1', 'r', { by: 'bob' })).outcome,
    (await talk.halt('m1', 'bob')).outcome,
  ]) {
    expect(outcome).toBe('not_found')
  }
  const seenBy = async (user: string) => [
    (await messagePair(database, tenantId, session, 'm1', user))?.turn.id,
    (await stoppable(database, tenantId, session, 'm1', user))?.turnId,
  ]
  expect(await seenBy('bob')).toEqual([undefined, undefined])
  expect(await seenBy(userId)).toEqual([claimed.turnId, claimed.turnId])
  expect((await stoppable(database, tenantId, session, 'm1', null))?.turnId).toBe(claimed.turnId)
  // Also where the stopper has seen it before it was taken from him.
  await talk.stored.query('update holdfast.turns set audience = null')
  const taken = `update holdfast.turns set audience = 'user:ann'`
  expect(await talk.holding(() => talk.halt('m1', 'bob'), taken)).toEqual({ outcome: 'not_found' })
  expect((await talk.halt('m1')).outcome).toBe('stopped')
})
