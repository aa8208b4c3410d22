/**
 * Notices of the web app in a real browser, from the question to the click. What is stubbed is the browser's subscription,
 * because Chromium's needs a service that is not here: the page is given one whose endpoint is the stub of
 * test/push/stubs.ts, and what the stub has decrypted is delivered to the worker over DevTools.
 */
import { Client } from 'pg'
import type { BrowserContext, Page, Worker } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import webPushLibrary from 'web-push'
import { webPush } from '../../src/adapters/web-push.ts'
import type { PushSubscriptionKeys } from '../../src/core/pushing.ts'
import { createHoldfast, type Holdfast } from '../../src/index.ts'
import { scriptedReply } from '../../src/testing/index.ts'
import { startWeb, type WebNotice, type WebStub } from '../push/stubs.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { buttonOn, composerOn, sendOn } from './page.ts'
import { faultsOf, openTab, picture } from './stage.ts'
import { type Assets, buildWeb, serveFile, startBrowser } from './support.ts'

const keys = webPushLibrary.generateVAPIDKeys()
const reply = scriptedReply([
  ...['first', 'left', 'refused'].map((gate) => ({ to: `wait ${gate}`, says: ['So far. ', { wait: gate }, 'Done.'] })),
  {
    to: 'ask',
    says: [
      'So far. ',
      { wait: 'ask' },
      { type: 'tool-input-available', toolCallId: 'c1', toolName: 'where', input: {} },
    ],
  },
  { says: ['the answer'] },
])
let assets: Assets
let browser: Awaited<ReturnType<typeof startBrowser>>
let database: Awaited<ReturnType<typeof freshDatabase>>
let web: WebStub
let chat: Holdfast
let sql: Client
let origin: string

let context: BrowserContext
let page: Page
let complaints: string[]
let name: string
let count = 0

beforeAll(async () => {
  ;[assets, browser, database, web] = await Promise.all([
    buildWeb('app'),
    startBrowser(),
    freshDatabase(18),
    startWeb(),
  ])
  sql = new Client({ connectionString: database.url })
  await sql.connect()
  chat = createHoldfast({
    reply,
    database: database.url,
    pollMs: 100,
    // A test says when it is over.
    pushGraceMs: 600_000,
    limits: { sendsPerMinute: 0 },
    push: {
      web: webPush({ vapid: { subject: 'mailto:us@example.com', ...keys }, agent: web.agent, privateEndpoints: true }),
    },
    log: () => undefined,
  })
  ;({ url: origin } = await chat.listen(0, '127.0.0.1', (incoming, outgoing) => {
    if (incoming.url?.startsWith('/v1/')) return false
    void serveFile(assets.dir, incoming, outgoing)
    return true
  }))
})
afterAll(async () => {
  await browser.close()
  await sql.end()
  await chat.close()
  await Promise.all([web.close(), assets.remove(), database.drop()])
})
beforeEach(async () => {
  context = await browser.newContext({ viewport: { width: 1280, height: 844 } })
  complaints = []
  count++
  name = `browser-${count}`
  await stubSubscription(web.subscribe(name))
  web.notices.length = 0
})
afterEach(async () => {
  await context.close()
  expect(complaints).toEqual([])
})

/** What the page has instead of the browser's own. It is kept as a browser keeps it, over a reload. */
async function stubSubscription(subscription: PushSubscriptionKeys): Promise<void> {
  await context.addInitScript((given) => {
    const kept = 'the stub of the browser'
    const made = (key: string) => ({
      options: { applicationServerKey: Uint8Array.from(atob(base64(key)), (each) => each.charCodeAt(0)).buffer },
      toJSON: () => ({ ...given, expirationTime: null }),
      unsubscribe: async () => {
        localStorage.removeItem(kept)
        return true
      },
    })
    const base64 = (text: string) => text.replaceAll('-', '+').replaceAll('_', '/')
    Object.assign(PushManager.prototype, {
      getSubscription: async () => {
        const key = localStorage.getItem(kept)
        return key === null ? null : made(key)
      },
      subscribe: async (options: { userVisibleOnly: boolean; applicationServerKey: string }) => {
        if (!options.userVisibleOnly) throw new DOMException('silent', 'NotAllowedError')
        localStorage.setItem(kept, options.applicationServerKey)
        return made(options.applicationServerKey)
      },
    })
  }, subscription)
}

