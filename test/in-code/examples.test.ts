/** The examples of docs/in-code.md, as they stand there. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import * as z from 'zod'
import { textOf } from '../../src/core/parts.ts'
import { createHoldfast, HoldfastError, type Message } from '../../src/index.ts'
import { freshDatabase } from '../support/postgres.ts'

test('the examples of docs/in-code.md run', async () => {
  const database = await freshDatabase(18)
  const shown: unknown[] = []
  const show = (parts: Message['parts'], ready: boolean | undefined) => shown.push([textOf(parts), ready])
  const reply = () => 'To the sea, then.'
  const chat = createHoldfast({
    database: database.url,
    log: () => undefined,
    drainMs: 0,
    reply,
    events: { 'partner.signed_compact': z.object({ stage: z.number() }), 'session.paused': z.null() },
    onReply: () => ({ offerReadyToShare: true }),
  })
  try {
    await chat.sessions.create({ id: 'trip', userId: 'ann', title: 'A trip' })
    await chat.say('trip', { id: 'greeting', text: 'Where do you want to go?' })
    const sent = await chat.send('trip', { id: 'm1', userId: 'ann', text: 'To the sea.', waitMs: 20_000 })
    if ('parts' in sent.reply) show(sent.reply.parts, sent.reply.metadata?.offerReadyToShare)
    expect(shown).toEqual([['To the sea, then.', true]])

    await chat.publish('trip', 'partner.signed_compact', { stage: 1 }, { excludeUserId: 'ann' })

    const { id: inviteId, token } = await chat.invites.create('trip', { role: 'reader', uses: 2 })
    expect(token).toMatch(/^[\w-]{32}$/)
    await chat.invites.revoke('trip', inviteId)

    const messages = await chat.messages.forUseChat('trip', { userId: 'ann' })
    expect(messages.map(({ role }) => role)).toEqual(['assistant', 'user', 'assistant'])

    try {
      await chat.send('trip', { userId: 'ann', text: 'And back.', whenBusy: 'reject' })
    } catch (error) {
      if (!(error instanceof HoldfastError) || error.code !== 'busy') throw error
    }
  } finally {
    await chat.close()
    await database.drop()
  }
})

test('every line of an example of docs/in-code.md stands in the test that runs them', () => {
  const document = readFileSync(new URL('../../docs/in-code.md', import.meta.url), 'utf8')
  const run = readFileSync(new URL(import.meta.url), 'utf8')
    .split('\n')
    .map((line) => line.trim())
  const lines = [...document.matchAll(/^```ts\n([\s\S]*?)^```/gm)].flatMap(([, code]) => code!.trim().split('\n'))
  expect(lines.length).toBeGreaterThan(8)
  expect(lines.map((line) => line.trim()).filter((line) => !run.includes(line))).toEqual([])
})
