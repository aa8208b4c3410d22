/** `useChat` of AI SDK 7 with its `WebSocketChatTransport`, in Chromium: every way in which a page is cut off and comes back. */
import type { Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { createHoldfast, type HoldfastOptions, type ReplyContext } from '../../src/index.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProvider } from '../support/provider.mjs'
import { startServer } from '../support/server.ts'
import { startBrowser } from '../web/support.ts'
import { pages } from './pages.mjs'
import {
  type Built,
  buildFor,
  openSite,
  originOf,
  press,
  proxyOf,
  type Site,
  say,
  shownOn,
  storedIn,
  textsShownOn,
  untilShown,
  untilStatus,
  type Visit,
  visit,
} from './site.ts'

let browser: Built['browser']
let dirs: Built['dirs']
let remove: () => Promise<void>
let site: Site
beforeAll(async () => {
  const [started, seven] = await Promise.all([startBrowser(), buildFor(7)])
  browser = started
  remove = seven.remove
  dirs = { 6: seven.dir, 7: seven.dir }
  site = await openSite(dirs, inHalves)
})
afterAll(async () => {
  await site.close()
  await browser.close()
  await remove()
})

/** How often the model was asked in this test. */
let calls: number
let goOn: () => void
let gate: Promise<void>
let visits: Visit[]

async function* inHalves({ message, turn }: ReplyContext) {
  calls++
  const said = message.parts.map((part) => (part.type === 'text' ? part.text : '')).join('')
  yield `Reply ${turn.round} to ${said}`
  if (said.startsWith('wait')) await gate
  yield ', to its end.'
}
const whole = 'Reply 1 to wait, to its end.'

beforeEach(() => {
  calls = 0
  gate = new Promise((resolve) => {
    goOn = resolve
  })
  visits = []
})
afterEach(async () => {
  goOn()
  for (const each of visits) await each.close()
})

async function come(origin = site.origin, id?: string): Promise<Visit> {
  const come = await visit(browser, { origin, major: 7, options: '&socket', ...(id === undefined ? {} : { id }) })
  visits.push(come)
  return come
}

/** A chat whose first reply is half written and shown. */
async function comeAndAsk(origin?: string): Promise<Visit> {
  const visit = await come(origin)
  await untilStatus(visit.tab, 'ready')
  await say(visit.tab, 'wait')
  await untilShown(visit.tab, 'Reply 1 to wait')
  return visit
}

/** The page shows what is stored and never showed anything else, and all of it came over the socket. */
async function expectWhole(visit: Visit, tab: Page, asked: number): Promise<void> {
  await eventually(async () => (await storedIn(site.origin, visit.id)).every(({ status }) => isOver(status)))
  const stored = (await storedIn(site.origin, visit.id)).map(({ id, role, text }) => ({ id, role, text }))
  expect(await shownOn(tab)).toEqual(stored)
  for (const [replyId, texts] of Object.entries(await textsShownOn(tab))) {
    const text = stored.find(({ id }) => id === replyId)!.text
    expect(texts.filter((each) => !text.startsWith(each))).toEqual([])
  }
  expect(calls).toBe(asked)
  expect(visit.asked.filter((each) => !each.endsWith('/stop'))).toEqual([])
}
const isOver = (status: string) => status !== 'pending' && status !== 'streaming'

async function cutOff(tab: Page, message: RegExp): Promise<void> {
  await untilStatus(tab, 'error')
  expect(await tab.getByRole('alert').textContent()).toMatch(message)
}

test('sends over one socket, and shows what is stored', async () => {
  const visit = await come()
  await say(visit.tab, 'hello')
  await untilShown(visit.tab, 'Reply 1 to hello, to its end.')
  await say(visit.tab, 'more')
  await untilShown(visit.tab, 'Reply 1 to more, to its end.')
  await untilStatus(visit.tab, 'ready')
  await expectWhole(visit, visit.tab, 2)
})

test('a reload goes on in the middle, and after the end shows the whole (I7)', async () => {
  const visit = await comeAndAsk()
  await visit.tab.reload()
  await untilShown(visit.tab, 'Reply 1 to wait')
  goOn()
  await untilShown(visit.tab, whole)
  await visit.tab.reload()
  await untilShown(visit.tab, whole)
  await untilStatus(visit.tab, 'ready')
  await expectWhole(visit, visit.tab, 1)
})

test('an unmount, which says abort, stops no turn; the component that comes back is told it (P106, I7)', async () => {
  const visit = await comeAndAsk()
  await press(visit.tab, 'Leave')
  await press(visit.tab, 'Come back')
  await untilShown(visit.tab, 'Reply 1 to wait')
  goOn()
  await untilShown(visit.tab, whole)
  await expectWhole(visit, visit.tab, 1)
})

test('cut in the foreground it shows an error, and goes on with resumeStream() on another socket (I7)', async () => {
  const visit = await comeAndAsk()
  site.proxy.cutAll()
  await cutOff(visit.tab, /network connection/)
  await press(visit.tab, 'Resume')
  await untilStatus(visit.tab, 'streaming')
  goOn()
  await untilShown(visit.tab, whole)
  await expectWhole(visit, visit.tab, 1)
})

test('a second tab is told the same reply from its middle on, and a stop there ends it in both (I6, I11)', async () => {
  const visit = await comeAndAsk()
  const second = await visit.newTab()
  await untilShown(second, 'Reply 1 to wait')
  await press(second, 'Stop')
  for (const tab of [visit.tab, second]) {
    await untilStatus(tab, 'ready')
    await expectWhole(visit, tab, 1)
  }
  await say(visit.tab, 'next')
  await untilShown(visit.tab, 'Reply 1 to next, to its end.')
  await expectWhole(visit, visit.tab, 2)
})

test('"stop here" only stops looking', async () => {
  const visit = await comeAndAsk()
  await press(visit.tab, 'Stop here')
  await untilStatus(visit.tab, 'ready')
  goOn()
  await eventually(async () => (await storedIn(site.origin, visit.id)).at(-1)?.status === 'complete')
  await visit.tab.reload()
  await untilShown(visit.tab, whole)
  await expectWhole(visit, visit.tab, 1)
})

test('server killed in the middle: the page resumes, and the reply is whole (I1, I9)', async () => {
  const [provider, database] = await Promise.all([startProvider(), freshDatabase(18)])
  provider.script(({ index }) =>
    index === 0 ? [{ text: 'Half of it' }, { wait: gate }] : [{ text: 'Half of it, ' }, { text: 'and the rest.' }],
  )
  const settings = {
    database: database.url,
    provider: provider.url,
    program: new URL('./site-main.mjs', import.meta.url).pathname,
    env: { PAGES: JSON.stringify(dirs) },
  }
  const first = await startServer(settings)
  const proxy = await proxyOf(first.url)
  const { tab, id } = await come(originOf(proxy))
  await untilStatus(tab, 'ready')
  await say(tab, 'hello')
  await untilShown(tab, 'Half of it')
  await first.kill()
  await untilStatus(tab, 'error')
  await startServer({ ...settings, port: Number(new URL(first.url).port) })
  // It is told what is stored, and then the step again: this client knows how to take one back.
  await press(tab, 'Resume')
  await untilShown(tab, 'Half of it, and the rest.')
  await untilStatus(tab, 'ready')
  expect((await shownOn(tab)).map(({ text }) => text)).toEqual(
    (await storedIn(originOf(proxy), id)).map(({ text }) => text),
  )
  expect(provider.requests).toHaveLength(2)
  await proxy.close()
  await provider.stop()
})

async function appOf(options: Partial<HoldfastOptions>) {
  const database = await freshDatabase(18)
  const chat = createHoldfast({ database: database.url, reply: inHalves, log: () => undefined, drainMs: 0, ...options })
  onTestFinished(async () => {
    await chat.close()
    await database.drop()
  })
  return {
    chat,
    ...(await chat.listen(
      0,
      '127.0.0.1',
      pages(dirs, () => chat),
    )),
  }
}

test('a server that goes away says so: 1012', async () => {
  const { chat, url } = await appOf({ authenticate: () => ({ userId: 'ann' }) })
  const { tab } = await comeAndAsk(url)
  await chat.close()
  await cutOff(tab, /code 1012: This server is going away/)
})

test('a page without a sign-in is a guest by its handshake, and the same one when it is loaded again (P11)', async () => {
  const { url } = await appOf({ guests: 'loopback' })
  const { tab } = await comeAndAsk(url)
  const [cookie] = await tab.context().cookies()
  expect(cookie).toMatchObject({ name: 'holdfast_guest', httpOnly: true, sameSite: 'Lax' })
  await tab.reload()
  await untilShown(tab, 'Reply 1 to wait')
  await press(tab, 'Stop')
  await untilStatus(tab, 'ready')
  expect(await tab.context().cookies()).toMatchObject([{ value: cookie!.value }])
})

test('a page of another site opens no socket, though the browser would send the cookie along (P100)', async () => {
  const { url } = await appOf({ guests: 'loopback' })
  const visit = await come(url)
  await untilStatus(visit.tab, 'ready')
  const openFrom = async (origin: string) => {
    const tab = await visit.tab.context().newPage()
    await tab.goto(`${origin}/livez`)
    const outcome = await tab.evaluate(
      (at) =>
        new Promise<string>((resolve) => {
          const socket = new WebSocket(at)
          socket.onopen = () => resolve('open')
          socket.onerror = () => resolve('refused')
        }),
      `${url.replace('http', 'ws')}/api/chat/ws`,
    )
    await tab.close()
    return outcome
  }
  const { port } = new URL(url)
  const other = await appOf({ guests: 'loopback' })
  expect(await openFrom(url)).toBe('open')
  expect(await openFrom(`http://localhost:${port}`)).toBe('refused')
  // Another port of the same host gets the cookie, and is another origin.
  expect(await openFrom(other.url)).toBe('refused')
})