const allow = () => context.grantPermissions(['notifications'], { origin })
const question = () => buttonOn(page, 'Tell me when it is ready')
const switchOn = () => page.getByRole('switch', { name: 'Notices on this device' })
const devices = async () =>
  ((await (await context.request.get(`${origin}/v1/devices`)).json()) as { data: object[] }).data
const receipts = async (session: string, said: object = {}) => {
  const answer = await context.request.post(`${origin}/v1/sessions/${session}/receipts`, { data: said })
  expect(answer.status()).toBe(200)
  return (await answer.json()) as { read: number }
}
const sessionOn = (tab: Page) => new URL(tab.url()).hash.slice(2)

/** A tab of somebody who has turned notices on before, in a chat with a reply. */
async function notified(text: string): Promise<void> {
  await allow()
  await context.addInitScript(() => localStorage.setItem('holdfast:notices', 'on'))
  page = await openTab(context, origin, complaints)
  await sendOn(page, text)
  await eventually(async () => (await switchOn().getAttribute('aria-checked')) === 'true')
}

/** Another chat of the same person, with a reply that this browser has not read. */
async function chatElsewhere(): Promise<{ id: string; cursor: string; seq: number }> {
  const post = async (path: string, data: object) =>
    (await (await context.request.post(`${origin}/v1/sessions${path}`, { data })).json()) as { id: string }
  const { id } = await post('', { title: 'Another chat' })
  await post(`/${id}/messages?wait=10`, { id: 'm1', text: 'hello' })
  const { cursor } = (await (await context.request.get(`${origin}/v1/sessions/${id}`)).json()) as { cursor: string }
  const { rows } = await sql.query('select max(seq) as seq from holdfast.events where session_id = $1', [id])
  return { id, cursor, seq: rows[0].seq }
}

type Payload = WebNotice['payload']
const payloadOf = (sessionId: string, seq: number, tag: string): Payload => ({
  tag,
  title: 'Your reply is ready',
  body: 'The assistant has answered.',
  data: { sessionId, event: 'message.ai_response', seq },
})

/** Hands the worker what it is sent, as the browser's service does. */
async function delivery(): Promise<(payload: Payload) => Promise<void>> {
  // A page of nobody's: those of the app may be closed.
  const session = await context.newCDPSession(await context.newPage())
  const ids: string[] = []
  session.on('ServiceWorker.workerRegistrationUpdated', ({ registrations }) => {
    ids.push(...registrations.map(({ registrationId }) => registrationId))
  })
  await session.send('ServiceWorker.enable')
  const registrationId = await eventually(async () => ids.at(-1) ?? false)
  return async (payload) => {
    const data = JSON.stringify(payload)
    await session.send('ServiceWorker.deliverPushMessage', { origin, registrationId, data })
  }
}

/** What the functions below find in the worker, whose types are not those of a page. */
type InWorker = {
  /** Of the worker itself: the browser must not be asked while one is shown. */
  standing(): Promise<Notification[]>
  clients: { openWindow(url: string): Promise<void> }
  opened: string[]
  dispatchEvent(event: Event): void
  NotificationEvent: new (type: string, init: { notification: Notification }) => Event
}
const worker = (): Worker => context.serviceWorkers()[0]!
const standing = () =>
  worker().evaluate(async () => {
    const { standing } = globalThis as unknown as InWorker
    return (await standing()).map(({ tag, title, body, data }) => ({ tag, title, body, data }))
  })
