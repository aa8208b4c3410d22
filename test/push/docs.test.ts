/** The examples of docs/push.md, run as they stand there: on the server, in the app, in a page and in its worker. */
import { readFile } from 'node:fs/promises'
import { createContext, runInContext } from 'node:vm'
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import webPushLibrary from 'web-push'
import { expoPush } from '../../src/adapters/expo.ts'
import { webPush } from '../../src/adapters/web-push.ts'
import { createHoldfast, type Holdfast, type HoldfastOptions } from '../../src/index.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { jwtSecret, tokenOf } from '../support/server.ts'
import { startExpo, startWeb } from './stubs.ts'

type Given = { [name: string]: unknown }
type Notice = { title: string; tag: string; body: string; data: { sessionId: string; seq: number }; close(): void }

/** Runs a block where these names are there, and answers what it exports. Its imports are given. */
async function run<T = unknown>(code: string, given: Given): Promise<T> {
  const exported = /^export const (\w+)/m.exec(code)?.[1]
  const body = code.replace(/^import .*$/gm, '').replace(/^export /gm, '')
  const AsyncFunction = (async () => undefined).constructor as FunctionConstructor
  return (await AsyncFunction(...Object.keys(given), `${body}\nreturn ${exported}`)(...Object.values(given))) as T
}
const optionIn = async (code: string, given: Given) =>
  await run<HoldfastOptions['push']>(`export const options = {\n${code}\n}`, given).then(
    (options) => (options as { push: HoldfastOptions['push'] }).push,
  )

test('the examples of docs/push.md register a phone and a browser, are sent notices in their words, show them and close what was read', async () => {
  const page = await readFile(new URL('../../docs/push.md', import.meta.url), 'utf8')
  const blocks = [...page.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code]) => code!)
  const [server, phone, webOption, subscribe, worker, close, texts, notify, devices, ...more] = blocks
  expect(more).toEqual([])
  const [expo, web, database] = [await startExpo(), await startWeb(), await freshDatabase(18)]
  onTestFinished(async () => {
    await Promise.all([expo.close(), web.close()])
    await database.drop()
  })

  const { publicKey, privateKey } = webPushLibrary.generateVAPIDKeys()
  const expoHere: typeof expoPush = (options) => expoPush({ ...options, baseUrl: expo.url })
  const webHere: typeof webPush = (options) => webPush({ ...options, agent: web.agent, privateEndpoints: true })
  const kept: string[] = []
  const given = {
    expoPush: expoHere,
    webPush: webHere,
    ...{ publicKey, privateKey, expo: expoHere({}) },
    tokensOf: (userId: string) => (userId === 'bob' ? [{ kind: 'expo', token: 'ExponentPushToken[of-the-app]' }] : []),
    removeToken: ({ token }: { token: string }) => void kept.push(token),
  }
  const options = {
    ...(await optionIn(webOption!, given)),
    ...(await optionIn(texts!, given)),
    ...(await optionIn(devices!, given)),
  }
  const chat = await run<Holdfast>(server!, {
    ...given,
    reply: () => 'the answer',
    createHoldfast: ({ push, ...rest }: HoldfastOptions) =>
      createHoldfast({
        ...rest,
        database: database.url,
        tokens: { secret: jwtSecret },
        pushGraceMs: 0,
        pollMs: 100,
        push: { ...options, ...push },
        log: () => undefined,
      }),
  })
  onTestFinished(() => chat.close())
  const { url } = await chat.listen(0, '127.0.0.1')
  await chat.sessions.create({ id: 's', userId: 'ann' })
  await chat.members.add('s', { userId: 'bob' })

  const Notifications = { getExpoPushTokenAsync: async () => ({ data: 'ExponentPushToken[of-bob]' }) }
  const accessToken = await tokenOf('bob')
  await run(phone!, { Notifications, projectId: 'p', server: url, accessToken, fetch })
  const ofPage = { authorization: `Bearer ${await tokenOf('ann')}` }
  const fetchInPage = (path: string, init?: RequestInit) =>
    fetch(`${url}${path}`, { ...init, headers: { ...(init?.headers as Record<string, string>), ...ofPage } })
  const shown: Notice[] = []
  const registration = {
    pushManager: {
      async subscribe(asked: object) {
        expect(asked).toEqual({ userVisibleOnly: true, applicationServerKey: publicKey })
        return web.subscribe('browser')
      },
    },
    showNotification: async (title: string, notice: Omit<Notice, 'title' | 'close'>) =>
      void shown.push({ ...notice, title, close: () => void shown.splice(0) }),
    getNotifications: async () => [...shown],
  }
  const serviceWorker = { ready: Promise.resolve(registration), getRegistration: async () => registration }
  const inPage = { fetch: fetchInPage, navigator: { language: 'de-DE', serviceWorker } }
  await run(subscribe!, inPage)

  await chat.send('s', { userId: 'ann', id: 'm1', text: 'hello' })
  await eventually(async () => web.notices.length === 1 && expo.messages.length === 2)
  const [{ payload }] = web.notices as [(typeof web.notices)[number]]
  expect(payload).toMatchObject({
    title: 'Deine Antwort ist da',
    data: { event: 'message.ai_response', sessionId: 's' },
  })
  expect(expo.messages.map(({ to }) => to).sort()).toEqual([
    'ExponentPushToken[of-bob]',
    'ExponentPushToken[of-the-app]',
  ])

  let push: (event: object) => void = () => undefined
  const self = {
    registration,
    addEventListener(_: string, hear: typeof push) {
      push = hear
    },
  }
  runInContext(worker!, createContext({ self }))
  const showing: Promise<unknown>[] = []
  push({ data: { json: () => payload }, waitUntil: (until: Promise<unknown>) => showing.push(until) })
  await Promise.all(showing)
  expect(shown).toMatchObject([payload])
  await run(close!, inPage)
  expect(shown).toHaveLength(1)
  const { cursor } = (await (await fetchInPage('/v1/sessions/s')).json()) as { cursor: string }
  await fetchInPage('/v1/sessions/s/receipts', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ read: cursor }),
  })
  await run(close!, inPage)
  expect(shown).toEqual([])

  // To each in a request of its own, or both in one.
  for (let at = 0; at < 2; at++) {
    expo.next(() => ({ status: 'error', message: 'gone', details: { error: 'DeviceNotRegistered' } }))
  }
  await run(notify!, { chat, sessionId: 's', userId: 'bob', compactId: 'c1' })
  await eventually(async () => kept.includes('ExponentPushToken[of-the-app]'))
  const [, counting] = /^```sql\n([\s\S]*?)^```/m.exec(page)!
  const sql = new Client({ connectionString: database.url })
  await sql.connect()
  onTestFinished(() => sql.end())
  expect((await sql.query(counting!)).rows).toContainEqual({ event: 'message.ai_response', state: 'sent', count: '3' })
})
