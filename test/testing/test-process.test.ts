/** `testProcess`: an app's module as a process of its own, and a real `kill -9`. */
import { expect, inject, onTestFinished, test } from 'vitest'
// Built, because its child is.
import { type TestProcess, testProcess } from '../../dist/testing/index.js'

const module = new URL('app.mjs', import.meta.url)

async function open(): Promise<TestProcess> {
  const server = await testProcess({ module, database: inject('postgres').url18 })
  onTestFinished(() => server.close())
  return server
}

/** As a guest, whom the app's defaults let in on loopback. */
async function send({ url }: TestProcess): Promise<void> {
  const post = (path: string, body: object, cookie = '') =>
    fetch(`${url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', cookie },
      body: JSON.stringify(body),
    })
  const made = await post('/v1/sessions', { id: 'trip' })
  const cookie = made.headers.getSetCookie().map((each) => each.split(';')[0]!)
  const accepted = await post('/v1/sessions/trip/messages', { id: 'm1', text: 'Hello' }, cookie.join('; '))
  expect(accepted.status).toBe(202)
}

test('a process that is killed is taken over by the next one, whose memory is new (I1, I9)', async () => {
  const server = await open()
  await send(server)
  await server.until('trip', ({ type }) => type === 'chunk')
  await server.kill()
  await expect(fetch(server.url)).rejects.toThrow()
  await server.restart()
  const { text, turn } = await server.outcome('trip', 'm1')
  expect({ text, attempt: turn.attempt }).toEqual({ text: 'attempt 2 of this turn, 1 of this process', attempt: 2 })
})

test('a process that is told to end hands its reply over', async () => {
  const server = await open()
  await send(server)
  await server.until('trip', ({ type }) => type === 'chunk')
  await server.restart()
  const ended = await server.until('trip', ({ type }) => type === 'attempt.ended')
  expect(ended.data).toMatchObject({ attempt: 1, reason: 'handover' })
  expect((await server.outcome('trip', 'm1')).text).toBe('attempt 2 of this turn, 1 of this process')
})

test('a module that is none is refused with what it printed, and leaves nothing', async () => {
  const broken = (source: string) => new URL(`data:text/javascript,${encodeURIComponent(source)}`)
  const database = inject('postgres').url18
  await expect(testProcess({ database, module: broken('export const chat = 1') })).rejects.toThrow(
    'exports no Holdfast',
  )
  await expect(testProcess({ database, module: broken('throw new Error("no key")') })).rejects.toThrow('no key')
})