const standingTags = async () => (await standing()).map(({ tag }) => tag).join()
/** The person presses the notice that stands. */
const press = () =>
  worker().evaluate(async () => {
    const { standing, NotificationEvent, dispatchEvent } = globalThis as unknown as InWorker
    const [notification] = await standing()
    dispatchEvent.call(globalThis, new NotificationEvent('notificationclick', { notification: notification! }))
  })

test('notices are asked for while a reply runs and never before, registered again at each start, and turned off (P192)', async () => {
  await allow()
  const asked: string[] = []
  context.on('request', (request) => {
    if (/devices|worker/.test(request.url())) asked.push(`${request.method()} ${new URL(request.url()).pathname}`)
  })
  page = await openTab(context, origin, complaints)
  await composerOn(page).fill('wait first')
  expect(asked).toEqual([])
  await sendOn(page, 'wait first')
  await question().waitFor()
  await picture(page, 'notices-question')
  expect(await faultsOf(page, 'the question')).toEqual([])
  expect(asked).toEqual(['GET /v1/devices/key'])
  expect(await page.evaluate(() => navigator.serviceWorker.getRegistrations().then(({ length }) => length))).toBe(0)
  await question().click()
  await eventually(async () => (await switchOn().getAttribute('aria-checked')) === 'true')
  await page.getByRole('status').getByText('You are told on this device').waitFor()
  expect(await question().count()).toBe(0)
  const [device] = await devices()
  expect(device).toMatchObject({ kind: 'web', locale: 'en-US' })
  await picture(page, 'notices-switch', [
    { width: 1280, colorScheme: 'light' },
    { width: 1280, colorScheme: 'dark' },
  ])
  expect(await faultsOf(page, 'the switch')).toEqual([])
  // Forgotten by the server, say: it knows the same device again.
  await context.request.delete(`${origin}/v1/devices/${(device as { id: string }).id}`)
  await page.reload()
  await eventually(async () => (await devices()).length === 1)
  expect((await devices())[0]).toMatchObject({ id: (device as { id: string }).id })
  await switchOn().click()
  await eventually(async () => (await switchOn().getAttribute('aria-checked')) === 'false')
  expect(await devices()).toEqual([])
  expect(await page.evaluate(() => localStorage.getItem('the stub of the browser'))).toBe(null)
  reply.open('first')
})

test('pressed again while it is turned, the switch asks once and ends as it was turned', async () => {
  await notified('hello')
  const asked: string[] = []
  let goOn: () => void = () => undefined
  await page.route(/\/v1\/devices(\/|$)/, async (route) => {
    asked.push(route.request().method())
    await new Promise<void>((resolve) => {
      goOn = resolve
    })
    await route.continue()
  })
  for (const [method, isOn] of [
    ['DELETE', 'false'],
    ['POST', 'true'],
  ]) {
    asked.length = 0
    await switchOn().click()
    await eventually(async () => asked.length === 1)
    expect(await switchOn().getAttribute('aria-disabled')).toBe('true')
    await switchOn().dispatchEvent('click')
    goOn()
    await page.locator(`[role="switch"][aria-checked="${isOn}"][aria-disabled="false"]`).waitFor()
    expect(asked).toEqual([method])
  }
  expect(await devices()).toHaveLength(1)
})

test('a reply that ends while the page is closed is a notice, and pressing it opens its chat (I14, P194)', async () => {
  await notified('wait left')
  const session = sessionOn(page)
  const deliver = await delivery()
  await page.close()
  reply.open('left')
  await eventually(async () => {
    const { rowCount } = await sql.query(`update holdfast.pushes set due_at = now() where session_id = $1`, [session])
    return rowCount === 1
  })
  await eventually(async () => web.notices.length === 1)
  const { payload, at } = web.notices[0]!
  expect(at).toBe(name)
  await deliver(payload)
  await eventually(async () => (await standing()).length === 1)
  expect(await standing()).toEqual([payload])
  // A browser opens a window only for a person who has pressed.
  await worker().evaluate(() => {
    const here = globalThis as unknown as InWorker
    here.opened = []
    here.clients.openWindow = async (url) => void here.opened.push(url)
  })
  await press()
  await eventually(async () => (await standing()).length === 0)
  const opened = await eventually(async () => {
    const urls = await worker().evaluate(() => (globalThis as unknown as InWorker).opened)
    return urls.length === 1 && urls
  })
  expect(opened).toEqual([`${origin}/#/${session}`])
})

