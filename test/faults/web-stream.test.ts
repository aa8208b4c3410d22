/** Following where there is no Node response: by `chat.fetch`, as in Next.js, Hono or Bun. */
import { expect, onTestFinished, test } from 'vitest'
import { createHoldfast } from '../../src/index.ts'
import { freshDatabase } from '../support/postgres.ts'
import { jwtSecret, tokenOf } from '../support/server.ts'

test('a web stream is followed, and a reader that goes away in its middle harms nothing', async () => {
  const database = await freshDatabase(18)
  let lines = 0
  const chat = createHoldfast({
    database: database.url,
    tokens: { secret: jwtSecret },
    log: () => undefined,
    // More than one reader's buffer holds.
    async *reply() {
      for (; lines < 400; lines++) {
        await new Promise(setImmediate)
        yield 'x'.repeat(2_000)
      }
    },
  })
  onTestFinished(async () => {
    await chat.close()
    await database.drop()
  })
  const headers = { authorization: `Bearer ${await tokenOf('ann')}`, 'content-type': 'application/json' }
  const ask = (path: string, body?: object) =>
    chat.fetch(
      new Request(`http://localhost${path}`, {
        headers,
        ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
      }),
    )
  await ask('/v1/sessions', { id: 's1' })
  const whole = (await ask('/v1/sessions/s1/events')).body!.pipeThrough(new TextDecoderStream()).getReader()
  const leaving = (await ask('/v1/sessions/s1/events')).body!.getReader()
  await ask('/v1/sessions/s1/messages', { id: 'm1', text: 'hi' })
  await leaving.read()
  await leaving.cancel()
  let text = ''
  while (!text.includes('message.ai_response')) text += (await whole.read()).value ?? ''
  expect(lines).toBe(400)
  expect(text).toContain('"type":"caught-up"')
  await whole.cancel()
})
