/**
 * `useChat` of both majors, unmodified, with `holdfastTransport`, in Chromium: one page that loads its history and
 * resumes, and one that follows the session instead (docs/ai-sdk.md). The provider is real HTTP and counts.
 */
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { openai } from '../../src/adapters/openai.ts'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { writtenAgain } from '../../src/core/ui-stream.ts'
import type { ReplyContext } from '../../src/index.ts'
import { needProgram } from '../support/debian.ts'
import { eventually } from '../support/eventually.ts'
import type { Step } from '../support/obedient.ts'
import { freshDatabase } from '../support/postgres.ts'
import { type Provider, startProvider } from '../support/provider.mjs'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { startServer } from '../support/server.ts'
import {
  type Built,
  buildFor,
  openSite,
  originOf,
  press,
  type Shown,
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

const root = fileURLToPath(new URL('../../web/test/use-chat-transport', import.meta.url))
const majors: SdkMajor[] = [6, 7]

/** One that keeps a page that is left as it is, and shows it again on the way back: what people's browsers do. */
async function startKeepingBrowser(): Promise<Browser> {
  await needProgram('chromium', 'chromium')
  return await chromium.launch({
    executablePath: '/usr/bin/chromium',
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  })
}

let built: Built
let site: Site
let provider: Provider
beforeAll(async () => {
  const [browser, six, seven] = await Promise.all([startKeepingBrowser(), buildFor(6, root), buildFor(7, root)])
  const dirs = { 6: six.dir, 7: seven.dir }
  built = {
    browser,
    dirs,
    remove: async () => void (await Promise.all([browser.close(), six.remove(), seven.remove()])),
  }
  provider = await startProvider()
  const model = openai({ model: 'any', apiKey: 'a-key-of-the-tests', baseUrl: provider.url })
  site = await openSite(dirs, (context) => (wordsOf(context).startsWith('steps') ? inSteps(context) : model(context)))
})
afterAll(async () => {
  await site.close()
  await provider.stop()
  await built.remove()
})

const wordsOf = ({ message }: ReplyContext) =>
  message.parts.map((part) => (part.type === 'text' ? part.text : '')).join('')

/** Takes what was sent to steer it between its two steps. */
async function* inSteps({ steering, signal }: ReplyContext) {
  const ask = async (said: string) => {
    const content = [{ role: 'user', content: said }]
    await (
      await fetch(`${provider.url}/chat/completions`, {
        method: 'POST',
        body: JSON.stringify({ messages: content }),
        signal,
      })
    ).text()
  }
  yield { type: 'start-step' } as const
  yield { type: 'text-start', id: 'a' } as const
  yield { type: 'text-delta', id: 'a', delta: 'Step one.' } as const
  await ask('slow step')
  yield { type: 'text-end', id: 'a' } as const
  yield { type: 'finish-step' } as const
  const steered = await steering()
  yield { type: 'start-step' } as const
  yield { type: 'text-start', id: 'b' } as const
  yield { type: 'text-delta', id: 'b', delta: ` Told ${steered.length} more.` } as const
  yield { type: 'text-end', id: 'b' } as const
  yield { type: 'finish-step' } as const
  yield { type: 'finish', finishReason: 'stop' } as const
}

/** Lets the reply that waits write its next piece. */
let goOn: () => void
let gates: { passed: Promise<void>; open(): void }[]
const pieces = ['One', ' two', ' three', ' four', ' five.']
const whole = pieces.join('')
/** Of the attempts that are killed. */
const drafts = ['One', 'The second begins']
let asked: string[]

function answerOf(said: string): Step[] {
  asked.push(said)
  const times = asked.filter((each) => each === said).length
  if (said === 'fail' && times === 1) return [{ status: 400, body: { error: { message: 'no' } } }]
  if (said === 'slow and killed' && times === 2) return [{ text: drafts[1]! }, { wait: gates[0]!.passed }]
  if (said === 'slow and killed' && times === 3) return [{ text: 'The third is whole.' }]
  if (!said.startsWith('slow')) return [{ text: `Re ${said}, ${times}.` }]
  return pieces.flatMap((text, at): Step[] => (at === 0 ? [{ text }] : [{ wait: gates[at - 1]!.passed }, { text }]))
}

let visits: Visit[]
beforeEach(() => {
  asked = []
  let opened = 0
  gates = pieces.slice(1).map(() => {
    let open!: () => void
    const passed = new Promise<void>((resolve) => {
      open = resolve
    })
    return { passed, open }
  })
  goOn = () => gates[opened++]?.open()
  provider.script(({ body }) => answerOf(saidLast(body)))
  visits = []
  site.proxy.accept()
})
afterEach(async () => {
  for (const { open } of gates) open()
  for (const each of visits) await each.close()
})

type Body = { messages: { role: string; content: unknown }[] }
const saidLast = ({ messages }: Body) => String(messages.findLast(({ role }) => role === 'user')?.content)
const goOnToTheEnd = () => {
  for (const { open } of gates) open()
}

type Shape = 'loads' | 'follows'
async function come(major: SdkMajor, shape: Shape, id?: string, origin = site.origin): Promise<Visit> {
  const options = `&sdk=${major}${shape === 'follows' ? '&follow' : ''}`
  const come = await visit(built.browser, { origin, major, options, ...(id === undefined ? {} : { id }) })
  visits.push(come)
  return come
}

/** One device whose message's reply has begun, and another one that follows. */
async function comeTwice(major: SdkMajor, first: Shape = 'loads'): Promise<{ one: Visit; other: Visit; tabs: Page[] }> {
  const one = await come(major, first)
  await untilStatus(one.tab, 'ready')
  await say(one.tab, 'slow')
  await untilShown(one.tab, 'One')
  const other = await come(major, 'follows', one.id)
  await untilShown(other.tab, 'One')
  return { one, other, tabs: [one.tab, other.tab] }
}

async function all(tabs: readonly Page[], look: (tab: Page) => Promise<unknown>): Promise<void> {
  for (const tab of tabs) await look(tab)
}

const allShow = (tabs: readonly Page[], text: string) => all(tabs, (tab) => untilShown(tab, text))

/** Of a message that was edited a page keeps its own id; a reply has the server's. */
const withoutIds = ({ id, role, text }: Shown) => ({ id: role === 'user' ? '' : id, role, text })

type Expected = { drafts?: string[]; origin?: string }
/** The page shows what is stored, in its order, and no reply ever read otherwise than as it begins. */
async function expectStored(id: string, tabs: readonly Page[], { drafts = [], origin = site.origin }: Expected = {}) {
  await eventually(async () => {
    const stored = await storedIn(origin, id)
    return stored.length > 0 && stored.every(({ status }) => status !== 'pending' && status !== 'streaming')
  })
  const stored = (await storedIn(origin, id)).map(withoutIds)
  const isShown = async (tab: Page) => isDeepStrictEqual((await shownOn(tab)).map(withoutIds), stored)
  await all(tabs, async (tab) => {
    await untilStatus(tab, 'ready')
    await eventually(() => isShown(tab), 5_000).catch(async () =>
      expect((await shownOn(tab)).map(withoutIds)).toEqual(stored),
    )
    await expectOnlyBeginnings(tab, stored, drafts)
  })
}

async function expectOnlyBeginnings(tab: Page, stored: readonly Shown[], drafts: readonly string[]): Promise<void> {
  const texts = await textsShownOn(tab)
  for (const { id, text } of stored) {
    const others = (texts[id] ?? []).filter((each) => !text.startsWith(each) && !drafts.includes(each))
    expect(others).toEqual([])
  }
}
const untilReconnecting = (tab: Page) => tab.getByText('reconnecting').waitFor()
const untilConnected = (tab: Page) => tab.getByText('reconnecting').waitFor({ state: 'detached' })
const complaintsOf = (tab: Page) => tab.evaluate(() => (window as unknown as { complaints: string[] }).complaints)
const expectNoErrors = (tabs: readonly Page[]) => all(tabs, async (tab) => expect(await complaintsOf(tab)).toEqual([]))
const posts = ({ asked }: Visit) => asked.filter((each) => each === 'POST /api/chat').length

/** Headless Chromium hides no tab: what the page hears when it is hidden and seen again is said to it. */
const setVisible = (tab: Page, isVisible: boolean) =>
  tab.evaluate(
    (state) => {
      Object.defineProperty(document, 'visibilityState', { value: state, configurable: true })
      document.dispatchEvent(new Event('visibilitychange'))
    },
    isVisible ? 'visible' : 'hidden',
  )

/** From here on nothing comes over the streams that are open, and nobody is told: what happens to a phone that sleeps. */
function dieSilently(proxy: TcpProxy): () => void {
  const last = proxy.counts.accepted
  return proxy.watch({ onDownstream: (_, { id }) => (id <= last ? 'drop' : 'pass') })
}

describe.each(majors)('useChat of AI SDK %i with holdfastTransport in a browser', (major) => {
  it('a cut in the foreground, a refusal for a while, offline, a connection that died in the background: each heals by itself (I5, I7)', async () => {
    const { one, tabs } = await comeTwice(major)
    site.proxy.cutAll()
    goOn()
    await allShow(tabs, 'One two')

    site.proxy.refuse()
    site.proxy.cutAll()
    await all(tabs, untilReconnecting)
    goOn()
    site.proxy.accept()
    await allShow(tabs, 'One two three')
    await all(tabs, untilConnected)

    // No timer of the page ends any more: what brings it back is that it hears of the network.
    await all(tabs, async (tab) => {
      await tab.clock.install()
      await tab.clock.pauseAt(Date.now() + 1_000)
      await tab.context().setOffline(true)
    })
    site.proxy.cutAll()
    await all(tabs, untilReconnecting)
    goOn()
    await all(tabs, (tab) => tab.context().setOffline(false))
    await allShow(tabs, 'One two three four')
    await all(tabs, untilConnected)

    const revive = dieSilently(site.proxy)
    goOn()
    await all(tabs, async (tab) => {
      await setVisible(tab, false)
      await tab.clock.fastForward(17_000)
      await setVisible(tab, true)
      await untilReconnecting(tab)
      await tab.clock.runFor(1)
    })
    await allShow(tabs, whole)
    revive()
    await expectStored(one.id, tabs)
    await expectNoErrors(tabs)
    expect([asked, posts(one)]).toEqual([['slow'], 1])
  })

  it('reload, remount, away and back in the middle, return after the end, two tabs: on a page that loads and on one that follows (I6, I7)', async () => {
    const { one, other, tabs } = await comeTwice(major)
    tabs.push(await one.newTab(), await other.newTab())
    await allShow(tabs, 'One')
    await all(tabs.slice(0, 2), (tab) => tab.reload())
    await allShow(tabs, 'One')
    goOn()
    await allShow(tabs, 'One two')
    await all(tabs.slice(2), async (tab) => {
      await press(tab, 'Leave')
      await press(tab, 'Come back')
    })
    await allShow(tabs, 'One two')
    // The whole page is kept, and cut off where it hears nothing of it.
    await all(tabs.slice(0, 2), leaveKept)
    site.proxy.cutAll()
    goOn()
    await all(tabs.slice(0, 2), comeBackKept)
    await allShow(tabs, 'One two three')
    goOnToTheEnd()
    await expectStored(one.id, tabs)
    await all(tabs.slice(0, 2), (tab) => tab.reload())
    tabs.push(await one.newTab())
    await allShow(tabs, whole)
    await expectStored(one.id, tabs)
    await expectNoErrors(tabs)
    expect([asked, posts(one), posts(other)]).toEqual([['slow'], 1, 0])
  })

  it('another device is shown live; chat.stop() only leaves; a stop here and there ends the provider’s request, and both pages with what is stored (I7, I11)', async () => {
    const { one, other, tabs } = await comeTwice(major)
    await press(one.tab, 'Stop here')
    await untilStatus(one.tab, 'ready')
    goOn()
    await untilShown(other.tab, 'One two')
    expect((await shownOn(one.tab)).at(-1)).toMatchObject({ text: 'One' })
    await press(one.tab, 'Resume')
    await allShow(tabs, 'One two')
    await expectStopped(other.tab)
    await expectStored(one.id, tabs)
    goOn()
    await say(one.tab, 'slow again')
    await allShow(tabs, 'One two three')
    await expectStopped(one.tab)
    await expectStored(one.id, tabs)
    await expectNoErrors(tabs)
    expect([asked, posts(one), posts(other)]).toEqual([['slow', 'slow again'], 2, 0])
  })

  it('whenBusy: a message is refused, waits, interrupts, or steers, and both devices show what is stored (R2.6)', async () => {
    const { one, other, tabs } = await comeTwice(major, 'follows')
    await sayWhileBusy(one.tab, 'no', 'reject')
    await one.tab.getByRole('alert').getByText('A reply is being written.').waitFor()
    await sayWhileBusy(one.tab, 'later', 'queue')
    await eventually(async () => (await storedIn(site.origin, one.id)).length === 4)
    await sayWhileBusy(one.tab, 'now', 'interrupt')
    await allShow(tabs, 'Re now, 1.')
    await expectStored(one.id, [other.tab])
    // What was refused stays on the page that sent it, after what is stored, until it is loaded.
    await one.tab.locator('li').last().getByText('no', { exact: true }).waitFor()
    await one.tab.reload()
    await expectStored(one.id, tabs)

    await say(other.tab, 'steps')
    await allShow(tabs, 'Step one.')
    await sayWhileBusy(one.tab, 'and this', 'steer')
    await eventually(async () => (await storedIn(site.origin, one.id)).some(({ text }) => text === 'and this'))
    goOnToTheEnd()
    await allShow(tabs, 'Step one. Told 1 more.')
    await expectStored(one.id, tabs)
    expect(asked).toEqual(['slow', 'later', 'now', 'slow step'])
  })

  it('an error is a sentence and the same message is tried again; another reply; an edit; the other device shows each (I10, I13)', async () => {
    const one = await come(major, 'loads')
    await untilStatus(one.tab, 'ready')
    await say(one.tab, 'fail')
    await untilStatus(one.tab, 'error')
    expect(await one.tab.getByRole('alert').textContent()).toMatch(/^The model refused[^{]+\.$/)
    const other = await come(major, 'follows', one.id)
    const tabs = [one.tab, other.tab]
    await press(one.tab, 'Try again')
    await allShow(tabs, 'Re fail, 2.')
    await expectStored(one.id, tabs)
    await press(one.tab, 'Try again')
    await allShow(tabs, 'Re fail, 3.')
    await expectStored(one.id, tabs)
    await one.tab.getByLabel('Message').fill('better')
    await press(one.tab, 'Edit')
    await allShow(tabs, 'Re better, 1.')
    await expectStored(one.id, tabs)
    await expectNoErrors([other.tab])
    expect(asked).toEqual(['fail', 'fail', 'fail', 'better'])
  })

  it('a server that is killed, another one that takes over, the same one started again: the reply is whole (I1, I9)', async () => {
    const database = await freshDatabase(18)
    const start = (port?: number) =>
      startServer({
        database: database.url,
        provider: provider.url,
        program: fileURLToPath(new URL('site-main.mjs', import.meta.url)),
        env: { PAGES: JSON.stringify(built.dirs) },
        ...(port === undefined ? {} : { port }),
      })
    const first = await start()
    // As a load balancer does, it goes to another server when this one is gone.
    const target = { host: '127.0.0.1', port: portOf(first) }
    const proxy = await startProxy({ target })
    onTestFinished(() => proxy.close())
    const origin = originOf(proxy)
    const one = await come(major, 'loads', undefined, origin)
    await untilStatus(one.tab, 'ready')
    await say(one.tab, 'slow and killed')
    await untilShown(one.tab, 'One')
    const other = await come(major, 'follows', one.id, origin)
    await untilShown(other.tab, 'One')
    const tabs = [one.tab, other.tab]
    const second = await start()
    await first.kill()
    target.port = portOf(second)
    await untilToldAgain(major, one.tab)
    await allShow(tabs, drafts[1]!)
    await second.kill()
    await start(portOf(second))
    await untilToldAgain(major, one.tab)
    await allShow(tabs, 'The third is whole.')
    await expectStored(one.id, tabs, { drafts, origin })
    if (major === 7) await expectNoErrors(tabs)
    // Each attempt asked once, and nobody else.
    expect(asked).toEqual(Array(3).fill('slow and killed'))
    expect([posts(one), posts(other)]).toEqual([major === 6 ? 3 : 1, 0])
  })
})

async function leaveKept(tab: Page): Promise<void> {
  await tab.evaluate(() => addEventListener('pageshow', ({ persisted }) => Object.assign(window, { persisted })))
  await tab.goto('about:blank')
}

async function comeBackKept(tab: Page): Promise<void> {
  await tab.goBack({ waitUntil: 'commit' })
  expect(await tab.evaluate(() => 'persisted' in window && window.persisted)).toBe(true)
}

/** A 7 is told the reply again by itself. A 6 says so, unless it follows. */
async function untilToldAgain(major: SdkMajor, tab: Page): Promise<void> {
  if (major === 7) return
  await tab.getByRole('alert').getByText(writtenAgain).waitFor()
  await press(tab, 'Try again')
  await untilStatus(tab, 'submitted', 'streaming', 'ready')
}

/** Within 2 s the provider's request is aborted. */
async function expectStopped(tab: Page): Promise<void> {
  const request = provider.requests.at(-1)!
  const sinceMs = performance.now()
  await press(tab, 'Stop')
  expect(await request.closed).toBe('aborted')
  expect(performance.now() - sinceMs).toBeLessThan(2_000)
}

async function sayWhileBusy(tab: Page, text: string, whenBusy: string): Promise<void> {
  await tab.getByLabel('While busy').selectOption(whenBusy)
  await say(tab, text)
}

const portOf = ({ url }: { url: string }) => Number(new URL(url).port)