test('what a page in front shows is no notice, what it does not show is, and pressing it leads there', async () => {
  await notified('hello')
  const here = sessionOn(page)
  const there = await chatElsewhere()
  const deliver = await delivery()
  await page.bringToFront()
  await deliver(payloadOf(here, 100, 'shown'))
  await deliver(payloadOf(there.id, there.seq, 'elsewhere'))
  await eventually(async () => (await standingTags()) === 'elsewhere')
  await press()
  await page.getByRole('heading', { name: 'Another chat' }).waitFor()
  expect(sessionOn(page)).toBe(there.id)
  expect(await standingTags()).toBe('')
  // The chat that was left is shown no more.
  await deliver(payloadOf(here, 101, 'left'))
  await eventually(async () => (await standingTags()) === 'left')
})

test('an open page closes what another device has read, also what comes later, and leaves what it has not (P142, P194)', async () => {
  await notified('hello')
  const { id, cursor, seq } = await chatElsewhere()
  const deliver = await delivery()
  await deliver(payloadOf(id, seq, 'read'))
  await deliver(payloadOf(id, seq + 1, 'to come'))
  await eventually(async () => (await standing()).length === 2)
  await receipts(id, { read: cursor })
  await eventually(async () => (await standingTags()) === 'to come')
  // Pages look while others are still on their way to the screen: none of those is lost from sight by that.
  const stay = ['to come']
  for (let at = 0; at < 8; at++) {
    await deliver(payloadOf(id, seq, `late ${at}`))
    await deliver(payloadOf(id, seq + 1, `last ${at}`))
    stay.push(`last ${at}`)
  }
  const expected = stay.sort().join()
  await eventually(
    async () =>
      (await standing())
        .map(({ tag }) => tag)
        .sort()
        .join() === expected,
  )
})

test('who looks at a question has read it, so that no device is noticed of it (P141, P191)', async () => {
  page = await openTab(context, origin, complaints)
  await sendOn(page, 'ask')
  await page.locator('article.reply').getByText('So far.').waitFor()
  reply.open('ask')
  const waiting = await eventually(async () => {
    const { rows } = await sql.query(`select session_id, seq from holdfast.events where type = 'turn.waiting'`)
    return rows[0] as { session_id: string; seq: number } | undefined
  })
  await eventually(async () => (await receipts(waiting.session_id)).read >= waiting.seq)
})

test('where the browser refuses it says how to change that, and where the server sends none nothing is offered', async () => {
  await context.addInitScript(() => {
    Notification.requestPermission = async () => {
      Object.defineProperty(Notification, 'permission', { get: () => 'denied' })
      return 'denied'
    }
  })
  page = await openTab(context, origin, complaints)
  await sendOn(page, 'wait refused')
  await question().click()
  await page.locator('main').getByText('turn them on below the list of chats').waitFor()
  expect(await question().count()).toBe(0)
  await picture(page, 'notices-refused')
  await page.reload()
  await switchOn().waitFor()
  await page.locator('article.reply[data-status="streaming"]').waitFor()
  expect(await question().count()).toBe(0)
  await page.evaluate(() => localStorage.removeItem('holdfast:notices'))
  await page.route('**/v1/devices/key', (route) => route.fulfill({ status: 404, body: '{}' }))
  const told = page.waitForResponse('**/v1/devices/key')
  await page.reload()
  await told
  expect(await question().count()).toBe(0)
  expect(await switchOn().count()).toBe(0)
  reply.open('refused')
})
