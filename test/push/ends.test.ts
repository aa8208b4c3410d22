/** A process that ends: its replies go to others at once, whatever hangs meanwhile of what can wait (I9). */
import { expect, onTestFinished, test } from 'vitest'
import { createHoldfast } from '../../src/index.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase, queryOnce } from '../support/postgres.ts'

test('a reply is handed over at once by a process that ends, though a push service and a job hang (I9)', async () => {
  const database = await freshDatabase(18)
  const begun: string[] = []
  let answer: () => void = () => undefined
  const answered = new Promise<void>((resolve) => {
    answer = resolve
  })
  const hang = async (what: string) => {
    begun.push(what)
    await answered
  }
  const chat = createHoldfast({
    ...{ database: database.url, pollMs: 100, pushGraceMs: 0, drainMs: 0, log: () => undefined },
    async *reply({ signal }) {
      begun.push('reply')
      yield 'first'
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
    },
    push: {
      expo: {
        kind: 'expo',
        refusalOf: () => null,
        send: (notices) => hang('push').then(() => notices.map(() => ({ outcome: 'sent' }))),
      },
    },
    jobs: { stuck: { run: () => hang('job') } },
  })
  onTestFinished(async () => {
    answer()
    await chat.close()
    await database.drop()
  })
  await chat.start()
  await chat.sessions.create({ id: 's', userId: 'ann' })
  await queryOnce(
    database.url,
    `insert into holdfast.devices (tenant_id, user_id, id, kind, address, address_hash)
       values ('default', 'ann', 'phone', 'expo', '{"kind":"expo","token":"ExponentPushToken[a]"}', 'hash')`,
  )
  await chat.notify('s', 'ann', 'a.b', {})
  await chat.outbox.add('stuck', 1)
  await chat.send('s', { id: 'm1', userId: 'ann', text: 'hi' })
  await eventually(async () => begun.length === 3)
  const beganMs = performance.now()
  const closing = chat.close()
  await eventually(async () => {
    const [turn] = await queryOnce<{ state: string }>(database.url, 'select state from holdfast.turns')
    return turn!.state === 'queued'
  })
  // They are waited for after that.
  expect(performance.now() - beganMs).toBeLessThan(5_000)
  answer()
  await closing
  expect(await queryOnce(database.url, 'select state from holdfast.outbox')).toEqual([{ state: 'done' }])
  expect(await queryOnce(database.url, 'select state from holdfast.pushes')).toEqual([{ state: 'sent' }])
})
